"""What a model reads of a clip, as data: one tensor of a batch for each `Reads`, by its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from avprep.schema import CROP_SIZE
from davs_model.data.partners import Of
from davs_model.data.pictures import WHOLE, Box, Form

Batch = Mapping[str, Tensor]
"""What a step reads of B clips, by the name of its `Reads`.

Frames are float32 `[B, T, 3, S, S]`, RGB in [0, 1]; windows float32 `[B, T, 12, 20]`. `words`, `speakers` and
`emotions`, int64 `[B]`, are always there, −1 where unknown; `NAME_words` and so on for each `Reads` of an emotion, that
may be of another clip. `NAME_start`, one number on the CPU, is there for each `Reads` with a part.
"""
LABELS = ("words", "speakers", "emotions")


@dataclass(frozen=True)
class Reads:
    """One tensor of a batch: T frames of each clip, or what belongs to T frames.

    source: `frames`; their MFCC `windows`; `codes`: features `[T, F]` of frames that the model has computed before
        training; `statistics`: mean and standard deviation `[2, 12]` of the coefficients of all windows of the clip,
        or with T = 14 their covariance as well;
        `corners`: left and right corner of the mouth, x and y in pixels of the 256×256 crop `[T, 2, 2]`, NaN where
        unknown; `positions`: how the face lies, `[T, 14]` of `davs_model.data.positions`, NaN where unknown; `heard`:
        `[T]`, 1 where the window holds real sound alone while somebody speaks, else 0.
    length: T. every: frames from one to the next.
    at: where they lie in the clip. `anywhere`: at random in training, in the middle in evaluation. `word`: likewise; in
        training around one of the clip's words if their times are known, the same for all that is read of the clip,
        which is then its label. `sound`: as `word`, else among the frames whose windows hold real sound alone if there
        are enough of them. `portrait`: each frame from anywhere by itself, which evaluation may draw by a seed.
        `moments`: each frame at random by itself, mostly while somebody speaks. `spread`: evenly over the clip.
    of: `clip`: the clip itself; `speaker`: any clip of its speaker, as which the clip itself may be drawn; `others`:
        the other clips of its speaker, the clip itself where there are none; `emotion`: in half of the cases the clip
        itself, else a clip of its emotion by another speaker. Portraits are each of a clip of their own. Evaluation
        reads the clip itself.
    beside: another `Reads`, listed before this one, whose frames are taken; `every` and `at` are then its own.
    apart: another `Reads`, listed before this one, from whose frames a portrait keeps `DISTANCE` where the clip has
        such frames; with all clips of a speaker to choose from, of the other ones any frame.
    part: so many of the T are generated in a step. The first of them is drawn once for all clips of a batch.
    box, size: what is seen of a frame, and the side of that picture; 0: the side of the frames that are generated.
    """

    source: Literal["frames", "windows", "codes", "statistics", "corners", "positions", "heard"]
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
        """Return the frames from the first to the last, both counted; 1 where no two need to follow one another."""
        if self.at in ("portrait", "moments", "spread") or self.source == "statistics":
            return 1
        return self.every * (self.length - 1) + 1


@dataclass(frozen=True)
class Shape:
    """What is read of each clip, in the order in which it is drawn, and how its frames are changed.

    image_size: side of the frames. flip, shift, jitter, warp, noise: as in `davs_model.settings.Data`.
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
            reads.source in ("windows", "statistics", "heard") or reads.at in ("sound", "moments")
            for reads in self.reads.values()
        )

    def of_emotions(self) -> list[str]:
        """Return the names of what may be read of other people's clips, which have labels of their own."""
        return [name for name, reads in self.reads.items() if reads.of == "emotion"]

    def form(self, reads: Reads) -> Form:
        """Return the form of frames: the part of a crop that they show, and their side."""
        return reads.box, reads.size or self.image_size


def chosen(reads: Mapping[str, Reads], names: Iterable[str]) -> dict[str, Reads]:
    """Return those of the names that there are, in the order of `reads`."""
    wanted = frozenset(names)
    return {name: one for name, one in reads.items() if name in wanted}
