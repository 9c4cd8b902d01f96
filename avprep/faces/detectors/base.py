"""What a detector is, and what it finds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:  # the command line takes the names from here, and its help should not wait for numpy
    import numpy as np
    from numpy.typing import NDArray


LEFT_EYE, RIGHT_EYE, NOSE, LEFT_MOUTH, RIGHT_MOUTH = range(5)
"""Order of the five points; left is the image's left."""

MIRRORED = (RIGHT_EYE, LEFT_EYE, NOSE, RIGHT_MOUTH, LEFT_MOUTH)
"""Which of the five points of a mirrored picture is each point of the picture itself; for every detector."""

Way = Literal["both", "lighter left", "darker left"]
"""Which way round a picture is shown: as it is and mirrored, for the mean of both; or only so that its left half is the
lighter one, or the darker. A picture and its mirror image are then shown alike, at half the cost."""

OFF = 4.0
"""How far a first look may be from where it was expected (crop pixels), unless a close-up says otherwise."""

_SEEN = [LEFT_EYE, RIGHT_EYE, LEFT_MOUTH, RIGHT_MOUTH]


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One face in one frame.

    box: float32 (4,), x0 y0 x1 y1 in pixels of the frame it was found in.
    score: the detector's own confidence, comparable only within one detector.
    points: float32 (5, 2), x y in the order above; NaN where the detector has none.
    """

    box: NDArray[np.float32]
    score: float
    points: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class CloseUp:
    """How a detector is shown a face that it has found: upright, at one size.

    size: width and height in pixels. zoom: pixels of the close-up per crop pixel.
    rise: pixels by which the crop's middle lies above the close-up's.
    tilt_shown: fraction of a head's tilt that the detector's points show.
    sure: minimum score of a face that is surely upright; others are detected the other ways up too.
    better: a face is taken to be turned if its score is more than so many times that of the upright one.
    way: see `Way`; where one way round shows no face, the other one is shown.
    off: a first look further than so many crop pixels from where this one expects it is taken again from there.
    """

    size: tuple[int, int]
    zoom: float
    rise: float
    tilt_shown: float = 1.0
    sure: float = 0.0
    better: float = 1.0
    way: Way = "both"
    off: float = OFF


@dataclass(frozen=True, slots=True)
class Bias:
    """Where a detector places the points of a face that is aligned as the paper's crops are, on average.

    scale: the triangle of eyes and mouth centre is so many times as large as `avprep.faces.align.TEMPLATE`.
    down: its centre lies so many crop pixels below the template's.
    There is nothing to the right and no turn: a mirrored picture would have the opposite, and its crops would differ.
    """

    scale: float = 1.0
    down: float = 0.0

    def corrected(self, points: NDArray[Any]) -> NDArray[Any]:
        """Return five points (5, 2) without it; all in crop pixels, of a face that is about aligned."""
        eyes, mouth = points[[LEFT_EYE, RIGHT_EYE]], points[[LEFT_MOUTH, RIGHT_MOUTH]]
        centre = (eyes.sum(axis=0) + mouth.mean(axis=0)) / 3
        corrected: NDArray[Any] = (points - centre) / self.scale + centre - (0, self.down)
        return corrected


class Detector(Protocol):
    """Finds faces. Built once per worker; heavy imports happen when it is built.

    picture_side: frames whose longer side exceeds it should be downscaled to it before detection (pixels).
    search_sides: the same and larger ones, in which to search where that shows nothing.
    batch_size: frames that are worth handing over at once.
    close_up: how faces are best detected again; None: only in whole pictures.
    looks: close-ups of several sizes, which take turns; their average is where the face is. May be left out.
    bias: what is constant in the error of its points. May be left out.
    """

    picture_side: int
    search_sides: tuple[int, ...]
    batch_size: int
    close_up: CloseUp | None
    bias: Bias

    def detect(self, frames: NDArray[np.uint8]) -> list[list[Face]]:
        """Find the faces of each frame.

        frames: uint8 (T, H, W, 3), RGB.
        Returns T lists, best score first, in pixels of these frames.
        """
        ...

    def detect_close(self, frames: NDArray[np.uint8]) -> list[list[Face]]:
        """Do the same in close-ups: the face is where they expect it, or about there."""
        ...


@runtime_checkable
class LandmarkDetector(Detector, Protocol):
    """A detector that places the 68 landmarks of 300-W on each face; see `avprep.faces.landmarks`."""

    def landmarks(self, crops: NDArray[np.uint8]) -> list[list[NDArray[np.float32]]]:
        """Find the landmarks of each face in each aligned crop.

        crops: uint8 (N, 256, 256, 3), RGB.
        Returns N lists of float32 (68, 2), x y in pixels of the crop.
        """
        ...


def finite(faces: list[Face]) -> list[Face]:
    """Return the faces whose box, score and points are numbers; whatever detects, nothing else may pass.

    A nose that the detector has not is NaN.
    """
    return [
        face
        for face in faces
        if all(map(math.isfinite, [*face.box.tolist(), face.score, *face.points[_SEEN].ravel().tolist()]))
        and not any(map(math.isinf, face.points[NOSE].tolist()))
    ]
