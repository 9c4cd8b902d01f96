"""Cuts: pictures that differ from the one before far more than their neighbours do, and that are not just a flash."""

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
"""Minimum change at a cut: mean difference of two pictures with normalised brightness and contrast, grey levels."""
TIMES = 2.5
"""Minimum ratio of the change at a cut to the changes right before and after it."""
FLASH = 3
"""Maximum frames of a flash: after it, the picture from before is shown again, so there is no cut."""
MIXED = 0.2
"""Maximum difference of a picture from a mix of two others to count as a mix, as a fraction of their difference."""

WHOLE = 0.9
"""A picture in which another one has at least this weight counts as that picture, not as a mix."""

LEAST_SEEN = 3.0
"""As `LEAST` without normalising brightness and contrast; below it, pictures are not examined further."""

_CONTRAST = 48.0  # grey levels: a thumbnail's standard deviation is normalised to this
_FAINT = 8.0  # minimum standard deviation to normalise from


def with_cuts(pictures: Iterable[Picture], seen: list[Thumbnail] | None = None) -> Iterator[tuple[Picture, bool]]:
    """Yield pictures, each with whether it begins a new shot.

    seen: receives the thumbnail of each yielded picture; a repeated picture adds the same thumbnail again.
    Fades, flashes, noise and shaking are not cuts. Up to `FLASH` pictures between two shots may be a mix of both, as
    frame-rate converters produce them, or white or black. Each of these begins a shot, and so does the picture after
    them. Up to `FLASH` + 1 pictures are held for this decision.
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
        if not difference:  # a source slower than 25 fps repeats pictures
            yield picture, begins
            continue
        if not begins and LEAST_SEEN < difference < math.inf:  # the cheap test first: it runs for every picture
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
    """Return the changes right before and right after a cut to a new picture, if there are any."""
    before = [_change(*past)] if len(past) == 2 else []
    return before + [_change(new, other) for other in after if _difference(new, other)][:1]


def _between(past: Sequence[Thumbnail], ahead: Sequence[Thumbnail]) -> int:
    """Return how many pictures ahead, at most `FLASH`, lie between two shots, as mixes of both or empty; 0: no cut.

    A fade or a movement continues before or after them, so more pictures require a larger change.
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
    """Return whether a picture is a mix of two others and a constant brightness."""
    if one.seen.shape != before.seen.shape or one.seen.shape != new.seen.shape:
        return False
    _, off = _as_mixes(one.seen.reshape(1, -1), before.seen.ravel(), new.seen.ravel())
    return bool(off[0] < MIXED * _difference(before, new))


def dissolves(pictures: Sequence[Thumbnail]) -> bool:
    """Return whether pictures change gradually from the first to the last: a dissolve, or a fade out and in again.

    In a dissolve more than `FLASH` pictures are mixes of both and of a constant brightness. If a head turns or a hand
    comes in, they are not.
    """
    between = [one for earlier, one in pairwise(pictures[:-1]) if one is not earlier]  # repeated pictures count once
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
    """Fit each picture as a mix of `before`, `new` and a constant brightness.

    pictures: (N, M); before, new: (M,).
    Returns the weights (3, N) and the mean absolute residuals (N,).
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
        """Whether it has hardly any contrast."""
        return float(self.seen.std()) < _FAINT

    @cached_property
    def coarse(self) -> NDArray[np.float32]:
        """A quarter of its samples, blurred to reduce noise, (M,)."""
        return np.asarray(cv2.blur(self.seen.astype(np.float32), (3, 3))[1::2, 1::2].ravel(), np.float32)

    @cached_property
    def normalised(self) -> NDArray[np.float32]:
        """The thumbnail, blurred to reduce noise, with normalised brightness and contrast."""
        blurred = cv2.blur(self.seen.astype(np.float32), (3, 3))
        mean, deviation = cv2.meanStdDev(blurred)
        return np.asarray((blurred - mean.item()) * (_CONTRAST / max(deviation.item(), _FAINT)), np.float32)


def _difference(one: Thumbnail, other: Thumbnail) -> float:
    """Return the mean difference of two pictures without normalisation, grey levels; infinite if the sizes differ."""
    if one.seen.shape != other.seen.shape:
        return math.inf
    return cv2.norm(one.seen, other.seen, cv2.NORM_L1) / other.seen.size


def _change(one: Thumbnail, other: Thumbnail) -> float:
    """Return the mean difference of two pictures with normalised brightness and contrast, grey levels."""
    if one.seen.shape != other.seen.shape:
        return 0.0
    return cv2.norm(one.normalised, other.normalised, cv2.NORM_L1) / other.seen.size
