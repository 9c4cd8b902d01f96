"""The interface of a detector, and the faces that it returns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:  # the command line imports this module, and its help should not wait for numpy
    import numpy as np
    from numpy.typing import NDArray


LEFT_EYE, RIGHT_EYE, NOSE, LEFT_MOUTH, RIGHT_MOUTH = range(5)
"""Order of the five points; left is the image's left."""

MIRRORED = (RIGHT_EYE, LEFT_EYE, NOSE, RIGHT_MOUTH, LEFT_MOUTH)
"""For each of the five points of a picture, the index of the same point in the mirrored picture; for all detectors."""

Way = Literal["both", "lighter left", "darker left"]
"""Which way round a detector gets a picture. `both`: unchanged and mirrored, for the mean of both. Otherwise only one
way, with the lighter or the darker half on the left. A picture and its mirror image then give the same input, at half
the cost."""

OFF = 4.0
"""Maximum distance of a first detection from the expected position (crop pixels), unless a close-up sets its own."""

_SEEN = [LEFT_EYE, RIGHT_EYE, LEFT_MOUTH, RIGHT_MOUTH]


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One face in one frame.

    box: float32 (4,), x0 y0 x1 y1 in pixels of the frame in which it was found.
    score: the detector's own confidence, comparable only within one detector.
    points: float32 (5, 2), x y in the order above; NaN if the detector does not provide a point.
    """

    box: NDArray[np.float32]
    score: float
    points: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class CloseUp:
    """A close-up: how a detector gets a face that it has found, upright and at one size.

    size: width and height in pixels. zoom: pixels of the close-up per crop pixel.
    rise: pixels by which the centre of the crop lies above that of the close-up.
    tilt_shown: fraction of a head's tilt that the detector's points show.
    sure: minimum score of a face that is surely upright; others are also detected in the other orientations.
    better: a face is taken to be rotated if its score is more than this many times that of the upright one.
    way: see `Way`; if one way round shows no face, the other is tried.
    off: a first detection further than this from its expected position (crop pixels) is repeated from there.
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
    """The mean placement error of a detector's points, on faces aligned like the paper's crops.

    scale: size of the triangle of eyes and mouth centre relative to `avprep.faces.align.TEMPLATE`.
    down: crop pixels by which its centre lies below the template's.
    There is no horizontal shift or rotation: a mirrored picture would have the opposite, and its crops would differ.
    """

    scale: float = 1.0
    down: float = 0.0

    def corrected(self, points: NDArray[Any]) -> NDArray[Any]:
        """Return five points (5, 2) without this bias; in crop pixels, of a face that is approximately aligned."""
        eyes, mouth = points[[LEFT_EYE, RIGHT_EYE]], points[[LEFT_MOUTH, RIGHT_MOUTH]]
        centre = (eyes.sum(axis=0) + mouth.mean(axis=0)) / 3
        corrected: NDArray[Any] = (points - centre) / self.scale + centre - (0, self.down)
        return corrected


class Detector(Protocol):
    """Finds faces. Built once per worker; heavy imports happen when it is built.

    picture_side: frames whose longer side exceeds it should be downscaled to it before detection (pixels).
    search_sides: the same and larger sides, to be tried in turn while no face is found.
    batch_size: number of frames to pass at once.
    close_up: the close-up in which faces are detected again; None: only in whole pictures.
    looks: alternating close-ups of several sizes, whose results are averaged. May be left out.
    bias: the constant error of its points. May be left out.
    """

    picture_side: int
    search_sides: tuple[int, ...]
    batch_size: int
    close_up: CloseUp | None
    bias: Bias

    def detect(self, frames: NDArray[np.uint8]) -> list[list[Face]]:
        """Find the faces of each frame.

        frames: uint8 (T, H, W, 3), RGB.
        Returns T lists of faces, best score first, in pixels of these frames.
        """
        ...

    def detect_close(self, frames: NDArray[np.uint8]) -> list[list[Face]]:
        """Do the same in close-ups: the face is approximately at its expected position."""
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
    """Return the faces whose box, score and points are finite; no detector's other faces may pass.

    The nose may be NaN: some detectors do not provide it.
    """
    return [
        face
        for face in faces
        if all(map(math.isfinite, [*face.box.tolist(), face.score, *face.points[_SEEN].ravel().tolist()]))
        and not any(map(math.isinf, face.points[NOSE].tolist()))
    ]
