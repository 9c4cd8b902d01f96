"""The clip of one modality that belongs to a clip of the other, found by distance (right half of Table 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Retrieval:
    """How far up the right clip stands among all: R@1, R@5, R@10 (shares from 0 to 1) and MedR."""

    r1: float
    r5: float
    r10: float
    median_rank: int
    """MedR = ⌊median rank⌋ + 1, of ranks from 0: at best 1."""
    chance_r1: float
    """R@1 of guessing."""
    n_clips: int


def retrieve(queries: Tensor, gallery: Tensor, *, chunk: int = 1024) -> Retrieval:
    """Rank the whole gallery for every query, by Euclidean distance between features of unit length.

    queries, gallery: `[N, …]`, of the paper F_w^v and F_w^a `[N, 12, 256]`, row n of one belonging to row n of the
    other; flattened and made unit length here, in float32, on the device they are on.
    chunk: queries at once; memory beyond the features grows with chunk × N.

    A query's rank is the number of other rows no farther than the right one: ties count against it, so that an encoder
    that says the same of every clip finds none. Raises ValueError for no clips, for shapes that differ and for features
    that are not finite.
    """
    if queries.shape != gallery.shape:
        raise ValueError(f"queries {list(queries.shape)} and gallery {list(gallery.shape)} do not pair row by row")
    if len(queries) == 0:
        raise ValueError("no clips to retrieve")
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; it counts queries, at least 1")
    if not bool(queries.isfinite().all() and gallery.isfinite().all()):
        raise ValueError("features are not finite: has training diverged?")
    ranks = _ranks(_unit_rows(queries), _unit_rows(gallery), chunk=chunk).tolist()
    return Retrieval(
        r1=_share_below(1, ranks),
        r5=_share_below(5, ranks),
        r10=_share_below(10, ranks),
        median_rank=math.floor(median(ranks)) + 1,
        chance_r1=1 / len(ranks),
        n_clips=len(ranks),
    )


@torch.no_grad()
def _ranks(queries: Tensor, gallery: Tensor, *, chunk: int) -> Tensor:
    """Return the rank of the right row of each query, from 0: int64 `[N]`, of unit rows `[N, D]`."""
    # Columns of a matrix product of equal rows may differ in the last bit, by where they fall in its blocks. So each
    # row of the gallery is multiplied once and its product handed to all its equals: then they tie exactly.
    distinct, place = torch.unique(gallery, dim=0, return_inverse=True)
    # d² = |q|² + |g|² − 2 q·g with |g| = 1 falls as q·g grows. A row of zeros stays one, and is nearer by its |g|² = 0.
    bonus = 0.5 * (distinct == 0).all(dim=1)
    ranks = []
    for start in range(0, len(queries), chunk):
        rows = queries[start : start + chunk]
        with torch.autocast(rows.device.type, enabled=False):  # bfloat16 would tie what is near
            nearness = (rows @ distinct.T + bonus)[:, place]
        right = nearness.diagonal(start)
        ranks.append((nearness >= right[:, None]).sum(1) - 1)  # all but the right one itself
    return torch.cat(ranks)


@torch.no_grad()
def _unit_rows(features: Tensor) -> Tensor:
    """Return features `[N, …]` as float32 rows of unit length `[N, D]`; zeros stay zeros."""
    return functional.normalize(features.float().reshape(len(features), -1))


def _share_below(bound: int, ranks: list[int]) -> float:
    return sum(rank < bound for rank in ranks) / len(ranks)
