"""What a model reads of a clip, as data: one tensor of a batch for each `Reads`, by its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from avprep.schema import CROP_SIZE

Batch = Mapping[str, Tensor]
"""What a step reads of B clips, by the name of its `Reads`.

Frames are float32 `[B, T, 3, S, S]`, RGB in [0, 1]; windows float32 `[B, T, 12, 20]`. `words` and `speakers`, int64
`[B]`, are always there, −1 where unknown. `NAME_start`, one number on the CPU, is there for each `Reads` with a part.
"""
LABELS = ("words", "speakers")


@dataclass(frozen=True)
class Reads:
    """One tensor of a batch: T frames of each clip, or the MFCC windows of T frames.

    length: T. every: frames from one to the next.
    at: where they lie in the clip. `anywhere`: at random in training, in the middle in evaluation. `sound`: likewise,
        among the frames whose windows hold real sound alone if there are enough of them. `portrait`: a single frame
        from anywhere, which evaluation may draw by a seed.
    beside: another `Reads`, listed before this one, whose frames are taken; `every` and `at` are then its own.
    part: so many of the T are generated in a step. The first of them is drawn once for all clips of a batch.
    """

    source: Literal["frames", "windows"]
    length: int
    every: int = 1
    at: Literal["anywhere", "sound", "portrait"] = "anywhere"
    beside: str = ""
    part: int = 0

    def span(self) -> int:
        """Return the frames from the first to the last, both counted."""
        return self.every * (self.length - 1) + 1


@dataclass(frozen=True)
class Shape:
    """What is read of each clip, in the order in which it is drawn, and how its frames are changed.

    image_size: side of the frames. flip, shift: as in `davs_model.settings.Data`.
    """

    reads: Mapping[str, Reads]
    image_size: int = CROP_SIZE
    flip: bool = False
    shift: int = 0

    def shortest(self) -> int:
        """Return the minimum number of frames of a clip."""
        return max((reads.span() for reads in self.reads.values() if not reads.beside), default=1)

    def needs_windows(self) -> bool:
        """Return whether the MFCC column is read."""
        return any(reads.source == "windows" or reads.at == "sound" for reads in self.reads.values())


def chosen(reads: Mapping[str, Reads], names: Iterable[str]) -> dict[str, Reads]:
    """Return those of the names that there are, in the order of `reads`."""
    wanted = frozenset(names)
    return {name: one for name, one in reads.items() if name in wanted}
