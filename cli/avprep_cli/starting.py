"""Ctrl-C while the command line is still being loaded: it ends the process silently, like any other program."""

from __future__ import annotations

import contextlib
import signal

_before = signal.getsignal(signal.SIGINT)
with contextlib.suppress(ValueError):  # not in the main thread
    if _before is signal.default_int_handler:  # its traceback would name the module being imported
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def done() -> None:
    """Have Ctrl-C raise KeyboardInterrupt again."""
    with contextlib.suppress(ValueError):
        if _before is signal.default_int_handler:
            signal.signal(signal.SIGINT, _before)
