"""How good a model is on clips that it does not learn from: what training reports, and what tables are made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from davs_model import precision
from davs_model.data.batches import RawBatch
from davs_model.evaluation.metrics.recognition import recognise
from davs_model.evaluation.metrics.retrieval import retrieve
from davs_model.models.davs import losses
from davs_model.models.davs.networks import DAVS, Identity
from davs_model.models.davs.objective import Batch


@dataclass(frozen=True)
class Embeddings:
    """What the encoders say of N clips, float32 on the CPU; empty (0 long) for what was not read of them.

    identity: f_p^v `[N, 256]` of the middle frame. identity_sequence: f_p^v `[N, 20, 256]` of the frames in a row.
    video, audio: F_w^v and F_w^a `[N, 12, 256]`. video_logits, audio_logits: what C_w makes of them, `[N, N_w]`.
    words, speakers: int64 `[N]`, −1 where unknown. l1: mean absolute error of frames generated from sound and video.
    """

    identity: Tensor
    identity_sequence: Tensor
    video: Tensor
    audio: Tensor
    video_logits: Tensor
    audio_logits: Tensor
    words: Tensor
    speakers: Tensor
    l1: dict[str, float]
    skipped: tuple[tuple[str, str], ...]


@torch.inference_mode()
def embed(
    model: DAVS, batches: Iterable[RawBatch], device: torch.device, *, bf16: bool = False, generate: bool = False
) -> Embeddings:
    """Run clips through the encoders in eval mode, which the model is left in; generate: also draw frames, for `l1`."""
    model.eval()
    parts: dict[str, list[Tensor]] = {}
    errors: dict[str, list[float]] = {}
    weights: list[int] = []
    skipped: list[tuple[str, str]] = []

    def add(name: str, tensor: Tensor) -> None:
        parts.setdefault(name, []).append(tensor.float().cpu() if tensor.is_floating_point() else tensor.cpu())

    for raw in batches:
        batch = raw.to(device)
        with precision.autocast(device, bf16=bf16):
            identity, found = encode(model, batch)
            for name, tensor in found.items():
                add(name, tensor)
            if generate and identity is not None:
                sequence = slice(batch.start, batch.start + model.sequence_discriminator.n_frames)
                for name in ("audio", "video"):
                    drawn = model.decode(identity, found[name][:, sequence])
                    loss = losses.reconstruction_loss(batch.frames[:, sequence], drawn)
                    errors.setdefault(name, []).append(float(loss))
        add("words", batch.words)
        add("speakers", batch.speakers)
        weights.append(len(raw.keys))
        skipped += raw.skipped

    def whole(name: str) -> Tensor:
        return torch.cat(parts[name]) if name in parts else torch.zeros(0)

    l1 = {
        name: sum(error * weight for error, weight in zip(found, weights, strict=True)) / sum(weights)
        for name, found in errors.items()
    }
    return Embeddings(
        identity=whole("identity"),
        identity_sequence=whole("identity_sequence"),
        video=whole("video"),
        audio=whole("audio"),
        video_logits=whole("video_logits"),
        audio_logits=whole("audio_logits"),
        words=whole("words"),
        speakers=whole("speakers"),
        l1=l1,
        skipped=tuple(skipped),
    )


def encode(model: DAVS, batch: Batch) -> tuple[Identity | None, dict[str, Tensor]]:
    """Return what the encoders and C_w say of a batch, by the names of `Embeddings`, and the identity of its face."""
    found: dict[str, Tensor] = {}
    identity = None
    if batch.identity_frame.shape[1]:
        identity = model.encode_identity(batch.identity_frame)
        found["identity"] = identity.feature[:, 0]
    if batch.consecutive.shape[1]:
        found["identity_sequence"] = model.encode_identity(batch.consecutive).feature
    if batch.frames.shape[1]:
        found["video"] = model.encode_speech_from_video(batch.frames)
        found["audio"] = model.encode_speech_from_audio(batch.windows)
        found["video_logits"] = model.words_from_video(found["video"])
        found["audio_logits"] = model.words_from_audio(found["audio"])
    return identity, found


def measure(found: Embeddings) -> dict[str, Any]:
    """Return what embeddings are worth: recognition and retrieval (Table 3), people told apart, L1 of frames."""
    result: dict[str, Any] = {}
    if len(found.video):
        if bool((found.words >= 0).any()):
            result["words"] = asdict(recognise(found.video_logits, found.audio_logits, found.words))
        result["video_to_audio"] = asdict(retrieve(found.video, found.audio))
        result["audio_to_video"] = asdict(retrieve(found.audio, found.video))
    if len(found.identity) and (people := same_person(found.identity, found.speakers)):
        result["people"] = people
    if found.l1:
        result["l1"] = found.l1
    return result


def same_person(identity: Tensor, speakers: Tensor) -> dict[str, float]:
    """Return the share of clips whose nearest other clip, by f_p^v, is of the same person, who need not be known.

    identity: `[N, 256]`. speakers: `[N]`, −1 where unknown. `chance`: that share at random. Empty where no two clips
    are of one person, or all are.
    """
    known = speakers >= 0
    features, people = torch.nn.functional.normalize(identity[known]), speakers[known]
    same = (people[:, None] == people[None]).fill_diagonal_(False)
    n = len(people)
    if not bool(same.any()) or int(same.sum()) == n * (n - 1):
        return {}
    likeness = (features @ features.T).fill_diagonal_(-torch.inf)
    nearest = likeness.argmax(1, keepdim=True)
    return {
        "same_person": float(same.gather(1, nearest).float().mean()),
        "chance": float(same.float().sum() / (n * (n - 1))),
    }
