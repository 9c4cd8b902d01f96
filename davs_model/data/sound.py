"""Augmentation of cepstra: another vocal tract length, and noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from avprep.schema import N_COEFFICIENTS

ALL_STATISTICS = 2 + N_COEFFICIENTS
"""Number of rows of a clip's statistics: mean and standard deviation of each coefficient, and their covariance."""
LIFTER = 22
BANDS = {"davs": (13, 300.0, 3700.0), "syncnet": (26, 0.0, 8000.0)}
"""Number of filters of each MFCC preset, and the lower and upper edge of the filter bank in Hz."""


def warped_voice(amount: float, preset: str) -> NDArray[np.float32]:
    """Return the matrix (12, 12) that, applied to coefficients 1 … 12, stretches the spectrum that they describe.

    Formants are divided by exp(amount), the factor by which the vocal tract becomes longer.

    This is vocal tract length perturbation (Jaitly and Hinton, 2013) as a linear map of cepstra (Pitz and Ney, 2005):
    the inverse cosine transform gives log energies, which are read at stretched frequencies and transformed again.
    Without c0 the log energies lack a constant, which stretching preserves. preset: one of `BANDS`; any other value is
    treated as the first.
    """
    n_filters, low, high = BANDS.get(preset, BANDS["davs"])
    orders = np.arange(1, N_COEFFICIENTS + 1)
    lifter = 1 + LIFTER / 2 * np.sin(np.pi * orders / LIFTER)
    cosines = np.sqrt(2 / n_filters) * np.cos(np.pi * orders[:, None] * (np.arange(n_filters) + 0.5) / n_filters)
    mel = np.linspace(_mel(low), _mel(high), n_filters + 2)[1:-1]
    stretched = _mel(700 * np.expm1(mel / 1127) * np.exp(amount))
    place = np.interp(stretched, mel, np.arange(n_filters))
    reading = (1 - np.abs(place[:, None] - np.arange(n_filters))).clip(0)
    matrix = lifter[:, None] * (cosines @ reading @ cosines.T) / lifter
    return matrix.astype(np.float32)


def noisy(
    windows: NDArray[np.generic], deviation: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return windows (T, 12, 20) with noise of standard deviation (12,) per coefficient, independent in each window."""
    noise = rng.standard_normal(windows.shape, np.float32) * deviation[:, None]
    return np.asarray(windows, np.float32) + noise


def _mel(hertz: float | NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1127 * np.log1p(np.asarray(hertz) / 700))
