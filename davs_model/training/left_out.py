"""The clips that a stage leaves out by measures of the model itself, taken once before its first step."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from avprep import files, untrusted
from avprep.errors import RunError, explained
from davs_model.data.clips import Clips
from davs_model.models.base import TalkingModel
from davs_model.settings import RunSettings

NAME = "left_out.json"
REASON = "left out by the model of the stage before"


def measure(run: Path, model: TalkingModel, clips: Clips, device: torch.device, settings: RunSettings) -> None:
    """Write the clips that the model leaves out to the folder of the run."""
    text = json.dumps({"clips": model.left_out(clips, device, settings)}, indent=0, ensure_ascii=False)
    files.write_text(run / NAME, text)


def kept(run: Path, clips: Clips) -> Clips:
    """Return the clips of a run without those that `measure` left out; RunError if it was never measured."""
    path = run / NAME
    try:
        out = untrusted.read_json(path)["clips"]
        return clips.where(np.array([clips.name(row) not in out for row in range(len(clips))], bool), REASON)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path}: cannot be read ({explained(error)}): give another RUN, and --init-from {run}"
        ) from error
