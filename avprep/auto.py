"""The choices of `auto`: a run's detector and subject, its number of workers, and the detector of mouths."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avprep.errors import AvprepError
from avprep.faces import detectors
from avprep.runs import tasks
from avprep.shards import read_run
from avprep.stages import CropSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GPU_WORKERS = 4
"""Default number of workers for face-alignment: each holds its networks on the GPU."""

CENTRAL = ("lrs3", "lrw")
"""Data sets whose clips were cropped around the active speaker."""

Remark = Callable[[str], None]
"""Takes a line that is a remark, not a result."""
Landmarks = Callable[["NDArray[np.uint8]"], "NDArray[np.float32]"]
"""Finds the mouth in aligned crops; see `avprep.faces.mouth.mouth_landmarks`."""

log: Remark = logging.getLogger("avprep").warning


def detector(name: str, remark: Remark = log) -> str:
    """Return the detector that a name stands for; if `auto` becomes opencv, remark on its limits.

    A detector's notice for its users is also passed to `remark`.
    """
    found = detectors.resolve(name)
    if notice := detectors.notice(found):
        remark(notice)
    if name == "auto" and found == "opencv":
        remark(
            "auto is opencv here: frontal faces only, no mouth points; "
            "`avprep weights fetch yunet` (0.2 MB) gets a better one"
        )
    return found


def crop_settings(
    dataset: str, out: Path, given: Mapping[str, Any], *, otherwise: str = "auto", remark: Remark = log
) -> CropSettings:
    """Return the settings of the crop column; for `auto` they take the value of `out`, else the default.

    given: the fields of CropSettings; `detector` and `subject` may be `auto`. The default subject is `central` for the
        data sets in `CENTRAL`, else `largest`.
    otherwise: the detector if neither the caller nor `out` has chosen one.
    """
    chosen = dict(given)
    before = read_run(out, "crop")
    if chosen.get("detector", "auto") == "auto":
        chosen["detector"] = pinned(before, "detector") or otherwise
    chosen["detector"] = detector(chosen["detector"], remark)
    if chosen.get("subject", "auto") == "auto":
        chosen["subject"] = pinned(before, "subject") or ("central" if dataset in CENTRAL else "largest")
    return CropSettings(**chosen)


def pinned(fingerprint: dict[str, Any] | None, setting: str) -> Any:
    """Return the value of a setting in an earlier run of the same OUT; None if there was none."""
    return None if fingerprint is None else fingerprint.get("settings", {}).get(setting)


def workers(detector: str, wanted: int) -> int:
    """Return the default number of workers of crop: those of face-alignment share the GPU."""
    return min(wanted, GPU_WORKERS) if detector == "face-alignment" else wanted


def decoder_threads(workers: int) -> int:
    """Return the number of decoder threads for each of `workers` workers on this machine."""
    return max(1, tasks.cores() // workers)


def mouth_finder(name: str, remark: Remark, detail: Remark) -> tuple[Landmarks, str] | str:
    """Return a function that finds mouths in crops and its description, or the reason why there is none.

    name: a detector, or `auto`.
    """
    import numpy as np

    from avprep.faces import mouth

    found = detector(name, remark)
    detail(f"mouths by {found}")
    try:
        built = detectors.build(found)
        _, words = mouth.mouth_landmarks(np.zeros((1, 256, 256, 3), np.uint8), built, found)
    except AvprepError as error:
        return str(error)
    return lambda frames: mouth.mouth_landmarks(frames, built, found)[0], words
