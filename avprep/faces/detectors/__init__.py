"""Face detectors: one module each, whose name (with - for _) is its name on the command line."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from avprep.errors import AvprepError

if TYPE_CHECKING:  # the command line takes the names from here, and its help should not wait for numpy
    import numpy as np
    from numpy.typing import NDArray

NAMES = ("opencv", "yunet", "face-alignment")

_PACKAGES: dict[str, dict[str, str]] = {
    "opencv": {},
    "yunet": {"onnxruntime": "onnxruntime"},
    "face-alignment": {"torch": "torch", "face_alignment": "face-alignment"},
}
"""What each detector imports when it is built, and what pip calls it."""

LEFT_EYE, RIGHT_EYE, NOSE, LEFT_MOUTH, RIGHT_MOUTH = range(5)
"""Order of the five points; left is the image's left."""
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
    """How a detector looks at a face that it has found: upright, at one size.

    size: width and height in pixels. zoom: pixels of the close-up per crop pixel.
    rise: pixels by which the crop's middle lies above the close-up's.
    tells: share of a head's tilt that a look tells; the next one is turned by so much more.
    sure: least score of a face that is surely upright; others are looked at the other ways up too.
    better: a face is taken to be turned if its score is more than so many times that of the upright one.
    """

    size: tuple[int, int]
    zoom: float
    rise: float
    tells: float = 1.0
    sure: float = 0.0
    better: float = 1.0


class Detector(Protocol):
    """Finds faces. Built once per worker; heavy imports happen when it is built.

    picture_side: frames whose longer side exceeds it should be downscaled to it before detection (pixels).
    search_sides: the same and larger ones, in which to search where that shows nothing.
    batch_size: frames that are worth handing over at once.
    close_up: how faces are best looked at again; None: only in whole pictures.
    """

    picture_side: int
    search_sides: tuple[int, ...]
    batch_size: int
    close_up: CloseUp | None

    def detect(self, frames: NDArray[np.uint8]) -> list[list[Face]]:
        """Find the faces of each frame.

        frames: uint8 (T, H, W, 3), RGB.
        Returns T lists, best score first, in pixels of these frames.
        """
        ...

    def detect_close(self, frames: NDArray[np.uint8]) -> list[list[Face]]:
        """Do the same in close-ups: the face is where they expect it, or about there."""
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


def build(name: str, **options: Any) -> Detector:
    """Build a detector by its command line name; WeightsError where its weights are missing."""
    if name == "opencv":
        from avprep.faces.detectors.opencv import OpenCVDetector

        return OpenCVDetector(**options)
    if name == "yunet":
        from avprep.faces.detectors.yunet import YuNetDetector

        return YuNetDetector(**options)
    if name == "face-alignment":
        from avprep.faces.detectors.face_alignment import FaceAlignmentDetector

        return FaceAlignmentDetector(**options)
    raise AvprepError(f"no detector is called {name}: choose from {', '.join(NAMES)}")


def require(name: str) -> None:
    """Prove, without building it, that a detector can be built here: its packages are installed, its weights verified.

    AvprepError, one line that says what to do, where it cannot.
    """
    if name not in NAMES:
        raise AvprepError(f"no detector is called {name}: choose from {', '.join(NAMES)}")
    from avprep.faces import weights

    for module, package in _PACKAGES[name].items():
        if importlib.util.find_spec(module) is None:
            raise AvprepError(f"the detector {name} needs {package}, which is not installed: pip install {package}")
    weights.require(name)


def identity(name: str) -> dict[str, str]:
    """Return what decides a detector's output besides its settings: package versions and weight digests."""
    if name not in NAMES:
        raise AvprepError(f"no detector is called {name}: choose from {', '.join(NAMES)}")
    from importlib import metadata

    import cv2

    from avprep.faces import weights

    versions = {"opencv": cv2.__version__}
    if name == "yunet":
        versions["onnxruntime"] = metadata.version("onnxruntime")
    if name == "face-alignment":
        versions |= {package: metadata.version(package) for package in ("torch", "face-alignment")}
        versions["device"] = "cuda" if _has_cuda() else "cpu"  # half precision there, other rounding
    # A detector reads no file whose digest differs from the pinned one, so the pinned one says what it read.
    return versions | {needed.name: needed.sha256 for needed in weights.needed(name)}


def resolve(name: str) -> str:
    """Return the detector that `auto` means on this machine; any other name is returned as it is."""
    if name != "auto":
        return name
    from avprep.faces import weights

    if weights.available("face-alignment") and _has_cuda():
        return "face-alignment"
    return "yunet" if weights.available("yunet") else "opencv"


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
