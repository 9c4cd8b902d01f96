"""Processes, time-outs and restarts: from a manifest to finished shards, independent of their contents.

The unit of work is a shard: a task gets some of the manifest's shards, skips those that are done, and fills the others
with a pool of processes. A clip that hangs is killed. One that crashes its process loses only itself. Every clip is
recorded in its shard's sidecar as `ok` or `failed`.
"""

from __future__ import annotations

import math
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avprep import shards
from avprep.bounds import check_number, check_whole
from avprep.errors import RunError
from avprep.manifest import Clip, Manifest
from avprep.runs import worker
from avprep.runs.filling import OpenShard
from avprep.runs.fingerprint import ColumnStage, check, join
from avprep.runs.pool import Died, Ended, Pool, PoolError
from avprep.runs.progress import Progress
from avprep.runs.workfolder import work_folder
from avprep.signals import Stop, Stopped, stop_signals

SAME_ERRORS = 20
"""Number of consecutive clips, in the manifest's order, with the same internal error that stop the run."""

FEW = 16
"""Maximum clips of a shard whose tar is made by this process: on a small disk that frees space at once."""

_QUEUED_PER_WORKER = 4
_TICK = 0.25  # s between checks of the stop flag and the clock
_GRACE = 1.0  # s: a signal to the whole job may reach a worker before it reaches this process
_MAX_STUCK = 20  # maximum processes that hang in the kernel before the run is stopped; two per worker if more


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run.

    planned: this task's shards. skipped: those that were done before; in a retry, those without a clip to run again.
    unfinished: those that a retry left alone, because the run that makes them has not finished them.
    stuck: process and video of each clip that was given up but still hangs in the kernel.
    clips: number of clips that this run did, in `seconds`.
    ok, failed (reason -> clips), frames, silent (among the ok): of all the task's shards, including earlier runs'.
    """

    planned: tuple[str, ...]
    skipped: tuple[str, ...]
    clips: int
    frames: int
    seconds: float
    ok: int
    failed: dict[str, int]
    unfinished: tuple[str, ...] = ()
    stuck: tuple[tuple[int, str], ...] = ()
    silent: int = 0


_Job = tuple[OpenShard, int]
"""A shard and the row of one of its clips."""

_Tag = tuple[int, str]
"""Identifies a job: its number in this run, in the manifest's order, and its video."""


def run(
    stage: ColumnStage,
    manifest: Manifest,
    out: Path,
    *,
    jobs: int,
    shard_size: int | None = None,
    clip_timeout: float | None = None,
    task_index: int = 0,
    num_tasks: int = 1,
    retry: frozenset[str] = frozenset(),
    accept_versions: bool = False,
    verbosity: int = 0,
) -> Outcome:
    """Fill this task's shards of one column.

    jobs: worker processes. clip_timeout: seconds after which a clip is stopped and counted as `timeout`; None:
    `worker.CLIP_TIMEOUT`, or `worker.TIMES_LENGTH` times the clip's length if that is more.
    shard_size: clips per shard; None: that of the folder if it has one, else 500.
    task_index, num_tasks: this task fills every `num_tasks`-th shard from `task_index` on.
    retry: instead, run again the clips of finished shards that failed for one of these reasons; everything else in
    those shards is copied.
    accept_versions: continue a folder that was started with other library versions; the sidecars of shards that are
    made then record them.
    verbosity: see `Progress`.
    Raises RunError, one line, for another manifest or other settings in `out`, a disk that cannot be written, or
    SAME_ERRORS consecutive clips with the same internal error; Stopped after one of STOP_SIGNALS. In each case finished
    shards stay and nothing unfinished is left behind.
    """
    check_options(jobs, shard_size=shard_size, clip_timeout=clip_timeout, task_index=task_index, num_tasks=num_tasks)
    with stop_signals() as stop:
        if retry and shards.read_run(out, stage.column) is None:
            raise RunError(f"{out}: no run of {stage.column} was ever started there, so there is nothing to run again")
        missing = [path for path in (out / "manifest.jsonl", out / stage.column / "run.json") if not path.exists()]
        size = check(stage, manifest, out, shard_size, accept_versions=accept_versions)
        with work_folder(out / stage.column) as work:
            join(stage, manifest, out, size, missing, work, accept_versions=accept_versions)
            mine = list(manifest.shards(size))[task_index::num_tasks]
            progress = Progress(f"avprep {stage.column}", sum(len(clips) for _, clips in mine), verbosity)
            filler = _Filler(stage, out, work, progress, jobs, clip_timeout, stop, retry)
            try:
                return filler.fill(mine)
            finally:
                progress.close()


