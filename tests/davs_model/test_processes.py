"""Two processes that train one model: a checkpoint covers the clips of both, whichever of them writes it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import on_other_device
import pytest
import torch
import two_processes
from tiny_shards import make_shards

from davs_model import models
from davs_model.training.distributed import World

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of each of two processes; neither waits for the other indefinitely."""
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, two_processes.__file__]
    given: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    given["env"] = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [subprocess.Popen([*command, str(number), str(folder)], **given) for number in range(2)]
    try:
        said = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    return [torch.load(folder / f"{number}.pt") for number in range(2)]


def test_mean_expressions_are_of_all_clips(found: list[dict[str, Any]]) -> None:
    """Both processes have exactly the same means, over all clips, although one process once had no clips to add."""
    first, second = (one["expressions"] for one in found)
    alone = two_processes.expressions(World())
    assert first["seen"].tolist() == second["seen"].tolist() == alone["seen"].tolist() == [2, 4, 2, 8]
    assert torch.equal(first["means"], second["means"])
    assert torch.allclose(first["means"], alone["means"], atol=1e-5)


@pytest.mark.parametrize("kind", [name for name, _, _ in two_processes.LAYERS])
def test_batchnorm_is_of_all_values(found: list[dict[str, Any]], kind: str) -> None:
    """BatchNorm on the CPU weights every value equally, although one process has three times as many as the other."""
    first, second = (one["normalised"][kind] for one in found)
    alone = two_processes.normalised(World())[kind]
    output = torch.cat((first.pop("output"), second.pop("output")))
    assert torch.allclose(output, alone.pop("output"), atol=1e-5)
    assert first.keys() == alone.keys()
    for name, wanted in alone.items():
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(first[name], wanted, atol=1e-5), name


TRAIN = """
import hashlib, os, sys
from pathlib import Path
from davs_model import models
from davs_model.training import loop
from davs_model.training.step import StageTrainer
take = StageTrainer.step

def step(self, number, *rest):
    found = take(self, number, *rest)
    digest = hashlib.sha256()
    for name, tensor in self.model.state_dict().items():
        digest.update(tensor.numpy().tobytes())
    print(f"{self.stage.name} {number}: {digest.hexdigest()} in {os.environ['RANK']}\\n", end="", flush=True)
    return found

StageTrainer.step = step
name, out, run, *overrides = sys.argv[1:]
kind = models.find(name)
settings = kind.Settings.resolve("small", None, overrides)
loop.train([Path(out)], Path(run), settings, stages=tuple(kind.stages), say=lambda line: None)
"""
"""Trains all stages; says the digest of all weights and buffers after every step."""


@pytest.mark.slow
@pytest.mark.parametrize("model", ["amie", "etgan"])
def test_two_processes_have_the_same_weights(model: str, tmp_path: Path) -> None:
    """After each step of every stage of the other models, two processes have the same weights and buffers."""
    out, program = tmp_path / "out", tmp_path / "train.py"
    make_shards(out, clips=16, people=3, emotions=("happy", "neutral", "sad") if model == "etgan" else ())
    program.write_text(TRAIN, encoding="utf-8")
    overrides = (*on_other_device.MODELS[model], "data.batch_size=4", "data.workers=0", "machine.threads=1")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    command = (sys.executable, *torchrun, str(program), model, str(out), str(tmp_path / "run"), *overrides)
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (re.findall(rf"^(\w+ \d+: \w+) in {rank}$", done.stdout, re.MULTILINE) for rank in range(2))
    assert first == second
    stages = models.find(model).Settings.resolve("small", None, overrides).steps.model_dump()
    assert len(set(first)) == sum(stages.values())
