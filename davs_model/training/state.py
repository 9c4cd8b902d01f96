"""The state of a run between two steps, RUN/training.safetensors: all inputs of the next step except the shards.

The file has the format of a checkpoint (`davs_model.checkpoint`), with `stage`, `step` and `done` in addition to the
settings, and with two kinds of tensors: `weights/NAME` and Adam's `moments/PHASE/PARAMETER/MOMENT`. The previous state
is kept as training.previous.safetensors. Random numbers are not part of it: each step derives its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from avprep.errors import CheckpointError
from davs_model import checkpoint
from davs_model.checkpoint import AGAIN, Checkpoint
from davs_model.training.optimizers import MOMENTS

KIND = "training state"
NAME = "training.safetensors"
PREVIOUS = "training.previous.safetensors"
OF_MODEL, OF_ADAM = "weights/", "moments/"


@dataclass(frozen=True)
class TrainingState:
    """The saved state of a run.

    checkpoint: the model, with the settings of the run.
    stage, step: the stage that was trained last and its steps so far; done: the steps of each stage.
    moments: `PHASE/PARAMETER/exp_avg` and so on -> tensor, on the CPU.
    """

    checkpoint: Checkpoint
    stage: str
    step: int
    done: dict[str, int]
    moments: dict[str, Tensor]


def save(run: Path, state: TrainingState) -> None:
    """Write a state into a run's folder; the previous one is kept.

    CheckpointError, one line, if it cannot be written or its weights are not finite: the last good files then stay.
    """
    path = run / NAME
    for name, tensor in (*state.checkpoint.weights.items(), *state.moments.items()):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise CheckpointError(f"{path}: not written: {name} is not finite; the state before it stays")
    header = {**state.checkpoint.header(), "stage": state.stage, "step": state.step, "done": state.done}
    weights = {f"{OF_MODEL}{name}": tensor for name, tensor in state.checkpoint.weights.items()}
    moments = {f"{OF_ADAM}{name}": tensor for name, tensor in state.moments.items()}
    checkpoint.write(path, KIND, header, weights | moments, keep=run / PREVIOUS)


def load(run: Path) -> tuple[TrainingState, str] | None:
    """Read the state of a run, or the previous one if the last is damaged; None if there is none.

    Returns the state and, in one line, what was wrong with the last one, "" if nothing. CheckpointError if both are
    damaged.
    """
    problem = ""
    for name in (NAME, PREVIOUS):
        if (run / name).exists():
            try:
                return _read(run / name), problem
            except CheckpointError as error:
                if problem:
                    raise
                problem = str(error)
    if problem:
        raise CheckpointError(problem)
    return None


def _read(path: Path) -> TrainingState:
    header, tensors = checkpoint.read(path, KIND)
    weights, moments = (
        {name.removeprefix(part): tensor for name, tensor in tensors.items() if name.startswith(part)}
        for part in (OF_MODEL, OF_ADAM)
    )
    found = Checkpoint.from_header(header, weights)
    stage, step, done = (header.get(part) for part in ("stage", "step", "done"))
    if (
        found is None
        or type(stage) is not str
        or type(step) is not int
        or not isinstance(done, dict)
        or not all(type(count) is int for count in done.values())
    ):
        raise CheckpointError(f"{path}: damaged: a part of it is missing: {AGAIN}")
    if wrong := checkpoint.problem(found):
        raise CheckpointError(f"{path}: {wrong}")
    if not _fit(moments, weights):
        raise CheckpointError(f"{path}: damaged: the moments do not fit the weights: {AGAIN}")
    return TrainingState(found, stage, step, done, moments)


def _fit(moments: dict[str, Tensor], weights: dict[str, Tensor]) -> bool:
    """Whether all moments belong to parameters among the weights, all three of each."""
    for name, tensor in moments.items():
        path, _, moment = name.rpartition("/")
        parameter = weights.get(path.rpartition("/")[2])
        if parameter is None or tensor.dtype != torch.float32 or any(f"{path}/{one}" not in moments for one in MOMENTS):
            return False
        if tensor.shape != (parameter.shape if moment != "step" else ()):
            return False
    return True
