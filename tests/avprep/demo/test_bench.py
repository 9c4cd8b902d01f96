"""The benchmark measures what it claims to measure; no test asserts a speed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import av
import pytest

from avprep.demo import bench, speech, synthetic
from avprep.errors import RunError
from avprep.manifest import Manifest
from avprep.runs import progress


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two clips."""
    root = tmp_path_factory.mktemp("clips")
    for n in range(2):
        frames, samples = synthetic.utterance("ABOUT", synthetic.speaker(n), n)
        synthetic.write_clip(root / f"{n}.mp4", frames, samples)
    return root


@pytest.fixture
def plan(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    """The two clips to measure with, of which a few runs are made."""
    monkeypatch.setattr(bench, "PACED", 1)
    return bench.plan_of(clips, tmp_path, 24)


def assert_whole(result: bench.Result, floors: int) -> None:
    """Every figure is there, and the figures are consistent with each other."""
    assert (result.clips, result.frames) == (2, 58)
    assert len(result.floors) == floors
    for floor in result.floors:
        assert floor.ratio == pytest.approx(result.seconds / floor.seconds, rel=1e-6)  # of a single pass
        assert f"{floor.ratio:.2f} × {floor.name}" in result.table()
        assert floor.cpu_ratio == pytest.approx(result.cpu_seconds / floor.cpu_seconds, rel=1e-6)
        assert f"; {floor.cpu_ratio:.2f} × in CPU time" in result.table()
    assert all(seconds > 0 for seconds in result.steps.values())
    assert list(result.clips_per_s) == [1, 2]
    assert result.scaling == result.clips_per_s[2] / result.clips_per_s[1]
    frames_per_s = result.clips_per_s[2] * 29
    assert result.projected_h["LRW"] == pytest.approx(538_766 * 29 / frames_per_s / 3600)
    assert result.projected_h["VoxCeleb2"] == pytest.approx(2_442 * 3600 * 25 / frames_per_s / 3600)
    found = result.to_json()
    assert found["shares"] == {name: seconds / result.seconds for name, seconds in result.steps.items()}


@pytest.mark.parametrize(
    ("load", "beside", "said"),
    [
        (0.1, {}, None),
        (3.9, {}, None),
        (4.0, {}, "load average 4.0 on 8 cores)"),
        (0.1, {"ffmpeg": 1, "python": 3}, "load average 0.1 on 8 cores; running beside: ffmpeg, 3 × python)"),
    ],
)
def test_a_busy_machine_is_told(load: float, beside: dict[str, int], said: str | None) -> None:
    """The machine is busy if half of its cores are in use, or if another process runs; the line names the cause."""
    line = bench.busy_line(load, 8, beside)
    assert line is None if said is None else said in str(line)


def test_a_process_that_runs_beside_is_seen() -> None:
    """A process that computes is listed as one that keeps the machine busy; the benchmark's own process is not."""
    with subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=-1) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            running = {number for _ in range(20) for number, _ in bench._running()}
        finally:
            process.kill()
    assert process.pid in running
    assert os.getpid() not in running


@pytest.mark.slow
def test_crop_is_measured_step_by_step(plan: Manifest) -> None:
    """The result for crop has its steps, two floors over the same clips, its processes and its projections."""
    result = bench.bench_crop(plan, "opencv", repeat=1, jobs=2)
    assert list(result.steps) == ["decode", "detect", "track", "warp", "encode", "write", "IPC"]
    assert_whole(result, floors=2)
    assert "crop with opencv: 2 clips, 58 frames (2 s)" in result.table()


def test_mfcc_is_measured_step_by_step(plan: Manifest) -> None:
    """The result for mfcc has the same parts."""
    result = bench.bench_mfcc(plan, repeat=1, jobs=2)
    assert list(result.steps) == ["decode", "windows", "write", "IPC"]
    assert_whole(result, floors=2)


def test_what_takes_minutes_shows_how_far_it_is(
    plan: Manifest, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Passes and runs are counted against their totals on standard error, and nothing goes to standard output."""
    monkeypatch.setattr(progress, "LINE_EVERY", 0)
    bench.bench_mfcc(plan, repeat=1, jobs=2)
    out, err = capfd.readouterr()
    assert out == ""
    steps = [line for line in err.splitlines() if line.startswith("avprep bench mfcc: ")]
    assert [line.split(", ")[0] for line in steps] == [f"avprep bench mfcc: {n}/12 steps" for n in range(1, 13)]
    assert re.search(r"^avprep mfcc: 5/5 clips, .*, 0 failed, ETA 00:00$", err, re.MULTILINE)
    assert re.search(r"^avprep mfcc: 10/10 clips, .*, 0 failed, ETA 00:00$", err, re.MULTILINE)


def test_the_sound_floor_decodes_everything(clips: Path) -> None:
    """The floor of mfcc reads all audio of the clip."""
    assert bench.decode_sound(clips / "0.mp4") >= speech.SAMPLES
    assert bench.decode_sound(clips / "0.mp4", resample=False) >= speech.SAMPLES


def test_clips_are_cut_to_the_shape_of_lrw(clips: Path, tmp_path: Path) -> None:
    """Each video gives a clip of 29 frames (or as many as it has) of 256×256 with audio; the videos stay unchanged."""
    before = {path: path.read_bytes() for path in clips.iterdir()}
    plan = bench.plan_of(clips, tmp_path, 24, as_lrw=True)
    assert len(plan.clips) == 2
    for clip in plan.clips:
        with av.open(str(plan.root / clip.video)) as container:
            assert container.streams.audio
            assert container.streams.video[0].codec_context.name == "h264"
            frames = list(container.decode(video=0))
        assert {(frame.width, frame.height) for frame in frames} == {(256, 256)}
        assert len(frames) in (28, 29)  # the audio is longer than the video, so its middle is later
    assert before == {path: path.read_bytes() for path in clips.iterdir()}


def test_a_folder_without_usable_clips_is_refused(tmp_path: Path) -> None:
    """Videos that the benchmark cannot use end it with a one-line error."""
    (tmp_path / "a.mp4").write_bytes(b"no video")
    plan = bench.plan_of(tmp_path, tmp_path, 24)
    for measure in (
        lambda: bench.bench_crop(plan, "opencv", repeat=1, jobs=1),
        lambda: bench.bench_mfcc(plan, repeat=1, jobs=1),
    ):
        with pytest.raises(RunError, match="none of 1 clips"):
            measure()