def check_options(
    jobs: int,
    *,
    shard_size: int | None = None,
    clip_timeout: float | None = None,
    task_index: int = 0,
    num_tasks: int = 1,
    **_: object,
) -> None:
    """Raise SettingsError, one line, for an invalid value of an option of `run`, before anything is written."""
    check_whole("jobs", jobs, 1)
    check_whole("num_tasks", num_tasks, 1)
    check_whole("task_index", task_index, 0, num_tasks - 1)
    if shard_size is not None:
        check_whole("shard_size", shard_size, 1)
    if clip_timeout is not None:
        check_number("clip_timeout", clip_timeout, 0, above=True)


class _Streak:
    """Counts consecutive clips with the same internal error, in the order of their numbers, not in that of ending."""

    def __init__(self) -> None:
        self.length = 0
        self._fault: str | None = None
        self._next = 0
        self._ends: dict[int, str | None] = {}

    def add(self, number: int, fault: str | None) -> bool:
        """Add the fault of a clip, None if it had no internal error; return whether SAME_ERRORS is reached."""
        self._ends[number] = fault
        while self._next in self._ends and self.length < SAME_ERRORS:
            fault = self._ends.pop(self._next)
            self.length = 0 if fault is None else self.length + 1 if fault == self._fault else 1
            self._fault = fault
            self._next += 1
        return self.length == SAME_ERRORS


