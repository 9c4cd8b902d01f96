"""The same words by other voices: recordings of what a clip says, and their time alignment to the clip.

One real voice teaches a model the lip motion for that voice, but not for others. Known lip motion can be used with any
recording of the same words: it is moved to the times when they are said there.
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
"""Amplitude, relative to the loudest step, above which a step counts as speech: −50 dB."""
ABOVE = 10 ** (10 / 20)
"""Factor by which it must also be louder than the quietest tenth of the steps, without digital silence: 10 dB."""
AROUND = 3
"""Number of 10 ms steps before the first such step, and after the last, that are aligned, too."""
BAND = 0.12
"""How far the alignment may leave the diagonal at no cost, as a fraction of the speech."""
DIAGONAL = 1.4
"""Cost of a step in both at once, relative to a step in only one, so that neither kind is expensive."""
SMOOTHED = 7
"""Number of steps over which an alignment is smoothed."""
STEPS_PER_SECOND = schema.SAMPLE_RATE // schema.HOP

Floats = NDArray[np.float64]


def names(voices: Path) -> list[str]:
    """Return the sorted names of the voices of a folder, VOICES/NAME/KEY.wav; AvprepError if there is none."""
    try:
        found = sorted(folder.name for folder in voices.iterdir() if any(folder.rglob(f"*{SUFFIX}")))
    except OSError as error:
        raise AvprepError(f"{error.filename or voices}: {error.strerror}") from error
    if not found:
        raise AvprepError(f"{voices}: holds no VOICE/KEY{SUFFIX}")
    return found


def recording(path: Path, longest: int) -> Sound:
    """Read a recording of at most `longest` frames, with its own time axis; AvprepError, one line, for any other."""
    file = SoundFile(path, max_seconds=longest / schema.FPS)
    try:
        file.scan()
        return next(iter(file.stretches(file.n_frames)))
    except Reject as reject:
        raise AvprepError(reject.message) from reject


def aligned(said: NDArray[np.int16], again: NDArray[np.int16], span: tuple[float, float]) -> Floats | None:
    """Return the time in `said`, in seconds, of each 10 ms step of `again`: float64 (C,).

    said, again: int16 (N,), 16 kHz, the same words by two voices. span: start and end of the words in `said`, in
        seconds; in `again` they are where it is loud.
    The speech is aligned by dynamic time warping (Sakoe and Chiba, 1978) of MFCC, standardised over the speech, and
    their slopes; before and after it both run at the same rate. Times never decrease. None if there is too little
    speech.
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
    """Return the first step of the speech, and the one after its last; (0, 0) if there is no speech."""
    if not n_steps:
        return 0, 0
    frames = np.lib.stride_tricks.sliding_window_view(sound.astype(np.float32), FRAME)[:: schema.HOP]
    loud = np.sqrt(np.square(frames).mean(axis=1))
    if not (loud > 1).any():
        return 0, 0
    where = np.flatnonzero(loud > max(LOUD * loud.max(), ABOVE * np.quantile(loud[loud > 1], 0.1)))
    return (max(0, int(where[0]) - AROUND), min(n_steps, int(where[-1]) + 1 + AROUND)) if len(where) else (0, 0)


def _compared(steps: Floats) -> Floats:
    """Return the features to compare: coefficients with mean 0 and standard deviation 1, and twice their slopes."""
    level = (steps - steps.mean(axis=0)) / (steps.std(axis=0) + 1e-6)
    return np.concatenate((level, 2 * np.gradient(level, axis=0)), axis=1)


def _path(rows: Floats, columns: Floats) -> Floats:
    """Return the mean index, float64 (R,), of the columns (C, F) that each of the rows (R, F) is aligned with.

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
