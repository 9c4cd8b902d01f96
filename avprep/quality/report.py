"""The report: one HTML page about the results of a run, which needs no network."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from avprep import pages, schema
from avprep.errors import REASONS, RunError, ShardError
from avprep.pages.histogram import histogram
from avprep.pages.pictures import Pictures
from avprep.pages.words import number, words
from avprep.quality import excerpts, findings
from avprep.quality.excerpts import Label, MfccExcerpt, Shot
from avprep.quality.findings import FIGURES, Column, Failure, Figure, Findings, Row
from avprep.runs.status import SplitStatus
from avprep.shards.image import encode_bgr

PICTURES_MB = 7
"""Maximum size of all pictures together: base64 adds a third, and text about clips some more."""
STILLS = 200
"""Maximum failed clips of which a still is made; rare reasons completely, the others in equal numbers."""
PER_SPLIT = 12
"""Clips on the contact sheet of each split."""
STILL_SIDE, SHEET_SIDE, WORST_SIDE = 160, 160, 128
"""Longer sides of pictures (pixels): stills of failed clips, contact sheets, worst clips."""
STRIP_COLUMNS = 400
"""Maximum columns of a drawn MFCC strip; more are averaged."""
ROWS = 50
"""Rows of the table of failures that are shown at first."""
SETTINGS = 100
"""Maximum lines of a table of settings."""

Values = dict[str, Any]
"""Values for a part of the template."""


@dataclass(frozen=True)
class Report:
    """The page and its counts: clips ok in any column, failures, and problems found."""

    page: str
    n_clips: int
    n_failures: int
    n_problems: int


def report(out: Path, *, root: Path | None = None, seed: int = 0) -> Report:
    """Return the report of a run's folder; the same folder, data set and seed give the same page.

    root: the data set's folder, if it was moved since it was indexed. seed: draws the clips that are read.
    Raises RunError if `out` holds nothing, ManifestError if its manifest cannot be read. A shard that cannot be read is
    listed as a problem on the page.
    """
    found = findings.gather(out, seed=seed, per_split=4 * PER_SPLIT)  # some may be damaged
    if all(column.run is None for column in found.columns.values()):
        raise RunError(f"{out}: holds no column to report on; run `avprep crop` or `avprep mfcc` first")
    shown = [row for rows in (*found.sheets.values(), *found.worst.values()) for row in rows]
    plan, labels = excerpts.read_labels(out, {one.key for one in shown} | {one.key for one in found.failures})
    root = plan.root if root is None else root
    pictures = Pictures(PICTURES_MB * 10**6)
    clips = _Clips(out, found, labels, pictures)
    sheets = list(_sheets(found, clips))
    worst = list(_worst(found, clips))
    failures = _failures(found, labels, root, pictures, seed)
    page = pages.render(
        __package__,
        "report.html",
        title=f"Report of {words(plan.dataset or 'a run')}",
        out=out,
        columns=[_column(column) for column in found.columns.values()],
        rows=ROWS,
        longest=findings.MESSAGE + 1,
        problems=found.problems,
        n_problems=found.n_problems,
        n_clips=found.n_clips,
        looked_at=found.looked_at,
        drawn=[figure.title.lower() for figure in FIGURES if _is_sample(found, figure)],
        plots=[_plot(found, figure) for figure in FIGURES if figure.column in ("", *found.columns)],
        sheets=sheets,
        worst=worst,
        settings=_settings(found, plan.header()),
        left_out=pictures.left_out,
        megabytes=PICTURES_MB,
        **failures,
    )
    return Report(page, found.n_clips, found.n_failures, found.n_problems)


# Totals


def _column(column: Column) -> Values:
    """Return a column's counts as rows: one for each split and one for all."""
    total = SplitStatus.total(column.splits.values())
    splits = {**column.splits, "all": total}
    reasons: dict[str, Counter[str]] = {**column.reasons, "all": sum(column.reasons.values(), Counter[str]())}
    each = splits.values()
    return {
        "name": column.name,
        "begun": column.run is not None,
        "total": total,
        "unfinished": total.shards - total.shards_done,
        "splits": list(splits),
        "clips": [f"{one.ok + one.failed + one.missing:,}" for one in each],
        "ok": [f"{one.ok:,}" for one in each],
        "silent": [f"{one.silent:,}" for one in each],
        "failed": [f"{one.failed:,}" for one in each],
        "reasons": [
            (reason, _meaning(reason), [f"{reasons.get(split, Counter())[reason]:,}" for split in splits])
            for reason, _ in sorted(reasons["all"].items(), key=lambda item: (-item[1], item[0]))
        ],
        "rest": [
            ["missing, not finished", *(f"{one.missing:,}" for one in each)],
            ["frames", *(f"{one.frames:,}" for one in each)],
            ["hours", *(f"{one.frames / schema.FPS / 3600:,.2f}" for one in each)],
            ["finished shards", *(f"{one.shards_done:,} of {one.shards:,}" for one in each)],
        ],
    }


def _meaning(reason: str) -> str:
    return REASONS.get(reason, "a code that this avprep does not know")


