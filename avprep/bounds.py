"""Checks of arguments of the library; the command line has its own bounds on its options."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path

from avprep.errors import SettingsError, short


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise SettingsError, one line, unless the value is one of the choices."""
    known = tuple(choices)
    if not (isinstance(value, str) and value in known):
        raise SettingsError(f"{name} must be one of {', '.join(known)}, not {short(value)}")


def check_flag(name: str, value: object) -> None:
    """Raise SettingsError, one line, unless the value is True or False: the text "no" would count as true."""
    if not isinstance(value, bool):
        raise SettingsError(f"{name} must be True or False, not {short(value)}")


def check_whole(name: str, value: object, least: int, most: int | None = None) -> None:
    """Raise SettingsError, one line, unless the value is an integer from `least` on, up to `most` if given."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        span = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise SettingsError(f"{name} must be a whole number {span}, not {short(value)}")


def check_number(name: str, value: object, least: float = -math.inf, *, above: bool = False) -> None:
    """Raise SettingsError, one line, unless the value is a finite number of at least `least`, or `above` it."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < least or (above and value == least):  # type: ignore[operator]
        span = "" if least == -math.inf else f" above {least:g}" if above else f" of at least {least:g}"
        raise SettingsError(f"{name} must be a number{span}, not {short(value)}")


def as_path(name: str, value: object) -> Path:
    """Return a path that was given as one or as text; SettingsError, one line, for anything else."""
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str) or "\0" in text:
        raise SettingsError(f"{name} must be a path, not {short(value)}")
    return Path(text)
