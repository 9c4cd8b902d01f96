"""The training data of a run: the clips and labels of OUT, and a folder of faces."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from avprep import schema
from davs_model.data.clips import Clips, column_settings, joined, read_clips
from davs_model.data.faces import FaceFolder
from davs_model.data.reads import Shape
from davs_model.settings import RunSettings


@dataclass(frozen=True)
class Corpus:
    """The clips of a run.

    train, val: tables of the two splits. Words and emotions of val have the numbers of train; its people are numbered
        separately.
    faces: people of the folder of faces; empty without a folder.
    """

    train: Clips
    val: Clips
    faces: tuple[str, ...] = ()

    def digest(self) -> str:
        """Return the SHA-256 of the training data: keys, lengths and labels of the training clips."""
        names = self.train.label_names
        digest = hashlib.sha256(json.dumps([names["words"], names["speakers"], self.faces]).encode())
        for array in (self.train.keys, self.train.n_frames, self.train.words, self.train.speakers):
            digest.update(np.ascontiguousarray(array).tobytes())
        if names["emotions"]:
            digest.update(json.dumps(names["emotions"]).encode() + self.train.emotions.tobytes())
        return digest.hexdigest()

    def word_times_digest(self) -> str:
        """Return the SHA-256 of the times of the training clips' words; "" if none are known."""
        if not any(len(words) for words in self.train.timed):
            return ""
        digest = hashlib.sha256(np.array([len(words) for words in self.train.timed], np.int64).tobytes())
        for words in self.train.timed:
            digest.update(np.ascontiguousarray(words).tobytes())
        return digest.hexdigest()

    def made_with(self) -> list[dict[str, dict[str, Any]]]:
        """Return the settings of the columns of each OUT, by column; empty where they are unknown."""
        outs = dict.fromkeys(self.train.folders)
        return [{column: column_settings(out, column) for column in schema.COLUMNS} for out in outs]

    def to_json(self) -> dict[str, Any]:
        """Return the numbers of clips, labels and skipped clips."""
        return {
            "out": str(self.train.out.resolve()),
            "train": {"clips": len(self.train), "skipped": dict(self.train.skipped)},
            "val": {"clips": len(self.val), "skipped": dict(self.val.skipped)},
            "words": len(self.train.label_names["words"]),
            "speakers": len(self.train.label_names["speakers"]),
            "emotions": list(self.train.label_names["emotions"]),
            "mfcc_preset": self.train.mfcc_preset,
        }


def read_corpus(out: Path | Sequence[Path], settings: RunSettings, shares: Sequence[float] = ()) -> Corpus:
    """Read the contents of one OUT or several; errors as in `read_clips`, `joined` and `FaceFolder`.

    shares: proportion of each OUT in training; see `joined`.
    """
    keep_silent, outs = settings.data.keep_silent, [out] if isinstance(out, Path) else out
    train = joined([read_clips(one, "train", keep_silent=keep_silent) for one in outs], shares)
    known = {label: train.label_names[label] for label in ("words", "emotions")}
    val = joined([read_clips(one, "val", label_names=known, keep_silent=keep_silent) for one in outs])
    faces = settings.data.faces
    return Corpus(train, val, FaceFolder(Path(faces), Shape({})).people if faces else ())
