"""Whether lips open with the audio, by landmarks of an external detector, in generated and real frames of whole clips.

Grey levels between the lips depend on teeth, a moustache and the light as well; the distance of the lips does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

N_LIPS = 20
"""Number of landmarks of the mouth that lips are measured by: 48 … 67 of 300-W."""
UPPER, LOWER = (13, 14, 15), (19, 18, 17)
"""Three landmarks of the upper lip's inner edge, and the lower lip's opposite to them, from the image's left."""
LEAST_FRAMES = 8
"""Minimum number of frames with both mouths for a correlation over time."""
STILL_PX = 0.01
"""Standard deviation of the lips' distance, in pixels of the crop, below which they do not move."""

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Lips:
    """Means over the videos whose real lips move.

    opening_r: correlation over time of `lip_distance` of the generated and the real mouth. amplitude: ratio of its
        standard deviations.
    """

    opening_r: float
    amplitude: float
    n_videos: int


def lip_distance(mouths: Floats) -> NDArray[np.float64]:
    """Return the mean distance of the lips' inner edges in pixels, `[T]`; NaN where no mouth was found.

    mouths: `[T, 20, 2]`, x y in pixels of the crop. ValueError for another number of landmarks.
    """
    if mouths.ndim != 3 or mouths.shape[1:] != (N_LIPS, 2):
        raise ValueError(f"landmarks {list(mouths.shape)} should be [T, {N_LIPS}, 2]")
    points = np.asarray(mouths, np.float64)
    apart: NDArray[np.float64] = np.linalg.norm(points[:, UPPER] - points[:, LOWER], axis=-1).mean(axis=1)
    return apart


@dataclass
class LipScores:
    """Measures clips one by one."""

    _found: list[tuple[float, float]] = field(default_factory=list)

    def add(self, real: Floats, generated: Floats) -> None:
        """Add a clip: the mouths of its frames, as in `lip_distance`, row t of both of the same frame.

        Frames without a mouth in either are left out. A clip with fewer than `LEAST_FRAMES`, or whose real lips do not
        move, is not measured. Generated lips that do not move, or in fewer frames than that, correlate by 0.
        """
        true, drawn = lip_distance(real), lip_distance(generated)
        seen = np.isfinite(true)
        if seen.sum() < LEAST_FRAMES or true[seen].std() < STILL_PX:
            return
        both = seen & np.isfinite(drawn)
        true, drawn = true[both], drawn[both]
        moves = both.sum() >= LEAST_FRAMES and min(true.std(), drawn.std()) >= STILL_PX
        self._found.append(
            (float(np.corrcoef(true, drawn)[0, 1]), float(drawn.std() / true.std())) if moves else (0.0, 0.0)
        )

    def result(self) -> Lips | None:
        """Return the means over all clips so far; None if none was measured."""
        if not self._found:
            return None
        opening_r, amplitude = (math.fsum(values) / len(values) for values in zip(*self._found, strict=True))
        return Lips(opening_r, amplitude, len(self._found))
