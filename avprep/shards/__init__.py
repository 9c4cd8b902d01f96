"""Shards on disk: reproducible tar files, their sidecars, and readers that join columns by key.

A shard is there only whole: its tar is written aside, synced and renamed; its sidecar follows. Readers treat tars as
hostile: nothing is extracted to a path, nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import secrets
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from avprep import schema, untrusted
from avprep.errors import RunError, ShardError
from avprep.shards import tars

MAX_SAMPLE = 8 << 30
"""Largest sample that is read from a shard (bytes): the crops of half an hour as PNG are smaller."""

_BLOCK = tarfile.BLOCKSIZE
_RECORD = tarfile.RECORDSIZE
_BUFFER = 1 << 20  # bytes: a member is larger than Python's own buffer, and each would be written by itself
_NAME = re.compile(r"([^./](?:[^.]*[^./])?)\.([^/]+)")  # a key holds no dot; what follows its first one is the member


@dataclass(frozen=True)
class Stretch:
    """Where a sample lies in a tar (bytes)."""

    offset: int
    length: int


@dataclass(frozen=True)
class Sample:
    """One clip's result in one column.

    members: (member name, bytes) in the order they are stored; may be made while they are written.
    n_frames: frames of the clip.
    summary: small facts for the sidecar.
    """

    members: Iterable[tuple[str, bytes]]
    n_frames: int
    summary: dict[str, Any] = field(default_factory=dict)


def write_members(path: Path, key: str, members: Iterable[tuple[str, bytes]]) -> None:
    """Write a sample as a stretch of tar without its end mark, so that stretches can be strung together.

    Raises RunError where the disk cannot take it; what the members' maker raises passes through, OSError too.
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
                    file.write(_header(f"{key}.{name}", len(data)))
                    file.write(data)
                    file.write(bytes(-len(data) % _BLOCK))
    except OSError as error:
        raise RunError(f"{path}: cannot write ({error.strerror})") from error
    if maker_failed is not None:
        raise maker_failed


class ShardWriter:
    """Strings samples together into one tar and puts it in place whole.

    path: where the finished tar appears; aside: the unfinished file, on the same file system.
    """

    def __init__(self, path: Path, aside: Path) -> None:
        self.path = path
        self._aside = aside
        self._file = aside.open("wb")
        self._digest = hashlib.sha256()
        self._size = 0

    def append(self, path: Path) -> None:
        """Append what `write_members` wrote, and remove it."""
        with path.open("rb") as file:
            self.copy(file, Stretch(0, path.stat().st_size))
        path.unlink()

    def copy(self, source: IO[bytes], stretch: Stretch) -> None:
        """Append a stretch of another file, byte for byte."""
        source.seek(stretch.offset)
        left = stretch.length
        while left:
            block = source.read(min(left, 1 << 20))
            if not block:
                raise ShardError(f"{self.path}: changed while it was read")
            self._write(block)
            left -= len(block)

    def finish(self) -> tuple[str, int]:
        """End the tar and sync it to disk, still aside; return its sha256 and size in bytes."""
        with contextlib.closing(self):
            self._write(bytes(2 * _BLOCK))
            self._write(bytes(-self._size % _RECORD))
            self._file.flush()
            os.fsync(self._file.fileno())
        return self._digest.hexdigest(), self._size

    def publish(self, sidecar: bytes, aside: Path) -> None:
        """Put the finished tar in place and then its sidecar, which is written `aside` before either appears."""
        write_aside(aside, sidecar)
        self._aside.replace(self.path)
        aside.replace(self.path.with_suffix(".json"))
        sync_folder(self.path.parent)

    def discard(self) -> None:
        """Remove the unfinished file."""
        self.close()
        self._aside.unlink()

    def close(self) -> None:
        """Give up: close the unfinished file and leave it to whoever clears its folder."""
        with contextlib.suppress(OSError):  # a full disk says it again
            self._file.close()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._size += len(data)


def write_atomically(path: Path, data: bytes, *, aside: Path) -> None:
    """Write a small file so that it appears whole: aside, synced, renamed."""
    write_aside(aside, data)
    aside.replace(path)
    sync_folder(path.parent)


def create(path: Path, data: bytes, *, aside: Path) -> bool:
    """Create a small file whole; of several processes that try, one wins. Return whether this one did."""
    write_aside(aside, data)
    try:
        path.hardlink_to(aside)
    except FileExistsError:
        return False
    except OSError:  # a file system without links, exFAT say: the last one wins, and reads what it wrote
        aside.replace(path)
    return True


def own_aside(path: Path) -> Path:
    """Return a name beside a file for what is not finished, which no other process on any machine takes."""
    return path.with_name(f".{path.name[:100]}.{os.getpid()}-{secrets.token_hex(4)}.part")


