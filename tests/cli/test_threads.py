"""`--threads`: the number of threads that compute on a CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator

import click
import pytest
import torch
from avprep_cli import options
from avprep_cli.main import main
from click.testing import CliRunner


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore threads and environment afterwards."""
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_WAIT_POLICY", "x")  # so that it is restored
    monkeypatch.delenv("OMP_WAIT_POLICY")
    yield
    torch.set_num_threads(before)


@click.command()
@options.device
@options.threads
def calculate(device: str) -> None:
    """Print the number of threads that torch has."""
    options.chosen_device(device)
    click.echo(f"{torch.get_num_threads()} {os.environ['OMP_WAIT_POLICY']}")  # noqa: TID251 - the test's own words


def test_it_is_heeded() -> None:
    """torch uses the given number of threads, which sleep while they wait; without the option it keeps its own."""
    assert CliRunner().invoke(calculate, ["--threads", "3"]).output == "3 PASSIVE\n"
    torch.set_num_threads(2)
    assert CliRunner().invoke(calculate).output == "2 PASSIVE\n"


def test_who_chose_how_threads_wait_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """OMP_WAIT_POLICY of the environment is kept."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert CliRunner().invoke(calculate).output.split()[1] == "ACTIVE"


@pytest.mark.parametrize("command", ["evaluate", "generate", "study", "sync"])
def test_every_command_that_calculates_has_it(command: str) -> None:
    """Commands that run a model besides other work have an option for the number of threads."""
    assert "--threads" in {name for param in main.commands[command].params for name in param.opts}
