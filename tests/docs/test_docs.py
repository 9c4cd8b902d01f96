"""The documentation agrees with the program."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from avprep_cli.main import main
from click.testing import CliRunner

from avprep.errors import REASONS

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "cli.md"


def commands(group: click.Group = main, path: tuple[str, ...] = ()) -> list[tuple[str, click.Command]]:
    """Every command with its full name, groups included."""
    found = []
    for name in group.list_commands(click.Context(group)):
        command = group.commands[name]
        found.append((" ".join((*path, name)), command))
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
    return found


def reference() -> str:
    """The reference page, generated from the commands' own help."""
    parts = ["# Commands\n\nMade from each command's `--help`; to renew it run `python tests/docs/test_docs.py`.\n"]
    for name, command in commands():
        top = click.Context(main, info_name="avprep", terminal_width=100, **main.context_settings)
        text = command.get_help(click.Context(command, info_name=name, parent=top))
        parts.append(f"## avprep {name}\n\n```\n{text}\n```\n")
    return "\n".join(parts)


def test_the_reference_page_is_the_commands_help() -> None:
    """docs/cli.md contains the current help of every command."""
    # In a process of its own: click keeps a command's help option once its help was requested.
    command = [sys.executable, __file__, "--show"]
    shown = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True).stdout
    assert REFERENCE.read_text(encoding="utf-8") == shown, "run python tests/docs/test_docs.py"


def test_the_map_of_the_code_is_true() -> None:
    """Each file and folder of the source that CONTRIBUTING.md names by its path exists."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:avprep|davs_model|cli|tests)/[\w/.]+)`", page)
    assert len(named) > 20
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_every_command_and_option_is_explained(name: str) -> None:
    """Each command has a help text, and so has each of its options."""
    command = dict(commands())[name]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts[0]}"


@pytest.mark.parametrize("name", ["", *(name for name, _ in commands())])
def test_help_fits_a_terminal_of_80_columns(name: str) -> None:
    """No help line, examples included, has more than 80 characters, and no command's summary is truncated."""
    text = CliRunner().invoke(main, [*name.split(), "--help"], env={"COLUMNS": "80"}).output
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert not re.search(r"[a-z,:]\.\.\.$", text, re.MULTILINE)


def test_commands_are_grouped() -> None:
    """`avprep --help` lists every command once, on a line of its own, in its section."""
    text = CliRunner().invoke(main, ["--help"], env={"COLUMNS": "80"}).output
    tail = text[text.index("\nData:") :]
    assert re.findall(r"^(\w+):$", tail, re.MULTILINE) == ["Data", "Cluster", "Look", "Model", "Tools"]
    assert re.findall(r"^  ([\w-]+)  +[A-Z].*[.]$", tail, re.MULTILINE) == main.list_commands(click.Context(main))


def test_readme_and_docs_name_only_real_commands_and_options() -> None:
    """Every `avprep …` line in the documentation parses: the command and its options exist."""
    known = dict(commands())
    for page in (
        ROOT / "README.md",
        *(ROOT / "docs" / f"{name}.md" for name in ("shards", "model", "training", "results")),
        ROOT / "manifests" / "README.md",
    ):
        for line in re.findall(r"^ +avprep (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            words = line.split("#")[0].split()
            name = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
            assert name in known, f"{page.name}: avprep {line}"
            options = {option for parameter in known[name].params for option in parameter.opts}
            for word in words:
                if word.startswith("-"):
                    assert word in options, f"{page.name}: avprep {line}"


def test_every_reason_is_documented() -> None:
    """The reasons of failed clips are those that docs/shards.md lists, with the same meaning."""
    text = (ROOT / "docs" / "shards.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", text, re.MULTILINE))
    assert listed.items() >= REASONS.items()


@pytest.mark.parametrize("source", ["stages/crop.py", "stages/mfcc.py", "media/video.py"])
def test_every_fact_of_a_sample_is_documented(source: str) -> None:
    """docs/shards.md describes each name under which the source of a column records something."""
    text = (ROOT / "docs" / "shards.md").read_text(encoding="utf-8")
    recorded = re.findall(r'"(\w+)":', (ROOT / "avprep" / source).read_text(encoding="utf-8"))
    assert recorded
    assert {name for name in recorded if f"`{name}`" not in text} == set()


if __name__ == "__main__":
    if "--show" in sys.argv:
        sys.stdout.buffer.write(reference().encode("utf-8"))
    else:
        REFERENCE.write_text(reference(), encoding="utf-8")
