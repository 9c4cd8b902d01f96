"""The distance between two crops of one clip, and the jitter of each: a number for each of `MEASURES`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avprep.faces import align

NAMES = ("A", "B")
"""The two runs."""

_PERCENTILES = (5, 25, 50, 75, 95, 100)
_KINDS = {"eyes": [0, 1], "nose": [2], "mouth corners": [3, 4]}


@dataclass(frozen=True)
class Quantity:
    """A measure of every sampled clip.

    title, unit: as shown on the page. digits: decimal places.
    """

    title: str
    unit: str
    digits: int = 2

    def shown(self, value: float) -> str:
        """Return a value as shown on the page."""
        if not math.isfinite(value):
            return "–"
        return f"{round(value, self.digits) + 0.0:,.{self.digits}f}".replace("-", "−")


MEASURES = {
    "points_px": Quantity("distance between points", "source px"),
    "points_share": Quantity("distance between points", "% of face size", 1),
    "eyes": Quantity("… of the eyes", "source px"),
    "nose": Quantity("… of the nose", "source px"),
    "mouth corners": Quantity("… of the mouth corners", "source px"),
    "crop": Quantity("distance between crops", "crop px"),
    "right": Quantity("B's face lies further right by", "crop px"),
    "down": Quantity("B's face lies further down by", "crop px"),
    "zoom": Quantity("B's face is larger by", "%", 1),
    "against": Quantity("movement of the crops against each other", "crop px per frame", 3),
    "shake_A": Quantity("shake, A", "crop px per frame²", 3),
    "shake_B": Quantity("shake, B", "crop px per frame²", 3),
    "jitter_A": Quantity("jitter, A", "crop px per frame", 3),
    "jitter_B": Quantity("jitter, B", "crop px per frame", 3),
    "slip_A": Quantity("slip, A", "crop px", 3),
    "slip_B": Quantity("slip, B", "crop px", 3),
    "face_A": Quantity("face size, A", "source px", 1),
    "face_B": Quantity("face size, B", "source px", 1),
}
"""In the order of the page."""


@dataclass(frozen=True)
class Cropped:
    """A run's crops of one clip.

    points: float32 (T, 5, 2), affine: float32 (T, 2, 3), both as in `avprep.schema`. facts: the contents of clip.json.
    crops: the first, the middle and the last one, as stored. indices: their frames.
    """

    points: NDArray[np.float32]
    affine: NDArray[np.float32]
    facts: dict[str, Any]
    indices: tuple[int, int, int]
    crops: tuple[bytes, bytes, bytes]


def distances(a: Cropped, b: Cropped) -> dict[str, float]:
    """Measure how two crops of one clip, of as many frames, differ: a number for each of `MEASURES`, NaN if unknown."""
    apart = np.linalg.norm(a.points.astype(np.float64) - b.points, axis=-1)
    sizes = [_fact(face, "face_size") for face in (a, b)]
    affines = [face.affine.astype(np.float64) for face in (a, b)]
    places = [_places(affine) for affine in affines]
    moved = align.apply(affines[1], places[0]) - align.TEMPLATE
    equal = (affines[0] == affines[1]).all(axis=(1, 2))
    moved[equal] = 0  # without rounding errors of 1e-14 px
    right, down = moved.mean(axis=(0, 1))
    scales = [np.maximum(align.scale(affine), 1e-12) for affine in affines]
    points = _mean(apart)
    return {
        "points_px": points,
        "points_share": 100 * points / (sum(sizes) / 2) if sum(sizes) > 0 else math.nan,
        **{kind: _mean(apart[:, numbers]) for kind, numbers in _KINDS.items()},
        "crop": float(np.linalg.norm(moved, axis=-1).mean()),
        "right": float(right),
        "down": float(down),
        "zoom": float(100 * (np.exp(np.log(scales[1] / scales[0]).mean()) - 1)),
        "against": _mean(np.linalg.norm(np.diff(moved, axis=0), axis=-1)),
        **{
            f"shake_{name}": _mean(np.linalg.norm(np.diff(place, 2, axis=0), axis=-1)) * float(np.median(scale))
            for name, place, scale in zip(NAMES, places, scales, strict=True)
        },
        **{f"jitter_{name}": _fact(face, "jitter") for name, face in zip(NAMES, (a, b), strict=True)},
        **{f"slip_{name}": _fact(face, "slip") for name, face in zip(NAMES, (a, b), strict=True)},
        **{f"face_{name}": size for name, size in zip(NAMES, sizes, strict=True)},
    }


def _places(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the source pixels, float64 (T, 3, 2), that transforms (T, 2, 3) map to the eyes and mouth of a crop."""
    back = np.linalg.pinv(affine[:, :, :2])  # no inverse: a hostile transform may be singular
    return np.asarray((align.TEMPLATE - affine[:, None, :, 2]) @ np.swapaxes(back, -1, -2), np.float64)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else math.nan


def _fact(face: Cropped, name: str) -> float:
    value = face.facts.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def summary(rows: Sequence[Mapping[str, float]], measure: str) -> tuple[int, list[float]]:
    """Return the number of clips for which a measure is known, and its percentiles 5, 25, 50, 75, 95 and 100."""
    found = known(rows, measure)
    return found.size, [float(value) for value in np.percentile(found, _PERCENTILES)] if found.size else []


def known(rows: Sequence[Mapping[str, float]], measure: str) -> NDArray[np.float64]:
    """Return a measure of the clips that have it."""
    values = np.array([row[measure] for row in rows], np.float64)
    return values[np.isfinite(values)]
