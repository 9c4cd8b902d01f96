"""The steadiness of the face in its crops, measured on the crops themselves."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from avprep.faces.align import TEMPLATE
from avprep.faces.registration import ALIKE, Patch, Region, Similarity

FOREHEAD = Region(complex(TEMPLATE[:2, 0].mean(), 75), 164.0, 90.0)
"""The region that is compared: forehead, brows and eyes. Speech does not move it, and it is not the region by which the
face was followed."""
ZOOM = 0.4
"""Patch pixels per crop pixel."""
PLACED = 5
"""Frames from one measurement of the face's position to the next."""
EVERY = 10
"""Number of crops that are compared with the same one, and so with each other: a patch for each would cost more."""

_POINTS = (complex(*TEMPLATE[0]), complex(*TEMPLATE[1]), complex(TEMPLATE[:2, 0].mean(), 150))  # eyes and nose
_ROWS, _COLUMNS = slice(20, 130), slice(38, 222)  # around the forehead
_STRIP = Similarity(1, complex(_COLUMNS.start, _ROWS.start))  # its pixels → crop pixels
_BACK = _STRIP.inverse()

Place = tuple[complex, complex, complex]
"""Offsets of the eyes and the nose, x + iy, crop pixels."""
_AT_HOME: Place = (0j, 0j, 0j)


class Steadiness:
    """Measures the crops of a clip as they come.

    jitter: mean movement of the face in its crop from one frame to the next, crop pixels.
    slip: root mean square distance of the face from its mean place in the crop, crop pixels, shot by shot.
    """

    def __init__(self, cuts: frozenset[int]) -> None:
        self._cuts = cuts
        self._frame = -1
        self._began = 0  # the shot's first frame
        self._first: Patch | None = None
        self._base: Patch | None = None  # the patch against which the next crops are measured
        self._before = _AT_HOME  # offsets of the previous crop from it
        self._steps: list[float] = []
        self._places: list[list[Place]] = []

    def add(self, crop: NDArray[np.uint8]) -> None:
        """Compare the next crop, uint8 (256, 256, 4), BGRA."""
        self._frame += 1
        if self._frame == 0 or self._frame in self._cuts:
            self._began, self._first, self._base = self._frame, None, None
            self._places.append([])
        frame = self._frame - self._began
        begins, placed = frame % EVERY == 0, frame % PLACED == 0
        if not (placed or self._base):
            return
        strip = np.asarray(cv2.cvtColor(crop[_ROWS, _COLUMNS], cv2.COLOR_BGRA2GRAY), np.uint8)
        patch = Patch(strip, _STRIP, ZOOM, FOREHEAD) if begins else None
        if self._base:
            self._step(self._base, strip, patch)
        if patch:
            self._base, self._before = None if patch.flat else patch, _AT_HOME
        if placed:
            self._place(strip, patch)

    def _step(self, base: Patch, strip: NDArray[np.uint8], patch: Patch | None) -> None:
        # Not against the shot's first crop: if the face looks different by now, a step would come out too small.
        moved = _moved(base, strip, patch)
        if moved is None:
            self._base = None
            return
        self._steps.append(sum(abs(now - then) for now, then in zip(moved, self._before, strict=True)) / len(moved))
        self._before = moved

    def _place(self, strip: NDArray[np.uint8], patch: Patch | None) -> None:
        if self._first is None:
            self._first = patch
            assert patch is not None
            moved = None if patch.flat else _AT_HOME
        else:
            moved = _moved(self._first, strip, patch)
        if moved is not None:
            self._places[-1].append(moved)

    def figures(self) -> dict[str, float | None]:
        """Return `jitter` and `slip` to four digits; None for what could not be measured."""
        # If no later crop resembles the first one, the single position deviates by 0 from itself: no measurement.
        off = [np.array(shot) - np.mean(shot, axis=0) for shot in self._places if len(shot) > 1]
        slip = float(np.sqrt(np.mean(np.abs(np.concatenate(off)) ** 2))) if off else None
        jitter = float(np.mean(self._steps)) if self._steps else None
        return {name: value and round(value, 4) for name, value in (("jitter", jitter), ("slip", slip))}


def _moved(patch: Patch, strip: NDArray[np.uint8], there: Patch | None = None) -> Place | None:
    """Return the offsets of eyes and nose from their positions in the patch; None if nothing similar is there.

    there: the strip's own patch, if there is one.
    """
    if patch.flat:
        return None
    onto, correlation = patch.find(strip, _STRIP, there)
    if correlation < ALIKE:
        return None
    back = onto.after(_BACK)
    eye, other, nose = (back.turn * point + back.shift - point for point in _POINTS)
    return eye, other, nose
