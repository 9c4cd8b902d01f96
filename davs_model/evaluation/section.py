"""A section of the evaluation's page, as plain text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Chance(NamedTuple):
    """The first cell of a row of chance levels; `before`: whose."""

    before: str = ""


Row = Sequence[str | Chance]


@dataclass(frozen=True)
class Section:
    """One section of the page, as plain text.

    notes: paragraphs. missing: what was not measured, each with its reason, "" where there is none. head, rows: a
    table, none without rows.
    """

    title: str
    notes: tuple[str, ...] = ()
    missing: tuple[tuple[str, str], ...] = ()
    head: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
