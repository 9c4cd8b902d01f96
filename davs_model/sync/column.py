"""The column `sync`: the offset of each clip, measured on its crops and windows by a trained model.

Alternatively, the released SyncNet measures offset, LSE-D and LSE-C on the crops and the audio of the clip.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from avprep import __version__, files, schema, shards
from avprep.errors import Reject, RunError, ShardError
from avprep.manifest import Clip
from avprep.shards import Sample
from avprep.shards.image import decode_picture
from avprep.stages import MfccSettings, clip_sound
from davs_model import checkpoint
from davs_model.models.sync import curve
from davs_model.models.sync.curve import Offset
from davs_model.models.sync.scorer import Scorer
from davs_model.sync import syncnet
from davs_model.sync.load import load
from davs_model.sync.syncnet import SyncNet

SUMMARY = ("audio_lead_frames", "confidence", "distance", "n_windows")
"""The results that the sidecars hold, too."""
CHOICES = ("audio_shift_ms", "audio_track", "audio_channel")
"""Settings of the column mfcc that select the audio and its shift."""


@dataclass(frozen=True)
class SyncStage:
    """Builds the worker function that measures a clip of OUT: `SyncStage(out, run)()`.

    run: the run of the model. device: `cpu` or `cuda`.
    """

    out: Path
    run: Path
    device: str = "cpu"

    column = "sync"
    scale: ClassVar[str] = "ours"
    inputs: ClassVar[tuple[str, ...]] = schema.COLUMNS

    def require(self) -> None:
        """Check that the model and both columns exist and fit each other; AvprepError, one line, if not."""
        self.require_inputs()
        run = shards.read_run(self.out, "mfcc") or {}
        load(self.run, windows=str(run.get("settings", {}).get("preset", "")))

    def require_inputs(self) -> None:
        """Check that the columns which are measured exist; RunError, one line, if not."""
        for name in self.inputs:
            if shards.read_run(self.out, name) is None:
                raise RunError(f"{self.out}: has no column {name}: run `avprep {name}` first")

    def versions(self) -> dict[str, str]:
        """Return what determines the results besides the settings: versions, the model's digest, the device."""
        libraries = {"avprep": __version__, "torch": torch.__version__, "opencv": cv2.__version__}
        return {**libraries, "model": self.digest(), "device": self.device}

    def digest(self) -> str:
        """Return the digest of the model."""
        return _digest(self.run)

    def resolved(self) -> dict[str, Any]:
        """Return the settings: the scale, and the measured columns by the digests of their run.json."""
        inputs = {name: files.sha256(self.out / name / "run.json")[:16] for name in self.inputs}
        return {"scale": self.scale, **inputs}

    def seconds(self, clip: Clip) -> float | None:
        """Return the duration of a clip according to the manifest."""
        return clip.duration

    def __call__(self) -> Callable[[Clip, str], Sample]:
        """Load the model and return the function, which takes a clip and the name of its shard."""
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        return self.measuring()

    def measuring(self) -> Callable[[Clip, str], Sample]:
        """Load the model and return the function."""
        return functools.partial(measure, self.out, load(self.run, device=self.device))


@dataclass(frozen=True)
class LseStage(SyncStage):
    """Builds the worker function that measures a clip of OUT with SyncNet.

    run: the file `syncnet_v2.model`. root: folder of the data set, whose audio is read.
    """

    root: Path = Path()

    scale = "syncnet"
    inputs = ("crop",)

    def require(self) -> None:
        """Check that there are crops, and that the weights are those of SyncNet; AvprepError, one line, if not."""
        self.require_inputs()
        SyncNet.load(self.run)

    def digest(self) -> str:
        """Return the digest of the weights."""
        return files.sha256(self.run)

    def resolved(self) -> dict[str, Any]:
        """Return the settings as JSON, with the audio settings that are not the defaults."""
        audio, usual = self.audio(), MfccSettings()
        chosen = {name: getattr(audio, name) for name in CHOICES if getattr(audio, name) != getattr(usual, name)}
        if self.moved():
            chosen["moved"] = files.sha256(self.out / "mfcc" / "run.json")[:16]
        return super().resolved() | chosen

    def audio(self) -> MfccSettings:
        """Return the settings for reading the audio: those of OUT's windows, if it has any."""
        made = self.windows()
        return MfccSettings(max_seconds=math.inf, **{name: made[name] for name in CHOICES if name in made})

    def moved(self) -> bool:
        """Return whether the audio of OUT's windows is delayed clip by clip."""
        return "audio_offset" in self.windows()

    def windows(self) -> dict[str, Any]:
        """Return the settings of OUT's windows; none if it has no windows."""
        settings: dict[str, Any] = (shards.read_run(self.out, "mfcc") or {}).get("settings", {})
        return settings

    def measuring(self) -> Callable[[Clip, str], Sample]:
        """Load the networks and return the function."""
        net = SyncNet.load(self.run, self.device)
        return functools.partial(measure_lse, self.out, self.root, net, self.audio(), moved=self.moved())


