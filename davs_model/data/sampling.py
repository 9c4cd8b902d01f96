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
JITTER = 3
"""Most frames that a word is moved by, each way."""
BEFORE_SPEECH, AFTER_SPEECH = 3, 4
"""Frames before the first word and after the last in which a mouth moves, too."""
DISTANCE = 8
"""Frames between a portrait and what it keeps apart from."""
WHILE_SPEAKING = 0.85
"""Fraction of moments that are drawn while somebody speaks."""
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


def word_stretch(
    n_frames: int, word: NDArray[np.float64], length: int, every: int, rng: np.random.Generator
) -> list[int]:
    """Return `length` frames, every `every`-th, around the middle of a word, moved by at most `JITTER` at random.

    word: its number, start and end, in frames. They lie inside the clip, whose ends they may touch.
    """
    span = every * (length - 1) + 1
    # Rounded before it is moved: halves go to even numbers, and words would move by two frames or not at all.
    centred = round((word[1] + word[2] - span) / 2)
    begin = min(max(centred + int(rng.integers(-JITTER, JITTER + 1)), 0), n_frames - span)
    return list(range(begin, begin + span, every))


def spoken_part(n_frames: int, words: NDArray[np.float64], valid: NDArray[np.generic]) -> tuple[int, int]:
    """Return the frames, first and end, in which a clip's mouth moves: around its words, else those with real sound.

    words: number, start and end of each, in frames (N, 3), which may be none. valid: bool `[n_frames]`.
    """
    if len(words):
        first, end = int(words[0, 1]) - BEFORE_SPEECH, int(words[-1, 2]) + AFTER_SPEECH
    else:
        real = np.flatnonzero(valid)
        first, end = (int(real[0]), int(real[-1]) + 1) if len(real) else (0, n_frames)
    first = min(max(first, 0), n_frames - 1)
    return first, min(max(end, first + 1), n_frames)


def moments(n_frames: int, spoken: tuple[int, int], length: int, rng: np.random.Generator | None) -> list[int]:
    """Return frames, each drawn by itself, mostly while somebody speaks; without random numbers, evenly spread."""
    first, end = spoken
    if rng is None:
        return [first + frame for frame in spread(end - first, length)]
    inside = rng.random(length) < WHILE_SPEAKING
    return [int(rng.integers(*spoken) if speaking else rng.integers(n_frames)) for speaking in inside]


def spread(n_frames: int, length: int) -> list[int]:
    """Return `length` frames evenly over a clip, some of them twice if it is shorter."""
    return [(2 * n + 1) * n_frames // (2 * length) for n in range(length)]


def apart(n_frames: int, frames: Sequence[int], rng: np.random.Generator) -> int:
    """Return a frame that is `DISTANCE` or more from all of these, at random; without any, one of the furthest."""
    distance = np.abs(np.arange(n_frames)[:, None] - np.asarray(frames)[None]).min(1)
    return int(rng.choice(np.flatnonzero(distance >= min(DISTANCE, int(distance.max())))))


def candidates(row: int, count: int) -> Iterator[int]:
    """Yield a row and then a few others of `count`, always the same, to take its place."""
    yield row
    rng = np.random.default_rng(row)
    for _ in range(SUBSTITUTES):
        yield int(rng.integers(count))
