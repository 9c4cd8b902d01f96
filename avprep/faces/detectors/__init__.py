"""Face detectors: one module each, whose name (with - for _) is the detector's name on the command line.

A detector's module has `build(**options)`, which returns a `base.Detector`, and may have

- `PACKAGES`: the distributions, by their pip names, that it imports when it is built and whose versions decide its
  output, each with the name of its import package,
- `EXTRA`: the extra of avprep that installs them,
- `NOTICE`: one line for the user, shown before the detector runs,
- `WEIGHTS`: the files of weights that it reads, as `avprep.faces.weights.WeightsFile`,
- `identity()`: anything else that decides its output, by name.

Importing such a module imports none of its `PACKAGES`. To add a detector, add a file here; nothing else changes.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from avprep.errors import AvprepError, SettingsError, missing_package

if TYPE_CHECKING:  # the command line imports this module for the names alone
    from avprep.faces.detectors.base import Detector


_FILES = (found.name for found in pkgutil.iter_modules(__path__))
NAMES = tuple(sorted(name.replace("_", "-") for name in _FILES if name != "base"))


def module(name: str) -> ModuleType:
    """Return the module of a detector; SettingsError for an unknown name."""
    if name not in NAMES:
        raise SettingsError(f"no detector is called {name}: choose from {', '.join(NAMES)}")
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")


def build(name: str, **options: Any) -> Detector:
    """Build a detector by its command line name.

    Raises WeightsError if its weights are missing, AvprepError if its packages are.
    """
    found = module(name)
    _require_packages(name, found)
    detector: Detector = found.build(**options)
    return detector


def require(name: str) -> None:
    """Check, without building it, that a detector can be built here: its packages are installed, its weights verified.

    Raises AvprepError, one line that states the remedy, if it cannot.
    """
    from avprep.faces import weights

    _require_packages(name, module(name))
    weights.require(name)


def identity(name: str) -> dict[str, str]:
    """Return what, besides its settings, decides a detector's output: package versions and weight digests.

    Raises AvprepError if its packages are missing, since they have no versions then.
    """
    from avprep.faces import weights

    found = module(name)
    _require_packages(name, found)
    versions = {"opencv": _opencv()}
    versions |= {package: _version(package, imported) for package, imported in _packages(found).items()}
    versions |= found.identity() if hasattr(found, "identity") else {}
    # A detector reads no file whose digest differs from the pinned one, so the pinned one identifies the file.
    return versions | {needed.name: needed.sha256 for needed in weights.needed(name)}


def notice(name: str) -> str | None:
    """Return the notice to show to the user before a detector runs, if it has one."""
    return getattr(module(name), "NOTICE", None)


def resolve(name: str) -> str:
    """Return the detector that `auto` stands for on this machine; any other name is returned unchanged.

    `auto` is face-alignment if its weights, its packages and CUDA are available, else yunet if its weights are, else
    opencv.
    """
    if name != "auto":
        return name
    from avprep.faces import weights

    if weights.available("face-alignment") and not _missing(module("face-alignment")) and _has_cuda():
        return "face-alignment"
    return "yunet" if weights.available("yunet") else "opencv"


def _packages(found: ModuleType) -> dict[str, str]:
    """Return the distributions that a detector needs, and the import package of each."""
    return dict(getattr(found, "PACKAGES", {}))


def _version(package: str, imported: str) -> str:
    """Return a distribution's version, or that of the import package itself if another distribution installed it."""
    from importlib import metadata  # imported here: it takes a third as long as numpy, and help needs neither

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return str(getattr(importlib.import_module(imported), "__version__", "unknown"))


def _opencv() -> str:
    """Return `cv2.__version__`, from a file of the wheel if there is one: loading OpenCV takes longer than everything
    else at the start of a run."""
    spec = importlib.util.find_spec("cv2")
    path = Path(spec.origin).with_name("version.py") if spec is not None and spec.origin else Path()
    if "cv2" not in sys.modules and path.is_file():
        stated = re.search(r'^opencv_version = "(\d+\.\d+\.\d+)\.\d+"$', path.read_text(), re.MULTILINE)
        if stated and "rolling = False" in path.read_text():
            return stated[1]
    import cv2

    return cv2.__version__


def _missing(found: ModuleType) -> list[str]:
    """Return the distributions that a detector needs but that are not installed."""
    return [package for package, name in _packages(found).items() if importlib.util.find_spec(name) is None]


def _require_packages(name: str, found: ModuleType) -> None:
    for package in _missing(found):
        raise AvprepError(missing_package(f"the detector {name}", package, getattr(found, "EXTRA", None)))


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
