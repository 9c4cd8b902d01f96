"""Progress of long work: a bar on a terminal, plain lines every 30 s otherwise. Both go to standard error."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

from avprep.errors import plural, speed
from avprep.untrusted import shown

Item = TypeVar("Item")

LINE_EVERY = 30.0
"""Seconds between plain lines."""


class Progress:
    """Counts clips and failures against a total; shows rate and time left.

    Clips that were done before are subtracted from the total: rate and ETA refer to this run's work.
    verbosity: below 0 nothing is shown, above 0 also the outcome of every clip and shard.
    """

    def __init__(self, title: str, total: int, verbosity: int = 0) -> None:
        self._title = title
        self._left = total
        self._verbosity = verbosity
        self._done = 0
        self._failed = 0
        self._begin = self._told = time.monotonic()
        self._bar = _bar(title, total, "clip") if verbosity >= 0 else None

    def clip(self, key: str, record: dict[str, Any]) -> None:
        """Count a clip; if it failed, show it and why."""
        self._done += 1
        spent = f", {record['seconds']:.1f} s" if self._verbosity > 0 and record["seconds"] is not None else ""
        if record["state"] != "ok":
            self._failed += 1
            self._say(f"{key}: {record['reason']}: {record['message']}{spent}")
        elif self._verbosity > 0:
            self._say(f"{key}: ok, {plural(record['n_frames'], 'frame')}{spent}")
        if self._bar is not None:
            self._bar.set_postfix(failed=self._failed, refresh=False)
            self._bar.update()

    def shard(self, name: str, counts: dict[str, Any], seconds: float) -> None:
        """Show that a shard is finished, if verbose."""
        if self._verbosity > 0:
            self._say(f"{name}: finished, {counts['ok']} ok, {counts['failed']} failed, {seconds:.1f} s")

    def note(self, line: str) -> None:
        """Show a line, even with -q."""
        self._say(line, always=True)

    def skip(self, clips: int, failed: int) -> None:
        """Subtract clips that were done before from the total; their failures still count."""
        self._left -= clips
        self._failed += failed
        if self._bar is not None:
            self._bar.total = self._left
            self._bar.refresh()

    def tick(self) -> None:
        """Print a line if it is time for one."""
        now = time.monotonic()
        if self._bar is None and now - self._told >= LINE_EVERY:
            self._told = now
            self._line(now)

    def close(self) -> None:
        """End the bar, or print the last line."""
        if self._bar is not None:
            self._bar.close()
        elif self._left:
            self._line(time.monotonic())

    def _line(self, now: float) -> None:
        rate = self._done / max(now - self._begin, 1e-9)
        eta = (self._left - self._done) / rate if rate else float("inf")
        left = tqdm.format_interval(eta) if eta < 1e9 else "unknown"
        self._say(f"{self._title}: {self._done}/{self._left} clips, {speed(rate)}, {self._failed} failed, ETA {left}")

    def _say(self, line: str, *, always: bool = False) -> None:
        if self._verbosity < 0 and not always:
            return
        line = shown(" ".join(line.splitlines()))
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)


def counted(items: Iterable[Item], title: str, total: int, unit: str, *, quiet: bool = False) -> Iterator[Item]:
    """Yield the items and show how many of the total have passed, unless quiet."""
    if quiet:
        yield from items
        return
    begin = told = time.monotonic()
    bar = _bar(title, total, unit)
    try:
        for done, item in enumerate(items, 1):
            yield item
            now = time.monotonic()
            if bar is not None:
                bar.update()
            elif now - told >= LINE_EVERY:
                told, rate = now, done / (now - begin)
                line = f"{title}: {done}/{total} {unit}s, {rate:.1f} {unit}s/s, {(total - done) / rate:.0f} s left"
                print(line, file=sys.stderr, flush=True)
    finally:
        if bar is not None:
            bar.close()


@contextlib.contextmanager
def download(*, quiet: bool = False) -> Iterator[Callable[[str, int], None]]:
    """Yield a function that takes a file's name and a number of received bytes, and shows them on a terminal."""
    bar = None if quiet else _bar("download", None, "B")

    def arrived(name: str, count: int) -> None:
        if bar is not None:
            bar.set_description(name, refresh=False)
            bar.update(count)

    try:
        yield arrived
    finally:
        if bar is not None:
            bar.close()


def _bar(title: str, total: int | None, unit: str) -> Any:
    """Return a bar; None if standard error is not a terminal, or one that cannot return to the start of a line."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        return None
    tqdm.set_lock(threading.RLock())  # its default lock is in shared memory, where a kill would leave it
    return tqdm(total=total, desc=title, unit=unit, unit_scale=unit == "B", dynamic_ncols=True)
