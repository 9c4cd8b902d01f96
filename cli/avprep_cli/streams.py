"""Standard streams that are closed or full: no file of ours takes their place, and a lost result is an error."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO

_STDIN, _STDOUT, _STDERR = range(3)


class OutputError(OSError):
    """Standard output cannot be written: what a command had to say is lost."""


class _Output(io.FileIO):
    """Standard output; its errors are told from those of other files."""

    def write(self, data: object, /) -> int:
        """Write; raises OutputError."""
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            raise OutputError(error.errno, error.strerror) from error


class _Remarks(io.FileIO):
    """Standard error. Where nobody can read it, work goes on all the same: hours of it must not die of a remark."""

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        """Write, if it can be."""
        try:
            return super().write(data)
        except OSError:
            return len(data)


def make_whole() -> None:
    """Open what is closed of the standard streams, and have errors of standard output raise OutputError.

    The next file that a process opens takes the number of a closed stream: a shard would get what libraries print.
    Streams that somebody put into sys, a test for example, are left alone.
    """
    for number, mode in ((_STDIN, os.O_RDONLY), (_STDOUT, os.O_RDONLY), (_STDERR, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # takes the lowest free number; standard output is not writable: an error, told
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text(_Output(_STDOUT, "w", closefd=False), sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(_Remarks(_STDERR, "w", closefd=False), sys.stderr)


def give_up_output() -> None:
    """Let what is still to be written to standard output go nowhere, so that the process can end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, _STDOUT)
    os.close(nowhere)


def _text(raw: io.FileIO, before: TextIO | None) -> TextIO:
    """Return a text stream on a raw one, like the one that was there before, if any was."""
    buffered = io.BufferedWriter(raw)
    if before is None:
        return io.TextIOWrapper(buffered, errors="backslashreplace")
    before.flush()
    return io.TextIOWrapper(buffered, before.encoding, before.errors, line_buffering=raw.isatty())