def write_aside(path: Path, data: bytes) -> None:
    """Write a file and sync it to disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # so do some network file systems say that they cannot
            raise
    finally:
        os.close(descriptor)


def tar_path(out: Path, column: str, shard: str) -> Path:
    """Return where a shard's tar lies."""
    return out / column / f"{shard}.tar"


def sidecar_path(out: Path, column: str, shard: str) -> Path:
    """Return where a shard's sidecar lies."""
    return out / column / f"{shard}.json"


def read_sidecar(out: Path, column: str, shard: str) -> dict[str, Any] | None:
    """Read a shard's sidecar; None where there is none; ShardError where it is damaged."""
    path = sidecar_path(out, column, shard)
    sidecar = _read_head(path, whole=True)
    if sidecar is None:
        return None
    clips = sidecar.get("clips")
    if not isinstance(clips, list):
        raise ShardError(f"{path}: damaged, its clips are missing")
    for n, clip in enumerate(clips):
        match clip:
            case {"key": str(), "state": "ok", "n_frames": int()}:
                pass
            case {"key": str(), "state": "failed", "reason": str(), "message": str()}:
                pass
            case _:
                raise ShardError(f"{path}: damaged, clip {n} is neither ok nor failed")
    return sidecar


def read_sidecar_head(out: Path, column: str, shard: str) -> dict[str, Any] | None:
    """Read all of a sidecar but its clips; None where there is none; ShardError where it is damaged."""
    return _read_head(sidecar_path(out, column, shard), whole=False)


