"""Signals that end a run cleanly."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, Literal

from avprep.errors import AvprepError

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)
"""Ctrl-C, a scheduler's termination, Ctrl-\\, a closed terminal, a scheduler's warning before the time limit.

Each ends a run cleanly, except SIGHUP if it is ignored, as with `nohup`."""


class Stopped(AvprepError):  # noqa: N818 - not an error: the user's wish
    """The run was stopped by a signal."""


class Stop(threading.Event):
    """An event that is set by a signal; `by` is the name of the first one."""

    by = "a signal"


@contextlib.contextmanager
def stop_signals(
    numbers: Iterable[signal.Signals] = STOP_SIGNALS, *, again: Literal["ends", "ignored"] = "ends"
) -> Iterator[Stop]:
    """Turn signals into an event for the duration of a run.

    again: the effect of a second signal: it ends the process as usual, or is ignored.
    """
    stop = Stop()
    before: dict[int, Any] = {}

    def caught(number: int, _: FrameType | None) -> None:
        if not stop.is_set():
            stop.by = signal.Signals(number).name
        stop.set()
        if again == "ends":
            signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():
        for number in numbers:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, caught)
    try:
        yield stop
    finally:
        for caught_number, handler in before.items():
            signal.signal(caught_number, handler)
