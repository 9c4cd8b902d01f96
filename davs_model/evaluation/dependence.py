"""How much a generated mouth depends on the identity frame, and how much on the speech."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from davs_model import precision
from davs_model.data.clips import Clips
from davs_model.data.pictures import MOUTH_BOX, region
from davs_model.evaluation import talk
from davs_model.evaluation.metrics.talking import opening
from davs_model.models.base import TalkingModel

CLIPS = 10
"""Maximum number of clips that are measured: four videos are generated for each."""
MOST = CLIPS + 1
"""Maximum number of clips that are read: only the audio of the first is used."""


@dataclass(frozen=True)
class Dependence:
    """Means over clips of mean absolute differences inside the mouth box, in grey levels of 255.

    between_references: between videos with the same audio, from the frames with the most open and most closed mouth.
    between_sounds: between videos from the same frame, with the audio of two clips.
    dependence: between_references ÷ (between_references + between_sounds): 0 if only the audio determines the mouth.
    """

    between_references: float
    between_sounds: float
    dependence: float
    n_clips: int


@torch.inference_mode()
def measure(
    model: TalkingModel, clips: Clips, device: torch.device, *, limit: int = MOST, bf16: bool = False, scale: float = 1
) -> Dependence | None:
    """Measure the first clips, each with its own audio and with that of the clip before; None for fewer than two.

    scale: factor of the audio features.
    """
    found: list[tuple[float, float]] = []
    before: talk.WholeClip | None = None
    for clip in talk.whole_clips(model.eval(), clips, device, limit=min(limit, MOST)):
        if before is not None:
            found.append(_differences(model, clip, before, bf16=bf16, scale=scale))
        before = clip
    if not found:
        return None
    references, sounds = (255 * math.fsum(one) / len(found) for one in zip(*found, strict=True))
    return Dependence(references, sounds, references / max(references + sounds, 1e-9), len(found))


def _differences(
    model: TalkingModel, clip: talk.WholeClip, other: talk.WholeClip, *, bf16: bool, scale: float
) -> tuple[float, float]:
    """Return the differences between references and between sounds, for pixel values from 0 to 1."""
    gaping = opening(clip.real[0, clip.spoken])
    faces = [clip.spoken.start + int(at) for at in (gaping.argmax(), gaping.argmin())]
    with precision.autocast(clip.real.device, bf16=bf16):
        said, foreign = (talk.heard(model, one.batch, scale) for one in (clip, other))
        foreign = talk.lasting(foreign, said.shape[1])
        films = torch.stack([torch.stack([_mouths(model, clip, at, one) for one in (said, foreign)]) for at in faces])
    return float((films[0] - films[1]).abs().mean()), float((films[:, 0] - films[:, 1]).abs().mean())


def _mouths(model: TalkingModel, clip: talk.WholeClip, face: int, said: Tensor) -> Tensor:
    """Return the mouth box during speech, generated from one of the clip's frames."""
    identity = model.conditioned(model.encode_identity(clip.real[:, face : face + 1]), clip.batch)
    frames = talk.generated(model, identity, said)
    rows, columns = region(MOUTH_BOX, frames.shape[-1])
    return frames[clip.spoken][..., rows, columns]
