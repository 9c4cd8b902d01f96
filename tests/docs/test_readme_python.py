"""The Python of the README runs as written, and does what its text says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import made_media as made
import pytest
import skimage.data
from small_models import made_model

import avprep
import davs_model
from davs_model import api, checkpoint
from davs_model.checkpoint import Checkpoint

ROOT = Path(__file__).resolve().parents[2]
ALIGN = "0 8000 sil\n8000 20000 bin\n20000 29000 sil\n"

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_readme_s_python(lrw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines index, fill, verify and read two clips of GRID, train, load and write a video of a talking photo."""
    clips = sorted(path for path in (lrw / "corpus").rglob("*.mp4") if path.stat().st_size > 100)
    for clip, name in zip(clips, ("bbaf2n", "lbij7s"), strict=False):
        place = tmp_path / "grid" / "s1" / f"{name}.mpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, place)
        place.with_suffix(".align").write_text(ALIGN)
    photo = cv2.cvtColor(skimage.data.astronaut(), cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(tmp_path / "photo.jpg"), photo)
    made.write_wav(tmp_path / "speech.wav", made.noise(0.6, 16_000), 16_000)
    trained: list[Any] = []

    def train(out: Path, run: Path, settings: Any, **others: Any) -> dict[str, Any]:
        """Stand in for hours of training."""
        trained.append((out, settings.preset, others["stages"]))
        checkpoint.save(run, Checkpoint.of(made_model(), {"mfcc_preset": "davs", "steps": {"full": 1}}))
        return {}

    monkeypatch.setattr(api.loop, "train", train)
    monkeypatch.setenv("AVPREP_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    exec(code.replace("/data/grid", str(tmp_path / "grid")), {})  # noqa: S102 - our own page
    assert [sample.word for sample in avprep.open("out")] == ["bin", "bin"]
    assert trained == [([Path("out")], "small", ["identity", "speech", "full"])]
    assert made.probe(tmp_path / "talking.mp4").duration == pytest.approx(0.6, abs=0.05)


def test_the_readme_is_the_packages_docstring() -> None:
    """The docstrings of both packages contain exactly the lines of the README."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    for package in (avprep, davs_model):
        lines = [line.strip() for line in re.findall(r"^    (.*)$", package.__doc__ or "", re.MULTILINE)]
        assert len(lines) >= 4
        assert set(lines) <= {line.strip() for line in code.splitlines()}


def test_the_citation_names_this_version() -> None:
    """CITATION.cff has the version of the package."""
    assert f"\nversion: {avprep.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
