"""Training runs that are interrupted and resumed."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from davs_model import checkpoint
from davs_model.training import state as states


@contextmanager
def after(stage: str, step: int) -> Iterator[None]:
    """Interrupt training in this context as soon as its state after this step is saved."""
    save = states.save

    def saving(folder: Path, state: states.TrainingState) -> None:
        save(folder, state)
        if (state.stage, state.step) == (stage, step):
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(states, "save", saving)
        try:
            yield
        except KeyboardInterrupt:
            return
    pytest.fail(f"training did not come to step {step} of {stage}")


@contextmanager
def kept(places: Mapping[tuple[str, int], Path]) -> Iterator[None]:
    """Copy the folder of training in this context at each stage and step, as a kill after that step would leave it."""
    save = states.save

    def saving(folder: Path, state: states.TrainingState) -> None:
        save(folder, state)
        if (state.stage, state.step) in places:
            shutil.copytree(folder, places[state.stage, state.step])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(states, "save", saving)
        yield


def assert_same_bytes(one: Path, other: Path, names: tuple[str, ...] = (checkpoint.NAME, states.NAME)) -> None:
    """Assert that these files of two runs hold the same bytes."""
    for name in names:
        first, second = (hashlib.sha256((run / name).read_bytes()).hexdigest() for run in (one, other))
        assert first == second, name
