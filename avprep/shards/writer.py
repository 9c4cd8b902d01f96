"""Writing shards atomically: reproducible tar files, written aside, synced and renamed, followed by their sidecars."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

from avprep import files
from avprep.errors import RunError, ShardError
from avprep.shards.sample import Stretch

_BLOCK = tarfile.BLOCKSIZE


_RECORD = tarfile.RECORDSIZE


_BUFFER = 1 << 20  # bytes: members are larger than Python's default buffer, so each would take a write of its own


def write_members(path: Path, key: str, members: Iterable[tuple[str, bytes]]) -> None:
    """Write a sample as part of a tar, without an end mark, so that parts can be concatenated.

    Raises RunError if it cannot be written to disk. Errors of making the members pass through, including OSError.
    """
    iterator = iter(members)
    maker_failed: OSError | None = None
    try:
        with path.open("wb", buffering=_BUFFER) as file:
            while maker_failed is None:
                try:
                    name, data = next(iterator)
                except StopIteration:
                    break
                except OSError as error:
                    maker_failed = error
                else:
                    file.writelines((_header(f"{key}.{name}", len(data)), data, bytes(-len(data) % _BLOCK)))
    except OSError as error:
        raise RunError(f"{path}: cannot write ({error.strerror})") from error
    if maker_failed is not None:
        raise maker_failed


class ShardWriter:
    """Concatenates samples into one tar.

    path: its final path, see `publish`. aside: the path of the unfinished file, on the same file system.
    """

    def __init__(self, path: Path, aside: Path) -> None:
        self.path = path
        self._file = aside.open("wb")
        self._digest = hashlib.sha256()
        self._size = 0

    def append(self, path: Path) -> None:
        """Append a file written by `write_members`, and remove it."""
        self.copy_file(path)
        path.unlink()

    def copy_file(self, path: Path) -> None:
        """Append a file written by `write_members`."""
        with path.open("rb", buffering=0) as file:
            self.copy(file, Stretch(0, os.fstat(file.fileno()).st_size))

    def copy(self, source: IO[bytes], stretch: Stretch) -> None:
        """Append a part of another file, byte for byte."""
        source.seek(stretch.offset)
        left = stretch.length
        while left:
            block = source.read(min(left, 1 << 20))
            if not block:
                raise ShardError(f"{self.path}: changed while it was read")
            self._write(block)
            left -= len(block)

    def finish(self) -> tuple[str, int]:
        """Complete the tar and sync it to disk, still aside; return its sha256 and size in bytes."""
        with contextlib.closing(self):
            self._write(bytes(2 * _BLOCK))
            self._write(bytes(-self._size % _RECORD))
            self._file.flush()
            os.fsync(self._file.fileno())
        return self._digest.hexdigest(), self._size

    def close(self) -> None:
        """Give up: close the unfinished file; it is removed with its folder."""
        with contextlib.suppress(OSError):  # a full disk raises again
            self._file.close()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._size += len(data)


def string_together(
    path: Path, aside: Path, samples: Sequence[str | Stretch], source: IO[bytes] | None = None
) -> tuple[str, int]:
    """Make the tar of `path`, still aside, synced to disk; return its sha256 and size in bytes.

    samples: in order, files written by `write_members` and parts of `source`.
    """
    with contextlib.closing(ShardWriter(path, aside)) as writer:
        for sample in samples:
            if isinstance(sample, str):
                writer.copy_file(Path(sample))
            else:
                assert source is not None
                writer.copy(source, sample)
        return writer.finish()


def publish(path: Path, tar_aside: Path, sidecar: bytes, sidecar_aside: Path) -> None:
    """Move a finished tar into place and then its sidecar, which is written aside before either move."""
    files.write_aside(sidecar_aside, sidecar)
    tar_aside.replace(path)
    sidecar_aside.replace(path.with_suffix(".json"))
    files.sync_folder(path.parent)


def _header(name: str, size: int) -> bytes:
    """Return the tar header of a plain file, with fixed owner, time and mode."""
    if len(name) >= _SHORT or size >= _LARGE or not name.isascii():
        return _tarfile_header(name, size)
    # tarfile takes longer for a header than libjpeg for a tenth of the picture. This is its header for a short name,
    # byte for byte: only the name, the size and the checksum (the sum of all bytes, with its own as spaces) differ.
    told, length = name.encode(), b"%011o" % size
    checksum = _BLANK_SUM + sum(told) + sum(length)
    return b"".join((told, _BLANK[len(told) : 124], length, _BLANK[135:148], b"%06o\0 " % checksum, _BLANK[156:]))


def _tarfile_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o644
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


_SHORT, _LARGE = 100, 8**11  # from this many characters, or bytes, on, tarfile writes another kind of header


_BLANK = bytes(100) + _tarfile_header("", 0)[100:124] + bytes(11) + _tarfile_header("", 0)[135:]


_BLANK_SUM = sum(_BLANK[:148]) + 8 * ord(" ") + sum(_BLANK[156:])
