"""Models on a device other than the CPU, which works without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent


def run(*arguments: str) -> None:
    """Run a program in Python, for which the modules of the tests can be imported; it must end well."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS / "davs_model"), str(TESTS)])}
    done = subprocess.run([sys.executable, *arguments], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("davs", "amie", "etgan")]


@pytest.mark.parametrize("model", ["sync", *SLOW])
def test_nothing_mixes_the_device_with_the_cpu(model: str, tmp_path: Path) -> None:
    """Training, resuming, evaluation, generation and tuning keep all tensors of a step on the model's device."""
    run(str(TESTS / "davs_model/on_other_device.py"), model, str(tmp_path))
    assert (tmp_path / "run" / "checkpoint.safetensors").is_file()


def test_mixing_is_noticed() -> None:
    """The device of these tests refuses what a GPU refuses."""
    program = """
import torch, on_other_device as other
other.prepare()
with other.OtherDevice():
    ours, cpu = torch.ones(2, 3).to("meta"), torch.ones(2, 3)
    assert type(ours + 1) is type(ours @ ours.T) is other.OtherTensor
    assert torch.equal((ours + ours).cpu(), 2 * cpu)
    for wrong in (lambda: ours + cpu, lambda: torch.stack([cpu, ours]), lambda: ours.numpy(), lambda: cpu[ours > 0]):
        try:
            wrong()
        except TypeError:
            continue
        raise SystemExit("not noticed")
"""
    run("-c", program)
