"""Work in many tasks: `status` prints commands that finish it, `retry` repairs it, `slurm` sends what is missing.

No Slurm is needed: small programs take its place, and bash runs the scripts.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from command_line import assert_one_line, call, contents
from test_slurm import BASH, command_of, read_by_sbatch

from avprep import manifest, shards
from avprep.faces import weights
from avprep.quality import verify
from avprep.runs import slurm

Program = Callable[[str, str], Path]

PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
MFCC = ["--preset", "syncnet", "--audio-shift-ms", "12.5"]
CROP = ["--align", "per-clip", "--every", "3", "--format", "png"]
BOTH: dict[str, list[str]] = {"crop": CROP, "mfcc": MFCC}
NOTHING = {"command": None, "array": None, "num_tasks": None, "slurm": None}


@pytest.fixture(autouse=True)
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without weights the detector is `opencv`, whatever this machine has."""
    monkeypatch.setenv("AVPREP_WEIGHTS", str(tmp_path / "weights"))


def fill(column: str, lrw: Path, out: Path, *options: object, shard_size: int = 1) -> Result:
    """Run a column of the small corpus."""
    result = call(column, lrw / "plan.jsonl", out, "--shard-size", shard_size, "-j", 1, *options)
    assert result.exit_code == 0, result.output
    return result


def offered(out: Path, column: str) -> dict[str, Any]:
    """Return the commands of `status --json` that finish a column."""
    found = json.loads(call("status", out, "--json").stdout)[column]
    return {name: found[name] for name in NOTHING}


def tars(out: Path, column: str) -> dict[str, bytes]:
    """Return the bytes of every tar of a column."""
    return {path.name: path.read_bytes() for path in sorted((out / column).glob("*.tar"))}


def facts(out: Path, column: str) -> dict[str, dict[str, int]]:
    """Return the counts of `status --json` for each split of a column."""
    splits = json.loads(call("status", out, "--json").stdout)[column]["splits"]
    return {name: {what: counts[what] for what in ("ok", "failed", "missing")} for name, counts in splits.items()}


def ends(out: Path, column: str) -> dict[str, str]:
    """Return the result of every clip in a column's finished shards: `ok`, or the reason."""
    sidecars = [shards.read_sidecar(out, column, path.stem) for path in (out / column).glob("*-*.json")]
    clips = [clip for sidecar in sidecars if sidecar is not None for clip in sidecar["clips"]]
    return {clip["key"]: clip.get("reason", "ok") for clip in clips}


