"""The one place of processes, time-outs and restarts: a plan in, finished shards out. It knows nothing of faces.

Shards own the work: a task is given some of the plan's shards, skips those that are done, and fills the others with a
pool of processes. A clip that hangs is killed, one that crashes its process costs only itself; every clip ends in its
shard's sidecar as `ok` or `failed`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext
from multiprocessing.synchronize import RLock
from pathlib import Path
from types import FrameType
from typing import IO, Any, Protocol

from pebble import ProcessExpired, ProcessPool

from avprep import manifest as manifests
from avprep import shards
from avprep.errors import AvprepError, Reject, RunError
from avprep.manifest import Clip, Manifest
from avprep.progress import Progress

FINGERPRINT_VERSION = 1
_QUEUED_PER_WORKER = 4
_TICK = 0.25  # s between looks at the stop flag and the clock
_GRACE = 1.0  # s: a signal to the whole job may reach a worker before it reaches this process
_BREAKDOWNS = 3  # pools in a row that may die before they finish a clip
_WORK = ".work-"
_DAY = 24 * 3600.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Stage(Protocol):
    """What is done to each clip. Pickled to every worker and called there once for the function that does it.

    column: the folder below OUT that the shards go to.
    """

    @property
    def column(self) -> str:
        """The column's name."""
        ...

    def resolved(self) -> dict[str, Any]:
        """Return the settings that decide the bytes."""
        ...

    def versions(self) -> dict[str, str]:
        """Return the versions that decide the bytes."""
        ...

    def __call__(self) -> Callable[[Clip], shards.Sample]:
        """Build the function; it raises Reject to fail a clip."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    planned: this task's shards; skipped: those that were done before.
    clips: what this run did, in `seconds`.
    ok, failed (reason -> clips), frames: of all the task's shards, whoever did them.
    """

    planned: tuple[str, ...]
    skipped: tuple[str, ...]
    clips: int
    frames: int
    seconds: float
    ok: int
    failed: dict[str, int]


@dataclass(eq=False)
class _Shard:
    """A shard that is being filled."""

    name: str
    clips: tuple[Clip, ...]
    records: dict[int, dict[str, Any]] = field(default_factory=dict)
    writer: shards.ShardWriter | None = None
    written: int = 0
    started: float = 0.0


_Job = tuple[_Shard, int]
"""A shard and the row of a clip in it."""


def run(
    stage: Stage,
    plan: Manifest,
    out: Path,
    *,
    jobs: int,
    shard_size: int | None = None,
    clip_timeout: float = 120.0,
    task_index: int = 0,
    num_tasks: int = 1,
) -> Outcome:
    """Fill this task's shards of one column.

    jobs: worker processes. clip_timeout: seconds after which a clip is stopped and counted as `timeout`.
    shard_size: clips a shard; None takes what the folder already has, else 500.
    task_index, num_tasks: this task takes every `num_tasks`-th shard from `task_index` on.
    Raises RunError, one line: another plan or other settings in `out`, a disk that cannot be written; Stopped after
    SIGINT or SIGTERM. In each case finished shards stay and nothing unfinished is left behind.
    """
    with _signals() as stopped:
        missing = [path for path in (out / "manifest.jsonl", out / stage.column / "run.json") if not path.exists()]
        size = check(stage, plan, out, shard_size)
        with _work_folder(out / stage.column) as work:
            _join(stage, plan, out, size, missing, work)
            mine = list(plan.shards(size))[task_index::num_tasks]
            progress = Progress(f"avprep {stage.column}", sum(len(clips) for _, clips in mine))
            filler = _Filler(stage, out, work, progress, jobs, clip_timeout, stopped)
            try:
                return filler.fill(mine)
            finally:
                progress.close()


class Stopped(AvprepError):  # noqa: N818 - no error: what the user asked for
    """The run was told to stop by a signal."""


def fingerprint(stage: Stage, plan: Manifest, shard_size: int) -> dict[str, Any]:
    """Return what decides a column's bytes, as JSON gives it back."""
    ours = {
        "avprep_run": FINGERPRINT_VERSION,
        "column": stage.column,
        "manifest": plan.digest(),
        "shard_size": shard_size,
        "settings": stage.resolved(),
        "versions": stage.versions(),
    }
    return dict(json.loads(json.dumps(ours)))


