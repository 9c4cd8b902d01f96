"""Emotions recognised by E_exp and by the judge on clips that the model does not train on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from avprep.errors import plural
from davs_model.data.batches import EvaluationBatches
from davs_model.data.clips import Clips
from davs_model.data.reads import Batch, Shape, chosen
from davs_model.data.sources import ClipSource
from davs_model.models.base import EXPRESSION, FRAMES, PORTRAIT, REAL, SOUND, WINDOWS, Measure

if TYPE_CHECKING:
    from davs_model.models.etgan.networks import ETGAN

BATCH = 8
"""Clips at once."""


@torch.inference_mode()
def measure(model: ETGAN, stage: str, clips: Clips, device: torch.device, limit: int) -> tuple[Measure, ...]:
    """Measure emotion recognition after the stages that train it; nothing without readable clips with labels.

    After `full`, also in generated frames: *self*, with the expression of the clip itself, and *cross*, with that of
    the next clip of another speaker with another emotion, which is then the correct one.
    """
    labelled = clips.rows((clips.emotions >= 0).nonzero()[0])
    if stage not in ("judge", "expression", "full") or model.judge is None or not len(labelled) or not limit:
        return ()
    wanted = (FRAMES, WINDOWS, REAL, SOUND, PORTRAIT, EXPRESSION) if stage == "full" else (EXPRESSION,)
    shape = Shape(chosen(model.reads(model.dimensions), wanted), int(model.dimensions["image_size"]))
    batches = EvaluationBatches(ClipSource(labelled, shape), shape, batch_size=BATCH, limit=limit)
    right: dict[str, list[Tensor]] = {}
    model.eval()
    for number in range(len(batches)):
        raw = batches[number]
        if not raw.keys:
            continue
        batch = raw.to(device)
        for name, found in _read(model, stage, batch).items():
            right.setdefault(name, []).append(found.float().cpu())
    values = {name: float(torch.cat(found).mean()) for name, found in right.items() if sum(map(len, found))}
    if not values:
        return ()
    n_clips = sum(len(found) for found in next(iter(right.values())))
    chance = 1 / int(model.dimensions["n_emotions"])
    summary = "emotions read: " + ", ".join(f"{name.replace('_', ' ')} {value:.1%}" for name, value in values.items())
    learned = "The judge learned from the training set, from people of its own."
    notes = (f"{plural(n_clips, 'clip')}; chance {chance:.1%}. {learned}",)
    rows = tuple((name.replace("_", " "), f"{value:.1%}") for name, value in values.items())
    facts = {**values, "chance": chance, "n_clips": n_clips}
    return (
        Measure("emotions", summary, facts, "Emotions, by the model's own readers", notes, ("read", "right"), rows),
    )


def _read(model: ETGAN, stage: str, batch: Batch) -> dict[str, Tensor]:
    """Return whether each emotion is recognised correctly, bool `[B]`, for each kind of reading."""
    emotions, shown = batch["emotions"], batch[EXPRESSION]
    assert model.judge is not None
    found: dict[str, Tensor] = {}
    if stage != "expression":
        found["judge_of_real_frames"] = _judged(model, shown) == emotions
    if stage != "judge" and model.emotion_classifier is not None:
        found["expression_code"] = model.emotion_classifier(model.encode_expression(shown)).argmax(1) == emotions
    if stage == "full":
        person = model.encode_identity(batch[PORTRAIT])
        speech = model.encode_sound(batch[WINDOWS], batch.get(SOUND))
        found["self"] = _judged(model, model.decode(model.conditioned(person, batch), speech)) == emotions
        for shift in range(1, len(emotions)):
            other = emotions.roll(shift)
            away = (other != emotions) & (batch["speakers"].roll(shift) != batch["speakers"])
            if bool(away.any()):
                code = model.encode_expression(shown).roll(shift, 0)
                found["cross"] = (_judged(model, model.decode(model.expressing(person, code), speech)) == other)[away]
                break
    return found


def _judged(model: ETGAN, frames: Tensor) -> Tensor:
    """Return the emotion `[B]` that the judge recognises in frames `[B, T, 3, S, S]`."""
    assert model.judge is not None
    return model.judge(frames).softmax(-1).mean(1).argmax(-1)
