"""The clips that an expressive model regenerates, with its inputs for each; all of unseen people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avprep.errors import ShardError
from davs_model.data.clips import Clips
from davs_model.data.pictures import WHOLE, shown
from davs_model.data.sampling import spread
from davs_model.evaluation.progress import Progress
from davs_model.models.base import EXPRESSION_FRAMES

VIEWS = 4
"""Number of views of a person that a model gets."""


@dataclass(frozen=True)
class Target:
    """A clip to regenerate.

    row: its number in the table; speaker, emotion: its labels. views: clip and frame of each view of the speaker, from
    their other clips. donor: a clip of another speaker who shows the same emotion.
    """

    row: int
    speaker: int
    emotion: int
    views: tuple[tuple[int, int], ...]
    donor: int


def targets(clips: Clips, limit: int, *, seed: int = 0, views: int = VIEWS) -> list[Target]:
    """Sample at most `limit` targets, in turn from each speaker and, as far as there are clips, from each emotion.

    Clips without emotion or speaker are left out, as are those whose speaker has no other clip or whose emotion no
    other speaker shows. Empty if no clip is left.
    """
    rng = np.random.default_rng([seed, 20])
    found = []
    for row in _dealt(clips, rng):
        speaker, emotion = int(clips.speakers[row]), int(clips.emotions[row])
        others = np.flatnonzero((clips.speakers == speaker) & (np.arange(len(clips)) != row))
        donors = others_showing(clips, emotion, speaker)
        donors = donors[clips.speakers[donors] >= 0]
        if len(others) and len(donors):
            seen = [int(other) for other in np.resize(rng.permutation(others), views)]
            places = tuple((other, int(rng.integers(clips.n_frames[other]))) for other in seen)
            found.append(Target(row, speaker, emotion, places, int(rng.choice(donors))))
        if len(found) == limit:
            break
    return found


def each(
    chosen: Sequence[Target],
    progress: Progress,
    do: Callable[[Target], None],
    wanted: int | None = None,
) -> list[Target]:
    """Call `do` with targets; return those whose clips can be read. ShardError if there are none.

    progress: see `Progress`. wanted: number of targets, None for all; unreadable ones are replaced by the next.
    """
    read: list[Target] = []
    broken = None
    for target in chosen:
        if len(read) == wanted:
            break
        try:
            do(target)
            read.append(target)
        except ShardError as error:
            broken = error
        progress(len(read))
    if broken is not None and not read:
        raise broken
    return read


def _dealt(clips: Clips, rng: np.random.Generator) -> list[int]:
    """Return the labelled rows, shuffled, in turn from each speaker, and for each speaker from each emotion."""
    rows = rng.permutation(np.flatnonzero((clips.emotions >= 0) & (clips.speakers >= 0)))
    turn: dict[tuple[int, int], int] = {}
    of_speaker: dict[int, dict[int, int]] = {}
    keyed = []
    for row in rows:
        pair = int(clips.speakers[row]), int(clips.emotions[row])
        order = of_speaker.setdefault(pair[0], {})
        turn[pair] = turn.get(pair, -1) + 1
        keyed.append((turn[pair], order.setdefault(pair[1], len(order)), int(row)))
    return [row for *_, row in sorted(keyed, key=lambda one: one[:2])]


def frames_of(clips: Clips, row: int, frames: list[int], side: int, device: torch.device | str = "cpu") -> Tensor:
    """Return frames of a clip, float `[T, 3, S, S]` in [0, 1], RGB; ShardError for a damaged clip."""
    pictures = np.empty((len(frames), side, side, 3), np.uint8)
    first = int(clips.first[row])
    for place, crop in zip(pictures, clips.pictures(row, [first + frame for frame in frames]), strict=True):
        shown(crop, WHOLE, place)
    return torch.from_numpy(pictures).to(device).movedim(-1, 1).float() / 255


def expression_of(clips: Clips, row: int, side: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the frames from which a clip's expression is encoded, as `frames_of` does; ShardError."""
    return frames_of(clips, row, evenly(int(clips.n_frames[row])), side, device)


def others_showing(clips: Clips, emotion: int, speaker: int) -> NDArray[np.int64]:
    """Return the rows of clips with this emotion by other speakers."""
    return np.flatnonzero((clips.emotions == emotion) & (clips.speakers != speaker))


def evenly(n_frames: int) -> list[int]:
    """Return the numbers of the frames from which a clip's expression is encoded."""
    return spread(n_frames, EXPRESSION_FRAMES)
