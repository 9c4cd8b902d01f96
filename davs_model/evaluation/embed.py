"""Embeddings of held-out clips, for the reports of training and the tables of an evaluation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from davs_model import precision
from davs_model.data.batch import RawBatch
from davs_model.data.loader import living_readers
from davs_model.data.reads import LABELS
from davs_model.evaluation import talk
from davs_model.evaluation.metrics import talking
from davs_model.evaluation.metrics.recognition import recognise
from davs_model.evaluation.metrics.retrieval import retrieve
from davs_model.models.base import FRAMES, PORTRAIT, REAL, TalkingModel


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of N clips by a model.

    tensors: on the CPU: `words` and `speakers`, int64 `[N]`, −1 where unknown; and the result of
        `TalkingModel.embeddings`, float32.
    l1: mean absolute error of frames generated from audio and video. skipped: clips that could not be read, and why.
    """

    tensors: dict[str, Tensor]
    l1: dict[str, float]
    skipped: tuple[tuple[str, str], ...]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]


@living_readers()
@torch.inference_mode()
def embed(
    model: TalkingModel,
    batches: Iterable[RawBatch],
    device: torch.device,
    *,
    bf16: bool = False,
    generate: bool = False,
) -> Embeddings:
    """Encode clips in eval mode, in which the model is left; generate: also generate frames, for `l1`.

    RunError if a process that reads the batches is killed.
    """
    model.eval()
    parts: dict[str, list[Tensor]] = {}
    errors: dict[str, list[float]] = {}
    weights: list[int] = []
    skipped: list[tuple[str, str]] = []
    for raw in batches:
        skipped += raw.skipped
        if not raw.keys:
            continue
        batch = raw.to(device)
        with precision.autocast(device, bf16=bf16):
            found = model.embeddings(batch)
            if generate:
                identity = model.conditioned(model.encode_identity(batch[PORTRAIT]), batch)
                part = model.generated_part(batch)
                real = batch.get(REAL, batch[FRAMES])
                for name in model.drivers:
                    generated = model.decode(identity, talk.as_generated(model, name, found[name])[:, part])
                    error = (real[:, part].float() - generated.float()).abs().mean()
                    errors.setdefault(name, []).append(float(error))
        for name, tensor in {**found, **{label: batch[label] for label in LABELS}}.items():
            parts.setdefault(name, []).append(tensor.float().cpu() if tensor.is_floating_point() else tensor.cpu())
        weights.append(len(raw.keys))
    l1 = {
        name: sum(error * weight for error, weight in zip(found, weights, strict=True)) / sum(weights)
        for name, found in errors.items()
    }
    return Embeddings({name: torch.cat(tensors) for name, tensors in parts.items()}, l1, tuple(skipped))


def measure(found: Embeddings) -> dict[str, Any]:
    """Return the metrics of embeddings: recognition and retrieval (Table 3), people recognised, L1 of frames."""
    result: dict[str, Any] = {}
    if "video" in found:
        if "video_logits" in found and bool((found["words"] >= 0).any()):
            result["words"] = asdict(recognise(found["video_logits"], found["audio_logits"], found["words"]))
        result["video_to_audio"] = asdict(retrieve(found["video"], found["audio"]))
        result["audio_to_video"] = asdict(retrieve(found["audio"], found["video"]))
    if "identity" in found and (people := same_person(found["identity"], found["speakers"])):
        result["people"] = people
    if found.l1:
        result["l1"] = found.l1
    return result


def in_words(found: dict[str, Any]) -> str:
    """Return the metrics of a validation in one line of text."""
    parts = []
    if words := found.get("words"):
        parts.append(
            "words {visual:.1%} visual, {audio:.1%} audio, {both:.1%} both (chance {chance:.1%})".format(**words)
        )
    parts += [
        f"{name.replace('_', ' ')} R@1 {figures['r1']:.1%} (chance {figures['chance_r1']:.2%})"
        for name in ("video_to_audio", "audio_to_video")
        if (figures := found.get(name))
    ]
    if people := found.get("people"):
        parts.append("nearest face of the same person {same_person:.1%} (chance {chance:.1%})".format(**people))
    if l1 := found.get("l1"):
        parts.append("L1 " + ", ".join(f"{value:.4f} from {name}" for name, value in l1.items()))
    if talks := found.get("talking"):
        parts.append(talking.summary(talks))
    return "; ".join(parts)


def same_person(identity: Tensor, speakers: Tensor) -> dict[str, float]:
    """Return the fraction of clips whose nearest other clip, by f_p^v, is of the same person, who may be unseen.

    identity: `[N, 256]`. speakers: `[N]`, −1 where unknown. `chance`: that fraction for a random clip. Empty if no two
    clips are of the same person, or all are.
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
