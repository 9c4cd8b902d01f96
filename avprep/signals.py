"""Signals that end a run in good order."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, Literal

from avprep.errors import AvprepError

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)
"""Ctrl-C, a scheduler's order to end, Ctrl-\\, a closed terminal, a scheduler's warning that time is nearly up.

Each ends a run in good order; SIGHUP does not where it is ignored, as `nohup` has it."""


class Stopped(AvprepError):  # noqa: N818 - no error: what the user asked for
    """The run was told to stop by a signal."""


class Stop(threading.Event):
    """Set by a signal; the name of the first is in `by`."""

    by = "a signal"


@contextlib.contextmanager
def stop_signals(
    numbers: Iterable[signal.Signals] = STOP_SIGNALS, *, again: Literal["ends", "ignored"] = "ends"
) -> Iterator[Stop]:
    """Turn signals into an event for as long as a run lasts.

    again: what a second one does: it ends the process as usual, or nothing.
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
