"""Untrusted files of `torch.save`: their tensors and plain values are read, no code in them is executed.

The released weights have this format. No code in any file can run: every opcode is checked, and then the file is read
with `weights_only=True`.
"""

from __future__ import annotations

import os
import pickletools
import re
import struct
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from avprep import files
from avprep.errors import CheckpointError
from davs_model.checkpoint import AGAIN, one_line, reading

GLOBALS = re.compile(
    r"collections\.OrderedDict|torch(\.cuda)?\.\w+Storage|torch\.(Size|device|serialization\._get_layout)"
    r"|torch\._utils\._rebuild_(tensor(_v[23])?|parameter|qtensor|sparse_tensor|meta_tensor_no_storage)"
    r"|torch\.(b?float\d\w*|complex\d+|q?u?int\d\w*|bool|per_\w+)"
)
"""The globals that a pickle may name: tensors of any kind, usable or not."""
DEEPEST_TUPLE = 3
_END64, _LOCATOR, _END = 56, 20, 22
"""Bytes of the records at the end of a zip archive; the first two exist only in its 64-bit form, as torch writes it."""
_NOT_HERE = 0xFFFFFFFF
"""In place of a size or position of 4 GiB or more, which is in an extra field."""


def read(path: Path) -> Any:
    """Read a torch file: only tensors and plain values, with memory in proportion to its size.

    CheckpointError, one line, for a file that is damaged, not a torch file, or demands more.
    """
    with reading(path, "torch file of weights"), files.open_file(path) as file:
        _inspect(file)
        file.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the form of the file: whatever matters here is an error
            return torch.load(file, map_location=_Budget(os.fstat(file.fileno()).st_size), weights_only=True)


def record(value: Any) -> dict[str, Any] | None:
    """Return a dictionary from a file as a plain dict, None if it is not one or has keys that are not text."""
    # The methods of dict itself: an OrderedDict from a file may have attributes that hide them.
    if isinstance(value, dict) and all(type(name) is str for name in dict.keys(value)):
        return dict(dict.items(value))
    return None


class _Budget:
    """A `map_location` that keeps everything on the CPU, and refuses a file that claims more values than fit in it."""

    def __init__(self, size: int) -> None:
        self.left = size

    def __call__(self, storage: Any, location: str) -> Any:
        self.left -= storage.nbytes()
        if self.left < 0:
            raise CheckpointError(f"damaged: it claims more numbers than it holds: {AGAIN}")
        return storage


def _inspect(file: IO[bytes]) -> None:
    """Inspect a torch file without building any of its objects.

    torch executes no code, but would build objects with which a small file takes any amount of memory or ends the
    process.
    """
    head = file.read(512)
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if head.startswith(b"PK\3\4"):  # the test of torch; zipfile.is_zipfile looks at the end of the file
        with zipfile.ZipFile(file) as archive:
            entries, first = archive.infolist(), archive.start_dir
            names = [entry.orig_filename.lower() for entry in entries]  # torch ignores case
            if len(names) > len(set(names)) or not any(name.endswith("/data.pkl") for name in names):
                raise CheckpointError("a zip archive, not a torch file: give the file as it was downloaded")
            # Extra fields change names and sizes: none may do more than those of torch.
            if any(entry.extra != _extra(entry) for entry in entries) or not _is_where_torch_looks(file, size, first):
                raise CheckpointError("an archive that torch did not write: give the file as it was downloaded")
            if (held := sum(entry.file_size for entry in entries)) > size:  # torch compresses nothing
                raise CheckpointError(f"not a torch file but an archive that unpacks to {held} bytes")
            for name, entry in zip(names, entries, strict=True):
                if name.endswith(".pkl"):
                    with archive.open(entry) as pickle:
                        _inspect_pickle(pickle)
    elif head[257:262] == b"ustar":
        raise CheckpointError("a tar archive, not a torch file: give the file as it was downloaded")
    else:
        for _ in ("magic number", "version", "system", "content", "storages"):
            _inspect_pickle(file)


def _extra(entry: zipfile.ZipInfo) -> bytes:
    """Return the extra fields that torch writes for an entry: one with the numbers that need 64 bits, if any."""
    large = [n for n in (entry.file_size, entry.compress_size, entry.header_offset) if n >= _NOT_HERE]
    return struct.pack(f"<HH{len(large)}Q", 1, 8 * len(large), *large) if large else b""


def _is_where_torch_looks(file: IO[bytes], size: int, first: int) -> bool:
    """Return whether torch, too, finds the list of an archive's entries at `first`, where `zipfile` found it.

    A file may hold two lists, of which each reader takes another one.
    """
    file.seek(max(0, size - _END64 - _LOCATOR - _END))
    tail = file.read()
    end, locator = tail[-_END:], tail[-_END - _LOCATOR : -_END]
    if not end.startswith(b"PK\5\6") or end[20:] != bytes(2):  # the length of a comment, before which both search
        return False
    if not locator.startswith(b"PK\6\7"):
        return int.from_bytes(end[16:20], "little") == first
    place = int.from_bytes(locator[8:16], "little")
    whole = tail.startswith(b"PK\6\6") and place == size - len(tail)
    return whole and int.from_bytes(tail[48:56], "little") == first


def _inspect_pickle(file: IO[bytes]) -> None:
    """Check one pickle, opcode by opcode, and refuse everything that weights do not need.

    This is every global except those of tensors, and deeply nested tuples, which as keys take very long or overflow the
    stack.
    """
    stack: list[int] = []  # for each value, its depth as nested tuples
    marks: list[int] = []
    memo: dict[Any, int] = {}
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL" and not GLOBALS.fullmatch(name := str(argument).replace(" ", ".")):
            raise CheckpointError(f"refused, and nothing of it run: it holds more than weights ({one_line(name)})")
        if opcode.name == "MARK":
            marks.append(len(stack))
        elif opcode.name.endswith("PUT"):
            memo[argument] = stack[-1]
        elif opcode.name.endswith("GET"):
            stack.append(memo[argument])
        else:
            needs = opcode.stack_before
            has_mark = pickletools.markobject in needs
            start = marks.pop() - needs.index(pickletools.markobject) if has_mark else len(stack) - len(needs)
            depth = 1 + max(stack[start:], default=0) if opcode.name.startswith("TUPLE") else 0
            if depth > DEEPEST_TUPLE:
                raise CheckpointError("refused, and nothing of it run: it holds more than weights (nested tuples)")
            stack[start:] = [depth] * len(opcode.stack_after)
