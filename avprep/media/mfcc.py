"""Mel-frequency cepstral coefficients at 100 Hz, and one 12×20 window of them for every video frame.

Two presets that are not interchangeable: `davs` is the chain of the released MATLAB code (HTK style), `syncnet` that of
python_speech_features. Both take frames of 400 samples every 160, at 16 kHz, in int16 scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from avprep.schema import HOP, N_COEFFICIENTS, SAMPLE_RATE, STEPS_PER_FRAME, WINDOW_FRAMES, WINDOW_STEPS

Preset = Literal["davs", "syncnet"]
PRESETS: tuple[Preset, ...] = ("davs", "syncnet")

FRAME = 400
"""Samples of one step's frame: 25 ms."""
N_FFT = 512
PRE_EMPHASIS = 0.97
LIFTER = 22
N_CEPSTRA = 13
"""Coefficients per step; the first (c0, or log energy) is not part of the windows."""
DAVS_FILTERS = 13
DAVS_LOW, DAVS_HIGH = 300.0, 3700.0
"""Edges of the `davs` filter bank in Hz."""
DAVS_FLOOR = 1.0
"""Minimum filter output at int16 scale. The released code has no floor: it gives −Inf for digital silence."""
SILENCE_RMS = 32768 * 10 ** (-60 / 20)
"""A step quieter than −60 dB of full scale counts as silent (int16 scale, root mean square)."""