def check(stage: Stage, plan: Manifest, out: Path, shard_size: int | None) -> int:
    """Prove that `out` is free or holds this very run; return its shard size. Nothing is written.

    Raises RunError with the difference where `out` belongs to another plan or other settings.
    """
    size = _shard_size(out, shard_size)
    ours = fingerprint(stage, plan, size)
    theirs = read_fingerprint(out, stage.column)
    if theirs == ours:  # so the frozen plan, seconds of reading for a large set, is this one too
        return size
    frozen_path = out / "manifest.jsonl"
    if frozen_path.exists():
        frozen = manifests.read(frozen_path)
        if frozen.digest() != ours["manifest"]:
            raise RunError(
                f"{frozen_path}: another plan ({frozen.dataset}, {len(frozen.clips)} clips; this one: {plan.dataset}, "
                f"{len(plan.clips)} clips); use another OUT or that manifest"
            )
    if theirs is not None:
        differences = "; ".join(_differences(theirs, ours))
        path = out / stage.column / "run.json"
        raise RunError(f"{path}: made with other settings ({differences}); use another OUT or the same settings")
    return size


def read_plan(out: Path) -> Manifest:
    """Read the frozen plan of a run's folder; RunError where there is none."""
    path = out / "manifest.jsonl"
    if not path.is_file():
        raise RunError(f"{out}: no run was ever started there (no manifest.jsonl)")
    return manifests.read(path)


def read_fingerprint(out: Path, column: str) -> dict[str, Any] | None:
    """Read a column's run.json; None where the column was never started; RunError where it is damaged."""
    path = out / column / "run.json"
    return _read_run(path) if path.is_file() else None


class _LockKeeper(SpawnContext):
    """Keeps a pool's locks until its workers are gone: one that is just starting looks them up by name."""

    def __init__(self) -> None:
        super().__init__()
        self.locks: list[RLock] = []

    def RLock(self) -> RLock:  # noqa: N802 - the library's name
        self.locks.append(super().RLock())
        return self.locks[-1]