# Failures


def _failures(found: Findings, labels: Mapping[str, Label], root: Path, pictures: Pictures, seed: int) -> Values:
    """Return the listed failures, each with a picture of its video or the reason why there is none."""
    wanted = _looked_into(found.failures, seed) if root.is_dir() else []
    stills = excerpts.stills(root, {key: labels.get(key, Label()) for key in wanted}, STILL_SIDE)
    urls = {key: pictures.url(data) for key, data in stills.items() if isinstance(data, bytes)}
    rows = []
    for failure in found.failures:
        still = stills.get(failure.key)
        facts = {name: getattr(failure, name) for name in ("key", "split", "column", "reason", "message")}
        more = {"url": urls.get(failure.key), "why": still if isinstance(still, str) else ""}
        label = labels.get(failure.key, Label())
        rows.append({**facts, **more, "meaning": _meaning(failure.reason), "label": label})
    return {
        "failures": rows,
        "n_failures": found.n_failures,
        "n_failed_clips": len({failure.key for failure in found.failures}),
        "n_looked_into": len(wanted),
        "root": root,
        "root_gone": not root.is_dir(),
    }


def _looked_into(failures: Sequence[Failure], seed: int) -> list[str]:
    """Return the keys of failed clips of which a still is made."""
    groups: dict[tuple[str, str], list[str]] = {}
    for failure in failures:
        groups.setdefault((failure.column, failure.reason), []).append(failure.key)
    shares = findings.even_shares({group: len(keys) for group, keys in groups.items()}, STILLS)
    drawn = (sorted(keys, key=lambda key: findings.draw(key, seed))[: shares[group]] for group, keys in groups.items())
    return list(dict.fromkeys(key for keys in drawn for key in keys))


# Figures


def _plot(found: Findings, figure: Figure) -> Values:
    """Return a figure's histogram, None if no clip has it."""
    values = np.frombuffer(found.values[figure.name], np.float64) * figure.scale
    plot = histogram(values, figure.title, figure.unit, figure.grain) if len(values) else None
    beyond = plot is not None and any(bar.beyond for bar in plot.bars)
    return {"title": figure.title, "meaning": figure.meaning, "histogram": plot, "beyond": beyond}


def _is_sample(found: Findings, figure: Figure) -> bool:
    """Whether a figure is known only for some clips."""
    return figure.name in found.drawn and bool(found.values[figure.name]) and found.looked_at < found.n_clips


# Clips


@dataclass(frozen=True)
class _Clips:
    """Reads the data to show for clips; if it cannot be read, adds a problem to the findings."""

    out: Path
    found: Findings
    labels: Mapping[str, Label]
    pictures: Pictures

    def label(self, row: Row) -> Label:
        """Return the manifest's labels of a clip."""
        return self.labels.get(row.key, Label())

    def shots(self, row: Row, frames: Sequence[int]) -> list[Shot]:
        """Return frames of a clip, none if they cannot be read."""
        run = self.found.columns["crop"].run
        if "crop" not in row.where or run is None:
            return []
        settings = run.get("settings")
        image_format = settings.get("image_format") if isinstance(settings, dict) else None
        try:
            return excerpts.read_shots(self.out, row, frames, "png" if image_format == "png" else "jpg")
        except ShardError as error:
            self.found.problem(str(error))
            return []

    def sound(self, row: Row) -> MfccExcerpt | None:
        """Return a clip's MFCC steps, None if they cannot be read."""
        if "mfcc" not in row.where:
            return None
        try:
            return excerpts.read_sound(self.out, row)
        except ShardError as error:
            self.found.problem(str(error))
            return None

    def curve(self, row: Row) -> Values | None:
        """Return the curve of a clip for the page, in a box of 30 × 12; None if it cannot be read."""
        try:
            curve = excerpts.read_curve(self.out, row)
        except ShardError as error:
            self.found.problem(str(error))
            return None
        points = [(x, y) for x, y in enumerate(curve) if y is not None]
        if len(points) < 2:
            return None
        low, high = min(y for _, y in points), max(y for _, y in points)
        placed = ((x, 11 - 10 * (y - low) / max(high - low, 1e-9)) for x, y in points)
        lead = min(points, key=lambda point: point[1])[0]
        return {"path": "M" + "L".join(f"{x} {y:.2f}" for x, y in placed), "lead": lead}

    def shown(self, shot: Shot, side: int) -> Values:
        """Return a frame for the page; its URL is None if there is no room."""
        small = cv2.resize(shot.image, (side, side), interpolation=cv2.INTER_AREA)
        url = self.pictures.url(excerpts.encode(np.asarray(small, np.uint8)))
        return {"frame": shot.frame, "url": url, "marks": marks(shot.points)}

    def strip(self, sound: MfccExcerpt, frames: Sequence[int] = ()) -> Values:
        """Return a clip's MFCC for the page; `pale`: stretches of frames whose windows have no real sound."""
        url = self.pictures.url(_strip_png(sound.columns), "png")
        edges = np.flatnonzero(np.diff(np.concatenate(([False], ~sound.valid, [False])).astype(np.int8))).tolist()
        pale = list(zip(edges[::2], edges[1::2], strict=True))
        return {"url": url, "n_frames": len(sound.valid), "pale": pale, "frames": frames}


