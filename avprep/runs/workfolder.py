"""The folder for the unfinished files of one run. It is locked; if its run dies, the next run removes it.

The locks are plain flock. filelock, which locks a training run, was tried: its `FileLock` accepts neither a folder nor
a read-only file; its `lock_descriptor`, which does, is the same call, but polls and takes 45 ms to load.
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
    """Make a locked folder for unfinished files below `folder`; at the end remove it, and those of runs that died.

    Raises RunError if nothing can be written.
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
    """Hold the lock of an existing file or folder, so that one process at a time runs the block.

    On a file system without locks nothing is held.
    """
    writable = os.access(path, os.W_OK) and not path.is_dir()
    held = os.open(path, os.O_RDWR if writable else os.O_RDONLY)  # NFS locks only what is open for writing
    try:
        lock_file(held, patient=True)
        yield
    finally:
        os.close(held)


def _new_lock(folder: Path) -> tuple[IO[str], Path]:
    """Create a file and lock it; a sweep between the two may remove it, so check and repeat."""
    while True:
        handle, name = tempfile.mkstemp(prefix=_own_prefix(), suffix=".lock", dir=folder)
        file = os.fdopen(handle, "r+")
        if lock_file(file) is not False and Path(name).exists():
            return file, Path(name)
        file.close()


def _sweep(lock: Path) -> None:
    """Remove the unfinished files of a run that has ended, as its lock shows.

    On some cluster file systems locks work only within one machine, so files that another machine touched today stay.
    """
    with contextlib.suppress(OSError):  # swept by another run just now, or not ours to remove
        theirs = not lock.name.startswith(_own_prefix())
        if theirs and time.time() - max(path.stat().st_mtime for path in (lock, _work(lock)) if path.exists()) < _DAY:
            return
        with lock.open("r+") as file:  # NFS locks only what is open for writing
            if lock_file(file):
                _clear(lock)


def _clear(lock: Path) -> None:
    """Remove a work folder and its lock; if a file cannot be removed now, the lock stays for a later sweep."""
    shutil.rmtree(_work(lock), ignore_errors=True)
    if not _work(lock).exists():
        with contextlib.suppress(OSError):
            lock.unlink(missing_ok=True)


def _work(lock: Path) -> Path:
    return lock.with_suffix("")


def _own_prefix() -> str:
    return f"{_WORK}{socket.gethostname()}~"
