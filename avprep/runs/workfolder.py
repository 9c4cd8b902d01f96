"""The folder for unfinished files of one run. It dies with its run: it is locked, and whoever comes next sweeps up.

The locks are plain flock. filelock, which locks a training run, was tried: its `FileLock` takes neither a folder nor a
file that can only be read; its `lock_descriptor`, which does, is the same call, which polls and takes 45 ms to load.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from avprep.errors import RunError
from avprep.files import lock_file

_WORK = ".work-"
_DAY = 24 * 3600.0


@contextlib.contextmanager
def work_folder(folder: Path) -> Iterator[Path]:
    """Make a locked folder for unfinished files below `folder`; remove it in the end, and those of runs that died.

    Raises RunError where nothing can be written.
    """
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


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Hold the lock of a file or folder that is there, so that one process at a time does what follows.

    Where there are no locks nothing is held.
    """
    writable = os.access(path, os.W_OK) and not path.is_dir()
    held = os.open(path, os.O_RDWR if writable else os.O_RDONLY)  # NFS locks only what is open for writing
    try:
        lock_file(held, patient=True)
        yield
    finally:
        os.close(held)


def _new_lock(folder: Path) -> tuple[IO[str], Path]:
    """Create a file and lock it; a sweep that comes between the two takes it away, so look again."""
    while True:
        handle, name = tempfile.mkstemp(prefix=_own_prefix(), suffix=".lock", dir=folder)
        file = os.fdopen(handle, "r+")
        if lock_file(file) is not False and Path(name).exists():
            return file, Path(name)
        file.close()


def _sweep(lock: Path) -> None:
    """Remove the unfinished files of a run that is no more, as its lock shows.

    On some cluster file systems locks hold within one machine only, so what another machine touched today stays.
    """
    with contextlib.suppress(OSError):  # swept by another run just now, or not ours to remove
        theirs = not lock.name.startswith(_own_prefix())
        if theirs and time.time() - max(path.stat().st_mtime for path in (lock, _work(lock)) if path.exists()) < _DAY:
            return
        with lock.open("r+") as file:  # NFS locks only what is open for writing
            if lock_file(file):
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
