"""Two processes that train one model: a checkpoint covers the clips of both, whichever of them writes it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
import two_processes

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
