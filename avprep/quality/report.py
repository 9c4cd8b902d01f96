"""The report: one HTML page to look at what a run has made, which needs no network.

Keys, messages and paths are strangers' text: all of it is escaped, and the page's policy runs no script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from avprep import schema
from avprep.errors import REASONS, RunError, ShardError
from avprep.quality import excerpts, findings
from avprep.quality.excerpts import Label, Shot, Sound
from avprep.quality.findings import FIGURES, Column, Failure, Figure, Findings, Row
from avprep.runs.status import SplitStatus

PICTURES_MB = 7
"""Of all pictures together: base64 adds a third, and what is said of clips some more."""
STILLS = 200
"""Failed clips whose video is looked into; rare reasons whole, the others in equal numbers."""
PER_SPLIT = 12
"""Clips on the contact sheet of each split."""
STILL_SIDE, SHEET_SIDE, WORST_SIDE = 160, 160, 128
"""Longer sides of pictures: of a failed clip's video, on a contact sheet, among the worst clips."""
STRIP_COLUMNS = 400
"""Most columns of a drawn MFCC strip; more are averaged."""
ROWS = 50
"""Rows of the table of failures that are shown at first."""
FILTERS = ("column", "split", "reason")
"""Fields of a failure that the table can be filtered by; none is a stranger's word."""
SETTINGS = 100
"""Most lines of a table of settings."""
SHOWN = 160
"""Characters shown of a key or a setting."""
BINS = 24
"""About the number of bars of a histogram."""


@dataclass(frozen=True)
class Report:
    """The page and what it is made of: clips ok in any column, failures, and problems that were met."""

    page: str
    n_clips: int
    n_failures: int
    n_problems: int


def report(out: Path, *, root: Path | None = None, seed: int = 0) -> Report:
    """Return the report of a run's folder; the same folder, data set and seed give the same page.

    root: where the data set lies now, if not where it was indexed. seed: draws the clips that are looked at.
    Raises RunError where `out` holds nothing, ManifestError where its plan cannot be read. A shard that cannot be read
    is a problem on the page.
    """
    found = findings.gather(out, seed=seed, per_split=4 * PER_SPLIT)  # some may be damaged
    if all(column.run is None for column in found.columns.values()):
        raise RunError(f"{out}: holds no column to report on; run `avprep crop` or `avprep mfcc` first")
    shown = [row for rows in (*found.sheets.values(), *found.worst.values()) for row in rows]
    plan, labels = excerpts.read_labels(out, {one.key for one in shown} | {one.key for one in found.failures})
    root = plan.root if root is None else root
    pictures = Pictures(PICTURES_MB * 10**6)
    sheets = _sheets(out, found, labels, pictures)
    worst = _worst(out, found, labels, pictures)
    failures = _failures(found, labels, root, pictures, seed)
    sections = {
        "totals": ("Totals", _totals(found)),
        "problems": ("Problems", _problems(found)),
        "failures": ("Failures", failures),
        "figures": ("Figures", _figures(found)),
        "sheets": ("Contact sheets", sheets),
        "worst": ("Worst clips", worst),
        "settings": ("Settings", _settings(found, plan.header())),
    }
    lede = _lede(out, found)
    if pictures.left_out:
        lede += (
            f'<p class="alarm">{pictures.left_out} pictures are left out: together they exceed {PICTURES_MB} MB.</p>'
        )
    title = f"Report of {text(plan.dataset or 'a run')}"
    return Report(fill(title, lede, sections), found.n_clips, found.n_failures, found.n_problems)


# What any page of ours is made of


def fill(title: str, lede: str, sections: Mapping[str, tuple[str, str]]) -> str:
    """Return a page of our look: title, what stands above, and sections by id (heading, HTML; left out where empty).

    All of it is HTML already: strangers' words have gone through `text`. A `<section data-table="50">` in it with a
    form, a table and a button of class `more` can be sorted and filtered, and shows so many rows at first.
    """
    template = resources.files(__package__).joinpath("templates/report.html").read_text(encoding="utf-8")
    (script,) = re.findall("<script>(.*?)</script>", template, re.DOTALL)
    there = {name: section for name, section in sections.items() if section[1]}
    links = "".join(f'<li><a href="#{name}">{heading}</a></li>' for name, (heading, _) in there.items())
    filling = {
        "SCRIPT": f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
        "TITLE": title,
        "LEDE": lede,
        "NAV": f'<nav aria-label="Sections"><ul>{links}</ul></nav>' if len(there) > 1 else "",
        "MAIN": "\n".join(
            f'<section id="{name}" aria-labelledby="{name}-h"><h2 id="{name}-h">{heading}</h2>{body}</section>'
            for name, (heading, body) in there.items()
        ),
    }
    return re.sub("@(SCRIPT|TITLE|LEDE|NAV|MAIN)@", lambda match: filling[match[1]], template)