def marks(points: NDArray[np.float64]) -> Values:
    """Return where to mark eyes and mouth, for points (5, 2) in crop pixels.

    Points that the detector does not give, or that are far outside, are left out; so is a mouth with one corner.
    """
    places = points.tolist()
    known = [all(abs(value) < 10 * schema.CROP_SIZE for value in place) for place in places]  # NaN is not
    return {
        "eyes": [place for place, there in zip(places[:2], known[:2], strict=True) if there],
        "mouth": places[3:] if all(known[3:]) else [],
    }


def _strip_png(columns: NDArray[np.float32]) -> bytes:
    """Draw columns float32 (12, C): each coefficient by its deviation from its mean, ±2.5 standard deviations."""
    if columns.shape[1] > STRIP_COLUMNS:
        edges = np.linspace(0, columns.shape[1], STRIP_COLUMNS + 1).astype(np.int64)
        columns = (np.add.reduceat(columns, edges[:-1], axis=1) / np.diff(edges)).astype(np.float32)
    clean = np.nan_to_num(columns.astype(np.float64), posinf=0, neginf=0)
    away = clean - clean.mean(axis=1, keepdims=True)
    away /= np.maximum(clean.std(axis=1, keepdims=True), 1e-6)
    level = np.clip(255 * (away / 5 + 0.5), 0, 255).astype(np.uint8)
    image = cv2.applyColorMap(np.ascontiguousarray(level[::-1]), cv2.COLORMAP_VIRIDIS)
    return encode_bgr(np.asarray(image, np.uint8), "png")


def _sheets(found: Findings, clips: _Clips) -> Iterator[Values]:
    """Yield the contact sheet of each split that has clips to show."""
    for split, rows in found.sheets.items():
        films: list[Values] = []
        for row in rows:
            if len(films) == PER_SPLIT:
                break
            frames = sorted({0, row.n_frames // 2, row.n_frames - 1})
            shots, sound = clips.shots(row, frames), clips.sound(row)
            if shots or sound is not None:
                films.append(
                    {
                        "key": row.key,
                        "label": clips.label(row),
                        "facts": _facts(row),
                        "n_frames": row.n_frames,
                        "seconds": row.n_frames / schema.FPS,
                        "shots": [clips.shown(shot, SHEET_SIDE) for shot in shots],
                        "strip": clips.strip(sound, [shot.frame for shot in shots]) if sound is not None else None,
                    }
                )
        if films:
            yield {"split": split, "total": found.clips[split], "clips": films}


def _worst(found: Findings, clips: _Clips) -> Iterator[Values]:
    """Yield the worst clips by each figure."""
    for figure in FIGURES:
        if not found.values[figure.name]:
            continue
        same = max(found.values[figure.name]) == min(found.values[figure.name])
        cards = [_card(clips, figure, row) for row in ([] if same else found.worst[figure.name])]
        looked = " of the clips looked at" if _is_sample(found, figure) else ""
        note = f"{'all' if same else len(cards) or 'none'}{looked}{' are alike' if same else ''}"
        yield {"title": figure.worst, "note": note, "cards": cards}


def _card(clips: _Clips, figure: Figure, row: Row) -> Values:
    shots = clips.shots(row, [row.n_frames // 2])
    shown = clips.shown(shots[0], WORST_SIDE) if shots else None
    sound = clips.sound(row) if figure.column == "mfcc" else None
    return {
        "shot": shown,
        "strip": clips.strip(sound) if sound is not None else None,
        "curve": clips.curve(row) if figure.column == "sync" else None,
        "value": number(row.figures[figure.name] * figure.scale, figure.unit),
        "split": row.split,
        "key": row.key,
        "label": clips.label(row),
    }


def _facts(row: Row) -> str:
    """Return a clip's figures, and the columns that it is not in, as one line."""
    facts = [
        f"{figure.title.lower()} {number(value * figure.scale, figure.unit) if value is not None else 'n/a'}"
        for figure in FIGURES
        if figure.name != "seconds" and ((value := row.figures.get(figure.name)) is not None or figure.name in row.told)
    ]
    return ", ".join([*facts, *(f"no {column}" for column in schema.COLUMNS if column not in row.where)])


def _settings(found: Findings, header: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the name and the settings of each file that has any, the manifest's header first."""
    files: dict[str, Mapping[str, Any]] = {"manifest.jsonl": header}
    files |= {f"{name}/run.json": column.run for name, column in found.columns.items() if column.run is not None}
    tables = []
    for name, content in files.items():
        rows: list[tuple[str, str]] = []
        for part, value in content.items():
            for setting, one in value.items() if isinstance(value, dict) else [(None, value)]:
                named = part if setting is None else f"{part}.{setting}"
                rows.append((named, one if isinstance(one, str) else json.dumps(one)))
        tables.append((name, rows[:SETTINGS]))
    return tables
