"""The one place of processes, time-outs and restarts: a plan in, finished shards out. It knows nothing of faces.

Shards own the work: a task is given some of the plan's shards, skips those that are done, and fills the others with a
pool of processes. A clip that hangs is killed, one that crashes its process costs only itself; every clip ends in its
shard's sidecar as `ok` or `failed`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass, field
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
_WORK = ".work-"


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
    clips, frames: what this run did; failed: reason -> clips, of all the task's shards.
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
    size = join(stage, plan, out, shard_size)
    mine = list(plan.shards(size))[task_index::num_tasks]
    with _work_folder(out / stage.column) as work, _signals() as stopped:
        progress = Progress(f"avprep {stage.column}", sum(len(clips) for _, clips in mine))
        filler = _Filler(stage, out, work, progress, jobs, clip_timeout)
        try:
            return filler.fill(mine, stopped)
        finally:
            progress.close()


class Stopped(AvprepError):  # noqa: N818 - no error: what the user asked for
    """The run was told to stop by a signal."""


def fingerprint(stage: Stage, plan: Manifest, shard_size: int) -> dict[str, Any]:
    """Return what decides a column's bytes."""
    return {
        "avprep_run": FINGERPRINT_VERSION,
        "column": stage.column,
        "manifest": plan.digest(),
        "shard_size": shard_size,
        "settings": stage.resolved(),
        "versions": stage.versions(),
    }


