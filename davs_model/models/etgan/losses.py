"""Terms of ET-GAN-ACW that DAVS does not have, one function each; all ours.

A function named `…_loss` trains only a discriminator, its `…_confusion` only the generating networks. All losses are
means, computed in float32 for inputs of any dtype.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from davs_model.data.pictures import Box, region
from davs_model.models.davs.losses import frozen

EYES_BOX: Box = (70, 134, 64, 192)
"""Eyebrows and eyes; as large as the mouth box."""


def hinge_loss(discriminator: nn.Module, real: Tensor, generated: Tensor) -> Tensor:
    """Hinge loss of a discriminator of frames `[B, T, 3, S, S]`: pushes logits beyond ±1. Trains only it."""
    true, false = discriminator(real).float(), discriminator(generated.detach()).float()
    return functional.relu(1 - true).mean() + functional.relu(1 + false).mean()


def hinge_confusion(discriminator: nn.Module, generated: Tensor) -> Tensor:
    """The generator's side: minus the logit of generated frames. Does not train the discriminator."""
    with frozen(discriminator):
        return -discriminator(generated).float().mean()


def eyes_loss(real: Tensor, generated: Tensor) -> Tensor:
    """Mean absolute difference of the eyebrows and eyes in frames `[…, S, S]` in [0, 1].

    They are a small part of a frame. Without this loss a face long keeps the expression of its identity frame.
    """
    box = (..., *region(EYES_BOX, real.shape[-1]))
    return (real[box].float() - generated[box].float()).abs().mean()


def unlikeness(one: Tensor, other: Tensor, among: Tensor | None = None) -> Tensor:
    """1 − cosine similarity of features `[B, …, D]`; only `one` gets gradients.

    among: bool `[B]`, the clips that count; 0 if none does.
    """
    apart = 1 - functional.cosine_similarity(one.float(), other.detach().float(), dim=-1)
    if among is None:
        return apart.mean()
    weights = among.to(apart.dtype).view(-1, *(1,) * (apart.dim() - 1)).expand_as(apart)
    return (apart * weights).sum() / weights.sum().clamp(min=1)


def doubt_loss(whole: Tensor, spoilt: Tensor) -> Tensor:
    """Cross-entropy of the logits that a modality is corrupted, for intact and for corrupted features."""
    return functional.softplus(whole.float()).mean() + functional.softplus(-spoilt.float()).mean()
