"""The data of a report on a run's folder: all sidecars, read once, and some clips read from the shards.

Half a million clips take seconds and a few hundred megabytes: only one shard's sidecars are in memory at a time, and
only the figures of clips and the few clips that are shown are kept. Random choices use a hash of the key: the same
folder and seed give the same clips.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from avprep import schema, shards
from avprep.errors import REASONS, ShardError, plural
from avprep.manifest import SPLITS, shard_lengths
from avprep.media import mfcc
from avprep.runs.fingerprint import clip_counts, manifest_path
from avprep.runs.status import SplitStatus
from avprep.shards import Stretch
from avprep.untrusted import number

LOOKED_AT = 2000
"""Maximum clips whose own JSON is read from the shards, for figures that are not in sidecars."""
LISTED = 2000
"""Maximum failures to list individually; rare reasons completely, the others in equal numbers."""
PROBLEMS = 50
"""Maximum problems to list individually."""
WORST = 20
"""Number of worst clips to show for each figure."""
MESSAGE = 400
"""Maximum characters to keep of a failure's message."""
UNKNOWN = "unknown"
"""Stands for a reason that is not in `REASONS`."""
MAX_FRAMES = 10**9
"""More than a year: a sidecar with more is damaged."""
LEAD = mfcc.SAMPLES_BEFORE / schema.SAMPLE_RATE
"""Seconds of audio before a clip that its first windows use, if the source has it."""

T = TypeVar("T")


@dataclass(frozen=True)
class Figure:
    """A number that every clip has, and how to rank the worst clips by it.

    name: in the sidecar, or in the sample's JSON. column: the column of that sidecar or sample.
    scale, unit: conversion of the number for display. grain: the step in which it varies, in `unit`.
    worst: heading of the worst clips. badness: the larger, the worse; None: nothing is wrong.
    """

    name: str
    column: str
    title: str
    meaning: str
    worst: str
    badness: Callable[[float], float | None]
    scale: float = 1.0
    unit: str = ""
    grain: float = 0.0


def _late(seconds: float) -> float | None:
    """Return how much of the windows' lead the audio does not cover; audio from before the clip is as it should be."""
    gap = max(seconds, -LEAD - 1 / schema.SAMPLE_RATE - seconds)
    return gap if gap > 0 else None