def run_by_bash(command: str | Path, **environment: str) -> None:
    """Run a command line, or a script, as a user's shell or a cluster's node does."""
    ran = subprocess.run(
        [BASH, command] if isinstance(command, Path) else [BASH, "-c", command],
        env=os.environ | {"PATH": PATH} | environment,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


@pytest.fixture(scope="module")
def whole(lrw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both columns of an uninterrupted run, two clips per shard; read-only."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AVPREP_WEIGHTS", str(out / "none"))
        for column, options in BOTH.items():
            fill(column, lrw, out, *options, shard_size=2)
    return out


class TestStatus:
    """The output of `avprep status` for a column that is not finished."""

    @pytest.fixture
    def out(self, lrw: Path, tmp_path: Path) -> Path:
        """The second of three tasks has finished its part of the mfcc column."""
        out = tmp_path / "my shards"
        fill("mfcc", lrw, out, *MFCC, "--task-index", 1, "--num-tasks", 3)
        return out

    def test_how_to_finish(self, out: Path) -> None:
        """`status` gives what is missing, the rate, and the commands that finish it here and on a cluster."""
        other, *counts, pace, missing, command, or_slurm, send = call("status", out).stdout.splitlines()
        assert [" ".join(line.split()) for line in counts] == [
            "mfcc train 1/2 shards 0 ok 1 failed 1 missing 0 frames",
            "mfcc val 0/2 shards 0 ok 0 failed 2 missing 0 frames",
            "mfcc test 1/2 shards 1 ok 0 failed 1 missing 29 frames",
            "mfcc failed unreadable: 1",
        ]
        assert "clips/s in the last hour, ready in 0:" in pace
        assert pace.endswith("; about 1 core-minute of work left")  # at least: some work is left
        plan = shlex.quote(str(out / "manifest.jsonl"))
        options = f"{plan} {shlex.quote(str(out))} --preset syncnet --audio-shift-ms 12.5"
        assert other == f"crop: not begun; avprep crop {plan} {shlex.quote(str(out))}"
        assert missing == "mfcc: 4 of 6 shards are missing; to finish here:"
        assert command == f"  avprep mfcc {options}"
        assert or_slurm == "or on Slurm, --array=0,2-3,5 of 6 tasks:"
        assert send == f"  avprep slurm mfcc {options} --tasks 6 --submit"

    def test_slow(self, out: Path) -> None:
        """Rates below one clip per second, as of clips of minutes, keep two digits; they were 0.0."""
        for tar in (out / "mfcc").glob("*.tar"):
            sidecar = shards.read_sidecar(out, "mfcc", tar.stem)
            assert sidecar is not None
            sidecar["timings"] |= {"started": time.time() - 1000, "wall_seconds": 1000}
            shards.sidecar_path(out, "mfcc", tar.stem).write_bytes(shards.render_sidecar(sidecar, sidecar.pop("clips")))
        _, *_, pace, _, _, _, _ = call("status", out).stdout.splitlines()
        assert pace.startswith("mfcc: 0.002 clips/s in the last hour")

    def test_as_json(self, out: Path) -> None:
        """--json has the same commands, the array and the number of its tasks, besides the counts."""
        found = json.loads(call("status", out, "--json").stdout)
        assert list(found) == ["mfcc"]
        lines = call("status", out).stdout.splitlines()
        assert found["mfcc"]["command"] == lines[-3].strip()
        assert found["mfcc"]["slurm"] == lines[-1].strip()
        assert (found["mfcc"]["array"], found["mfcc"]["num_tasks"]) == ("0,2-3,5", 6)
        assert found["mfcc"]["unfinished"] == ["train-000000", "val-000000", "val-000001", "test-000001"]
        assert found["mfcc"]["eta_seconds"] == pytest.approx(4 / found["mfcc"]["rate"])

    @pytest.mark.parametrize("column", BOTH)
    def test_its_command_finishes(self, lrw: Path, whole: Path, tmp_path: Path, column: str) -> None:
        """The printed command joins the run with its settings and gives the same shards as a single call."""
        out = tmp_path / "it's 100% mine"
        fill(column, lrw, out, *BOTH[column], "--task-index", 1, "--num-tasks", 3, shard_size=2)
        run = (out / column / "run.json").read_bytes()
        assert list(tars(out, column)) == ["val-000000.tar"]
        run_by_bash(offered(out, column)["command"])
        assert tars(out, column) == tars(whole, column)
        assert (out / column / "run.json").read_bytes() == run == (whole / column / "run.json").read_bytes()
        assert offered(out, column) == NOTHING

    def test_nothing_is_missing(self, whole: Path) -> None:
        """A finished run is counted, and no command is printed."""
        for column in BOTH:
            assert offered(whole, column) == NOTHING
        said = call("status", whole).stdout
        assert len(said.splitlines()) == 8  # three splits and one reason, twice
        assert not any(word in said for word in ("are missing", "avprep", "sbatch"))

    def test_a_limited_run(self, lrw: Path, tmp_path: Path) -> None:
        """A run that was begun with --limit is finished with the same clips."""
        fill("mfcc", lrw, tmp_path, "--limit", 1, "--task-index", 1, "--num-tasks", 3)
        words = shlex.split(offered(tmp_path, "mfcc")["command"])
        assert call(*words[1:], "-j", 1).exit_code == 0
        assert facts(tmp_path, "mfcc") == {split: {"ok": 1, "failed": 0, "missing": 0} for split in manifest.SPLITS}

    def test_both_columns(self, out: Path, lrw: Path) -> None:
        """Each column has its own commands to finish it."""
        fill("crop", lrw, out, "--task-index", 0, "--num-tasks", 6)
        assert offered(out, "crop")["command"].startswith("avprep crop ")
        assert offered(out, "crop")["array"] == "1-5"
        assert offered(out, "mfcc")["array"] == "0,2-3,5"
        assert call("status", out).stdout.count("shards are missing; to finish here:") == 2


@dataclass(frozen=True)
class Accident:
    """A run in shards of two clips during which a file was missing.

    root: the data set, with the file back in its place; key, video: the clip that it belongs to; shard: that clip's.
    """

    root: Path
    out: Path
    key: str
    video: Path
    shard: str

    def put_elsewhere(self, root: Path, out: Path) -> Accident:
        """Return a copy of data set and run that may be changed."""
        shutil.copytree(self.root, root)
        shutil.copytree(self.out, out)
        frozen = out / "manifest.jsonl"
        plan = manifest.read(frozen)
        frozen.write_text(manifest.render(manifest.Manifest(plan.dataset, root, plan.clips, plan.seed)))
        return Accident(root, out, self.key, root / self.video.relative_to(self.root), self.shard)

    def others(self) -> list[Path]:
        """Return the videos of all the other clips."""
        return [path for path in self.root.rglob("*.mp4") if path != self.video]


@pytest.fixture(scope="module")
def made(lrw: Path, tmp_path_factory: pytest.TempPathFactory) -> Accident:
    """The original that `accident` copies."""
    folder = tmp_path_factory.mktemp("accident")
    plan = manifest.read(lrw / "plan.jsonl")
    shard, (clip, _) = next((name, clips) for name, clips in plan.shards(2) if name.startswith("val"))
    root = folder / "corpus"
    shutil.copytree(plan.root, root)
    (root / clip.video).rename(folder / "away")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AVPREP_WEIGHTS", str(folder / "none"))
        for column, options in BOTH.items():
            fill(column, lrw, folder / "out", *options, "--root", root, shard_size=2)
    (folder / "away").rename(root / clip.video)
    return Accident(root, folder / "out", clip.key, root / clip.video, shard)


@pytest.fixture
def accident(made: Accident, tmp_path: Path) -> Accident:
    """A run during which a file was missing; the file is back now."""
    return made.put_elsewhere(tmp_path / "corpus", tmp_path / "out")


class TestRetry:
    """`avprep retry`."""

    def test_a_file_that_came_back(self, accident: Accident, whole: Path) -> None:
        """The clip is made and its shard is byte-identical to that of a good run; no other clip is processed."""
        assert ends(accident.out, "crop")[accident.key] == ends(accident.out, "mfcc")[accident.key] == "missing"
        before = contents(accident.out)
        for video in accident.others():
            video.unlink()
        result = call("retry", accident.out, "--reason", "missing", "-j", 2)
        assert result.exit_code == 0, result.output
        for column in BOTH:
            assert tars(accident.out, column) == tars(whole, column)
            assert ends(accident.out, column) == ends(whole, column)
            sidecar = shards.read_sidecar(accident.out, column, accident.shard)
            assert sidecar is not None
            assert sidecar["counts"] == {"clips": 2, "ok": 2, "failed": 0, "frames": 58, "reasons": {}}
            counted = f"{column}: 3 shards (2 done before), 5 clips ok, 1 failed (unreadable 1), 145 frames, "
            assert counted in result.stdout
            assert f"  {accident.out}/{column}/val-000000.tar\n" in result.stdout
        changed = {Path(path).name for path, time in contents(accident.out).items() if before[path] != time}
        assert changed == {"crop", "mfcc", f"{accident.shard}.tar", f"{accident.shard}.json"}
        assert verify.verify(accident.out) == []

    def test_what_status_offers(self, accident: Accident) -> None:
        """`status` reports such a clip as an accident; the command that it prints repairs it."""
        lines = call("status", accident.out).stdout.splitlines()
        at = lines.index("crop: 1 accident (missing 1); to run these clips again:")
        assert lines[at + 1] == f"  avprep retry {accident.out} --column crop --reason missing"
        run_by_bash(lines[at + 1])
        assert sorted(ends(accident.out, "crop").values()) == ["ok"] * 5 + ["unreadable"]
        assert ends(accident.out, "mfcc")[accident.key] == "missing"
        said = call("status", accident.out).stdout
        assert "crop: 1 accident" not in said
        assert "mfcc: 1 accident" in said

    def test_one_column(self, accident: Accident) -> None:
        """--column leaves the other column unchanged."""
        before = contents(accident.out / "crop")
        result = call("retry", accident.out, "--reason", "missing", "--column", "mfcc", "-j", 1)
        assert result.exit_code == 0, result.output
        assert contents(accident.out / "crop") == before
        assert "crop" not in result.stdout
        assert ends(accident.out, "mfcc")[accident.key] == "ok"

    def test_dry_run_touches_nothing(self, accident: Accident) -> None:
        """--dry-run gives the number of clips of each column that would be run again, and runs none."""
        before = contents(accident.out)
        result = call("retry", accident.out, "--reason", "unreadable, missing,timeout", "--dry-run")
        assert (result.exit_code, result.stdout.splitlines()) == (
            0,
            [f"{column}: 2 clips (missing 1, unreadable 1) to run again" for column in ("crop", "mfcc")],
        )
        assert contents(accident.out) == before

    @pytest.mark.parametrize("options", [[], ["--dry-run"]], ids=["plain", "dry"])
    def test_nothing_of_that_reason(self, accident: Accident, options: list[str]) -> None:
        """If no clip failed for the reason, the command says so and succeeds."""
        before = contents(accident.out)
        result = call("retry", accident.out, "--reason", "timeout", *options)
        assert (result.exit_code, result.stdout) == (0, "crop: 0 clips to run again\nmfcc: 0 clips to run again\n")
        assert contents(accident.out) == before

    @pytest.mark.parametrize("reasons", ["mondays", "missing,mondays", "missing,", ""])
    def test_unknown_reason(self, accident: Accident, reasons: str) -> None:
        """A reason that does not exist is a usage error; the message lists the existing ones."""
        result = call("retry", accident.out, "--reason", reasons)
        assert_one_line(result, 2, "--reason", "missing, unreadable", repr(reasons.rpartition(",")[2]))

    def test_a_newer_reason(self, accident: Accident) -> None:
        """A clip that fails again has the reason of the latest attempt."""
        accident.video.write_bytes(b"not a video")
        result = call("retry", accident.out, "--reason", "missing", "--column", "mfcc", "-j", 1)
        assert result.exit_code == 0, result.output
        assert ends(accident.out, "mfcc")[accident.key] == "unreadable"
        assert facts(accident.out, "mfcc")["val"] == {"ok": 1, "failed": 1, "missing": 0}
        assert verify.verify(accident.out) == []

    def test_strict(self, accident: Accident, lrw: Path) -> None:
        """--strict gives exit status 3 as long as a clip of the column fails, and 0 if none does."""
        options = ["--column", "mfcc", "--strict", "-j", 1]
        still = call("retry", accident.out, "--reason", "missing", *options)
        assert still.exit_code == 3, still.output
        assert ends(accident.out, "mfcc")[accident.key] == "ok"
        (bad,) = (video for video in accident.others() if video.stat().st_size < 100)
        shutil.copy(accident.video, bad)
        mended = call("retry", accident.out, "--reason", "unreadable", *options)
        assert mended.exit_code == 0, mended.output
        assert set(ends(accident.out, "mfcc").values()) == {"ok"}

    def test_several_tasks(self, accident: Accident) -> None:
        """Tasks divide the shards as in the first run: each runs the clips of its own shards again."""
        options = ["--reason", "missing", "--column", "mfcc", "-j", 1, "--num-tasks", 3]
        assert call("retry", accident.out, *options, "--task-index", 0).exit_code == 0
        assert ends(accident.out, "mfcc")[accident.key] == "missing"
        assert call("retry", accident.out, *options, "--task-index", 1).exit_code == 0
        assert ends(accident.out, "mfcc")[accident.key] == "ok"

    def test_unfinished_shards(self, accident: Accident, whole: Path) -> None:
        """An unfinished shard is left to the run that makes it; the command reports what is missing."""
        for suffix in (".tar", ".json"):
            (accident.out / f"mfcc/test-000000{suffix}").unlink()
        result = call("retry", accident.out, "--reason", "missing", "--column", "mfcc", "-j", 1)
        assert result.exit_code == 0, result.output
        assert result.stdout.splitlines()[1:] == ["  1 of 3 shards is missing"]
        assert result.stderr.endswith(f"next: avprep status {accident.out}\n")
        assert sorted(tars(accident.out, "mfcc")) == ["train-000000.tar", "val-000000.tar"]
        assert tars(accident.out, "mfcc")["val-000000.tar"] == tars(whole, "mfcc")["val-000000.tar"]

    def test_moved_data_set(self, accident: Accident) -> None:
        """A data set that was moved is found with --root."""
        moved = accident.root.rename(accident.root.with_name("moved"))
        result = call("retry", accident.out, "--reason", "missing", "--column", "mfcc", "--root", moved, "-j", 1)
        assert result.exit_code == 0, result.output
        assert ends(accident.out, "mfcc")[accident.key] == "ok"

    def test_data_set_that_is_not_there(self, accident: Accident) -> None:
        """If the whole data set is missing, no clip fails: one line names the folder and --root."""
        shutil.rmtree(accident.root)
        before = contents(accident.out)
        result = call("retry", accident.out, "--reason", "unreadable", "--column", "mfcc", "-j", 1)
        assert_one_line(result, 1, f"{accident.root}: the data set is not there", "--root")
        assert contents(accident.out) == before

    def test_no_run(self, accident: Accident, tmp_path: Path) -> None:
        """A folder without a run, or without that column, is a one-line error."""
        (tmp_path / "empty").mkdir()
        result = call("retry", tmp_path / "empty", "--reason", "missing")
        assert_one_line(result, 1, f"{tmp_path}/empty: no run was ever started there")
        assert_one_line(call("retry", tmp_path / "gone", "--reason", "missing"), 2, "gone")
        shutil.rmtree(accident.out / "crop")
        result = call("retry", accident.out, "--reason", "missing", "--column", "crop")
        assert_one_line(result, 1, f"{accident.out}: no crop was ever started there")


SBATCH = '#!/bin/sh\nprintf "%s\\n" "$@" > "${0%/*}/sent"\necho 4242\n'
"""An sbatch that takes everything and keeps its arguments."""


@pytest.mark.usefixtures("program")
class TestSlurm:
    """`avprep slurm crop` and `avprep slurm mfcc`."""

    @pytest.fixture
    def sent(self, program: Program) -> Callable[[], list[str] | None]:
        """A function that returns the arguments of the last call of sbatch, None before the first."""
        path = program("sbatch", SBATCH).with_name("sent")
        return lambda: path.read_text().splitlines() if path.exists() else None

    @pytest.fixture
    def script(self, lrw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        """The script of a crop column that was never begun, with paths relative to the current folder."""
        monkeypatch.chdir(tmp_path)
        plan = os.path.relpath(lrw / "plan.jsonl", tmp_path)
        result = call("slurm", "crop", plan, "the shards", *CROP, "--shard-size", 1, "--tasks", 4, "--max-parallel", 3)
        assert result.exit_code == 0, result.output
        lost, chosen = result.stderr.splitlines()
        assert "frontal faces only" in lost
        assert chosen == "crop: detector opencv, align per-clip"
        return result.stdout

    def test_its_command(self, script: str, lrw: Path, tmp_path: Path) -> None:
        """The command of every task has absolute paths, the detector that was chosen here and no option twice."""
        manifest_path, out, *rest = command_of(script)[2:]
        assert Path(manifest_path).is_absolute()
        assert Path(manifest_path).samefile(lrw / "plan.jsonl")
        assert out == f"{tmp_path}/the shards"
        wanted = ["--detector", "opencv", *CROP, "--shard-size", "1", "--num-tasks", "4"]
        assert rest == [*wanted, "--jobs", "$SLURM_CPUS_PER_TASK", "&"]

    def test_its_options(self, script: str, tmp_path: Path) -> None:
        """sbatch gets the given resources, two GiB per core and a log per task; the folder of the logs is made."""
        asked = read_by_sbatch(script)
        assert asked[:3] == ["--job-name=avprep-crop", "--array=0-3%3", "--time=04:00:00"]
        assert asked[3:5] == ["--cpus-per-task=4", "--mem=8G"]
        assert f"--output={tmp_path}/the shards/logs/avprep-crop-%A_%a.log" in asked
        assert list((tmp_path / "the shards").rglob("*")) == [tmp_path / "the shards/logs"]

    def test_more_options(self, lrw: Path, tmp_path: Path) -> None:
        """Time, cores, memory, partition, set-up and further options of sbatch are in the script."""
        asked = ["--time", "30", "--cpus", 2, "--mem", "9G", "--partition", "short"]
        further = ["--sbatch", "--account=lab", "--sbatch", "--qos=low"]
        setup = ["--setup", "module load x", "--setup", "echo 'y  z'"]
        text = call("slurm", "mfcc", lrw / "plan.jsonl", tmp_path / "out", *asked, *further, *setup).stdout
        options = read_by_sbatch(text)
        assert {"--time=30", "--cpus-per-task=2", "--mem=9G", "--partition=short"} <= set(options)
        assert options[-2:] == ["--account=lab", "--qos=low"]
        assert "\nmodule load x\necho 'y  z'\n" in text
        assert "\nexport AVPREP_WEIGHTS=" in text

    def test_options_of_the_command(self, lrw: Path, tmp_path: Path) -> None:
        """The script has only the options of the command that differ from its defaults."""
        given = ["--limit", "1", "--clip-timeout", "9", "--max-seconds", "1800", "--strict", "--preset", "davs"]
        root = os.path.relpath(lrw / "corpus")
        text = call("slurm", "mfcc", lrw / "plan.jsonl", tmp_path / "out", *given, "--root", root).stdout
        *rest, folder, strict = command_of(text)[4:-5]
        assert (rest, strict) == (["--clip-timeout", "9.0", "--limit", "1", "--root"], "--strict")
        assert Path(folder).is_absolute()
        assert Path(folder).samefile(lrw / "corpus")

    def test_only_tasks_with_something_to_do(self, lrw: Path, tmp_path: Path) -> None:
        """Tasks whose shards are all done are not in the array; there are no more tasks than shards."""
        out = tmp_path / "out"
        fill("mfcc", lrw, out, "--task-index", 1, "--num-tasks", 3)
        text = call("slurm", "mfcc", lrw / "plan.jsonl", out, "--tasks", 3).stdout
        assert "--array=0,2" in read_by_sbatch(text)
        assert "# mfcc: 6 clips in 6 shards, 2 done.\n" in text
        text = call("slurm", "mfcc", lrw / "plan.jsonl", out, "--tasks", 100).stdout
        assert "--array=0,2-3,5" in read_by_sbatch(text)
        assert "--num-tasks 6 " in text

    def test_more_tasks_than_the_cluster_takes(self, lrw: Path, tmp_path: Path, program: Program) -> None:
        """A number of tasks above the array limit is reduced, with a note; only the script is on standard output."""
        program("scontrol", "#!/bin/sh\necho 'MaxArraySize            = 4'\n")
        result = call("slurm", "mfcc", lrw / "plan.jsonl", tmp_path / "out", "--shard-size", 1, "--tasks", 6)
        assert result.exit_code == 0
        assert "--array=0-3" in read_by_sbatch(result.stdout)
        assert "--num-tasks 4 " in result.stdout
        assert result.stderr == "6 tasks are more than Slurm's MaxArraySize allows: 4 instead\n"
        assert result.stdout.startswith("#!/bin/bash\n")

    def test_submit(self, lrw: Path, tmp_path: Path, sent: Callable[[], list[str] | None]) -> None:
        """--submit sends the script that would be printed, keeps it in OUT and prints the job's number."""
        out = tmp_path / "out"
        options = [lrw / "plan.jsonl", out, *MFCC, "--shard-size", 1, "--tasks", 3]
        printed = call("slurm", "mfcc", *options).stdout
        assert sent() is None
        result = call("slurm", "mfcc", *options, "--submit")
        assert result.exit_code == 0, result.output
        assert result.stdout == f"job 4242: {out}/mfcc.sbatch, 6 shards, logs in {out}/logs\n"
        assert sent() == ["--parsable"]
        assert (out / "mfcc.sbatch").read_text() == printed
        assert sorted(path.name for path in out.iterdir()) == ["logs", "mfcc.sbatch"]

    @pytest.mark.parametrize(("parallel", "suffix"), [([], ""), (["--max-parallel", 2], "%2")], ids=["all", "two"])
    def test_what_status_offers_then(
        self,
        lrw: Path,
        tmp_path: Path,
        sent: Callable[[], list[str] | None],
        parallel: list[object],
        suffix: str,
    ) -> None:
        """After a script was sent `status` suggests sending it again, for the tasks with work left."""
        out = tmp_path / "my out"
        options = [lrw / "plan.jsonl", out, *MFCC, "--shard-size", 1, "--tasks", 3]
        assert call("slurm", "mfcc", *options, *parallel, "--submit").exit_code == 0
        fill("mfcc", lrw, out, *MFCC, "--task-index", 1, "--num-tasks", 3)
        found = offered(out, "mfcc")
        assert (found["array"], found["num_tasks"]) == ("0,2", 3)
        assert shlex.split(found["slurm"]) == ["sbatch", f"--array=0,2{suffix}", f"{out}/mfcc.sbatch"]
        assert call("status", out).stdout.endswith(f"--array=0,2 of 3 tasks:\n  {found['slurm']}\n")
        run_by_bash(found["slurm"], PATH=os.environ["PATH"])
        assert sent() == [f"--array=0,2{suffix}", f"{out}/mfcc.sbatch"]

    def test_a_name_that_is_not_utf8(self, lrw: Path, tmp_path: Path, program: Program) -> None:
        """An OUT whose name is not UTF-8, which a run accepts, has its array job too."""
        programs = program("sbatch", SBATCH).parent
        out = tmp_path / os.fsdecode(b"\xff out")
        command = shlex.join(["avprep", "slurm", "mfcc", f"{lrw}/plan.jsonl", str(out), "--tasks", "2", "--submit"])
        run_by_bash(command, PATH=f"{programs}{os.pathsep}{PATH}")
        assert (programs / "sent").exists()
        assert b"\xff out/logs" in (out / "mfcc.sbatch").read_bytes()
        assert slurm.sent_tasks(out / "mfcc.sbatch") == (2, None)

    def test_a_refusal(self, lrw: Path, tmp_path: Path, program: Program) -> None:
        """A script that sbatch refuses, and a missing sbatch, give one line. Neither script is kept."""
        out = tmp_path / "out"
        absent = call("slurm", "mfcc", lrw / "plan.jsonl", out, "--submit")
        assert_one_line(absent, 1, "there is no sbatch here: without --submit the script is printed")
        program("sbatch", "#!/bin/sh\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
        refused = call("slurm", "mfcc", lrw / "plan.jsonl", out, "--submit", "--partition", "x")
        assert_one_line(refused, 1, "sbatch refuses the script: invalid partition")
        assert [path.name for path in out.iterdir()] == ["logs"]

    def test_an_option_without_dashes(self, lrw: Path, tmp_path: Path) -> None:
        """An invalid option for sbatch is refused at once, with the correct form."""
        result = call("slurm", "mfcc", lrw / "plan.jsonl", tmp_path / "out", "--sbatch", "account=lab")
        assert_one_line(result, 2, "--sbatch 'account=lab' is no option: write '--account=lab'")

    def test_a_short_time_limit(self, lrw: Path, tmp_path: Path) -> None:
        """A time limit too short for a shard gives a note; the script is printed all the same."""
        result = call("slurm", "mfcc", lrw / "plan.jsonl", tmp_path / "out", "--time", "00:03:00")
        assert result.stderr.startswith("--time 00:03:00 is short: Slurm warns a task 120 s or more before the end")
        assert "--time=00:03:00" in read_by_sbatch(result.stdout)

    def test_sent_and_not_begun(self, lrw: Path, tmp_path: Path, sent: Callable[[], list[str] | None]) -> None:
        """Between sending and the first task `status` says so, also for one column while the other has begun."""
        out = tmp_path / "out"
        assert call("slurm", "mfcc", lrw / "plan.jsonl", out, *MFCC, "--submit").exit_code == 0
        assert call("status", out).stdout == f"{out}/mfcc.sbatch: sent, and no task has begun yet\n"
        assert json.loads(call("status", out, "--json").stdout) == {}
        fill("crop", lrw, out, *CROP)
        assert f"mfcc: {out}/mfcc.sbatch was sent, and no task has begun yet\n" in call("status", out).stdout

    def test_face_alignment_has_few_workers(self, lrw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """However many cores a task has, only as many networks as fit run on its GPU; --gpus makes auto use one."""
        monkeypatch.setattr(weights, "require", lambda detector: None)
        options = ["--gpus", 1, "--cpus", 16]
        command = command_of(call("slurm", "crop", lrw / "plan.jsonl", tmp_path / "out", *options).stdout)
        assert command[command.index("--detector") + 1] == "face-alignment"
        assert command[command.index("--jobs") + 1] == "4"

    @pytest.mark.parametrize("submit", [[], ["--submit"]], ids=["print", "submit"])
    def test_nothing_is_missing(
        self, lrw: Path, whole: Path, sent: Callable[[], list[str] | None], submit: list[str]
    ) -> None:
        """If everything is done, nothing is printed or sent, and a line says so."""
        before = contents(whole)
        result = call("slurm", "mfcc", lrw / "plan.jsonl", whole, *MFCC, *submit)
        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr == "mfcc: nothing is missing, so there is nothing to send\n"
        assert sent() is None
        assert contents(whole) == before

    def test_other_settings(self, lrw: Path, whole: Path, sent: Callable[[], list[str] | None]) -> None:
        """An OUT with other settings or another manifest is refused before anything is sent, with the difference."""
        before = contents(whole)
        other = call("slurm", "mfcc", lrw / "plan.jsonl", whole, "--submit")
        assert_one_line(other, 1, "made with other settings (settings.audio_shift_ms: there 12.5, here 0.0; settings.")
        plan = call("slurm", "mfcc", lrw / "plan.jsonl", whole, *MFCC, "--limit", 1, "--submit")
        assert_one_line(plan, 1, "manifest.jsonl: another manifest (lrw, 6 clips; this one: lrw, 3 clips)")
        size = call("slurm", "mfcc", lrw / "plan.jsonl", whole, *MFCC, "--shard-size", 3)
        assert_one_line(size, 1, "made with --shard-size 2")
        assert sent() is None
        assert contents(whole) == before

    def test_other_versions(self, accident: Accident, lrw: Path) -> None:
        """Other versions on this machine do not stop `slurm`, as the tasks run elsewhere and check their own."""
        path = accident.out / "mfcc/run.json"
        path.write_text(path.read_text().replace('"av": "', '"av": "0.'))
        (accident.out / "mfcc/test-000000.json").unlink()
        assert_one_line(call("mfcc", lrw / "plan.jsonl", accident.out, *MFCC), 1, "versions.av: there 0.")
        assert "--array=2" in read_by_sbatch(call("slurm", "mfcc", lrw / "plan.jsonl", accident.out, *MFCC).stdout)

    @pytest.mark.parametrize(
        ("options", "weights"),
        [(["--detector", "yunet"], "yunet"), (["--gpus", 1], "face-alignment")],
        ids=["yunet", "gpus"],
    )
    def test_weights_that_are_missing(self, lrw: Path, tmp_path: Path, options: list[object], weights: str) -> None:
        """Weights that every task would need are required here; with a GPU these are face-alignment's."""
        result = call("slurm", "crop", lrw / "plan.jsonl", tmp_path / "out", *options)
        assert_one_line(result, 1, f"run `avprep weights fetch {weights}`")
        assert not (tmp_path / "out").exists()

    def test_wrong_usage(self, lrw: Path, tmp_path: Path) -> None:
        """Invalid options are named; a text of two lines cannot get into the script."""
        plan, out = lrw / "plan.jsonl", tmp_path / "out"
        assert_one_line(call("slurm", "mfcc", plan, out, "--tasks", 0), 2, "--tasks")
        assert_one_line(call("slurm", "mfcc", plan, out, "--jobs", 2), 2, "--jobs")
        assert_one_line(call("slurm", "mfcc", plan, out, "--partition", "a\nb"), 2, "must be one line", "a\\nb")
        out.mkdir()
        (out / "logs").write_text("")
        assert_one_line(call("slurm", "mfcc", plan, out), 1, f"{out}/logs: cannot make the folder of the logs")
        assert_one_line(call("slurm", "mfcc", tmp_path / "gone.jsonl", out), 1, "gone.jsonl")

    @pytest.mark.parametrize("column", BOTH)
    def test_the_script_does_the_work(
        self, lrw: Path, whole: Path, tmp_path: Path, sent: Callable[[], list[str] | None], column: str
    ) -> None:
        """The script that was sent, run for every task of its array, finishes the column as a single call would."""
        out = tmp_path / "it's 100% mine"
        fill(column, lrw, out, *BOTH[column], "--task-index", 2, "--num-tasks", 3, shard_size=2)
        options = [*BOTH[column], "--tasks", 3, "--cpus", 1, "--submit"]
        result = call("slurm", column, lrw / "plan.jsonl", out, *options)
        assert result.exit_code == 0, result.output
        assert sent() is not None
        script = out / f"{column}.sbatch"
        assert "--array=0-1" in read_by_sbatch(script.read_text())
        for task in ("0", "1"):
            run_by_bash(script, SLURM_ARRAY_JOB_ID="77", SLURM_ARRAY_TASK_ID=task, SLURM_CPUS_PER_TASK="1")
        assert tars(out, column) == tars(whole, column)
        assert verify.verify(out) == []
        assert offered(out, column) == NOTHING
