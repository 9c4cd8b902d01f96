"""Other clips from which frames are read in addition to a clip's own: of its speaker, or of its emotion."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from davs_model.data.clips import Clips
from davs_model.data.reads import Of

OWN = 0.5
"""Probability that `emotion` draws the clip itself."""


class Partners:
    """The partners of each clip of a table."""

    def __init__(self, clips: Clips) -> None:
        self.clips = clips
        self._of_speaker = {int(clips.speakers[rows[0]]): rows for rows in rows_of_each(clips.speakers)}
        self._of_emotion = {int(clips.emotions[rows[0]]): rows for rows in rows_of_each(clips.emotions)}

    def draw(self, of: Of, row: int, rng: np.random.Generator | None) -> int:
        """Return a random partner of a clip; the clip itself if there is no other, or if `rng` is None."""
        if of == "clip" or rng is None:
            return row
        found = self._others(of, row, rng)
        return int(rng.choice(found)) if len(found) else row

    def _others(self, of: Of, row: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the rows to choose from."""
        speakers = self.clips.speakers
        speaker, emotion = int(speakers[row]), int(self.clips.emotions[row])
        nobody = np.zeros(0, np.int64)
        if of == "emotion":
            if rng.random() < OWN or emotion < 0:
                return nobody
            rows = self._of_emotion[emotion]
            return rows[(speakers[rows] != speaker) & (rows != row)]
        if of == "labelled" and emotion < 0:
            return nobody
        rows = self._of_speaker[speaker] if speaker >= 0 else nobody
        if of == "speaker":
            return rows
        clips = self.clips  # which may hold a clip several times
        return rows[(clips.shard[rows] != clips.shard[row]) | (clips.places[rows, 0, 0] != clips.places[row, 0, 0])]


def rows_of_each(numbers: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the rows that have each number, in order."""
    order = np.argsort(numbers, kind="stable").astype(np.int64)
    return np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1) if len(order) else []
