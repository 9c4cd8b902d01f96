"""Which clips a second pass leaves out: those that the model of the first finds out of sync, or is unsure of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import numpy as np
import torch

from avprep import files, untrusted
from avprep.errors import RunError
from davs_model.data.clips import Clips
from davs_model.models.base import TalkingModel
from davs_model.models.sync import Settings
from davs_model.models.sync.model import Sync
from davs_model.settings import RunSettings
from davs_model.sync.clips import offsets
from davs_model.sync.scorer import Scorer

NAME = "out_of_sync.json"
REASON = "out of sync, or unsure"


def measure(run: Path, model: TalkingModel, clips: Clips, device: torch.device, settings: RunSettings) -> None:
    """Measure the clips of a run, and write which of them are left out, with lead and confidence, to its folder."""
    limits = cast(Settings, settings).refine
    found = offsets(Scorer(cast(Sync, model), device=device), clips)
    median = float(np.median([one.confidence for one in found if one is not None] or [0.0]))
    out = {
        clips.key(row): None if one is None else [one.audio_lead_frames, one.confidence]
        for row, one in enumerate(found)
        if one is None or abs(one.audio_lead_frames) > limits.offset or one.confidence < limits.confidence * median
    }
    text = json.dumps({"median_confidence": round(median, 4), "clips": out}, indent=0, ensure_ascii=False)
    path = run / NAME
    try:
        files.write_atomically(path, text.encode("utf-8", "surrogateescape"), aside=files.own_aside(path))
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror})") from error


def kept(run: Path, clips: Clips) -> Clips:
    """Return the clips of a run but for those that `measure` left out; RunError where it was never measured."""
    path = run / NAME
    try:
        out = untrusted.read_json(path)["clips"]
        return clips.where(np.array([clips.key(row) not in out for row in range(len(clips))], bool), REASON)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: cannot be read ({error}): give another RUN, and --init-from {run}") from error
