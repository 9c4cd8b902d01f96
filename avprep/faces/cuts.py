"""Cuts: pictures that differ far more from the one before than those around them do, and do not go back at once."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from avprep.media.picture import Picture

LEAST = 10.0
"""Minimum change at a cut: mean difference of two pictures of the same brightness and contrast, grey levels."""
TIMES = 2.5
"""How many times as large the change at a cut is as those right before and after it."""
FLASH = 3
"""Maximum frames of a flash: what shows the picture from before again is none but a flash."""
MIXED = 0.2
"""What differs from a mix of two pictures by less, as a part of their difference, is one."""

WHOLE = 0.9
"""A picture in which another one has a larger share than that shows it as it is."""

LEAST_SEEN = 3.0
"""The same of the pictures as they are, below which nobody looks closer."""

_CONTRAST = 48.0  # grey levels that a thumbnail's standard deviation is brought to
_FAINT = 8.0  # least standard deviation that it is brought from


def with_cuts(pictures: Iterable[Picture], seen: list[Thumbnail] | None = None) -> Iterator[tuple[Picture, bool]]:
    """Yield pictures, each with whether it begins a new shot.

    seen: takes the thumbnail of each picture that is yielded, a repeated one's once more.
    Fades, flashes, noise and shaking are no cuts. Where up to `FLASH` pictures between two shots are mixed of both, as
    converters of frame rates leave them, or are white or black, each begins a shot, and so does the one after them.
    Up to `FLASH` + 1 pictures are held to tell.
    """
    upcoming: deque[tuple[Picture, Thumbnail]] = deque()
    rest = iter(pictures)
    past: deque[Thumbnail] = deque(maxlen=2)
    before_flash: Thumbnail | None = None
    between = 0  # pictures that are yet to begin a shot

    def ahead(count: int) -> None:
        while len(upcoming) < count and (picture := next(rest, None)) is not None:
            upcoming.append((picture, Thumbnail(picture)))

    while True:
        ahead(1)
        if not upcoming:
            return
        picture, thumbnail = upcoming.popleft()
        difference = _difference(past[-1], thumbnail) if past else math.inf
        if seen is not None:
            seen.append(thumbnail if difference else past[-1])
        begins, between = between > 0, max(between - 1, 0)
        if not difference:  # a source slower than 25 fps shows a picture more than once
            yield picture, begins
            continue
        if not begins and LEAST_SEEN < difference < math.inf:  # the quick question, for it is asked of every picture
            ahead(FLASH + 1)
            further = [other for _, other in upcoming]
            after = further[:FLASH]
            change = _change(past[-1], thumbnail)
            usual = _usual(past, thumbnail, after)
            back = before_flash is not None and _change(before_flash, thumbnail) * TIMES < change
            gone = any(_change(past[-1], other) * TIMES < change for other in after)
            before_flash = past[-1] if gone else None
            begins = not back and not gone and change > max([LEAST, *(TIMES * other for other in usual)])
            if not (begins or back or gone):
                between = _between(past, [thumbnail, *further])
                begins = between > 0
        past.append(thumbnail)
        yield picture, begins


def _usual(past: Sequence[Thumbnail], new: Thumbnail, after: Iterable[Thumbnail]) -> list[float]:
    """Return the changes right before and right after a cut to a new picture, as far as there are any."""
    before = [_change(*past)] if len(past) == 2 else []
    return before + [_change(new, other) for other in after if _difference(new, other)][:1]


def _between(past: Sequence[Thumbnail], ahead: Sequence[Thumbnail]) -> int:
    """Return how many pictures ahead, at most `FLASH`, lie between two shots, mixed of both or empty; 0: it is no cut.

    A fade or a movement goes on before or after them: over more pictures more must have changed.
    """
    before = past[-1]
    for count in range(1, min(FLASH, len(ahead) - 1) + 1):
        new = ahead[count]
        if before.empty or new.empty or not _difference(ahead[count - 1], new):
            continue
        usual = _usual(past, new, ahead[count + 1 :])
        least = max([LEAST, *(TIMES * (count + 1) * other for other in usual)])
        if _change(before, new) > least and all(_mixed(one, before, new) for one in ahead[:count]):
            return count
    return 0


def _mixed(one: Thumbnail, before: Thumbnail, new: Thumbnail) -> bool:
    """Return whether a picture is mixed of two others and of light."""
    if one.seen.shape != before.seen.shape or one.seen.shape != new.seen.shape:
        return False
    _, off = _as_mixes(one.seen.reshape(1, -1), before.seen.ravel(), new.seen.ravel())
    return bool(off[0] < MIXED * _difference(before, new))


def dissolves(pictures: Sequence[Thumbnail]) -> bool:
    """Return whether pictures go over from the first to the last by degrees: a dissolve, or a fade out and in again.

    There more than `FLASH` are mixed of both and of light. Where a head turns or a hand comes in, they are not.
    """
    between = [one for earlier, one in pairwise(pictures[:-1]) if one is not earlier]  # a repeated one counts once
    if len(between) <= FLASH:
        return False
    before, new = pictures[0], pictures[-1]
    if before.empty or new.empty or any(one.seen.shape != before.seen.shape for one in (*between, new)):
        return False
    shares, off = _as_mixes(np.stack([one.coarse for one in between]), before.coarse, new.coarse)
    mixed = shares[:2].max(axis=0) < WHOLE
    return bool(mixed.sum() > FLASH and off[mixed].mean() < MIXED * np.abs(new.coarse - before.coarse).mean())


def _as_mixes(
    pictures: NDArray[Any], before: NDArray[Any], new: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what share two pictures, and light, have in each of others, (3, N), and what it then differs by, (N,).

    pictures: (N, M); before, new: (M,).
    """
    parts = np.stack([before, new, np.ones(new.size)], axis=1).astype(np.float64)
    shown = pictures.T.astype(np.float64)
    shares = np.asarray(np.linalg.lstsq(parts, shown, rcond=None)[0], np.float64)
    return shares, np.asarray(np.abs(shown - parts @ shares).mean(axis=0), np.float64)


class Thumbnail:
    """A picture's thumbnail."""

    def __init__(self, picture: Picture) -> None:
        self.seen = picture.thumbnail()

    @cached_property
    def empty(self) -> bool:
        """Whether it shows hardly anything."""
        return float(self.seen.std()) < _FAINT

    @cached_property
    def coarse(self) -> NDArray[np.float32]:
        """A quarter of its samples, blurred against noise, (M,)."""
        return np.asarray(cv2.blur(self.seen.astype(np.float32), (3, 3))[1::2, 1::2].ravel(), np.float32)

    @cached_property
    def normalised(self) -> NDArray[np.float32]:
        """It blurred against noise and brought to one brightness and contrast."""
        blurred = cv2.blur(self.seen.astype(np.float32), (3, 3))
        mean, deviation = cv2.meanStdDev(blurred)
        return np.asarray((blurred - mean.item()) * (_CONTRAST / max(deviation.item(), _FAINT)), np.float32)


def _difference(one: Thumbnail, other: Thumbnail) -> float:
    """Return the mean difference of two pictures as they are, grey levels; infinite for two of different sizes."""
    if one.seen.shape != other.seen.shape:
        return math.inf
    return cv2.norm(one.seen, other.seen, cv2.NORM_L1) / other.seen.size


def _change(one: Thumbnail, other: Thumbnail) -> float:
    """Return the mean difference of two pictures of the same brightness and contrast, grey levels."""
    if one.seen.shape != other.seen.shape:
        return 0.0
    return cv2.norm(one.normalised, other.normalised, cv2.NORM_L1) / other.seen.size
