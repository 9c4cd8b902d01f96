"""The code of worker processes: build the stage's function once, then process one clip after another."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from avprep import shards
from avprep.errors import AvprepError, Reject, missing_library
from avprep.manifest import Clip
from avprep.runs import pool
from avprep.runs.fingerprint import ColumnStage, Derived

DEAF_TO = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)
"""Signals that a terminal or scheduler sends to a whole job: the parent decides when its workers end."""

CLIP_TIMEOUT = 120.0
"""Seconds that every clip may take, unless another limit is given."""
TIMES_LENGTH = 10.0
"""A clip may take this many times its own length, if that is more."""

_stage: ColumnStage | None = None
_do: Callable[..., shards.Sample] | None = None
_fatal: str | None = None


def start(stage: ColumnStage) -> None:
    """Build the worker's function once; a failure here fails the run, not one clip after another."""
    global _stage, _do, _fatal
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _stage = stage
    try:
        _do = stage()
    except AvprepError as error:
        _fatal = str(error)
    except BaseException as error:  # reported by the parent, which ends the run
        remedy = missing_library(error) if isinstance(error, ImportError) else None
        _fatal = remedy or f"a worker could not start: {_describe(error)}"


def do_clip(clip: Clip, shard: str, stretch: str, scaled: bool) -> dict[str, Any]:
    """Process one clip in a worker; return its record for the sidecar.

    shard: the name of its shard. stretch: the file for its sample. scaled: request a time limit by the clip's length.
    The record of an internal error also has `fault`, its type and place; that of an error that ends the run is `fatal`
    alone. Neither is for the sidecar.
    """
    if _fatal is not None or _do is None or _stage is None:
        return {"fatal": _fatal or "a worker was not started"}
    begin = time.monotonic()
    try:
        if scaled and (seconds := _stage.seconds(clip)) is not None:
            pool.grant(TIMES_LENGTH * seconds)
        sample = _do(clip, shard) if isinstance(_stage, Derived) else _do(clip)
        path = Path(stretch)
        shards.write_members(path, clip.key, sample.members)
        record = {
            "state": "ok",
            "n_frames": sample.n_frames,
            **sample.summary,
            "bytes": path.stat().st_size,
            "seconds": round(time.monotonic() - begin, 3),
        }
        json.dumps(record, allow_nan=False)  # a record that JSON cannot hold fails this clip, not the run
        return record
    except Reject as reject:
        return failed(reject.reason, reject.message, time.monotonic() - begin)
    except AvprepError as error:
        return {"fatal": str(error)}
    except BaseException as error:  # one clip must not end the run, not even by sys.exit()
        fault = f"{type(error).__name__} ({_place(error)})"
        return failed("error", _describe(error), time.monotonic() - begin) | {"fault": fault}


def remove(paths: Iterable[str]) -> None:
    """Remove the samples of a shard that is in place."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _describe(error: BaseException) -> str:
    """Return the type, message and place of an error in one line."""
    return " ".join(f"{type(error).__name__}: {error} ({_place(error)})".split())


def _place(error: BaseException) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(where.filename).name}:{where.lineno}"


def failed(reason: str, message: str, seconds: float | None) -> dict[str, Any]:
    """Return the record of a clip that failed."""
    return {
        "state": "failed",
        "reason": reason,
        "message": message,
        "seconds": None if seconds is None else round(seconds, 3),
    }
