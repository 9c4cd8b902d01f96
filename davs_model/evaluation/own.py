"""What belongs to one model alone: what is measured of it, and the tables of its paper, as sections of the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch

from davs_model import models
from davs_model.checkpoint import Checkpoint
from davs_model.data.clips import Clips
from davs_model.evaluation.section import Section, figure
from davs_model.models.base import TalkingModel


def measure(saved: Checkpoint, model: TalkingModel, clips: Clips, device: str, limit: int) -> dict[str, Any]:
    """Return what a model measures of itself after the last stage that it was trained in, by name."""
    steps = dict(saved.settings.get("steps") or {})
    done = [name for name in model.stages if steps.get(name)]
    measured = model.measures(done[-1], clips, torch.device(device), limit=limit) if done else ()
    return {one.name: asdict(one) for one in measured}


def sections(measured: Mapping[str, Any]) -> Iterator[Section]:
    """Yield a section for each; measured: what `measure` returned."""
    for one in measured.values():
        yield Section(one["title"], tuple(one["notes"]), (), tuple(one["head"]), tuple(map(tuple, one["rows"])))


def papers(metrics: Mapping[str, Any]) -> Iterator[Section]:
    """Yield the tables of the model's paper, each below what metrics.json has in its place."""
    name = metrics.get("model")
    for table in models.find(name).paper if name in models.names() else ():
        measured = (figure(metrics, place) for place in table.columns.values())
        cells = ("–" if value is None else f"{value:.3g}" for value in measured)
        ours = [(f"here: {metrics.get('run', '–')}", *cells)] if any(table.columns.values()) else []
        rows = (*ours, *((f"paper: {row}", *theirs) for row, theirs in table.rows.items()))
        yield Section(table.title, (table.note,), (), ("", *table.columns), rows)
