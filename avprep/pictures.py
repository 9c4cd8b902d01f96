"""Pictures as shards hold them, decoded without a word on the terminal."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from avprep import schema, stages

_one_at_a_time = threading.Lock()


def decode_image(data: bytes) -> NDArray[np.uint8] | None:
    """Return the pixels of an encoded crop, uint8 (256, 256, 3), RGB; None for what is none.

    Its header is looked at before memory or time are spent. For pictures that may be damaged: libjpeg and OpenCV print
    a line for each, whoever asks says so itself.
    """
    if schema.picture_size(data) != (schema.CROP_SIZE, schema.CROP_SIZE) or schema.costly(data):
        return None
    with _muted():
        return stages.decode_image(data)


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """Let what is written to standard error be lost, by C code as well, which cannot be told where to write."""
    with _one_at_a_time:
        try:
            kept = os.dup(2)
        except OSError:  # there is none
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(nowhere)
            os.close(kept)
