"""Reading shards: by key and by place, columns joined. Tars are taken as hostile: see `avprep.shards.tars`."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from avprep import files
from avprep.errors import ShardError
from avprep.shards import tars
from avprep.shards.sample import Stretch
from avprep.shards.sidecar import read_sidecar, sidecar_path, tar_path

MAX_SAMPLE = 8 << 30
"""Largest sample that is read from a shard (bytes): the crops of half an hour as PNG are smaller."""


_BUFFER = 1 << 20  # bytes: a member is larger than Python's own buffer, and each would be written by itself


_NAME = re.compile(r"([^./](?:[^.]*[^./])?)\.([^/]+)")  # a key holds no dot; what follows its first one is the member


def read(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield (key, {member: bytes}) of each sample of a shard, one sample in memory at a time.

    Raises ShardError, naming the file, for a damaged or cut off tar, anything but plain files, a name that is not
    KEY.MEMBER, a member twice, a sample whose members do not lie together or that is too large.
    """
    seen: set[str] = set()
    key, members, size = "", dict[str, bytes](), 0
    with _named(path), files.open_file(path, _BUFFER) as file:
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
    if file.seek(0, os.SEEK_END) >= 2 * tars.BLOCK:
        file.seek(-2 * tars.BLOCK, os.SEEK_END)
        if not any(file.read()):
            return
    raise ShardError("is not a whole tar")
