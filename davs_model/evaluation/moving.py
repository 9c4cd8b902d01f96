"""Whether the mouths of clips that are generated whole follow the audio: by pixels, landmarks and a sync model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from davs_model.data.clips import Clips
from davs_model.evaluation import dependence, in_sync, talk
from davs_model.evaluation.lips import LipMeasure
from davs_model.evaluation.metrics import talking
from davs_model.evaluation.progress import progress_lines
from davs_model.models.base import TalkingModel
from davs_model.sync.load import load as load_sync


def tables(
    model: TalkingModel,
    clips: Clips,
    device: torch.device,
    *,
    limit: int,
    seed: int,
    bf16: bool,
    scale: float,
    sync: str,
    lips: LipMeasure | None,
    missing: dict[str, str],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Return `talking`, `lips`, `reference` and `sync` of metrics.json, as far as they can be measured.

    limit: number of clips. seed: draws the identity frames. scale: factor of the audio features. sync: a run of a sync
    model; "": none. lips: None if there is no detector of lips. missing: gets the reason if there are too few clips.
    """
    how: dict[str, Any] = {"limit": limit, "bf16": bf16, "scale": scale}
    progress = progress_lines(say, limit, "generated whole: ")
    found = talk.measure(model, clips, device, **how, seed=seed, progress=progress, watch=lips)
    if not found:
        missing["talking"] = "it takes two clips, one of which lends the other a wrong sound"
        return {}
    measured: dict[str, Any] = {"talking": {**found, "talks": talking.talks(found)}}
    if lips is not None:
        measured["lips"] = lips.table()
    reference = dependence.measure(model, clips, device, **how)
    if reference is not None:
        measured["reference"] = asdict(reference)
    if sync:
        judge = load_sync(sync, device=str(device), windows=clips.mfcc_preset)
        progress = progress_lines(say, limit, "generated for sync: ")
        measured["sync"] = in_sync.measure(model, judge, clips, device, **how, seed=seed, progress=progress)
    return measured