class _Filler:
    """Fills shards with a pool of processes. One instance per run."""

    def __init__(
        self,
        stage: ColumnStage,
        out: Path,
        work: Path,
        progress: Progress,
        jobs: int,
        clip_timeout: float | None,
        stop: Stop,
        retry: frozenset[str],
    ) -> None:
        self._stage = stage
        self._out = out
        self._work = work
        self._progress = progress
        self._jobs = jobs
        self._clip_timeout = clip_timeout
        self._stop = stop
        self._retry = retry
        self._pending: dict[_Tag, _Job] = {}
        self._strung: dict[str, OpenShard] = {}  # complete shards whose tar a worker makes
        self._submitted = 0
        self._streak = _Streak()
        self._stuck: tuple[tuple[int, str], ...] = ()
        self._open: set[OpenShard] = set()
        self._tally = _Tally()
        self._clips = self._planned = 0
        self._skipped: list[str] = []
        self._unfinished: list[str] = []

    def fill(self, mine: list[tuple[str, tuple[Clip, ...]]]) -> Outcome:
        """Process every clip that is not done."""
        begin = time.monotonic()
        self._planned = len(mine)
        jobs = min(self._jobs, sum(len(clips) for _, clips in mine))
        try:
            self._work_through(self._queue(mine), max(1, jobs))
        finally:
            for shard in self._open:
                shard.close()
        return Outcome(
            planned=tuple(name for name, _ in mine),
            skipped=tuple(self._skipped),
            clips=self._clips,
            frames=self._tally.frames,
            seconds=time.monotonic() - begin,
            ok=self._tally.totals.pop("ok", 0),
            failed=dict(sorted(self._tally.totals.items())),
            unfinished=tuple(self._unfinished),
            stuck=self._stuck,
            silent=self._tally.silent,
        )

    def _work_through(self, queue: Iterator[_Job | None], jobs: int) -> None:
        """Process the queue."""
        pool = Pool(jobs, worker.start, (self._stage,), deaf=worker.DEAF_TO)
        more = True
        try:
            while more or self._pending or self._strung:
                self._heed_stop()
                job = None
                if room := more and len(self._pending) < jobs * _QUEUED_PER_WORKER:
                    try:
                        self._submit(pool, job := next(queue))
                    except StopIteration:
                        more = False
                if job is not None and len(self._pending) < jobs * _QUEUED_PER_WORKER:
                    continue
                for ended in pool.wait(0 if room else _TICK):
                    self._collect(pool, ended)
                if len(pool.stuck()) > max(_MAX_STUCK, 2 * jobs):
                    raise RunError("too many processes hang in the kernel: does the file system still answer?")
                self._progress.tick()
        except PoolError as error:
            self._heed_stop(_GRACE)
            start = "" if "could not start" in str(error) else "; try a smaller -j"
            raise RunError(f"{error}{start}") from error
        finally:
            self._name_stuck(pool.close())

    def _name_stuck(self, found: list[tuple[int, Any]]) -> None:
        """Record and show the processes that hang in the kernel, for example on a network file system that is down."""
        self._stuck = tuple((pid, "none" if tag is None else tag[1]) for pid, tag in found)
        if self._stuck:
            named = ", ".join(f"{pid} ({video})" for pid, video in self._stuck)
            self._progress.note(f"stuck in the kernel and given up, though killed: process {named}")

    def _heed_stop(self, patience: float = 0) -> None:
        if self._stop.is_set() or (patience and self._stop.wait(patience)):
            raise Stopped(f"stopped by {self._stop.by}, {self._so_far()}; run it again to go on")

    def _so_far(self) -> str:
        return f"{self._tally.shards} of {self._planned} shards done"

    def _queue(self, mine: list[tuple[str, tuple[Clip, ...]]]) -> Iterator[_Job | None]:
        """Yield the clips to process, and None for a shard without any; each shard is checked when its turn comes."""
        for name, clips in mine:
            shard = self._take(name, clips)
            if shard is None:
                yield None
                continue
            self._open.add(shard)
            for row in range(len(clips)):
                if row not in shard.records:
                    yield shard, row

    def _take(self, name: str, clips: tuple[Clip, ...]) -> OpenShard | None:
        """Return a shard with work to do; for any other, count it and return None."""
        if self._retry:
            head = shards.finished_head(self._out, self._stage.column, name)
            if head is not None and not self._retry & head["counts"]["reasons"].keys():
                self._skip(name, head["counts"])
                return None
        shard = OpenShard(self._stage, self._out, self._work, name, clips)
        sidecar = shard.resume(self._retry)
        if sidecar is None:
            if not self._retry:
                return shard
            self._unfinished.append(name)
            self._progress.skip(len(clips), 0)
            return None
        if not shard.failed:
            shard.close()
            self._skip(name, shards.counts(sidecar["clips"]))
            return None
        self._progress.skip(len(shard.records), sum(clip["state"] != "ok" for clip in shard.records.values()))
        shard.keep_samples()
        return shard

    def _skip(self, name: str, counts: dict[str, Any]) -> None:
        """Count a shard without work to do."""
        self._progress.skip(counts["clips"], counts["failed"])
        self._skipped.append(name)
        self._tally.add(counts)

    def _submit(self, pool: Pool, job: _Job | None) -> None:
        if job is None:
            return
        shard, row = job
        scaled = self._clip_timeout is None
        timeout = worker.CLIP_TIMEOUT if self._clip_timeout is None else self._clip_timeout
        arguments = shard.clips[row], shard.name, shard.stretch(row), scaled
        tag = (self._submitted, shard.clips[row].video)
        pool.submit(tag, worker.do_clip, *arguments, timeout=timeout)
        self._pending[tag] = job
        self._submitted += 1

    def _collect(self, pool: Pool, ended: Ended) -> None:
        """Handle the outcome of a clip's or a tar's job; that of removing samples is ignored."""
        try:
            if ended.tag in self._strung:
                self._finish(pool, self._strung.pop(ended.tag), ended)
            elif ended.tag in self._pending:
                self._note(pool, ended)
        except OSError as error:
            raise RunError(f"{self._out}: cannot write ({error.strerror})") from error

    def _note(self, pool: Pool, ended: Ended) -> None:
        """Record the outcome of a clip; after the last one of a shard, have its tar made."""
        record = self._record(ended)
        shard, row = self._pending.pop(ended.tag)
        if (fatal := record.pop("fatal", None)) is not None:
            raise RunError(fatal)
        fault = record.pop("fault", None)
        complete = shard.add(row, record)
        self._clips += 1
        self._progress.clip(shard.clips[row].key, record)
        if complete and (shard.copies or len(shard.clips) <= FEW):
            self._finish(pool, shard, None)
        elif complete:
            self._strung[shard.name] = shard
            pool.submit(shard.name, shards.string_together, *shard.parts)
        if self._streak.add(ended.tag[0], fault):
            raise RunError(
                f"stopped, {self._so_far()}, since {SAME_ERRORS} clips in a row ended with the same internal error "
                f"({record['message']}): please report it"
            )

    def _record(self, ended: Ended) -> dict[str, Any]:
        """Return the record of a clip, whatever happened to its process."""
        if isinstance(ended.error, Died) and ended.error.exit_code in (-signal.SIGTERM, -signal.SIGKILL):
            self._heed_stop(_GRACE)  # a scheduler ends every process of a job: not the clip's fault
        return _record(ended)

    def _finish(self, pool: Pool, shard: OpenShard, strung: Ended | None) -> None:
        """Move a shard into place; strung: the outcome of the worker that made its tar, None if it is not made yet."""
        if strung is not None and isinstance(strung.error, Died):
            self._heed_stop(_GRACE)  # as for a clip; otherwise the tar is made here
            strung = None
        elif strung is not None and strung.error is not None:
            raise strung.error
        counts = shard.finish(*(shard.string() if strung is None else strung.value))
        if strung is not None:
            pool.submit(None, worker.remove, shard.written)
        self._open.remove(shard)
        self._tally.add(counts)
        self._progress.shard(shard.name, counts, time.monotonic() - shard.begun)