def join(stage: Stage, plan: Manifest, out: Path, shard_size: int | None) -> int:
    """Enter `out`: freeze the plan and the fingerprint there, or prove that they are the same; return the shard size.

    Raises RunError with the difference where `out` belongs to another plan or other settings.
    """
    folder = out / stage.column
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _freeze_plan(plan, out)
        size = _shard_size(out, shard_size)
        ours = fingerprint(stage, plan, size)
        path = folder / "run.json"
        _create(path, (json.dumps(ours, indent=2, ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise RunError(f"{out}: cannot write there ({error.strerror})") from error
    theirs = _read_json(path)
    if theirs != ours:
        differences = "; ".join(_differences(theirs, ours))
        raise RunError(f"{path}: made with other settings ({differences}); use another OUT or the same settings")
    return size


def read_plan(out: Path) -> Manifest:
    """Read the frozen plan of a run's folder; RunError where there is none."""
    path = out / "manifest.jsonl"
    if not path.is_file():
        raise RunError(f"{out}: no run was ever started there (no manifest.jsonl)")
    return manifests.read(path)


def read_fingerprint(out: Path, column: str) -> dict[str, Any] | None:
    """Read a column's run.json; None where the column was never started."""
    path = out / column / "run.json"
    return _read_json(path) if path.is_file() else None


class _Filler:
    """Fills shards with a pool of processes. One instance a run."""

    def __init__(self, stage: Stage, out: Path, work: Path, progress: Progress, jobs: int, clip_timeout: float) -> None:
        self._stage = stage
        self._out = out
        self._work = work
        self._progress = progress
        self._jobs = jobs
        self._clip_timeout = clip_timeout
        self._pending: dict[Future[dict[str, Any]], tuple[_Shard, int]] = {}
        self._totals: Counter[str] = Counter()
        self._frames = 0
        self._clips = 0
        self._skipped: list[str] = []

    def fill(self, mine: list[tuple[str, tuple[Clip, ...]]], stopped: threading.Event) -> Outcome:
        """Do every clip of the shards that are not done yet."""
        begin = time.monotonic()
        queue = self._queue(mine)
        pool = ProcessPool(
            max_workers=max(1, min(self._jobs, sum(len(clips) for _, clips in mine))),
            context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(self._stage,),
        )
        try:
            more = True
            while more or self._pending:
                while more and len(self._pending) < self._jobs * _QUEUED_PER_WORKER and not stopped.is_set():
                    more = self._submit_next(pool, queue)
                if stopped.is_set():
                    done = sum(1 for name, clips in mine if self._done(name, clips))
                    raise Stopped(f"stopped by a signal with {done} of {len(mine)} shards done; run it again to go on")
                finished, _ = wait(self._pending, timeout=_TICK, return_when=FIRST_COMPLETED)
                for future in finished:
                    self._collect(future)
                self._progress.tick()
            pool.close()  # type: ignore[no-untyped-call]
        except BaseException:
            pool.stop()  # type: ignore[no-untyped-call]
            raise
        finally:
            pool.join()
        return Outcome(
            planned=tuple(name for name, _ in mine),
            skipped=tuple(self._skipped),
            clips=self._clips,
            frames=self._frames,
            seconds=time.monotonic() - begin,
            ok=self._totals.pop("ok", 0),
            failed=dict(sorted(self._totals.items())),
        )

    def _done(self, name: str, clips: tuple[Clip, ...]) -> bool:
        return shards.is_done(self._out, self._stage.column, name, (clip.key for clip in clips))

    def _queue(self, mine: list[tuple[str, tuple[Clip, ...]]]) -> Iterator[tuple[_Shard, int]]:
        """Yield the clips that are to be done; look at each shard only when its turn comes."""
        for name, clips in mine:
            if self._done(name, clips):
                self._skipped.append(name)
                sidecar = shards.read_sidecar(self._out, self._stage.column, name)
                assert sidecar is not None
                self._count(sidecar["clips"])
                self._progress.skip(len(clips), sum(clip["state"] != "ok" for clip in sidecar["clips"]))
                continue
            shard = _Shard(name, clips, started=time.time())
            for row in range(len(clips)):
                yield shard, row

    def _submit_next(self, pool: ProcessPool, queue: Iterator[tuple[_Shard, int]]) -> bool:
        job = next(queue, None)
        if job is None:
            return False
        shard, row = job
        clip = shard.clips[row]
        future = pool.schedule(_do_clip, args=[clip, self._stretch(shard, row)], timeout=self._clip_timeout)
        self._pending[future] = job
        return True

    def _stretch(self, shard: _Shard, row: int) -> Path:
        return self._work / f"{shard.name}-{row}.part"

    def _collect(self, future: Future[dict[str, Any]]) -> None:
        shard, row = self._pending.pop(future)
        record = self._record(future)
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
            code = error.exitcode
            how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            return _failed("crashed", f"the process died ({how})", None)
        except CancelledError as error:
            raise RunError("the worker pool broke down; run the same command again") from error

    def _write(self, shard: _Shard) -> None:
        """Append what is next in order; finish the shard when it is complete."""
        if shard.writer is None:
            path = shards.tar_path(self._out, self._stage.column, shard.name)
            shard.writer = shards.ShardWriter(path, self._work / f"{shard.name}.tar.part")
        while shard.written in shard.records:
            if shard.records[shard.written]["state"] == "ok":
                shard.writer.append(self._stretch(shard, shard.written))
            shard.written += 1
        if shard.written < len(shard.clips):
            return
        digest, size = shard.writer.finish()
        records = [shard.records[row] for row in range(len(shard.clips))]
        reasons = Counter(record["reason"] for record in records if record["state"] == "failed")
        head = {
            "avprep_sidecar": shards.SIDECAR_VERSION,
            "column": self._stage.column,
            "shard": shard.name,
            "sha256": digest,
            "bytes": size,
            "counts": {
                "clips": len(records),
                "ok": len(records) - reasons.total(),
                "failed": reasons.total(),
                "frames": sum(record.get("n_frames", 0) for record in records),
                "reasons": dict(sorted(reasons.items())),
            },
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
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        _do = stage()
    except AvprepError as error:
        _fatal = str(error)
    except Exception:  # reported by the parent, which ends the run
        _fatal = "a worker could not start: " + " ".join(traceback.format_exc().split())


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
    except Reject as reject:
        return _failed(reject.reason, reject.message, time.monotonic() - begin)
    except AvprepError as error:
        return {"fatal": str(error)}
    except Exception as error:  # one clip must not end the run; the record says what happened and where
        where = traceback.extract_tb(error.__traceback__)[-1]
        message = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        return _failed("error", " ".join(message.split()), time.monotonic() - begin)
    return {
        "state": "ok",
        "n_frames": sample.n_frames,
        **sample.summary,
        "seconds": round(time.monotonic() - begin, 3),
    }


def _failed(reason: str, message: str, seconds: float | None) -> dict[str, Any]:
    return {
        "state": "failed",
        "reason": reason,
        "message": message,
        "seconds": None if seconds is None else round(seconds, 3),
    }


# The folder of a run ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _work_folder(folder: Path) -> Iterator[Path]:
    """Make a folder for unfinished files that dies with its run: it is locked, and whoever comes next sweeps up."""
    for lock in folder.glob(f"{_WORK}*.lock"):
        _sweep(lock)
    try:
        with _new_lock(folder) as lock:
            work = lock.with_suffix("")
            work.mkdir()
            try:
                yield work
            finally:
                # What cannot be removed now, a later run sweeps up.
                shutil.rmtree(work, ignore_errors=True)
                lock.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot write there ({error.strerror})") from error


@contextlib.contextmanager
def _new_lock(folder: Path) -> Iterator[Path]:
    """Create a file and hold its lock; a sweep that comes between the two takes it away, so look again."""
    while True:
        handle, name = tempfile.mkstemp(prefix=_WORK, suffix=".lock", dir=folder)
        with os.fdopen(handle) as file:
            if _lock(file) and Path(name).exists():
                yield Path(name)
                return


def _sweep(lock: Path) -> None:
    """Remove the unfinished files of a run that is no more; the lock tells."""
    try:
        with lock.open() as file:
            if _lock(file):
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                lock.unlink()
    except OSError:
        return  # swept by another run just now, or not ours to remove


def _lock(file: IO[str]) -> bool:
    """Lock a file for as long as it is open; False where another process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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


def _freeze_plan(plan: Manifest, out: Path) -> None:
    path = out / "manifest.jsonl"
    _create(path, manifests.render(plan).encode())
    frozen = manifests.read(path)
    if frozen.digest() != plan.digest():
        raise RunError(
            f"{path}: another plan ({frozen.dataset}, {len(frozen.clips)} clips; this one: {plan.dataset}, "
            f"{len(plan.clips)} clips); use another OUT or that manifest"
        )


def _shard_size(out: Path, wanted: int | None) -> int:
    """Return the shard size that every column of a folder shares."""
    for path in sorted(out.glob("*/run.json")):
        size = _read_json(path).get("shard_size")
        if isinstance(size, int):
            if wanted not in (None, size):
                raise RunError(f"{path}: made with --shard-size {size}; both columns need the same")
            return size
    return wanted or 500


def _create(path: Path, data: bytes) -> None:
    """Create a file whole if it is not there; of several processes that try, one wins."""
    if path.exists():
        return
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    aside = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.chmod(0o644)
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(aside)
    finally:
        aside.unlink()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise RunError(f"{path}: not a JSON object")
    return value


def _differences(theirs: dict[str, Any], ours: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name in sorted(theirs.keys() | ours.keys()):
        there, here = theirs.get(name), ours.get(name)
        if isinstance(there, dict) and isinstance(here, dict):
            yield from _differences(there, here, f"{prefix}{name}.")
        elif there != here:
            yield f"{prefix}{name}: there {there}, here {here}"
