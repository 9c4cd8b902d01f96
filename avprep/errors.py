"""The exception tree. Each message is one line that names the file or option and the remedy."""

from __future__ import annotations

REASONS: dict[str, str] = {
    "missing": "the manifest names a file that is not there",
    "unreadable": "the file is not a video or sound that can be decoded",
    "no_video": "the file has no picture",
    "no_audio": "the file has no sound in the clip's span",
    "too_short": "fewer frames than one MFCC window spans",
    "too_long": "longer than --max-seconds",
    "no_face": "no face was found anywhere in the clip",
    "face_lost": "the face is not detected for longer than a gap may be, or is another one there, as after a cut",
    "face_too_small": "the face is smaller than --min-face",
    "no_sample": "the clip failed in the column that this one is made from",
    "timeout": "the clip took longer than --clip-timeout and was stopped",
    "crashed": "the process that worked on the clip died",
    "error": "an error in avprep itself: please report it",
}
"""Every reason code that a failed clip can carry, with its meaning."""


def plural(count: int, noun: str) -> str:
    """Return a count with its noun as messages show it: `1 clip`, `2 clips`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def speed(clips_per_second: float) -> str:
    """Return a rate as messages show it: `12.3 clips/s`, below one with two significant digits: `0.013 clips/s`."""
    return f"{clips_per_second:{'.1f' if clips_per_second >= 1 else '.2g'}} clips/s"


def short(value: object) -> str:
    """Return a value that a user gave as messages show it: in one line, of at most 100 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else f"{text[:99]}…"


def explained(error: Exception) -> object:
    """Return the text of an error; for a system error, without its number and path."""
    return getattr(error, "strerror", None) or error


def missing_package(who: str, package: str, extra: str | None) -> str:
    """Return the message for a package that is not installed: one line with the remedy.

    who: what needs it; begins the line. extra: the extra of avprep that installs it; None: pip installs it by name.
    """
    remedy = f"'avprep[{extra}]'" if extra else package
    return f"{who} needs {package}, which is not installed: pip install {remedy}"


class AvprepError(Exception):
    """A problem that the user can solve; its `str()` is one clear line."""


class ManifestError(AvprepError):
    """A manifest that cannot be read or must not be written."""


class WeightsError(AvprepError):
    """Detector weights that are missing or do not have the pinned digest."""


def missing_library(error: ImportError) -> str | None:
    """Return the remedy for system libraries that opencv-python needs and minimal installations lack, else None."""
    if any(library in str(error) for library in ("libGL", "libgthread", "libglib", "libxcb", "libX11", "libSM")):
        return (
            f"opencv-python cannot be loaded ({error}): install the library (Debian: apt install libgl1 libglib2.0-0), "
            "or pip install --force-reinstall --no-deps 'opencv-python-headless<5'"
        )
    return None


class RunError(AvprepError):
    """A run that must not start or cannot go on: another run's output folder, a full disk."""


class ShardError(AvprepError):
    """A shard that breaks the contract of `avprep.schema`."""


class CheckpointError(AvprepError):
    """A model's checkpoint that cannot be read or written, or isn't one."""


class SettingsError(AvprepError):
    """An unknown setting, or an invalid value of one."""


class Reject(Exception):  # noqa: N818 - not an error: the regular outcome of a clip that cannot be used
    """Ends one clip as `failed`; it is counted and never fatal for the run.

    reason: a code from `REASONS`.
    message: one line of explanation for the user.
    """

    def __init__(self, reason: str, message: str) -> None:
        assert reason in REASONS, reason
        super().__init__(reason, message)
        self.reason = reason
        self.message = " ".join(message.split())