@dataclass
class _Tally:
    """Totals of the finished shards; totals: clips by outcome."""

    shards: int = 0
    frames: int = 0
    silent: int = 0
    totals: Counter[str] = field(default_factory=Counter)

    def add(self, counts: dict[str, Any]) -> None:
        """Count a shard that is done."""
        self.shards += 1
        self.totals.update({"ok": counts["ok"], **counts["reasons"]})
        self.frames += counts["frames"]
        self.silent += counts.get("silent", 0)


def _record(ended: Ended) -> dict[str, Any]:
    """Return the record of a clip."""
    match ended.error:
        case None:
            return dict(ended.value)
        case TimeoutError():
            message = f"stopped after {ended.limit:g} s; try --clip-timeout {longer(ended.limit)}"
            return worker.failed("timeout", message, ended.limit)
        case Died(exit_code=exit_code):
            return worker.failed("crashed", f"the process died ({_how_it_died(exit_code)})", None)
        case error:
            return worker.failed("error", " ".join(f"{type(error).__name__}: {error}".split()), None)


def longer(seconds: float) -> int:
    """Return a --clip-timeout to suggest if one of `seconds` was too short."""
    return math.ceil(5 * seconds)


def _how_it_died(exit_code: int) -> str:
    """Return the cause of a process's death: a signal's name, or the exit status."""
    if exit_code >= 0:
        return f"exit status {exit_code}"
    try:
        return signal.Signals(-exit_code).name
    except ValueError:  # most real-time signals have no name
        return f"signal {-exit_code}"
