"""How many threads compute on a CPU, and how they wait for each other."""

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
    """Restore threads and environment afterwards, and begin without any choice."""
    before = torch.get_num_threads()
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "x")  # so that it is restored
        monkeypatch.delenv(name)
    yield
    torch.set_num_threads(before)


@click.command()
@options.device
@options.threads
def calculate(device: str) -> None:
    """Print the number of threads that torch has."""
    options.chosen_device(device)
    click.echo(torch.get_num_threads())  # noqa: TID251 - the test's own words


def test_it_is_heeded() -> None:
    """torch uses the given number of threads; without the option it keeps its own."""
    assert CliRunner().invoke(calculate, ["--threads", "3"]).output == "3\n"
    torch.set_num_threads(2)
    assert CliRunner().invoke(calculate).output == "2\n"


def spins(monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Return the limit of libgomp's busy-waiting that a command sees."""
    found = []
    seen = click.Command("seen", callback=lambda: found.append(os.environ.get("GOMP_SPINCOUNT")))
    monkeypatch.setitem(main.commands, "seen", seen)
    CliRunner().invoke(main, ["seen"])
    return found[0]


def test_threads_of_every_command_busy_wait_only_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command limits libgomp's busy-waiting before it loads torch."""
    assert spins(monkeypatch) == "1000"


@pytest.mark.parametrize(
    ("name", "value", "expected"), [("GOMP_SPINCOUNT", "7", "7"), ("OMP_WAIT_POLICY", "ACTIVE", None)]
)
def test_who_chose_how_threads_wait_is_heeded(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str | None
) -> None:
    """A choice in the environment is kept."""
    monkeypatch.setenv(name, value)
    assert spins(monkeypatch) == expected


@pytest.mark.parametrize("command", ["evaluate", "generate", "study", "sync"])
def test_every_command_that_calculates_has_it(command: str) -> None:
    """Commands that run a model besides other work have an option for the number of threads."""
    assert "--threads" in {name for param in main.commands[command].params for name in param.opts}
