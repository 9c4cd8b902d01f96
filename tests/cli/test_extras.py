"""What only an extra installs: the base makes shards without it, and a command that needs it ends in one line."""

from __future__ import annotations

import ast
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
import sys
from importlib import metadata

imported, distributions = %r, %r
sys.modules |= dict.fromkeys(imported)
version = metadata.version
def version_of(name):
    if name in distributions:
        raise metadata.PackageNotFoundError(name)
    return version(name)
metadata.version = version_of
from avprep_cli.main import main

main()
"""
"""Runs a command as if some packages had never been installed: without a module, and without a version."""


def base(*arguments: object, without: tuple[str, ...] = (*OPTIONAL, "dlib")) -> subprocess.CompletedProcess[str]:
    """Run a command where some packages cannot be imported; by default all that only extras install."""
    distributions = {OPTIONAL.get(name, OF_DETECTORS.get(name)) for name in without}
    words = [sys.executable, "-c", SCRIPT % (without, distributions), *map(str, arguments)]
    return subprocess.run(words, env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True, check=False)


def names(requirements: list[str]) -> set[str]:
    """The distributions that requirements name."""
    return {re.split(r"[>=<\[;]", requirement)[0] for requirement in requirements}


def test_the_base_makes_shards(lrw: Path, tmp_path: Path) -> None:
    """Without any package of the extras, shards are made, verified, counted and reported on, and their making timed."""
    out = tmp_path / "out"
    assert base("index", "lrw", lrw / "corpus", "-o", tmp_path / "plan.jsonl").returncode == 0
    for words in (
        ("crop", tmp_path / "plan.jsonl", out, "-j", 1),
        ("mfcc", tmp_path / "plan.jsonl", out, "-j", 1),
        ("verify", out, "-j", 1),
        ("status", out),
        ("report", out, "-o", tmp_path / "report.html"),
        ("weights", "list"),
        ("bench", "mfcc", "--clips", lrw / "corpus", "--repeat", 1, "--limit", 2, "-j", 1),
    ):
        done = base(*words)
        assert done.returncode == 0, f"{words[0]}: {done.stderr}"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("train", "OUT", "RUN"), r"avprep train needs \w+, which is not installed: pip install 'avprep[model]'"),
        (("demo", "RUN"), "avprep demo needs torch, which is not installed: pip install 'avprep[demo]'"),
        (("bench", "crop"), r"avprep bench needs \S+, which is not installed: pip install 'avprep[all]'"),
        (("crop", "PLAN", "NEW", "--detector", "face-alignment"), "needs torch, .* pip install 'avprep[gpu]'"),
        (
            ("crop", "PLAN", "NEW", "--detector", "dlib"),
            "dlib needs dlib-bin, .* pip install 'avprep[dlib]'",
        ),
        (
            ("crop", "PLAN", "NEW", "--detector", "dlib", "--dry-run"),
            "dlib needs dlib-bin, .* pip install 'avprep[dlib]'",
        ),
    ],
)
def test_a_missing_extra_is_one_line(words: tuple[str, ...], line: str, lrw: Path, tmp_path: Path) -> None:
    """A command whose package is missing ends with status 1 and one line that names the command and the extra."""
    (tmp_path / "OUT").mkdir()
    places = {"PLAN": str(lrw / "plan.jsonl"), **{name: str(tmp_path / name) for name in ("OUT", "RUN", "NEW")}}
    done = base(*(places.get(word, word) for word in words))
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch("Error: .*" + line.replace("[", r"\["), last), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "NEW").exists()


def test_every_import_is_of_the_base_or_an_extra() -> None:
    """Each package that the source imports comes with the base install, or has its extra named where it is missing."""
    base_names = {"av", "click", "cv2", "ffmpeg", "imageio_ffmpeg", "jinja2", "joblib", "numpy", "onnxruntime", "PIL"}
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
    """Every optional package is in the extra that a message would name for it, and in no base install."""
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
