"""A folder of images of people."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from avprep.errors import ShardError
from avprep.schema import CROP_SIZE
from avprep.shards.image import decode_picture
from davs_model.data.batch import RawBatch
from davs_model.data.pictures import Augmentation, change_looks
from davs_model.data.reads import Shape


class FaceFolder:
    """Images of people, in a folder per person: FOLDER/PERSON/….jpg or .png, aligned like crops, of any size.

    shape: must read only portraits.
    people: sorted names of the folders that hold images. ShardError if there are none.
    """

    def __init__(self, folder: Path, shape: Shape) -> None:
        self.folder, self.shape = folder, shape
        found = sorted(
            path.relative_to(folder)
            for path in folder.glob("*/**/*")
            if path.suffix.lower() in (".jpg", ".jpeg", ".png") and path.is_file()
        )
        if not found:
            raise ShardError(f"{folder}: no pictures, expected PERSON/*.jpg or *.png")
        self.people = tuple(sorted({path.parts[0] for path in found}))
        numbers = {name: n for n, name in enumerate(self.people)}
        self._person = np.array([numbers[path.parts[0]] for path in found])
        self._paths = np.array([os.fsencode(path) for path in found], np.bytes_)
        self.groups: list[NDArray[np.int64]] = [np.arange(len(found), dtype=np.int64)]

    def __len__(self) -> int:
        return len(self._paths)

    def key(self, row: int) -> str:
        """Return an image's path below the folder."""
        return os.fsdecode(bytes(self._paths[row]))

    def load(self, row: int, into: RawBatch, place: int, rng: np.random.Generator | None) -> None:
        """Read an image; ShardError for a file that is not one."""
        path = self.folder / self.key(row)
        try:
            picture = decode_picture(path.read_bytes())
        except (OSError, ShardError) as error:
            raise ShardError(f"{path}: {error}") from error
        square = cv2.resize(picture, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_AREA)
        change = Augmentation.draw(rng, shift=self.shape.shift, flip=self.shape.flip)
        for name in self.shape.reads:
            change.into(into[name][place].numpy()[0], square.astype(np.uint8))  # a copy each: `into` overwrites it
        frames_of = [(into[name][place].numpy(), reads.box) for name, reads in self.shape.reads.items()]
        change_looks(frames_of, rng, jitter=self.shape.jitter, warp=self.shape.warp)
        into["words"][place] = into["emotions"][place] = -1
        into["speakers"][place] = int(self._person[row])
