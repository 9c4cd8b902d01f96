"""Two runs of one manifest side by side: detectors, or ways of aligning, as one page that needs no network.

Which clips changed state, which settings differ, and for a sample of the clips that both cropped: how far their points
and crops lie apart, how restless each is, and the clips that differ most, to look at.
"""

from __future__ import annotations

import base64
import html
import json
import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from avprep import schema, shards
from avprep.errors import RunError, ShardError
from avprep.faces import align
from avprep.manifest import Manifest
from avprep.quality.clip_view import printable
from avprep.quality.excerpts import encode
from avprep.runs.fingerprint import read_fingerprint, read_plan
from avprep.schema import CROP_SIZE
from avprep.shards.image import decode_image

CLIPS = 400
"""Clips whose points and crops are compared, at most."""
LEAST_SHARDS = 8
"""Shards that they are drawn from where there are so many: rows are shuffled, so that any shard is a fair sample."""
MOST_CHANGES = 500
"""Rows of the table of clips that changed state."""
EXTREMES = 20
"""Clips that differ most and are shown."""
THUMBNAIL, QUALITY = 160, 85
"""Pixels of a shown crop's side, and its JPEG quality."""
BINS = 28
"""Bars of a histogram; the last holds what lies beyond the 98th percentile."""
NAMES = ("A", "B")

_PERCENTILES = (5, 25, 50, 75, 95, 100)
_KINDS = {"eyes": [0, 1], "nose": [2], "mouth corners": [3, 4]}


@dataclass(frozen=True)
class Measure:
    """What is measured of every sampled clip.

    title, unit: as the page has them. digits: decimal places.
    """

    title: str
    unit: str
    digits: int = 2


MEASURES = {
    "points_px": Measure("distance between points", "source px"),
    "points_share": Measure("distance between points", "% of face size", 1),
    "eyes": Measure("… of the eyes", "source px"),
    "nose": Measure("… of the nose", "source px"),
    "mouth corners": Measure("… of the mouth corners", "source px"),
    "crop": Measure("distance between crops", "crop px"),
    "right": Measure("B's face lies further right by", "crop px"),
    "down": Measure("B's face lies further down by", "crop px"),
    "zoom": Measure("B's face is larger by", "%", 1),
    "against": Measure("movement of the crops against each other", "crop px a frame", 3),
    "shake_A": Measure("shake, A", "crop px a frame²", 3),
    "shake_B": Measure("shake, B", "crop px a frame²", 3),
    "jitter_A": Measure("jitter, A", "crop px a frame", 3),
    "jitter_B": Measure("jitter, B", "crop px a frame", 3),
    "raw_A": Measure("jitter without smoothing, A", "crop px a frame", 3),
    "raw_B": Measure("jitter without smoothing, B", "crop px a frame", 3),
    "face_A": Measure("face size, A", "source px", 1),
    "face_B": Measure("face size, B", "source px", 1),
}
"""In the order of the page."""
HISTOGRAMS = (("points_share",), ("crop",), ("shake_A", "shake_B"), ("face_A", "face_B"))
"""Measures that are drawn, in pairs where both runs have one."""


@dataclass(frozen=True)
class Failure:
    """The state of a clip that is not ok: `failed` with its reason and message."""

    reason: str
    message: str


States = Mapping[str, Failure | None]
"""The state of each clip by key: None is ok; clips of shards that are not finished are absent."""


@dataclass(frozen=True)
class Run:
    """One of the two runs: its folder, each column's run.json and each column's states."""

    out: Path
    columns: Mapping[str, dict[str, Any]]
    states: Mapping[str, States]

    @property
    def shard_size(self) -> int:
        """Clips of a shard, the same in both columns."""
        return int(next(iter(self.columns.values()))["shard_size"])


@dataclass(frozen=True)
class Face:
    """What a run cropped of one clip.

    points: float32 (T, 5, 2), affine: float32 (T, 2, 3), both of `avprep.schema`. facts: those of clip.json.
    crops: the first, the middle and the last one, as they are stored; indices: their frames.
    """

    points: NDArray[np.float32]
    affine: NDArray[np.float32]
    facts: dict[str, Any]
    indices: tuple[int, int, int]
    crops: tuple[bytes, bytes, bytes]


