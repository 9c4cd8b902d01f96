"""Face detectors: one module each, whose name (with - for _) is its name on the command line."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from avprep.errors import AvprepError

if TYPE_CHECKING:  # the command line takes the names from here
    from avprep.faces.detectors.base import Detector

NAMES = ("opencv", "yunet", "face-alignment")


_PACKAGES: dict[str, dict[str, str]] = {
    "opencv": {},
    "yunet": {"onnxruntime": "onnxruntime"},
    "face-alignment": {"torch": "torch", "face_alignment": "face-alignment"},
}
"""What each detector imports when it is built, and what pip calls it."""


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