class _Filler:
    """Fills shards with a pool of processes. One instance a run."""

    def __init__(
        self,
        stage: Stage,
        out: Path,
        work: Path,
        progress: Progress,
        jobs: int,
        clip_timeout: float,
        stopped: threading.Event,
    ) -> None:
        self._stage = stage
        self._out = out
        self._work = work
        self._progress = progress
        self._jobs = jobs
        self._clip_timeout = clip_timeout
        self._stopped = stopped
        self._pending: dict[Future[dict[str, Any]], _Job] = {}
        self._unfinished: set[_Shard] = set()
        self._totals: Counter[str] = Counter()
        self._frames = 0
        self._clips = 0
        self._planned = 0
        self._done = 0
        self._skipped: list[str] = []

    def fill(self, mine: list[tuple[str, tuple[Clip, ...]]]) -> Outcome:
        """Do every clip of the shards that are not done yet."""
        begin = time.monotonic()
        self._planned = len(mine)
        jobs = min(self._jobs, sum(len(clips) for _, clips in mine))
        try:
            self._outlive_pools(self._queue(mine), max(1, jobs))
        finally:
            for shard in self._unfinished:
                if shard.writer is not None:
                    shard.writer.close()
        return Outcome(
            planned=tuple(name for name, _ in mine),
            skipped=tuple(self._skipped),
            clips=self._clips,
            frames=self._frames,
            seconds=time.monotonic() - begin,
            ok=self._totals.pop("ok", 0),
            failed=dict(sorted(self._totals.items())),
        )

    def _outlive_pools(self, queue: Iterator[_Job | None], jobs: int) -> None:
        """Work through the queue, with another pool where one breaks down: an idle worker was killed, say."""
        breakdowns = 0
        while True:
            before = self._clips
            try:
                return self._work_through(queue, jobs)
            except BrokenExecutor as error:
                self._heed_stop(_GRACE)
                breakdowns = 1 if self._clips > before else breakdowns + 1
                if breakdowns == _BREAKDOWNS:
                    raise RunError(f"workers die before they do anything ({error}); try a smaller -j") from error
                queue = itertools.chain(list(self._pending.values()), queue)
                self._pending.clear()

    def _work_through(self, queue: Iterator[_Job | None], jobs: int) -> None:
        """Do what is queued; BrokenExecutor with the undone clips in `_pending` where the pool breaks down."""
        context = _LockKeeper()
        pool = ProcessPool(
            max_workers=jobs,
            context=context,
            initializer=_start_worker,
            initargs=(self._stage,),
        )
        more = True
        try:
            while more or self._pending:
                self._heed_stop()
                if room := more and len(self._pending) < jobs * _QUEUED_PER_WORKER:
                    try:
                        self._submit(pool, next(queue))
                    except StopIteration:
                        more = False
                finished, _ = wait(self._pending, timeout=0 if room else _TICK, return_when=FIRST_COMPLETED)
                for future in [future for future in self._pending if future in finished]:  # in the plan's order
                    self._collect(future)
                self._progress.tick()
        finally:
            pool.stop()  # type: ignore[no-untyped-call]
            pool.join()
            context.locks.clear()

    def _heed_stop(self, patience: float = 0) -> None:
        if self._stopped.is_set() or (patience and self._stopped.wait(patience)):
            raise Stopped(f"stopped by a signal, {self._done} of {self._planned} shards done; run it again to go on")

    def _queue(self, mine: list[tuple[str, tuple[Clip, ...]]]) -> Iterator[_Job | None]:
        """Yield the clips that are to be done, and None for a shard that is done; look at each when its turn comes."""
        for name, clips in mine:
            sidecar = shards.finished(self._out, self._stage.column, name, [clip.key for clip in clips])
            if sidecar is not None:
                self._skipped.append(name)
                self._done += 1
                self._count(sidecar["clips"])
                self._progress.skip(len(clips), sum(clip["state"] != "ok" for clip in sidecar["clips"]))
                yield None
                continue
            shard = _Shard(name, clips, started=time.time())
            for row in range(len(clips)):
                yield shard, row

    def _submit(self, pool: ProcessPool, job: _Job | None) -> None:
        if job is None:
            return
        shard, row = job
        args = [shard.clips[row], self._stretch(shard, row)]
        try:
            with _no_interrupt():
                future: Future[dict[str, Any]] = pool.schedule(_do_clip, args=args, timeout=self._clip_timeout)
        except (RuntimeError, OSError) as error:  # the pool has broken down, or its processes cannot be started
            future = Future()
            future.set_exception(BrokenExecutor(str(error)))
        self._pending[future] = job

    def _stretch(self, shard: _Shard, row: int) -> Path:
        return self._work / f"{shard.name}-{row}.part"

    def _collect(self, future: Future[dict[str, Any]]) -> None:
        record = self._record(future)
        shard, row = self._pending.pop(future)
        if (fatal := record.pop("fatal", None)) is not None:
            raise RunError(fatal)
        key = shard.clips[row].key
        shard.records[row] = {"key": key, **record}
        if record["state"] != "ok":
            self._stretch(shard, row).unlink(missing_ok=True)
        self._clips += 1
        self._progress.clip(key, record)
        try:
            self._write(shard)
        except OSError as error:
            raise RunError(f"{self._out}: cannot write ({error.strerror})") from error

    def _record(self, future: Future[dict[str, Any]]) -> dict[str, Any]:
        """Return how a clip ended, whatever became of its process."""
        try:
            return future.result()
        except TimeoutError:
            message = f"stopped after --clip-timeout {self._clip_timeout:g} s"
            return _failed("timeout", message, self._clip_timeout)
        except ProcessExpired as error:
            if error.exitcode == -signal.SIGTERM:
                self._heed_stop(_GRACE)  # a scheduler tells every process of a job: that is no fault of the clip
            return _failed("crashed", f"the process died ({_how_it_died(error.exitcode)})", None)

    def _write(self, shard: _Shard) -> None:
        """Append what is next in order; finish the shard when it is complete."""
        if shard.writer is None:
            path = shards.tar_path(self._out, self._stage.column, shard.name)
            shard.writer = shards.ShardWriter(path, self._work / f"{shard.name}.tar.part")
            self._unfinished.add(shard)
        while shard.written in shard.records:
            if shard.records[shard.written]["state"] == "ok":
                shard.writer.append(self._stretch(shard, shard.written))
            shard.written += 1
        if shard.written < len(shard.clips):
            return
        self._unfinished.remove(shard)
        digest, size = shard.writer.finish()
        records = [shard.records[row] for row in range(len(shard.clips))]
        head = {
            "avprep_sidecar": shards.SIDECAR_VERSION,
            "column": self._stage.column,
            "shard": shard.name,
            "sha256": digest,
            "bytes": size,
            "counts": shards.counts(records),
            "timings": {
                "started": round(shard.started, 3),
                "wall_seconds": round(time.time() - shard.started, 3),
                "clip_seconds": round(sum(record["seconds"] or 0 for record in records), 3),
            },
        }
        path = shards.sidecar_path(self._out, self._stage.column, shard.name)
        aside = self._work / f"{shard.name}.json.part"
        shards.write_atomically(path, shards.render_sidecar(head, records), aside=aside)
        self._count(records)
        self._done += 1

    def _count(self, records: list[dict[str, Any]]) -> None:
        for record in records:
            self._totals["ok" if record["state"] == "ok" else record["reason"]] += 1
            self._frames += record.get("n_frames", 0)


