"""Films of talking faces: avprep makes arrays, davs_model turns arrays into arrays, avprep writes the film."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from avprep.talking.driver import Driver
    from avprep.talking.photo import Photo
    from davs_model.generation import Talker

Pictures = NDArray[np.uint8]
GAP = 8
"""White pixels around each picture of a grid; a multiple of 2, for films have even sides."""


def write(
    output: Path,
    talker: Talker,
    photos: Sequence[Photo],
    driver: Driver,
    *,
    grid: bool = False,
    paste: bool = False,
    speech_scale: float = 1.0,
    adapt_steps: int = 0,
    quiet: bool = False,
) -> None:
    """Write a film of photos that speak; of a single one unless `grid`, which puts them side by side.

    paste: the talking face is put back into its photo. adapt_steps: see `Talker.adapted`.
    quiet: without progress.
    """
    from avprep.media import film
    from avprep.runs.progress import counted
    from avprep.talking import photo

    faces = np.stack([one.crop for one in photos])
    if adapt_steps:
        first = next(driver.read())
        talker = talker.adapted(faces, first, adapt_steps, speech_scale=speech_scale)
    frames: Iterable[Pictures]
    spoken = talker.talk(faces, driver.read(), speech_scale=speech_scale)
    if grid:
        frames = grid_frames(faces, spoken, _seen(driver))
    elif paste:
        frames = map(photo.PasteBack(photos[0]), (drawn[0] for drawn in spoken))
    else:
        frames = (drawn[0] for drawn in spoken)
    shown = counted(frames, f"generate {output.name}", driver.n_frames, "frame", quiet=quiet)
    film.write_film(output, shown, driver.n_frames, sound=driver.sound, zero=driver.zero, track=driver.track)


def grid_frames(faces: Pictures, spoken: Iterable[Pictures], driving: Iterator[Pictures] | None) -> Iterator[Pictures]:
    """Yield frames of a grid in the manner of Figure 4: the photos above, what they say below.

    faces: uint8 (K, S, S, 3); spoken: the same, a frame at a time. driving: the frames (S, S, 3) of whom they follow,
    which stand at the left, if there are any.
    """
    side = faces.shape[1]
    for drawn in spoken:
        above, below = list(faces), list(drawn)
        if driving is not None:
            above.insert(0, np.full_like(faces[0], 255))
            below.insert(0, next(driving))
        cells = np.stack([above, below])
        framed = np.pad(cells, ((0, 0), (0, 0), (GAP, GAP), (GAP, GAP), (0, 0)), constant_values=255)
        yield framed.transpose(0, 2, 1, 3, 4).reshape(2 * (side + 2 * GAP), -1, 3)


def _seen(driver: Driver) -> Iterator[Pictures] | None:
    """Return the driver's frames, one at a time; None where it is a sound."""
    if driver.kind == "audio":
        return None
    parts: Iterator[NDArray[Any]] = driver.read()
    return (frame for part in parts for frame in part)