def _read_head(path: Path, *, whole: bool) -> dict[str, Any] | None:
    try:
        head = untrusted.read_json(path) if whole else untrusted.parse_json(_first_line(path).rstrip(b",\r\n") + b"}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ShardError(f"{path}: cannot read the sidecar ({error})") from error
    match head:
        case {
            "avprep_sidecar": version,
            "column": str(),
            "shard": str(),
            "sha256": str(),
            "bytes": int(),
            "counts": {"clips": int(), "ok": int(), "failed": int(), "frames": int(), "reasons": dict(reasons)},
            "timings": {"clip_seconds": int() | float()},
        } if (
            version == schema.SIDECAR_VERSION
            and all(isinstance(count, int) for count in (*reasons.values(), head["counts"].get("silent", 0)))
            and all(isinstance(seconds, int | float) and math.isfinite(seconds) for seconds in head["timings"].values())
        ):
            return dict(head)
    raise ShardError(f"{path}: not a sidecar that this avprep reads")


def _first_line(path: Path) -> bytes:
    with untrusted.open_file(path) as file:
        return file.readline(untrusted.MAX_LINE)


def counts(clips: list[dict[str, Any]]) -> dict[str, Any]:
    """Sum up the clips of a sidecar; `silent`, those that are ok and hold silence alone, is there if any is."""
    reasons = Counter(clip["reason"] for clip in clips if clip["state"] == "failed")
    silent = sum(clip["state"] == "ok" and clip.get("silent") is True for clip in clips)
    return {
        "clips": len(clips),
        "ok": len(clips) - reasons.total(),
        "failed": reasons.total(),
        "frames": sum(clip["n_frames"] for clip in clips if clip["state"] == "ok"),
        "reasons": dict(sorted(reasons.items())),
        **({"silent": silent} if silent else {}),
    }


def render_sidecar(head: dict[str, Any], clips: list[dict[str, Any]]) -> bytes:
    """Return the bytes of a sidecar: valid JSON, its head on the first line and then one clip a line.

    So a summary of ten thousand shards reads ten thousand first lines, and `grep` finds a clip.
    """
    first = json.dumps(head, ensure_ascii=False)[:-1]
    lines = ",\n".join(json.dumps(clip, ensure_ascii=False) for clip in clips)
    return f'{first},\n"clips": [\n{lines}\n]}}\n'.encode("utf-8", "backslashreplace")  # for names that are not UTF-8


def finished(out: Path, column: str, shard: str, keys: Iterable[str]) -> dict[str, Any] | None:
    """Return the sidecar of a finished shard: tar and sidecar are there, the digest agrees, the keys are the plan's.

    None for any other: whatever is wrong with it, it is made anew.
    """
    found = open_finished(out, column, shard, keys)
    if found is None:
        return None
    sidecar, file = found
    file.close()
    return sidecar


def finished_head(out: Path, column: str, shard: str) -> dict[str, Any] | None:
    """Return the first line of a shard's sidecar if its tar is there and has the size that it should; else None.

    Quick, and no proof: a run looks at the digest, `verify` says what is wrong.
    """
    with contextlib.suppress(ShardError, OSError):
        head = read_sidecar_head(out, column, shard)
        if head is not None and tar_path(out, column, shard).stat().st_size == head["bytes"]:
            return head
    return None


def open_finished(out: Path, column: str, shard: str, keys: Iterable[str]) -> tuple[dict[str, Any], IO[bytes]] | None:
    """Return what `finished` does and the tar that it speaks of, open: another may take its place at any time."""
    with contextlib.ExitStack() as on_return, contextlib.suppress(ShardError, OSError):
        sidecar = read_sidecar(out, column, shard)
        if sidecar is None or [clip["key"] for clip in sidecar["clips"]] != list(keys):
            return None
        file = on_return.enter_context(untrusted.open_file(tar_path(out, column, shard)))
        if hashlib.file_digest(file, "sha256").hexdigest() == sidecar["sha256"]:
            on_return.pop_all()
            return sidecar, file
    return None


def sha256(path: Path) -> str:
    """Return the hex sha256 of a file."""
    with untrusted.open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield (key, {member: bytes}) of each sample of a shard, one sample in memory at a time.

    Raises ShardError, naming the file, for a damaged or cut off tar, anything but plain files, a name that is not
    KEY.MEMBER, a member twice, a sample whose members do not lie together or that is too large.
    """
    seen: set[str] = set()
    key, members, size = "", dict[str, bytes](), 0
    with _named(path), untrusted.open_file(path, _BUFFER) as file:
        _check_end(file)
        for entry in tars.members(file):
            match = _NAME.fullmatch(entry.name)
            if match is None:
                raise ShardError(f"{entry.name[:100]!r} is not KEY.MEMBER")
            owner, member = match.groups()
            if owner != key:
                if key:
                    yield key, members
                if owner in seen:
                    raise ShardError(f"{owner} appears in two places")
                seen.add(owner)
                key, members, size = owner, {}, 0
            if member in members:
                raise ShardError(f"{entry.name} is there twice")
            size += entry.size
            if size > MAX_SAMPLE:
                raise ShardError(f"{owner} is larger than {MAX_SAMPLE >> 30} GiB")
            members[member] = tars.content(file, entry)
    if key:
        yield key, members


def stretches(file: IO[bytes]) -> dict[str, Stretch]:
    """Return where each sample of an open shard lies; ShardError where it cannot be read."""
    found: dict[str, Stretch] = {}
    with _named(file.name):
        for entry in tars.members(file):
            key = entry.name.partition(".")[0]
            first = found[key].offset if key in found else entry.first
            found[key] = Stretch(first, entry.end - first)
    return found


@contextlib.contextmanager
def _named(path: Path | str) -> Iterator[None]:
    """Name the tar in the errors of reading it."""
    try:
        yield
    except ShardError as error:
        raise ShardError(f"{path}: {error}") from error
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_joined(out: Path, shard: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the samples of a shard that both columns hold, members of both together, in plan order.

    Both columns keep the plan's order, so one sample of each is in memory at a time. Raises ShardError where a column
    has not finished the shard.
    """
    sidecar = read_sidecar(out, "crop", shard)
    if sidecar is None:
        raise ShardError(f"{sidecar_path(out, 'crop', shard)}: is not there; run `avprep crop` again")
    order = {clip["key"]: n for n, clip in enumerate(sidecar["clips"])}
    right = read(tar_path(out, "mfcc", shard))
    waiting = next(right, None)
    for key, members in read(tar_path(out, "crop", shard)):
        while waiting is not None and order.get(waiting[0], -1) < order.get(key, -1):
            waiting = next(right, None)
        if waiting is not None and waiting[0] == key:
            yield key, {**members, **waiting[1]}
            waiting = next(right, None)


def _check_end(file: IO[bytes]) -> None:
    """Refuse a tar without its end mark: cut off between two members, it would read as a shorter one."""
    if file.seek(0, os.SEEK_END) >= 2 * _BLOCK:
        file.seek(-2 * _BLOCK, os.SEEK_END)
        if not any(file.read()):
            return
    raise ShardError("is not a whole tar")


def _header(name: str, size: int) -> bytes:
    """Return the tar header of a plain file; owner, time and mode are fixed."""
    if len(name) >= _SHORT or size >= _LARGE or not name.isascii():
        return _tarfile_header(name, size)
    # tarfile takes longer over a header than libjpeg over a tenth of the picture; this is what it writes for a short
    # name, byte for byte: only name, size and the sum of all bytes, the checksum's own taken as spaces, differ.
    told, length = name.encode(), b"%011o" % size
    checksum = _BLANK_SUM + sum(told) + sum(length)
    return b"".join((told, _BLANK[len(told) : 124], length, _BLANK[135:148], b"%06o\0 " % checksum, _BLANK[156:]))


def _tarfile_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o644
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


_SHORT, _LARGE = 100, 8**11  # characters, and bytes, that tarfile writes in another way
_BLANK = bytes(100) + _tarfile_header("", 0)[100:124] + bytes(11) + _tarfile_header("", 0)[135:]
_BLANK_SUM = sum(_BLANK[:148]) + 8 * ord(" ") + sum(_BLANK[156:])