def page(first: Path, second: Path, *, seed: int = 0, clips: int = CLIPS) -> str:
    """Return the comparison of two runs' folders as one HTML page; the same runs and seed give the same text.

    clips: at most so many of those that are ok in both have their points and crops compared, drawn by the seed.
    Raises RunError where a folder holds no run, or where the two are of different manifests; ShardError where a shard
    that is read is damaged.
    """
    plan, other = read_plan(first), read_plan(second)
    if plan.digest() != other.digest():
        raise RunError(
            f"{first} and {second}: made from different manifests ({plan.dataset}, {len(plan.clips)} clips, and "
            f"{other.dataset}, {len(other.clips)} clips): only runs of one manifest can be compared"
        )
    a, b = _run(first, plan), _run(second, plan)
    blocks = [_about(a, b, plan), _settings(a, b)]
    begun = [column for column in schema.COLUMNS if column in a.columns and column in b.columns]
    blocks += [_changes(column, plan, a, b) for column in begun]
    blocks += _crops(plan, a, b, seed, clips)
    template = resources.files(__package__).joinpath("templates/compare.html").read_text(encoding="utf-8")
    return re.sub("@BODY@", lambda _: "\n".join(block for block in blocks if block), template)


def _run(out: Path, plan: Manifest) -> Run:
    columns = {column: run for column in schema.COLUMNS if (run := read_fingerprint(out, column)) is not None}
    if not columns:
        raise RunError(f"{out}: no column was ever started there")
    return Run(out, columns, {column: _states(out, column, run, plan) for column, run in columns.items()})


def _states(out: Path, column: str, run: dict[str, Any], plan: Manifest) -> dict[str, Failure | None]:
    found: dict[str, Failure | None] = {}
    for name, _ in plan.shards(run["shard_size"]):
        sidecar = shards.read_sidecar(out, column, name)
        for clip in () if sidecar is None else sidecar["clips"]:
            ok = clip["state"] == "ok"
            found[clip["key"]] = None if ok else Failure(clip["reason"], clip["message"])
    return found


# What changed


def _about(a: Run, b: Run, plan: Manifest) -> str:
    rows = []
    for name, run in zip(NAMES, (a, b), strict=True):
        counts = []
        for column, states in run.states.items():
            failed = sum(one is not None for one in states.values())
            missing = len(plan.clips) - len(states)
            counts.append(
                f"{column}: {len(states) - failed:,} ok, {failed:,} failed" + (f", {missing:,} missing" * bool(missing))
            )
        crop = run.columns.get("crop", {}).get("settings") or {}
        how = ", ".join(_text(crop[key]) for key in ("detector", "align") if key in crop)
        rows.append(
            f'<tr><th scope="row"><b class="run run-{name}">{name}</b></th><td>{_text(run.out, 300)}</td>'
            f"<td>{how or '–'}</td><td>{'<br>'.join(counts)}</td></tr>"
        )
    return (
        f"<p>The {len(plan.clips):,} clips of {_text(plan.dataset)}, two runs of one manifest "
        f"({plan.digest()[:12]}).</p>" + _table(("", "folder", "detector, align", "clips"), rows)
    )


