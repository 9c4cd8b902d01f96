"""ACW, adaptive cross-modal weighting: a weight for each modality in each frame, and the fusion of all modalities."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from davs_model.models.davs.networks.layers import FEATURES

GROUPS = 8
"""Groups of channels of a modality; each group has its own weight."""
FUSED = 2 * FEATURES
"""Length of the fused features of a frame."""
DOUBTING = 64
"""Width of the network that predicts the doubt d of a modality."""


class CrossModalWeighting(nn.Module):
    """Map each modality to 256 features with LayerNorm; w = M · softmax over M modalities of g − log(1 + exp d) (ours).

    The abstract states only that features of all modalities are weighted adaptively and fused. The gate
    g = tanh(W₂ ReLU(W₁ [all])) learns what improves the frames; without the bound of tanh it would give each group of
    channels to one modality for good. The doubt d of each modality, the logit that it is corrupted, is trained only to
    detect corruption: a gate trained on frames that sees both would give noisy audio more weight, not less. W₂ and the
    last layers of d begin at 0, so that all modalities have the same weight at first.

    lengths: of the features of each of `MODALITIES`. adaptive: false: all modalities always have the same weight.
    """

    def __init__(self, lengths: tuple[int, ...], *, adaptive: bool = True) -> None:
        super().__init__()
        self.adaptive = adaptive
        self.enter = nn.ModuleList(nn.Sequential(nn.Linear(n, FEATURES), nn.LayerNorm(FEATURES)) for n in lengths)
        self.first = nn.Linear(len(lengths) * FEATURES, FEATURES)
        self.second = nn.Linear(FEATURES, len(lengths) * GROUPS)
        last = [nn.Linear(DOUBTING, 1) for _ in lengths]
        self.doubt = nn.ModuleList(nn.Sequential(nn.Linear(FEATURES, DOUBTING), nn.ReLU(), one) for one in last)
        for one in (self.second, *last):
            nn.init.zeros_(one.weight)
            nn.init.zeros_(one.bias)
        self.fuse = nn.Linear(len(lengths) * FEATURES, FUSED)

    def forward(self, *features: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse the features of each modality `[B, T, …]`: `[B, T, 512]`, and w `[B, T, M, 8]`, 1 on average over M."""
        entered = self._entered(features)
        n_modalities = entered.shape[2]
        gate = self.second(self.first(entered.flatten(2)).relu()).tanh().unflatten(-1, (n_modalities, GROUPS))
        logits = gate.float() - functional.softplus(self._doubts(entered).detach())[..., None]
        weights = n_modalities * (logits if self.adaptive else torch.zeros_like(logits)).softmax(2)
        weighed = entered.unflatten(-1, (GROUPS, -1)) * weights[..., None].to(entered.dtype)
        return self.fuse(weighed.flatten(2)), weights

    def doubts(self, *features: Tensor) -> Tensor:
        """Return the logit `[B, T, M]` that each modality of each frame is corrupted; trains only the networks of d."""
        return self._doubts(self._entered(features))

    def _entered(self, features: tuple[Tensor, ...]) -> Tensor:
        return torch.stack([enter(one) for enter, one in zip(self.enter, features, strict=True)], dim=2)

    def _doubts(self, entered: Tensor) -> Tensor:
        each = zip(self.doubt, entered.detach().unbind(2), strict=True)
        return torch.cat([doubt(one) for doubt, one in each], dim=-1).float()
