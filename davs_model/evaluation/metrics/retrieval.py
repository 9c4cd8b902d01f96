"""Retrieval, by distance, of the clip of one modality that matches a clip of the other (right half of Table 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Retrieval:
    """Metrics of the rank of the correct clip among all: R@1, R@5, R@10 (fractions from 0 to 1) and MedR."""

    r1: float
    r5: float
    r10: float
    median_rank: int
    """MedR = ⌊median rank⌋ + 1, with ranks from 0; 1 is best."""
    chance_r1: float
    """R@1 of random guessing."""
    n_clips: int


def retrieve(queries: Tensor, gallery: Tensor, *, chunk: int = 1024) -> Retrieval:
    """Return the metrics of `ranks`; same arguments and errors."""
    return summarise(ranks(queries, gallery, chunk=chunk))


def summarise(found: Tensor) -> Retrieval:
    """Return the metrics of ranks, int64 `[N]` from 0, at least one."""
    places = found.tolist()
    return Retrieval(
        r1=_share_below(1, places),
        r5=_share_below(5, places),
        r10=_share_below(10, places),
        median_rank=math.floor(median(places)) + 1,
        chance_r1=1 / len(places),
        n_clips=len(places),
    )


@torch.no_grad()
def ranks(queries: Tensor, gallery: Tensor, *, chunk: int = 1024) -> Tensor:
    """Rank the whole gallery for every query, by Euclidean distance between features of unit length: int64 `[N]`.

    queries, gallery: `[N, …]`, in the paper F_w^v and F_w^a `[N, 12, 256]`, where row n of one matches row n of the
    other; flattened and scaled to unit length here, in float32, on their device.
    chunk: queries at once. Memory in addition to the features is at most about four copies of the gallery, or two and
        9 bytes × chunk × N if that is more: 2 GiB in all for the 25,000 clips of a whole split of LRW.
    A query's rank is the number of other rows that are not farther than the correct one, from 0. Ties count against it,
    so that an encoder with the same output for every clip finds none. Raises ValueError for no clips, for shapes that
    differ and for features that are not finite.
    """
    if queries.shape != gallery.shape:
        raise ValueError(f"queries {list(queries.shape)} and gallery {list(gallery.shape)} do not pair row by row")
    if len(queries) == 0:
        raise ValueError("no clips to retrieve")
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; it counts queries, at least 1")
    if not bool(queries.isfinite().all() and gallery.isfinite().all()):
        raise ValueError("features are not finite: has training diverged?")
    # Columns of a matrix product with equal rows may differ in the last bit, depending on the block in which they fall.
    # Each distinct row of the gallery is therefore multiplied once, and equal rows share the product, so that they tie.
    distinct, place = torch.unique(_unit_rows(gallery), dim=0, return_inverse=True)
    # d² = |q|² + |g|² − 2 q·g with |g| = 1 falls as q·g grows. A row of zeros stays zero, and is nearer by |g|² = 0.
    bonus = 0.5 * (distinct == 0).all(dim=1)
    found = []
    for start in range(0, len(queries), chunk):
        rows = _unit_rows(queries[start : start + chunk])
        with torch.autocast(rows.device.type, enabled=False):  # in bfloat16, close distances would tie
            nearness = (rows @ distinct.T).add_(bonus)[:, place]
        right = nearness.diagonal(start)
        found.append((nearness >= right[:, None]).sum(1) - 1)  # without the correct one itself
    return torch.cat(found)


@torch.no_grad()
def _unit_rows(features: Tensor) -> Tensor:
    """Return features `[N, …]` as float32 rows of unit length `[N, D]`; zeros stay zeros."""
    return functional.normalize(features.float().reshape(len(features), -1))


def _share_below(bound: int, places: list[int]) -> float:
    return sum(place < bound for place in places) / len(places)
