"""Loading the sync model of a run."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch

from avprep.errors import RunError
from davs_model import checkpoint, precision
from davs_model.models.sync.model import Sync
from davs_model.models.sync.scorer import Scorer


def load(run: Path | str, *, device: torch.device | str = "cpu", windows: str = "") -> Scorer:
    """Load the model of a run, or a checkpoint.

    windows: MFCC preset of the windows to measure, "" if unknown.
    CheckpointError, or RunError for another model, or for one that was trained on windows of another preset.
    """
    saved = checkpoint.load(Path(run))
    if saved.name != Sync.name:
        raise RunError(f"{run}: is a model {saved.name}: give a RUN of `avprep train OUT RUN --model sync`")
    preset = str(saved.settings.get("mfcc_preset") or "")
    if windows and preset and windows != preset:
        raise RunError(
            f"{run}: has learned from windows of the preset {preset}, these are {windows}: give a model that was "
            "trained on such"
        )
    model = precision.place(cast(Sync, saved.model()), device)
    return Scorer(model, device=device, digest=saved.digest(), mfcc_preset=preset)
