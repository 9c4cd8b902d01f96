"""How far a long measurement is, now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

EVERY = 30.0
"""Seconds between lines."""


def told(say: Callable[[str], None], total: int, what: str = "") -> Callable[[int], None]:
    """Return what is told the number of clips done, and shows it every `EVERY` seconds; what: is shown before it."""
    last = time.monotonic()

    def progress(done: int) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            say(f"{what}{done}/{total} clips")

    return progress
