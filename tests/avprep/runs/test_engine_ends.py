"""How a run ends on general failures: the same error again and again, inputs that never respond."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing import synchronize
from pathlib import Path
from typing import Any

import pytest
import stand_ins
from stuck_files import stuck_file
from test_run import alive, launch, no_orphans, records, rubbish, tars, wait_until, write_plan

from avprep import manifest, shards, stages
from avprep.errors import RunError
from avprep.manifest import Clip
from avprep.quality import verify
from avprep.runs import pool, run, status
from avprep.stages import CropSettings, CropStage, MfccSettings, MfccStage

pytestmark = pytest.mark.interpreters


class TestTheSameError:
    """An internal error in clip after clip ends the run."""

    MESSAGE = r"^stopped, [4-9] of \d+ shards done, since 20 clips in a row .* \(ValueError: a bad number \(stand_ins"

    @pytest.mark.parametrize("jobs", [1, 3])
    def test_twenty_in_a_row(self, tmp_path: Path, jobs: int) -> None:
        """After 20 clips in a row, in the manifest's order, a run with any number of workers stops with one line."""
        with pytest.raises(RunError, match=self.MESSAGE) as caught:
            stand_ins.start(["ok", "raise", "reject", "ok", "ok"] + ["raise"] * 500, tmp_path, jobs=jobs, shard_size=6)
        assert "\n" not in str(caught.value)
        assert 4 <= len(tars(tmp_path)) < 15
        assert rubbish(tmp_path) == []

    def test_it_can_be_run_again(self, tmp_path: Path) -> None:
        """Finished clips stay, and the same command continues after the failure."""
        words = ["raise"] * 50
        for done in (4, 8):
            with pytest.raises(RunError, match=rf"^stopped, {done} of 10 shards done"):
                stand_ins.start(words, tmp_path, jobs=1)
        outcome = stand_ins.start(words, tmp_path, jobs=1)
        assert (outcome.ok, outcome.failed) == (0, {"error": 50})
        assert verify.verify(tmp_path) == []

    def test_other_ends_in_between(self, tmp_path: Path) -> None:
        """Errors with other results between them, or at different places, do not stop the run."""
        words = ["raise"] * 19 + ["reject"] + ["raise"] * 19 + ["ok"] + ["raise", "memory"] * 20 + ["reject"] * 30
        outcome = stand_ins.start(words, tmp_path)
        assert outcome.clips == len(words)

    def test_clips_that_are_passed_over(self) -> None:
        """The count follows the clips' numbers, not the order in which they end."""
        for order in (range(20), range(19, -1, -1), [*range(1, 20, 2), *range(0, 20, 2)]):
            streak = run._Streak()
            assert [streak.add(n, "fault") for n in order] == [False] * 19 + [True]


class TestStuck:
    """A process that cannot be killed, for example one that waits for a network file system."""

    @pytest.fixture(autouse=True)
    def immortal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make kills as ineffective as in uninterruptible sleep."""
        monkeypatch.setattr(pool, "PATIENCE", 0.3)
        monkeypatch.setattr(subprocess.Popen, "kill", lambda _: None)

    def test_its_clip_is_given_up(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """The clip ends as a timeout, another worker does the rest, and the process is named with its video."""
        outcome = stand_ins.start(["ok", "hang", "ok", "ok"], tmp_path, jobs=1, clip_timeout=1)
        (pid, video), *others = outcome.stuck  # the others are idle
        try:
            assert (outcome.ok, outcome.failed) == (3, {"timeout": 1})
            assert video == "1.mp4"
            assert f"process {pid} (1.mp4)" in capfd.readouterr().err
            assert verify.verify(tmp_path) == []
            os.kill(pid, 0)
        finally:
            for number in (pid, *(number for number, _ in others)):
                os.kill(number, signal.SIGKILL)

    def test_too_many(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Processes do not accumulate without limit: the run is stopped."""
        monkeypatch.setattr(run, "_MAX_STUCK", 2)
        started: list[Any] = []
        start = pool.Pool._start
        monkeypatch.setattr(pool.Pool, "_start", lambda self: started.append(start(self)) or started[-1])
        try:
            with pytest.raises(RunError, match="too many processes hang in the kernel"):
                stand_ins.start(["hang"] * 9, tmp_path, jobs=1, clip_timeout=0.3)
        finally:
            for worker in started:
                os.kill(worker.process.pid, signal.SIGKILL)


class TestUninterruptible:
    """A real case: a file system that has received a request and never answers."""

    @pytest.fixture
    def file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """A file whose opening no signal interrupts."""
        with stuck_file(tmp_path / "mount") as path:
            monkeypatch.setenv(stand_ins.FILE, str(path))
            yield path

    @pytest.mark.usefixtures("file")
    def test_the_run_goes_on_and_ends(self, tmp_path: Path) -> None:
        """The clip is a timeout, the others are ok, the process is named, and the run's own process ends."""
        plan, out = write_plan(tmp_path / "plan.jsonl", ["ok", "open", "ok", "ok", "open", "ok"]), tmp_path / "out"
        process = launch(plan, out, "--clip-timeout", 2)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert [record.get("reason", "ok") for record in records(out)] == ["ok", "timeout", "ok", "ok", "timeout", "ok"]
        assert len(alive(process.pid)) == 2
        (line,) = [line for line in errors.splitlines() if "stuck in the kernel" in line]
        named = re.findall(r"(\d+) \((\d\.mp4)\)", line)
        assert {int(pid) for pid, _ in named} == set(alive(process.pid))
        assert sorted(video for _, video in named) == ["1.mp4", "4.mp4"]
        assert rubbish(out) == []
        assert verify.verify(out) == []

    @pytest.mark.usefixtures("file")
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_it_can_be_stopped(self, tmp_path: Path, number: signal.Signals) -> None:
        """A signal ends the run within seconds even if both workers are stuck."""
        plan, out = write_plan(tmp_path / "plan.jsonl", ["ok"] * 5 + ["open"] * 5), tmp_path / "out"
        process = launch(plan, out)
        wait_until(lambda: sum(waits_in_the_kernel(pid) for pid in alive(process.pid)) == 2)
        begin = time.monotonic()
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
        assert time.monotonic() - begin < 8
        assert process.returncode == 1
        assert f"stopped by {number.name}, 1 of 2 shards done" in errors
        assert "stuck in the kernel" in errors
        assert "Traceback" not in errors
        assert rubbish(out) == []


