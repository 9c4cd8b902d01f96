"""A small pool of worker processes: jobs in, how each of them ended out. It is independent of clips.

A worker is a fresh interpreter with one pipe to its parent. There are no locks, queues, semaphores or threads that a
kill could leave behind, nothing runs the user's script a second time, and nothing waits for a worker at exit.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import selectors
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any

PATIENCE = 1.5
"""Seconds that a killed worker has to die; one in uninterruptible sleep does not, and is abandoned."""

_AHEAD = 2  # jobs that lie with a worker: the one it is at, and the next
_QUICK = 1.0  # s: only a worker whose last job took no longer is given one ahead
_SMALL = 16_384  # bytes: a larger job may block its sender, so it is sent to an idle worker only
_LONG = 3600.0  # s
_READ = 1 << 16  # bytes of a worker's messages that are read at once
_STARTS = 3  # rounds of workers that may die before one of them is ready
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_CODE = "import sys; sys.path[:] = sys.argv[3:]; from avprep.runs import pool; pool.serve(*map(int, sys.argv[1:3]))"


class PoolError(Exception):
    """No worker can be started."""


class Died(Exception):  # noqa: N818 - what became of a process
    """A worker's process ended amid a job.

    exit_code: as `subprocess` has it: the signal, negative, where there was one.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"exit code {exit_code}")
        self.exit_code = exit_code


@dataclass(frozen=True)
class Ended:
    """How a job ended: `value` is what its function returned.

    error: what it raised; Died; TimeoutError where it took longer than `limit`, its seconds.
    """

    tag: Any
    value: Any = None
    error: BaseException | None = None
    limit: float = 0.0


@dataclass(frozen=True)
class _Job:
    tag: Any
    message: bytes
    timeout: float


class _Inbox:
    """What a worker says, as `connection.Connection` frames it: one call to the system for all messages that are there.

    A message that is there in part is waited for with the next ones, and holds nobody up.
    """

    def __init__(self, pipe: connection.Connection[Any, Any]) -> None:
        self._pipe = pipe
        self._held = bytearray()

    def read(self) -> Iterator[tuple[str, Any, bool]]:
        """Yield what is there now, as `_say` and `_pickled` make it; EOFError or OSError where the pipe has ended."""
        data = os.read(self._pipe.fileno(), _READ)
        if not data:
            raise EOFError
        self._held += data
        while (framed := self._framed()) is not None:
            begin, end = framed
            message = bytes(self._held[begin:end])
            del self._held[:end]
            yield pickle.loads(message)  # noqa: S301 - our own worker's

    def _framed(self) -> tuple[int, int] | None:
        """Return where the first message lies; None where it is not there whole."""
        held, begin = self._held, 4
        if len(held) < begin:
            return None
        (size,) = struct.unpack_from("!i", held)
        if size == -1:  # so large that its length takes eight bytes more
            begin = 12
            if len(held) < begin:
                return None
            (size,) = struct.unpack_from("!Q", held, 4)
        return (begin, begin + size) if len(held) >= begin + size else None


@dataclass(eq=False)
class _Worker:
    """A worker as its parent sees it; the first of its `jobs` is the one it is at, `begun` then.

    took: whether it has reported that it is at it.
    late: the job for which it was killed, at `killed`.
    """

    process: subprocess.Popen[bytes]
    pipe: connection.Connection[Any, Any]
    ready: bool = False
    quick: bool = False
    jobs: deque[_Job] = field(default_factory=deque)
    inbox: _Inbox = field(init=False)
    begun: float = 0.0
    limit: float = 0.0
    took: bool = False
    late: _Job | None = None
    killed: float | None = None

    def __post_init__(self) -> None:
        self.inbox = _Inbox(self.pipe)

    def begin(self) -> None:
        """Start the clock of the first job, if there is one."""
        self.took = False
        if self.jobs:
            self.begun, self.limit = time.monotonic(), self.jobs[0].timeout

    def due(self) -> float:
        """Return when something must be done about it (monotonic seconds)."""
        if self.killed is not None:
            return self.killed + PATIENCE
        return self.begun + self.limit if self.ready and self.jobs else float("inf")


