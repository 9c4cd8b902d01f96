"""Optional extras: the base makes shards without them, and a command that needs one ends in one line."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from avprep_cli.main import EXTRAS, OPTIONAL, SECTIONS

from avprep.faces import detectors

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DETECTORS = [detectors.module(name) for name in detectors.NAMES]
OF_DETECTORS = {
    imported: package for found in DETECTORS for package, imported in getattr(found, "PACKAGES", {}).items()
}
"""Packages that detectors name themselves, by import name."""
SCRIPT = """
import json, sys
from importlib import metadata

imported, distributions, commands = json.loads(sys.argv[1])
sys.modules |= dict.fromkeys(imported)
version = metadata.version
def version_of(name):
    if name in distributions:
        raise metadata.PackageNotFoundError(name)
    return version(name)
metadata.version = version_of
from avprep_cli.main import main

for words in commands:
    try:
        main(words)
    except SystemExit as end:
        print("\\x1e%d" % (end.code or 0), file=sys.stderr)
"""
"""Runs commands, one after the other, as if some packages had never been installed: without modules and versions.

After each, its exit status stands on standard error, behind a record separator.
"""


def base(*commands: tuple[object, ...]) -> list[tuple[int, str]]:
    """Run commands without the packages of the extras; return the exit status and the remarks of each."""
    without = (*OPTIONAL, "dlib")
    distributions = [OPTIONAL.get(name, OF_DETECTORS.get(name)) for name in without]
    given = json.dumps((without, distributions, [[str(word) for word in words] for words in commands]))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, given],
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *ended, rest = re.split(r"\x1e(\d+)\n", done.stderr)
    assert rest == ""
    return [(int(status), said) for said, status in zip(ended[::2], ended[1::2], strict=True)]


def names(requirements: list[str]) -> set[str]:
    """Return the distributions that requirements name."""
    return {re.split(r"[>=<\[;]", requirement)[0] for requirement in requirements}


def test_the_base_makes_shards(lrw: Path, tmp_path: Path) -> None:
    """Without any package of the extras, shards are made, verified, counted, reported on and benchmarked."""
    out, plan = tmp_path / "out", tmp_path / "plan.jsonl"
    commands = (
        ("index", "lrw", lrw / "corpus", "-o", plan),
        ("crop", plan, out, "-j", 1),
        ("mfcc", plan, out, "-j", 1),
        ("verify", out, "-j", 1),
        ("status", out),
        ("report", out, "-o", tmp_path / "report.html"),
        ("weights", "list"),
        ("bench", "mfcc", "--clips", lrw / "corpus", "--repeat", 1, "--limit", 2, "-j", 1),
    )
    for words, (status, said) in zip(commands, base(*commands), strict=True):
        assert status == 0, f"{words[0]}: {said}"


LACKING = [
    (("train", "OUT", "RUN"), r"avprep train needs \w+, which is not installed: pip install 'avprep[model]'"),
    (("demo", "RUN"), "avprep demo needs torch, which is not installed: pip install 'avprep[demo]'"),
    (("demo", "NEW", "--train-steps", "0"), "avprep demo needs scikit-image, .* pip install 'avprep[demo]'"),
    (("bench", "crop"), r"avprep bench needs \S+, which is not installed: pip install 'avprep[all]'"),
    (
        ("crop", "PLAN", "NEW", "--subject", "speaking", "--sync", "OUT"),
        "avprep crop needs torch, .* pip install 'avprep[model]'",
    ),
    (("slurm", "sync", "OUT", "--model", "OUT"), "avprep slurm needs torch, .* pip install 'avprep[model]'"),
    (("crop", "PLAN", "NEW", "--detector", "face-alignment"), "needs torch, .* pip install 'avprep[gpu]'"),
    (
        ("crop", "PLAN", "NEW", "--detector", "dlib"),
        "dlib needs dlib-bin, .* pip install 'avprep[dlib]'",
    ),
    (
        ("crop", "PLAN", "NEW", "--detector", "dlib", "--dry-run"),
        "dlib needs dlib-bin, .* pip install 'avprep[dlib]'",
    ),
]
"""Commands whose package is missing, and how the line ends that says so."""


@pytest.fixture(scope="module")
def lacking(lrw: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, str, Path]]:
    """The exit status and the remarks of each of these commands, and the path of its output."""
    commands, new = [], []
    for words, _ in LACKING:
        folder = tmp_path_factory.mktemp("lacking")
        (folder / "OUT").mkdir()
        places = {"PLAN": lrw / "plan.jsonl", **{name: folder / name for name in ("OUT", "RUN", "NEW")}}
        commands.append(tuple(places.get(word, word) for word in words))
        new.append(folder / "NEW")
    return [(*ended, place) for ended, place in zip(base(*commands), new, strict=True)]


@pytest.mark.parametrize("number", range(len(LACKING)), ids=[" ".join(words) for words, _ in LACKING])
def test_a_missing_extra_is_one_line(number: int, lacking: list[tuple[int, str, Path]]) -> None:
    """A command whose package is missing ends with status 1 and one line that names the command and the extra."""
    status, said, new = lacking[number]
    assert status == 1
    last = said.splitlines()[-1]
    assert re.fullmatch("Error: .*" + LACKING[number][1].replace("[", r"\["), last), said
    assert "Traceback" not in said
    assert not new.exists()


def test_every_import_is_of_the_base_or_an_extra() -> None:
    """Each package that the source imports is in the base install, or its extra is named if it is missing."""
    base_names = {"av", "click", "cv2", "ffmpeg", "imageio_ffmpeg", "jinja2", "numpy", "onnxruntime", "PIL"}
    base_names |= {"python_speech_features", "scipy", "threadpoolctl", "tqdm"}
    assert len(base_names) == len(PROJECT["dependencies"])
    imported = set()
    for package in ("avprep", "davs_model", "cli/avprep_cli"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    imported.add((node.module or "").partition(".")[0])
    others = imported - sys.stdlib_module_names - {"avprep", "avprep_cli", "davs_model"} - base_names
    others -= {"markupsafe"}  # jinja2 requires it
    assert others - OF_DETECTORS.keys() | {"tensorboard"} == OPTIONAL.keys() - OF_DETECTORS.keys()  # torch imports it


def test_extras_hold_what_the_messages_name() -> None:
    """Every optional package is in the extra that a message names for it, and not in the base install."""
    extras = {name: names(found) for name, found in PROJECT["optional-dependencies"].items()}
    assert not names(PROJECT["dependencies"]) & set(OPTIONAL.values())
    assert set(EXTRAS) <= {name for section in SECTIONS.values() for name in section}
    of_detectors = {found.EXTRA: found.PACKAGES for found in DETECTORS if hasattr(found, "EXTRA")}
    assert set(EXTRAS.values()) | {"model", *of_detectors} == extras.keys() - {"dev"}
    for extra, packages in of_detectors.items():
        assert extras[extra] == set(packages)
    assert PROJECT["optional-dependencies"]["all"] == ["avprep[gpu,look,model,demo]"]
    installed = set().union(*(extras[name] for name in ("gpu", "look", "model", "demo")))
    assert installed - {"avprep"} <= set(OPTIONAL.values())