# In the worker processes --------------------------------------------------------------------------------------------

_do: Callable[[Clip], shards.Sample] | None = None
_fatal: str | None = None


def _start_worker(stage: Stage) -> None:
    """Build the worker's function once; what fails there fails the run, not one clip after another."""
    global _do, _fatal
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":  # the thread below cannot run while C code holds the interpreter's lock
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        _do = stage()
    except AvprepError as error:
        _fatal = str(error)
    except BaseException as error:  # reported by the parent, which ends the run
        _fatal = f"a worker could not start: {_describe(error)}"


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _do_clip(clip: Clip, stretch: Path) -> dict[str, Any]:
    """Do one clip in a worker; return its record for the sidecar."""
    if _fatal is not None or _do is None:
        return {"fatal": _fatal or "a worker was not started"}
    begin = time.monotonic()
    try:
        sample = _do(clip)
        shards.write_members(stretch, clip.key, sample.members)
        record = {
            "state": "ok",
            "n_frames": sample.n_frames,
            **sample.summary,
            "seconds": round(time.monotonic() - begin, 3),
        }
        json.dumps(record, allow_nan=False)  # what a sidecar cannot hold is this clip's error, not the run's end
        return record
    except Reject as reject:
        return _failed(reject.reason, reject.message, time.monotonic() - begin)
    except AvprepError as error:
        return {"fatal": str(error)}
    except BaseException as error:  # one clip must not end the run, not by sys.exit() either
        return _failed("error", _describe(error), time.monotonic() - begin)


def _describe(error: BaseException) -> str:
    """Return type, message and place of an error in one line."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return " ".join(f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})".split())


def _failed(reason: str, message: str, seconds: float | None) -> dict[str, Any]:
    return {
        "state": "failed",
        "reason": reason,
        "message": message,
        "seconds": None if seconds is None else round(seconds, 3),
    }


def _how_it_died(exit_code: int) -> str:
    """Say what `multiprocessing` knows of a dead process: a signal's name where there was one."""
    if exit_code >= 0:
        return f"exit status {exit_code}"
    try:
        return signal.Signals(-exit_code).name
    except ValueError:  # most real-time signals have no name
        return f"signal {-exit_code}"


