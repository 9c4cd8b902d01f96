"""Array jobs on a real Slurm: whatever ends a task, the shards equal those of an undisturbed run.

The tests start a Slurm of their own. A task is caught at work, never by luck: at its last shard it waits at a clip
that it cannot open (`Gate`).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import slurm_cluster
from slurm_cluster import Cluster
from test_run import tars

from avprep import manifest, shards
from avprep.manifest import Clip, Manifest

pytestmark = pytest.mark.slow

COMMON = ("--clip-timeout", "600")  # a gate must not be taken for a clip that hangs
OPTIONS = {
    "crop": ("--detector", "opencv", "--shard-size", "2", *COMMON),
    "mfcc": ("--shard-size", "2", *COMMON),
}
GATED = "gated.mp4"


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    """A Slurm with one node of two CPUs; the test is skipped where there can be none."""
    if reason := slurm_cluster.missing():
        pytest.skip(reason)
    cluster = Cluster()
    try:
        cluster.start()
    except slurm_cluster.CannotStartError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error).splitlines()[0])
    yield cluster
    cluster.stop()


@pytest.fixture
def cluster(slurm: Cluster) -> Iterator[Cluster]:
    """A Slurm without jobs, before the test and after it."""
    yield slurm
    slurm.clear()


class Gate:
    """Clips at which every task waits until they are opened: see `slurm_cluster.GATES`."""

    def __init__(self, *videos: Path) -> None:
        self._gates = [video.with_name(f"{video.name}.gate") for video in videos]
        for gate in self._gates:
            os.mkfifo(gate)

    def open(self) -> None:
        """Take the gates away for tasks that come now; tasks that already wait continue to wait."""
        for gate in self._gates:
            gate.unlink(missing_ok=True)


@dataclass(frozen=True)
class Work:
    """One column for a cluster to make."""

    cluster: Cluster
    column: str
    path: Path
    out: Path
    options: tuple[str, ...]
    size: int = 2

    def submit(self, tasks: int, *more: str) -> str:
        """Send an array job by `avprep slurm --submit`; return its number."""
        own = ["--tasks", str(tasks), "--cpus", "1", "--mem", "1G", *more, "--submit"]
        return sent(self.cluster.call("avprep", "slurm", self.column, self.path, self.out, *self.options, *own))

    def undisturbed(self, out: Path) -> dict[str, bytes]:
        """Make the column in one undisturbed run; return its tars."""
        self.cluster.call("avprep", self.column, self.path, out, *self.options, "-j", "2")
        return tars(out)

    def share(self, task: int, tasks: int) -> list[tuple[str, tuple[Clip, ...]]]:
        """Return the shards of one of the given number of tasks."""
        return list(manifest.read(self.path).shards(self.size))[task::tasks]

    def left(self, task: int, tasks: int) -> list[str]:
        """Return the shards of a task that are not made yet."""
        names = [name for name, _ in self.share(task, tasks)]
        return [name for name in names if not shards.sidecar_path(self.out, self.column, name).exists()]

    def wait_for_a_shard(self, task: int, tasks: int) -> None:
        """Wait until a task has made one of its shards, and assert that others are left."""
        names = [name for name, _ in self.share(task, tasks)]
        self.cluster.wait(lambda: self.left(task, tasks) != names, every=0.01)
        assert self.left(task, tasks)

    def wait_at_the_gate(self, task: int, tasks: int) -> None:
        """Wait until a task has made its shards, but for those that hold a gate."""
        gated = [name for name, clips in self.share(task, tasks) if any(clip.video == GATED for clip in clips)]
        self.cluster.wait(lambda: self.left(task, tasks) == gated)

    def status(self) -> dict[str, Any]:
        """Return the content of `avprep status --json` for the column."""
        found: dict[str, Any] = json.loads(self.cluster.call("avprep", "status", self.out, "--json"))[self.column]
        return found

    def run_line(self, line: str) -> str:
        """Run a line that avprep printed as a user would, in a shell."""
        return self.cluster.call("bash", "-c", line)

    def log(self, job: str, task: int) -> str:
        """Return the log of a task, empty if there is none yet."""
        path = self.out / f"logs/avprep-{self.column}-{job}_{task}.log"
        return path.read_text() if path.exists() else ""

    def starts(self, job: str, task: int) -> int:
        """Return how often avprep started in a task, by its log."""
        return self.log(job, task).count(" 1 worker\n")

    def prove_whole(self, expected: dict[str, bytes]) -> None:
        """Assert that nothing is missing, doubled or left behind, and that the tars are the expected ones."""
        status = self.status()
        assert status["unfinished"] == []
        assert {status[name] for name in ("command", "array", "num_tasks", "slurm")} == {None}
        plan = manifest.read(self.path)
        names = [name for name, _ in plan.shards(self.size)]
        records = [clip for name in names for clip in (shards.read_sidecar(self.out, self.column, name) or {})["clips"]]
        assert [clip["key"] for clip in records] == [clip.key for clip in plan.clips]
        assert tars(self.out) == expected
        assert self.rubbish() == []
        ok = sum(clip["state"] == "ok" for clip in records)
        assert ok
        proof = f"{self.column}: verified: {len(records)} clips = {ok} ok + {len(records) - ok} failed"
        assert self.cluster.call("avprep", "verify", self.out).startswith(proof)

    def rubbish(self) -> list[str]:
        """Return what is in OUT and belongs neither to its columns nor to its jobs; traces of bugs in logs, too."""
        belongs = re.compile(r"(crop|mfcc)/(run\.json|\w+-\d{6}\.(tar|json))|manifest\.jsonl|\w+\.sbatch|logs/.*\.log")
        files = [path.relative_to(self.out).as_posix() for path in self.out.rglob("*") if not path.is_dir()]
        folders = [path.name for path in self.out.rglob("*") if path.is_dir()]
        traces = [path.name for path in self.out.glob("logs/*") if "Traceback" in path.read_text()]
        return (
            [name for name in files if not belongs.fullmatch(name)]
            + sorted({*folders} - {"logs", self.column})
            + traces
        )


def sent(answer: str) -> str:
    """Return the number of the job in the output of `avprep slurm --submit` or `sbatch`."""
    found = re.match(r"(?:job|Submitted batch job) (\d+)", answer)
    assert found, answer
    return found[1]


@pytest.fixture(scope="module")
def synthetic_plan(lrw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan of 16 shards with two clips each, of synthetic speakers and a file that is no video.

    Each of the last four shards, so of the last of each of four tasks, ends with a clip that can be gated.
    """
    folder = tmp_path_factory.mktemp("synthetic")
    shutil.copytree(lrw / "corpus", folder / "corpus")
    videos = sorted(video.relative_to(folder / "corpus").as_posix() for video in folder.glob("corpus/**/*.mp4"))
    shutil.copy(folder / "corpus" / videos[-1], folder / "corpus" / GATED)
    clips = []
    for split, count in (("train", 18), ("val", 6), ("test", 8)):
        for n in range(count):
            video = GATED if split == "test" and n % 2 else videos[n % len(videos)]
            clips.append(Clip(f"{split}/{n:02}", video, split))
    path = folder / "plan with a space.jsonl"
    path.write_text(manifest.render(Manifest("folder", folder / "corpus", tuple(clips))), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def undisturbed(slurm: Cluster, synthetic_plan: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The tars of each column of the synthetic plan, made in one run."""
    out = tmp_path_factory.mktemp("undisturbed")
    return {
        column: Work(slurm, column, synthetic_plan, out, options).undisturbed(out / column)
        for column, options in OPTIONS.items()
    }


@pytest.fixture
def gate(synthetic_plan: Path, undisturbed: object) -> Iterator[Gate]:
    """The gate in the last shard of each task of the synthetic plan, closed."""
    gate = Gate(synthetic_plan.parent / "corpus" / GATED)
    yield gate
    gate.open()


@pytest.mark.parametrize("column", ["mfcc", "crop"])
def test_tasks_may_end_in_any_way(
    cluster: Cluster, synthetic_plan: Path, undisturbed: dict[str, Any], gate: Gate, tmp_path: Path, column: str
) -> None:
    """Tasks that are killed, ended, requeued, sent twice at once and resumed with another number of tasks make the tars
    of an undisturbed run.
    """
    work = Work(cluster, column, synthetic_plan, tmp_path, OPTIONS[column])
    fours = work.submit(4)
    for task, signal in enumerate(("KILL", "TERM", None, "KILL")):
        work.wait_for_a_shard(task, 4)
        if signal:
            cluster.end(f"{fours}_{task}", signal)
            assert ("stopped by SIGTERM" in work.log(fours, task)) == (signal == "TERM")
        else:
            cluster.requeue(f"{fours}_{task}")
    cluster.wait(lambda: cluster.queue().keys() == {f"{fours}_2"})

    # The same script twice at once, one task of each at a time: task 0 runs twice.
    both = [cluster.launch("sbatch", "--parsable", "--array=0-3%1", tmp_path / f"{column}.sbatch") for _ in range(2)]
    twins = [process.communicate(timeout=60)[0].strip() for process in both]
    cluster.wait(lambda: all(work.starts(job, 0) for job in twins))
    work.wait_at_the_gate(0, 4)
    assert cluster.is_running(*(f"{job}_0" for job in twins))
    for job, signal in zip(twins, ("KILL", "TERM"), strict=True):
        cluster.end(f"{job}_0", signal)
    cluster.call("scancel", *twins)

    # Task 2 of 4 comes back from the queue; it and the first of 3 tasks work side by side.
    assert work.status()["num_tasks"] == 4
    cluster.wait(lambda: work.starts(fours, 2) == 2)
    threes = work.submit(3)
    assert work.status()["num_tasks"] == 3
    cluster.wait(lambda: work.starts(threes, 0))
    work.wait_at_the_gate(2, 4)
    work.wait_at_the_gate(0, 3)
    assert cluster.is_running(f"{fours}_2", f"{threes}_0")
    gate.open()
    cluster.end(f"{threes}_0", "KILL")
    cluster.requeue(f"{fours}_2")
    cluster.wait(lambda: not cluster.queue())
    assert (cluster.job(f"{fours}_2")["JobState"], cluster.job(f"{fours}_2")["Restarts"]) == ("COMPLETED", "2")

    # Task 0 of 3 was killed, so its part of the last shards is missing.
    status = work.status()
    assert (status["array"], status["unfinished"]) == ("0", ["test-000000", "test-000003"])
    assert status["slurm"] == f"sbatch --array=0 {tmp_path}/{column}.sbatch"
    last = sent(work.run_line(status["slurm"]))
    cluster.wait(lambda: not cluster.queue())
    assert cluster.job(f"{last}_0")["JobState"] == "COMPLETED"
    work.prove_whole(undisturbed[column])


REAL = {
    "grid": ("grid", ("--sentences", "--limit", "10"), 2),
    "voxceleb2": ("voxceleb2", (), 1),
}


@pytest.mark.parametrize("layout", REAL)
def test_real_clips(cluster: Cluster, shared: Path, yunet: str, tmp_path: Path, layout: str) -> None:
    """Real clips, cropped by tasks of which one is killed and one requeued, give the tars of an undisturbed run."""
    folder, options, size = REAL[layout]
    root = shutil.copytree(shared / "clips" / folder, tmp_path / "clips", copy_function=os.symlink)
    path = tmp_path / "plan.jsonl"
    cluster.call("avprep", "index", layout, root, "-o", path, *options)
    work = Work(
        cluster, "crop", path, tmp_path / "out", ("--detector", yunet, "--shard-size", str(size), *COMMON), size
    )
    expected = work.undisturbed(tmp_path / "undisturbed")
    gate = Gate(*(root / work.share(task, 4)[-1][1][-1].video for task in (0, 1)))
    job = work.submit(4)
    for task in (0, 1):
        work.wait_for_a_shard(task, 4)
    cluster.end(f"{job}_0", "KILL")
    gate.open()
    cluster.requeue(f"{job}_1")
    cluster.wait(lambda: not cluster.queue())
    assert [cluster.job(f"{job}_{task}")["Restarts"] for task in range(4)] == ["0", "1", "0", "0"]
    status = work.status()
    assert status["array"] == "0"
    work.run_line(status["slurm"])
    cluster.wait(lambda: not cluster.queue())
    work.prove_whole(expected)


def test_time_limit(
    cluster: Cluster, synthetic_plan: Path, undisturbed: dict[str, Any], gate: Gate, tmp_path: Path
) -> None:
    """A task near its time limit ends cleanly, is queued again and continues in the same log."""
    work = Work(cluster, "mfcc", synthetic_plan, tmp_path, OPTIONS["mfcc"])
    job = work.submit(2, "--time", "2")  # minutes; the warning is due 2 min before, and Slurm looks every half minute
    said = "Error: stopped by SIGUSR1, 6 of 8 shards done; run it again to go on\n"
    cluster.wait(lambda: all(said in work.log(job, task) for task in (0, 1)))
    cluster.wait(lambda: all(cluster.is_back(f"{job}_{task}") for task in (0, 1)))
    gated = [f"test-{n:06}" for n in range(4)]
    assert work.status()["unfinished"] == gated
    assert work.rubbish() == []
    assert {name: data for name, data in undisturbed["mfcc"].items() if Path(name).stem not in gated} == tars(tmp_path)
    gate.open()
    cluster.wait(lambda: not cluster.queue())
    for task in (0, 1):
        assert cluster.job(f"{job}_{task}")["JobState"] == "COMPLETED"
        before, _, after = work.log(job, task).rpartition(said)
        assert "mfcc: preset davs, 1 worker\n" in before
        assert "mfcc: 8 shards (6 done before), " in after
    assert sorted(path.name for path in tmp_path.glob("logs/*")) == [f"avprep-mfcc-{job}_{task}.log" for task in (0, 1)]
    work.prove_whole(undisturbed["mfcc"])


def test_what_slurm_puts_back_and_what_it_does_not(
    cluster: Cluster, synthetic_plan: Path, undisturbed: dict[str, Any], gate: Gate, tmp_path: Path
) -> None:
    """A task that is preempted or loses its node is queued again by itself; one that is cancelled is not."""
    work = Work(cluster, "mfcc", synthetic_plan, tmp_path, OPTIONS["mfcc"])
    job = work.submit(2)
    tasks = [f"{job}_0", f"{job}_1"]
    for task in (0, 1):
        work.wait_for_a_shard(task, 2)
    cluster.call("scontrol", "update", "nodename=localhost", "state=down", "reason=test")
    cluster.wait(lambda: all(cluster.is_back(task) for task in tasks))
    cluster.wait(lambda: work.starts(job, 0) == work.starts(job, 1) == 2)

    cluster.call("scancel", tasks[1])
    cluster.wait(lambda: cluster.queue().keys() == {tasks[0]})
    urgent = ["--partition=high", "--cpus-per-task=2", "--mem=100M", "--output=/dev/null", "--wrap=sleep 600"]
    urgent_job = cluster.call("sbatch", "--parsable", *urgent).strip()
    cluster.wait(lambda: cluster.is_running(urgent_job) and cluster.is_back(tasks[0], restarts=2))
    assert "stopped by SIGTERM" in work.log(job, 0)
    assert "SIGUSR1" not in work.log(job, 0)
    assert work.rubbish() == []

    gate.open()
    cluster.call("scancel", urgent_job)
    cluster.wait(lambda: not cluster.queue())
    assert cluster.job(tasks[0])["JobState"] == "COMPLETED"
    assert work.starts(job, 0) == 3
    assert (cluster.job(tasks[1])["JobState"], cluster.job(tasks[1])["Restarts"]) == ("CANCELLED", "1")
    assert work.starts(job, 1) == 2
    status = work.status()
    assert status["array"] == "1"
    work.run_line(status["command"])
    work.prove_whole(undisturbed["mfcc"])


def test_a_folder_with_an_odd_name(
    cluster: Cluster, synthetic_plan: Path, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """An OUT with spaces and % in its path takes logs and shards, and the lines that `status` prints work there."""
    out = tmp_path / "100% done, 5%a"
    work = Work(cluster, "mfcc", synthetic_plan, out, OPTIONS["mfcc"])
    cluster.call("avprep", "mfcc", synthetic_plan, out, *OPTIONS["mfcc"], "--task-index", "0", "--num-tasks", "8")
    status = work.status()
    assert status["slurm"].startswith("avprep slurm mfcc ")
    job = sent(work.run_line(f"{status['slurm']} --cpus 1 --mem 1G --tasks 2"))
    cluster.wait(lambda: not cluster.queue())
    assert sorted(path.name for path in out.glob("logs/*")) == [f"avprep-mfcc-{job}_{task}.log" for task in (0, 1)]
    shards.tar_path(out, "mfcc", "train-000003").unlink()
    status = work.status()
    assert shlex.split(status["slurm"]) == ["sbatch", "--array=1", str(out / "mfcc.sbatch")]
    sent(work.run_line(status["slurm"]))
    cluster.wait(lambda: not cluster.queue())
    shards.tar_path(out, "mfcc", "val-000000").unlink()
    work.run_line(work.status()["command"])
    work.prove_whole(undisturbed["mfcc"])
