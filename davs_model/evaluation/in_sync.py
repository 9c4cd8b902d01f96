"""Audio-video sync of generated and real videos, measured by a sync model that was not trained on generated ones."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from davs_model import precision
from davs_model.data.clips import Clips
from davs_model.data.pictures import to_crops
from davs_model.evaluation import talk
from davs_model.evaluation.progress import Progress
from davs_model.models.base import WINDOWS, Lead, SyncJudge, TalkingModel

FILMS = ("real", "audio", "wrong_audio")
"""Real frames at the model's size; frames generated from the clip's audio; those generated from another clip's."""


@dataclass(frozen=True)
class InSync:
    """Summary of the videos of one kind, each with the audio of its clip.

    confidence, distance: mean. offset: median of |lead|, in frames. within_1: fraction of |lead| ≤ 1.
    """

    confidence: float
    distance: float
    offset: float
    within_1: float
    n_clips: int


@torch.inference_mode()
def measure(
    model: TalkingModel,
    judge: SyncJudge,
    clips: Clips,
    device: torch.device,
    *,
    limit: int,
    seed: int,
    bf16: bool,
    scale: float,
    progress: Progress,
) -> dict[str, dict[str, Any]]:
    """Generate whole clips and return how well they are in sync, for each kind of `FILMS`.

    scale: factor of the audio features. progress: see `Progress`. Empty for fewer than two clips.
    """
    model.eval()
    found: dict[str, list[Lead]] = {name: [] for name in FILMS}
    before: talk.WholeClip | None = None
    for row in range(min(limit, len(clips))):
        whole = next(talk.whole_clips(model, clips.rows(np.array([row])), device, limit=1, seed=seed + row), None)
        if whole is not None and before is not None:
            for name, offset in _judged(model, judge, whole, before, bf16=bf16, scale=scale).items():
                found[name].append(offset)
        before = whole or before
        progress(row + 1)
    return {name: asdict(_summed(offsets)) for name, offsets in found.items() if offsets}


def _judged(
    model: TalkingModel, judge: SyncJudge, clip: talk.WholeClip, other: talk.WholeClip, *, bf16: bool, scale: float
) -> dict[str, Lead]:
    """Return the offset of each video of a clip; other: a clip with other audio."""
    real = clip.real[0]
    with precision.autocast(real.device, bf16=bf16):
        identity = model.encode_identity(clip.real[:, clip.identity : clip.identity + 1])
        identity = model.conditioned(identity, clip.batch)
        right, wrong = (talk.heard(model, one.batch, scale) for one in (clip, other))
        wrong = talk.lasting(wrong, len(real))
        films = {"real": real, "audio": talk.generated(model, identity, right)}
        films["wrong_audio"] = talk.generated(model, identity, wrong)
    offsets = {name: offset_of(judge, film, clip) for name, film in films.items()}
    return {name: offset for name, offset in offsets.items() if offset is not None}


def offset_of(judge: SyncJudge, film: Tensor, clip: talk.WholeClip) -> Lead | None:
    """Return the offset of a video `[T, 3, S, S]` to the audio of a clip; None if it has none."""
    return judge.lead(to_crops(film), clip.batch[WINDOWS][0].cpu().numpy(), clip.valid)


def _summed(offsets: list[Lead]) -> InSync:
    leads = np.abs([one.audio_lead_frames for one in offsets])
    return InSync(
        confidence=float(np.mean([one.confidence for one in offsets])),
        distance=float(np.mean([one.distance for one in offsets])),
        offset=float(np.median(leads)),
        within_1=float((leads <= 1).mean()),
        n_clips=len(offsets),
    )
