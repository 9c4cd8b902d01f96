"""A new layout or detector is one new file: the command line, its help and every stage find it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import avprep

LAYOUT = '''
"""Toy: every .toy file is a clip of its own speaker."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from avprep.layouts.scan import Scan, is_video, walk
from avprep.manifest import Clip, make_key

EXPECTS = "videos"


def scan(root: Path, scan: Scan, *, loud: bool = False, tone: Literal["high", "low"] = "high", age: int = 7) -> None:
    """Make a clip of every video.

    loud: words in capitals.
    tone: the speaker's tone.
    age: the speaker's age.
    """
    for path in filter(is_video, walk(root, scan)):
        word = "TOY" if loud else "toy"
        scan.clips.append(Clip(make_key(path), path, "train", word=word, speaker=f"{tone}-{age}"))
'''

DETECTOR = '''
"""Toy: the face is always in the middle of the picture."""

from __future__ import annotations

import numpy as np

from avprep.faces.detectors.base import Face

PACKAGES = {"numpy": "numpy"}


class ToyDetector:
    """Sees the same face in every frame."""

    picture_side = 128
    search_sides = (128,)
    batch_size = 1
    close_up = None

    def detect(self, frames):
        """Find it."""
        height, width = frames.shape[1:3]
        box = np.array([0.2 * width, 0.2 * height, 0.8 * width, 0.8 * height], np.float32)
        points = np.array([[0.4, 0.4], [0.6, 0.4], [0.5, 0.5], [0.42, 0.6], [0.58, 0.6]]) * [width, height]
        return [[Face(box, 1.0, points.astype(np.float32))] for _ in frames]

    detect_close = detect


build = ToyDetector
'''


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package, to which a file is added."""
    (source,) = avprep.__path__
    shutil.copytree(source, tmp_path / "avprep", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "avprep"


def files_of(folder: Path) -> dict[str, bytes]:
    """The source files of a package with their content."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.py")}


def run(copy: Path, *arguments: object) -> str:
    """Run `avprep` with the copied package; return its output."""
    words = [sys.executable, "-c", "from avprep_cli.main import main; main()", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(copy.parent), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "100"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, cwd=copy.parent, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_layout_is_one_file(copy: Path, lrw: Path) -> None:
    """A layout in its own file is a choice of `index` with its scan's parameters as options; no other file changes."""
    before = files_of(copy)
    (copy / "layouts" / "toy.py").write_text(LAYOUT)
    shown = run(copy, "index", "--help")
    assert "|toy|" in shown
    assert "--loud " in shown
    assert "toy: words in capitals." in shown
    assert "--tone [high|low]" in shown
    run(copy, "index", "toy", lrw / "corpus", "-o", copy.parent / "toy.jsonl", "--loud", "--tone", "low", "--age", 9)
    text = (copy.parent / "toy.jsonl").read_text()
    assert text.count('"word": "TOY", "speaker": "low-9"') == 6
    assert {name for name, content in files_of(copy).items() if before.get(name) != content} == {"layouts/toy.py"}


def test_a_detector_is_one_file(copy: Path, lrw: Path) -> None:
    """A detector in its own file is a choice of `crop` that its workers find; no other file changes."""
    before = files_of(copy)
    (copy / "faces" / "detectors" / "toy.py").write_text(DETECTOR)
    assert "opencv|toy|yunet" in run(copy, "crop", "--help")
    out = copy.parent / "out"
    run(copy, "crop", lrw / "plan.jsonl", out, "--detector", "toy", "-j", 1, "--limit", 1)
    run_json = (out / "crop" / "run.json").read_text()
    assert '"detector": "toy"' in run_json
    assert '"numpy": "' in run_json
    assert list((out / "crop").glob("*.tar"))
    changed = {name for name, content in files_of(copy).items() if before.get(name) != content}
    assert changed == {"faces/detectors/toy.py"}
