"""The column `sync` by the released SyncNet: LSE-D, LSE-C and offset of each clip, from its crops and its own audio."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from avprep import __version__, files, schema
from avprep.errors import Reject, ShardError
from avprep.manifest import Clip
from avprep.media.audio import Sound
from avprep.shards import Sample
from avprep.shards.image import decode_picture
from avprep.stages import MfccSettings, clip_sound
from davs_model.models.sync.curve import Offset
from davs_model.sync import syncnet
from davs_model.sync.column import read_members, sync_sample
from davs_model.sync.syncnet import SyncNet


@dataclass(frozen=True)
class LseStage:
    """Builds the function of a worker that measures a clip of OUT by SyncNet: `LseStage(out, weights, root)()`.

    weights: the file `syncnet_v2.model`. root: where the data set lies, whose audio is read. device: `cpu` or `cuda`.
    """

    out: Path
    weights: Path
    root: Path
    device: str = "cpu"

    column = "sync"
    inputs = ("crop",)

    def require(self) -> None:
        """Prove that the weights are SyncNet's; CheckpointError, one line, if not."""
        SyncNet.load(self.weights)

    def versions(self) -> dict[str, str]:
        """Return what decides the figures besides the settings."""
        libraries = {"avprep": __version__, "torch": torch.__version__, "opencv": cv2.__version__}
        return {**libraries, "model": files.sha256(self.weights), "device": self.device}

    def resolved(self) -> dict[str, Any]:
        """Return the settings."""
        return {"scale": "syncnet", "crop": files.sha256(self.out / "crop" / "run.json")[:16]}

    def seconds(self, clip: Clip) -> float | None:
        """Return how long a clip is by the manifest."""
        return clip.duration

    def __call__(self) -> Callable[[Clip, str], Sample]:
        """Load the networks and return the function, which takes a clip and the name of its shard."""
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        return functools.partial(measure, self.out, self.root, SyncNet.load(self.weights, self.device))


def measure(out: Path, root: Path, net: SyncNet, clip: Clip, shard: str) -> Sample:
    """Measure a clip; Reject where it failed in crop, has no audio or is too short, ShardError for a damaged shard."""
    members = read_members(out, "crop", shard, clip.key)
    image_format = schema.image_format(members)
    size = (schema.CROP_SIZE, schema.CROP_SIZE)
    frames: list[NDArray[np.uint8]] = []
    while (name := schema.frame_member(len(frames), image_format)) in members:
        try:
            picture = decode_picture(bytes(members[name]), size)
        except ShardError as error:
            raise ShardError(f"{out}: {shard}: {clip.key}: {name}: {error}: see `avprep verify {out}`") from error
        frames.append(syncnet.pictures(picture[None])[0])
    samples = clip_sound(clip, root, MfccSettings()).beside(len(frames))
    found = syncnet.evaluate(net, np.stack(frames), samples)
    if found is None:
        raise Reject("too_short", f"{clip.video}: no more than the 5 frames of a window")
    return sync_sample(clip.key, len(frames), "syncnet", found.as_offset(), [])


def measure_pictures(net: SyncNet, crops: NDArray[np.uint8], sound: Sound) -> Offset | None:
    """Return the offset of crops (T, 256, 256, 3), RGB, and their audio; None where they are too short."""
    found = syncnet.evaluate(net, syncnet.pictures(crops), sound.beside(len(crops)))
    return None if found is None else found.as_offset()
