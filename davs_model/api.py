"""The public API of `davs_model`: train a model, load a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from avprep.bounds import as_path, check_choice, check_flag
from avprep.errors import SettingsError, short
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
    """Train a model on the shards of OUT, write the run to RUN, and return the metrics of the last validation.

    model: its name, one of `davs_model.models.names()`.
    out: one OUT or several. shares: the proportions of their clips in training; empty: each clip occurs once.
    preset, config_file, overrides: the settings, each overriding the ones before: a preset of the model, a TOML file,
        one `"data.batch_size=8"` or several; see `avprep train --help`.
    stage: the stage to train; `all` trains all stages in order. init_from: a run or checkpoint with the first weights.
    say: receives the progress lines.

    After an interruption, call it again: training resumes from the last saved state. Raises SettingsError, RunError,
    ShardError or CheckpointError, each with a one-line message.
    """
    check_choice("model", model, models.names())
    kind = models.find(model)
    check_choice("stage", stage, (*kind.stages, "all"))
    outs = [as_path("out", one) for one in _each(out)]
    if not isinstance(shares, Collection):
        raise SettingsError(f"shares must be a list of numbers, not {short(shares)}")
    if not outs or len(shares) not in (0, len(outs)):
        raise SettingsError(
            f"train needs at least one OUT, and as many shares or none, not {len(outs)} and {len(shares)}"
        )
    if wrong := [share for share in shares if not (isinstance(share, int | float) and 0 < share < math.inf)]:
        raise SettingsError(f"shares must be numbers above 0, not {short(wrong[0])}")
    texts = list(_each(overrides))
    if unwritten := [one for one in texts if not isinstance(one, str)]:
        raise SettingsError(f"overrides must be texts such as 'data.batch_size=8', not {short(unwritten[0])}")
    if not callable(say):
        raise SettingsError(f"say must be a function, not {short(say)}")
    config = None if config_file is None else as_path("config_file", config_file)
    settings = kind.Settings.resolve(preset, config, texts)
    stages = [name for name in kind.stages if stage in (name, "all")]
    begin = None if init_from is None else as_path("init_from", init_from)
    return loop.train(outs, as_path("run", run), settings, stages=stages, shares=shares, init_from=begin, say=say)


def _each(given: Any) -> Iterable[Any]:
    """Return what was given as a list, or a list of the single thing that was given."""
    return given if isinstance(given, Iterable) and not isinstance(given, str | bytes) else [given]


def load(run: Path | str, *, device: torch.device | str | None = None, bf16: bool = False) -> PhotoTalker:
    """Load the model of a run, or a checkpoint, to make photos talk: `load("run").film("a.jpg", "a.wav", "a.mp4")`.

    device: by default CUDA if it is available. bf16: compute in bfloat16 where that is safe.
    Raises CheckpointError, one line, for a file that is not a checkpoint; RunError for a model that cannot generate
    faces yet; SettingsError for an invalid argument, or a device that is not usable on this machine.
    """
    check_flag("bf16", bf16)
    return PhotoTalker.load(as_path("run", run), device=device, bf16=bf16)
