"""The objective in one pass: a batch through the stage's networks, every term by its name."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from davs_model.data.pictures import as_read
from davs_model.data.reads import Batch
from davs_model.models.amie import losses, masks
from davs_model.models.amie.settings import Settings
from davs_model.models.base import PORTRAIT, SOUND, Gather
from davs_model.models.davs import losses as shared

if TYPE_CHECKING:
    from davs_model.models.amie.networks import AMIE, Generated

RUN, RUN_WINDOWS, HEARD, CORNERS = "run", "run_windows", "heard", "corners"
"""Consecutive frames, their windows, which of these are heard, and the mouth corners."""
TALK = ("estimator", "mi", "frame", "frame_confusion", "lip", "perceptual", "face", "mask")
"""Names of the terms of the last stage."""
MI_FROM = 0.2
"""Fraction of the stage's steps after which L_mi begins; not in the paper."""


def own_terms(
    model: AMIE, batch: Batch, wanted: Collection[str], settings: Settings, progress: float, gather: Gather
) -> dict[str, Tensor]:
    """Compute the wanted terms, and nothing that they do not need; see `SpeechModel.own_terms`."""
    found: dict[str, Tensor] = {}
    generates = any(name in wanted for name in TALK if name != "estimator")
    generated = _generate(model, batch, settings, progress) if generates else None
    if "estimator" in wanted:
        found["estimator"] = -_real_coherence(model, batch, settings, generated)
    if generated is not None:
        found |= _talk_terms(model, batch, generated, wanted, settings, progress)
    return found


def _drawn(model: AMIE, batch: Batch, settings: Settings) -> slice:
    """Return which frames of the run are generated."""
    start = int(batch[f"{RUN}_start"])
    return slice(start, start + settings.generation.frames)


def _generate(model: AMIE, batch: Batch, settings: Settings, progress: float) -> Generated:
    """Generate a part of the run, with the attention rates and teacher forcing of this progress."""
    part = _drawn(model, batch, settings)
    real, count = batch[RUN][:, part], settings.generation.frames
    least, most = masks.attention_range(progress)
    # On the CPU, so that the random numbers do not depend on the device of the networks.
    rates = (least + (most - least) * torch.rand(count)).tolist()
    teaches = (torch.rand(count) < losses.teaching(progress)).tolist()
    speech = model.encode_sound(batch[RUN_WINDOWS][:, part], batch.get(SOUND))
    face = model.encode_identity(batch[PORTRAIT])
    on = settings.attention.on
    return model.generate(face, speech, on=on, rates=[] if on == "none" else rates, taught=real, teaches=teaches)


def _coherence(
    model: AMIE, frames: Tensor, at: Tensor, windows: Tensor, sound: Tensor | None, heard: Tensor, settings: Settings
) -> Tensor:
    """Return T's bound over frames `[B, T, 3, S, S]` at these instants of the run and all its windows."""
    scores = model.estimator(*model.estimator.encode(frames, windows, sound))
    joint, marginal = losses.pairs(at, torch.arange(windows.shape[1], device=at.device), heard)
    return losses.coherence(scores, joint, marginal, settings.mi.form)


def _real_coherence(model: AMIE, batch: Batch, settings: Settings, generated: Generated | None) -> Tensor:
    """Return the bound that T maximises: of real pairs, or of generated ones if it is not `asymmetric`."""
    windows, sound, heard = batch[RUN_WINDOWS], batch.get(SOUND), batch[HEARD] > 0
    instants = torch.arange(windows.shape[1], device=windows.device)
    if generated is None or settings.mi.asymmetric:
        return _coherence(model, batch[RUN], instants, windows, sound, heard, settings)
    part = instants[_drawn(model, batch, settings)]
    return _coherence(model, generated.frames.detach(), part, windows, sound, heard, settings)


def _talk_terms(
    model: AMIE, batch: Batch, generated: Generated, wanted: Collection[str], settings: Settings, progress: float
) -> dict[str, Tensor]:
    """The terms of the generated frames."""
    part = _drawn(model, batch, settings)
    real, frames, windows = batch[RUN][:, part], generated.frames, batch[RUN_WINDOWS]
    found = {"lip": losses.lip_loss(real, frames), "face": shared.reconstruction_loss(real, frames)}
    if "mi" in wanted:
        found["mi"] = real.new_zeros(())
        if progress >= MI_FROM:
            instants = torch.arange(windows.shape[1], device=windows.device)[part]
            with shared.frozen(model.estimator), _uncounted(model.estimator):
                found["mi"] = -_coherence(
                    model, frames, instants, windows, batch.get(SOUND), batch[HEARD] > 0, settings
                )
    if "frame" in wanted or "frame_confusion" in wanted:
        found["frame"] = losses.frame_loss(model.frame_discriminator, real, frames, windows[:, part])
        found["frame_confusion"] = losses.frame_confusion(model.frame_discriminator, frames, windows[:, part])
    if "perceptual" in wanted:
        with torch.no_grad():
            truth = _perceived(model, real)
        found["perceptual"] = losses.perceptual_loss(truth, _perceived(model, frames))
    if "mask" in wanted:
        lips = masks.lips(batch[CORNERS][:, part], real)[:, :-1]  # P_i is applied to the previous frame
        found["mask"] = losses.mask_loss(generated.attention, lips)
    return found


@contextmanager
def _uncounted(network: nn.Module) -> Iterator[None]:
    """Context in which BatchNorm normalises as in training, but does not update its running statistics.

    T trains on real pairs only; otherwise half of the statistics for its evaluation would come from generated frames.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def _perceived(model: AMIE, frames: Tensor) -> list[Tensor]:
    """Return the maps of the perceptual network: the first maps of our own identity and visual speech encoders.

    Their loss trains neither encoder; other terms train the identity encoder. The identity maps, of whole frames, have
    sides S/2 and S/4; those of the visual speech encoder have half and an eighth of the side of its input.
    """
    identity, speech, side = model.identity_encoder, model.visual_speech_encoder, int(model.dimensions["mouth_size"])
    with shared.still(identity), shared.frozen(speech):
        half = identity.stem(frames.flatten(0, 1))
        quarter = identity.quarter(identity.pool(half))
        first = speech.stem(as_read(frames, model.sees, side).flatten(0, 1))
        second = speech.blocks(first)
    return [half, quarter, first, second]
