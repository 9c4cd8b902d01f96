"""The state of a run between two steps, RUN/training.pt: all that the next step depends on but the shards.

A torch file like a checkpoint: `format`, `schema_version`, `dimensions`, `settings` (JSON text), `weights`, `stage`,
`step`, `done` and `moments` (Adam's, by phase and parameter), and a `digest` over all of these. The state before it
stays beside it as training.previous.pt. Random numbers are no part of it: each step draws its own.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from avprep.errors import CheckpointError
from davs_model import checkpoint
from davs_model.checkpoint import AGAIN, Checkpoint, is_plain, record

FORMAT = "avprep DAVS training state"
SCHEMA_VERSION = 1
NAME = "training.pt"
PREVIOUS = "training.previous.pt"


@dataclass(frozen=True)
class TrainingState:
    """A run at rest.

    checkpoint: the model, its settings being those of the run.
    stage, step: the stage that was trained last and its steps so far; done: the steps of each stage.
    moments: `PHASE/PARAMETER/exp_avg` and so on -> tensor, on the CPU.
    """

    checkpoint: Checkpoint
    stage: str
    step: int
    done: dict[str, int]
    moments: dict[str, Tensor]

    def _digest(self) -> str:
        return checkpoint.digest_of([self.stage, self.step, self.done, self.checkpoint.digest()], self.moments)


def save(run: Path, state: TrainingState) -> None:
    """Write a state into a run's folder; the one before it is kept.

    CheckpointError, one line, where it cannot be written or its weights are not finite: the last good ones stay.
    """
    path = run / NAME
    for name, tensor in (*state.checkpoint.weights.items(), *state.moments.items()):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise CheckpointError(f"{path}: not written: {name} is not finite; the state before it stays")
    content = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "dimensions": state.checkpoint.dimensions,
        "settings": json.dumps(state.checkpoint.settings, sort_keys=True),
        "weights": state.checkpoint.weights,
        # One string for one name: pickle writes an equal one that is another object a second time.
        "stage": sys.intern(state.stage),
        "step": state.step,
        "done": {sys.intern(name): steps for name, steps in state.done.items()},
        "moments": state.moments,
        "digest": state._digest(),
    }
    checkpoint.write_whole(path, content, keep=run / PREVIOUS)


def load(run: Path) -> tuple[TrainingState, str] | None:
    """Read the state of a run, the previous one where the last is damaged; None where there is none.

    Returns the state and, in one line, what was wrong with the last one, "" if nothing was. CheckpointError where both
    are damaged.
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
    content = record(checkpoint.read_torch_file(path)) or {}
    if content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not the state of a training run of avprep")
    if (version := content.get("schema_version")) != SCHEMA_VERSION:
        raise CheckpointError(f"{path}: schema {version!r}, this program reads {SCHEMA_VERSION}: update avprep")
    found = checkpoint.parse(content)
    moments, done = record(content.get("moments")), record(content.get("done"))
    stage, step = content.get("stage"), content.get("step")
    if (
        found is None
        or moments is None
        or done is None
        or not all(type(count) is int for count in done.values())
        or not all(is_plain(tensor) for tensor in moments.values())
        or type(stage) is not str
        or type(step) is not int
    ):
        raise CheckpointError(f"{path}: damaged: a part of it is missing: {AGAIN}")
    state = TrainingState(found, stage, step, done, moments)
    if wrong := checkpoint.problem(found):
        raise CheckpointError(f"{path}: {wrong}")
    if content.get("digest") != state._digest():
        raise CheckpointError(f"{path}: damaged: its contents do not have the digest that it gives: {AGAIN}")
    return state
