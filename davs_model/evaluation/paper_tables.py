"""The tables of a model's paper, each with the values measured here, as sections of the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from davs_model import models
from davs_model.evaluation.section import PageSection, figure, number
from davs_model.models.base import PaperData, TalkingModel


def sections(metrics: Mapping[str, Any]) -> Iterator[PageSection]:
    """Yield the tables of the model's paper, each below the corresponding values of metrics.json."""
    kind = _kind(metrics)
    for table in () if kind is None else kind.paper:
        cells = (_cell(title, figure(metrics, place)) for title, place in table.columns.items())
        ours = [(f"here: {metrics.get('run', '–')}", *cells)] if any(table.columns.values()) else []
        rows = (*ours, *((f"paper: {row}", *theirs) for row, theirs in table.rows.items()))
        yield PageSection(table.title, (table.note,), (), ("", *table.columns), rows)


def paper_data(metrics: Mapping[str, Any]) -> PaperData | None:
    """Return the clips of the tables of the model's paper; None if they are of several data sets, or unknown."""
    kind = _kind(metrics)
    return None if kind is None else kind.paper_data


def comparison(metrics: Mapping[str, Any]) -> str:
    """Return whether the results of the model's paper and ours are of the same clips; "" if the paper has none."""
    theirs = paper_data(metrics)
    if theirs is None:
        return ""
    data = metrics.get("data")
    ours = data if isinstance(data, Mapping) else {}
    words, clips = ours.get("words"), ours.get("clips")
    found = (ours.get("dataset"), ours.get("split", theirs.split), words, clips)
    if found == (theirs.dataset.lower(), theirs.split, theirs.words, theirs.clips):
        return (
            f"These are {theirs.dataset}'s {theirs.split} clips, all of them, as in the paper: its figures and ours "
            "compare."
        )
    return (
        f"The paper's figures are of {theirs.dataset}'s {theirs.split} split, {theirs.words} words and "
        f"{theirs.clips:,} clips; ours are of {ours.get('dataset', 'data without a name')}, {number(words, ',.0f')} "
        f"words and {number(clips, ',.0f')} clips. They are for reference only; not comparable."
    )


def _kind(metrics: Mapping[str, Any]) -> type[TalkingModel] | None:
    name = metrics.get("model")
    return models.find(name) if name in models.names() else None


def _cell(title: str, value: float | None) -> str:
    """Return a value measured here in the format of a paper's column."""
    if title.endswith("%"):
        return number(value, ".1f", scale=100)
    return number(value, ".3g" if value is None or abs(value) < 1000 else ",.0f")
