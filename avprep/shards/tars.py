"""A strict reader of the shards' tars: only plain files are accepted, since tars are untrusted.

It reads only what avprep writes: ustar headers of plain files, each preceded by one small PAX header with the name if
that is long or not ASCII. `tarfile` reads far more, partly without bounds on time or memory. Nothing is ever written to
a path named by a tar.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from typing import IO, NamedTuple

from avprep.errors import ShardError

BLOCK = 512
"""Bytes of a header; contents are padded to a multiple of it."""
MAX_MEMBER = 256 << 20
"""Maximum size of a member (bytes)."""
MAX_PAX = 64 << 10
"""Maximum size of a PAX header (bytes): names are no longer than 16 kB."""

_END = bytes(BLOCK)
_NUMBER = re.compile(rb" *([0-7]{1,11})[ \0]*")
_RECORD = re.compile(rb"([1-9][0-9]{0,5}) ([a-zA-Z.]{1,40})=", re.ASCII)
_HARMLESS = {b"path", b"mtime", b"atime", b"ctime", b"uid", b"gid", b"uname", b"gname", b"comment", b"hdrcharset"}


class Member(NamedTuple):
    """A plain file in a tar.

    first: start of its headers. begin: start of its content, which has `size` bytes. end: start of the next headers.
    """

    name: str
    first: int
    begin: int
    size: int
    end: int


def members(file: IO[bytes], first: int = 0, end: int | None = None) -> Iterator[Member]:
    """Yield the members of a tar, or of its part from `first` to `end`; the file's position may change in between.

    Only headers are read, 512 bytes each. Ends at `end`, or else at the tar's end mark. Raises ShardError, without the
    file's name, for anything but plain files, for damaged or truncated data, and for a member that is too large.
    """
    size = file.seek(0, os.SEEK_END)
    while first < (size if end is None else end):
        place, name = first, None
        header = _read(file, place, BLOCK, size)
        if end is None and header == _END:
            return
        if header[156:157] == b"x":
            length = _length(header)
            if length > MAX_PAX:
                raise ShardError(f"a PAX header of {length} bytes")
            name = _long_name(_read(file, place + BLOCK, length, size))
            place += BLOCK + _filled(length)
            header = _read(file, place, BLOCK, size)
        length = _length(header)
        name = _short_name(header) if name is None else name
        if header[156:157] not in b"0\0":
            raise ShardError(f"{name[:100]!r} is not a plain file")
        if length > MAX_MEMBER:
            raise ShardError(f"{name[:100]!r} is larger than {MAX_MEMBER >> 20} MiB")
        begin = place + BLOCK
        if begin + length > size:
            raise ShardError(f"{name[:100]!r} is cut off")
        member = Member(name, first, begin, length, begin + _filled(length))
        yield member
        first = member.end


def whole_members(data: bytes) -> list[tuple[str, memoryview]]:
    """Return the name and content of each member of a part of a tar in memory; ShardError as in `members`."""
    view = memoryview(data)
    plain = _plain_members(data, view)
    if plain is not None:
        return plain
    found = members(io.BytesIO(data), 0, len(data))
    return [(entry.name, view[entry.begin : entry.begin + entry.size]) for entry in found]


def _plain_members(data: bytes, view: memoryview) -> list[tuple[str, memoryview]] | None:
    """Return the result of `whole_members` if all headers are of the simplest kind, else None.

    avprep writes such headers for short ASCII keys. This takes a third of the time of checking whole headers, which for
    a clip of 29 frames is a twentieth of the time of decoding 12 of them.
    """
    place, found = 0, []
    while place < len(data):
        header = data[place : place + BLOCK]
        name, _, rest = header[:100].partition(b"\0")
        size = header[124:135]
        if header[156:157] != b"0" or header[257:263] != b"ustar\0" or header[345:346] != b"\0" or rest.strip(b"\0"):
            return None
        if not name.isascii() or not size.isdigit() or size.strip(b"01234567"):
            return None
        begin, length = place + BLOCK, int(size, 8)
        if begin + length > len(data):
            return None
        found.append((name.decode("ascii"), view[begin : begin + length]))
        place = begin + _filled(length)
    return found


def content(file: IO[bytes], member: Member) -> bytes:
    """Return the content of a member."""
    return _read(file, member.begin, member.size, member.begin + member.size)


def _read(file: IO[bytes], place: int, length: int, size: int) -> bytes:
    if place + length > size:  # checked before memory is allocated
        raise ShardError("cut off")
    file.seek(place)
    data = file.read(length)
    if len(data) < length:
        raise ShardError("cut off")
    return data


def _length(header: bytes) -> int:
    """Check a header and return the length of its content."""
    checksum, length = _NUMBER.fullmatch(header[148:156]), _NUMBER.fullmatch(header[124:136])
    if header[257:262] != b"ustar" or checksum is None or length is None:
        raise ShardError("not a tar header")
    total = sum(header.replace(b"\0", b""))  # leaves a few dozen of 512 bytes
    if int(checksum[1], 8) != total - sum(header[148:156]) + 8 * ord(" "):
        raise ShardError("a tar header with a wrong checksum")
    return int(length[1], 8)


def _filled(length: int) -> int:
    return -(-length // BLOCK) * BLOCK


def _short_name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name)


def _long_name(records: bytes) -> str | None:
    """Return the name in a PAX header, None if there is none; ShardError for fields that would change the file."""
    name, place = None, 0
    while place < len(records):
        match = _RECORD.match(records, place)
        end = place + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(records) or records[end - 1 : end] != b"\n":
            raise ShardError("a damaged PAX header")
        if match[2] not in _HARMLESS:
            raise ShardError(f"a PAX header with {match[2].decode()}: not a plain file")
        if match[2] == b"path":
            name = _text(records[match.end() : end - 1])
        place = end
    return name


def _text(name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ShardError("a name that is not UTF-8") from error
