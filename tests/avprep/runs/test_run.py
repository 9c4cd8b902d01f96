"""Runs: the same bytes whatever happens, every clip accounted for, nothing left behind. Real processes, real kills.

Runs in processes of their own, and tests with the fixture `interpreters`, start workers as users do. The others fork
them: these are about what a run leaves in its folder, which is the same from both (`test_number_of_workers`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import forked
import pytest
import stand_ins

from avprep import manifest, shards, signals
from avprep.demo import synthetic
from avprep.errors import REASONS, AvprepError, RunError
from avprep.layouts import index
from avprep.quality import verify
from avprep.runs import fingerprint, run, status, workfolder
from avprep.runs.filling import OpenShard
from avprep.runs.pool import Ended, Pool
from avprep.shards import writer

TESTS = Path(__file__).parents[2]
AVPREP = [str(Path(sys.executable).with_name("avprep"))]
SESSION = 3  # field of /proc/PID/stat after the command's name


def tars(out: Path) -> dict[str, bytes]:
    """Return the bytes of every tar below a run's folder."""
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*.tar"))}


def rubbish(out: Path) -> list[str]:
    """Return the contents of a run's folder that do not belong there."""
    allowed = ("manifest.jsonl", "crop", "mfcc")
    inside = [path for path in out.rglob("*") if path.is_dir() or path.suffix not in (".tar", ".json")]
    return [str(path) for path in inside if path.name not in allowed]


def records(out: Path) -> list[dict[str, Any]]:
    """Return the record of every clip of the mfcc column, in plan order."""
    names = sorted(path.stem for path in (out / "mfcc").glob("*-*.json"))
    sidecars = [shards.read_sidecar(out, "mfcc", name) for name in names]
    return [clip for sidecar in sidecars if sidecar is not None for clip in sidecar["clips"]]


def write_plan(path: Path, words: list[str]) -> Path:
    """Write a manifest of stand-ins."""
    path.write_text(manifest.render(stand_ins.plan(words)), encoding="utf-8")
    return path


def launch(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Start the stand-ins' run in a session of its own, as a shell or a scheduler would."""
    command = [sys.executable, str(TESTS / "stand_ins.py"), *map(str, arguments)]
    options = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)} | options  # though `nohup` runs this
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, **options)


def alive(session: int) -> list[int]:
    """Return the processes of a session that still run."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, *fields = entry.read_text().rpartition(")")[2].split()
            if int(fields[SESSION - 1]) == session and state not in "ZX":
                found.append(int(entry.parent.name))
    return found


def wait_until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    """Wait for something that must happen."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def no_orphans(session: int) -> None:
    """Assert that a dead run's workers die too."""
    try:
        wait_until(lambda: not alive(session), 10)
    finally:
        for number in alive(session):
            os.kill(number, signal.SIGKILL)


def killed(command: list[str], out: Path, column: str, length: float, chance: random.Random) -> bool:
    """Start a run and kill -9 it at random: after a while, or when some more files are there.

    Only the run itself is killed, or its whole group at once, or its processes one by one, workers first, as some
    schedulers do. Returns whether it was killed before it was through.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    if chance.random() < 0.5:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0, length))
    else:
        enough = len(list(out.glob(f"{column}/*"))) + chance.randint(0, 6)
        wait_until(lambda: process.poll() is not None or len(list(out.glob(f"{column}/*"))) >= enough, 60)
    alive_still = process.poll() is None
    match chance.choice(["run", "group", "one by one"]) if alive_still else "":
        case "run":
            process.kill()
        case "group":
            os.killpg(process.pid, signal.SIGKILL)
        case "one by one":
            for number in sorted(alive(process.pid), reverse=True):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
    process.wait()
    no_orphans(process.pid)
    process.communicate()
    return alive_still


WORDS = ["ok", "ok", "reject", "ok", "raise", "ok", "ok"] * 12


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One uninterrupted run with one worker."""
    out = tmp_path_factory.mktemp("once")
    stand_ins.start(WORDS, out, jobs=1)
    return out


def same_as(once: Path, out: Path) -> None:
    """Assert that a run over WORDS ended like an uninterrupted one, whatever happened to it."""
    assert tars(out) == tars(once)
    assert rubbish(out) == []
    assert verify.verify(out) == []
    ends = [[(record["key"], record.get("reason")) for record in records(folder)] for folder in (once, out)]
    assert ends[0] == ends[1]


