"""A small pool of worker processes: it takes jobs and returns the outcome of each. It is independent of clips.

A worker is a new interpreter with one pipe to its parent. There are no locks, queues, semaphores or threads that a kill
could leave behind. Nothing runs the user's script a second time, and nothing waits for a worker at exit.
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
"""Seconds for a killed worker to die; one in uninterruptible sleep does not, and is abandoned."""

_AHEAD = 2  # jobs assigned to a worker: the current one and the next
_QUICK = 1.0  # s: a worker gets a job ahead only if its last one took no longer
_SMALL = 16_384  # bytes: a larger job may block its sender, so it is sent only to an idle worker
_LONG = 3600.0  # s
_READ = 1 << 16  # maximum bytes of a worker's messages per read
_STARTS = 3  # maximum rounds of workers that die before one of them is ready
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_CODE = "import sys; sys.path[:] = sys.argv[3:]; from avprep.runs import pool; pool.serve(*map(int, sys.argv[1:3]))"


class PoolError(Exception):
    """No worker can be started."""


class Died(Exception):  # noqa: N818 - the outcome of a process
    """A worker's process ended during a job.

    exit_code: as in `subprocess`: negative for a signal.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"exit code {exit_code}")
        self.exit_code = exit_code


@dataclass(frozen=True)
class Ended:
    """The outcome of a job: `value` is the return value of its function.

    error: the exception that it raised; Died; or TimeoutError if it took longer than `limit` seconds.
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
    """Messages of a worker, framed as by `connection.Connection`, but read with one system call for all that are there.

    An incomplete message does not block: the rest of it is read with the next ones.
    """

    def __init__(self, pipe: connection.Connection[Any, Any]) -> None:
        self._pipe = pipe
        self._held = bytearray()

    def read(self) -> Iterator[tuple[str, Any, bool]]:
        """Yield the messages of `_say` and `_pickled` that are there; EOFError or OSError at the end of the pipe."""
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
        """Return the position of the first message; None if it is incomplete."""
        held, begin = self._held, 4
        if len(held) < begin:
            return None
        (size,) = struct.unpack_from("!i", held)
        if size == -1:  # so large that its length takes eight more bytes
            begin = 12
            if len(held) < begin:
                return None
            (size,) = struct.unpack_from("!Q", held, 4)
        return (begin, begin + size) if len(held) >= begin + size else None


@dataclass(eq=False)
class _Worker:
    """The parent's state of a worker; the first of its `jobs` is the current one, begun at `begun`.

    took: whether the worker has reported that it began the current job.
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
        """Start the clock of the current job, if there is one."""
        self.took = False
        if self.jobs:
            self.begun, self.limit = time.monotonic(), self.jobs[0].timeout

    def due(self) -> float:
        """Return the time at which the parent must act on it (monotonic seconds)."""
        if self.killed is not None:
            return self.killed + PATIENCE
        return self.begun + self.limit if self.ready and self.jobs else float("inf")


class Pool:
    """Runs jobs in `size` processes, each of which calls `initializer` once; a context manager that closes the pool.

    deaf: signals that workers ignore from the start, since the parent decides when they end. A worker that dies or is
    killed for exceeding a time limit loses only its current job and is replaced.
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
        self._readable = selectors.DefaultSelector()  # kept between waits: a new one costs time for each worker
        self._readable.register(self._said, selectors.EVENT_READ)
        self._failed_starts = 0
        self._exit_code: int | None = None

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, tag: Any, function: Callable[..., Any], *args: Any, timeout: float = float("inf")) -> None:
        """Queue a job, identified by `tag`; it may take `timeout` seconds from when a worker begins it."""
        self._queue.append(_Job(tag, pickle.dumps((function, args)), timeout))

    def wait(self, timeout: float) -> list[Ended]:
        """Return the jobs that have ended; none if none does within `timeout` seconds.

        Raises PoolError if workers cannot be started or die before they are ready.
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
        """Yield the outcome of each job, in the order in which they end, until none is left."""
        while self._queue or any(worker.jobs for worker in self._workers):
            yield from self.wait(_LONG)

    def stuck(self) -> list[tuple[int, Any]]:
        """Return the process id and the job's tag of each worker that survives its kill: it hangs in the kernel."""
        self._abandoned = [(process, tag) for process, tag in self._abandoned if process.poll() is None]
        return [(process.pid, tag) for process, tag in self._abandoned]

    def close(self) -> list[tuple[int, Any]]:
        """Kill all workers, whose jobs are lost, and return those that are `stuck`, which are not waited for."""
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
            self._abandoned.pop()[0].returncode = -signal.SIGKILL  # its eventual return code
        return left

    def _pass_on(self) -> None:
        """Print the output of workers. They do not print it themselves: a stuck one would keep a shell's pipe open."""
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._said, 1 << 20)
            if sys.stderr is not None:
                sys.stderr.write(data.decode(errors="replace"))

    def _start_workers(self) -> None:
        """Start as many workers as there is work for."""
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
            # -P: files in the current folder are not imported in place of the libraries.
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
        with contextlib.suppress(OSError):  # it has already died, as its pipe will show
            ours.send_bytes(self._setup)
        return _Worker(process, ours)

    def _hand_out(self) -> None:
        """Give each worker a job, and then fast workers another one ahead."""
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
        """Process the messages of a worker."""
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
        """Remove a worker: its current job has ended, others are queued again. exit_code: None if it is still alive."""
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
    """Raise the time limit of the job that runs in this worker to `seconds` in total, if its limit is shorter."""
    if _pipe is not None:
        _say("grant", seconds)


def _say(kind: str, value: Any = None) -> None:
    """Send the parent a message that ends no job."""
    assert _pipe is not None
    _pipe.send_bytes(pickle.dumps((kind, value, False)))


def serve(number: int, parent: int) -> None:
    """Run a worker: do the jobs from the pipe with this file descriptor until the pipe or the parent ends."""
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
    except BaseException as error:  # reported by the parent
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
            # If the next job is already here, a single message ends this one and reports that the next was begun.
            message = _pipe.recv_bytes() if _pipe.poll() else None
            _pipe.send_bytes(_pickled(kind, value, message is not None))


def _outcome(message: bytes) -> tuple[str, Any]:
    """Do a job; return its outcome."""
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
    """Have this process killed when its parent ends, however that ends and whatever C code is running here."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it had already ended
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
