"""Sampling: the order of the clips of an epoch, and the choice of their frames.

The order of an epoch depends only on the seed and the epoch, and a batch only on its place in that order. The batches
are therefore the same for any number of loader processes and training processes, and wherever a run is resumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from davs_model.data.reads import Shape

SUBSTITUTES = 20
"""Number of clips that are tried as a replacement of one that cannot be read."""
JITTER = 3
"""Maximum random shift of the frames around a word, in frames, in each direction."""
BEFORE_SPEECH, AFTER_SPEECH = 3, 4
"""Number of frames before the first word and after the last in which the mouth moves, too."""
DISTANCE = 8
"""Minimum distance in frames between a portrait and the frames of `Reads.apart`."""
WHILE_SPEAKING = 0.85
"""Fraction of moments that are drawn during speech."""
_SHUFFLE, _DRAW, _PART, _PORTRAIT = range(4)
"""Independent streams of random numbers, one for each kind of draw."""


def epoch_order(groups: Sequence[NDArray[np.int64]], *, seed: int, epoch: int, window: int) -> NDArray[np.int64]:
    """Return all rows in the order of an epoch: groups are shuffled, then the rows of each `window` groups together.

    Reading thus stays within a few tars at a time, which is efficient for disks and their caches.
    """
    rng = np.random.default_rng((_SHUFFLE, seed, epoch))
    order = rng.permutation(len(groups))
    parts = [
        rng.permutation(np.concatenate([groups[g] for g in order[first : first + window]]))
        for first in range(0, len(order), window)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def clip_rng(seed: int, epoch: int, row: int) -> np.random.Generator:
    """Return the random generator for reading a row in an epoch."""
    return np.random.default_rng((_DRAW, seed, epoch, row))


def portrait_rng(seed: int, row: int) -> np.random.Generator:
    """Return the random generator by which evaluation draws the portrait of a row."""
    return np.random.default_rng((_PORTRAIT, seed, row))


def drawn_starts(shape: Shape, *, seed: int, epoch: int, number: int) -> dict[str, int]:
    """Return the first frame of each part that is generated, drawn once per batch."""
    rng = np.random.default_rng((_PART, seed, epoch, number))
    return {name: int(rng.integers(reads.length - reads.part + 1)) for name, reads in shape.reads.items() if reads.part}


def middle_starts(shape: Shape) -> dict[str, int]:
    """Return the first frame of each part that is generated, if the part is in the middle."""
    return {name: (reads.length - reads.part) // 2 for name, reads in shape.reads.items() if reads.part}


def stretch(n_frames: int, length: int, every: int, rng: np.random.Generator | None, first: int = 0) -> list[int]:
    """Return `length` frames, every `every`-th, from `first` on: at a random place, or without `rng` in the middle."""
    free = n_frames - first - (every * (length - 1) + 1)
    assert free >= 0, (n_frames, length, every, first)
    begin = first + (free // 2 if rng is None else int(rng.integers(free + 1)))
    return list(range(begin, begin + every * length, every))


def sound_stretch(valid: NDArray[np.generic], length: int, every: int, rng: np.random.Generator | None) -> list[int]:
    """Return a stretch of frames whose windows hold nothing but real audio if there are enough of them, else any.

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
    """Return `length` frames, every `every`-th, around the middle of a word, shifted at random by at most `JITTER`.

    word: its number, and start and end in frames. The returned frames lie inside the clip.
    """
    span = every * (length - 1) + 1
    # Rounded before it is moved: halves go to even numbers, and words would move by two frames or not at all.
    centred = round((word[1] + word[2] - span) / 2)
    begin = min(max(centred + int(rng.integers(-JITTER, JITTER + 1)), 0), n_frames - span)
    return list(range(begin, begin + span, every))


def spoken_part(n_frames: int, words: NDArray[np.float64], valid: NDArray[np.generic]) -> tuple[int, int]:
    """Return the first frame and the end of the part in which a clip's mouth moves.

    It is the part around its words, or without words the frames with real audio.
    words: number, start and end of each in frames, (N, 3); may be empty. valid: bool `[n_frames]`.
    """
    if len(words):
        first, end = int(words[0, 1]) - BEFORE_SPEECH, int(words[-1, 2]) + AFTER_SPEECH
    else:
        real = np.flatnonzero(valid)
        first, end = (int(real[0]), int(real[-1]) + 1) if len(real) else (0, n_frames)
    first = min(max(first, 0), n_frames - 1)
    return first, min(max(end, first + 1), n_frames)


def moments(n_frames: int, spoken: tuple[int, int], length: int, rng: np.random.Generator | None) -> list[int]:
    """Return frames, each drawn independently, mostly during speech; without `rng`, evenly spread."""
    first, end = spoken
    if rng is None:
        return [first + frame for frame in spread(end - first, length)]
    inside = rng.random(length) < WHILE_SPEAKING
    return [int(rng.integers(*spoken) if speaking else rng.integers(n_frames)) for speaking in inside]


def spread(n_frames: int, length: int) -> list[int]:
    """Return `length` frames spread evenly over a clip, some of them twice if it is shorter."""
    return [(2 * n + 1) * n_frames // (2 * length) for n in range(length)]


def apart(n_frames: int, frames: Sequence[int], rng: np.random.Generator) -> int:
    """Return a random frame that is `DISTANCE` or more from all of `frames`; if there is none, one of the furthest."""
    distance = np.abs(np.arange(n_frames)[:, None] - np.asarray(frames)[None]).min(1)
    return int(rng.choice(np.flatnonzero(distance >= min(DISTANCE, int(distance.max())))))


def candidates(row: int, count: int) -> Iterator[int]:
    """Yield a row, and then a few other rows of `count` to replace it; always the same ones."""
    yield row
    rng = np.random.default_rng(row)
    for _ in range(SUBSTITUTES):
        yield int(rng.integers(count))
