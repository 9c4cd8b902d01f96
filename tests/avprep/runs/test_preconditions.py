"""The requirements of a run are checked before OUT is touched, so that a failed first attempt fixes nothing."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from command_line import assert_one_line, call

from avprep import auto, manifest
from avprep.errors import AvprepError, WeightsError
from avprep.faces import detectors, weights
from avprep.runs import run
from avprep.stages import CropSettings, CropStage


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of weights, whatever weights this machine has."""
    monkeypatch.setenv("AVPREP_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


class TestWeights:
    """Weights of the detector."""

    @pytest.mark.parametrize("options", [[], ["--dry-run"]], ids=["run", "dry"])
    def test_missing(self, lrw: Path, tmp_path: Path, empty: Path, options: list[str]) -> None:
        """Without weights crop ends in a line that says how to get them; OUT is not made, so any detector can come."""
        result = call("crop", lrw / "plan.jsonl", tmp_path / "out", "--detector", "yunet", *options)
        assert_one_line(result, 1, "avprep weights fetch yunet")
        assert not (tmp_path / "out").exists()

    def test_another_file(self, lrw: Path, tmp_path: Path, empty: Path) -> None:
        """Weights with another digest are noticed at the same point."""
        (empty / weights.known()["yunet"].file).write_bytes(b"something else")
        result = call("crop", lrw / "plan.jsonl", tmp_path / "out", "--detector", "yunet")
        assert_one_line(result, 1, "has the sha256", "not the pinned")
        assert not (tmp_path / "out").exists()

    def test_the_library_does_the_same(self, lrw: Path, tmp_path: Path, empty: Path) -> None:
        """The same holds for library calls: nothing is written before the weights are there."""
        plan = manifest.read(lrw / "plan.jsonl")
        with pytest.raises(WeightsError, match="weights fetch yunet"):
            run.run(CropStage(plan.root, CropSettings("yunet")), plan, tmp_path / "out", jobs=1)
        assert not (tmp_path / "out").exists()

    def test_a_started_folder_stays_as_it_is(self, lrw: Path, tmp_path: Path, empty: Path) -> None:
        """A failed attempt in a folder with one column fixes no detector: auto means what it meant before."""
        out = tmp_path / "out"
        assert call("mfcc", lrw / "plan.jsonl", out, "-j", 1, "--limit", 1).exit_code == 0
        assert_one_line(call("crop", out / "manifest.jsonl", out, "--detector", "yunet"), 1, "weights fetch yunet")
        assert not (out / "crop").exists()
        dry = call("crop", out / "manifest.jsonl", out, "--dry-run", "--json")
        assert json.loads(dry.stdout)["settings"]["detector"] == "opencv"


def test_a_package_that_is_missing(lrw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector whose package is not installed gives one line that says what to install; OUT is not made."""
    real = importlib.util.find_spec

    def without(name: str, *arguments: Any) -> Any:
        return None if name == "onnxruntime" else real(name, *arguments)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    result = call("crop", lrw / "plan.jsonl", tmp_path / "out", "--detector", "yunet")
    assert_one_line(result, 1, "yunet needs onnxruntime", "pip install onnxruntime")
    assert not (tmp_path / "out").exists()


def test_every_detector_can_be_asked(empty: Path) -> None:
    """opencv needs nothing else; a name that does not exist is refused."""
    detectors.require("opencv")
    with pytest.raises(AvprepError, match="no detector is called x"):
        detectors.require("x")


class TestAuto:
    """The fallback of `auto`."""

    def test_it_says_what_is_lost(self, lrw: Path, tmp_path: Path, empty: Path) -> None:
        """If auto is opencv, one line says what is lost and how to get it."""
        result = call("crop", lrw / "plan.jsonl", tmp_path / "out", "--dry-run")
        assert result.exit_code == 0, result.output
        (line,) = [line for line in result.stderr.splitlines() if "frontal" in line]
        assert "no mouth points" in line
        assert "`avprep weights fetch yunet`" in line

    def test_who_asks_for_opencv_knows(self, lrw: Path, tmp_path: Path, empty: Path) -> None:
        """No line appears if opencv was asked for, or is what OUT has."""
        plan = manifest.read(lrw / "plan.jsonl")
        options = ("crop", lrw / "plan.jsonl", tmp_path / "out", "--detector", "opencv", "--dry-run")
        assert "frontal" not in call(*options).stderr
        run_json = tmp_path / "out/crop/run.json"
        run_json.parent.mkdir(parents=True)
        run_json.write_text(json.dumps({"shard_size": 500, "settings": {"detector": "opencv", "subject": "largest"}}))
        given: dict[str, Any] = {**vars(CropSettings()), "detector": "auto"}
        assert auto.crop_settings(plan.dataset, tmp_path / "out", given).detector == "opencv"
        assert "frontal" not in call("crop", lrw / "plan.jsonl", tmp_path / "out", "--dry-run").stderr