class TestSameBytes:
    """The same manifest, settings and versions give the same tars."""

    @pytest.mark.usefixtures("interpreters")
    def test_number_of_workers(self, once: Path, tmp_path: Path) -> None:
        """One worker and three write the same tars, whether workers are forked or new interpreters."""
        stand_ins.start(WORDS, tmp_path, jobs=3)
        assert tars(tmp_path) == tars(once)
        assert rubbish(tmp_path) == rubbish(once) == []

    def test_number_of_tasks(self, once: Path, tmp_path: Path) -> None:
        """Tasks that divide the work write together the same tars as one task alone; some tasks may have no work."""
        outcomes = [stand_ins.start(WORDS, tmp_path, task_index=task, num_tasks=3) for task in range(3)]
        assert [len(outcome.planned) for outcome in outcomes] == [6, 6, 5]
        assert tars(tmp_path) == tars(once)
        outcomes = [stand_ins.start(WORDS, tmp_path, task_index=task, num_tasks=19) for task in range(19)]
        assert [len(outcome.planned) for outcome in outcomes] == [1] * 17 + [0] * 2

    def test_kill_9(self, once: Path, tmp_path: Path) -> None:
        """A run that is killed ten times loses nothing, doubles nothing and leaves neither files nor processes."""
        plan, out = write_plan(tmp_path / "plan.jsonl", WORDS), tmp_path / "out"
        command = [sys.executable, str(TESTS / "stand_ins.py"), str(plan), str(out)]
        begin = time.monotonic()
        subprocess.run([*command[:3], str(tmp_path / "timed")], check=True, stderr=subprocess.DEVNULL)
        length, chance = time.monotonic() - begin, random.Random(1)
        assert sum(killed(command, out, "mfcc", length, chance) for _ in range(10)) > 0
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        same_as(once, out)

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", [11, 12])
    def test_two_hundred_kills(self, once: Path, tmp_path: Path, seed: int) -> None:
        """After a hundred kills for each seed finished work is kept, and the result is the same."""
        plan, chance = write_plan(tmp_path / "plan.jsonl", WORDS), random.Random(seed)
        command = [sys.executable, str(TESTS / "stand_ins.py"), str(plan)]
        begin = time.monotonic()
        subprocess.run([*command, str(tmp_path / "timed")], check=True, stderr=subprocess.DEVNULL)
        length, kills = time.monotonic() - begin, 0
        for n in itertools.count():  # another folder whenever a run completes
            out, done = tmp_path / f"out-{n}", dict[str, int]()
            while killed([*command, str(out)], out, "mfcc", length, chance):
                kills += 1
                now = {path.name: path.stat().st_mtime_ns for path in out.glob("mfcc/train-*.json")}
                assert done.items() <= now.items()
                done = now
            same_as(once, out)
            shutil.rmtree(out)
            if kills >= 100:
                break

    def test_two_runs_at_once(self, once: Path, tmp_path: Path) -> None:
        """Two simultaneous runs of the same command end well and with the same bytes."""
        plan, out = write_plan(tmp_path / "plan.jsonl", WORDS), tmp_path / "out"
        both = [launch(plan, out) for _ in range(2)]
        errors = [process.communicate(timeout=60)[1] for process in both]
        assert [process.returncode for process in both] == [0, 0], errors
        assert tars(out) == tars(once)
        assert rubbish(out) == []
        assert verify.verify(out) == []

    def test_done_is_not_done_again(self, once: Path) -> None:
        """A finished run that is started again touches nothing and counts everything."""
        before = {path: path.stat().st_mtime_ns for path in once.rglob("*") if path.is_file()}
        outcome = stand_ins.start(WORDS, once)
        assert {path: path.stat().st_mtime_ns for path in once.rglob("*") if path.is_file()} == before
        assert (outcome.clips, outcome.ok, outcome.failed) == (0, 60, {"error": 12, "no_face": 12})
        assert len(outcome.skipped) == len(outcome.planned) == 17

    @pytest.mark.parametrize("damage", ["tar", "cut", "no-tar", "no-sidecar", "sidecar", "state"])
    def test_damage_is_made_good(self, once: Path, tmp_path: Path, damage: str) -> None:
        """A shard whose tar or sidecar is damaged or missing is made again, and only that one."""
        out = shutil.copytree(once, tmp_path / "out")
        tar, sidecar = out / "mfcc/train-000003.tar", out / "mfcc/train-000003.json"
        match damage:
            case "tar":
                tar.write_bytes(tar.read_bytes().replace(b"a", b"b", 1))
            case "cut":
                tar.write_bytes(tar.read_bytes()[:-512])
            case "no-tar":
                tar.unlink()
            case "no-sidecar":
                sidecar.unlink()
            case "sidecar":
                sidecar.write_bytes(sidecar.read_bytes()[:-9])
            case "state":
                sidecar.write_text(sidecar.read_text().replace('"state": "ok"', '"state": "well"', 1))
        outcome = stand_ins.start(WORDS, out)
        assert outcome.clips == 5
        assert tars(out) == tars(once)
        assert verify.verify(out) == []