def text(words: object, limit: int = SHOWN) -> str:
    """Return a stranger's words for HTML, of elements and attributes: escaped, on a line, cut, nothing invisible."""
    plain = str(words)
    plain = plain if len(plain) <= limit else f"{plain[: limit - 1]}…"
    return html.escape("".join(char if char.isprintable() else ascii(char)[1:-1] for char in plain))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str = "", numbers: bool = False) -> str:
    """Return a table; cells are HTML. numbers: all cells but the first of a row are numbers, and stand to the right."""
    kinds = ["", *([' class="number"' if numbers else ""] * (len(heads) - 1))]
    head = "".join(f'<th scope="col"{kind}>{name}</th>' for name, kind in zip(heads, kinds, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{kind}>{cell}</td>' for cell, kind in zip(row, kinds, strict=True))}</tr>" for row in rows
    )
    css = f'class="numbers" style="--numbers:{len(heads) - 1}"' if numbers else 'class="pairs"'
    return f"<table {css}><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


@dataclass
class Pictures:
    """Puts pictures into the page while there is room for them (bytes, before base64)."""

    room: int
    left_out: int = 0

    def url(self, data: bytes, kind: str = "jpeg") -> str | None:
        """Return the address of a picture, which holds it; None where there is no room."""
        if len(data) > self.room:
            self.left_out += 1
            return None
        self.room -= len(data)
        return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def histogram(values: NDArray[np.float64], title: str, unit: str = "", grain: float = 0.0) -> str:
    """Return a histogram as SVG that follows the page's colours, with its numbers in words.

    values: float64 (N,), N > 0, finite, in `unit`. grain: the step in which they vary; bars are multiples of it.
    Bars of another colour at an end hold all that lies beyond: a few odd values must not squeeze the others together.
    """
    least, p5, median, p95, most = (float(value) for value in np.quantile(values, [0, 0.05, 0.5, 0.95, 1]))
    if least == most:
        words = f"{_number(least, unit)} in {_count(len(values), 'clip')}"
        return _plot([(len(values), words, False)], [(0.5, _number(least))], f"{title}: {words}") + _note(words)
    low, high = (float(value) for value in np.quantile(values, [0.005, 0.995]))
    span = high - low
    low, high = (least if least >= low - span else low), (most if most <= high + span else high)
    step = _round_step((high - low if high > low else most - least) / BINS, grain)
    first = math.floor(low / step + 1e-9)
    n_bars = math.floor(high / step + 1e-9) - first + 1
    bins = np.clip(np.floor(values / step + 1e-9) - first, -1, n_bars).astype(np.int64)
    under, *inside, over = np.bincount(bins + 1, minlength=n_bars + 2).tolist()
    edges = [(first + n) * step for n in range(n_bars + 1)]
    bars = [
        (count, f"{_number(edge)} to {_number(end, unit)}", False)
        for (edge, end), count in zip(itertools.pairwise(edges), inside, strict=True)
    ]
    if under:
        bars.insert(0, (under, f"below {_number(edges[0], unit)}", True))
    if over:
        bars.append((over, f"from {_number(edges[-1], unit)}", True))
    tick = max(step, _round_step((edges[-1] - edges[0]) / 5))
    multiples = range(math.ceil(edges[0] / tick - 1e-9), math.floor(edges[-1] / tick + 1e-9) + 1)
    ticks = [((n * tick - edges[0]) / step + bool(under), _number(n * tick)) for n in multiples]
    words = (
        f"median {_number(median, unit)}, 5 to 95 %: {_number(p5)} to {_number(p95, unit)}, "
        f"least {_number(least)}, most {_number(most, unit)}; {_count(len(values), 'clip')}"
    )
    return _plot(bars, ticks, f"{title}: {words}") + _note(words)


def _plot(bars: Sequence[tuple[int, str, bool]], ticks: Iterable[tuple[float, str]], words: str) -> str:
    """Draw bars (count, words, whether it holds what lies beyond) above an axis, ticks so many bars from its left."""
    left, right, top, bottom = 8.0, 312.0, 16.0, 116.0
    width = (right - left) / max(len(bars), 8)
    begin = (left + right - len(bars) * width) / 2
    tallest = max(count for count, _, _ in bars)
    drawn = []
    for n, (count, label, beyond) in enumerate(bars):
        height = max((bottom - top) * count / tallest, 1.5) if count else 0.0
        kind = ' class="beyond"' if beyond else ""
        drawn.append(
            f'<rect{kind} x="{begin + n * width:.2f}" y="{bottom - height:.2f}" width="{max(width - 1, 0.5):.2f}" '
            f'height="{height:.2f}"><title>{label}: {_count(count, "clip")}</title></rect>'
        )
    for place, label in ticks:
        x = begin + place * width
        anchor = "start" if x < left + 14 else "end" if x > right - 14 else "middle"
        drawn.append(
            f'<line x1="{x:.2f}" x2="{x:.2f}" y1="{bottom}" y2="{bottom + 4}"/>'
            f'<text x="{x:.2f}" y="{bottom + 16}" text-anchor="{anchor}">{label}</text>'
        )
    drawn.append(f'<line x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    drawn.append(f'<text x="{begin:.2f}" y="10">{tallest:,}</text>')
    return f'<svg class="plot" viewBox="0 0 320 136" role="img" aria-label="{words}">{"".join(drawn)}</svg>'


def _note(words: str) -> str:
    return f'<p class="note">{words}</p>'


def _round_step(least: float, grain: float = 0.0) -> float:
    """Return the next of 1, 2, 5 × 10ⁿ, or the next multiple of the grain."""
    if grain:
        return grain * max(1, math.ceil(least / grain - 1e-9))
    power = 10.0 ** math.floor(math.log10(max(least, 1e-12)))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def film(shots: Sequence[Shot], sound: Sound | None, n_frames: int, pictures: Pictures) -> str:
    """Return three frames of a clip, eyes and mouth marked, and its MFCC strip below on its time axis."""
    frames = [shot.frame for shot in shots]
    pieces = []
    if shots:
        pieces.append(f'<div class="shots">{"".join(_shot(shot, pictures, SHEET_SIDE) for shot in shots)}</div>')
        lines = "".join(
            f'<line x1="{100 * (n + 0.5) / len(frames):.2f}" y1="0" x2="{100 * (frame + 0.5) / n_frames:.2f}" y2="10"/>'
            for n, frame in enumerate(frames)
        )
        pieces.append(
            f'<svg class="links" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">{lines}</svg>'
        )
    if sound is not None:
        pieces.append(strip(sound, pictures, frames))
    pieces.append(f'<div class="axis"><span>0 s</span><span>{n_frames / schema.FPS:.2f} s</span></div>')
    return "".join(pieces)


def strip(sound: Sound, pictures: Pictures, frames: Sequence[int] = ()) -> str:
    """Return the MFCC columns of a clip as a picture, c1 at the bottom; pale where windows have no real sound."""
    url = pictures.url(_strip_png(sound.columns), "png")
    if url is None:
        return '<p class="note">no room for its MFCC strip</p>'
    edges = np.flatnonzero(np.diff(np.concatenate(([False], ~sound.valid, [False])).astype(np.int8)))
    pale = "".join(
        f'<rect x="{first}" y="0" width="{end - first}" height="12"/>'
        for first, end in zip(edges[::2], edges[1::2], strict=True)
    )
    marks = "".join(f'<line x1="{frame + 0.5}" x2="{frame + 0.5}" y1="0" y2="1.5"/>' for frame in frames)
    return (
        f'<svg class="strip" viewBox="0 0 {len(sound.valid)} 12" preserveAspectRatio="none" role="img" '
        f'aria-label="MFCC over time"><image href="{url}" width="{len(sound.valid)}" height="12" '
        f'preserveAspectRatio="none"/>{pale}{marks}</svg>'
    )


def _strip_png(columns: NDArray[np.float32]) -> bytes:
    """Draw columns float32 (12, C): each coefficient by how far it is from its mean, ±2.5 standard deviations."""
    if columns.shape[1] > STRIP_COLUMNS:
        edges = np.linspace(0, columns.shape[1], STRIP_COLUMNS + 1).astype(np.int64)
        columns = (np.add.reduceat(columns, edges[:-1], axis=1) / np.diff(edges)).astype(np.float32)
    clean = np.nan_to_num(columns.astype(np.float64), posinf=0, neginf=0)
    away = clean - clean.mean(axis=1, keepdims=True)
    away /= np.maximum(clean.std(axis=1, keepdims=True), 1e-6)
    level = np.clip(255 * (away / 5 + 0.5), 0, 255).astype(np.uint8)
    image = cv2.applyColorMap(np.ascontiguousarray(level[::-1]), cv2.COLORMAP_VIRIDIS)
    done, data = cv2.imencode(".png", image)
    assert done
    return data.tobytes()


def _shot(shot: Shot, pictures: Pictures, side: int) -> str:
    small = cv2.resize(shot.image, (side, side), interpolation=cv2.INTER_AREA)
    url = pictures.url(excerpts.encode(np.asarray(small, np.uint8)))
    if url is None:
        return '<span class="shot"><span class="none">no room</span></span>'
    return (
        f'<span class="shot"><img src="{url}" alt="frame {shot.frame}" decoding="async">'
        f'<svg viewBox="0 0 {schema.CROP_SIZE} {schema.CROP_SIZE}" aria-hidden="true">{marks(shot.points)}</svg></span>'
    )


def marks(points: NDArray[np.float64]) -> str:
    """Return circles around the eyes and a line across the mouth as SVG, for points (5, 2) in crop pixels.

    What a detector does not know, or what lies far outside, is left out.
    """
    known = [bool(np.isfinite(point).all() and np.abs(point).max() < 10 * schema.CROP_SIZE) for point in points]
    (left, right, _, (x0, y0), (x1, y1)) = points.tolist()
    shapes = [
        (f'<circle class="{{}}" cx="{x:.1f}" cy="{y:.1f}" r="11"/>', "eye")
        for (x, y), there in zip((left, right), known[:2], strict=True)
        if there
    ]
    if all(known[3:]):
        shapes.append((f'<path class="{{}}" d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}"/>', "mouth"))
    return "".join(shape.format("halo") + shape.format(kind) for shape, kind in shapes)


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _number(value: float, unit: str = "") -> str:
    """Return a number with three digits or so, a proper minus sign and its unit."""
    digits = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    digits = "0" if digits in ("-0", "0") else digits.replace("-", "−")
    return f"{digits} {unit}".rstrip() if unit != "%" else f"{digits} %"


# The sections of this one


def _lede(out: Path, found: Findings) -> str:
    lines = []
    for column in found.columns.values():
        if column.run is None:
            lines.append(f"<b>{column.name}</b>: not begun, so nothing of it is on this page.")
            continue
        total = _total(column)
        silent = f", <b>{total.silent:,} of them silent</b>" if total.silent else ""
        line = f"<b>{column.name}</b>: {total.ok:,} ok{silent}, {total.failed:,} failed"
        if total.missing:
            what = f"{column.unfinished:,} of {_count(total.shards, 'shard')}"
            line += (
                f', <b class="alarm">{total.missing:,} missing</b>: {what} '
                f"{'is' if column.unfinished == 1 else 'are'} not finished (<code>avprep status {text(out)}</code>)"
            )
        lines.append(f"{line}.")
    return f"<p>{'<br>'.join(lines)}</p>"


def _total(column: Column) -> SplitStatus:
    names = ("ok", "failed", "missing", "frames", "shards", "shards_done", "silent")
    return SplitStatus(*(sum(getattr(split, name) for split in column.splits.values()) for name in names))


def _totals(found: Findings) -> str:
    pieces = []
    for column in found.columns.values():
        if column.run is None:
            pieces.append(f"<p><b>{column.name}</b>: not begun</p>")
            continue
        splits = {**column.splits, "all": _total(column)}
        reasons: dict[str, Counter[str]] = {**column.reasons, "all": sum(column.reasons.values(), Counter[str]())}
        each = splits.values()
        rows = [
            ("clips", *(f"{one.ok + one.failed + one.missing:,}" for one in each)),
            ("ok", *(f"{one.ok:,}" for one in each)),
            ("failed", *(f"{one.failed:,}" for one in each)),
        ]
        if splits["all"].silent:
            words = (
                'of those that are ok, silent <span class="note">no audio above −60 dB; training leaves them out</span>'
            )
            rows.insert(2, (words, *(f"{one.silent:,}" for one in each)))
        for reason, _ in sorted(reasons["all"].items(), key=lambda item: (-item[1], item[0])):
            words = f'<code>{reason}</code> <span class="note">{_meaning(reason)}</span>'
            rows.append((words, *(f"{reasons.get(split, Counter())[reason]:,}" for split in splits)))
        rows += [
            ("missing, not finished", *(f"{one.missing:,}" for one in each)),
            ("frames", *(f"{one.frames:,}" for one in each)),
            ("hours", *(f"{one.frames / schema.FPS / 3600:,.2f}" for one in each)),
            ("finished shards", *(f"{one.shards_done:,} of {one.shards:,}" for one in each)),
        ]
        pieces.append(table(("", *splits), rows, caption=column.name, numbers=True))
    return f'<div class="side">{"".join(f"<div>{piece}</div>" for piece in pieces)}</div>'


def _meaning(reason: str) -> str:
    return REASONS.get(reason, "a code that this avprep does not know")


def _problems(found: Findings) -> str:
    if not found.n_problems:
        return ""
    lines = "".join(f"<li>{text(line, findings.MESSAGE)}</li>" for line in found.problems)
    more = found.n_problems - len(found.problems)
    tail = f"<p>… and {more:,} more; <code>avprep verify</code> lists them all.</p>" if more else ""
    return f'<p>What could not be read while this page was made:</p><ul class="problems alarm">{lines}</ul>{tail}'


def _failures(found: Findings, labels: Mapping[str, Label], root: Path, pictures: Pictures, seed: int) -> str:
    if not found.failures:
        return "<p>No clip failed.</p>"
    notes = []
    if found.n_failures > len(found.failures):
        notes.append(
            f"{len(found.failures):,} of {found.n_failures:,} failures are listed, rare reasons whole and the others "
            "drawn at random; the totals above count all."
        )
    stills: dict[str, bytes | str] = {}
    wanted = _looked_into(found.failures, seed)
    n_clips = len({failure.key for failure in found.failures})
    if not root.is_dir():
        notes.append(f"The data set is not at <code>{text(root)}</code>, so no pictures: give <code>--root</code>.")
        wanted = []
    else:
        stills = excerpts.stills(root, {key: labels.get(key, Label()) for key in wanted}, STILL_SIDE)
        if len(wanted) < n_clips:
            notes.append(
                f"The first picture of the video was looked for in {len(wanted):,} of these {n_clips:,} clips."
            )
    urls = {key: pictures.url(data) for key, data in stills.items() if isinstance(data, bytes)}
    rows = []
    for failure in found.failures:
        label, still = labels.get(failure.key, Label()), stills.get(failure.key)
        if url := urls.get(failure.key):
            picture = f'<img src="{url}" alt="first picture of the video" decoding="async">'
        else:
            picture = f'<span class="note">{text(still)}</span>' if isinstance(still, str) else ""
        cells = (
            ("Picture", ' class="picture"', picture),
            ("Clip", "", f"{text(failure.key)}{_said(label)}"),
            ("Split", "", failure.split),
            ("Column", "", failure.column),
            ("Reason", "", f'<code>{failure.reason}</code><br><span class="note">{_meaning(failure.reason)}</span>'),
            ("Message", "", text(failure.message, findings.MESSAGE + 1)),
        )
        tds = "".join(
            f'<td role="cell" data-label="{name}"{kind}><div>{cell}</div></td>' if cell else f"<td{kind}></td>"
            for name, kind, cell in cells
        )
        data = " ".join(f'data-{name}="{getattr(failure, name)}"' for name in FILTERS)
        rows.append(f'<tr role="row" {data}>{tds}</tr>')
    heads = "".join(
        f'<th role="columnheader" scope="col" aria-sort="none"><button type="button">{name}</button></th>'
        for name in ("Clip", "Split", "Column", "Reason", "Message")
    )
    selects = "".join(_select(name, sorted({getattr(failure, name) for failure in found.failures})) for name in FILTERS)
    return (
        f"{''.join(f'<p>{note}</p>' for note in notes)}"
        f'<div data-table="{ROWS}"><form class="filters" hidden>'
        '<label class="wide">Filter by words<input type="search" placeholder="key, message, meaning"></label>'
        f"{selects}</form>"
        '<p class="note" role="status"></p><table class="stack" role="table" aria-label="Failures">'
        f'<thead role="rowgroup"><tr role="row"><th role="columnheader" scope="col">Picture</th>{heads}</tr></thead>'
        f'<tbody role="rowgroup">{"".join(rows)}</tbody></table>'
        '<button type="button" class="plain more" hidden></button></div>'
    )


def _looked_into(failures: Sequence[Failure], seed: int) -> list[str]:
    """Return the keys of failed clips whose video is looked into."""
    groups: dict[tuple[str, str], list[str]] = {}
    for failure in failures:
        groups.setdefault((failure.column, failure.reason), []).append(failure.key)
    shares = findings.even_shares({group: len(keys) for group, keys in groups.items()}, STILLS)
    drawn = (sorted(keys, key=lambda key: findings.draw(key, seed))[: shares[group]] for group, keys in groups.items())
    return list(dict.fromkeys(key for keys in drawn for key in keys))


def _select(name: str, choices: Sequence[str]) -> str:
    options = "".join(f'<option value="{choice}">{choice}</option>' for choice in choices)
    return f'<label>{name.capitalize()}<select name="{name}"><option value="">all</option>{options}</select></label>'


def _said(label: Label) -> str:
    """Return the labels of a clip, in small."""
    words = ", ".join(text(word, 60) for word in (label.word, label.speaker) if word)
    return f' <span class="note">{words}</span>' if words else ""


def _figures(found: Findings) -> str:
    notes = []
    if drawn := [figure.title.lower() for figure in FIGURES if _is_sample(found, figure)]:
        notes.append(
            f"<p>{found.looked_at:,} of {found.n_clips:,} clips were drawn at random and looked at for: "
            f"{', '.join(drawn)}. The other figures are of all clips.</p>"
        )
    plots = []
    for figure in FIGURES:
        values = np.frombuffer(found.values[figure.name], np.float64) * figure.scale
        plot = (
            histogram(values, figure.title, figure.unit, figure.grain) if len(values) else _note("n/a: no clip has it")
        )
        plots.append(f'<figure><h3>{figure.title}</h3><p class="note">{figure.meaning}</p>{plot}</figure>')
    if any('class="beyond"' in plot for plot in plots):
        notes.append('<p class="note">A bar of another colour holds all that lies beyond its end.</p>')
    return f'{"".join(notes)}<div class="plots">{"".join(plots)}</div>'


def _is_sample(found: Findings, figure: Figure) -> bool:
    """Whether a figure is known of some clips only."""
    return figure.name in found.drawn and bool(found.values[figure.name]) and found.looked_at < found.n_clips


def _sheets(out: Path, found: Findings, labels: Mapping[str, Label], pictures: Pictures) -> str:
    pieces = []
    for split, rows in found.sheets.items():
        films: list[str] = []
        for row in rows:
            if len(films) == PER_SPLIT:
                break
            frames = sorted({0, row.n_frames // 2, row.n_frames - 1})
            shots, sound = _shots(out, found, row, frames), _sound(out, found, row)
            if shots or sound is not None:
                films.append(
                    f"<figure><figcaption>{text(row.key)}{_said(labels.get(row.key, Label()))}<br>"
                    f'<span class="note">{_facts(row)}</span></figcaption>'
                    f"{film(shots, sound, row.n_frames, pictures)}</figure>"
                )
        if films:
            total = found.clips[split]
            drawn = f"{len(films):,} of {_count(total, 'clip')}, drawn at random" if total > len(films) else "all clips"
            pieces.append(f'<h3>{split}</h3><p class="note">{drawn}</p><div class="films">{"".join(films)}</div>')
    if not pieces:
        return "<p>There is no finished clip to show yet.</p>"
    return (
        '<p class="note">First, middle and last frame, with <span class="key"></span> eyes and '
        '<span class="key mouth"></span> mouth where they were found. Below, on the same time axis, the MFCC: '
        "coefficient 1 at the bottom, 12 at the top, bright above its mean; pale where a window needs sound that the "
        "source does not have.</p>" + "".join(pieces)
    )


def _worst(out: Path, found: Findings, labels: Mapping[str, Label], pictures: Pictures) -> str:
    pieces: list[str] = []
    for figure in FIGURES:
        if not found.values[figure.name]:
            continue
        same = max(found.values[figure.name]) == min(found.values[figure.name])
        rows = [] if same else found.worst[figure.name]
        cards = [_card(out, found, figure, row, labels, pictures) for row in rows]
        looked = " of the clips looked at" if _is_sample(found, figure) else ""
        note = f"{'all' if same else len(cards) or 'none'}{looked}{' are alike' if same else ''}"
        state = " open" if not pieces else ""
        pieces.append(
            f'<details{state}><summary>{figure.worst} <span class="note">({note})</span></summary>'
            f'<div class="worst">{"".join(cards)}</div></details>'
        )
    return "".join(pieces)


def _card(out: Path, found: Findings, figure: Figure, row: Row, labels: Mapping[str, Label], pictures: Pictures) -> str:
    shots = _shots(out, found, row, [row.n_frames // 2])
    shown = (
        _shot(shots[0], pictures, WORST_SIDE)
        if shots
        else '<span class="shot"><span class="none">no picture</span></span>'
    )
    sound = _sound(out, found, row) if figure.column == "mfcc" else None
    return (
        f"<figure>{shown}{strip(sound, pictures) if sound is not None else ''}<figcaption>"
        f"<b>{_number(row.figures[figure.name] * figure.scale, figure.unit)}</b> {row.split}<br>"
        f"{text(row.key)}{_said(labels.get(row.key, Label()))}</figcaption></figure>"
    )


def _shots(out: Path, found: Findings, row: Row, frames: Sequence[int]) -> list[Shot]:
    run = found.columns["crop"].run
    if "crop" not in row.where or run is None:
        return []
    settings = run.get("settings")
    image_format = settings.get("image_format") if isinstance(settings, dict) else None
    try:
        return excerpts.read_shots(out, row, frames, "png" if image_format == "png" else "jpg")
    except ShardError as error:
        found.problem(str(error))
        return []


def _sound(out: Path, found: Findings, row: Row) -> Sound | None:
    if "mfcc" not in row.where:
        return None
    try:
        return excerpts.read_sound(out, row)
    except ShardError as error:
        found.problem(str(error))
        return None


def _facts(row: Row) -> str:
    """Return a clip's figures, and the columns that it is not in, in a line."""
    facts = [
        f"{figure.title.lower()} {_number(value * figure.scale, figure.unit) if value is not None else 'n/a'}"
        for figure in FIGURES
        if figure.name != "seconds" and ((value := row.figures.get(figure.name)) is not None or figure.name in row.told)
    ]
    return ", ".join([*facts, *(f"no {column}" for column in schema.COLUMNS if column not in row.where)])


def _settings(found: Findings, header: Mapping[str, Any]) -> str:
    files: dict[str, Mapping[str, Any]] = {"manifest.jsonl": header}
    files |= {f"{name}/run.json": column.run for name, column in found.columns.items() if column.run is not None}
    pieces: list[str] = []
    for name, content in files.items():
        rows: list[tuple[str, str]] = []
        for part, value in content.items():
            for setting, one in value.items() if isinstance(value, dict) else [(None, value)]:
                words = part if setting is None else f"{part}.{setting}"
                rows.append((f"<code>{text(words)}</code>", text(one if isinstance(one, str) else json.dumps(one))))
        pieces.append(f"<div>{table(('', ''), rows[:SETTINGS], caption=name)}</div>")
    return f'<div class="side">{"".join(pieces)}</div>'
