"""Untrusted files: only regular ones are opened, JSON is read with bounds on its cost, text is shown escaped."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from avprep import files

MAX_JSON = 256 << 20
"""Maximum size of a JSON file (bytes); that of a shard has 300 bytes per clip."""
MAX_LINES = 2 << 30
"""Maximum size of a file of JSON lines (bytes)."""
MAX_LINE = 1 << 20
"""Maximum length of its lines (bytes)."""
MAX_DEPTH = 32
"""Maximum nesting of JSON."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object; raises the errors of `files.open_file` and `parse_json`."""
    with files.open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_JSON:
            raise ValueError(f"larger than {MAX_JSON >> 20} MiB")
        return parse_json(file.read(size))


def json_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file, one in memory at a time; ValueError if it is not UTF-8, or it or a line is too long.

    A byte order mark, which editors on Windows put before the first line, is dropped.
    """
    with files.open_file(path) as file:
        if os.fstat(file.fileno()).st_size > MAX_LINES:
            raise ValueError(f"larger than {MAX_LINES >> 20} MiB")
        encoding = "utf-8-sig"
        while line := file.readline(MAX_LINE):
            if len(line) == MAX_LINE:
                raise ValueError(f"a line is longer than {MAX_LINE >> 10} KiB")
            yield line.decode(encoding)
            encoding = "utf-8"


def parse_json(text: str | bytes) -> dict[str, Any]:
    """Parse one JSON object; ValueError, one line, for any other text.

    Whole numbers must fit in 64 bits, and nesting must not exceed `MAX_DEPTH`. Strings may hold lone surrogates.
    """
    try:
        value = _DECODER.decode(text.decode("utf-8") if isinstance(text, bytes) else text)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        inner = (one.values() if isinstance(one, dict) else one for one in level)
        level = [one for several in inner for one in several if isinstance(one, dict | list)]
        if not level:
            return value
    raise ValueError(_TOO_DEEP)


def shown(text: str) -> str:
    """Return text that is safe in a terminal: control characters, and any that hide or reverse text, are escaped.

    Line breaks and tabs stay.
    """
    return text if text.isprintable() else "".join(map(_letter, text))


def _letter(letter: str) -> str:
    steers = unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") and letter not in "\n\t"
    return ascii(letter)[1:-1] if steers else letter


def _integer(digits: str) -> int:
    """Return a whole number; ValueError for one that no array, file or loop of ours can hold."""
    if len(digits) > 20 or not -(2**63) <= (value := int(digits)) < 2**63:
        raise ValueError(f"a number of {len(digits)} digits")
    return value


_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"
_DECODER = json.JSONDecoder(parse_int=_integer)


def number(value: object) -> float | None:
    """Return a number as a float; None for anything else, and for numbers too large to be a figure of a clip."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        result = float(value)
    except OverflowError:
        return None
    return result if abs(result) < 1e12 else None
