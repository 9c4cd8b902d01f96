"""Videos of talking faces: a photo and an audio or video file in, a video with its sound out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avprep.errors import RunError
from avprep.media import film as media
from avprep.schema import FPS
from avprep.talking import inputs, photo
from avprep.talking.driver import Driver
from avprep.talking.person import Person
from avprep.talking.photo import Photo
from davs_model.evaluation import figures
from davs_model.generation import Talker
from davs_model.models.base import DRIVERS, EXPRESSION_FRAMES

Pictures = NDArray[np.uint8]
Counted = Callable[[Iterable[Pictures], int], Iterable[Pictures]]
"""Passes frames on, whose number it is told, and may show how far they are."""
AVERAGED = 8
"""Frames of a video of the person whose identity features are averaged with the photo's."""
GAP = 8
"""White pixels around each picture of a grid; a multiple of 2, for videos have even sides."""


@dataclass(frozen=True)
class Film:
    """A video that was written: its file, the number of its frames at 25 fps, and whether it has sound."""

    path: Path
    n_frames: int
    sound: bool

    @property
    def seconds(self) -> float:
        """Return its length."""
        return self.n_frames / FPS


class PhotoTalker(Talker):
    """A model that makes photos talk: photos and speech from files, a video into a file."""

    @classmethod
    def load(cls, run: Path | str, *, device: torch.device | str | None = None, bf16: bool = False) -> PhotoTalker:
        """Load the model of a run, or a checkpoint; see `Talker.load`."""
        talker = super().load(run, device=device, bf16=bf16)
        assert isinstance(talker, cls)
        return talker

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
        """Write a video, .mp4 at 25 fps, of a photo that speaks.

        photos: files, whose largest face is found and aligned, or what `avprep.talking` read of them.
        speech: a file whose sound drives the face, or, by `video`, whose talking face does, if that drives the model,
            else its sound again; or a folder prepared from either; or what `avprep.talking` read.
        detector: finds faces; see `avprep crop --detector`. aligned: the photos are crops already.
        grid: show the talking faces side by side and their photos above; by default where there are several. False:
            they are of one person, which the model puts together; see `TalkingModel.encode_person`.
        paste_back: put the talking face back into its photo. max_seconds: longest speech that is taken.
        beside: a video whose aligned face is shown to the right of the talking one: what it ought to look like.
        person: a few seconds of video of the person, or what `avprep.talking` read of it: more pictures to average, and
            what `adapt_steps` learn from, by the random numbers of `seed`.
        expression: a few seconds of video of anybody, or a photo, whose expression the face takes on; emotion: or an
            emotion that the model knows; see `Talker.expression`.
        how: `speech_scale`, `adapt_steps`, `seed`, `weights_plot` and `counted` of `write`.

        Raises AvprepError, one line, for what cannot be read or written.
        """
        many = [photos] if isinstance(photos, Photo | Path | str) else list(photos)
        grid = len(many) > 1 if grid is None else grid
        if drive_by not in DRIVERS:
            raise ValueError(f"drive_by must be one of {', '.join(DRIVERS)}, not {drive_by!r}")
        _check_choice(output, grid=grid, paste_back=paste_back, aligned=aligned, beside=beside, person=person)
        if emotion is not None:
            self.expression(emotion=emotion)  # one that cannot be shown is refused before anything is read
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
    """Raise ValueError for options that do not go together, and for an output that is no mp4."""
    if Path(output).suffix.lower() != ".mp4":  # others cannot say how far an encoder delays audio or video
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
    return inputs.read_photos([Path(given)], detector=detector, aligned=aligned, paste_back=paste_back)[0]


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
    """Write a video of photos that speak, side by side if `grid`; else all are of one person.

    speech_scale, adapt_steps: see `Talker.talk`, `Talker.adapted`. expression: of `Talker.expression`. weights_plot: a
    picture to write, .png, of how much each modality counts in each frame. See `PhotoTalker.film`.
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
        frames = grid_frames(faces, spoken, _driving_frames(driver))
    elif paste_back:
        frames = map(photo.PasteBack(photos[0]), (drawn[0] for drawn in spoken))
    elif beside is not None:
        frames = pairs((drawn[0] for drawn in spoken), _frames_of(beside))
    else:
        frames = (drawn[0] for drawn in spoken)
    if counted is not None:
        frames = counted(frames, driver.n_frames)
    media.write_film(output, frames, driver.n_frames, sound=driver.sound, zero=driver.zero, track=driver.track)
    if weights_plot is not None:
        figures.weights(Path(weights_plot), np.concatenate(weighed), talker.model.modalities)


def pairs(left: Iterable[Pictures], right: Iterator[Pictures]) -> Iterator[Pictures]:
    """Yield frames (S, S, 3) in pairs with white around each; the last one on the right stays when there is no more."""
    other: Pictures | None = None
    for frame in left:
        other = next(right, other)
        cells = np.stack([frame, np.full_like(frame, 255) if other is None else other])
        framed = np.pad(cells, ((0, 0), (GAP, GAP), (GAP, GAP), (0, 0)), constant_values=255)
        yield framed.transpose(1, 0, 2, 3).reshape(framed.shape[1], -1, 3)


def grid_frames(faces: Pictures, spoken: Iterable[Pictures], driving: Iterator[Pictures] | None) -> Iterator[Pictures]:
    """Yield frames of a grid in the manner of Figure 4: the photos above, the talking faces below.

    faces: uint8 (K, S, S, 3); spoken: the same, a frame at a time. driving: the frames (S, S, 3) of the face that they
    follow, which stand at the left, if there are any.
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


def _driving_frames(driver: Driver) -> Iterator[Pictures] | None:
    """Return the driver's frames, one at a time; None where it is a sound."""
    if driver.kind == "audio":
        return None
    return _frames_of(driver)


def _frames_of(driver: Driver) -> Iterator[Pictures]:
    """Return the aligned faces of a video, one at a time."""
    parts: Iterator[NDArray[Any]] = driver.read()
    return (frame for part in parts for frame in part)