class TestMeanwhile:
    """Shards that another run finished in the meantime are kept."""

    def test_the_faster_one_wins(self, once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A shard that another run completes first stays as that run made it."""
        finish = OpenShard.finish

        def late(self: OpenShard, digest: str, size: int) -> dict[str, Any]:
            for path in (once / "mfcc").glob("train-000002.*"):
                shutil.copy(path, tmp_path / "mfcc")
            return finish(self, digest, size)

        monkeypatch.setattr(OpenShard, "finish", late)
        outcome = stand_ins.start(WORDS, tmp_path)
        theirs, ours = ((folder / "mfcc/train-000002.json").read_bytes() for folder in (once, tmp_path))
        assert theirs == ours
        assert (outcome.ok, outcome.failed) == (60, {"error": 12, "no_face": 12})
        same_as(once, tmp_path)

    def test_what_is_damaged_is_no_reason_to_give_way(self, once: Path, tmp_path: Path) -> None:
        """A shard that was already damaged is replaced, even if a sidecar exists in its place."""
        out = shutil.copytree(once, tmp_path / "out")
        (out / "mfcc/train-000002.tar").write_bytes(b"")
        assert stand_ins.start(WORDS, out).clips == 5
        same_as(once, out)

    def test_a_folder_of_another_user(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A read-only run.json does not keep a run from finishing shards."""
        monkeypatch.setattr(workfolder.os, "access", lambda *_: False)
        assert stand_ins.start(["ok"], tmp_path).ok == 1


WIDE = ("ok", "reject", "ok", "ok") * 10


@pytest.fixture(scope="module")
def by_parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards whose tars the run made itself."""
    out = tmp_path_factory.mktemp("by-parent")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "FEW", 1000)
        stand_ins.start(WIDE, out, jobs=2, shard_size=20)
    return out


class TestTarsByWorkers:
    """The tar of a shard of more than a few clips is made by a worker."""

    def test_the_same_bytes(self, by_parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The worker's tars equal those that the run itself would make, and nothing else is left."""
        own: list[str] = []
        string = OpenShard.string
        monkeypatch.setattr(OpenShard, "string", lambda shard: own.append(shard.name) or string(shard))
        outcome = stand_ins.start(WIDE, tmp_path, jobs=2, shard_size=20)
        assert (outcome.ok, own) == (30, [])
        assert tars(tmp_path) == tars(by_parent)
        assert rubbish(tmp_path) == []
        assert verify.verify(tmp_path) == []

    @pytest.mark.usefixtures("interpreters")
    def test_a_worker_that_dies_over_it(self, by_parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The run makes the tar itself, and no clip is processed again."""
        monkeypatch.setattr(shards, "string_together", stand_ins.end_instead)
        monkeypatch.setattr(OpenShard, "string", lambda shard: writer.string_together(*shard.parts))
        outcome = stand_ins.start(WIDE, tmp_path, jobs=2, shard_size=20)
        assert (outcome.clips, outcome.ok) == (40, 30)
        assert tars(tmp_path) == tars(by_parent)
        assert rubbish(tmp_path) == []

    def test_a_full_disk(self, tmp_path: Path) -> None:
        """If the disk has no room for the tar, the run ends with one line, and leaves nothing unfinished."""
        with tiny_disk(tmp_path / "disk", "300k") as disk:
            plan, out = write_plan(tmp_path / "plan.jsonl", ["ok"] * 25), disk / "out"
            process = launch(plan, out, "--shard-size", "25")
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 1
            assert "Traceback" not in errors
            assert "cannot write (No space left on device)" in errors
            assert rubbish(out) == []
            assert tars(out) == {}


BETTER = ["ok", "hang", "reject", "ok", "ok"] * 2 + ["ok"] * 5 + ["hang", "segv", "ok", "ok", "ok"]


@pytest.fixture(scope="module")
def worse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which three clips hung and one crashed."""
    out = tmp_path_factory.mktemp("worse")
    outcome = stand_ins.start(BETTER, out, jobs=2, clip_timeout=1)
    assert outcome.failed == {"crashed": 1, "no_face": 2, "timeout": 3}
    return out


@pytest.fixture(scope="module")
def better(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run as it would have been if no clip had hung."""
    out = tmp_path_factory.mktemp("better")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(stand_ins.MERCY, "1")
        stand_ins.start(BETTER, out, jobs=1)
    return out


class TestRetry:
    """Failed clips are run again, and no others."""

    @pytest.fixture
    def out(self, worse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A copy to repair, now that no clip hangs."""
        monkeypatch.setenv(stand_ins.MERCY, "1")
        return Path(shutil.copytree(worse, tmp_path / "out"))

    def test_only_these_clips(self, out: Path, better: Path) -> None:
        """Clips that failed for the reason are run again; the others keep their record."""
        before = records(out)
        outcome = stand_ins.start(BETTER, out, retry=frozenset({"timeout"}))
        assert (outcome.clips, outcome.ok, outcome.failed) == (3, 17, {"crashed": 1, "no_face": 2})
        after = records(out)
        for old, new in zip(before, after, strict=True):
            assert (new["state"] == "ok") if old.get("reason") == "timeout" else (new == old)
        assert tars(out) == tars(better)
        assert rubbish(out) == []
        assert verify.verify(out) == []

    def test_other_shards_are_not_touched(self, out: Path) -> None:
        """Shards without such a clip are not rewritten."""
        names = ["train-000002.tar", "train-000002.json", "train-000003.tar", "train-000003.json"]
        before = [(out / "mfcc" / name).stat().st_ino for name in names]
        outcome = stand_ins.start(BETTER, out, retry=frozenset({"timeout", "unreadable"}))
        after = [(out / "mfcc" / name).stat().st_ino for name in names]
        assert [old == new for old, new in zip(before, after, strict=True)] == [True, True, False, False]
        assert outcome.skipped == ("train-000002",)

    def test_when_the_work_was_done_is_kept(self, out: Path) -> None:
        """A retry keeps a shard's start time, so that it does not affect the rate; the seconds add up."""
        before, after = [], []
        for found in (before, after):
            head = shards.read_sidecar_head(out, "mfcc", "train-000000")
            assert head is not None
            found.append(head["timings"])
            stand_ins.start(BETTER, out, retry=frozenset({"timeout"}))
        assert before[0]["started"] == after[0]["started"]
        assert before[0]["wall_seconds"] < after[0]["wall_seconds"]

    def test_what_fails_again(self, out: Path) -> None:
        """A clip that fails again is failed, and its shard is whole."""
        outcome = stand_ins.start(BETTER, out, retry=frozenset({"crashed"}), clip_timeout=1)
        assert (outcome.clips, outcome.failed) == (1, {"crashed": 1, "no_face": 2, "timeout": 3})
        assert verify.verify(out) == []

    def test_tasks_share_it(self, out: Path, better: Path) -> None:
        """Tasks of an array run the clips of their own shards again, and no others."""
        outcomes = [
            stand_ins.start(BETTER, out, retry=frozenset({"timeout"}), task_index=n, num_tasks=3) for n in range(3)
        ]
        assert [outcome.clips for outcome in outcomes] == [2, 1, 0]
        assert tars(out) == tars(better)

    @pytest.mark.parametrize("damage", ["tar", "no-sidecar"])
    def test_unfinished_shards_are_left_alone(self, out: Path, better: Path, damage: str) -> None:
        """A missing or damaged shard is not copied from; it is reported, and left to the run that makes it."""
        tar, sidecar = out / "mfcc/train-000000.tar", out / "mfcc/train-000000.json"
        if damage == "tar":
            tar.write_bytes(tar.read_bytes().replace(b"a", b"b", 1))
        else:
            sidecar.unlink()
        before = tar.read_bytes()
        outcome = stand_ins.start(BETTER, out, retry=frozenset({"timeout"}))
        assert (outcome.clips, outcome.unfinished) == (2, ("train-000000",))
        assert tar.read_bytes() == before
        stand_ins.start(BETTER, out)
        assert tars(out) == tars(better)

    def test_nothing_to_run_again(self, tmp_path: Path) -> None:
        """A folder in which the column was never started is refused and not changed."""
        with pytest.raises(RunError, match="no run of mfcc was ever started there"):
            stand_ins.start(["ok"], tmp_path / "out", retry=frozenset({"timeout"}))
        assert not (tmp_path / "out").exists()

    @pytest.mark.slow
    def test_killed_amid_it(self, worse: Path, better: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A retry that is killed at any moment loses nothing; started again, it ends as if never interrupted."""
        monkeypatch.setenv(stand_ins.MERCY, "1")
        plan, chance, kills = write_plan(tmp_path / "plan.jsonl", BETTER), random.Random(3), 0
        for n in itertools.count():
            out = shutil.copytree(worse, tmp_path / f"out-{n}")
            command = [sys.executable, str(TESTS / "stand_ins.py"), str(plan), str(out)]
            while killed([*command, "--retry", "timeout"], out, "mfcc", 1.5, chance):
                kills += 1
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)  # for one killed between its two renames
            assert tars(out) == tars(better)
            assert rubbish(out) == []
            if kills >= 10:
                break

    def test_two_at_once(self, out: Path, better: Path, tmp_path: Path) -> None:
        """Two retries at the same time end well, with every shard whole."""
        plan = write_plan(tmp_path / "plan.jsonl", BETTER)
        both = [launch(plan, out, "--retry", "timeout") for _ in range(2)]
        errors = [process.communicate(timeout=60)[1] for process in both]
        assert [process.returncode for process in both] == [0, 0], errors
        assert tars(out) == tars(better)
        assert verify.verify(out) == []


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus of twelve clips and its manifest, `plan.jsonl`."""
    folder = tmp_path_factory.mktemp("corpus")
    synthetic.make_corpus(folder / "corpus", words=2, speakers=3, takes=2)
    plan, _ = index("lrw", folder / "corpus")
    (folder / "plan.jsonl").write_text(manifest.render(plan), encoding="utf-8")
    return folder


@pytest.mark.slow
def test_kill_9_of_the_real_command(corpus: Path, tmp_path: Path) -> None:
    """`avprep mfcc`, killed ten times on a real corpus, gives what one uninterrupted run gives."""
    path = corpus / "plan.jsonl"
    options = ["-j", "2", "--shard-size", "1"]
    begin = time.monotonic()
    subprocess.run([*AVPREP, "mfcc", str(path), str(tmp_path / "once"), *options], check=True, capture_output=True)
    length = time.monotonic() - begin
    out = tmp_path / "out"
    command = [*AVPREP, "mfcc", str(path), str(out), *options]
    chance = random.Random(2)
    assert sum(killed(command, out, "mfcc", length, chance) for _ in range(10)) > 0
    subprocess.run(command, check=True, capture_output=True)
    assert tars(out) == tars(tmp_path / "once")
    assert len(tars(out)) == 12
    assert rubbish(out) == []
    subprocess.run([*AVPREP, "verify", str(out)], check=True, capture_output=True)


ENDS: dict[str, tuple[str, str]] = {
    "hang": ("timeout", "stopped after 1 s; try --clip-timeout 5"),
    "hang-in-c": ("timeout", "stopped after 1 s; try --clip-timeout 5"),
    "segv": ("crashed", "the process died (SIGSEGV)"),
    "oom": ("crashed", "the process died (SIGKILL)"),
    "term": ("crashed", "the process died (SIGTERM)"),
    "realtime": ("crashed", f"the process died (signal {signal.SIGRTMIN + 3})"),
    "abort": ("crashed", "the process died (SIGABRT)"),
    "exit": ("crashed", "the process died (exit status 3)"),
    "sys-exit": ("error", "SystemExit: 5 (stand_ins.py:"),
    "memory": ("error", "MemoryError: no room (stand_ins.py:"),
    "raise": ("error", "ValueError: a bad number (stand_ins.py:"),
    "reject": ("no_face", ".mp4: nobody is there"),
    "raise-in-members": ("error", "ZeroDivisionError: half a sample (stand_ins.py:"),
    "no-file-in-members": ("error", "FileNotFoundError: [Errno 2] No such file or directory"),
    "reject-in-members": ("unreadable", "the second half is noise"),
    "not-json": ("error", "ValueError: Out of range float values are not JSON compliant"),
}


@pytest.fixture(scope="module")
def bad_day(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, run.Outcome]:
    """A run with every kind of failure: first single clips among good ones, then a shard of failures alone."""
    out = tmp_path_factory.mktemp("bad-day")
    words = [word for end in ENDS for word in (end, "ok")]
    words += ["ok"] * (-len(words) % 4) + ["reject", "abort", "raise", "reject"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pool, "_start", forked.INTERPRETER)
        return out, stand_ins.start(words, out, jobs=2, shard_size=4, clip_timeout=1)


class TestEveryClipHasOneEnd:
    """Each failure is recorded, and affects no other clip."""

    @pytest.mark.parametrize("word", ENDS)
    def test_reason_and_message(self, bad_day: tuple[Path, run.Outcome], word: str) -> None:
        """A failed clip has a reason and one line that gives the cause and the place."""
        found = [record for record in records(bad_day[0]) if f"/{word}_" in record["key"]]
        reason, message = ENDS[word]
        assert {(record["state"], record["reason"]) for record in found} == {("failed", reason)}
        assert message in found[0]["message"]
        assert "\n" not in found[0]["message"]

    def test_nobody_else_suffers(self, bad_day: tuple[Path, run.Outcome]) -> None:
        """Every good clip among failed ones is there, whole."""
        assert {record["state"] for record in records(bad_day[0]) if "/ok_" in record["key"]} == {"ok"}

    def test_the_sum_is_right(self, bad_day: tuple[Path, run.Outcome]) -> None:
        """manifest = ok + failed; `verify` agrees; the outcome and `status` say the same."""
        out, outcome = bad_day
        plan = fingerprint.read_manifest(out)
        states = records(out)
        assert [record["key"] for record in states] == [clip.key for clip in plan.clips]
        assert outcome.ok + sum(outcome.failed.values()) == len(plan.clips)
        assert set(outcome.failed) <= set(REASONS)
        assert verify.verify(out) == []
        assert status.status(out)[0].reasons == outcome.failed
        assert rubbish(out) == []

    def test_a_shard_may_end_empty(self, bad_day: tuple[Path, run.Outcome]) -> None:
        """A shard without a single good clip is an empty tar with a sidecar that explains each failure."""
        out, outcome = bad_day
        last = outcome.planned[-1]
        assert list(shards.read(shards.tar_path(out, "mfcc", last))) == []
        head = shards.read_sidecar_head(out, "mfcc", last)
        assert head is not None
        assert head["counts"] == {
            "clips": 4,
            "ok": 0,
            "failed": 4,
            "frames": 0,
            "reasons": {"crashed": 1, "error": 1, "no_face": 2},
        }

    def test_sidecars_are_json_with_the_head_first(self, bad_day: tuple[Path, run.Outcome]) -> None:
        """A sidecar is valid JSON; its first line has everything but the clips, which follow one per line."""
        for path in (bad_day[0] / "mfcc").glob("train-*.json"):
            lines = path.read_text(encoding="utf-8").splitlines()
            whole = json.loads("\n".join(lines), parse_constant=pytest.fail)
            clips = whole.pop("clips")
            assert json.loads(lines[0].rstrip(",") + "}") == whole
            assert [json.loads(line.rstrip(",")) for line in lines[2:-1]] == clips


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("user-error", r"^stand-in\.onnx: the weights are missing; fetch them$"),
        ("explode", r"^a worker could not start: ValueError: a worker that cannot explode \(stand_ins\.py:\d+\)$"),
        ("exit", r"^a worker could not start: SystemExit: 4 "),
        (
            "library",
            r"^opencv-python cannot be loaded \(libGL\.so\.1: .*\): install the library .*opencv-python-headless",
        ),
        ("abort", r"^workers die before they do anything \(.*\); try a smaller -j$"),
    ],
)
def test_a_worker_that_cannot_start_ends_the_run(tmp_path: Path, start: str, message: str) -> None:
    """An error at the start of a worker ends the run with one line, and no clip fails for it."""
    with pytest.raises(RunError, match=message):
        stand_ins.start(["ok"] * 20, tmp_path, jobs=2, start=start)
    assert records(tmp_path) == []
    assert rubbish(tmp_path) == []


def test_an_error_for_the_user_ends_the_run(tmp_path: Path) -> None:
    """An AvprepError from a clip is not recorded for the clip: the run ends with it, and finished shards stay."""
    with pytest.raises(RunError, match="the GPU fell off the bus"):
        stand_ins.start(["ok"] * 5 + ["fatal"] + ["ok"] * 4, tmp_path, jobs=1)
    assert len(records(tmp_path)) == 5
    assert rubbish(tmp_path) == []


@pytest.mark.usefixtures("interpreters")
def test_a_worker_that_starts_while_the_run_ends_is_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A worker that starts late, at the end of the run, prints no traceback."""
    stage = stand_ins.LateStage(marker=str(tmp_path / "first"))
    assert run.run(stage, stand_ins.plan(["ok"] * 2), tmp_path / "out", jobs=2).ok == 2
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.usefixtures("interpreters")
def test_an_idle_worker_that_is_killed_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle worker that is killed is replaced; no clip is lost, doubled or failed."""
    wait, killed = Pool.wait, []

    def kill_idle(self: Pool, timeout: float) -> list[Ended]:
        idle = [worker for worker in self._workers if worker.ready and not worker.jobs]
        if idle and len(killed) < 2:
            killed.append(idle[0].process.pid)
            os.kill(idle[0].process.pid, signal.SIGKILL)
        return wait(self, timeout)

    monkeypatch.setattr(Pool, "wait", kill_idle)
    outcome = stand_ins.start(["ok"] * 20 + ["slow", "slow"], tmp_path, jobs=2)
    assert len(killed) == 2
    assert (outcome.clips, outcome.ok) == (22, 22)
    assert verify.verify(tmp_path) == []


HANGING = ["ok"] * 15 + ["hang", "ok", "hang", "ok", "ok"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The tars of a run over HANGING in which no clip hangs."""
    out = tmp_path_factory.mktemp("whole")
    stand_ins.start([], out, plan=renamed(stand_ins.plan(HANGING)))
    return tars(out)


class TestSignals:
    """SIGINT and SIGTERM stop a run quickly, with one line and exit status 1, and the next run continues."""

    @pytest.mark.parametrize(
        ("number", "whole_group"),
        [*((number, True) for number in signals.STOP_SIGNALS), (signal.SIGINT, False), (signal.SIGTERM, False)],
    )
    def test_amid_hanging_clips(
        self,
        whole: dict[str, bytes],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        number: signal.Signals,
        whole_group: bool,
    ) -> None:
        """If every worker hangs, a stopped run ends within seconds; finished shards stay; the rest is made later."""
        plan, out = write_plan(tmp_path / "plan.jsonl", HANGING), tmp_path / "out"
        process = launch(plan, out)
        wait_until(lambda: len(list(out.glob("mfcc/train-*.json"))) == 3)
        begin = time.monotonic()
        (os.killpg if whole_group else os.kill)(process.pid, number)
        _, errors = process.communicate(timeout=30)
        assert time.monotonic() - begin < 8
        assert process.returncode == 1
        assert "Traceback" not in errors
        assert f"Error: stopped by {number.name}, 3 of 4 shards done; run it again to go on\n" in errors
        assert sum("rror" in line for line in errors.splitlines()) == 1
        assert "crashed" not in errors
        no_orphans(process.pid)
        assert rubbish(out) == []
        assert len(tars(out)) == 3
        monkeypatch.setenv(stand_ins.MERCY, "1")
        stand_ins.start(HANGING, out)
        assert verify.verify(out) == []
        assert tars(out) == whole

    def test_workers_that_are_killed_first(self, tmp_path: Path) -> None:
        """If a scheduler kills the workers just before it signals the run, no clip fails for it."""
        plan, out = write_plan(tmp_path / "plan.jsonl", ["ok", "hang", "hang"]), tmp_path / "out"
        process = launch(plan, out, "--shard-size", 1)
        wait_until(lambda: len(list(out.glob("mfcc/.work-*~*/*-0.part")) + list(out.glob("mfcc/*.json"))) >= 2)
        for number in set(alive(process.pid)) - {process.pid}:
            os.kill(number, signal.SIGKILL)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
        assert "stopped by SIGTERM" in errors
        assert "crashed" not in errors
        assert [record["state"] for record in records(out)] == ["ok"]

    @pytest.mark.parametrize("number", signals.STOP_SIGNALS)
    def test_while_workers_start(self, tmp_path: Path, number: signal.Signals) -> None:
        """Ctrl-C or a similar signal while workers are starting gives one line, not a traceback from each."""
        plan, out = write_plan(tmp_path / "plan.jsonl", ["ok"] * 200), tmp_path / "out"
        process = launch(plan, out, bufsize=0)
        wait_until(lambda: len(alive(process.pid)) > 2)
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 1, errors
        assert "Traceback" not in errors
        no_orphans(process.pid)
        assert rubbish(out) == []

    @pytest.mark.usefixtures("interpreters")
    def test_while_skipping_what_is_done(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A run that only checks finished shards can be stopped between two of them."""
        words = ["ok"] * 30
        stand_ins.start(words, tmp_path)
        finished, looked = shards.open_finished, []

        def slow(*arguments: Any) -> Any:
            looked.append(arguments)
            if len(looked) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return finished(*arguments)

        monkeypatch.setattr(shards, "open_finished", slow)
        with pytest.raises(signals.Stopped, match="2 of 6 shards done"):
            stand_ins.start(words, tmp_path)
        assert len(looked) == 2

    @pytest.mark.usefixtures("interpreters")
    def test_handlers_are_given_back(self, tmp_path: Path) -> None:
        """After a run, signals have their previous handlers."""
        before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        stand_ins.start(["ok"], tmp_path)
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before

    def test_workers_that_hang_die_with_a_killed_run(self, tmp_path: Path) -> None:
        """kill -9 of the run leaves no worker behind, not even one that is deep in C code."""
        plan, out = write_plan(tmp_path / "plan.jsonl", ["ok"] * 5 + ["hang-in-c", "hang"]), tmp_path / "out"
        process = launch(plan, out)
        wait_until(lambda: list(out.glob("mfcc/train-*.json")))
        process.kill()
        process.wait()
        no_orphans(process.pid)
        process.communicate()


def renamed(plan: manifest.Manifest) -> manifest.Manifest:
    """Return a manifest whose `hang` clips are `ok`, under the same keys."""
    clips = [manifest.Clip(c.key, c.video, c.split, word="ok" if c.word == "hang" else c.word) for c in plan.clips]
    return manifest.Manifest(plan.dataset, plan.root, tuple(clips))


SIX = stand_ins.plan(["ok"] * 6)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("first")
    stand_ins.start(["ok"] * 6, out)
    return out


class TestJoining:
    """A run joins a folder only if it matches the folder's run."""

    @pytest.mark.parametrize(
        ("options", "difference"),
        [
            ({"setting": "b"}, r"run\.json: made with other settings \(settings\.setting: there a, here b\)"),
            ({"version": "2"}, r"\(versions\.stand-ins: there 1, here 2\)"),
            ({"shard_size": 4}, r"run\.json: made with --shard-size 5"),
            (
                {"plan": stand_ins.plan(["ok"] * 7)},
                r"manifest\.jsonl: another manifest \(stand-ins, 6 clips; this one: .* 7",
            ),
            ({"plan": stand_ins.plan(["ok"] * 6, dataset="other")}, r"this one: other, 6 clips\)"),
            (
                {"plan": replace(SIX, clips=SIX.clips[::-1])},
                r"this one: stand-ins, 6 clips, the same in another order\)",
            ),
            (
                {"plan": replace(SIX, clips=(replace(SIX.clips[0], word="else"), *SIX.clips[1:]))},
                r"this one: stand-ins, 6 clips, 1 of them not in the other\)",
            ),
        ],
        ids=["settings", "versions", "shard-size", "plan", "data-set", "order", "word"],
    )
    def test_another_run_is_refused(self, first: Path, options: dict[str, Any], difference: str) -> None:
        """Another manifest, other settings or other versions are refused in one line; nothing is touched."""
        before = sorted(first.rglob("*"))
        with pytest.raises(RunError, match=difference) as caught:
            stand_ins.start(["ok"] * 6, first, **options)
        assert "\n" not in str(caught.value)
        assert sorted(first.rglob("*")) == before

    def test_a_moved_data_set_is_the_same(self, first: Path) -> None:
        """The same manifest below another root joins."""
        outcome = stand_ins.start([], first, plan=stand_ins.plan(["ok"] * 6, root="/elsewhere"))
        assert outcome.ok == 6

    def test_the_folder_knows_its_shard_size(self, first: Path) -> None:
        """Without --shard-size a run takes the shard size of the folder."""
        assert stand_ins.start(["ok"] * 6, first, shard_size=None).planned == ("train-000000", "train-000001")

    def test_the_shard_size_is_500_at_first(self, tmp_path: Path) -> None:
        """Without --shard-size a new folder gets 500."""
        stand_ins.start(["ok"], tmp_path, shard_size=None)
        assert json.loads((tmp_path / "mfcc/run.json").read_text())["shard_size"] == 500

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"shard_size": 0}', '{"shard_size": "5"}'])
    def test_a_damaged_fingerprint_is_named(self, first: Path, tmp_path: Path, text: str) -> None:
        """The error for a damaged run.json names it in one line."""
        out = shutil.copytree(first, tmp_path / "out")
        (out / "mfcc/run.json").write_text(text)
        with pytest.raises(RunError, match=r"mfcc/run\.json: "):
            stand_ins.start(["ok"] * 6, out)

    def test_of_two_that_start_at_once_the_other_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A run that finds an empty folder, but is not the first to claim it, is refused as if it came later."""
        create = fingerprint._create

        def late(path: Path, text: str, aside: Path) -> bool:
            if path.name == "run.json" and not path.exists():
                create(path, text.replace('"setting": "a"', '"setting": "b"'), aside.with_suffix(".other"))
            return create(path, text, aside)

        monkeypatch.setattr(fingerprint, "_create", late)
        with pytest.raises(RunError, match=r"settings\.setting: there b, here a"):
            stand_ins.start(["ok"], tmp_path)
        assert rubbish(tmp_path) == []

    @pytest.mark.parametrize("column", ["crop", "sync"])
    def test_another_column_that_starts_at_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str
    ) -> None:
        """A run that finds another column just begun with another shard size is refused; with that size it starts."""
        create = fingerprint._create

        def late(path: Path, text: str, aside: Path) -> bool:
            if path.name == "manifest.jsonl":
                (tmp_path / column).mkdir()
                (tmp_path / column / "run.json").write_text('{"shard_size": 3}')
            return create(path, text, aside)

        monkeypatch.setattr(fingerprint, "_create", late)
        with pytest.raises(RunError, match=rf"{column}/run\.json: made with --shard-size 3; both columns"):
            stand_ins.start(["ok"] * 6, tmp_path)
        assert not (tmp_path / "mfcc/run.json").exists()
        assert stand_ins.start(["ok"] * 6, tmp_path, shard_size=None).planned == ("train-000000", "train-000001")

    def test_a_training_run_beside_the_columns(self, first: Path, tmp_path: Path) -> None:
        """A folder in OUT that is not a column, such as a training run with a run.json of its own, is not touched."""
        out = shutil.copytree(first, tmp_path / "out")
        (out / "a").mkdir()
        (out / "a/run.json").write_text('{"settings": {}, "versions": {}}')
        assert stand_ins.start(["ok"] * 6, out).skipped == ("train-000000", "train-000001")

    def test_a_file_system_without_links(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A run starts on a file system that has no hard links, e.g. exFAT."""

        def refuse(*_: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(Path, "hardlink_to", refuse)
        assert stand_ins.start(["ok"], tmp_path).ok == 1
        assert rubbish(tmp_path) == []


class TestDisks:
    """A disk error is one clear line, and leaves no broken shard."""

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        """An OUT that cannot be a folder is named."""
        (tmp_path / "file").write_text("")
        with pytest.raises(RunError, match=r"file/out.*: cannot write there \(Not a directory\)"):
            stand_ins.start(["ok"], tmp_path / "file/out")

    def test_a_folder_that_cannot_be_synced(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A run works where only files can be synced, as on some network file systems; other errors end it."""
        fsync, number = os.fsync, errno.EINVAL

        def refuse(descriptor: int) -> None:
            if os.path.isdir(f"/proc/self/fd/{descriptor}"):
                raise OSError(number, os.strerror(number))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", refuse)
        assert stand_ins.start(["ok"], tmp_path / "out").ok == 1
        number = errno.EIO
        with pytest.raises(RunError, match=r"cannot write \(Input/output error\)"):
            stand_ins.start(["ok"], tmp_path / "again")

    def test_a_read_only_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """An OUT in which no file can be made is named."""

        def refuse(*_: object, **__: object) -> None:
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr(workfolder.tempfile, "mkstemp", refuse)
        with pytest.raises(RunError, match=r"mfcc: cannot write there \(Read-only file system\)"):
            stand_ins.start(["ok"], tmp_path)

    @pytest.mark.parametrize("limit", [4_000, 20_000], ids=["in-a-worker", "in-the-tar"])
    def test_a_write_that_fails(self, tmp_path: Path, limit: int) -> None:
        """A write error, in a worker or in the tar, ends the run with one line; the next run makes all shards."""
        plan, out = write_plan(tmp_path / "plan.jsonl", ["ok"] * 20), tmp_path / "out"

        def small_files() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        process = launch(plan, out, preexec_fn=small_files)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 1
        assert "Traceback" not in errors
        assert "cannot write (File too large)" in errors
        assert tars(out) == {}
        assert rubbish(out) == []
        stand_ins.start(["ok"] * 20, out)
        assert verify.verify(out) == []

    def test_a_full_disk(self, tmp_path: Path) -> None:
        """A full disk ends the run with one line; once there is room, the same command continues."""
        with tiny_disk(tmp_path / "disk", "300k") as disk:
            plan, out = write_plan(tmp_path / "plan.jsonl", ["ok"] * 60), disk / "out"
            process = launch(plan, out)
            _, errors = process.communicate(timeout=30)
            assert process.returncode == 1
            assert "Traceback" not in errors
            assert "(No space left on device)" in errors
            assert rubbish(out) == []
            assert 0 < len(tars(out)) < 12
            remount(disk, "size=4m")
            stand_ins.start(["ok"] * 60, out)
            assert verify.verify(out) == []

    @pytest.mark.slow
    @pytest.mark.parametrize(("column", "size", "more"), [("mfcc", "300k", "4m"), ("crop", "2m", "60m")])
    def test_a_full_disk_under_the_real_command(
        self, corpus: Path, tmp_path: Path, column: str, size: str, more: str
    ) -> None:
        """`avprep` on a disk that is full, then read-only, then large enough: one line each, exit 1, then success."""
        with tiny_disk(tmp_path / "disk", size) as disk:
            out = disk / "out"
            command = [*AVPREP, column, str(corpus / "plan.jsonl"), str(out), "-j", "2", "--shard-size", "1"]
            seen: list[dict[str, bytes]] = []
            for change, complaint in [("", "No space left on device"), ("ro", "Read-only file system")]:
                if change:
                    remount(disk, change)
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                assert done.returncode == 1
                errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
                assert len(errors) == 1
                assert complaint in errors[0]
                assert str(out) in errors[0]
                assert "Traceback" not in done.stderr
                assert rubbish(out) == []
                seen.append(tars(out))
            assert 0 < len(seen[0]) < 12
            assert seen[0] == seen[1]
            remount(disk, f"rw,size={more}")
            subprocess.run(command, check=True, capture_output=True)
            assert seen[0].items() <= tars(out).items()
            subprocess.run([*AVPREP, "verify", str(out)], check=True, capture_output=True)


def remount(disk: Path, options: str) -> None:
    """Change a disk in memory."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


@contextlib.contextmanager
def tiny_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a disk in memory; the test is skipped if that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a tiny disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


class TestSweeping:
    """Unfinished files of dead runs are removed, those of others are not."""

    @staticmethod
    def leave(out: Path, host: str) -> tuple[Path, Path]:
        """Leave the files of a run that was killed on a machine."""
        work = out / "mfcc" / f".work-{host}~abc"
        work.mkdir(parents=True)
        (work / "train-000000-1.part").write_text("half")
        lock = work.with_name(f"{work.name}.lock")
        lock.touch()
        return work, lock

    def test_a_dead_run_of_this_machine(self, tmp_path: Path) -> None:
        """Files left by a dead run on this machine are removed."""
        self.leave(tmp_path, socket.gethostname())
        stand_ins.start(["ok"], tmp_path)
        assert rubbish(tmp_path) == []

    def test_a_living_run(self, tmp_path: Path) -> None:
        """Files of a living run are not touched."""
        work, lock = self.leave(tmp_path, socket.gethostname())
        with lock.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            stand_ins.start(["ok"], tmp_path)
            assert work.is_dir()
        stand_ins.start(["ok"], tmp_path)
        assert rubbish(tmp_path) == []

    def test_a_run_of_another_machine(self, tmp_path: Path) -> None:
        """Files of another machine, whose lock may not be visible here, are removed only when a day old."""
        work, lock = self.leave(tmp_path, "another-node")
        stand_ins.start(["ok"], tmp_path)
        assert work.is_dir()
        os.utime(lock, (time.time() - 90_000,) * 2)  # a run of more than a day writes only to its folder
        stand_ins.start(["ok"], tmp_path)
        assert work.is_dir()
        os.utime(work, (time.time() - 90_000,) * 2)
        stand_ins.start(["ok"], tmp_path)
        assert rubbish(tmp_path) == []

    def test_a_lock_that_is_swept_before_it_is_held(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A run whose new lock another run removes before it is locked makes another one, and holds that."""
        locked, swept = workfolder.lock_file, list[Path]()

        def sweep_first(file: Any) -> bool | None:
            if not swept:
                swept.extend(tmp_path.glob("*.lock"))
                swept[0].unlink()
            return locked(file)

        monkeypatch.setattr(workfolder, "lock_file", sweep_first)
        with workfolder.work_folder(tmp_path) as work:
            assert work.with_name(f"{work.name}.lock").exists()
        assert len(swept) == 1

    def test_a_file_system_without_locks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A run works where files cannot be locked, e.g. Lustre without flock; it removes nobody else's files."""

        def refuse(*_: object) -> None:
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr(fcntl, "flock", refuse)
        work, _ = self.leave(tmp_path, socket.gethostname())
        assert stand_ins.start(["ok"], tmp_path).ok == 1
        assert sorted(path.name for path in (tmp_path / "mfcc").glob(".work-*")) == [work.name, f"{work.name}.lock"]


def test_what_waits_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the manifest, a run holds no more than a few clips per worker at once."""
    most = 0
    submit = run._Filler._submit

    def count(self: Any, pool: Any, job: Any) -> None:
        nonlocal most
        submit(self, pool, job)
        most = max(most, len(self._pending))

    monkeypatch.setattr(run._Filler, "_submit", count)
    stand_ins.start(["slow"] + ["ok"] * 150, tmp_path, jobs=2)
    assert most == 8


@pytest.mark.parametrize("shard_size", [5, 20])
def test_samples_are_removed_as_shards_finish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_size: int) -> None:
    """The disk holds the samples of a few shards beside the tars, not those of the whole column."""
    finish, left = OpenShard.finish, list[str]()

    def look(self: OpenShard, digest: str, size: int) -> dict[str, Any]:
        if self.name == "train-000003":
            left.extend(path.name for path in tmp_path.glob("mfcc/.work-*/*.part"))
        return finish(self, digest, size)

    monkeypatch.setattr(OpenShard, "finish", look)
    stand_ins.start(["ok"] * 4 * shard_size, tmp_path, shard_size=shard_size)
    assert "train-000003.tar.part" in left
    assert not [name for name in left if name.startswith(("train-000000", "train-000001"))]


def test_no_run_to_read(tmp_path: Path) -> None:
    """The error for a folder without any run says so."""
    with pytest.raises(AvprepError, match="no run was ever started there"):
        fingerprint.read_manifest(tmp_path)
