"""Stages as the run.json of a column has them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from avprep.errors import RunError
from avprep.offsets import MIN_CONFIDENCE, MovedMfccStage
from avprep.stages import CropSettings, CropStage, MfccSettings, MfccStage

if TYPE_CHECKING:
    from avprep.speaking import Judge

_MOVED = ("audio_offset", "min_confidence", "sync")
"""Settings of `MovedMfccStage` beside those of `MfccSettings`."""


def rebuilt(
    out: Path, column: str, settings: dict[str, Any], root: Path, threads: int = 1, judge: Judge | None = None
) -> CropStage | MfccStage:
    """Return the stage whose `resolved` settings these are; RunError where they are not this avprep's.

    judge: of who speaks, where the column was made by one.
    """
    try:
        if column == "crop":
            return crop_stage(root, CropSettings(**settings), threads, judge)
        heard = MfccSettings(**{name: value for name, value in settings.items() if name not in _MOVED})
    except TypeError as error:
        raise RunError(f"{column}: its settings are of another avprep ({error})") from error
    if settings.get("audio_offset"):
        return MovedMfccStage(root, heard, out, float(settings.get("min_confidence", MIN_CONFIDENCE)))
    return MfccStage(root, heard)


def crop_stage(root: Path, settings: CropSettings, threads: int, judge: Judge | None) -> CropStage:
    """Return the stage that crops; RunError where the subject is who speaks, and nothing judges that."""
    if settings.subject != "speaking":
        return CropStage(root, settings, threads)
    if judge is None:
        raise RunError("crop: the subject is who speaks: give the RUN of a sync model")
    from avprep.speaking import SpeakingCropStage  # here, for it loads all that finds faces

    return SpeakingCropStage(root, settings, threads, judge=judge)
