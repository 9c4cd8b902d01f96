"""The metadata that both columns record of a clip, and how messages name it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from avprep import schema
from avprep.errors import Reject, plural
from avprep.manifest import Clip


def check_length(n_frames: int) -> None:
    """Raise Reject(`too_short`) for a clip shorter than one window."""
    if n_frames < schema.WINDOW_FRAMES:
        raise Reject("too_short", f"{plural(n_frames, 'frame')}, fewer than the {schema.WINDOW_FRAMES} of a window")


@contextmanager
def named(name: str) -> Iterator[None]:
    """Prefix the message of a Reject with the file's name, for code that does not handle files."""
    try:
        yield
    except Reject as reject:
        raise Reject(reject.reason, f"{name}: {reject.message}") from reject


def labels(clip: Clip) -> dict[str, Any]:
    """Return the manifest's fields of a clip, as JSON."""
    return {
        "key": clip.key,
        "word": clip.word,
        "speaker": clip.speaker,
        "split": clip.split,
        "source": clip.video.encode("utf-8", "backslashreplace").decode(),  # for names that are not UTF-8
        "start": clip.start,
        "duration": clip.duration,
    } | ({"labels": dict(clip.labels)} if clip.labels else {})


def rounded(value: float | np.floating[Any]) -> float:
    """Return a number as it is recorded: rounded to four decimals."""
    return round(float(value), 4)
