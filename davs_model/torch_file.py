"""Untrusted files of `torch.save`: their tensors and plain values are read, no code in them is executed.

The released weights have this format. No code in any file can run: every opcode is checked, and then the file is read
with `weights_only=True`.
"""

from __future__ import annotations

import os
import pickletools
import re
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
            names = archive.namelist()
            if len(names) > len(set(names)) or not any(name.endswith("/data.pkl") for name in names):
                raise CheckpointError("a zip archive, not a torch file: give the file as it was downloaded")
            if (held := sum(entry.file_size for entry in archive.infolist())) > size:  # torch compresses nothing
                raise CheckpointError(f"not a torch file but an archive that unpacks to {held} bytes")
            for name in names:
                if name.endswith(".pkl"):
                    with archive.open(name) as pickle:
                        _inspect_pickle(pickle)
    elif head[257:262] == b"ustar":
        raise CheckpointError("a tar archive, not a torch file: give the file as it was downloaded")
    else:
        for _ in ("magic number", "version", "system", "content", "storages"):
            _inspect_pickle(file)


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
