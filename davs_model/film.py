"""Videos of talking faces: from a photo and an audio or video file to a video with audio."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from avprep.bounds import as_path, check_choice, check_flag, check_number, check_whole
from avprep.errors import RunError, SettingsError, short
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
HOW = ("speech_scale", "adapt_steps", "seed", "weights_plot", "counted")
"""Arguments that `PhotoTalker.film` passes on to `write`."""
MOST_SEED = 2**63 - 1
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
        Raises AvprepError, one line, for a file that cannot be read or written; SettingsError for invalid arguments.
        """
        many = _listed(photos)
        grid = len(many) > 1 if grid is None else grid
        path = _checked_output(output, grid=grid, paste_back=paste_back, aligned=aligned, beside=beside, person=person)
        _check_inputs(speech=speech, beside=beside, person=person, expression=expression)
        _check_values(drive_by, max_seconds, how)
        if emotion is not None:
            self.expression(emotion=emotion)  # refuse an unsupported emotion before anything is read
        read = [_read_photo(one, detector, aligned=aligned, paste_back=paste_back) for one in many]
        driver = self._read_driver(speech, self.driver(drive_by), detector, max_seconds)
        shown = self._read_person(expression, detector, inputs.read_expression)
        look = self.expression(None if shown is None else shown.spread(EXPRESSION_FRAMES), emotion)
        write(
            path,
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
        return Film(path, driver.n_frames, driver.sound is not None)

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


def _listed(photos: Any) -> list[Any]:
    """Return the photos as a list; SettingsError if there is none, or one is neither a photo nor a path."""
    one = isinstance(photos, Photo | str | bytes | os.PathLike) or not isinstance(photos, Iterable)
    many = [photos] if one else list(photos)
    if not many:
        raise SettingsError("photos must hold one at least")
    return [given if isinstance(given, Photo) else as_path("photos", given) for given in many]


def _checked_output(
    output: Path | str, *, grid: bool, paste_back: bool, aligned: bool, beside: object, person: object
) -> Path:
    """Return the path of the output; SettingsError if it is not .mp4, or for options that are not compatible."""
    path = as_path("output", output)
    for name, flag in (("grid", grid), ("paste_back", paste_back), ("aligned", aligned)):
        check_flag(name, flag)
    if path.suffix.lower() != ".mp4":  # other formats cannot record the encoder's delay of audio or video
        raise SettingsError(f"output must end in .mp4, not {short(str(output))}")
    if paste_back and (grid or aligned):
        raise SettingsError("paste_back needs a photo that is not aligned yet, and no grid")
    if beside is not None and (paste_back or grid):
        raise SettingsError("beside needs a photo that is not pasted back, and no grid")
    if person is not None and grid:
        raise SettingsError("person is a video of one person, a grid of several")
    return path


def _check_inputs(**given: object) -> None:
    """Raise SettingsError unless each of the given is a path or was read already; all but the speech may be None."""
    for name, value in given.items():
        kind = Driver if name in ("speech", "beside") else Person
        if not isinstance(value, kind) and (value is not None or name == "speech"):
            as_path(name, value)


def _check_values(drive_by: object, max_seconds: object, how: dict[str, Any]) -> None:
    """Raise SettingsError for an invalid value; how: what is passed on to `write`."""
    check_choice("drive_by", drive_by, DRIVERS)
    if max_seconds != math.inf:
        check_number("max_seconds", max_seconds, 0, above=True)
    if unknown := [name for name in how if name not in HOW]:
        raise SettingsError(f"{unknown[0]} is not an option: a video takes {', '.join(HOW)}")
    check_number("speech_scale", how.get("speech_scale", 1.0), 0, above=True)
    check_whole("adapt_steps", how.get("adapt_steps", 0), 0)
    check_whole("seed", how.get("seed", 0), 0, MOST_SEED)
    if (plot := how.get("weights_plot")) is not None:
        as_path("weights_plot", plot)
    if (counted := how.get("counted")) is not None and not callable(counted):
        raise SettingsError(f"counted must be a function, not {short(counted)}")


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
