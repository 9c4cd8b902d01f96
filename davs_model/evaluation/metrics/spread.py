"""A mean over clips with its confidence interval over people, because clips of one speaker are not independent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over clips, and the bounds of its 95 % confidence interval, NaN for a single speaker."""

    mean: float
    low: float
    high: float
    n_clips: int
    n_speakers: int

    def text(self, form: str = ".3f") -> str:
        """Return it as `mean [low, high]`, or without bounds if there are none."""
        if math.isnan(self.low):
            return format(self.mean, form)
        return f"{format(self.mean, form)} [{format(self.low, form)}, {format(self.high, form)}]"


def estimate(values: ArrayLike, speakers: Sequence[int], *, seed: int = 0) -> Estimate:
    """Return the mean of values `[N]` with the percentiles of its bootstrap over whole speakers.

    speakers: that of each value. ValueError for no values or values that are not finite.
    """
    found, whose = np.asarray(values, np.float64), np.asarray(speakers)
    if not len(found) or not np.isfinite(found).all():
        raise ValueError("no values, or values that are not finite")
    people, of = np.unique(whose, return_inverse=True)
    sums, counts = np.bincount(of, found), np.bincount(of)
    low = high = float("nan")
    if len(people) > 1:
        drawn = np.random.default_rng(seed).integers(len(people), size=(RESAMPLES, len(people)))
        means = sums[drawn].sum(1) / counts[drawn].sum(1)
        low, high = (float(bound) for bound in np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    return Estimate(float(found.mean()), low, high, len(found), len(people))
