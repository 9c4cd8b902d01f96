"""Reading shards: in order, by key and by position, columns joined. Tars are untrusted: see `avprep.shards.tars`."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from avprep import files, schema
from avprep.errors import ShardError, explained
from avprep.shards import tars
from avprep.shards.sample import Stretch
from avprep.shards.sidecar import read_sidecar, sidecar_path, tar_path

MAX_SAMPLE = 8 << 30
"""Maximum size of a sample (bytes): half an hour of PNG crops is smaller."""
OPEN_TARS = 64
"""Maximum tars that `read_at` keeps open in a process."""

_SHOWN = 120  # characters of a key in a message
_BUFFER = 1 << 20  # bytes: a member is larger than Python's own buffer
_NAME = re.compile(r"([^./](?:[^.]*[^./])?)\.([^/]+)")  # a key holds no dot; the member follows the first dot


def read(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield (key, {member: bytes}) of each sample of a shard, one in memory at a time; errors as in `read_placed`."""
    return ((key, members) for key, _, members in read_placed(path))


def read_placed(path: Path) -> Iterator[tuple[str, Stretch, dict[str, bytes]]]:
    """Yield the key, position and {member: bytes} of each sample of a shard; one sample in memory at a time.

    Raises ShardError, naming the file, for a damaged or truncated tar, anything but plain files, a name that is not
    KEY.MEMBER, a duplicate member, a sample whose members are not contiguous or that is too large.
    """
    seen: set[str] = set()
    key, members, first, end, size = "", dict[str, bytes](), 0, 0, 0
    with _named(path), files.open_file(path, _BUFFER) as file:
        _check_end(file)
        for entry in tars.members(file):
            match = _NAME.fullmatch(entry.name)
            if match is None:
                raise ShardError(f"{entry.name[:100]!r} is not KEY.MEMBER")
            owner, member = match.groups()
            if owner != key:
                if key:
                    yield key, Stretch(first, end - first), members
                if owner in seen:
                    raise ShardError(f"{owner} appears in two places")
                seen.add(owner)
                key, members, first, size = owner, {}, entry.first, 0
            if member in members:
                raise ShardError(f"{entry.name} is there twice")
            size += entry.size
            if size > MAX_SAMPLE:
                raise ShardError(f"{owner} is larger than {MAX_SAMPLE >> 30} GiB")
            members[member] = tars.content(file, entry)
            end = entry.end
    if key:
        yield key, Stretch(first, end - first), members


def places(path: Path, clips: Iterable[dict[str, Any]]) -> dict[str, Stretch]:
    """Return the position in the tar of each of a sidecar's clips that is ok: contiguous and in the same order.

    path: the sidecar, named by the ShardError for a clip without a length. The tar itself is checked when it is read.
    """
    found: dict[str, Stretch] = {}
    offset = 0
    for clip in clips:
        if clip["state"] == "ok":
            length = clip.get("bytes")
            if type(length) is not int or length <= 0:
                raise ShardError(f"{path}: damaged, {clip['key']} has no length in bytes")
            found[clip["key"]] = Stretch(offset, length)
            offset += length
    return found


def read_sample(path: Path, key: str, place: Stretch, wanted: Collection[str] | None = None) -> dict[str, bytes]:
    """Return the members of the sample at a position of a shard: all, or the wanted ones.

    Raises ShardError, naming file and key, if one of them is missing or the position does not hold exactly this
    sample.
    """
    shown = _shown(key)
    try:
        with files.open_file(path) as file:
            found = _sample(file.fileno(), key, place)
        for name in sorted(wanted or ()):
            if name not in found:
                raise ShardError(f"has no {name}")
        return {name: bytes(content) for name, content in found.items() if wanted is None or name in wanted}
    except _NotThereError as error:
        raise ShardError(f"{path}: lacks {shown}, which its sidecar has as ok; `avprep verify` tells more") from error
    except ShardError as error:
        raise ShardError(f"{path}: {shown}: {error}") from error
    except OSError as error:
        raise ShardError(f"{path}: {shown} cannot be read ({error.strerror})") from error


def read_facts(path: Path, column: str, key: str, place: Stretch) -> dict[str, Any]:
    """Return the JSON member of a column's sample at a position of a shard; errors as in `read_sample`."""
    member = schema.METADATA[column]
    content = read_sample(path, key, place, {member})[member]
    try:
        return schema.decode_json(content)
    except ShardError as error:
        raise ShardError(f"{path}: {key[:_SHOWN]}: {member}: {error}") from error


def read_at(path: Path, key: str, place: Stretch) -> dict[str, memoryview]:
    """Return the members of the sample at a position of a shard, read in one piece from a tar that stays open.

    Fast, for training: for short names, header checksums are not checked. OSError, or a ShardError that does not name
    the file, if the position does not hold exactly this sample. See `close_tars`.
    """
    return _sample(_opened(path, os.getpid()).fileno(), key, place)


