"""The inputs of a model, described as data: each named `Reads` is one tensor of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from avprep.schema import CROP_SIZE
from davs_model.data.pictures import WHOLE, Box, Form

Batch = Mapping[str, Tensor]
"""The tensors of B clips that a step reads, by the names of their `Reads`.

Frames are float32 `[B, T, 3, S, S]`, RGB in [0, 1]; windows float32 `[B, T, 12, 20]`. The labels `words`, `speakers`
and `emotions`, int64 `[B]`, are always present, −1 where unknown. `NAME_words` and so on are present for each `Reads`
with `of="emotion"`, which may be of another clip. `NAME_start`, a scalar on the CPU, is present for each `Reads` with a
part.
"""
LABELS = ("words", "speakers", "emotions")
Of = Literal["clip", "speaker", "others", "labelled", "emotion"]
"""Whose frames are read; see `Reads`."""


@dataclass(frozen=True)
class Reads:
    """One tensor of a batch: T frames of each clip, or data of T frames.

    source: `frames`; their MFCC `windows`; `codes`: features `[T, F]` of frames, which the model computes before
        training; `statistics`: mean and standard deviation `[2, 12]` of the coefficients of all windows of the clip,
        with T = 14 also their covariance;
        `corners`: left and right mouth corner, x and y in pixels of the 256×256 crop `[T, 2, 2]`, NaN where unknown;
        `positions`: position of the face, `[T, 14]` by `davs_model.data.positions`, NaN where unknown;
        `valid`: `[T]`, 1 if the window holds nothing but real audio, else 0; `heard`: 1 if moreover the speaker speaks.
    length: T. every: distance between consecutive frames of these.
    at: place of the frames in the clip. `anywhere`: at random in training, in the middle in evaluation. `word`:
        likewise; but in training around one of the clip's words if their times are known. It is the same word for all
        reads of the clip, and becomes its label. `sound`: as `word`, else among the frames whose windows hold nothing
        but real audio if there are enough of them. `portrait`: each frame independently from anywhere; evaluation may
        draw it by a seed. `moments`: each frame independently at random, mostly during speech. `spread`: evenly over
        the clip.
    of: `clip`: the clip itself; `speaker`: any clip of its speaker, which may be the clip itself; `others`: the other
        clips of its speaker, or the clip itself if there are none; `labelled`: as `others` for a clip that has an
        emotion label, as `clip` for any other; `emotion`: with probability ½ the clip itself, else a clip of its
        emotion by another speaker. Each portrait is drawn from its own clip. Evaluation reads the clip itself.
    beside: another `Reads`, listed before this one, whose frames are used; this one's `every` and `at` are ignored.
    apart: another `Reads`, listed before this one. A portrait keeps `DISTANCE` from its frames if the clip has such
        frames; from other clips of the speaker it may be any frame.
    part: number of the T frames that are generated in a step. The first of them is drawn once per batch.
    box, size: the visible part of a frame, and the side of that image in pixels; 0: that of the generated frames.
    """

    source: Literal["frames", "windows", "codes", "statistics", "corners", "positions", "valid", "heard"]
    length: int
    every: int = 1
    at: Literal["anywhere", "word", "sound", "portrait", "moments", "spread"] = "anywhere"
    beside: str = ""
    apart: str = ""
    part: int = 0
    of: Of = "clip"
    box: Box = WHOLE
    size: int = 0

    def span(self) -> int:
        """Return the number of frames from the first to the last, inclusive; 1 if they need not be consecutive."""
        return self.every * (self.length - 1) + 1 if self._in_a_row() else 1

    def whole(self, n_frames: int) -> Reads:
        """Return the same of all frames of a clip, unless it is of single frames or statistics."""
        if not self._in_a_row():
            return self
        return replace(self, length=n_frames, every=1, at="anywhere", beside="", part=0)

    def _in_a_row(self) -> bool:
        return self.at not in ("portrait", "moments", "spread") and self.source != "statistics"


@dataclass(frozen=True)
class Shape:
    """The reads of each clip, in the order in which they are sampled, and the augmentation.

    image_size: side of the frames in pixels. flip, shift, jitter, warp, noise: as in `davs_model.settings.Data`.
    voice: its `voice_down` and `voice_up`.
    features: length of the features of `codes`.
    """

    reads: Mapping[str, Reads]
    image_size: int = CROP_SIZE
    flip: bool = False
    shift: int = 0
    jitter: float = 0.0
    warp: float = 0.0
    voice: tuple[float, float] = (0.0, 0.0)
    noise: float = 0.0
    features: int = 0

    def shortest(self) -> int:
        """Return the minimum number of frames of a clip."""
        return max((reads.span() for reads in self.reads.values() if not reads.beside), default=1)

    def needs_windows(self) -> bool:
        """Return whether the MFCC column is read."""
        return any(
            reads.source in ("windows", "statistics", "valid", "heard") or reads.at in ("sound", "moments")
            for reads in self.reads.values()
        )

    def of_emotions(self) -> list[str]:
        """Return the names of the reads that may be of other people's clips and therefore have their own labels."""
        return [name for name, reads in self.reads.items() if reads.of == "emotion"]

    def form(self, reads: Reads) -> Form:
        """Return the form of frames: the part of a crop that they show, and their side in pixels."""
        return reads.box, reads.size or self.image_size


def chosen(reads: Mapping[str, Reads], names: Iterable[str]) -> dict[str, Reads]:
    """Return those of `reads` that are named, in the order of `reads`."""
    wanted = frozenset(names)
    return {name: one for name, one in reads.items() if name in wanted}
