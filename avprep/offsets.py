"""MFCC windows moved by the offsets that the column `sync` has measured for each clip."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from avprep import files, schema, shards
from avprep.errors import RunError
from avprep.manifest import Clip
from avprep.memory import keep_freed_memory
from avprep.runs.threads import KEPT, one_thread
from avprep.shards import Sample
from avprep.stages import MfccSettings, MfccStage, by_name

UNMOVED = "mfcc-unmoved"
"""Folder that keeps the windows that were measured, next to those that replace them."""
MIN_CONFIDENCE = 0.2
"""Default minimum confidence for moving a clip, on the scale of the sync model."""
MS_PER_FRAME = 1000 / schema.FPS


@dataclass(frozen=True)
class MovedMfccStage(MfccStage):
    """Builds the MFCC function of a worker that moves each clip by its offset in OUT/sync.

    min_confidence: clips with a lower confidence, or without a measurement, are not moved.
    """

    out: Path = Path()
    min_confidence: float = MIN_CONFIDENCE

    inputs = ("sync",)

    def require(self) -> None:
        """Check that there are offsets, measured on windows that were not moved; RunError, one line, if not."""
        sync = shards.read_run(self.out, "sync")
        if sync is None:
            raise RunError(f"{self.out}: was not measured: run `avprep sync {self.out} --model RUN` first")
        measured = sync.get("settings", {}).get("mfcc")
        if measured is None:  # for example by SyncNet
            raise RunError(
                f"{self.out / 'sync'}: was measured on no windows: put it aside and run "
                f"`avprep sync {self.out} --model RUN`, without --scale syncnet"
            )
        for name in (UNMOVED, "mfcc"):
            path = self.out / name / "run.json"
            if path.is_file():
                if files.sha256(path)[:16] != measured:
                    raise RunError(f"{self.out / 'sync'}: was measured on other windows than those of {path.parent}")
                return

    def resolved(self) -> dict[str, Any]:
        """Return the settings as JSON."""
        digest = files.sha256(self.out / "sync" / "run.json")[:16]
        moved = {"audio_offset": "sync", "min_confidence": self.min_confidence, "sync": digest}
        return super().resolved() | moved

    def __call__(self) -> Callable[..., Sample]:
        """Return the function, which takes a clip and the name of its shard."""
        keep_freed_memory(KEPT)
        one_thread()
        return functools.partial(_moved, self)


def moved_clip(clip: Clip, root: Path, settings: MfccSettings, measured: dict[str, Any], least: float) -> Sample:
    """Compute the MFCC windows of one clip, its audio delayed by its lead, unless that may be larger; raises Reject.

    measured: its record in the sidecar of sync. least: the minimum confidence for moving it.
    """
    from avprep.stages import mfcc_clip  # imported here: only workers need it

    lead, confidence = measured.get("audio_lead_frames"), measured.get("confidence")
    sure = isinstance(confidence, int | float) and confidence >= least
    delay = 0.0
    if sure and isinstance(lead, int | float) and abs(lead) < schema.MAX_LEAD:
        delay = round(lead * MS_PER_FRAME, 1)
    sample = mfcc_clip(clip, root, replace(settings, audio_shift_ms=settings.audio_shift_ms + delay))
    *arrays, (name, facts) = sample.members
    offset = {"audio_offset_ms": delay, "audio_lead_frames": lead, "sync_confidence": confidence}
    told = schema.encode_json({**schema.decode_json(facts), **offset})
    return Sample([*arrays, (name, told)], sample.n_frames, {**sample.summary, "audio_offset_ms": delay})


def replaces_unmoved(stage: object) -> bool:
    """Return whether the windows in OUT/mfcc differ from those of a stage only in that they are not moved."""
    if not isinstance(stage, MovedMfccStage):
        return False
    there = shards.read_run(stage.out, "mfcc")
    plain = MfccStage(stage.root, stage.settings).resolved()
    return there is not None and there.get("settings") == plain and not (stage.out / UNMOVED).exists()


def set_unmoved_aside(stage: object) -> bool:
    """Rename OUT/mfcc if a stage replaces its windows; return whether it was renamed.

    If several tasks do so at once, one renames it, and the others find the new column.
    """
    if not isinstance(stage, MovedMfccStage) or not replaces_unmoved(stage):
        return False
    stage.require()
    try:
        (stage.out / "mfcc").rename(stage.out / UNMOVED)
    except OSError as error:
        if (stage.out / UNMOVED).exists():  # another task was faster
            return False
        raise RunError(f"{stage.out / 'mfcc'}: cannot be renamed to {UNMOVED} ({error.strerror})") from error
    return True


def _moved(stage: MovedMfccStage, clip: Clip, shard: str) -> Sample:
    measured = shards.ColumnShard.finished(stage.out, "sync", shard).record(clip.key) or {}
    return by_name(moved_clip, clip, stage.root, settings=stage.settings, measured=measured, least=stage.min_confidence)