def close_tars() -> None:
    """Drop the tars that `read_at` keeps open: others may have replaced them."""
    _opened.cache_clear()


class _NotThereError(ShardError):
    """Another sample is at the position of one."""


def _sample(descriptor: int, key: str, place: Stretch) -> dict[str, memoryview]:
    if place.length > MAX_SAMPLE:
        raise ShardError(f"is larger than {MAX_SAMPLE >> 30} GiB")
    if place.offset + place.length > os.fstat(descriptor).st_size:  # checked before memory is allocated
        raise ShardError("cut off")
    data = os.pread(descriptor, place.length, place.offset)
    while len(data) < place.length:  # Linux returns at most 2 GiB per call, network file systems less
        more = os.pread(descriptor, place.length - len(data), place.offset + len(data))
        if not more:
            raise ShardError("cut off")
        data += more
    found: dict[str, memoryview] = {}
    entries = tars.whole_members(data)
    begin = len(key) + 1
    for name, content in entries:
        if not name.startswith(key) or name[begin - 1 : begin] != ".":
            raise _NotThereError("does not lie where its sidecar says")
        found[name[begin:]] = content
    if len(found) < len(entries):
        raise ShardError("a member is there twice")
    return found


class _Opened(io.FileIO):
    """A file that is closed when it is garbage-collected."""

    def __del__(self) -> None:
        self.close()


@functools.lru_cache(OPEN_TARS)
def _opened(path: Path, process: int) -> io.FileIO:
    """Open a tar; each process has its own."""
    files.check_regular(path)
    return _Opened(path)


def stretches(file: IO[bytes]) -> dict[str, Stretch]:
    """Return the position of each sample of an open shard; ShardError if it cannot be read."""
    found: dict[str, Stretch] = {}
    with _named(file.name):
        for entry in tars.members(file):
            key = entry.name.partition(".")[0]
            first = found[key].offset if key in found else entry.first
            found[key] = Stretch(first, entry.end - first)
    return found


@contextlib.contextmanager
def _named(path: Path | str) -> Iterator[None]:
    """Name the tar in read errors."""
    try:
        yield
    except ShardError as error:
        raise ShardError(f"{path}: {error}") from error
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({explained(error)})") from error


def read_joined(out: Path, shard: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the samples of a shard that both columns hold, with the members of both, in manifest order.

    Both columns keep the manifest's order, so one sample of each is in memory at a time. Raises ShardError if a column
    has not finished the shard, or if its tar does not hold the clips that are ok in its sidecar.
    """
    crop, mfcc = (_finished_keys(out, column, shard) for column in ("crop", "mfcc"))
    both = set(crop).intersection(mfcc)
    right = _read_all(tar_path(out, "mfcc", shard), mfcc)
    for key, members in _read_all(tar_path(out, "crop", shard), crop):
        if key in both:
            beside = next((its for other, its in right if other == key), None)
            if beside is None:
                raise ShardError(f"{tar_path(out, 'mfcc', shard)}: {_shown(key)} is not in the order of the crops")
            yield key, {**members, **beside}
    for _ in right:  # the rest failed in the other column, but must be there
        pass


def _finished_keys(out: Path, column: str, shard: str) -> list[str]:
    """Return the clips of a shard that are ok in a column, in order; ShardError if the shard is not finished."""
    sidecar = read_sidecar(out, column, shard)
    if sidecar is None:
        raise ShardError(f"{sidecar_path(out, column, shard)}: is not there; run `avprep {column}` again")
    return [clip["key"] for clip in sidecar["clips"] if clip["state"] == "ok"]


def _read_all(path: Path, keys: Sequence[str]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the samples of a tar; ShardError if they are not those of its sidecar, in order."""
    expected = iter(keys)
    for key, members in read(path):
        if key != next(expected, None):
            raise ShardError(f"{path}: {_shown(key)} does not lie where the sidecar says; `avprep verify` tells more")
        yield key, members
    for key in expected:
        raise ShardError(f"{path}: lacks {_shown(key)}, which its sidecar has as ok; `avprep verify` tells more")


def _shown(key: str) -> str:
    """Return the beginning of a key in printable form."""
    return key[:_SHOWN] if key.isprintable() else ascii(key[:_SHOWN])


def _check_end(file: IO[bytes]) -> None:
    """Refuse a tar without its end mark: truncated between two members, it would read as a shorter one."""
    if file.seek(0, os.SEEK_END) >= 2 * tars.BLOCK:
        file.seek(-2 * tars.BLOCK, os.SEEK_END)
        if not any(file.read()):
            return
    raise ShardError("is not a whole tar")
