"""The state of a run's folder: a fast count from the first line of every sidecar. `verify` checks the contents."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from avprep import schema, shards
from avprep.manifest import shard_lengths
from avprep.runs import tasks
from avprep.runs.fingerprint import clip_counts, manifest_path

RECENT = 3600.0
"""Seconds over which the rate is measured."""


@dataclass
class SplitStatus:
    """Clips of one split in one column; `missing` ones are in unfinished shards, `silent` ones are among the ok."""

    ok: int = 0
    failed: int = 0
    missing: int = 0
    frames: int = 0
    shards: int = 0
    shards_done: int = 0
    silent: int = 0

    def add(self, counts: Mapping[str, Any]) -> None:
        """Count a finished shard by the counts of its sidecar."""
        self.shards_done += 1
        self.ok += counts["ok"]
        self.failed += counts["failed"]
        self.frames += counts["frames"]
        self.silent += counts.get("silent", 0)

    @classmethod
    def total(cls, splits: Iterable[SplitStatus]) -> SplitStatus:
        """Return the sum of some splits."""
        return cls(*map(sum, zip(*map(astuple, splits), strict=True)))


@dataclass
class ColumnStatus:
    """One column of a run's folder.

    reasons: failed clips by reason. again: those of them that failed for the same reason when they were run again.
    longest_timeout: maximum seconds after which a clip was stopped; None if none was, or none was recorded.
    clip_seconds: work done so far, in worker seconds. core_seconds_left: the same for the missing clips, estimated at
    this rate; None if nothing is done yet.
    rate: clips/s of all tasks together over the last hour; None if no shard was finished in it. eta_seconds: the time
    left at that rate.
    unfinished: names of the missing shards, in the manifest's order.
    """

    column: str
    splits: dict[str, SplitStatus] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    again: dict[str, int] = field(default_factory=dict)
    longest_timeout: float | None = None
    clip_seconds: float = 0.0
    core_seconds_left: float | None = None
    rate: float | None = None
    eta_seconds: float | None = None
    unfinished: list[str] = field(default_factory=list)

    @property
    def total(self) -> SplitStatus:
        """The sum of all splits."""
        return SplitStatus.total(self.splits.values())

    @property
    def shards(self) -> int:
        """The number of shards of the manifest."""
        return self.total.shards

    def array(self, num_tasks: int) -> str:
        """Return which of `num_tasks` tasks have work left, in the form of Slurm's `--array`."""
        ends = accumulate(split.shards for split in self.splits.values())
        first = {name: end - split.shards for (name, split), end in zip(self.splits.items(), ends, strict=True)}
        names = (name.partition("-") for name in self.unfinished)
        return tasks.expression((first[split] + int(number)) % num_tasks for split, _, number in names)

    def to_json(self) -> dict[str, Any]:
        """Return the status as JSON."""
        return asdict(self)


def status(out: Path, now: float | None = None, columns: Iterable[str] = schema.ALL_COLUMNS) -> list[ColumnStatus]:
    """Count what is done, from the first line of every sidecar and the size of its tar; `verify` checks digests.

    now: seconds since 1970, for the rate. columns: those to count; one that was never started is left out.
    Raises RunError if `out` holds no run.
    """
    manifest_path(out)
    found = []
    for column in columns:
        run = shards.read_run(out, column)
        if run is not None:
            found.append(column_status(out, column, clip_counts(out, run), run["shard_size"], now))
    return found


def column_status(
    out: Path, column: str, clips: dict[str, int], shard_size: int, now: float | None = None, *, anew: bool = False
) -> ColumnStatus:
    """Count one column, started or not. clips: number of clips in each split. anew: as if never started."""
    result = ColumnStatus(column)
    reasons: Counter[str] = Counter()
    again: Counter[str] = Counter()
    heads: list[dict[str, Any]] = []
    for name, n_clips in shard_lengths(clips, shard_size):
        split = result.splits.setdefault(name.partition("-")[0], SplitStatus())
        split.shards += 1
        head = None if anew else shards.finished_head(out, column, name)
        if head is None:
            split.missing += n_clips
            result.unfinished.append(name)
            continue
        heads.append(head)
        split.add(head["counts"])
        reasons.update(head["counts"]["reasons"])
        again.update(head.get("again", {}))
        if (longest := head["timings"].get("longest_timeout")) is not None:
            result.longest_timeout = max(longest, result.longest_timeout or 0.0)
        result.clip_seconds += head["timings"]["clip_seconds"]
    result.reasons = dict(sorted(reasons.items()))
    result.again = dict(sorted(again.items()))
    total = result.total
    done = total.ok + total.failed
    result.core_seconds_left = result.clip_seconds / done * total.missing if done else None
    result.rate = _rate(heads, time.time() if now is None else now)
    result.eta_seconds = total.missing / result.rate if result.rate else None
    return result


def _rate(heads: list[dict[str, Any]], now: float) -> float | None:
    """Return the clips/s of the shards finished within the last hour, measured since the first of them was begun."""
    spans = [(head["timings"].get("started", 0.0), head["timings"].get("wall_seconds", 0.0)) for head in heads]
    recent: list[tuple[float, int]] = [
        (started, head["counts"]["clips"])
        for (started, seconds), head in zip(spans, heads, strict=True)
        if now - RECENT < started + seconds and started < now + RECENT  # excludes clocks that were set back since
    ]
    if not recent:
        return None
    begin = max(now - RECENT, min(started for started, _ in recent))
    clips = sum(int(clips) for _, clips in recent)
    return clips / max(now - begin, 1e-3)
