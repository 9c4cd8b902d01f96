"""Comparison of two runs of one manifest, e.g. of detectors or alignments, as one page that needs no network.

It shows which clips changed state, which settings differ, and for a sample of the clips that both cropped: the distance
between their points and crops, the jitter of each, and the clips that differ most.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from avprep import pages, schema, shards
from avprep.errors import RunError, ShardError
from avprep.faces import align
from avprep.manifest import Manifest, in_words
from avprep.pages.histogram import histogram
from avprep.pages.pictures import data_url
from avprep.pages.words import count
from avprep.quality.clip_view import printable
from avprep.quality.distances import MEASURES, NAMES, Cropped, distances, known, summary
from avprep.quality.excerpts import encode
from avprep.runs.fingerprint import read_manifest
from avprep.schema import CROP_SIZE
from avprep.shards.image import decode_image

CLIPS = 400
"""Maximum clips whose points and crops are compared."""
LEAST_SHARDS = 8
"""Minimum shards from which they are drawn, if there are as many: rows are shuffled, so any shard is a fair sample."""
MOST_CHANGES = 500
"""Maximum rows of the table of clips that changed state."""
EXTREMES = 20
"""Number of most different clips to show."""
THUMBNAIL, QUALITY = 160, 85
"""Side of a shown crop in pixels, and its JPEG quality."""
HISTOGRAMS = (("points_share",), ("crop",), ("shake_A", "shake_B"), ("face_A", "face_B"))
"""Measures with a histogram, in pairs if each run has its own value."""

Values = dict[str, Any]
"""Values for a part of the template."""


@dataclass(frozen=True)
class FailedState:
    """The state of a clip that is not ok: `failed` with its reason and message."""

    reason: str
    message: str


States = Mapping[str, FailedState | None]
"""The state of each clip by key: None is ok; clips of shards that are not finished are absent."""


@dataclass(frozen=True)
class Run:
    """One of the two runs: its folder, each column's run.json and each column's states."""

    out: Path
    columns: Mapping[str, dict[str, Any]]
    states: Mapping[str, States]

    @property
    def shard_size(self) -> int:
        """Clips per shard, the same in both columns."""
        return int(next(iter(self.columns.values()))["shard_size"])


def page(first: Path, second: Path, *, seed: int = 0, clips: int = CLIPS) -> str:
    """Return the comparison of two runs' folders as one HTML page; the same runs and seed give the same text.

    clips: maximum number of clips, among those ok in both runs, to compare by points and crops; drawn by the seed.
    Raises RunError if a folder holds no run or the runs have different manifests; ShardError if a shard that is read is
    damaged.
    """
    plan, other = read_manifest(first), read_manifest(second)
    if plan.digest() != other.digest():
        raise RunError(
            f"{first} and {second}: made from different manifests ({in_words(plan)}, and {in_words(other, plan)}): "
            "only runs of one manifest can be compared"
        )
    a, b = _run(first, plan), _run(second, plan)
    begun = [column for column in schema.COLUMNS if column in a.columns and column in b.columns]
    return pages.render(
        __package__,
        "compare.html",
        title="Two runs compared",
        dataset=printable(plan.dataset),
        n_clips=len(plan.clips),
        digest_=plan.digest()[:12],
        runs=[_about(name, run, plan) for name, run in zip(NAMES, (a, b), strict=True)],
        settings=list(_settings(a, b)),
        changes=[_changes(column, plan, a, b) for column in begun],
        most_changes=MOST_CHANGES,
        **_crops(plan, a, b, seed, clips),
    )


def _run(out: Path, plan: Manifest) -> Run:
    columns = {column: run for column in schema.COLUMNS if (run := shards.read_run(out, column)) is not None}
    if not columns:
        raise RunError(f"{out}: no column was ever started there")
    return Run(out, columns, {column: _states(out, column, run, plan) for column, run in columns.items()})


def _states(out: Path, column: str, run: dict[str, Any], plan: Manifest) -> dict[str, FailedState | None]:
    found: dict[str, FailedState | None] = {}
    for name, _ in plan.shards(run["shard_size"]):
        sidecar = shards.read_sidecar(out, column, name)
        for clip in () if sidecar is None else sidecar["clips"]:
            ok = clip["state"] == "ok"
            found[clip["key"]] = None if ok else FailedState(clip["reason"], clip["message"])
    return found


# What changed


def _about(name: str, run: Run, plan: Manifest) -> Values:
    """Return a run's folder, its crop settings and the outcome of its clips."""
    counts = []
    for column, states in run.states.items():
        failed = sum(one is not None for one in states.values())
        missing = len(plan.clips) - len(states)
        counts.append(
            f"{column}: {len(states) - failed:,} ok, {failed:,} failed" + (f", {missing:,} missing" * bool(missing))
        )
    crop = run.columns.get("crop", {}).get("settings") or {}
    how = ", ".join(printable(str(crop[key])) for key in ("detector", "align") if key in crop)
    return {"name": name, "out": printable(str(run.out), 300), "how": how or "–", "counts": counts}


