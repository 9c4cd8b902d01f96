"""One clip's result in one column, and its position in a tar."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Stretch:
    """The position of a sample in a tar (bytes)."""

    offset: int
    length: int


@dataclass(frozen=True)
class Sample:
    """One clip's result in one column.

    members: (member name, bytes) in the order of storage; may be made while they are written.
    n_frames: frames of the clip.
    summary: short metadata for the sidecar, complete once the members have been read.
    """

    members: Iterable[tuple[str, bytes]]
    n_frames: int
    summary: dict[str, Any] = field(default_factory=dict)
