"""Commands run in this process, and the required form of their errors."""

from __future__ import annotations

from pathlib import Path

import click
from avprep_cli.main import main
from click.testing import CliRunner, Result


def commands(group: click.Group, *before: str) -> list[tuple[tuple[str, ...], click.Command]]:
    """Return every command with the words that invoke it."""
    found = []
    for name, command in group.commands.items():
        found.append(((*before, name), command))
        if isinstance(command, click.Group):
            found += commands(command, *before, name)
    return found


ALL = commands(main)


def call(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def contents(folder: Path) -> dict[str, int]:
    """Return the files below a folder with the times of their last changes."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def assert_one_line(result: Result, status: int, *parts: str) -> None:
    """Assert that a command ended as documented, with one error line and no traceback."""
    assert result.exit_code == status, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, result.stderr
    assert result.stderr.endswith(lines[0] + "\n")
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    for part in parts:
        assert part in lines[0]
