"""A section of the evaluation page, as plain text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class Chance:
    """The first cell of a row of chance levels."""


Row = Sequence[str | Chance]


@dataclass(frozen=True)
class PageSection:
    """One section of the page, as plain text.

    notes: paragraphs. missing: what was not measured, each with its reason or "". head, rows: a table; without rows,
    none.
    """

    title: str
    notes: tuple[str, ...] = ()
    missing: tuple[tuple[str, str], ...] = ()
    head: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()


def figure(metrics: Any, place: str) -> float | None:
    """Return a number of metrics.json by its place, such as `reconstruction.audio.psnr`; None if there is none."""
    for key in place.split("."):
        metrics = metrics.get(key) if isinstance(metrics, Mapping) else None
    return float(metrics) if isinstance(metrics, int | float) else None


def plain(value: Any) -> Any:
    """Return values that JSON can represent: numbers that are not finite become null."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def number(value: Any, form: str, *, scale: float = 1) -> str:
    """Return a number in a format, – for a value that is no number, ∞ for infinity."""
    if not isinstance(value, int | float) or math.isnan(scaled := scale * float(value)):
        return "–"
    return format(scaled, form) if math.isfinite(scaled) else "∞" if scaled > 0 else "−∞"