BEFORE = (WINDOW_FRAMES // 2) * STEPS_PER_FRAME
"""Steps of the first frame's window that lie before the clip: 8, which is 80 ms."""
SAMPLES_BEFORE = BEFORE * HOP + 1
"""Samples before the clip that its windows can use; one more than the steps span, for the pre-emphasis."""
SAMPLES_AFTER = (WINDOW_STEPS - BEFORE - STEPS_PER_FRAME - 1) * HOP + FRAME
"""Samples after the clip that its windows can use: 95 ms."""
assert SAMPLES_AFTER == 0.095 * SAMPLE_RATE

_BLOCK = 6000  # steps computed at a time: one minute, so that memory does not grow with the clip


def n_steps(n_samples: int) -> int:
    """Return how many whole frames fit into `n_samples`: 1 + ⌊(n − 400) / 160⌋, at least 0."""
    return max(0, 1 + (n_samples - FRAME) // HOP)


def coefficients(samples: ArrayLike, preset: Preset = "davs", *, previous: float | None = None) -> NDArray[np.float64]:
    """Compute the cepstral steps of a signal.

    samples: (N,), 16 kHz mono; int16, or floats in int16 scale, or floats of at most 1, which are scaled to it.
    previous: the sample before the first, for the pre-emphasis; None at the start of a recording.
    Returns float64 (C, 13), C = `n_steps(N)`: c0 … c12 for `davs`; log energy and c1 … c12 for `syncnet`, whose
    padded last step is left out because it is made of zeros.
    """
    signal = np.asarray(samples)
    small = signal.size and not np.issubdtype(signal.dtype, np.integer) and np.abs(signal).max() <= 1
    scale = 32768.0 if small else 1.0
    compute = _davs if preset == "davs" else _syncnet
    blocks = []
    for begin, end in _blocks(n_steps(signal.size)):
        block = signal[begin:end].astype(np.float64) * scale
        before = signal[begin - 1] if begin else 0.0 if previous is None else previous
        blocks.append(compute(block - PRE_EMPHASIS * np.concatenate([[before * scale], block[:-1]])))
    return np.concatenate(blocks) if blocks else np.empty((0, N_CEPSTRA))


def _blocks(count: int) -> Iterator[tuple[int, int]]:
    """Yield the range of samples, begin and end, of successive blocks of up to `_BLOCK` of `count` steps."""
    for first in range(0, count, _BLOCK):
        yield first * HOP, (min(first + _BLOCK, count) - 1) * HOP + FRAME


def windows(cepstra: NDArray[np.float64], first: int, n_frames: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Cut the window of every video frame from the steps.

    cepstra: (C, 13), C ≥ 1, consecutive real steps.
    first: the number of the first of them; step `c` starts at sample `160*c` of the clip.
    Frame `i` gets steps `4*(i−2) … 4*(i−2)+19`, coefficients 1…12. Steps missing in the source are copies of the
    nearest real one.
    Returns windows float32 (n_frames, 12, 20), coefficient × time, and valid bool (n_frames,): only real steps.
    """
    last = first + len(cepstra) - 1
    begins = STEPS_PER_FRAME * np.arange(n_frames) - BEFORE
    valid = (begins >= first) & (begins + WINDOW_STEPS - 1 <= last)
    wanted = np.arange(-BEFORE, STEPS_PER_FRAME * (n_frames - 1) - BEFORE + WINDOW_STEPS)
    kept = cepstra[:, 1 : 1 + N_COEFFICIENTS].astype(np.float32)[np.clip(wanted, first, last) - first]
    cut = np.lib.stride_tricks.sliding_window_view(kept, WINDOW_STEPS, axis=0)[::STEPS_PER_FRAME]
    return np.ascontiguousarray(cut), valid


def clip_windows(
    samples: NDArray[np.int16], first: int, n_frames: int, preset: Preset
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """Compute the windows of a clip from its audio.

    samples: int16 (N,); first: position of `samples[0]` in samples after the clip's start (negative: before it).
    Returns windows and valid as `windows` does, and silent bool (C,) for each real step; C = 0 if the audio is too
    short for a single one.
    """
    step, skip = _first_step(first)
    previous = float(samples[skip - 1]) if 0 < skip <= samples.size else None
    used = samples[skip:]
    cepstra = coefficients(used, preset, previous=previous)
    if not len(cepstra):
        empty = np.zeros((n_frames, N_COEFFICIENTS, WINDOW_STEPS), np.float32)
        return empty, np.zeros(n_frames, np.bool_), np.zeros(0, np.bool_)
    cut, valid = windows(cepstra, step, n_frames)
    return cut, valid, _silent(used, len(cepstra))


def silent_steps(samples: NDArray[np.int16], first: int) -> NDArray[np.bool_]:
    """Return bool (C,): which real steps of a clip are silent; samples, first: as in `clip_windows`."""
    used = samples[_first_step(first)[1] :]
    count = n_steps(used.size)
    return _silent(used, count) if count else np.zeros(0, np.bool_)


def _first_step(first: int) -> tuple[int, int]:
    """Return the first step that begins at or after sample `first`, and the number of samples before it."""
    step = math.ceil(first / HOP)
    return step, step * HOP - first


def _silent(samples: NDArray[np.int16], count: int) -> NDArray[np.bool_]:
    size = math.gcd(FRAME, HOP)
    blocks = []
    for begin, end in _blocks(count):
        pieces = samples[begin:end].astype(np.float32).reshape(-1, size)
        energy = np.einsum("ns,ns->n", pieces, pieces, dtype=np.float64)
        steps = np.lib.stride_tricks.sliding_window_view(energy, FRAME // size)[:: HOP // size]
        blocks.append(steps.sum(axis=1) < FRAME * SILENCE_RMS**2)
    return np.concatenate(blocks)


def _davs(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """HTK-style MFCC of a pre-emphasised signal: magnitude spectrum, 13 exact triangles, natural log, unscaled DCT."""
    frames = np.lib.stride_tricks.sliding_window_view(signal, FRAME)[::HOP] * _hamming()
    magnitude = np.abs(np.fft.rfft(frames, N_FFT))
    energies = np.log(np.maximum(magnitude @ _davs_filters().T, DAVS_FLOOR))
    return np.asarray((energies @ _davs_dct().T) * _davs_lifter(), np.float64)


def _syncnet(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """python_speech_features' own MFCC of whole frames of an already pre-emphasised signal."""
    from python_speech_features import base  # imported here: it loads scipy, which takes longer than all else

    cepstra = base.mfcc(signal, SAMPLE_RATE, nfft=N_FFT, numcep=N_CEPSTRA, preemph=0, ceplifter=LIFTER)
    return np.asarray(cepstra, np.float64)


@cache
def _hamming() -> NDArray[np.float64]:
    return np.asarray(np.hamming(FRAME))


@cache
def _davs_filters() -> NDArray[np.float64]:
    """Triangles (13, 257) with unit peaks, evenly spaced on the mel scale 1127·ln(1 + f/700), edges not rounded."""

    def mel(hertz: ArrayLike) -> NDArray[np.float64]:
        return 1127 * np.log1p(np.asarray(hertz, np.float64) / 700)

    edges = 700 * np.expm1(np.linspace(mel(DAVS_LOW), mel(DAVS_HIGH), DAVS_FILTERS + 2) / 1127)
    bins = np.arange(N_FFT // 2 + 1) * (SAMPLE_RATE / N_FFT)
    low, peak, high = (edges[i : i + DAVS_FILTERS, None] for i in range(3))
    return np.asarray(np.maximum(0, np.minimum((bins - low) / (peak - low), (high - bins) / (high - peak))))


@cache
def _davs_dct() -> NDArray[np.float64]:
    """The matrix (13, 13) of √(2/13)·cos(πn(m − ½)/13), n = 0…12, m = 1…13."""
    n, m = np.arange(N_CEPSTRA)[:, None], np.arange(1, DAVS_FILTERS + 1)
    return np.asarray(math.sqrt(2 / DAVS_FILTERS) * np.cos(np.pi * n * (m - 0.5) / DAVS_FILTERS))


@cache
def _davs_lifter() -> NDArray[np.float64]:
    """The weights (13,) of the coefficients: 1 + 11·sin(πn/22), n = 0…12."""
    return np.asarray(1 + LIFTER / 2 * np.sin(np.pi * np.arange(N_CEPSTRA) / LIFTER))
