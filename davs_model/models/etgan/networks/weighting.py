"""ACW, adaptive cross-modal weighting: how much each modality counts in each frame, and all of them fused."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from davs_model.models.davs.networks.layers import FEATURES

GROUPS = 8
"""Groups of channels of a modality, each of which has a weight of its own."""
FUSED = 2 * FEATURES
"""Length of the fused features of a frame."""


class CrossModalWeighting(nn.Module):
    """Each modality to 256 features with LayerNorm; w = M · softmax over the M modalities of W₂ ReLU(W₁ [all]) (ours).

    The abstract says that features of all modalities are weighed adaptively and fused, and no more. W₂ begins at 0, so
    that all weigh the same at first.

    lengths: of the features of each of `MODALITIES`. adaptive: false: they weigh the same for good.
    """

    def __init__(self, lengths: tuple[int, ...], *, adaptive: bool = True) -> None:
        super().__init__()
        self.adaptive = adaptive
        self.enter = nn.ModuleList(nn.Sequential(nn.Linear(n, FEATURES), nn.LayerNorm(FEATURES)) for n in lengths)
        self.first = nn.Linear(len(lengths) * FEATURES, FEATURES)
        self.second = nn.Linear(FEATURES, len(lengths) * GROUPS)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)
        self.fuse = nn.Linear(len(lengths) * FEATURES, FUSED)

    def forward(self, *features: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse the features of each modality `[B, T, …]`: `[B, T, 512]`, and w `[B, T, M, 8]`, 1 on average over M."""
        entered = torch.stack([enter(one) for enter, one in zip(self.enter, features, strict=True)], dim=2)
        n_modalities = entered.shape[2]
        logits = self.second(self.first(entered.flatten(2)).relu()).unflatten(-1, (n_modalities, GROUPS))
        weights = n_modalities * (logits if self.adaptive else torch.zeros_like(logits)).float().softmax(2)
        weighed = entered.unflatten(-1, (GROUPS, -1)) * weights[..., None].to(entered.dtype)
        return self.fuse(weighed.flatten(2)), weights
