"""docs/model.md agrees with the model."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from davs_model import checkpoint, released
from davs_model.models.davs import losses, networks
from davs_model.models.davs.networks import DAVS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "model.md").read_text(encoding="utf-8")


def rows(after: str) -> list[list[str]]:
    """Cells of the table under a heading, without its header."""
    section = PAGE.split(f"## {after}\n")[1].split("\n## ")[0]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return found[2:]


def test_the_table_of_networks_is_true() -> None:
    """The page lists every network with its released name and its number of parameters at width 1."""
    model = checkpoint.skeleton("davs", {"n_people": 2, "n_speakers": 2})
    modules = {type(module).__name__: module for module in model.children()}
    listed = {}
    for symbol, _, name, released_name, millions in rows("Networks"):
        listed[name.strip("`")] = (symbol, released_name.strip("`"), millions)
    assert listed.keys() == modules.keys()
    attributes = {type(module).__name__: attribute for attribute, module in model.named_children()}
    for name, (_, released_name, millions) in listed.items():
        assert hasattr(networks, name)
        if released_name == "–":
            continue
        assert released.NETWORKS[released_name] == attributes[name]
        assert f"{sum(p.numel() for p in modules[name].parameters()) / 1e6:.2f} M" == millions


def test_the_table_of_losses_is_true() -> None:
    """The page lists every loss once, and says for each whether the released form differs."""
    listed = {row[1].strip("`"): row[3] for row in rows("Losses")}
    public = {
        name
        for name, function in inspect.getmembers(losses, inspect.isfunction)
        if function.__module__ == losses.__name__ and name.endswith(("_loss", "_confusion"))
    }
    assert listed.keys() == public
    for name, difference in listed.items():
        has_forms = "form" in inspect.signature(getattr(losses, name)).parameters
        only_released = name in ("stillness_loss", "speech_person_confusion")
        assert has_forms == (difference not in ("the same", "not published", "absent", "")) or only_released, name
    for name, factor in re.findall(r"`(\w+)` .*× ([\d,]+) \|$", PAGE, re.MULTILINE):
        if name != "reconstruction_loss":
            assert losses.RELEASED_WEIGHTS[name.removesuffix("_loss")] == float(factor.replace(",", ""))


def test_the_python_lines_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python lines on the page run unchanged, given a checkpoint."""
    monkeypatch.chdir(tmp_path)
    checkpoint.save(Path("runs/released"), checkpoint.Checkpoint.of(DAVS(n_words=3, width=0.05), {}))
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)  # noqa: S102 - our own page
    assert getattr(names["frames"], "shape", None) == (1, 25, 3, 256, 256)
