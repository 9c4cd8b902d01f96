"""The measures of `TalkingModel.measures`, and their sections of the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch

from davs_model.checkpoint import Checkpoint
from davs_model.data.clips import Clips
from davs_model.evaluation.section import PageSection
from davs_model.models.base import TalkingModel


def measure(saved: Checkpoint, model: TalkingModel, clips: Clips, device: str, limit: int) -> dict[str, Any]:
    """Return a model's own measures after the last stage in which it was trained, by name."""
    steps = dict(saved.settings.get("steps") or {})
    done = [name for name in model.stages if steps.get(name)]
    measured = model.measures(done[-1], clips, torch.device(device), limit=limit) if done else ()
    return {one.name: asdict(one) for one in measured}


def sections(measured: Mapping[str, Any]) -> Iterator[PageSection]:
    """Yield a section for each measure; measured: result of `measure`."""
    for one in measured.values():
        yield PageSection(one["title"], tuple(one["notes"]), (), tuple(one["head"]), tuple(map(tuple, one["rows"])))