FIGURES = (
    Figure(
        "face_size", "crop", "Face size", "median width of the face, in pixels of the source",
        "Smallest faces", lambda value: -value, unit="px",
    ),
    Figure(
        "score", "crop", "Detector score", "mean over the keyframes; each detector has its own scale",
        "Lowest scores", lambda value: -value,
    ),
    Figure(
        "jitter", "crop", "Jitter",
        "mean movement of the face in its crop from frame to frame, measured on the crops, in crop pixels",
        "Highest jitter", lambda value: value or None, unit="px",
    ),
    Figure(
        "slip", "crop", "Slip",
        "root mean square distance of the face from its mean place in the crop, measured on the crops, in crop pixels",
        "Largest slip", lambda value: value or None, unit="px",
    ),
    Figure(
        "start_offset", "mfcc", "Audio offset",
        f"start of the audio that is used, relative to the clip's start; down to −{1000 * LEAD:.0f} ms it is real "
        "audio from before the clip, above 0 the audio starts late",
        "Largest audio offsets", _late, scale=1000.0, unit="ms",
    ),
    Figure(
        "silent_share", "mfcc", "Silence", "fraction of the audio that is quieter than −60 dB",
        "Most silence", lambda value: value or None, scale=100.0, unit="%",
    ),
    Figure(
        "audio_lead_frames", "sync", "Audio lead", "frames by which the audio is early; below 0 it is late",
        "Farthest out of sync", lambda value: abs(value) or None, unit="frames", grain=0.5,
    ),
    Figure(
        "confidence", "sync", "Sync confidence",
        "median minus minimum of the curve; the scale is that of the sync model",
        "Least sure of sync", lambda value: -value,
    ),
    Figure(
        "seconds", "", "Clip length", f"frames at {schema.FPS} a second",
        "Shortest clips", lambda value: -value, unit="s", grain=1 / schema.FPS,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A clip that is ok in a column or both.

    told: figures that its sidecars name, including those that it cannot have.
    where: its position in each column's tar.
    """

    key: str
    split: str
    shard: str
    draw: float
    n_frames: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    where: dict[str, Stretch] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """A clip that failed in a column, for one of `REASONS` or `UNKNOWN`."""

    key: str
    split: str
    column: str
    reason: str
    message: str


@dataclass
class Column:
    """One column; `run` is its run.json, None if it was never started.

    reasons: split -> reason -> failed clips.
    """

    name: str
    run: dict[str, Any] | None
    splits: dict[str, SplitStatus] = field(default_factory=dict)
    reasons: dict[str, Counter[str]] = field(default_factory=dict)


@dataclass
class Findings:
    """The data of a report.

    values: figure -> its value for every clip, or for those that were read. looked_at: number of clips that were read,
    for the figures in `drawn`.
    clips: split -> clips that are ok in a column or both. worst: figure -> clips, the worst first. sheets: split ->
    clips drawn from it.
    failures: those listed, of `n_failures`; problems: those listed, of `n_problems`.
    """

    columns: dict[str, Column]
    values: dict[str, array[float]]
    worst: dict[str, list[Row]] = field(default_factory=dict)
    sheets: dict[str, list[Row]] = field(default_factory=dict)
    drawn: set[str] = field(default_factory=set)
    looked_at: int = 0
    clips: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    n_failures: int = 0
    problems: list[str] = field(default_factory=list)
    n_problems: int = 0

    @property
    def n_clips(self) -> int:
        """Clips that are ok in a column or both."""
        return self.clips.total()

    def problem(self, line: str) -> None:
        """Add a problem; the first are listed, all counted."""
        line = " ".join(line.split())[:MESSAGE]
        if line in self.problems:  # a clip may occur in two places
            return
        self.n_problems += 1
        if len(self.problems) < PROBLEMS:
            self.problems.append(line)


class Least(Generic[T]):
    """Keeps the `size` items of lowest rank."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._heap: list[tuple[float, float, int, T]] = []
        self._counter = itertools.count()

    def offer(self, rank: float, draw: float, item: T) -> None:
        """Keep an item if it is among the lowest; among equal ones the lower draw wins."""
        entry = (-rank, -draw, next(self._counter), item)
        if len(self._heap) < self.size:
            heapq.heappush(self._heap, entry)
        elif entry[:2] > self._heap[0][:2]:
            heapq.heapreplace(self._heap, entry)

    def items(self) -> list[T]:
        """Return the kept items, the lowest first."""
        return [item for _, _, _, item in sorted(self._heap, key=lambda entry: entry[:3], reverse=True)]


def gather(out: Path, *, seed: int = 0, per_split: int = 12) -> Findings:
    """Read every sidecar, and the JSON of some clips in the shards.

    seed: draws the clips that are read. per_split: number of clips per split for its contact sheet.
    Raises RunError if `out` holds no run or a run.json is damaged; errors of a shard are recorded as problems.
    """
    manifest_path(out)
    found = Findings(
        {
            column: Column(column, run)
            for column in schema.ALL_COLUMNS
            if (run := shards.read_run(out, column)) is not None or column in schema.COLUMNS
        },
        {figure.name: array("d") for figure in FIGURES},
    )
    lengths: dict[str, dict[str, int]] = {}
    for column in found.columns.values():
        if column.run is not None:
            for name, n_clips in shard_lengths(clip_counts(out, column.run), column.run["shard_size"]):
                lengths.setdefault(name, {})[column.name] = n_clips
    worst = {figure.name: Least[Row](WORST) for figure in FIGURES}
    sheets = {split: Least[Row](per_split) for split in SPLITS}
    sample = Least[Row](LOOKED_AT)
    failures: dict[tuple[str, str], Least[Failure]] = {}
    for name, columns in sorted(lengths.items(), key=lambda item: (SPLITS.index(item[0].partition("-")[0]), item[0])):
        rows: dict[str, Row] = {}
        for column_name, n_clips in columns.items():
            clips = _count(out, found, column_name, name, n_clips)
            _join(rows, column_name, shards.sidecar_path(out, column_name, name), clips, seed)
            for failure in _failed(column_name, name, clips):
                group = failures.setdefault((column_name, failure.reason), Least(LISTED))
                group.offer(0, draw(failure.key, seed), failure)
                found.n_failures += 1
        found.clips[name.partition("-")[0]] += len(rows)
        for row in rows.values():
            _offer(found, worst, row)
            sheets[row.split].offer(row.draw + ("crop" not in row.where), row.draw, row)
            sample.offer(row.draw, row.draw, row)
    _look(out, found, worst, sample.items())
    found.worst = {name: least.items() for name, least in worst.items()}
    found.sheets = {split: kept for split, least in sheets.items() if (kept := least.items())}
    groups = {group: least.items() for group, least in failures.items()}
    shares = even_shares({group: len(items) for group, items in groups.items()}, LISTED)
    listed = [failure for group, items in groups.items() for failure in items[: shares[group]]]
    listed.sort(key=lambda one: (schema.ALL_COLUMNS.index(one.column), SPLITS.index(one.split), one.reason, one.key))
    found.failures = listed
    return found


def draw(key: str, seed: int) -> float:
    """Return a pseudo-random number in [0, 1) that depends only on the key and the seed."""
    data = f"{seed}/{key}".encode("utf-8", "backslashreplace")
    return int.from_bytes(hashlib.blake2b(data, digest_size=6).digest()) / 2**48


def even_shares(counts: Mapping[Any, int], total: int) -> dict[Any, int]:
    """Return how many items of each group to take: equal numbers, or all items of smaller groups."""
    shares = {}
    for n, (group, count) in enumerate(sorted(counts.items(), key=lambda item: (item[1], str(item[0])))):
        shares[group] = min(count, total // (len(counts) - n))
        total -= shares[group]
    return shares


def _count(out: Path, found: Findings, column: str, name: str, n_clips: int) -> list[dict[str, Any]]:
    """Count a shard of a column; return its clips, none if it is not finished."""
    counted = found.columns[column]
    split = name.partition("-")[0]
    status = counted.splits.setdefault(split, SplitStatus())
    status.shards += 1
    sidecar = _sidecar(out, found, column, name)
    if sidecar is None:
        status.missing += n_clips
        return []
    clips: list[dict[str, Any]] = sidecar["clips"]
    if len(clips) != n_clips:
        where = shards.sidecar_path(out, column, name)
        found.problem(f"{where}: {plural(len(clips), 'clip')}, the manifest has {n_clips}: see `avprep verify`")
    counts = shards.counts(clips)
    status.add(counts)
    reasons = counted.reasons.setdefault(split, Counter())
    for reason, count in counts["reasons"].items():
        reasons[reason if reason in REASONS else UNKNOWN] += count
    return clips


def _sidecar(out: Path, found: Findings, column: str, name: str) -> dict[str, Any] | None:
    """Return the sidecar of a shard whose tar is there with the right size; if only one of them is, add a problem."""
    path = shards.tar_path(out, column, name)
    try:
        sidecar = shards.read_sidecar(out, column, name)
        if sidecar is None:
            return None
        size = path.stat().st_size
        shards.places(path.with_suffix(".json"), sidecar["clips"])
    except ShardError as error:
        found.problem(
            str(error) if str(path.with_suffix("")) in str(error) else f"{path.with_suffix('.json')}: {error}"
        )
        return None
    except OSError as error:
        found.problem(f"{path}: cannot be read ({error.strerror}); run `avprep {column}` again")
        return None
    if size != sidecar["bytes"]:
        found.problem(f"{path}: has {size} bytes, its sidecar says {sidecar['bytes']}; run `avprep {column}` again")
        return None
    odd = [clip for clip in sidecar["clips"] if clip["state"] == "ok" and not 0 < clip["n_frames"] < MAX_FRAMES]
    if odd:
        found.problem(f"{path.with_suffix('.json')}: damaged, {odd[0]['key']} has {odd[0]['n_frames']} frames")
        return None
    return sidecar


def _join(rows: dict[str, Row], column: str, sidecar: Path, clips: Sequence[dict[str, Any]], seed: int) -> None:
    """Add the ok clips of one column to the rows of a shard."""
    name, where = sidecar.stem, shards.places(sidecar, clips)
    for clip in clips:
        if clip["state"] != "ok":
            continue
        key = clip["key"]
        row = rows.get(key)
        if row is None:
            n_frames = clip["n_frames"]
            row = Row(key, name.partition("-")[0], name, draw(key, seed), n_frames, {"seconds": n_frames / schema.FPS})
            rows[key] = row
        for figure in FIGURES:
            if figure.column == column and figure.name in clip:
                row.told.add(figure.name)
                if (value := number(clip[figure.name])) is not None:
                    row.figures[figure.name] = value
        row.where[column] = where[key]


def _failed(column: str, name: str, clips: Iterable[dict[str, Any]]) -> Iterable[Failure]:
    """Yield the failed clips of a shard."""
    for clip in clips:
        if clip["state"] == "failed":
            reason, message = clip["reason"], clip["message"]
            if reason not in REASONS:
                reason, message = UNKNOWN, f"{reason}: {message}"
            message = message if len(message) <= MESSAGE else f"{message[:MESSAGE]}…"
            yield Failure(clip["key"], name.partition("-")[0], column, reason, message)


def _offer(found: Findings, worst: dict[str, Least[Row]], row: Row, names: Iterable[str] | None = None) -> None:
    """Count a clip's figures, all or those named, and keep it if it is among the worst."""
    for figure in FIGURES:
        value = row.figures.get(figure.name)
        if value is not None and (names is None or figure.name in names):
            found.values[figure.name].append(value)
            badness = figure.badness(value)
            if badness is not None:
                worst[figure.name].offer(-badness, row.draw, row)


def _look(out: Path, found: Findings, worst: dict[str, Least[Row]], rows: Sequence[Row]) -> None:
    """Read the figures that are not in sidecars from the JSON of some clips."""
    found.looked_at = len(rows)
    for column in found.columns:
        names = {figure.name for figure in FIGURES if figure.column == column and not found.values[figure.name]}
        if not names:
            continue
        found.drawn |= names
        for row in sorted(rows, key=lambda row: (row.split, row.shard, row.key)):
            if column not in row.where or names <= row.told:
                continue
            try:
                facts = read_facts(out, row, column)
            except ShardError as error:
                found.problem(str(error))
                continue
            row.told.update(names & facts.keys())
            row.figures.update({name: value for name in names if (value := number(facts.get(name))) is not None})
            _offer(found, worst, row, names)


def read_members(out: Path, row: Row, column: str, wanted: set[str]) -> dict[str, bytes]:
    """Return some members of a clip's sample; ShardError, naming the tar and the clip, if one cannot be read."""
    return shards.read_sample(shards.tar_path(out, column, row.shard), row.key, row.where[column], wanted)


def read_facts(out: Path, row: Row, column: str) -> dict[str, Any]:
    """Return the content of a clip's JSON member; ShardError as in `read_members`."""
    return shards.read_facts(shards.tar_path(out, column, row.shard), column, row.key, row.where[column])
