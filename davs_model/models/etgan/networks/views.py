"""The multi-image identity encoder: several views of a face, merged into one representation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from davs_model.models.davs.networks.identity import Identity
from davs_model.models.davs.networks.layers import FEATURES

HIDDEN = 64
"""Length of the vector from which a view's weight is computed."""


class ViewMerge(nn.Module):
    """α = softmax over the views of u · tanh(W f_k); features and maps are summed with the weights α (ours).

    The abstract only names a multi-image identity encoder. The frame that the decoder may keep parts of is the view
    with the largest α: a mean of frames would show every outline several times.
    """

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 1, bias=False))

    def forward(self, views: Identity) -> tuple[Identity, Tensor]:
        """Merge the output of E_id for K views `[B, K, …]` into `[B, 1, …]`; also return α `[B, K]`, in their order.

        A single view is unchanged: its α is 1. Views are summed in the order of their α, or of their brightness if α is
        the same, so that the sum is exactly the same for any order of the views.
        """
        scores = self.score(views.feature)[..., 0].float()
        order = views.frames.float().mean((2, 3, 4)).argsort(1)
        ordered, places = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
        order = order.gather(1, places)
        alpha = ordered.softmax(1)

        def merged(maps: Tensor) -> Tensor:
            index = order.view(*order.shape, *(1,) * (maps.dim() - 2)).expand_as(maps)
            weights = alpha.view(*alpha.shape, *(1,) * (maps.dim() - 2)).to(maps.dtype)
            return (maps.gather(1, index) * weights).sum(1, keepdim=True)

        best = views.frames[torch.arange(len(order), device=order.device), order[:, 0]][:, None]
        parts = {name: merged(maps) for name, maps in views._asdict().items() if name != "frames"}
        return Identity(**parts, frames=best), alpha.gather(1, order.argsort(1))