def stage(out: Path, run: Path, scale: str, device: str, root: Path) -> SyncStage:
    """Return the stage that measures the clips of OUT; root: folder of the data set."""
    return LseStage(out, run, device, root) if scale == "syncnet" else SyncStage(out, run, device)


def measure(out: Path, scorer: Scorer, clip: Clip, shard: str) -> Sample:
    """Measure a clip; Reject if a column lacks it or it is too short, ShardError for a damaged shard."""
    crop, mfcc = (read_members(out, name, shard, clip.key) for name in schema.COLUMNS)
    image_format = schema.image_format(crop)
    try:
        schema.check_sample("mfcc", clip.key, sound := {name: bytes(data) for name, data in mfcc.items()})
        windows, valid = (schema.decode_array(sound[name]) for name in schema.ARRAYS["mfcc"])
        frames = {name: crop[name] for n in range(len(windows)) if (name := schema.frame_member(n, image_format))}
        pictures = scorer.pictures(clip.key, frames)
    except KeyError as error:
        raise ShardError(f"{out}: {shard}: {clip.key} lacks {error.args[0]}: see `avprep verify {out}`") from error
    except ShardError as error:
        raise ShardError(f"{out}: {shard}: {error}: see `avprep verify {out}`") from error
    found = scorer.features(pictures, windows, valid).distances()
    whole = curve.complete_offset(found)
    if whole is None:
        raise Reject("too_short", f"{clip.video}: {curve.TOO_FEW}")
    return sync_sample(clip.key, len(windows), "ours", whole, curve.seconds(found))


def measure_lse(
    out: Path, root: Path, net: SyncNet, audio: MfccSettings, clip: Clip, shard: str, *, moved: bool
) -> Sample:
    """Measure a clip; Reject if it failed in crop, has no audio or is too short, ShardError for a damaged shard.

    audio: how to read the audio. moved: with the clip's own delay in the column mfcc in addition.
    """
    if moved:
        audio = audio.delayed(shards.ColumnShard.finished(out, "mfcc", shard).record(clip.key) or {})
    members = read_members(out, "crop", shard, clip.key)
    image_format = schema.image_format(members)
    size = (schema.CROP_SIZE, schema.CROP_SIZE)
    names = [schema.frame_member(n, image_format) for n in range(len(members))]
    names = list(itertools.takewhile(members.__contains__, names))

    def frames() -> Iterator[NDArray[np.uint8]]:
        for name in names:
            try:
                crop = decode_picture(bytes(members[name]), size)
            except ShardError as error:
                raise ShardError(f"{out}: {shard}: {clip.key}: {name}: {error}: see `avprep verify {out}`") from error
            yield syncnet.picture(crop)

    found = syncnet.evaluate(net, frames(), clip_sound(clip, root, audio).beside(len(names)))
    if found is None:
        raise Reject("too_short", f"{clip.video}: no more than the 5 frames of a window")
    return sync_sample(clip.key, len(names), "syncnet", found.as_offset(), [])


def sync_sample(key: str, n_frames: int, scale: str, whole: Offset, seconds: Sequence[tuple[int, Offset]]) -> Sample:
    """Return the sample of a clip; scale: `ours` or `syncnet`."""
    facts = {"key": key, "n_frames": n_frames, "scale": scale, **figures(whole)}
    if seconds:
        facts["seconds"] = [{"second": second, **_of_second(part)} for second, part in seconds]
    members = [(schema.METADATA["sync"], schema.encode_json(facts))]
    return Sample(members, n_frames, {name: facts[name] for name in SUMMARY})


def figures(found: Offset) -> dict[str, Any]:
    """Return an offset as JSON."""
    return {
        "audio_lead_frames": found.audio_lead_frames,
        "audio_lead_ms": found.audio_lead_ms,
        "confidence": found.confidence,
        "distance": found.distance,
        "n_windows": found.n_windows,
        "curve": list(found.curve),
    }


def _of_second(found: Offset) -> dict[str, Any]:
    return {name: value for name, value in figures(found).items() if name in SUMMARY}


def read_members(out: Path, column: str, shard: str, key: str) -> Mapping[str, memoryview]:
    """Return the members of a clip in a column; Reject if it failed there."""
    found = shards.ColumnShard.finished(out, column, shard)
    record = found.record(key)
    if record is not None and record["state"] == "failed":
        raise Reject("no_sample", f"failed in {column}: {record['reason']}")
    if key not in found.places:
        raise ShardError(f"{found.path}: lacks {key}: see `avprep verify {out}`")
    try:
        return found.members_at_once(key)
    except ShardError as error:
        raise ShardError(f"{found.path}: {key}: {error}: see `avprep verify {out}`") from error
    except OSError as error:
        raise RunError(f"{found.path}: cannot be read ({error.strerror})") from error


@functools.lru_cache(8)
def _digest(run: Path) -> str:
    return checkpoint.load(run).digest()
