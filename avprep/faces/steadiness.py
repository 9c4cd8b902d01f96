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
STEP_EVERY, PLACE_EVERY = 5, 10
"""Frames from one measured step, and from one measured place, to the next."""

_POINTS = np.array([TEMPLATE[0], TEMPLATE[1], [TEMPLATE[:2, 0].mean(), 150]])  # eyes and nose
_ROWS, _COLUMNS = slice(20, 130), slice(38, 222)  # around the forehead
_STRIP = Similarity(1, complex(_COLUMNS.start, _ROWS.start))  # its pixels → crop pixels


class Steadiness:
    """Measures the crops of a clip as they come.

    jitter: mean movement of the face in its crop from one frame to the next, crop pixels.
    slip: root mean square distance of the face from its mean place in the crop, crop pixels, shot by shot.
    """

    def __init__(self, cuts: frozenset[int]) -> None:
        self._cuts = cuts
        self._frame = -1
        self._before: Patch | None = None
        self._first: Patch | None = None
        self._steps: list[float] = []
        self._places: list[list[NDArray[np.float64]]] = []

    def add(self, crop: NDArray[np.uint8]) -> None:
        """Compare the next crop, uint8 (256, 256, 4), RGBA."""
        self._frame += 1
        begins = self._frame == 0 or self._frame in self._cuts
        before, self._before = None if begins else self._before, None
        step, place = self._frame % STEP_EVERY == 0, self._frame % PLACE_EVERY == 0
        if not (begins or step or place or before):
            return
        strip = np.asarray(cv2.cvtColor(crop[_ROWS, _COLUMNS], cv2.COLOR_RGBA2GRAY), np.uint8)
        if before is not None and (moved := _moved(before, strip)) is not None:
            self._steps.append(float(np.linalg.norm(moved, axis=1).mean()))
        patch = _patch(strip) if begins or step else None
        if begins:
            self._first = patch
            self._places.append([])
        if place and self._first is not None and (moved := _moved(self._first, strip)) is not None:
            self._places[-1].append(moved)
        if step:
            self._before = patch

    def figures(self) -> dict[str, float | None]:
        """Return `jitter` and `slip` to four digits; None for what could not be measured."""
        off = [np.stack(shot) - np.mean(shot, axis=0) for shot in self._places if shot]
        slip = float(np.sqrt(2 * np.mean(np.concatenate(off) ** 2))) if off else None
        jitter = float(np.mean(self._steps)) if self._steps else None
        return {name: value and round(value, 4) for name, value in (("jitter", jitter), ("slip", slip))}


def _patch(strip: NDArray[np.uint8]) -> Patch | None:
    patch = Patch(strip, _STRIP, ZOOM, FOREHEAD)
    return None if patch.flat else patch


def _moved(patch: Patch, strip: NDArray[np.uint8]) -> NDArray[np.float64] | None:
    """Return how far eyes and nose are from where they were, (3, 2); None where nothing like them is there."""
    onto, correlation = patch.find(strip, _STRIP)
    return onto.after(_STRIP.inverse())(_POINTS) - _POINTS if correlation >= ALIKE else None
