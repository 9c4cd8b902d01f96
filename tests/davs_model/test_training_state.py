"""Training states: everything is restored bit by bit, and an invalid or unsuitable file costs a line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import SMALL, lived_in, refusal, same
from command_line import assert_one_line, call
from torch import Tensor

from avprep.errors import CheckpointError
from davs_model import checkpoint
from davs_model.checkpoint import Checkpoint
from davs_model.training import state as states
from davs_model.training.state import TrainingState

pytestmark = pytest.mark.usefixtures("one_thread")
PARAMETER = "word_classifier.fc2.bias"


@pytest.fixture(scope="module")
def state() -> TrainingState:
    """A state between two steps of the speech stage; read-only."""
    made = Checkpoint.of(lived_in(SMALL), {"words": ["a", "b", "c"], "training": {"seed": 0}})
    moments = {
        f"all/{PARAMETER}/step": torch.tensor(7.0),
        f"all/{PARAMETER}/exp_avg": torch.tensor([1e-30, -2.0, 3.0]),
        f"all/{PARAMETER}/exp_avg_sq": torch.tensor([4.0, 5.0, 6.0]),
    }
    return TrainingState(made, "speech", 7, {"identity": 4, "speech": 7}, moments)


@pytest.fixture(scope="module")
def read(state: TrainingState, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of its file; read-only."""
    folder = tmp_path_factory.mktemp("state")
    states.save(folder, state)
    return checkpoint.read(folder / states.NAME, states.KIND)


def loaded(run: Path) -> TrainingState:
    """The state of a run whose last file is intact."""
    found = states.load(run)
    assert found is not None
    assert found[1] == ""
    return found[0]


def test_a_state_comes_back_bit_by_bit(tmp_path: Path, state: TrainingState) -> None:
    """Weights, moments, steps and stage are restored, and a second save writes the same bytes."""
    states.save(tmp_path / "one", state)
    found = loaded(tmp_path / "one")
    assert same(found.checkpoint, state.checkpoint)
    assert (found.stage, found.step, found.done) == (state.stage, state.step, state.done)
    assert found.moments.keys() == state.moments.keys()
    assert all(tensor.equal(state.moments[name]) for name, tensor in found.moments.items())
    states.save(tmp_path / "other", found)
    one, other = (tmp_path / name / states.NAME for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()


def test_the_state_before_it_stays_beside_it(tmp_path: Path, state: TrainingState) -> None:
    """The second save keeps the first file, which is used with a message if the last one is damaged or missing."""
    states.save(tmp_path, state)
    states.save(tmp_path, replace(state, step=8))
    assert loaded(tmp_path).step == 8
    path = tmp_path / states.NAME
    path.write_bytes(path.read_bytes()[:-1])
    found = states.load(tmp_path)
    assert found is not None
    assert found[0].step == 7
    assert found[1].startswith(f"{path}: not a training state of avprep, or damaged (")
    path.unlink()
    assert loaded(tmp_path).step == 7
    (tmp_path / states.PREVIOUS).unlink()
    assert states.load(tmp_path) is None


def test_a_state_is_no_checkpoint_and_a_checkpoint_no_state(tmp_path: Path, state: TrainingState) -> None:
    """A state is refused as a checkpoint and a checkpoint as a state, and neither is imported."""
    states.save(tmp_path / "run", state)
    path = tmp_path / "run" / states.NAME
    assert refusal(checkpoint.load, path).endswith("not a checkpoint of avprep")
    assert_one_line(call("import-checkpoint", path, tmp_path / "new"), 1, "a checkpoint of avprep already")
    checkpoint.save(tmp_path, state.checkpoint)
    (tmp_path / checkpoint.NAME).rename(tmp_path / states.NAME)
    with pytest.raises(CheckpointError, match=r"not a training state of avprep$"):
        states.load(tmp_path)


@pytest.mark.parametrize("field", ["stage", "step", "done", "model"])
@pytest.mark.parametrize("value", [None, 5.5, True, [1], {"speech": "1"}], ids=repr)
def test_a_field_of_another_type_is_refused(
    tmp_path: Path, read: tuple[dict[str, Any], dict[str, Tensor]], field: str, value: object
) -> None:
    """A state with an invalid stage or number of steps is refused in one line."""
    header, tensors = read
    checkpoint.write(tmp_path / states.NAME, states.KIND, header | {field: value}, tensors)
    with pytest.raises(CheckpointError, match="damaged: a part of it is missing"):
        states.load(tmp_path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda moments: {name: tensor for name, tensor in moments.items() if not name.endswith("exp_avg_sq")},
        lambda moments: {name.replace("fc2", "fc9"): tensor for name, tensor in moments.items()},
        lambda moments: {name: tensor.double() for name, tensor in moments.items()},
        lambda moments: {name: tensor.reshape(1, -1).clone() for name, tensor in moments.items()},
        lambda moments: {**moments, "": torch.zeros(1)},
        lambda moments: {**moments, "/": torch.zeros(1)},
    ],
)
def test_moments_that_do_not_fit_are_refused(
    tmp_path: Path, state: TrainingState, spoil: Callable[[dict[str, Tensor]], dict[str, Any]]
) -> None:
    """Moments of no parameter, of another shape or incomplete ones are refused in one line."""
    states.save(tmp_path, replace(state, moments=spoil(state.moments)))
    with pytest.raises(CheckpointError, match="the moments do not fit the weights"):
        states.load(tmp_path)


def test_a_state_that_is_not_finite_is_not_saved(tmp_path: Path, state: TrainingState) -> None:
    """A NaN in a moment is named, and the previous state stays."""
    states.save(tmp_path, state)
    bad = {**state.moments, f"all/{PARAMETER}/exp_avg": torch.full((3,), float("nan"))}
    with pytest.raises(CheckpointError, match=rf"not written: all/{PARAMETER}/exp_avg is not finite"):
        states.save(tmp_path, replace(state, moments=bad))
    assert loaded(tmp_path).step == 7
