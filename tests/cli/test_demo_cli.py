"""`avprep demo` on the smallest corpora succeeds, or refuses them before it makes anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import assert_one_line, call

import avprep


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (("--words", 2, "--speakers", 2), "--speakers 2: training, validation and test need a person each"),
        (("--words", 1, "--speakers", 3), "one clip is too little to train on"),
    ],
)
def test_too_little_to_train_on(tmp_path: Path, size: tuple[object, ...], message: str) -> None:
    """A corpus on which no model can be trained is a usage error, in one line, before anything is made."""
    assert_one_line(call("demo", tmp_path / "demo", *size), 2, message, "--train-steps 0")
    assert not (tmp_path / "demo").exists()


def test_one_person_gives_shards(tmp_path: Path) -> None:
    """Without training one speaker is enough: all clips are in the train split."""
    result = call("demo", tmp_path, "--words", 1, "--speakers", 1, "--train-steps", 0, "-j", 1)
    assert result.exit_code == 0, result.output
    assert [sample.split for sample in avprep.open(tmp_path / "shards")] == ["train"]


def test_a_small_corpus_is_a_small_batch(tmp_path: Path) -> None:
    """If there are fewer training clips than the demo's batch size, all of them form one batch."""
    result = call("demo", tmp_path, "--words", 2, "--speakers", 3, "--train-steps", 1, "-j", 1)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "talking.mp4").is_file()
