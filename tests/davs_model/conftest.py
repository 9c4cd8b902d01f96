"""Checkpoints and shards that several test files use."""

from __future__ import annotations

from pathlib import Path

import pytest
import released_form
from checkpoint_files import DOMAIN, SMALL, lived_in
from tiny_shards import make_shards
from torch import Tensor

from davs_model import checkpoint
from davs_model.checkpoint import Checkpoint


@pytest.fixture(scope="session")
def domain() -> dict[str, Tensor]:
    """The tensors of the smallest released network; read-only."""
    return released_form.fill({DOMAIN: {**released_form.layout()[DOMAIN]}})[DOMAIN]


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An avprep checkpoint with a small model; read-only."""
    note = {"source": {"form": "made"}, "mfcc_preset": "davs", "odds": [1, 2.5, None, True, "ß"]}
    return checkpoint.save(tmp_path_factory.mktemp("ours"), Checkpoint.of(lived_in(SMALL), note))


@pytest.fixture(scope="session")
def whole(ours: Path) -> Checkpoint:
    """That checkpoint, loaded; read-only."""
    return checkpoint.load(ours)


@pytest.fixture(scope="session")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny shards; read-only."""
    return make_shards(tmp_path_factory.mktemp("shards"), clips=8)
