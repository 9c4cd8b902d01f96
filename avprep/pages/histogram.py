"""Histograms for pages: positions of bars, line and ticks; `kit.html` draws them in the page's colours."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avprep.pages.words import count, number

BINS = 24
"""Approximate number of bars of a histogram."""
LEFT, RIGHT, TOP, BOTTOM = 8.0, 312.0, 16.0, 116.0
"""Area of the bars, in units of the drawing, which is 320 × 136."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Bar:
    """One bar. beyond: whether it holds all values outside the axis at its end."""

    x: float
    y: float
    width: float
    height: float
    label: str
    beyond: bool


@dataclass(frozen=True)
class Tick:
    """A number below the axis. anchor: which part of the text is at x, as in SVG."""

    x: float
    anchor: str
    label: str


@dataclass(frozen=True)
class Histogram:
    """A histogram of one series, as bars, or of two, the second as a line.

    notes: statistics of each series in words. line: an SVG path, empty for one series. tallest: the highest count.
    """

    title: str
    notes: tuple[str, ...]
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    tallest: int
    left: float
    line: str = ""


@dataclass(frozen=True)
class _Bins:
    """`n` bins of equal width `step`, the first of which begins at `first` steps, and one more beyond each end."""

    first: int
    n: int
    step: float

    def counts(self, values: Values) -> list[int]:
        """Return the number of values in each bin; the first and last are those beyond the ends."""
        numbers = np.clip(np.floor(values / self.step + 1e-9) - self.first, -1, self.n).astype(np.int64)
        return [int(one) for one in np.bincount(numbers + 1, minlength=self.n + 2)]

    def edge(self, number_: int) -> float:
        """Return the lower edge of a bin."""
        return (self.first + number_) * self.step

    def ticks(self) -> list[tuple[float, str]]:
        """Return round numbers along the axis, each with its distance, in bins, from the lower edge of the first."""
        low, high = self.edge(0), self.edge(self.n)
        tick = max(self.step, _round_step((high - low) / 5))
        multiples = range(math.ceil(low / tick - 1e-9), math.floor(high / tick + 1e-9) + 1)
        return [((n * tick - low) / self.step, number(n * tick)) for n in multiples]


def histogram(values: Values, title: str, unit: str = "", grain: float = 0.0, other: Values | None = None) -> Histogram:
    """Return a histogram.

    values: float64 (N,), N > 0, finite, in `unit`. grain: the step in which they vary; bin widths are multiples of it.
    other: a second series, counted in the same bins. A bar marked as beyond, at an end, holds all values outside the
    axis there, so that a few outliers do not squeeze the others together.
    """
    series = [values] if other is None else [values, other]
    whole = np.concatenate(series)
    notes = tuple(_note(one, unit) for one in series if one.size)
    if whole.min() == whole.max():
        label = number(float(whole[0]))
        words = f"{number(float(whole[0]), unit)}: {count(len(values), 'clip')}"
        return _placed(title, notes, [[len(one)] for one in series], [(words, False)], [(0.5, label)])
    bins = _bins(whole, grain)
    counts = [bins.counts(one) for one in series]
    labels = [
        (f"below {number(bins.edge(0), unit)}", True),
        *((f"{number(bins.edge(n))} to {number(bins.edge(n + 1), unit)}", False) for n in range(bins.n)),
        (f"from {number(bins.edge(bins.n), unit)}", True),
    ]
    first = 0 if any(one[0] for one in counts) else 1
    last = len(labels) if any(one[-1] for one in counts) else len(labels) - 1
    labelled = [
        (f"{label}: {' and '.join(count(one[n], 'clip') for one in counts)}", beyond)
        for n, (label, beyond) in enumerate(labels)
    ]
    ticks = [(place + 1 - first, label) for place, label in bins.ticks()]
    return _placed(title, notes, [one[first:last] for one in counts], labelled[first:last], ticks)


def _bins(values: Values, grain: float) -> _Bins:
    least, low, high, most = (float(value) for value in np.quantile(values, [0, 0.005, 0.995, 1]))
    span = high - low
    low, high = (least if least >= low - span else low), (most if most <= high + span else high)
    step = _round_step((high - low if high > low else most - least) / BINS, grain)
    first = math.floor(low / step + 1e-9)
    return _Bins(first, math.floor(high / step + 1e-9) - first + 1, step)


def _round_step(least: float, grain: float = 0.0) -> float:
    """Round up to 1, 2 or 5 × 10ⁿ, or to a multiple of the grain."""
    if grain:
        return grain * max(1, math.ceil(least / grain - 1e-9))
    power = 10.0 ** math.floor(math.log10(max(least, 1e-12)))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def _note(values: Values, unit: str) -> str:
    """Return the statistics of a series in words."""
    least, p5, median, p95, most = (float(value) for value in np.quantile(values, [0, 0.05, 0.5, 0.95, 1]))
    if least == most:
        return f"{number(least, unit)} in {count(len(values), 'clip')}"
    return (
        f"median {number(median, unit)}, 5 to 95 %: {number(p5)} to {number(p95, unit)}, "
        f"minimum {number(least)}, maximum {number(most, unit)}; {count(len(values), 'clip')}"
    )


def _placed(
    title: str,
    notes: tuple[str, ...],
    counts: Sequence[Sequence[int]],
    labels: Sequence[tuple[str, bool]],
    ticks: Iterable[tuple[float, str]],
) -> Histogram:
    """Place bars above an axis, ticks at distances in bars from its left end, and the line of a second series."""
    n = len(labels)
    width = (RIGHT - LEFT) / max(n, 8)
    begin = (LEFT + RIGHT - n * width) / 2
    tallest = max(1, *(max(one) for one in counts))
    heights = [[max((BOTTOM - TOP) * one / tallest, 1.5) if one else 0.0 for one in column] for column in counts]
    bars = tuple(
        Bar(begin + place * width, BOTTOM - height, max(width - 1, 0.5), height, label, beyond)
        for place, (height, (label, beyond)) in enumerate(zip(heights[0], labels, strict=True))
    )
    line = ""
    if len(heights) > 1:
        corners = (
            f"{begin + edge * width:.2f} {BOTTOM - height:.2f}"
            for place, height in enumerate(heights[1])
            for edge in (place, place + 1)
        )
        line = f"M{begin:.2f} {BOTTOM:.2f}L{'L'.join(corners)}L{begin + n * width:.2f} {BOTTOM:.2f}"
    marks = []
    for place, label in ticks:
        x = begin + place * width
        marks.append(Tick(x, "start" if x < LEFT + 14 else "end" if x > RIGHT - 14 else "middle", label))
    return Histogram(title, notes, bars, tuple(marks), tallest, begin, line)
