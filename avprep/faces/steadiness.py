"""How still the face holds in its crops, measured on the crops themselves."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from avprep.faces.align import TEMPLATE
from avprep.faces.registration import ALIKE, Patch, Region, Similarity

FOREHEAD = Region(complex(TEMPLATE[:2, 0].mean(), 75), 164.0, 90.0)
"""What is compared: forehead, brows and eyes. Speech does not move it, and it is not what the face was followed by."""
ZOOM = 0.4
"""Patch pixels per crop pixel."""
PLACED = 5
"""Frames from one crop in which the face's place is measured to the next."""
EVERY, STEPS = 10, 2
"""Of so many crops, so many steps after the first one are measured, all against that: a blink falls among them more
often than among single steps, of which each would need a patch of its own."""

_POINTS = np.array([TEMPLATE[0], TEMPLATE[1], [TEMPLATE[:2, 0].mean(), 150]])  # eyes and nose
_ROWS, _COLUMNS = slice(20, 130), slice(38, 222)  # around the forehead
_STRIP = Similarity(1, complex(_COLUMNS.start, _ROWS.start))  # its pixels → crop pixels
_BACK = _STRIP.inverse()


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
        self._base: Patch | None = None  # what the next crops' steps are measured against
        self._before = np.zeros_like(_POINTS)  # where the crop before is, seen from there
        self._steps: list[float] = []
        self._places: list[list[NDArray[np.float64]]] = []

    def add(self, crop: NDArray[np.uint8]) -> None:
        """Compare the next crop, uint8 (256, 256, 4), BGRA."""
        self._frame += 1
        if self._frame == 0 or self._frame in self._cuts:
            self._began, self._first = self._frame, None
            self._places.append([])
        frame = self._frame - self._began
        step, placed = frame % EVERY, frame % PLACED == 0
        if not (placed or (step <= STEPS and self._base is not None)):
            return
        strip = np.asarray(cv2.cvtColor(crop[_ROWS, _COLUMNS], cv2.COLOR_BGRA2GRAY), np.uint8)
        patch = None
        if step == 0:
            patch = Patch(strip, _STRIP, ZOOM, FOREHEAD)
            self._base, self._before = None if patch.flat else patch, np.zeros_like(_POINTS)
        elif step <= STEPS:
            self._step(strip)
        if placed:
            self._place(strip, patch)

    def _step(self, strip: NDArray[np.uint8]) -> None:
        # Not from the shot's first crop: a step would come out too small where it does not look quite as then.
        moved = None if self._base is None else _moved(self._base, strip)
        if moved is None:
            self._base = None
            return
        self._steps.append(float(np.linalg.norm(moved - self._before, axis=1).mean()))
        self._before = moved

    def _place(self, strip: NDArray[np.uint8], patch: Patch | None) -> None:
        if self._first is None:
            self._first = patch
            assert patch is not None
            moved = None if patch.flat else np.zeros_like(_POINTS)
        else:
            moved = _moved(self._first, strip, patch)
        if moved is not None:
            self._places[-1].append(moved)

    def figures(self) -> dict[str, float | None]:
        """Return `jitter` and `slip` to four digits; None for what could not be measured."""
        # One place alone, where nothing later looks like the first crop, is off by 0 from itself and says nothing.
        off = [np.stack(shot) - np.mean(shot, axis=0) for shot in self._places if len(shot) > 1]
        slip = float(np.sqrt(2 * np.mean(np.concatenate(off) ** 2))) if off else None
        jitter = float(np.mean(self._steps)) if self._steps else None
        return {name: value and round(value, 4) for name, value in (("jitter", jitter), ("slip", slip))}


def _moved(patch: Patch, strip: NDArray[np.uint8], there: Patch | None = None) -> NDArray[np.float64] | None:
    """Return how far eyes and nose are from where they were, (3, 2); None where nothing like them is there.

    there: the strip's own patch, where there is one.
    """
    if patch.flat:
        return None
    onto, correlation = patch.find(strip, _STRIP, there)
    return np.asarray(onto.after(_BACK)(_POINTS) - _POINTS) if correlation >= ALIKE else None
