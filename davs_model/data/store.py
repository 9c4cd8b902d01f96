"""Frames of clips in memory, decoded once in the forms that a run reads, up to a size limit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from avprep.errors import ShardError
from davs_model.data.clips import Clips
from davs_model.data.pictures import Form, Frames, shown

Held = Mapping[Form, Frames]
"""All frames of a clip in each form, uint8 (T, S, S, 3)."""


class FrameStore:
    """Keeps the frames of the clips that were added first, up to `limit` bytes.

    Processes that are forked later share its memory.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0
        self._held: dict[tuple[Path, bytes], Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def get(self, clips: Clips, row: int) -> Held | None:
        """Return the frames of a clip; None if they are not kept."""
        return self._held.get(clips.sample(row))

    def fill(self, clips: Clips, forms: Iterable[Form]) -> None:
        """Decode clips until the limit is reached; the next reader reports a clip that cannot be read."""
        wanted = sorted(set(forms))
        each = sum(3 * side * side for _, side in wanted)
        for row in range(len(clips)):
            place, n_frames = clips.sample(row), int(clips.whole[row])
            if place in self._held:
                continue
            if self.size + each * n_frames > self.limit:
                return
            held = {form: np.empty((n_frames, form[1], form[1], 3), np.uint8) for form in wanted}
            try:
                for frame, picture in enumerate(clips.pictures(row, range(n_frames))):
                    for form in wanted:
                        shown(picture, form[0], held[form][frame])
            except ShardError:
                continue
            self._held[place] = held
            self.size += each * n_frames
