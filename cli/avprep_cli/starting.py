"""Ctrl-C while the command line is still being loaded: it ends the process, as it does any program, untold."""

from __future__ import annotations

import contextlib
import signal

_before = signal.getsignal(signal.SIGINT)
with contextlib.suppress(ValueError):  # in another thread than the first
    if _before is signal.default_int_handler:  # whose traceback would name whatever was being imported
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def done() -> None:
    """Have Ctrl-C raise KeyboardInterrupt again."""
    with contextlib.suppress(ValueError):
        if _before is signal.default_int_handler:
            signal.signal(signal.SIGINT, _before)