def _settings(a: Run, b: Run) -> Iterator[tuple[str, str, str]]:
    """Yield the name and both values of each setting that differs."""
    for column in schema.COLUMNS:
        sides = [dict(_flat(run.columns.get(column, {}))) for run in (a, b)]
        for one, run in zip(sides, (a, b), strict=True):
            one["begun"] = "yes" if column in run.columns else "no"
        for name in dict.fromkeys((*sides[0], *sides[1])):
            first, second = (_value(one[name]) if name in one else "–" for one in sides)
            if first != second and (name == "begun" or all(column in run.columns for run in (a, b))):
                yield f"{column} {printable(name)}", printable(first, 48), printable(second, 48)


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _flat(run: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in run.items():
        if isinstance(value, dict) and name != "clips":
            yield from _flat(value, f"{before}{name}.")
        elif name not in ("manifest", "clips", "avprep_run", "column"):
            yield f"{before}{name}".removeprefix("settings."), value


def _changes(column: str, plan: Manifest, a: Run, b: Run) -> Values:
    """Return the clips with a different state, or with a different reason of failure."""
    both: Counter[tuple[str, str]] = Counter()
    rows: list[tuple[str, FailedState | None, FailedState | None]] = []
    changed = 0
    for clip in plan.clips:
        first, second = (run.states[column].get(clip.key, FailedState("missing", "")) for run in (a, b))
        before, after = ("ok" if one is None else printable(one.reason) for one in (first, second))
        both[before, after] += 1
        if before != after and all(clip.key in run.states[column] for run in (a, b)):
            changed += 1
            if changed <= MOST_CHANGES:
                rows.append((printable(clip.key, 200), _printable(first), _printable(second)))
    ways = sorted(both.items(), key=lambda item: (-item[1], item[0]))
    return {
        "column": column,
        "ways": [(before, after, f"{n:,}") for (before, after), n in ways],
        "n": changed,
        "rows": rows,
    }


def _printable(state: FailedState | None) -> FailedState | None:
    return None if state is None else FailedState(printable(state.reason), printable(state.message, 300))


# How far apart


def _crops(plan: Manifest, a: Run, b: Run, seed: int, clips: int) -> Values:
    """Return the comparison of points and crops; `how`: of which clips, or why there is none."""
    nothing: Values = {"summary": [], "plots": [], "extremes": []}
    if any("crop" not in run.columns for run in (a, b)):
        return {"how": "Not compared: one of the runs has no crops.", **nothing}
    ok = {key for key, state in a.states["crop"].items() if state is None and b.states["crop"].get(key, state) is None}
    ok &= b.states["crop"].keys()
    drawn, n_shards = sample(plan, max(a.shard_size, b.shard_size), ok, seed, clips)
    if not drawn:
        return {"how": "Not compared: no clip is ok in both runs.", **nothing}
    ours, theirs = _faces(a, plan, drawn), _faces(b, plan, drawn)
    alike = [key for key in drawn if len(ours[key].affine) == len(theirs[key].affine)]
    apart = {key: distances(ours[key], theirs[key]) for key in alike}
    how = (
        f"{'The only clip that is' if len(ok) == 1 else f'All {len(ok):,} clips that are'} ok in both runs."
        if len(drawn) == len(ok)
        else f"{count(len(drawn), 'clip')} of the {len(ok):,} that are ok in both runs, drawn with seed {seed} from "
        f"{count(n_shards, 'shard')}."
    )
    if len(alike) < len(drawn):
        how += f" {count(len(drawn) - len(alike), 'clip')} with another number of frames in B left out."
    if not alike:
        return {"how": how, **nothing}
    different = [key for key in alike if apart[key]["crop"] > 0]
    extremes = sorted(different, key=lambda key: (-apart[key]["crop"], key))[:EXTREMES]
    rows = list(apart.values())
    return {
        "how": how,
        "summary": [_measured(name, rows) for name in MEASURES],
        "plots": [plot for names in HISTOGRAMS if (plot := _plot(names, rows))],
        "extremes": [_pair(key, ours[key], theirs[key], apart[key]) for key in extremes],
    }


def sample(plan: Manifest, shard_size: int, ok: set[str], seed: int, clips: int) -> tuple[list[str], int]:
    """Draw clips from a few shards, to read few; return their keys in manifest order and the number of shards.

    ok: the keys to draw from.
    """
    rng = random.Random(seed)
    order = list(plan.shards(shard_size))
    rng.shuffle(order)
    found: list[str] = []
    used = 0
    for _, rows in order:
        here = [clip.key for clip in rows if clip.key in ok]
        used += bool(here)
        found += here
        if used >= LEAST_SHARDS and len(found) >= clips:
            break
    chosen = set(found if len(found) <= clips else rng.sample(found, clips))
    return [clip.key for clip in plan.clips if clip.key in chosen], used


def _faces(run: Run, plan: Manifest, keys: Iterable[str]) -> dict[str, Cropped]:
    """Read a run's crops of some clips, one sample in memory at a time."""
    wanted = set(keys)
    found: dict[str, Cropped] = {}
    for name, rows in plan.shards(run.shard_size):
        here = [clip.key for clip in rows if clip.key in wanted]
        shard = shards.ColumnShard.read(run.out, "crop", name) if here else None
        if shard is None:
            continue
        for key in here:
            try:
                found[key] = _face(key, shard.members(key))
            except ShardError as error:
                named = "" if str(shard.path.with_suffix("")) in str(error) else f"{shard.path}: "
                raise ShardError(f"{named}{printable(str(error), 300)}") from error
    return found


def _face(key: str, members: Mapping[str, bytes]) -> Cropped:
    facts = schema.check_sample("crop", key, members)
    last = facts["n_frames"] - 1
    image_format = schema.image_format(members)
    first, middle, end = (members[schema.frame_member(n, image_format)] for n in (0, (last + 1) // 2, last))
    return Cropped(
        schema.decode_array(members["points.npy"]),
        schema.decode_array(members["affine.npy"]),
        facts,
        (0, (last + 1) // 2, last),
        (first, middle, end),
    )


def _measured(name: str, rows: Sequence[Mapping[str, float]]) -> Values:
    """Return a row of the table of measures: its percentiles and the number of clips."""
    measure = MEASURES[name]
    n, values = summary(rows, name)
    cells = [measure.shown(value) for value in values] or ["–"] * 6
    return {"title": measure.title, "unit": measure.unit, "cells": cells, "n": f"{n:,}"}


def _plot(names: Sequence[str], rows: Sequence[Mapping[str, float]]) -> Values | None:
    """Return the histogram of a measure, or of both runs'; None if no clip has it."""
    first, *others = (known(rows, name) for name in names)
    if not first.size and not any(other.size for other in others):
        return None
    measure = MEASURES[names[0]]
    title = measure.title.removesuffix(", A")
    plot = histogram(first, title, measure.unit, other=others[0] if others else None)
    return {"title": title, "histogram": plot, "names": NAMES if others else ()}


def _pair(key: str, a: Cropped, b: Cropped, apart: Mapping[str, float]) -> Values:
    """Return the values to show for one clip in both runs."""

    def with_unit(name: str) -> str:
        return f"{MEASURES[name].shown(apart[name])} {MEASURES[name].unit}"

    facts = [f"crops {with_unit('crop')} apart", f"points {with_unit('points_px')} ({with_unit('points_share')})"]
    for name, title in (("shake", "shake"), ("face", "face size")):
        first, second = (MEASURES[f"{name}_{run}"].shown(apart[f"{name}_{run}"]) for run in NAMES)
        facts.append(f"{title} {first} and {second}")
    strips = [
        {"name": name, "other": rest, "crops": [_crop(key, own, other, n) for n in range(3)]}
        for name, rest, own, other in (("A", "B", a, b), ("B", "A", b, a))
    ]
    return {"key": printable(key, 200), "facts": "; ".join(facts), "strips": strips}


def _crop(key: str, own: Cropped, other: Cropped, n: int) -> Values:
    """Return a crop, its own points as dots and the other run's as rings."""
    index = own.indices[n]
    image = decode_image(own.crops[n])
    if image is None:
        raise ShardError(f"{printable(key)}: crop {index} is damaged")
    small = cv2.resize(image, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    marks = [
        [
            (x, y)
            for x, y in align.apply(own.affine[index].astype(np.float64), points[index]).tolist()
            if -0.5 <= x < CROP_SIZE - 0.5 and -0.5 <= y < CROP_SIZE - 0.5  # NaN is neither
        ]
        for points in (other.points, own.points)
    ]
    url = data_url(encode(np.asarray(small, np.uint8), QUALITY))
    return {"index": index, "url": url, "rings": marks[0], "dots": marks[1]}
