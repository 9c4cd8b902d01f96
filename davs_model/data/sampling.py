"""Which clips of an epoch, in which order, and which of their frames.

The order of an epoch is a function of the seed and the epoch, and a batch of its place in it: the same batches come out
whatever the number of loader processes, wherever a run is resumed, and however many training processes share them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from davs_model.data.reads import Shape

SUBSTITUTES = 20
"""Clips that are tried in the place of one that cannot be read."""
_SHUFFLE, _DRAW, _PART, _PORTRAIT = range(4)
"""Streams of random numbers, so that no two draws share one."""


def epoch_order(groups: Sequence[NDArray[np.int64]], *, seed: int, epoch: int, window: int) -> NDArray[np.int64]:
    """Return all rows in the order of an epoch: groups are shuffled, then the rows of each `window` of them together.

    So reading stays within a few tars at a time, which disks and their caches like.
    """
    rng = np.random.default_rng((_SHUFFLE, seed, epoch))
    order = rng.permutation(len(groups))
    parts = [
        rng.permutation(np.concatenate([groups[g] for g in order[first : first + window]]))
        for first in range(0, len(order), window)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def clip_rng(seed: int, epoch: int, row: int) -> np.random.Generator:
    """Return the random numbers by which a row is read in an epoch."""
    return np.random.default_rng((_DRAW, seed, epoch, row))


def portrait_rng(seed: int, row: int) -> np.random.Generator:
    """Return the random numbers by which evaluation draws the portrait of a row."""
    return np.random.default_rng((_PORTRAIT, seed, row))


def drawn_starts(shape: Shape, *, seed: int, epoch: int, number: int) -> dict[str, int]:
    """Return the first frame of each part that is generated, drawn for a batch."""
    rng = np.random.default_rng((_PART, seed, epoch, number))
    return {name: int(rng.integers(reads.length - reads.part + 1)) for name, reads in shape.reads.items() if reads.part}


def middle_starts(shape: Shape) -> dict[str, int]:
    """Return the first frame of each part that is generated, in the middle."""
    return {name: (reads.length - reads.part) // 2 for name, reads in shape.reads.items() if reads.part}


def stretch(n_frames: int, length: int, every: int, rng: np.random.Generator | None, first: int = 0) -> list[int]:
    """Return `length` frames, every `every`-th, from `first` on: at a random place, or in the middle."""
    free = n_frames - first - (every * (length - 1) + 1)
    assert free >= 0, (n_frames, length, every, first)
    begin = first + (free // 2 if rng is None else int(rng.integers(free + 1)))
    return list(range(begin, begin + every * length, every))


def sound_stretch(valid: NDArray[np.generic], length: int, every: int, rng: np.random.Generator | None) -> list[int]:
    """Return a stretch of the frames whose windows hold real sound alone if there are enough of them, else any.

    valid: bool `[n_frames]`.
    """
    real = np.flatnonzero(valid)
    span = every * (length - 1) + 1
    if len(real) and (within := int(real[-1]) - int(real[0]) + 1) >= span:
        return stretch(int(real[0]) + within, length, every, rng, first=int(real[0]))
    return stretch(len(valid), length, every, rng)


def candidates(row: int, count: int) -> Iterator[int]:
    """Yield a row and then a few others of `count`, always the same, to take its place."""
    yield row
    rng = np.random.default_rng(row)
    for _ in range(SUBSTITUTES):
        yield int(rng.integers(count))
