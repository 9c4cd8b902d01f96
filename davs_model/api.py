"""What `import davs_model` offers: train a model, load one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from avprep.errors import SettingsError
from davs_model import models
from davs_model.film import PhotoTalker
from davs_model.training import loop


def train(
    out: Path | str | Sequence[Path | str],
    run: Path | str,
    *,
    model: str = "davs",
    preset: str | None = None,
    config_file: Path | str | None = None,
    overrides: str | Sequence[str] = (),
    stage: str = "all",
    shares: Sequence[float] = (),
    init_from: Path | str | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train a model on the shards of OUT, into RUN; return the last validation.

    model: its name, one of `davs_model.models.names()`.
    out: one OUT or several; shares: of each of them in the clips that are seen; none: each clip counts alike.
    preset, config_file, overrides: the settings, each over the ones before: a preset of the model, a TOML file,
        one `"data.batch_size=8"` or several; see `avprep train --help`.
    stage: what to train; `all` trains one after the other. init_from: a run or checkpoint to begin with.
    say: takes the lines that tell how far it is.

    After an interruption, call it again: it goes on where the last state was saved. Raises SettingsError, RunError,
    ShardError or CheckpointError, one line each.
    """
    if model not in models.names():
        raise SettingsError(f"model must be one of {', '.join(models.names())}, not {model!r}")
    kind = models.find(model)
    if stage not in ("all", *kind.stages):
        raise SettingsError(f"stage must be one of {', '.join(kind.stages)}, all, not {stage!r}")
    outs = [Path(out)] if isinstance(out, Path | str) else [Path(one) for one in out]
    if not outs or len(shares) not in (0, len(outs)):
        raise SettingsError(
            f"train needs at least one OUT, and as many shares or none, not {len(outs)} and {len(shares)}"
        )
    if wrong := [share for share in shares if not (isinstance(share, int | float) and 0 < share < math.inf)]:
        raise SettingsError(f"shares must be numbers above 0, not {wrong[0]!r}")
    overrides = [overrides] if isinstance(overrides, str) else overrides
    settings = kind.Settings.resolve(preset, None if config_file is None else Path(config_file), overrides)
    stages = [name for name in kind.stages if stage in (name, "all")]
    begin = None if init_from is None else Path(init_from)
    return loop.train(outs, Path(run), settings, stages=stages, shares=shares, init_from=begin, say=say)


def load(run: Path | str, *, device: torch.device | str | None = None, bf16: bool = False) -> PhotoTalker:
    """Load the model of a run, or a checkpoint, to make photos talk: `load("run").film("a.jpg", "a.wav", "a.mp4")`.

    device: by default CUDA where it is available. bf16: compute in bfloat16 where that is safe.
    Raises CheckpointError, one line, for what is no checkpoint; RunError for a model that cannot draw faces yet;
    SettingsError for a device that cannot be used here.
    """
    return PhotoTalker.load(run, device=device, bf16=bf16)