class Pool:
    """Does jobs in `size` processes, each of which calls `initializer` once; a context that closes it.

    deaf: signals that workers ignore from their first moment, since the parent decides what becomes of them. A worker
    that dies, or is killed for taking too long, costs the job it was at and is replaced.
    """

    def __init__(
        self,
        size: int,
        initializer: Callable[..., None] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        deaf: Iterable[signal.Signals] = (),
    ) -> None:
        self._size = size
        self._deaf = tuple(deaf)
        self._setup = pickle.dumps((self._deaf, initializer, initargs))
        self._queue: deque[_Job] = deque()
        self._workers: list[_Worker] = []
        self._abandoned: list[tuple[subprocess.Popen[bytes], Any]] = []
        self._said, self._saying = os.pipe()
        os.set_blocking(self._said, False)
        self._readable = selectors.DefaultSelector()  # kept from wait to wait: a new one costs time for each worker
        self._readable.register(self._said, selectors.EVENT_READ)
        self._failed_starts = 0
        self._exit_code: int | None = None

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, tag: Any, function: Callable[..., Any], *args: Any, timeout: float = float("inf")) -> None:
        """Queue a job, to be known as `tag`; it may take `timeout` seconds from when a worker begins it."""
        self._queue.append(_Job(tag, pickle.dumps((function, args)), timeout))

    def wait(self, timeout: float) -> list[Ended]:
        """Return the jobs that have ended, none if none did within so many seconds.

        Raises PoolError where workers cannot be started, or die before they are ready.
        """
        until = time.monotonic() + timeout
        ended: list[Ended] = []
        while True:
            self._start_workers()
            self._hand_out()
            due = min([until, *(worker.due() for worker in self._workers)])
            for key, _ in self._readable.select(max(0.0, due - time.monotonic())):
                if key.data is None:
                    self._pass_on()
                else:
                    ended += self._read(key.data)
            if self._failed_starts >= _STARTS * self._size:
                raise PoolError(f"workers die before they do anything (exit code {self._exit_code})")
            now = time.monotonic()
            for worker in [worker for worker in self._workers if worker.due() <= now]:
                if worker.killed is None:
                    worker.late, worker.killed = worker.jobs[0], now
                    worker.process.kill()
                else:
                    ended += self._bury(worker, worker.process.poll())
            if ended or now >= until:
                return ended

    def all(self) -> Iterator[Ended]:
        """Yield how each job ends, in the order in which they do, until none is left."""
        while self._queue or any(worker.jobs for worker in self._workers):
            yield from self.wait(_LONG)

    def stuck(self) -> list[tuple[int, Any]]:
        """Return process id and job's tag of each worker that outlives its kill: it hangs in the kernel."""
        self._abandoned = [(process, tag) for process, tag in self._abandoned if process.poll() is None]
        return [(process.pid, tag) for process, tag in self._abandoned]

    def close(self) -> list[tuple[int, Any]]:
        """Kill all workers, whose jobs are lost, and return those that are `stuck`: nobody will wait for them."""
        for worker in self._workers:
            worker.process.kill()
        until = time.monotonic() + PATIENCE
        for worker in list(self._workers):
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, until - time.monotonic()))
            self._bury(worker, worker.process.poll())
        self._pass_on()
        self._readable.close()
        os.close(self._said)
        os.close(self._saying)
        left = self.stuck()
        while self._abandoned:
            self._abandoned.pop()[0].returncode = -signal.SIGKILL  # which it will have in the end
        return left

    def _pass_on(self) -> None:
        """Print what workers wrote. They do not write there themselves: a stuck one would keep a shell's pipe open."""
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._said, 1 << 20)
            if sys.stderr is not None:
                sys.stderr.write(data.decode(errors="replace"))

    def _start_workers(self) -> None:
        """Start as many as there is work for."""
        starting = sum(not worker.ready for worker in self._workers)
        for _ in range(min(self._size - len(self._workers), len(self._queue) - starting)):
            try:
                self._workers.append(worker := self._start())
                self._readable.register(worker.pipe, selectors.EVENT_READ, worker)
            except OSError as error:
                if not self._workers:
                    raise PoolError(f"no worker can be started ({error.strerror})") from error
                self._size = len(self._workers)  # as many as the machine allows
                return

    def _start(self) -> _Worker:
        ours, theirs = connection.Pipe()
        number = theirs.fileno()
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        path = [entry for entry in sys.path if isinstance(entry, str)]
        before = signal.pthread_sigmask(signal.SIG_BLOCK, self._deaf)
        try:
            # -P: what lies in the current folder is not imported in place of the libraries.
            process = subprocess.Popen(
                [sys.executable, *flags, "-P", "-c", _CODE, str(number), str(os.getpid()), *path],
                stdin=subprocess.DEVNULL,
                stdout=self._saying,
                stderr=self._saying,
                pass_fds=[number],
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        with contextlib.suppress(OSError):  # it is dead already, as its pipe will show
            ours.send_bytes(self._setup)
        return _Worker(process, ours)

    def _hand_out(self) -> None:
        """Give each worker a job, and then those that are quick another one ahead."""
        for depth in range(_AHEAD):
            for worker in self._workers:
                if not self._queue:
                    return
                if not worker.ready or worker.killed is not None or len(worker.jobs) != depth:
                    continue
                if depth and not (worker.quick and len(self._queue[0].message) <= _SMALL):
                    continue
                try:
                    worker.pipe.send_bytes(self._queue[0].message)
                except OSError:  # it has just died, as its pipe will show
                    continue
                worker.jobs.append(self._queue.popleft())
                if not depth:
                    worker.begin()

    def _read(self, worker: _Worker) -> Iterator[Ended]:
        """Take what a worker has said."""
        try:
            for kind, value, took in worker.inbox.read():
                match kind:
                    case "ready":
                        worker.ready, self._failed_starts = True, 0
                    case "broken":
                        raise PoolError(f"a worker could not start: {value}")
                    case "took":
                        worker.took, worker.begun = True, time.monotonic()
                    case "grant":
                        worker.limit = max(worker.limit, value)
                    case _:
                        job = worker.jobs.popleft()
                        worker.quick = time.monotonic() - worker.begun < _QUICK
                        worker.begin()
                        worker.took = took
                        yield Ended(job.tag, *((value, None) if kind == "value" else (None, value)))
        except (EOFError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(PATIENCE)
            yield from self._bury(worker, worker.process.poll())

    def _bury(self, worker: _Worker, exit_code: int | None) -> Iterator[Ended]:
        """Part with a worker: the job it was at has ended, others are queued again. exit_code: None if it lives."""
        self._workers.remove(worker)
        self._readable.unregister(worker.pipe)
        worker.pipe.close()
        blamed = worker.took if worker.late is None else worker.jobs and worker.jobs[0] is worker.late
        job = worker.jobs.popleft() if blamed else None
        self._queue.extendleft(reversed(worker.jobs))
        if exit_code is None:
            worker.process.kill()
            self._abandoned.append((worker.process, None if job is None else job.tag))
        if job is not None and worker.late is not None:
            return iter([Ended(job.tag, error=TimeoutError(), limit=worker.limit)])
        if job is not None:
            return iter([Ended(job.tag, error=Died(-signal.SIGKILL if exit_code is None else exit_code))])
        if not worker.ready:
            self._failed_starts += 1
            self._exit_code = exit_code
        return iter(())


_pipe: connection.Connection[Any, Any] | None = None


def grant(seconds: float) -> None:
    """Let the job that runs in this worker take so long in all, where its own limit is shorter."""
    if _pipe is not None:
        _say("grant", seconds)


def _say(kind: str, value: Any = None) -> None:
    """Send the parent a message that ends no job."""
    assert _pipe is not None
    _pipe.send_bytes(pickle.dumps((kind, value, False)))


def serve(number: int, parent: int) -> None:
    """Be a worker: do what comes through the pipe with this file descriptor, until it or the parent is gone."""
    global _pipe
    _die_with(parent)
    os.set_inheritable(number, False)
    _pipe = connection.Connection(number)
    try:
        deaf, initializer, initargs = pickle.loads(_pipe.recv_bytes())  # noqa: S301 - our own parent's
        for deaf_to in deaf:
            signal.signal(deaf_to, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, deaf)
        if initializer is not None:
            initializer(*initargs)
        _say("ready")
    except (EOFError, BrokenPipeError):
        return
    except BaseException as error:  # the parent reports it
        hint = "; what workers run must lie in a module, not in a script" if "__main__" in str(error) else ""
        _say("broken", " ".join(f"{type(error).__name__}: {error}{hint}".split()))
        return
    with contextlib.suppress(EOFError, ConnectionError):
        message: bytes | None = None
        while True:
            if message is None:
                message = _pipe.recv_bytes()
                _say("took")
            kind, value = _outcome(message)
            # With the next job here already, one message ends this one and says that it was taken.
            message = _pipe.recv_bytes() if _pipe.poll() else None
            _pipe.send_bytes(_pickled(kind, value, message is not None))


def _outcome(message: bytes) -> tuple[str, Any]:
    """Do a job; return what became of it."""
    try:
        function, args = pickle.loads(message)  # noqa: S301 - our own parent's
        return "value", function(*args)
    except BaseException as error:
        return "error", error


def _pickled(kind: str, value: Any, took: bool) -> bytes:
    """Return the message that ends a job; took: whether the next one was begun."""
    try:
        said = pickle.dumps((kind, value, took))
        if kind == "error":
            pickle.loads(said)  # noqa: S301 - an exception with a constructor of its own may not come back
        return said
    except BaseException as error:
        error = value if kind == "error" else error
        return pickle.dumps(("error", RuntimeError(f"{type(error).__name__}: {error}"), took))


def _die_with(parent: int) -> None:
    """Have this process killed when its parent ends, however that ends and whatever C code this one is in."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it was gone before
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
