"""Terms of ET-GAN-ACW that DAVS does not have, one function each; all ours.

A function named `…_loss` trains a discriminator alone, its `…_confusion` only what generates. All are means, and
float32 whatever they are given.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from davs_model.data.pictures import Box, region
from davs_model.models.davs.losses import frozen

EYES_BOX: Box = (70, 134, 64, 192)
"""Brows and eyes, as large as the mouth box."""
NEGLIGIBLE = 0.01
"""A modality that weighs as little as that has no less to weigh."""


def hinge_loss(discriminator: nn.Module, real: Tensor, generated: Tensor) -> Tensor:
    """Hinge loss of a discriminator of frames `[B, T, 3, S, S]`, whose logits it pushes beyond ±1. Moves it alone."""
    true, false = discriminator(real).float(), discriminator(generated.detach()).float()
    return functional.relu(1 - true).mean() + functional.relu(1 + false).mean()


def hinge_confusion(discriminator: nn.Module, generated: Tensor) -> Tensor:
    """The generator's side of it: minus the logit of generated frames. Does not move the discriminator."""
    with frozen(discriminator):
        return -discriminator(generated).float().mean()


def eyes_loss(real: Tensor, generated: Tensor) -> Tensor:
    """Mean absolute difference of brows and eyes of frames `[…, S, S]` in [0, 1].

    They are a small part of a frame: without it a face keeps the expression of its picture for a long time.
    """
    box = (..., *region(EYES_BOX, real.shape[-1]))
    return (real[box].float() - generated[box].float()).abs().mean()


def unlikeness(one: Tensor, other: Tensor, among: Tensor | None = None) -> Tensor:
    """1 − cosine of features `[B, …, D]`, which carry on to `one` alone.

    among: bool `[B]`, the clips that count; where none does, 0.
    """
    apart = 1 - functional.cosine_similarity(one.float(), other.detach().float(), dim=-1)
    if among is None:
        return apart.mean()
    weights = among.to(apart.dtype).view(-1, *(1,) * (apart.dim() - 1)).expand_as(apart)
    return (apart * weights).sum() / weights.sum().clamp(min=1)


def reliance_loss(spoilt: Tensor, whole: Tensor) -> Tensor:
    """−log σ(log w of a modality that is whole − log w of the same one spoilt): Bradley and Terry's (1952) of a pair.

    spoilt, whole: w `[B, T, M, G]` of each modality spoilt, the others whole, and of all of them whole.
    """
    lighter, other = (one.float().clamp(min=NEGLIGIBLE).log() for one in (spoilt, whole))
    return functional.softplus((lighter - other).mean((1, 3))).mean()
