"""Files: only regular ones are read; writing is atomic."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import secrets
import stat
from pathlib import Path
from typing import IO

from avprep.errors import RunError

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_regular(path: Path) -> None:
    """Refuse anything but a regular file: opening a named pipe blocks until there is a writer, a device for ever.

    Raises OSError with the reason in its `strerror`: FileNotFoundError, IsADirectoryError, and for pipes, sockets and
    devices one that names them; ValueError for an impossible name.
    """
    kind = stat.S_IFMT(path.stat().st_mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if kind != stat.S_IFREG:
        raise OSError(errno.EINVAL, f"is {_KINDS.get(kind, 'something else')}, not a regular file", str(path))


def open_file(path: Path, buffer: int = io.DEFAULT_BUFFER_SIZE) -> io.BufferedReader:
    """Open a file for reading; OSError for all but regular files: a named pipe, for example, would block for ever."""
    check_regular(path)
    return io.BufferedReader(io.FileIO(path), buffer)


def write_atomically(path: Path, data: bytes, *, aside: Path) -> None:
    """Write a small file atomically: aside, synced, renamed."""
    write_aside(aside, data)
    aside.replace(path)
    sync_folder(path.parent)


def create(path: Path, data: bytes, *, aside: Path) -> bool:
    """Create a small file atomically; if several processes try, one wins. Return whether this one did."""
    write_aside(aside, data)
    try:
        path.hardlink_to(aside)
    except FileExistsError:
        return path.samefile(aside)  # NFS may report this for the link that it has just made
    except OSError:  # a file system without links, e.g. exFAT: the last one wins, and reads its own file
        aside.replace(path)
    return True


def write_text(path: Path, text: str, *, replace: bool = True) -> None:
    """Write a text file as `write_whole` does."""
    write_whole(path, text.encode("utf-8", "surrogateescape"), replace=replace)


def write_whole(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write a file atomically, even with concurrent writers; RunError if it cannot be written.

    replace: whether it may replace an existing file.
    """
    aside = own_aside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            raise RunError(f"{path}: not a plain file, so nothing can be put in its place; give another name")
        if replace:
            write_atomically(path, data, aside=aside)
        elif not create(path, data, aside=aside):
            raise RunError(f"{path}: another process has just written it; it was left as it is")
    except OSError as error:
        raise RunError(f"{path}: cannot write ({error.strerror})") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def own_aside(path: Path) -> Path:
    """Return a name in the same folder for an unfinished file, unique among processes of all machines."""
    return path.parent / f".{path.name[:100]}.{os.getpid()}-{secrets.token_hex(4)}.part"


def write_aside(path: Path, data: bytes) -> None:
    """Write a file and sync it to disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable, if the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # this is how some network file systems refuse
            raise
    finally:
        os.close(descriptor)


def lock_file(file: IO[str] | int, *, patient: bool = False) -> bool | None:
    """Lock a file for as long as it is open; False if another process holds it, None if there are no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if patient else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EBADF):
            return None  # Lustre without -o flock, or not ours on NFS
        raise
    return True


def sha256(path: Path) -> str:
    """Return the hex sha256 of a file."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
