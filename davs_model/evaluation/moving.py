"""Whether the mouths of clips that are generated whole follow the audio: by pixels, landmarks and a sync model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from davs_model.data.clips import Clips
from davs_model.evaluation import dependence, in_sync, talk
from davs_model.evaluation.lips import LipMeasure
from davs_model.evaluation.metrics import talking
from davs_model.evaluation.progress import progress_lines
from davs_model.models.base import TalkingModel
from davs_model.sync.load import load as load_sync

if TYPE_CHECKING:
    from davs_model.evaluation.evaluate import EvaluationSettings


def tables(
    model: TalkingModel,
    clips: Clips,
    settings: EvaluationSettings,
    *,
    lips: LipMeasure | None,
    missing: dict[str, str],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Return `talking`, `lips`, `reference` and `sync` of metrics.json, as far as they can be measured.

    clips: as they are in the shards. lips: None if there is no detector of lips. missing: gets the reason if there are
    too few clips.
    """
    device, limit = torch.device(settings.device), min(settings.whole_clips, len(clips))
    how: dict[str, Any] = {"limit": limit, "bf16": settings.bf16, "scale": settings.speech_scale}
    progress = progress_lines(say, limit, "generated whole: ")
    found = talk.measure(model, clips, device, **how, seed=settings.seed, progress=progress, watch=lips)
    if not found:
        missing["talking"] = "it takes two clips, one of which lends the other a wrong sound"
        return {}
    measured: dict[str, Any] = {"talking": {**found, "talks": talking.talks(found)}}
    if lips is not None and (opening := lips.table()):
        measured["lips"] = opening
    reference = dependence.measure(model, clips, device, **how)
    if reference is not None:
        measured["reference"] = asdict(reference)
    if settings.sync:
        judge = load_sync(settings.sync, device=settings.device, windows=clips.mfcc_preset)
        progress = progress_lines(say, limit, "generated for sync: ")
        measured["sync"] = in_sync.measure(model, judge, clips, device, **how, seed=settings.seed, progress=progress)
    return measured
