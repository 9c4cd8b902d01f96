"""`avprep bench` measures what training does, and every result has its place; no test asserts a speed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from command_line import call
from small_models import SMALL
from tiny_shards import make_shards

import avprep.demo.bench
from avprep.demo import synthetic
from avprep.errors import RunError
from davs_model.benchmarks import training
from davs_model.models.davs import Settings
from davs_model.models.davs.stages import STAGES
from davs_model.training import loop
from davs_model.training.step import StageTrainer

TINY = [word for setting in SMALL for word in ("--set", setting)]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of shards; read-only."""
    return make_shards(tmp_path_factory.mktemp("bench") / "shards")


@pytest.fixture(autouse=True)
def _few_threads(one_thread: None) -> None:
    """Compute in one thread."""


def settings(*overrides: str) -> Settings:
    """The smallest settings."""
    return Settings.resolve("small", None, (*SMALL, *overrides))


class TestTraining:
    """`davs_model.benchmarks.training`."""

    @pytest.mark.slow
    def test_every_stage(self, out: Path) -> None:
        """Each stage has its speed, its floor, the parts of a step and the hours of an epoch of LRW."""
        result = training.bench_train(out, settings(), steps=1, repeat=1)
        assert [row.stage for row in result.stages] == list(STAGES)
        for row in result.stages:
            assert row.clips_per_s == pytest.approx(4 / row.step_s)
            assert row.ratio == pytest.approx(row.step_s / row.floor_s)
            assert tuple(row.parts) == training.PARTS
            assert all(seconds > 0 for seconds in row.parts.values())
            assert sum(row.shares.values()) == pytest.approx(1)
            assert row.lrw_epoch_h == pytest.approx(488_766 / row.clips_per_s / 3600)
            assert row.memory_mib is None
            assert re.search(rf"^{row.stage} .* {row.lrw_epoch_h:.1f}$", result.table(), re.MULTILINE)

    @pytest.mark.slow
    def test_its_steps_are_those_of_training(self, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A measured pass begins with the losses of a training run with these settings."""
        found: list[dict[str, float]] = []
        step = StageTrainer.step

        def watched(self: StageTrainer, *arguments: object) -> dict[str, torch.Tensor]:
            values = step(self, *arguments)  # type: ignore[arg-type]
            found.append({name: float(value) for name, value in values.items()})
            return values

        monkeypatch.setattr(StageTrainer, "step", watched)
        training.bench_train(out, settings(), stages=("speech",), steps=1, repeat=1)
        measured = found[:2]
        found.clear()
        loop.train(out, tmp_path / "run", settings(), stages=("speech",), say=lambda _: None)
        assert measured == found[:2]

    def test_one_speaker(self, tmp_path: Path) -> None:
        """Clips of one person leave out the identity stage, with the reason; requested alone, it is refused."""
        shards = make_shards(tmp_path / "shards", people=1)
        result = training.bench_train(shards, settings(), stages=("identity", "speech"), steps=1, repeat=1)
        assert [row.stage for row in result.stages] == ["speech"]
        assert "identity: left out: " in result.table()
        with pytest.raises(RunError, match="its clips are of 1 labelled people"):
            training.bench_train(shards, settings(), stages=("identity",), steps=1, repeat=1)

    def test_too_few_clips(self, out: Path) -> None:
        """A batch larger than the number of clips gives a one-line error, for training and for loading."""
        for bench in (
            lambda few: training.bench_train(out, few, stages=("speech",)),
            lambda few: training.bench_load(out, few, "speech"),
        ):
            with pytest.raises(RunError, match=r"12 clips .* fewer than a batch of 16"):
                bench(settings("data.batch_size=16"))


class TestCommand:
    """The command line."""

    def test_load(self, out: Path) -> None:
        """The result has the two rates, their ratio and ten readings of memory for the requested stage."""
        arguments = ("--batch", 4, "--workers", 1, "--repeat", 1, "--batches", 10)
        result = call("bench", "load", "--shards", out, *arguments, "--stage", "speech", "--json")
        assert result.exit_code == 0, result.output
        (found,) = json.loads(result.stdout)["load"]
        assert found["ratio"] == pytest.approx(found["decoded_per_s"] / found["clips_per_s"])
        assert found["frames_per_clip"] == 12
        assert found["lrw_epoch_h"] == pytest.approx(488_766 / found["clips_per_s"] / 3600)
        assert len(found["memory_mib"]) == 10
        assert all(value > 0 for value in found["memory_mib"])

    def test_train(self, out: Path) -> None:
        """Settings, batch, workers and device are those of the options."""
        arguments = ("--batch", 6, "--workers", 0, "--device", "cpu", "--steps", 1, "--repeat", 1, "--json")
        result = call("bench", "train", "--shards", out, *TINY, *arguments, "--stage", "speech")
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)["train"]
        assert [row["stage"] for row in found["stages"]] == ["speech"]
        assert found["settings"]["model"]["width"] == 0.05
        assert found["settings"]["data"] | {"batch_size": 6, "workers": 0} == found["settings"]["data"]
        assert found["settings"]["machine"]["device"] == "cpu"

    @pytest.mark.slow
    def test_everything_on_clips_of_ones_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Videos without labels are made into shards, and everything is measured on them, with one JSON member each."""
        monkeypatch.setattr(avprep.demo.bench, "PACED", 1)
        for n in range(2):
            frames, samples = synthetic.utterance("ABOUT", synthetic.speaker(n), n)
            synthetic.write_clip(tmp_path / f"{n}.mp4", frames, samples)
        little = ("--repeat", 1, "--steps", 1, "--batches", 10, "--batch", 2, "-j", 1, "--stage", "full")
        result = call("bench", "--clips", tmp_path, "--detector", "opencv", *TINY, *little, "--json")
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        assert list(found) == ["crop", "mfcc", "load", "train"]
        assert (found["crop"]["name"], found["crop"]["detector"], found["mfcc"]["name"]) == ("crop", "opencv", "mfcc")
        assert [row["stage"] for row in found["train"]["stages"]] == ["full"]

    def test_a_busy_machine_is_told_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A busy machine is reported before anything is measured, not together with the first result."""
        monkeypatch.setattr(avprep.demo.bench, "busy", lambda: "this machine is busy")
        result = call("bench", "crop", "--clips", tmp_path)
        assert (result.exit_code, result.stderr.splitlines()[0]) == (1, "this machine is busy")

    def test_mistakes_are_one_line(self, out: Path) -> None:
        """A wrong setting, or a device that is missing, gives one clear line."""
        result = call("bench", "train", "--shards", out, "--set", "model.widht=1")
        assert (result.exit_code, result.stderr) == (
            1,
            "Error: --set: no setting model.widht; did you mean model.width?\n",
        )
        if not torch.cuda.is_available():
            for what in ("train", "all"):  # for all commands, before crop and mfcc are measured
                result = call("bench", what, "--shards", out, "--device", "cuda")
                assert (result.exit_code, result.stderr) == (
                    1,
                    "Error: machine.device = cuda: torch sees no CUDA device here\n",
                )
