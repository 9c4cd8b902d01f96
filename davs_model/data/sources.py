"""Clips of shards as rows that are read in any order: their frames, decoded, flipped and shifted, and their windows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from avprep.errors import ShardError
from avprep.schema import ARRAYS, CROP_SIZE, decode_array, frame_member
from davs_model.data.batch import RawBatch
from davs_model.data.clips import Clips
from davs_model.data.pictures import Augmentation, Frames, decode_picture
from davs_model.data.reads import Reads, Shape
from davs_model.data.sampling import portrait_rng, sound_stretch, stretch


class Source(Protocol):
    """Rows that can be drawn in any order."""

    groups: list[NDArray[np.int64]]
    """Rows that lie together; whole groups are shuffled, then the rows of some of them."""

    def __len__(self) -> int: ...

    def key(self, row: int) -> str:
        """Return where a row comes from."""
        ...

    def load(self, row: int, into: RawBatch, place: int, rng: np.random.Generator | None) -> None:
        """Read a row into a batch's place; rng: of what is drawn, None: the middle of the clip as it is."""
        ...


class ClipSource:
    """Clips of shards.

    clips: must not be shorter than `shape.shortest()`.
    portrait_seed: draws the portrait even where nothing else is drawn; None: then it is the middle frame.
    """

    def __init__(self, clips: Clips, shape: Shape, *, portrait_seed: int | None = None) -> None:
        self.clips, self.shape, self.portrait_seed = clips, shape, portrait_seed
        order = np.argsort(clips.shard, kind="stable").astype(np.int64)
        self.groups: list[NDArray[np.int64]] = (
            np.split(order, np.flatnonzero(np.diff(clips.shard[order])) + 1) if len(clips) else []
        )

    def __len__(self) -> int:
        return len(self.clips)

    def key(self, row: int) -> str:
        """Return a clip's key."""
        return self.clips.key(row)

    def load(self, row: int, into: RawBatch, place: int, rng: np.random.Generator | None) -> None:
        """Read a clip; ShardError for one that breaks the contract."""
        arrays = self._arrays(row) if self.shape.needs_windows() else {}
        frames: dict[str, Sequence[int]] = {}
        for name, reads in self.shape.reads.items():
            frames[name] = frames[reads.beside] if reads.beside else self._choose(reads, row, arrays, rng)
            if reads.source == "windows":
                into[name][place] = torch.from_numpy(arrays["mfcc.npy"][frames[name]])
        seen = {name: frames[name] for name, reads in self.shape.reads.items() if reads.source == "frames"}
        if seen:
            self._decode(row, seen, into, place, rng)
        into["words"][place] = int(self.clips.words[row])
        into["speakers"][place] = int(self.clips.speakers[row])

    def read(self, row: int, column: str, frames: Collection[int]) -> dict[str, bytes]:
        """Read members of a clip; as `Clips.read`."""
        return self.clips.read(row, column, frames)

    def _choose(
        self, reads: Reads, row: int, arrays: Mapping[str, NDArray[np.generic]], rng: np.random.Generator | None
    ) -> Sequence[int]:
        """Return which frames of a clip are read."""
        n_frames = int(self.clips.n_frames[row])
        if reads.at == "sound":
            return sound_stretch(arrays["valid.npy"], reads.length, reads.every, rng)
        if reads.at == "portrait":
            if rng is None and self.portrait_seed is not None:
                rng = portrait_rng(self.portrait_seed, row)
            return [n_frames // 2 if rng is None else int(rng.integers(n_frames))]
        return stretch(n_frames, reads.length, reads.every, rng)

    def _decode(
        self,
        row: int,
        wanted: Mapping[str, Sequence[int]],
        into: RawBatch,
        place: int,
        rng: np.random.Generator | None,
    ) -> None:
        """Decode frames, each once, all of them moved alike."""
        members = self.read(row, "crop", {frame for frames in wanted.values() for frame in frames})
        change = Augmentation.draw(rng, shift=self.shape.shift, flip=self.shape.flip)
        decoded: dict[int, Frames] = {}
        for read, frames in wanted.items():
            slots = into[read][place].numpy()
            for slot, frame in enumerate(frames):
                if frame in decoded:
                    slots[slot] = decoded[frame]
                    continue
                name = frame_member(frame, "jpg" if frame_member(frame, "jpg") in members else "png")
                try:
                    change.into(slots[slot], decode_picture(members[name], (CROP_SIZE, CROP_SIZE)))
                except ShardError as error:
                    raise ShardError(f"{self.key(row)}: {name}: {error}") from error
                decoded[frame] = slots[slot]

    def _arrays(self, row: int) -> dict[str, NDArray[np.generic]]:
        """Read the windows of a clip and which of them hold real sound alone."""
        n_frames = int(self.clips.n_frames[row])
        members = self.read(row, "mfcc", ())
        found: dict[str, NDArray[np.generic]] = {}
        for name, (dtype, shape) in ARRAYS["mfcc"].items():
            array = decode_array(members[name])
            if array.dtype.str != dtype or array.shape != (n_frames, *shape):
                raise ShardError(f"{name} is {array.dtype.str} {array.shape}, expected {dtype} {(n_frames, *shape)}")
            if not np.isfinite(array).all():
                raise ShardError(f"{name} holds numbers that are not finite")
            found[name] = array
        return found


def usable(clips: Clips, shape: Shape, *, words: bool, speakers: bool) -> Clips:
    """Return the clips that a stage can use; those that are too short or lack a label are counted as skipped."""
    clips = clips.where(clips.n_frames >= shape.shortest(), f"shorter than {shape.shortest()} frames")
    if words:
        clips = clips.where(clips.words >= 0, "no word of the training set")
    if speakers:
        clips = clips.where(clips.speakers >= 0, "no speaker of the training set")
    return clips