# The folder of a run ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _work_folder(folder: Path) -> Iterator[Path]:
    """Make a folder for unfinished files that dies with its run: it is locked, and whoever comes next sweeps up."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(f"{_WORK}*.lock"):
            _sweep(path)
        file, lock = _new_lock(folder)
    except OSError as error:
        raise RunError(f"{folder}: cannot write there ({error.strerror})") from error
    with file:
        try:
            _work(lock).mkdir()
            yield _work(lock)
        finally:
            _clear(lock)


def _new_lock(folder: Path) -> tuple[IO[str], Path]:
    """Create a file and lock it; a sweep that comes between the two takes it away, so look again."""
    while True:
        handle, name = tempfile.mkstemp(prefix=_own_prefix(), suffix=".lock", dir=folder)
        file = os.fdopen(handle, "r+")
        if _lock(file) is not False and Path(name).exists():
            return file, Path(name)
        file.close()


def _sweep(lock: Path) -> None:
    """Remove the unfinished files of a run that is no more; the lock tells.

    On some cluster file systems locks hold within one machine only, so what another machine touched today stays.
    """
    with contextlib.suppress(OSError):  # swept by another run just now, or not ours to remove
        theirs = not lock.name.startswith(_own_prefix())
        if theirs and time.time() - max(path.stat().st_mtime for path in (lock, _work(lock)) if path.exists()) < _DAY:
            return
        with lock.open("r+") as file:  # NFS locks only what is open for writing
            if _lock(file):
                _clear(lock)


def _clear(lock: Path) -> None:
    """Remove a work folder and its lock; what cannot be removed now keeps its lock, so a later run sweeps it up."""
    shutil.rmtree(_work(lock), ignore_errors=True)
    if not _work(lock).exists():
        with contextlib.suppress(OSError):
            lock.unlink(missing_ok=True)


def _work(lock: Path) -> Path:
    return lock.with_suffix("")


def _own_prefix() -> str:
    return f"{_WORK}{socket.gethostname()}~"


def _lock(file: IO[str]) -> bool | None:
    """Lock a file for as long as it is open; False where another process holds it, None where there are no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
            return None  # Lustre without -o flock
        raise
    return True


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """Let threads and processes that are started here be deaf to Ctrl-C, also while Python itself starts in them."""
    resource_tracker.ensure_running()  # when it starts, it unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _signals() -> Iterator[threading.Event]:
    """Turn SIGINT and SIGTERM into an event for as long as the run lasts; a second one ends it as usual."""
    stopped = threading.Event()
    before: dict[int, Any] = {}

    def stop(number: int, _: FrameType | None) -> None:
        stopped.set()
        signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, stop)
    try:
        yield stopped
    finally:
        for caught, handler in before.items():
            signal.signal(caught, handler)


def _join(stage: Stage, plan: Manifest, out: Path, shard_size: int, missing: list[Path], work: Path) -> None:
    """Enter `out`: write what is missing of the frozen plan and the fingerprint.

    Raises RunError with the difference where another run was a moment faster and differs.
    """
    try:
        for path in missing:
            if path.name == "run.json":
                text = json.dumps(fingerprint(stage, plan, shard_size), indent=2, ensure_ascii=False) + "\n"
            else:
                text = manifests.render(plan)
            if not _create(path, text, work / path.name):
                check(stage, plan, out, shard_size)
    except OSError as error:
        raise RunError(f"{out}: cannot write there ({error.strerror})") from error
    _shard_size(out, shard_size)  # the other column may have started this moment


def _shard_size(out: Path, wanted: int | None) -> int:
    """Return the shard size that every column of a folder shares."""
    for path in sorted(out.glob("*/run.json")):
        size: int = _read_run(path)["shard_size"]
        if wanted not in (None, size):
            raise RunError(f"{path}: made with --shard-size {size}; both columns need the same")
        return size
    return wanted or 500


def _create(path: Path, text: str, aside: Path) -> bool:
    """Create a file whole; of several processes that try, one wins. Return whether this one did."""
    shards.write_aside(aside, text.encode())
    try:
        path.hardlink_to(aside)
    except FileExistsError:
        return False
    except OSError:  # a file system without links, exFAT say: the last one wins, and reads what it wrote
        aside.replace(path)
    return True


def _read_run(path: Path) -> dict[str, Any]:
    try:
        run = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error})") from error
    if not isinstance(run, dict) or not isinstance(size := run.get("shard_size"), int) or size < 1:
        raise RunError(f"{path}: damaged; delete it and give the first run's options again")
    return run


def _differences(theirs: dict[str, Any], ours: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name in sorted(theirs.keys() | ours.keys()):
        there, here = theirs.get(name), ours.get(name)
        if isinstance(there, dict) and isinstance(here, dict):
            yield from _differences(there, here, f"{prefix}{name}.")
        elif there != here:
            yield f"{prefix}{name}: there {there}, here {here}"
