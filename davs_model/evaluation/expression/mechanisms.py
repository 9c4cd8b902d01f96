"""Whether several views improve the identity feature, and whether the expression feature holds only the expression."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from avprep.errors import ShardError
from davs_model.evaluation.expression.axes import Bench
from davs_model.evaluation.expression.targets import Target, frames_of
from davs_model.evaluation.metrics.leakage import Leakage, cross_leakage
from davs_model.evaluation.metrics.spread import estimate
from davs_model.models.base import Measure

COUNTS = (1, 2, 4, 8)
"""Numbers of views of a person."""
DRAWS = 4
"""Number of sets of views for each person and number of views."""


def views(bench: Bench, chosen: Sequence[Target]) -> Measure | None:
    """Return the similarity of identity features from different views of the same person.

    chosen: with `COUNTS[-1]` views each. None without two people with enough clips.
    """
    near: dict[int, list[float]] = {count: [] for count in COUNTS}
    wide: dict[int, list[float]] = {count: [] for count in COUNTS}
    speakers = []
    for speaker in sorted({target.speaker for target in chosen}):
        sets = [target.views for target in chosen if target.speaker == speaker][:DRAWS]
        if len(sets) < 2:
            continue
        try:
            features = {count: _merged(bench, sets, count) for count in COUNTS}
        except ShardError:  # damaged clips, and features merged from them, are left out of every evaluation
            continue
        whole = torch.stack(features[COUNTS[-1]])
        for count in COUNTS:
            # Compared with the features of the other sets from all of their views, never with the same set.
            cosines = [
                float(functional.cosine_similarity(one, torch.cat((whole[:n], whole[n + 1 :])).mean(0), dim=0))
                for n, one in enumerate(features[count])
            ]
            near[count].append(float(np.mean(cosines)))
            wide[count].append(float(np.std(cosines)))
        speakers.append(speaker)
    if len(speakers) < 2:
        return None
    found = {
        count: (estimate(near[count], speakers, seed=bench.seed), estimate(wide[count], speakers, seed=bench.seed))
        for count in COUNTS
    }
    facts: dict[str, Any] = {f"cosine_{count}": near.mean for count, (near, _) in found.items()}
    facts |= {f"spread_{count}": spread.mean for count, (_, spread) in found.items()}
    rows = tuple((str(count), near.text(), spread.text(".4f")) for count, (near, spread) in found.items())
    first, last = found[COUNTS[0]], found[COUNTS[-1]]
    summary = (
        f"identity cosine {first[0].mean:.3f} ± {first[1].mean:.3f} with {COUNTS[0]} picture, {last[0].mean:.3f} ± "
        f"{last[1].mean:.3f} with {COUNTS[-1]}"
    )
    note = (
        f"Merged identity features of K pictures from K clips of a person, against the mean of those of {COUNTS[-1]} "
        f"pictures of other sets; {len(speakers)} people, up to {DRAWS} sets each. "
        "Spread: standard deviation over them."
    )
    head = ("pictures", "cosine", "spread")
    return Measure("views", summary, facts, "Several pictures of one person", (note,), head, rows)


def _merged(bench: Bench, sets: Sequence[Sequence[tuple[int, int]]], count: int) -> list[Tensor]:
    """Return the merged feature `[D]` of the first `count` views of each set."""
    found = []
    for one in sets:
        frames = [frames_of(bench.clips, row, [at], bench.side, bench.device) for row, at in one[:count]]
        found.append(bench.model.person_features(torch.cat(frames)[None])[0].float())
    return found


def leaks(bench: Bench, limit: int) -> Measure | None:
    """Return what a linear SVM reads from the expression of clips: people and words, which should be near chance.

    The emotion, which should be readable, is reported for comparison. None if nothing can be read.
    """
    clips, codes, rows = bench.clips, [], []
    for row in np.flatnonzero(clips.emotions >= 0)[:limit]:
        try:
            codes.append(bench.expression(int(row))[0].float())
        except ShardError:
            continue
        rows.append(row)
    found: dict[str, Leakage] = {}
    labels = {"emotion": clips.emotions, "people": clips.speakers, "words": clips.words}
    for name, of in labels.items():
        try:
            found[name] = cross_leakage(torch.stack(codes), of[rows], seed=bench.seed)
        except (ValueError, RuntimeError):  # too few clips of a label; no clips at all
            continue
    if not found:
        return None
    table = tuple(
        (name, f"{one.accuracy:.3f}", f"{one.chance:.3f}", _binomial(one), str(one.n_test))
        for name, one in found.items()
    )
    facts: dict[str, Any] = {
        f"{name}_{key}": getattr(one, key) for name, one in found.items() for key in ("accuracy", "chance")
    }
    summary = "an SVM reads from the expression: " + ", ".join(
        f"{name} {one.accuracy:.0%} (chance {one.chance:.0%})" for name, one in found.items()
    )
    note = "A linear SVM on the expression of clips, five-fold; emotions are to be read, people and words are not."
    head = ("read", "accuracy", "chance", "95 % of the accuracy", "clips")
    return Measure("expression_leakage", summary, facts, "What the expression gives away", (note,), head, table)


def _binomial(one: Leakage) -> str:
    """Return Wilson's interval of an accuracy, as text, for independent clips."""
    z, n, p = 1.96, one.n_test, one.accuracy
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return f"[{(middle - half) / (1 + z * z / n):.3f}, {(middle + half) / (1 + z * z / n):.3f}]"
