"""A report's excerpts of single clips: frames with points, MFCC, labels, and stills of failed videos."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from avprep import manifest, schema, shards
from avprep.errors import Reject, ShardError
from avprep.faces import align
from avprep.manifest import Manifest
from avprep.media import mfcc
from avprep.media.video import Frames
from avprep.quality.findings import Row, read_facts, read_members
from avprep.runs.fingerprint import manifest_path
from avprep.runs.pool import Died, Pool
from avprep.runs.worker import DEAF_TO
from avprep.shards.image import decode_image
from avprep.untrusted import number

STILL_SECONDS = 5.0
"""Maximum CPU time to decode the first picture of a video: wall-clock time would depend on the machine's load."""
HUNG_SECONDS = 30.0
"""Wall-clock time after which decoding counts as hung, for example on a file system."""
SLOW_STILLS = 8
"""Maximum videos that may exceed one of these times before the rest is skipped, for example on a dead file system."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Shot:
    """One frame of a clip: uint8 (256, 256, 3), RGB; points: float64 (5, 2) in crop pixels, NaN where unknown."""

    frame: int
    image: NDArray[np.uint8]
    points: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MfccExcerpt:
    """MFCC steps of a clip of T frames, float32 (12, 4T); frame `i` has steps 4i … 4i+3. valid: bool (T,)."""

    columns: NDArray[np.float32]
    valid: NDArray[np.bool_]


def read_shots(out: Path, row: Row, frames: Sequence[int], image_format: str) -> list[Shot]:
    """Return frames of a clip with the positions of eyes and mouth; ShardError if the sample is damaged."""
    names = [schema.frame_member(frame, image_format) for frame in frames]
    members = read_members(out, row, "crop", {"points.npy", "affine.npy", *names})
    points = _array(row, "crop", "points.npy", members)
    affine = _array(row, "crop", "affine.npy", members)
    shots = []
    for frame, name in zip(frames, names, strict=True):
        image = decode_image(members[name])
        if image is None:
            raise ShardError(f"{shards.tar_path(out, 'crop', row.shard)}: {row.key}.{name} is not a 256×256 image")
        with np.errstate(all="ignore"):  # whatever the arrays hold, what is not finite is not drawn
            placed = align.apply(affine[frame : frame + 1], points[frame : frame + 1])[0]
        shots.append(Shot(frame, image, placed))
    return shots


def read_sound(out: Path, row: Row) -> MfccExcerpt:
    """Return the MFCC steps of a clip; ShardError if the sample is damaged."""
    members = read_members(out, row, "mfcc", {"mfcc.npy", "valid.npy"})
    windows = _array(row, "mfcc", "mfcc.npy", members)
    own = windows[:, :, mfcc.BEFORE : mfcc.BEFORE + schema.STEPS_PER_FRAME]
    columns = own.transpose(1, 0, 2).reshape(schema.N_COEFFICIENTS, -1)
    return MfccExcerpt(columns.astype(np.float32), _array(row, "mfcc", "valid.npy", members))


def read_curve(out: Path, row: Row) -> list[float | None]:
    """Return the curve of a clip; ShardError if the sample is damaged."""
    curve = read_facts(out, row, "sync").get("curve")
    if not isinstance(curve, list) or len(curve) != schema.CURVE:
        raise ShardError(f"sync/{row.shard}: {row.key}.sync.json holds no curve")
    return [number(value) for value in curve]


def _array(row: Row, column: str, member: str, members: Mapping[str, bytes]) -> NDArray[Any]:
    dtype, shape = schema.ARRAYS[column][member]
    try:
        array = schema.decode_array(members[member])
    except ShardError as error:
        raise ShardError(f"{column}/{row.shard}: {row.key}.{member}: {error}") from error
    if array.dtype.str != dtype or array.shape != (row.n_frames, *shape):
        raise ShardError(f"{column}/{row.shard}: {row.key}.{member} is {array.dtype.str} {array.shape}")
    return array


@dataclass(frozen=True)
class Label:
    """The manifest's labels of a clip; video: its path below the root."""

    video: str = ""
    start: float | None = None
    word: str = ""
    speaker: str = ""


def read_labels(out: Path, keys: set[str]) -> tuple[Manifest, dict[str, Label]]:
    """Return the manifest without its clips, and the labels of some, with one line in memory at a time.

    Raises ManifestError.
    """
    plan, clips = manifest.scan(manifest_path(out))
    chosen = (clip for clip in clips if clip.key in keys) if keys else ()
    return plan, {clip.key: Label(clip.video, clip.start, clip.word or "", clip.speaker or "") for clip in chosen}


def stills(root: Path, labels: Mapping[str, Label], side: int, jobs: int = 2) -> dict[str, bytes | str]:
    """Return the first picture of each clip's video that decodes, or why there is none, using separate processes.

    side: the longer side of the JPEG in pixels. A video that hangs or kills its decoder loses only its own picture.
    """
    if not labels:
        return {}
    found: dict[str, bytes | str] = {}
    slow = 0
    with Pool(jobs, _imported, deaf=DEAF_TO) as pool:
        # A few at a time, so that there is no waiting for those that are given up.
        for keys in _batches(list(labels), 4 * jobs):
            if slow > SLOW_STILLS:
                found.update(dict.fromkeys(keys, "left alone, since decoding others took too long"))
                continue
            for key in keys:
                found[key] = "the manifest names no video below its root"
                if labels[key].video:
                    asked = (root / labels[key].video, labels[key].start, side)
                    pool.submit(key, _within, STILL_SECONDS, still, *asked, timeout=HUNG_SECONDS)
            for ended in pool.all():
                match ended.error:
                    case None:
                        found[ended.tag] = ended.value
                    case TimeoutError():
                        slow += 1
                        found[ended.tag] = f"decoding did not end within {HUNG_SECONDS:g} s"
                    case Died(exit_code=code) if code == -signal.SIGPROF:
                        slow += 1
                        found[ended.tag] = f"decoding takes more than {STILL_SECONDS:g} s of computing"
                    case error:  # Died, or any exception of a decoder's binding
                        found[ended.tag] = f"decoding failed ({type(error).__name__})"
    return found


def _batches(keys: list[str], size: int) -> Iterable[list[str]]:
    return (keys[first : first + size] for first in range(0, len(keys), size))


def _imported() -> None:
    """Have a worker import this module before its first video: that takes longer than a picture."""


def _within(seconds: float, function: Callable[..., T], *args: Any) -> T:
    """Call a function; after this much CPU time SIGPROF ends the process, whatever C code is running."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        return function(*args)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def still(video: Path, start: float | None, side: int) -> bytes | str:
    """Return a JPEG of the picture at `start`, or else of the video's first one, or why there is none."""
    for at in (start, None) if start else (None,):
        try:
            for picture in Frames(video, start=at, keep_bytes=0):
                return encode(picture.small(side))
        except Reject as reject:
            why = reject.message.removeprefix(f"{video}: ")
    return why


def encode(image: NDArray[np.uint8], quality: int = 80) -> bytes:
    """Return uint8 (H, W, 3), RGB, as JPEG."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return data.tobytes()
