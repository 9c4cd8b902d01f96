"""The same words by other voices: recordings of what a clip says, and where in the clip each moment of them is said.

One real voice teaches how that voice moves a mouth, not how others would. A mouth that is known can be lent to any
recording of the same words: it moves when they are said there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from avprep import schema
from avprep.errors import AvprepError, Reject
from avprep.media.audio import Sound, SoundFile
from avprep.media.mfcc import FRAME, coefficients

SUFFIX = ".wav"
LOUD = 10 ** (-50 / 20)
"""Amplitude, the loudest step's being 1, from which on a step belongs to what is spoken: −50 dB."""
ABOVE = 10 ** (10 / 20)
"""How much louder than the quietest tenth of the steps it must be, too, digital silence left aside: 10 dB."""
AROUND = 3
"""Steps of 10 ms before the first such step and after the last that are aligned, too."""
BAND = 0.12
"""How far the alignment may leave the diagonal before it costs, as a fraction of what is spoken."""
DIAGONAL = 1.4
"""Cost of a step of both at once, that of a step of one alone being 1: so that neither is dear."""
SMOOTHED = 7
"""Steps over which an alignment is averaged."""
STEPS_PER_SECOND = schema.SAMPLE_RATE // schema.HOP

Floats = NDArray[np.float64]


def names(voices: Path) -> list[str]:
    """Return the voices of a folder, VOICES/NAME/KEY.wav, in order; AvprepError where there is none."""
    try:
        found = sorted(folder.name for folder in voices.iterdir() if any(folder.rglob(f"*{SUFFIX}")))
    except OSError as error:
        raise AvprepError(f"{error.filename or voices}: {error.strerror}") from error
    if not found:
        raise AvprepError(f"{voices}: holds no VOICE/KEY{SUFFIX}")
    return found


def recording(path: Path, longest: int) -> Sound:
    """Read a recording of at most `longest` frames, on a clock of its own; AvprepError, one line, for any other."""
    file = SoundFile(path, max_seconds=longest / schema.FPS)
    try:
        file.scan()
        return next(iter(file.stretches(file.n_frames)))
    except Reject as reject:
        raise AvprepError(reject.message) from reject


def aligned(said: NDArray[np.int16], again: NDArray[np.int16], span: tuple[float, float]) -> Floats | None:
    """Find when each step of `again` is said in `said`: seconds of `said`, float64 (C,), of steps of 10 ms of `again`.

    said, again: int16 (N,), 16 kHz, the same words by two voices. span: seconds of `said` between which they are said;
        in `again` it is where it is loud.
    Dynamic time warping (Sakoe and Chiba, 1978) of MFCC and their slopes, each standardised over what is spoken, within
    it; before and after it both run at the same rate. The times never go back. None where too little is spoken.
    """
    steps, others = coefficients(said)[:, 1:], coefficients(again)[:, 1:]
    begin, end = (round(time * STEPS_PER_SECOND) for time in span)
    a, b = max(0, begin - AROUND), min(len(steps), end + AROUND)
    c, d = _spoken(again, len(others))
    if min(b - a, d - c) < SMOOTHED or _spoken(said, len(steps)) == (0, 0):
        return None
    path = _path(_compared(others[c:d]), _compared(steps[a:b]))
    kernel = np.hanning(SMOOTHED + 2)[1:-1]
    smooth = np.convolve(np.pad(path, SMOOTHED // 2, mode="edge"), kernel / kernel.sum(), "valid")
    inside = a + np.maximum.accumulate(smooth)
    whole = np.concatenate((inside[0] - np.arange(c, 0, -1), inside, inside[-1] + np.arange(1, len(others) - d + 1)))
    return whole / STEPS_PER_SECOND


def _spoken(sound: NDArray[np.int16], n_steps: int) -> tuple[int, int]:
    """Return the first and the end of the steps that are spoken; (0, 0): none is."""
    if not n_steps:
        return 0, 0
    frames = np.lib.stride_tricks.sliding_window_view(sound.astype(np.float32), FRAME)[:: schema.HOP]
    loud = np.sqrt(np.square(frames).mean(axis=1))
    if not (loud > 1).any():
        return 0, 0
    where = np.flatnonzero(loud > max(LOUD * loud.max(), ABOVE * np.quantile(loud[loud > 1], 0.1)))
    return (max(0, int(where[0]) - AROUND), min(n_steps, int(where[-1]) + 1 + AROUND)) if len(where) else (0, 0)


def _compared(steps: Floats) -> Floats:
    """Return what is compared: coefficients with mean 0 and deviation 1, and twice their slopes."""
    level = (steps - steps.mean(axis=0)) / (steps.std(axis=0) + 1e-6)
    return np.concatenate((level, 2 * np.gradient(level, axis=0)), axis=1)


def _path(rows: Floats, columns: Floats) -> Floats:
    """Return the column, float64 (R,), that each row (R, F) is aligned with among columns (C, F), on average.

    Computed by anti-diagonals, whose cells do not depend on each other.
    """
    n_rows, n_columns = len(rows), len(columns)
    distance = np.square(rows).sum(axis=1)[:, None] + np.square(columns).sum(axis=1) - 2 * rows @ columns.T
    aside = np.abs(np.arange(n_rows)[:, None] / n_rows - np.arange(n_columns) / n_columns)
    distance += 40 * distance.mean() * np.maximum(0, aside - BAND)
    cost = np.full((n_rows + 1, n_columns + 1), np.inf)
    cost[0, 0] = 0
    came = np.zeros((n_rows, n_columns), np.int8)
    for both in range(n_rows + n_columns - 1):
        row = np.arange(max(0, both - n_columns + 1), min(n_rows, both + 1))
        column = both - row
        here = distance[row, column]
        ways = np.stack(
            (cost[row, column] + DIAGONAL * here, cost[row, column + 1] + here, cost[row + 1, column] + here)
        )
        came[row, column] = ways.argmin(axis=0)
        cost[row + 1, column + 1] = ways.min(axis=0)
    sums, counts = np.zeros(n_rows), np.zeros(n_rows)
    i, j = n_rows - 1, n_columns - 1
    while i >= 0 and j >= 0:
        sums[i] += j
        counts[i] += 1
        way = came[i, j]
        i, j = i - (way != 2), j - (way != 1)
    counts = np.maximum(counts, 1)
    return sums / counts
