"""Every term of the paper's objective, one function each, with its equation where the paper numbers it.

φ(x) = log(1 + eˣ) is softplus. A function named `…_loss` trains only a discriminator or the estimator, its
`…_confusion` only the generating networks. All losses are means, computed in float32 for inputs of any dtype.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from davs_model.models.amie.masks import wide_box
from davs_model.models.amie.settings import Form
from davs_model.models.davs.losses import frozen, mouth_loss

APART = 3
"""Minimum distance in frames between an unpaired frame and window; windows of nearer frames overlap more than half."""
DROP = 2 * math.log(2)
"""Difference between the divergence and the paper's Jensen–Shannon bound, which is −2 log 2 for independence."""


def pairs(frames: Tensor, windows: Tensor, heard: Tensor) -> tuple[Tensor, Tensor]:
    """Return which pairs of a frame and a window are joint (of the same instant) and which marginal (at least 3 apart).

    frames `[T]`, windows `[N]`: their instants, int64. heard: bool `[B, N]`, for the instants of the windows, which
        include those of the frames. Pairs that are not heard are neither joint nor marginal. Returns bool `[B, T, N]`
        twice.
    """
    apart = (frames[:, None] - windows[None]).abs()
    of_frames = heard[:, (frames[:, None] == windows[None]).int().argmax(1)]
    both = of_frames[:, :, None] & heard[:, None]
    return both & (apart == 0), both & (apart >= APART)


def bound(joint: Tensor, marginal: Tensor, form: Form = "js") -> Tensor:
    """Return the lower bound of the mutual information by T, a scalar.

    joint: T of matching pairs, `[N]`. marginal: T of pairs that do not match, `[M]`.
    form="js": E_P[−φ(−T)] − E_Q[φ(T)], at most 0. form="dv": E_P[T] − log E_Q[e^T], Donsker and Varadhan's, as MINE.
    """
    joint, marginal = joint.float(), marginal.float()
    if form == "js":
        return -functional.softplus(-joint).mean() - functional.softplus(marginal).mean()
    return joint.mean() - (marginal.logsumexp(0) - math.log(len(marginal)))


def coherence(scores: Tensor, joint: Tensor, marginal: Tensor, form: Form = "js") -> Tensor:
    """Return the bound over the pairs of `pairs`, from T of every frame with every window `[B, T, N]`.

    Without pairs of both kinds there is nothing to compare: 0, with a gradient of 0.
    """
    if not (bool(joint.any()) and bool(marginal.any())):
        return 0.0 * scores.sum()
    return bound(scores[joint], scores[marginal], form)


def frame_loss(discriminator: nn.Module, real: Tensor, generated: Tensor, windows: Tensor) -> Tensor:
    """L_GAN, eq. 9, the discriminator's side: a real frame with its audio is 1, a generated frame with it is 0.

    real, generated: frames `[B, T, 3, S, S]`. windows: `[B, T, 12, 20]`. Trains D only.
    """
    true, false = discriminator(real, windows).float(), discriminator(generated.detach(), windows).float()
    return -functional.logsigmoid(true).mean() - functional.logsigmoid(-false).mean()


def frame_confusion(discriminator: nn.Module, generated: Tensor, windows: Tensor) -> Tensor:
    """L_GAN, eq. 9, the generator's side as −log D, whose gradient does not vanish if D is sure. Does not train D."""
    with frozen(discriminator):
        logits = discriminator(generated, windows).float()
    return -functional.logsigmoid(logits).mean()


def perceptual_loss(real: Sequence[Tensor], generated: Sequence[Tensor]) -> Tensor:
    """L_perc, eq. 10: squared distance of the features of a perceptual network, averaged over its maps.

    real, generated: maps of the same shapes. Each distance is divided by the mean square of the real map, so that maps
    of any scale have the same weight (ours: the paper's network is not public).
    """
    terms = [
        (one.float() - other.float()).square().mean() / one.float().square().mean().clamp(min=1e-6)
        for one, other in zip(real, generated, strict=True)
    ]
    return torch.stack(terms).mean()


def lip_loss(real: Tensor, generated: Tensor) -> Tensor:
    """L_lip, eq. 11: mean absolute difference inside the lip crop; frames `[…, S, S]` in [0, 1]."""
    return mouth_loss(real, generated)


def mask_loss(logits: Tensor, lips: Tensor) -> Tensor:
    """Cross-entropy between the attention and the place of the lips, inside the widened mouth box; not in the paper.

    logits: of P, `[B, T, S/4, S/4]`. lips: target `[B, T, S/4, S/4]` in [0, 1].
    """
    side = logits.shape[-1]
    inside = wide_box(4 * side).to(logits)[0, 0].bool()
    return functional.binary_cross_entropy_with_logits(logits.float()[..., inside], lips.float()[..., inside])


def teaching(progress: float) -> float:
    """Return the probability of feeding back the real frame instead of the generated one (teacher forcing).

    It falls from 1 to 0 in the first fifth of the stage; not in the paper.
    """
    return max(0.0, 1 - progress / 0.2)
