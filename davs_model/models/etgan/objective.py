"""The objective in one pass: a batch through the stage's networks, every term by its name."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from davs_model.data.pictures import as_read
from davs_model.data.reads import Batch
from davs_model.models.base import EXPRESSION, SOUND, Gather
from davs_model.models.davs import losses as shared
from davs_model.models.davs.objective import RUN, RUN_WINDOWS
from davs_model.models.etgan import corruption, losses
from davs_model.models.etgan.corruption import Inputs
from davs_model.models.etgan.settings import Settings

if TYPE_CHECKING:
    from davs_model.models.davs.networks.identity import Identity
    from davs_model.models.etgan.networks import ETGAN

VIEWS, POSITIONS, JUDGED = "views", "positions", "judged"
"""Frames of the person from other clips, the position of the face in `RUN`, and the frames that the judge trains on."""
EXPRESSIVE = (
    "emotion",
    "expression_person",
    "expression_person_confusion",
    "expression_word",
    "expression_word_confusion",
)
PICTURES = ("reconstruction", "mouth", "motion", "eyes", "frame", "frame_confusion", "clip", "clip_confusion")
HELD_TO = ("read", "retained", "likeness", "spoken")
GENERATION = (*PICTURES, *HELD_TO, "doubt")
"""Names of the terms."""
ENCODERS = ("identity_encoder", "merge", "expression_encoder", "audio_speech_encoder", "position_encoder")
"""The encoders of the modalities."""
LIKENED = 4
"""Every 4th generated frame is compared with the person, because E_id costs as much as the decoder."""


def own_terms(
    model: ETGAN, batch: Batch, wanted: Collection[str], settings: Settings, progress: float, gather: Gather
) -> dict[str, Tensor]:
    """Compute the wanted terms that have begun; see `SpeechModel.own_terms`."""
    wanted = begun(wanted, settings, progress)
    found: dict[str, Tensor] = {}
    if "judge" in wanted and model.judge is not None:
        found["judge"] = shared.person_loss(model.judge(batch[JUDGED]), batch["emotions"])
    if any(name in wanted for name in GENERATION):
        found |= _full_terms(model, batch, wanted, settings, gather)
    elif any(name in wanted for name in EXPRESSIVE):
        code = model.expression_encoder(corruption.disguised(batch[EXPRESSION]))
        whole = torch.ones(len(code), dtype=torch.bool, device=code.device)
        found |= _expression_terms(model, batch, code, whole, gather)
    return found


def begun(wanted: Collection[str], settings: Settings, progress: float) -> Collection[str]:
    """Return the terms that have begun at a fraction of a stage; if none has, all of them, so that each step trains."""
    adversaries = settings.adversaries
    begins = {"frame": adversaries.frame_from, "clip": adversaries.clip_from}
    begins |= dict.fromkeys(("read", "retained"), adversaries.read_from)
    found = [term for term in wanted if progress >= begins.get(term.removesuffix("_confusion"), 0.0)]
    return found or wanted


def _expression_terms(model: ETGAN, batch: Batch, code: Tensor, whole: Tensor, gather: Gather) -> dict[str, Tensor]:
    """The terms that put emotions into e_exp and remove people and words; also updates the mean of each emotion.

    code: e_exp `[B, 64]`. whole: bool `[B]`, in which clips the expression is not corrupted. The other clips do not
    count, nor do those without a label, such as sentences of many words. If no clip counts, a term is 0 but still
    present, because several processes combine their terms.
    """
    labels = {name: batch[f"{EXPRESSION}_{name}"].to(code.device) for name in ("emotions", "speakers", "words")}
    _remember(model, code, labels["emotions"], whole, gather)
    found: dict[str, Tensor] = {}
    if model.emotion_classifier is not None:
        some, counts = _counting(whole & (labels["emotions"] >= 0))
        emotions = labels["emotions"][some].clamp(min=0)
        found["emotion"] = counts * shared.person_loss(model.emotion_classifier(code[some])[:, None], emotions)
    for name, reader, label in (
        ("expression_person", model.expression_person_classifier, "speakers"),
        ("expression_word", model.expression_word_classifier, "words"),
    ):
        if reader is not None:
            some, counts = _counting(whole & (labels[label] >= 0))
            right = labels[label][some].clamp(min=0)
            found[name] = counts * shared.identity_word_loss(reader, code[some], right)
            found[f"{name}_confusion"] = counts * shared.identity_word_confusion(reader, code[some])
    return found


def _counting(some: Tensor) -> tuple[Tensor, float]:
    """Return the clips of a term, bool `[B]`, and its factor: 1, or 0 with all clips if there are none."""
    counts = float(some.any())
    return (some if counts else torch.ones_like(some)), counts


@torch.no_grad()
def _remember(model: ETGAN, code: Tensor, emotions: Tensor, whole: Tensor, gather: Gather) -> None:
    """Update the model's mean e_exp with the clips of all processes, so that every process has the same means.

    Every process sends the same amount of data, whatever is corrupted, because they wait for each other.
    """
    # In one message, in float32, which represents every emotion number and every half-precision value exactly.
    sent = torch.cat((code.float(), torch.stack((emotions, whole), dim=1).to(code.device, torch.float32)), dim=1)
    code, emotions, whole = gather(sent).split((code.shape[1], 1, 1), dim=1)
    some = whole[:, 0] > 0
    model.remember(code[some], emotions[some, 0])


def inputs(batch: Batch, settings: Settings) -> tuple[Inputs, Inputs]:
    """Return the inputs of a run, with a random number of views and a disguised expression: intact and corrupted."""
    count = int(torch.randint(settings.generation.views, ())) + 1
    whole = Inputs(
        batch[VIEWS][:, :count],
        corruption.disguised(batch[EXPRESSION]),
        batch[RUN_WINDOWS],
        corruption.masked(batch[POSITIONS], settings.corruption.masked),
        torch.full((len(batch[VIEWS]),), -1, device=batch[VIEWS].device),
    )
    return whole, corruption.spoil(whole, settings.corruption.probability)


class Encoded(NamedTuple):
    """The inputs of `ETGAN.fuse`, by the names in `MODALITIES`."""

    identity: Identity
    expression: Tensor
    audio: Tensor
    position: Tensor


def _encoded(model: ETGAN, given: Inputs, sound: Tensor | None) -> Encoded:
    """Encode the inputs; sound: `SOUND` of the clips."""
    identity, _ = model.merge(model.identity_encoder(given.views))
    code = model.expression_encoder(given.expression)
    return Encoded(identity, code, model.encode_sound(given.windows, sound), model.position_encoder(given.positions))


def _doubt(model: ETGAN, whole: Inputs, sound: Tensor | None) -> Tensor:
    """The loss of detecting corrupted modalities; encoders are frozen and in eval mode, as in generation.

    Every modality of every clip is corrupted here, because the inputs of generation are corrupted too rarely.
    """
    with ExitStack() as stack, torch.no_grad():
        for name in ENCODERS:
            stack.enter_context(shared.still(getattr(model, name)))
        encoded = [_encoded(model, one, sound) for one in (whole, corruption.spoil_all(whole))]
    return losses.doubt_loss(*(model.doubts(*one) for one in encoded))


def _full_terms(
    model: ETGAN, batch: Batch, wanted: Collection[str], settings: Settings, gather: Gather
) -> dict[str, Tensor]:
    """Generate the run of each clip, and compute its terms."""
    real, (whole, given) = batch[RUN], inputs(batch, settings)
    identity, code, audio, where = _encoded(model, given, batch.get(SOUND))
    drawn = model.draw(identity, model.fuse(identity, code, audio, where)[0])
    found = _expression_terms(model, batch, code, given.whole("expression"), gather)
    if "person" in wanted and model.person_classifier is not None:
        found["person"] = shared.person_loss(model.person_classifier(identity.feature), batch["speakers"])
    if "doubt" in wanted:
        found["doubt"] = _doubt(model, whole, batch.get(SOUND))
    found["reconstruction"] = shared.reconstruction_loss(real, drawn)
    found["mouth"] = shared.mouth_loss(real, drawn)
    found["motion"] = shared.motion_loss(real, drawn)
    found["eyes"] = losses.eyes_loss(real, drawn)
    for name, discriminator in (("frame", model.frame_discriminator), ("clip", model.clip_discriminator)):
        if name in wanted or f"{name}_confusion" in wanted:
            found[name] = losses.hinge_loss(discriminator, real, drawn)
            found[f"{name}_confusion"] = losses.hinge_confusion(discriminator, drawn)
    return found | _held_to(model, batch, drawn, identity, code, given, wanted, gather)


def _held_to(
    model: ETGAN,
    batch: Batch,
    drawn: Tensor,
    identity: Identity,
    code: Tensor,
    given: Inputs,
    wanted: Collection[str],
    gather: Gather,
) -> dict[str, Tensor]:
    """The terms by which fixed networks constrain the frames: emotion, expression, person, speech."""
    found: dict[str, Tensor] = {}
    whole = given.whole("expression")
    if "read" in wanted and model.judge is not None:
        some, counts = _counting(whole)
        with shared.still(model.judge):
            found["read"] = counts * shared.person_loss(model.judge(drawn[some]), batch["emotions"][some])
    if "retained" in wanted:
        with shared.still(model.expression_encoder):
            found["retained"] = losses.unlikeness(model.expression_encoder(drawn), code, whole)
    if "likeness" in wanted:
        with shared.still(model.identity_encoder):
            with torch.no_grad():
                real = model.identity_encoder(batch[VIEWS]).feature.mean(1, keepdim=True)
            found["likeness"] = losses.unlikeness(model.identity_encoder(drawn[:, ::LIKENED]).feature, real)
    if "spoken" in wanted:
        side = int(model.dimensions["mouth_size"])
        with shared.still(model.visual_speech_encoder):
            seen = model.encode_speech(frames=as_read(drawn, model.sees, side))
        with torch.no_grad():
            heard = model.encode_sound(batch[RUN_WINDOWS], batch.get(SOUND))
        found["spoken"] = shared.contrastive_loss(gather(seen), gather(heard))
    return found
