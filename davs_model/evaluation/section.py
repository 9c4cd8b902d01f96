"""A section of the evaluation's page, as plain text."""

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

    notes: paragraphs. missing: what was not measured, each with its reason, "" where there is none. head, rows: a
    table, none without rows.
    """

    title: str
    notes: tuple[str, ...] = ()
    missing: tuple[tuple[str, str], ...] = ()
    head: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()


def figure(metrics: Any, place: str) -> float | None:
    """Return a number of metrics.json by its place in it, `reconstruction.audio.psnr`; None where there is none."""
    for key in place.split("."):
        metrics = metrics.get(key) if isinstance(metrics, Mapping) else None
    return float(metrics) if isinstance(metrics, int | float) else None


def plain(value: Any) -> Any:
    """Return JSON without what JSON has no words for: numbers that are not finite become null."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def number(value: Any, form: str, *, scale: float = 1) -> str:
    """Return a number in a form, – for what is none, ∞ for what has no end."""
    if not isinstance(value, int | float) or math.isnan(scaled := scale * float(value)):
        return "–"
    return format(scaled, form) if math.isfinite(scaled) else "∞" if scaled > 0 else "−∞"
