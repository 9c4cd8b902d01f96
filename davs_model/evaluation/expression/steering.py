"""The same face and audio with each emotion in turn: the emotion should be visible, and the lips should not change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from davs_model.evaluation.expression.axes import COLUMNS, Bench, Kept
from davs_model.evaluation.expression.targets import Target, each, others_showing
from davs_model.evaluation.metrics.spread import Estimate
from davs_model.evaluation.progress import Progress
from davs_model.models.base import Measure

UNCHANGED = ("opening_r", "sync_confidence")
"""The metrics that should not depend on the emotion."""


def measure(
    bench: Bench, chosen: Sequence[Target], progress: Progress = lambda _: None, wanted: int | None = None
) -> Measure:
    """Generate targets with an expression of every emotion; progress, wanted: as in `each`.

    Each expression is that of a clip of another speaker, drawn by the seed.
    """
    rng = np.random.default_rng([bench.seed, 21])
    kept, reads = Kept(), np.zeros((len(bench.clips.label_names["emotions"]),) * 2, np.int64)
    shift = Kept()
    each(chosen, progress, lambda target: _add(bench, target, rng, kept, reads, shift), wanted)
    return _shown(bench, kept.estimates(bench.seed), reads, shift.estimates(bench.seed)["range"])


def _add(bench: Bench, target: Target, rng: np.random.Generator, kept: Kept, reads: Any, shift: Kept) -> None:
    clips = bench.clips
    clip, person = bench.clip(target.row), bench.person(bench.views(target))
    by_emotion: dict[str, list[float]] = {}
    names = clips.label_names["emotions"]
    donors = {emotion: others_showing(clips, emotion, target.speaker) for emotion in range(len(names))}
    drawn = {emotion: int(rng.choice(rows)) for emotion, rows in donors.items() if len(rows)}
    expressions = {emotion: bench.expression(row) for emotion, row in drawn.items()}  # if one fails, none counts
    for emotion, expression in expressions.items():
        name, film = names[emotion], bench.film(person, expression, clip)
        shown, found = bench.read(film, clip, emotion)
        for key in ("all", name):
            kept.add(key, target.speaker, found)
        reads[emotion, shown] += 1
        for key in set(UNCHANGED) & found.keys():
            by_emotion.setdefault(key, []).append(found[key])
    shift.add("range", target.speaker, {key: max(values) - min(values) for key, values in by_emotion.items()})


def _shown(bench: Bench, found: dict[str, dict[str, Estimate]], reads: Any, ranges: dict[str, Estimate]) -> Measure:
    names = bench.clips.label_names["emotions"]
    columns = [key for key in COLUMNS if key in found["all"]]
    rows = []
    for name in (*names, "all"):
        if name in found:
            cells = (found[name][key].text(COLUMNS[key][1]) for key in columns)
            of = reads.sum(0) if name == "all" else reads[names.index(name)]
            rows.append((name, *cells, *map(str, of)))
    chance = 1 / sum(name in found for name in names)
    facts: dict[str, Any] = {key: one.mean for key, one in found["all"].items()}
    facts |= {f"{key}_range": one.mean for key, one in ranges.items()}
    facts |= {
        "chance": chance,
        "intervals": {name: {key: asdict(one) for key, one in values.items()} for name, values in found.items()},
        "ranges": {key: asdict(one) for key, one in ranges.items()},
        "reads": {name: dict(zip(names, map(int, row), strict=True)) for name, row in zip(names, reads, strict=True)},
    }
    read = found["all"]["emotion"]
    summary = f"the emotion asked for is read in {read.text('.0%')} of films of one face and sound, chance {chance:.0%}"
    between = "; ".join(f"{COLUMNS[key][0]}: {one.text()}" for key, one in ranges.items())
    notes = (
        "The same pictures and the same sound with an expression of each emotion, each of another person's clip.",
        f"Largest less smallest over the emotions, mean over clips: {between}." if between else "",
    )
    head = ("emotion asked for", *(COLUMNS[key][0] for key in columns), *(f"read: {name}" for name in names))
    title = "The same face and sound, each emotion"
    return Measure("steering", summary, facts, title, tuple(filter(None, notes)), head, tuple(rows))
