"""Progress lines of a long measurement."""

from __future__ import annotations

import time
from collections.abc import Callable

LINE_EVERY = 30.0
"""Seconds between lines."""

Progress = Callable[[int], object]
"""Is called with the number of clips done."""


def progress_lines(say: Callable[[str], None], total: int, title: str = "") -> Progress:
    """Return a function that prints a line every `LINE_EVERY` seconds; title: precedes the number of clips done."""
    last = time.monotonic()

    def progress(done: int) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_EVERY:
            last = time.monotonic()
            say(f"{title}{done}/{total} clips")

    return progress
