"""A file whose opening never returns and cannot be interrupted by a signal, as on a network file system without server.

`python stuck_files.py FOLDER` mounts it until its standard input ends. A FUSE server that has taken a request and never
answers leaves its caller in uninterruptible sleep.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path

import pytest

_FOLDER, _FILE = 0o040755, 0o100644


class _Operation(IntEnum):
    """A caller's request, as in linux/fuse.h."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    OPEN = 14
    INIT = 26
    INTERRUPT = 36
    BATCH_FORGET = 42


@contextlib.contextmanager
def stuck_file(folder: Path) -> Iterator[Path]:
    """Mount a folder in which every name is a file that cannot be opened; skip the test if that is not allowed."""
    folder.mkdir()
    server = subprocess.Popen(
        [sys.executable, __file__, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        if server.stdout.readline() != "mounted\n":
            pytest.skip("only root can mount a FUSE file system, where there is /dev/fuse")
        yield folder / "clip.mp4"
    finally:
        server.stdin.close()
        server.wait(30)
        server.stdout.close()


def main(folder: str) -> int:
    """Serve until standard input ends."""
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"stuck", folder.encode(), b"fuse", 0, options):
        return 1
    threading.Thread(target=_serve, args=(device,), daemon=True).start()
    print("mounted", flush=True)
    sys.stdin.read()
    libc.umount2(folder.encode(), 2)  # MNT_DETACH
    return 0  # the device is closed, and every waiting caller is released


def _serve(device: int) -> None:
    while True:
        request = os.read(device, 1 << 20)
        _, operation, number, node = struct.unpack_from("<IIQQ", request)
        match operation:
            case _Operation.INIT:
                answer = struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, 0, 0, 0, 4096, 1, 0, 0, 0)
            case _Operation.LOOKUP:
                answer = struct.pack("<QQQQII", 2, 0, 3600, 3600, 0, 0) + _attributes(_FILE)
            case _Operation.GETATTR:
                answer = struct.pack("<QII", 3600, 0, 0) + _attributes(_FOLDER if node == 1 else _FILE)
            case _Operation.FORGET | _Operation.BATCH_FORGET | _Operation.INTERRUPT:  # these need no answer
                continue
            case _Operation.OPEN:  # this gets none
                continue
            case _:
                os.write(device, struct.pack("<IiQ", 16, -38, number))  # ENOSYS
                continue
        os.write(device, struct.pack("<IiQ", 16 + len(answer), 0, number) + answer)


def _attributes(mode: int) -> bytes:
    return struct.pack("<QQQQQQIIIIIIIIII", 2, 100_000, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
