"""The benchmark measures what it says; no test asserts a speed."""

from __future__ import annotations

from pathlib import Path

import pytest

from avprep import bench, synthetic
from avprep.errors import RunError


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two clips."""
    root = tmp_path_factory.mktemp("clips")
    for n in range(2):
        frames, samples = synthetic.utterance("ABOUT", synthetic.speaker(n), n)
        synthetic.write_clip(root / f"{n}.mp4", frames, samples)
    return root


def test_every_step_has_a_floor(clips: Path) -> None:
    """Crop and mfcc are measured over the same clips as their floors, and shown with their ratio."""
    result = bench.bench(clips, "opencv", repeat=1)
    assert result.clips == 2
    assert result.frames == 58
    assert {step.name for step in result.steps} == {"crop", "mfcc"}
    for step in result.steps:
        assert step.seconds > 0
        assert step.ratio == pytest.approx(step.seconds / step.floor_seconds, abs=1e-3)
        assert step.floor in result.table()


def test_the_sound_floor_decodes_everything(clips: Path) -> None:
    """The floor of mfcc reads all the sound that the clip holds."""
    assert bench.decode_sound(clips / "0.mp4") >= synthetic.SAMPLES
    assert bench.decode_sound(clips / "0.mp4", resample=False) >= synthetic.SAMPLES


def test_a_folder_without_usable_clips_is_refused(tmp_path: Path) -> None:
    """Videos that cannot be used to measure with end in one line."""
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(RunError, match="none of 1 clips"):
        bench.bench(tmp_path, "opencv", repeat=1)
