"""What a run learns from: the clips of OUT and its labels, a folder of faces, and what each stage reads of them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from avprep.errors import RunError
from davs_model.data.batches import ClipSource, FaceFolder, Shape, Source, usable
from davs_model.data.clips import Clips, read_clips
from davs_model.models.davs.stages import Stage
from davs_model.settings import Settings


@dataclass(frozen=True)
class Corpus:
    """The clips of a run.

    train, val: tables of the two splits; the words of val are numbered as those of train, its people by themselves.
    faces: people of the folder of faces, empty without one.
    """

    train: Clips
    val: Clips
    faces: tuple[str, ...] = ()

    def dimensions(self, settings: Settings) -> dict[str, int | float]:
        """Return the arguments of `DAVS` that fit these clips."""
        model = settings.model
        return {
            "n_words": max(1, len(self.train.vocabulary)),
            "n_people": len(self.faces or self.train.people),
            "n_speakers": len(self.train.people),
            "width": model.width,
            "image_size": model.image_size,
            "speech_frames": model.speech_frames,
            "identity_frames": model.identity_frames,
            "sequence_frames": model.sequence_frames,
            "n_word_classifiers": 1 if model.shared_classifier else 2,
        }

    def digest(self) -> str:
        """Return the sha256 of what is learned from: keys, lengths and labels of the training clips."""
        digest = hashlib.sha256(json.dumps([self.train.vocabulary, self.train.people, self.faces]).encode())
        for array in (self.train.keys, self.train.n_frames, self.train.words, self.train.speakers):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return numbers of clips, labels and of what is skipped."""
        return {
            "out": str(self.train.out.resolve()),
            "train": {"clips": len(self.train), "skipped": dict(self.train.skipped)},
            "val": {"clips": len(self.val), "skipped": dict(self.val.skipped)},
            "words": len(self.train.vocabulary),
            "speakers": len(self.train.people),
            "mfcc_preset": self.train.mfcc_preset,
        }


def read_corpus(out: Path, settings: Settings) -> Corpus:
    """Read what OUT holds; errors as of `read_clips` and `FaceFolder`."""
    keep_silent = settings.data.keep_silent
    train = read_clips(out, "train", keep_silent=keep_silent)
    val = read_clips(out, "val", vocabulary=train.vocabulary, keep_silent=keep_silent)
    faces = settings.data.faces
    return Corpus(train, val, FaceFolder(Path(faces), Shape(frozenset(["identity"]))).people if faces else ())


def shape_of(stage: Stage, settings: Settings, *, training: bool = True) -> Shape:
    """Return what a stage reads of each clip; to judge it, less is read, and nothing is moved."""
    model, data = settings.model, settings.data
    return Shape(
        stage.needs if training else stage.needs - {"consecutive"},
        model.image_size,
        model.speech_frames,
        model.identity_frames,
        model.sequence_frames,
        flip=training and data.flip,
        shift=data.shift if training else 0,
    )


def people_problem(corpus: Corpus) -> str | None:
    """Return, in one line, why there are no people to tell apart; None where there are."""
    if corpus.faces or len(corpus.train.people) > 1:
        return None
    return (
        f"{corpus.train.out}: its clips are of {len(corpus.train.people)} labelled people, and the identity stage "
        "tells people apart: give a folder of faces as data.faces"
    )


def source_of(stage: Stage, corpus: Corpus, settings: Settings, terms: dict[str, float]) -> tuple[Source, Counter[str]]:
    """Return what a stage learns from, and how many clips it cannot use, by reason.

    terms: those that it minimises. RunError where the labels that they need are missing altogether.
    """
    shape, clips = shape_of(stage, settings), corpus.train
    if stage.name == "identity" and corpus.faces:
        return FaceFolder(Path(settings.data.faces), shape), Counter()
    words = "word" in terms or "identity_word" in terms
    if words and not clips.vocabulary:
        raise RunError(
            f"{clips.out}: its clips have no words: index them with words, or train without these terms by "
            "--set weights.word=0 --set weights.identity_word=0"
        )
    used = usable(clips, shape, words=words, speakers="person" in terms or "speech_person" in terms)
    return ClipSource(used, shape), used.skipped - clips.skipped
