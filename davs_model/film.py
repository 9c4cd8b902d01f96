"""Videos of talking faces: from a photo and an audio or video file to a video with audio."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from avprep.errors import RunError
from avprep.media import film as media
from avprep.schema import FPS
from avprep.talking import inputs, photo
from avprep.talking.driver import Driver
from avprep.talking.person import Person
from avprep.talking.photo import Photo
from davs_model.data.pictures import tiled
from davs_model.evaluation import figures
from davs_model.generation import Talker
from davs_model.models.base import DRIVERS, EXPRESSION_FRAMES

Pictures = NDArray[np.uint8]
Counted = Callable[[Iterable[Pictures], int], Iterable[Pictures]]
"""Passes frames through, given their number, and may show the progress."""
AVERAGED = 8
"""Number of frames of a video of the person whose identity features are averaged with those of the photo."""
GAP = 8
"""White pixels around each image of a grid; a multiple of 2, because videos have even sides."""


@dataclass(frozen=True)
class Film:
    """A video that was written: its file, the number of its frames at 25 fps, and whether it has audio."""

    path: Path
    n_frames: int
    sound: bool

    @property
    def seconds(self) -> float:
        """Return its duration in seconds."""
        return self.n_frames / FPS


class PhotoTalker(Talker):
    """A model that makes photos talk: it reads photos and speech from files, and writes a video file."""

    def film(
        self,
        photos: Photo | Path | str | Sequence[Photo | Path | str],
        speech: Driver | Path | str,
        output: Path | str,
        *,
        drive_by: Literal["audio", "video"] = "audio",
        detector: str = "auto",
        aligned: bool = False,
        grid: bool | None = None,
        paste_back: bool = False,
        beside: Driver | Path | str | None = None,
        person: Person | Path | str | None = None,
        expression: Person | Path | str | None = None,
        emotion: str | None = None,
        max_seconds: float = inputs.MAX_SECONDS,
        **how: Any,
    ) -> Film:
        """Write a video, .mp4 at 25 fps, of a photo that talks.

        photos: files, whose largest face is detected and aligned, or photos that `avprep.talking` has read.
        speech: a file whose audio drives the face; or with `drive_by="video"` its talking face, if the model supports
            that, otherwise its audio again. It may also be a folder prepared from either, or what `avprep.talking` has
            read.
        detector: face detector; see `avprep crop --detector`. aligned: the photos are already crops.
        grid: show the talking faces side by side with their photos above; by default if there are several photos.
            False: they are of one person, and the model combines them; see `TalkingModel.encode_person`.
        paste_back: paste the talking face back into its photo. max_seconds: maximum duration of the speech.
        beside: a video whose aligned face is shown to the right of the talking one, as the ground truth; in sync with
            the speech if that is of the same file. person: a few seconds of video of the person, or what
            `avprep.talking` has read of it: more images to average, and the data for `adapt_steps`, drawn by `seed`.
        expression: a few seconds of video of any person, or a photo, whose expression the face takes on; emotion:
            instead, one of the model's emotions; see `Talker.expression`.
        how: `speech_scale`, `adapt_steps`, `seed`, `weights_plot` and `counted` of `write`.
        Raises AvprepError, one line, for a file that cannot be read or written.
        """
        many = [photos] if isinstance(photos, Photo | Path | str) else list(photos)
        grid = len(many) > 1 if grid is None else grid
        if drive_by not in DRIVERS:
            raise ValueError(f"drive_by must be one of {', '.join(DRIVERS)}, not {drive_by!r}")
        _check_choice(output, grid=grid, paste_back=paste_back, aligned=aligned, beside=beside, person=person)
        if emotion is not None:
            self.expression(emotion=emotion)  # refuse an unsupported emotion before anything is read
        read = [_read_photo(one, detector, aligned=aligned, paste_back=paste_back) for one in many]
        driver = self._read_driver(speech, self.driver(drive_by), detector, max_seconds)
        shown = self._read_person(expression, detector, inputs.read_expression)
        look = self.expression(None if shown is None else shown.spread(EXPRESSION_FRAMES), emotion)
        write(
            Path(output),
            self,
            read,
            driver,
            grid=grid,
            paste_back=paste_back,
            beside=None if beside is None else self._read_driver(beside, "video", detector, max_seconds),
            person=self._read_person(person, detector, inputs.read_person),
            expression=look,
            **how,
        )
        return Film(Path(output), driver.n_frames, driver.sound is not None)

    def _read_person(
        self, given: Person | Path | str | None, detector: str, read: Callable[..., Person]
    ) -> Person | None:
        if given is None or isinstance(given, Person):
            return given
        return read(Path(given), preset=self.mfcc_preset, detector=detector)

    def _read_driver(
        self, given: Driver | Path | str, by: Literal["audio", "video"], detector: str, max_seconds: float
    ) -> Driver:
        if isinstance(given, Driver):
            return given
        preset = self.mfcc_preset
        return inputs.read_driver(Path(given), by, preset=preset, detector=detector, max_seconds=max_seconds)


def _check_choice(
    output: Path | str, *, grid: bool, paste_back: bool, aligned: bool, beside: object, person: object
) -> None:
    """Raise ValueError for incompatible options, and for an output that is not .mp4."""
    if Path(output).suffix.lower() != ".mp4":  # other formats cannot record the encoder's delay of audio or video
        raise ValueError(f"output must end in .mp4, not '{output}'")
    if paste_back and (grid or aligned):
        raise ValueError("paste_back needs a photo that is not aligned yet, and no grid")
    if beside is not None and (paste_back or grid):
        raise ValueError("beside needs a photo that is not pasted back, and no grid")
    if person is not None and grid:
        raise ValueError("person is a video of one person, a grid of several")


def _read_photo(given: Photo | Path | str, detector: str, *, aligned: bool, paste_back: bool) -> Photo:
    if isinstance(given, Photo):
        return photo.fit_film(given) if paste_back else given
    found = inputs.read_photos(
        [Path(given)], detector=detector, aligned=aligned, paste_back=paste_back, choosable=False
    )
    return found[0]


def write(
    output: Path,
    talker: Talker,
    photos: Sequence[Photo],
    driver: Driver,
    *,
    grid: bool = False,
    paste_back: bool = False,
    beside: Driver | None = None,
    speech_scale: float = 1.0,
    person: Person | None = None,
    expression: Tensor | None = None,
    adapt_steps: int = 0,
    seed: int = 0,
    weights_plot: Path | str | None = None,
    counted: Counted | None = None,
) -> None:
    """Write a video of talking photos, side by side if `grid`; otherwise all are of one person.

    speech_scale, adapt_steps: see `Talker.talk`, `Talker.adapted`. expression: from `Talker.expression`. weights_plot:
    a .png to write, of the weight of each modality in each frame. See `PhotoTalker.film`.
    """
    if adapt_steps < 0:
        raise ValueError(f"adapt_steps must be at least 0, not {adapt_steps}")
    if not 0 < speech_scale < math.inf:
        raise ValueError(f"speech_scale must be a number above 0, not {speech_scale:g}")
    if not photos:
        raise ValueError("photos must hold one at least")
    weighed: list[NDArray[np.float32]] = []
    if weights_plot is not None and not talker.model.modalities:
        raise RunError(f"the model {talker.model.name} weighs no modalities: leave out --weights-plot")
    faces = np.stack([one.crop for one in photos])
    how: dict[str, Any] = {"speech_scale": speech_scale}
    if expression is not None:
        how["expression"] = expression
    if weights_plot is not None:
        how["weighed"] = weighed.append
    if not grid and (person is not None or len(faces) > 1):
        others = [faces[1:]] if person is None else [faces[1:], person.spread(AVERAGED)]
        faces, how["more"] = faces[:1], np.concatenate(others)
    if adapt_steps:
        of: dict[str, Any] = {} if person is None else {"video": person.crops, "heard": person.windows, "seed": seed}
        talker = talker.adapted(faces, driver.read(), adapt_steps, speech_scale=speech_scale, **of)
    frames: Iterable[Pictures]
    spoken = talker.talk(faces, driver.read(), **how)
    if grid:
        frames = grid_frames(faces, spoken, None if driver.kind == "audio" else _frames_of(driver))
    elif paste_back:
        frames = map(photo.PasteBack(photos[0]), (drawn[0] for drawn in spoken))
    elif beside is not None:
        frames = pairs((drawn[0] for drawn in spoken), _frames_from(beside, driver))
    else:
        frames = (drawn[0] for drawn in spoken)
    if counted is not None:
        frames = counted(frames, driver.n_frames)
    media.write_film(output, frames, driver.n_frames, sound=driver.sound, zero=driver.zero, track=driver.track)
    if weights_plot is not None:
        figures.weights(Path(weights_plot), np.concatenate(weighed), talker.model.modalities)


def pairs(left: Iterable[Pictures], right: Iterator[Pictures]) -> Iterator[Pictures]:
    """Yield frames (S, S, 3) in pairs with a white border; the last frame on the right is repeated when they end."""
    other: Pictures | None = None
    for frame in left:
        other = next(right, other)
        cells = np.stack([frame, np.full_like(frame, 255) if other is None else other])
        yield tiled(cells[None], GAP)


def grid_frames(faces: Pictures, spoken: Iterable[Pictures], driving: Iterator[Pictures] | None) -> Iterator[Pictures]:
    """Yield frames of a grid like Figure 4: the photos above, the talking faces below.

    faces: uint8 (K, S, S, 3); spoken: the same shape for each frame. driving: the frames (S, S, 3) of the driving face,
    if any, which is shown at the left.
    """
    for drawn in spoken:
        above, below = list(faces), list(drawn)
        if driving is not None:
            above.insert(0, np.full_like(faces[0], 255))
            below.insert(0, next(driving))
        yield tiled(np.stack([above, below]), GAP)


def _frames_from(shown: Driver, heard: Driver) -> Iterator[Pictures]:
    """Yield the aligned faces of a video; if its file is that of the audio, from the moment at which the audio begins.

    Before the video begins, its first face is repeated.
    """
    frames = _frames_of(shown)
    if shown.sound is None or shown.sound != heard.sound:
        return frames
    late = round((heard.zero - shown.zero) * FPS)
    if late >= 0:
        return itertools.islice(frames, late, None)
    first = next(frames)
    return itertools.chain([first] * (1 - late), frames)


def _frames_of(driver: Driver) -> Iterator[Pictures]:
    """Yield the aligned faces of a video, one at a time."""
    return itertools.chain.from_iterable(driver.read())
