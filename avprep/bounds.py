"""What a caller of the library may choose; the command line has bounds of its own, on its options."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path

from avprep.errors import SettingsError


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """SettingsError, one line, for what is none of the choices."""
    known = tuple(choices)
    if value not in known:
        raise SettingsError(f"{name} must be one of {', '.join(known)}, not {value!r}")


def check_flag(name: str, value: object) -> None:
    """SettingsError, one line, for anything else than True or False: "no" would be taken for a yes."""
    if not isinstance(value, bool):
        raise SettingsError(f"{name} must be True or False, not {value!r}")


def check_whole(name: str, value: object, least: int, most: int | None = None) -> None:
    """SettingsError, one line, for anything else than a whole number from `least` on, to `most` if there is one."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        span = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise SettingsError(f"{name} must be a whole number {span}, not {value!r}")


def check_number(name: str, value: object, least: float = -math.inf, *, above: bool = False) -> None:
    """SettingsError, one line, for anything else than a finite number from `least` on, or `above` it."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < least or (above and value == least):  # type: ignore[operator]
        span = "" if least == -math.inf else f" above {least:g}" if above else f" of at least {least:g}"
        raise SettingsError(f"{name} must be a number{span}, not {value!r}")


def as_path(name: str, value: object) -> Path:
    """Return a path that was given as one or as text; SettingsError, one line, for what no path is."""
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str) or "\0" in text:
        raise SettingsError(f"{name} must be a path, not {value!r}")
    return Path(text)
