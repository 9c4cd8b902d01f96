"""Closed or full standard streams: none of our files may get their file descriptors, and a lost result is an error."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO

_STDIN, _STDOUT, _STDERR = range(3)


class OutputError(OSError):
    """Standard output cannot be written: the output of a command is lost."""


class _Output(io.FileIO):
    """Standard output, with errors that are distinguishable from those of other files."""

    def write(self, data: object, /) -> int:
        """Write; raises OutputError."""
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            raise OutputError(error.errno, error.strerror) from error


class _Remarks(io.FileIO):
    """Standard error. If it cannot be written, work continues: a remark must not end hours of work."""

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        """Write if possible."""
        try:
            return super().write(data)
        except OSError:
            return len(data)


def make_whole() -> None:
    """Open the standard streams that are closed, and have errors of standard output raise OutputError.

    The next file that a process opens gets the descriptor of a closed stream: libraries would print into a shard.
    Streams that were replaced in sys, for example by a test, are left alone.
    """
    for number, mode in ((_STDIN, os.O_RDONLY), (_STDOUT, os.O_RDONLY), (_STDERR, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # gets the lowest free number; read-only, so that writing to it fails
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text(_Output(_STDOUT, "w", closefd=False), sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(_Remarks(_STDERR, "w", closefd=False), sys.stderr)


def give_up_output() -> None:
    """Discard what is still to be written to standard output, so that the process can end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, _STDOUT)
    os.close(nowhere)


def _text(raw: io.FileIO, before: TextIO | None) -> TextIO:
    """Return a text stream on a raw one, like the previous one, if there was one."""
    buffered = io.BufferedWriter(raw)
    if before is None:
        return io.TextIOWrapper(buffered, errors="backslashreplace")
    before.flush()
    return io.TextIOWrapper(buffered, before.encoding, before.errors, line_buffering=raw.isatty())
