"""What runs in the worker processes: build the stage's function once, then do one clip after another."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from avprep import shards
from avprep.errors import AvprepError, Reject
from avprep.fingerprint import Stage
from avprep.manifest import Clip

DEAF_TO = (signal.SIGINT, signal.SIGUSR1)
"""Signals that reach a whole job, Ctrl-C and a scheduler's warning: the parent decides what becomes of its workers."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_do: Callable[[Clip], shards.Sample] | None = None
_fatal: str | None = None


def start(stage: Stage) -> None:
    """Build the worker's function once; what fails there fails the run, not one clip after another."""
    global _do, _fatal
    for number in DEAF_TO:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":  # the thread below cannot run while C code holds the interpreter's lock
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        _do = stage()
    except AvprepError as error:
        _fatal = str(error)
    except BaseException as error:  # reported by the parent, which ends the run
        _fatal = f"a worker could not start: {_describe(error)}"


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def do_clip(clip: Clip, stretch: Path) -> dict[str, Any]:
    """Do one clip in a worker; return its record for the sidecar."""
    if _fatal is not None or _do is None:
        return {"fatal": _fatal or "a worker was not started"}
    begin = time.monotonic()
    try:
        sample = _do(clip)
        shards.write_members(stretch, clip.key, sample.members)
        record = {
            "state": "ok",
            "n_frames": sample.n_frames,
            **sample.summary,
            "bytes": stretch.stat().st_size,
            "seconds": round(time.monotonic() - begin, 3),
        }
        json.dumps(record, allow_nan=False)  # what a sidecar cannot hold is this clip's error, not the run's end
        return record
    except Reject as reject:
        return failed(reject.reason, reject.message, time.monotonic() - begin)
    except AvprepError as error:
        return {"fatal": str(error)}
    except BaseException as error:  # one clip must not end the run, not by sys.exit() either
        return failed("error", _describe(error), time.monotonic() - begin)


def _describe(error: BaseException) -> str:
    """Return type, message and place of an error in one line."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return " ".join(f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})".split())


def failed(reason: str, message: str, seconds: float | None) -> dict[str, Any]:
    """Return the record of a clip that failed."""
    return {
        "state": "failed",
        "reason": reason,
        "message": message,
        "seconds": None if seconds is None else round(seconds, 3),
    }