def waits_in_the_kernel(pid: int) -> bool:
    """Return whether a process waits for a FUSE server."""
    return Path(f"/proc/{pid}/wchan").read_text() == "request_wait_answer"


class TestTime:
    """The time limit of a clip."""

    def test_it_grows_with_the_clip(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """By default a long clip gets ten times its length, a short one the minimum; the message gives the limit."""
        monkeypatch.setattr(run.worker, "CLIP_TIMEOUT", 1.0)
        clips = [
            Clip(f"a{n}", f"{n}.mp4", "train", word="hang", start=0, duration=d) for n, d in enumerate((0.01, 0.3))
        ]
        plan = manifest.Manifest("stand-ins", Path("/nowhere"), tuple(clips))
        outcome = stand_ins.start([], tmp_path, plan=plan, jobs=2, clip_timeout=None)
        assert outcome.failed == {"timeout": 2}
        short, long = records(tmp_path)
        assert (short["message"], short["seconds"]) == ("stopped after 1 s; try --clip-timeout 5", 1.0)
        assert (long["message"], long["seconds"]) == ("stopped after 3 s; try --clip-timeout 15", 3.0)
        assert status.status(tmp_path)[0].longest_timeout == 3.0

    def test_how_long_a_clip_is(self, lrw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A clip's length is that in the manifest, else that in its file's header, up to the stage's maximum."""
        clips = sorted((lrw / "corpus").rglob("*.mp4"))
        (broken,) = [path.name for path in clips if path.read_bytes() == b"not a video"]
        whole = Clip("a", clips[-1].name, "train")
        for make, settings in ((CropStage, CropSettings(max_seconds=5)), (MfccStage, MfccSettings(max_seconds=5))):
            stage: Any = make(clips[-1].parent, settings)  # type: ignore[operator]
            assert stage.seconds(whole) is None  # a small file
            with monkeypatch.context() as patch:
                patch.setattr(stages, "_LARGE", 10_000)
                assert 1.1 < stage.seconds(whole) < 1.5
            assert stage.seconds(Clip("a", "none.mp4", "train", duration=2.5)) == 2.5
            assert stage.seconds(Clip("a", "none.mp4", "train", duration=9.0)) == 5
            assert stage.seconds(Clip("a", "none.mp4", "train")) is None
            assert stage.seconds(Clip("a", broken, "train")) is None

    def test_what_is_given_is_exact(self, tmp_path: Path) -> None:
        """--clip-timeout is not extended by a clip's length."""
        clip = Clip("a", "1.mp4", "train", word="hang", start=0, duration=1000)
        plan = manifest.Manifest("stand-ins", Path("/nowhere"), (clip,))
        stand_ins.start([], tmp_path, plan=plan, clip_timeout=0.5)
        assert records(tmp_path)[0]["seconds"] == 0.5

    def test_a_clock_that_is_set(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A wall clock that jumps back an hour gives no negative seconds, and a clip that hangs still times out."""
        wall, calls = time.time, iter(range(10_000))
        monkeypatch.setattr(time, "time", lambda: wall() - 3600 * next(calls))
        outcome = stand_ins.start(["ok", "hang", "ok"], tmp_path, clip_timeout=1)
        assert (outcome.ok, outcome.failed) == (2, {"timeout": 1})
        head = shards.read_sidecar_head(tmp_path, "mfcc", "train-000000")
        assert head is not None
        assert 0 < head["timings"]["wall_seconds"] < 60


class TestRunAgain:
    """The record of clips that failed again."""

    def test_it_is_recorded(self, tmp_path: Path) -> None:
        """A clip that fails for the same reason when run again is marked, and counted in the sidecar's head."""
        words = ["ok", "raise", "segv", "ok"]
        stand_ins.start(words, tmp_path)
        assert status.status(tmp_path)[0].again == {}
        stand_ins.start(words, tmp_path, retry=frozenset({"error"}))
        (found,) = status.status(tmp_path)
        assert (found.reasons, found.again) == ({"crashed": 1, "error": 1}, {"error": 1})
        stand_ins.start(words, tmp_path, retry=frozenset({"crashed"}))
        assert status.status(tmp_path)[0].again == {"crashed": 1, "error": 1}
        assert verify.verify(tmp_path) == []


def test_no_semaphore_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a run nor its progress bar makes a lock in shared memory, which a kill of the group would leave."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a semaphore")

    monkeypatch.setattr(synchronize.SemLock, "__init__", refuse)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert stand_ins.start(["ok"] * 3, tmp_path).ok == 3


def test_a_hangup_that_is_ignored(tmp_path: Path) -> None:
    """After `nohup`, closing the terminal does not end the run."""
    plan, out = write_plan(tmp_path / "plan.jsonl", ["ok"] * 40 + ["slow"] * 3), tmp_path / "out"
    process = launch(plan, out, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    wait_until(lambda: list(out.glob("mfcc/train-*.json")))
    os.killpg(process.pid, signal.SIGHUP)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    no_orphans(process.pid)
    assert verify.verify(out) == []