def _settings(a: Run, b: Run) -> str:
    rows = []
    for column in schema.COLUMNS:
        sides = [dict(_flat(run.columns.get(column, {}))) for run in (a, b)]
        for one, run in zip(sides, (a, b), strict=True):
            one["begun"] = "yes" if column in run.columns else "no"
        for name in dict.fromkeys((*sides[0], *sides[1])):
            values = [_value(one[name]) if name in one else "–" for one in sides]
            if values[0] != values[1] and (name == "begun" or all(column in run.columns for run in (a, b))):
                cells = "".join(f"<td>{_text(value, 48)}</td>" for value in values)
                rows.append(f'<tr><th scope="row">{column} {_text(name)}</th>{cells}</tr>')
    shown = _table(("setting", "A", "B"), rows) if rows else "<p>None: the same settings and versions.</p>"
    return f"<h2>Settings that differ</h2>{shown}"


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _flat(run: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in run.items():
        if isinstance(value, dict) and name != "clips":
            yield from _flat(value, f"{before}{name}.")
        elif name not in ("manifest", "clips", "avprep_run", "column"):
            yield f"{before}{name}".removeprefix("settings."), value


def _changes(column: str, plan: Manifest, a: Run, b: Run) -> str:
    """Return the section of the clips that ended in another state, or failed for another reason."""
    both: Counter[tuple[str, str]] = Counter()
    rows: list[str] = []
    changed = 0
    for clip in plan.clips:
        sides = [run.states[column].get(clip.key, Failure("missing", "")) for run in (a, b)]
        words = ["ok" if one is None else one.reason for one in sides]
        finished = all(clip.key in run.states[column] for run in (a, b))
        both[words[0], words[1]] += 1
        if not finished or words[0] == words[1]:
            continue
        changed += 1
        if changed <= MOST_CHANGES:
            cells = "".join(f"<td>{_state(one)}</td>" for one in sides)
            rows.append(f'<tr><th scope="row">{_text(clip.key, 200)}</th>{cells}</tr>')
    ways = [
        f"<tr><td>{_text(before)}</td><td>{_text(after)}</td><td>{n:,}</td></tr>"
        for (before, after), n in sorted(both.items(), key=lambda item: (-item[1], item[0]))
    ]
    blocks = [f"<h2>Clips that changed state: {column}</h2>", _table(("A", "B", "clips"), ways)]
    if not changed:
        blocks.append("<p>None: every clip that both have finished ended alike.</p>")
    else:
        more = f", the first {MOST_CHANGES:,} of them in the plan's order" if changed > MOST_CHANGES else ""
        blocks += [f"<p>{_clips(changed)} changed{more}.</p>", _table(("clip", "A", "B"), rows)]
    return "\n".join(blocks)


def _state(state: Failure | None) -> str:
    return "ok" if state is None else f"<b>{_text(state.reason)}</b><br>{_text(state.message, 300)}"


# How far apart


def _crops(plan: Manifest, a: Run, b: Run, seed: int, clips: int) -> list[str]:
    """Return the sections that compare points and crops."""
    if any("crop" not in run.columns for run in (a, b)):
        return ["<h2>Points and crops</h2><p>Not compared: one of the runs has no crops.</p>"]
    ok = {key for key, state in a.states["crop"].items() if state is None and b.states["crop"].get(key, state) is None}
    ok &= b.states["crop"].keys()
    drawn, n_shards = sample(plan, max(a.shard_size, b.shard_size), ok, seed, clips)
    if not drawn:
        return ["<h2>Points and crops</h2><p>Not compared: no clip is ok in both runs.</p>"]
    ours, theirs = _faces(a, plan, drawn), _faces(b, plan, drawn)
    alike = [key for key in drawn if len(ours[key].affine) == len(theirs[key].affine)]
    apart = {key: distances(ours[key], theirs[key]) for key in alike}
    how = (
        f"All {_clips(len(ok))} that are ok in both runs."
        if len(drawn) == len(ok)
        else f"{_clips(len(drawn))} of the {len(ok):,} that are ok in both runs, drawn with seed {seed} from "
        f"{n_shards} shard{'s' * (n_shards != 1)}."
    )
    if len(alike) < len(drawn):
        how += f" {_clips(len(drawn) - len(alike))} with another number of frames in B left out."
    if not alike:
        return [f"<h2>Points and crops</h2><p>{how}</p>"]
    extremes = sorted(alike, key=lambda key: (-apart[key]["crop"], key))[:EXTREMES]
    return [
        f"<h2>Points and crops</h2><p>{how}</p>",
        _summary(list(apart.values())),
        _EXPLAINED,
        '<div class="charts">' + "".join(_histogram(names, list(apart.values())) for names in HISTOGRAMS) + "</div>",
        f"<h2>The {_clips(len(extremes))} that differ most</h2>",
        "<p>By the distance between their crops: first, middle and last frame of both. Dots are the run's own points, "
        'rings the other\'s in the same picture: <b class="run run-A">A</b>, <b class="run run-B">B</b>.</p>',
        *(_pair(key, ours[key], theirs[key], apart[key]) for key in extremes),
    ]


_EXPLAINED = """<details><summary>How each is measured</summary><ul>
<li>A clip counts once, by its mean over frames; percentiles are over clips.</li>
<li>Distance between points: of those that both runs have, in the source picture. % of face size: of the mean of both
runs' face sizes, each its detector's own box.</li>
<li>Distance between crops: from where eyes and mouth should lie in A's crop to where those places of the face lie in
B's, which has 256 px. Further right and down: the same with its sign. Larger: by the scale of the transforms.</li>
<li>Movement against each other: mean change of that distance's vector from frame to frame.</li>
<li>Shake: mean change of the crop's own motion, the second difference of where its eyes and mouth lie in the source
picture, in pixels of the crop. What it has of the head's movement is the same in both runs.</li>
<li>Jitter, as clip.json has it: mean movement of eyes and nose in the crop from frame to frame, by the run's own
smoothed points; without smoothing: that of crops from raw points. Where a detector makes the mouth from the eyes, as
opencv does, the transform takes the eyes to the same places in every frame, and it is 0: compare the shake.</li>
</ul></details>"""


def sample(plan: Manifest, shard_size: int, ok: set[str], seed: int, clips: int) -> tuple[list[str], int]:
    """Draw clips from few shards, so that few have to be read; return their keys in plan order and how many shards.

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


def _faces(run: Run, plan: Manifest, keys: Iterable[str]) -> dict[str, Face]:
    """Read what a run cropped of some clips, one sample in memory at a time."""
    wanted = set(keys)
    found: dict[str, Face] = {}
    for name, rows in plan.shards(run.shard_size):
        here = [clip.key for clip in rows if clip.key in wanted]
        sidecar = shards.read_sidecar(run.out, "crop", name) if here else None
        if sidecar is None:
            continue
        path = shards.tar_path(run.out, "crop", name)
        where = shards.places(path.with_suffix(".json"), sidecar["clips"])
        for key in here:
            try:
                found[key] = _face(key, shards.read_sample(path, key, where[key]))
            except ShardError as error:
                named = "" if str(path) in str(error) else f"{path}: "
                raise ShardError(f"{named}{printable(str(error), 300)}") from error
    return found


def _face(key: str, members: Mapping[str, bytes]) -> Face:
    facts = schema.check_sample("crop", key, members)
    last = facts["n_frames"] - 1
    image_format = next(name for name in schema.IMAGE_FORMATS if schema.frame_member(0, name) in members)
    first, middle, end = (members[schema.frame_member(n, image_format)] for n in (0, (last + 1) // 2, last))
    return Face(
        schema.decode_array(members["points.npy"]),
        schema.decode_array(members["affine.npy"]),
        facts,
        (0, (last + 1) // 2, last),
        (first, middle, end),
    )


def distances(a: Face, b: Face) -> dict[str, float]:
    """Measure how two crops of one clip, of as many frames, differ: a number for each of `MEASURES`, NaN if unknown."""
    apart = np.linalg.norm(a.points.astype(np.float64) - b.points, axis=-1)
    sizes = [_fact(face, "face_size") for face in (a, b)]
    affines = [face.affine.astype(np.float64) for face in (a, b)]
    places = [_places(affine) for affine in affines]
    moved = align.apply(affines[1], places[0]) - align.TEMPLATE
    right, down = moved.mean(axis=(0, 1))
    scales = [np.maximum(align.scale(affine), 1e-12) for affine in affines]
    points = _mean(apart)
    return {
        "points_px": points,
        "points_share": 100 * points / (sum(sizes) / 2) if sum(sizes) > 0 else math.nan,
        **{kind: _mean(apart[:, numbers]) for kind, numbers in _KINDS.items()},
        "crop": float(np.linalg.norm(moved, axis=-1).mean()),
        "right": float(right),
        "down": float(down),
        "zoom": float(100 * (np.exp(np.log(scales[1] / scales[0]).mean()) - 1)),
        "against": _mean(np.linalg.norm(np.diff(moved, axis=0), axis=-1)),
        **{
            f"shake_{name}": _mean(np.linalg.norm(np.diff(place, 2, axis=0), axis=-1)) * float(np.median(scale))
            for name, place, scale in zip(NAMES, places, scales, strict=True)
        },
        **{f"jitter_{name}": _fact(face, "jitter") for name, face in zip(NAMES, (a, b), strict=True)},
        **{f"raw_{name}": _fact(face, "jitter_unsmoothed") for name, face in zip(NAMES, (a, b), strict=True)},
        **{f"face_{name}": size for name, size in zip(NAMES, sizes, strict=True)},
    }


def _places(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the source pixels, float64 (T, 3, 2), that transforms (T, 2, 3) take to the eyes and mouth of a crop."""
    back = np.linalg.pinv(affine[:, :, :2])  # no inverse: a hostile transform may be singular
    return np.asarray((align.TEMPLATE - affine[:, None, :, 2]) @ np.swapaxes(back, -1, -2), np.float64)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else math.nan


def _fact(face: Face, name: str) -> float:
    value = face.facts.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def summary(rows: Sequence[Mapping[str, float]], measure: str) -> tuple[int, list[float]]:
    """Return of how many clips a measure is known, and its percentiles 5, 25, 50, 75, 95 and 100."""
    known = _known(rows, measure)
    return known.size, [float(value) for value in np.percentile(known, _PERCENTILES)] if known.size else []


def _known(rows: Sequence[Mapping[str, float]], measure: str) -> NDArray[np.float64]:
    values = np.array([row[measure] for row in rows], np.float64)
    return values[np.isfinite(values)]


# What the page is made of


def _summary(apart: Sequence[Mapping[str, float]]) -> str:
    rows = []
    for name, measure in MEASURES.items():
        n, values = summary(apart, name)
        cells = [_number(value, measure.digits) for value in values] or ["–"] * len(_PERCENTILES)
        cells[2] = f"<b>{cells[2]}</b>"
        numbers = "".join(f"<td>{cell}</td>" for cell in (*cells, f"{n:,}"))
        unit = f'<span class="unit">{measure.unit}</span>'
        rows.append(f'<tr><th scope="row">{measure.title} {unit}</th>{numbers}</tr>')
    return _table(("", "5 %", "25 %", "median", "75 %", "95 %", "largest", "clips"), rows, "numbers")


def _histogram(names: Sequence[str], apart: Sequence[Mapping[str, float]]) -> str:
    """Return a histogram as SVG: bars of one measure, or bars of A's and a line of B's."""
    series = [_known(apart, name) for name in names]
    measure = MEASURES[names[0]]
    title = measure.title.removesuffix(", A")
    values = np.concatenate(series)
    if not values.size:
        return ""
    low, high = float(values.min()), float(np.percentile(values, 98))
    low = 0.0 if low < high / 2 else low
    step = _step((high - low) or abs(high) or 1.0)
    low, high = step * math.floor(low / step), step * math.ceil(max(high, low + step / 2) / step)
    edges = np.linspace(low, high, BINS + 1)
    counts = [np.histogram(np.clip(one, low, high), edges)[0] for one in series]
    top = max(1, *(int(one.max()) for one in counts))
    width, height, left, bottom = 420, 220, 34, 40
    across, up = (width - left - 12) / BINS, (height - bottom - 14) / top

    def place(n: int, count: float) -> str:
        return f"{left + n * across:.1f} {height - bottom - count * up:.1f}"

    single = len(series) == 1
    bars = "".join(
        f"M{place(n, 0)}L{place(n, count)}L{place(n + 1, count)}L{place(n + 1, 0)}Z"
        for n, count in enumerate(counts[0])
        if count
    )
    parts = [f'<path class="{"bars" if single else "bars-A"}" d="{bars}"/>']
    if not single:
        corners = "L".join(f"{place(n, count)}L{place(n + 1, count)}" for n, count in enumerate(counts[1]))
        parts.append(f'<path class="line-B" d="M{place(0, 0)}L{corners}L{place(BINS, 0)}"/>')
    parts.append(f'<path class="axis" d="M{place(0, 0)}L{place(BINS, 0)}"/>')
    n_ticks = round((high - low) / step)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    beyond = any((one > high).any() for one in series)
    for n in range(n_ticks + 1):
        x, anchor = left + BINS * across * n / n_ticks, "middle"
        if n == n_ticks and beyond:
            x, anchor = width - 1, "end"
        mark = f"{low + n * step:.{digits}f}" + "+" * (anchor == "end")
        parts.append(f'<text x="{x:.1f}" y="{height - bottom + 16}" text-anchor="{anchor}">{mark}</text>')
    parts.append(f'<text x="{left - 6}" y="{14 + 8}" text-anchor="end">{top}</text>')
    parts.append(f'<text x="{left - 6}" y="{height - bottom}" text-anchor="end">0</text>')
    parts.append(f'<text x="{width - 12}" y="{height - 6}" text-anchor="end">{measure.unit}, number of clips</text>')
    key = "" if single else ': <b class="run run-A">A</b> bars, <b class="run run-B">B</b> line'
    label = f'viewBox="0 0 {width} {height}" role="img" aria-label="Histogram: {title}"'
    return f"<figure><figcaption>{title}{key}</figcaption><svg {label}>{''.join(parts)}</svg></figure>"


def _step(span: float) -> float:
    """Return a round step that divides a span into four to eight."""
    rough = span / 6
    power = 10.0 ** math.floor(math.log10(rough))
    return float(next(power * factor for factor in (1, 2, 5, 10) if rough <= power * factor * 1.2))


def _pair(key: str, a: Face, b: Face, apart: Mapping[str, float]) -> str:
    """Return the pictures of one clip in both runs."""
    said = [
        f"crops {_with_unit(apart, 'crop')} apart",
        f"points {_with_unit(apart, 'points_px')} ({_with_unit(apart, 'points_share')})",
        *(
            f"{title} {_number(apart[f'{name}_A'], digits)} and {_number(apart[f'{name}_B'], digits)}"
            for name, title, digits in (("shake", "shake", 3), ("face", "face size", 1))
        ),
    ]
    strips = []
    for name, own, other in (("A", a, b), ("B", b, a)):
        crops = "".join(_crop(key, name, own, other, n) for n in range(3))
        strips.append(f'<div class="strip"><b class="run run-{name}">{name}</b>{crops}</div>')
    return (
        f'<article><h3>{_text(key, 200)}</h3><p class="note">{"; ".join(said)}</p>'
        f'<div class="pair">{"".join(strips)}</div></article>'
    )


def _crop(key: str, name: str, own: Face, other: Face, n: int) -> str:
    """Return a crop as SVG, its own points as dots and the other run's as rings."""
    index = own.indices[n]
    image = decode_image(own.crops[n])
    if image is None:
        raise ShardError(f"{printable(key)}: crop {index} is damaged")
    small = cv2.resize(image, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    data = encode(np.asarray(small, np.uint8), QUALITY)
    rest = next(one for one in NAMES if one != name)
    marks = "".join(
        f'<circle class="{kind}-{run}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'
        for kind, run, points, radius in (("ring", rest, other.points, 6), ("dot", name, own.points, 4))
        for x, y in align.apply(own.affine[index].astype(np.float64), points[index])
        if -0.5 <= x < CROP_SIZE - 0.5 and -0.5 <= y < CROP_SIZE - 0.5  # NaN is neither
    )
    # Pixel centres lie at +0.5 of what the picture is stretched over.
    return (
        f'<svg viewBox="-0.5 -0.5 {CROP_SIZE} {CROP_SIZE}" role="img" aria-label="{name}, frame {index}">'
        f'<image x="-0.5" y="-0.5" width="{CROP_SIZE}" height="{CROP_SIZE}" '
        f'href="data:image/jpeg;base64,{base64.b64encode(data).decode()}"/>{marks}'
        f'<text x="6" y="246">{index}</text></svg>'
    )


def _with_unit(apart: Mapping[str, float], name: str) -> str:
    return f"{_number(apart[name], MEASURES[name].digits)} {MEASURES[name].unit}"


def _number(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "−") if math.isfinite(value) else "–"


def _clips(n: int) -> str:
    return f"{n:,} clip{'s' * (n != 1)}"


def _table(titles: Sequence[str], rows: Sequence[str], kind: str = "") -> str:
    head = "".join(f'<th scope="col">{title}</th>' if title else "<td></td>" for title in titles)
    return (
        f'<div class="wide" tabindex="0" role="group" aria-label="Table"><table class="{kind}">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _text(value: object, longest: int = 120) -> str:
    """Return a text that can stand anywhere in the page."""
    return html.escape(printable(str(value), longest))
