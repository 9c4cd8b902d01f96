"""Workers forked from a process that has imported what they need: a new interpreter takes a third of a second to start.

A forked worker inherits the same as a new one would: environment, folder, import path, blocked signals, and standard
output. Files marked `interpreters` start workers as users do, as do tests with the fixture of that name.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing import connection, spawn
from multiprocessing.context import ForkServerProcess
from typing import Any
from unittest import mock

from avprep.runs import pool

INTERPRETER = pool.Pool._start
"""How a pool starts a worker by itself: in a new interpreter."""

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["avprep.stages.crop", "avprep.stages.mfcc", "avprep.runs.worker", "avprep.faces.detectors.opencv"]
)


class _Forked:
    """A forked process with the methods of `subprocess.Popen` that a pool calls."""

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process
        self.pid = process.pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, None if the process is running."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code once there is one."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("worker", timeout or 0)
        return self._process.exitcode

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()


def start(self: pool.Pool) -> pool._Worker:
    """Start a worker of a pool, in the place of `Pool._start`."""
    ours, theirs = connection.Pipe()
    said = connection.Connection(os.dup(self._saying), readable=False)
    path = [entry for entry in sys.path if isinstance(entry, str)]
    given = (theirs, said, self._deaf, dict(os.environ), os.getcwd(), path)
    process = _CONTEXT.Process(target=_serve, args=given, daemon=True)
    prepare = spawn.get_preparation_data
    with mock.patch.object(spawn, "get_preparation_data", lambda name: _without_main(prepare(name))):
        process.start()
    theirs.close()
    said.close()
    with contextlib.suppress(OSError):
        ours.send_bytes(self._setup)
    return pool._Worker(_Forked(process), ours)  # type: ignore[arg-type]


def _without_main(data: dict[str, object]) -> dict[str, object]:
    """Leave out the tests' main module: a worker would import it and, if it is a script, run it again."""
    return {name: value for name, value in data.items() if not name.startswith("init_main")}


def _serve(
    pipe: connection.Connection[Any, Any],
    said: connection.Connection[Any, Any],
    deaf: tuple[signal.Signals, ...],
    environment: dict[str, str],
    folder: str,
    path: list[str],
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:] = path
    os.dup2(said.fileno(), 1)
    os.dup2(said.fileno(), 2)
    said.close()
    signal.pthread_sigmask(signal.SIG_BLOCK, deaf)
    number = os.dup(pipe.fileno())
    pipe.close()
    pool.serve(number, os.getppid())
