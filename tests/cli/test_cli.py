"""The command line: help without heavy imports, one line per error, documented exit statuses, no silent failures."""

from __future__ import annotations

import builtins
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import webdataset
from avprep_cli import summary
from click.testing import Result
from command_line import ALL, assert_one_line, call, contents

from avprep import manifest, shards


@pytest.fixture(scope="module")
def shards_made(lrw: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A finished mfcc column and the output of its command."""
    out = tmp_path_factory.mktemp("out")
    return out, call("mfcc", lrw / "plan.jsonl", out, "-j", 2, "--shard-size", 1)


class TestHelp:
    """Every command has help, and shows it at once."""

    @pytest.mark.parametrize(("words", "command"), ALL, ids=["-".join(words) for words, _ in ALL])
    def test_everything_is_documented(self, words: tuple[str, ...], command: click.Command) -> None:
        """Each command and each of its options has a help text."""
        assert command.help
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help, f"{' '.join(words)} {option.opts[0]} has no help"
        result = call(*words, "--help")
        assert result.exit_code == 0
        assert command.help.splitlines()[0] in " ".join(result.output.split())

    def test_nothing_heavy_is_imported(self) -> None:
        """No help, version or usage error imports torch, OpenCV, PyAV or any other slow module."""
        calls = [["--help"], ["--version"], *([*words, "--help"] for words, _ in ALL), ["crop", "--detector", "x"]]
        script = f"""
import sys
from click.testing import CliRunner
from avprep_cli.main import main
for words in {calls!r}:
    assert CliRunner().invoke(main, words).exit_code in (0, 2), words
print(*sorted({{name.split(".")[0] for name in sys.modules}}))
"""
        modules = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
        heavy = {"torch", "numpy", "cv2", "av", "skimage", "scipy", "face_alignment", "webdataset", "tqdm"}
        assert not set(modules.split()) & heavy

    def test_who_hands_clips_out_waits_for_no_library(self, lrw: Path, tmp_path: Path) -> None:
        """The process that coordinates a run loads neither numpy nor what decodes, detects and computes."""
        script = f"""
import sys
from click.testing import CliRunner
from avprep_cli.main import main
from avprep.runs import run
for words in (["crop", "--detector", "yunet"], ["mfcc"]):
    made = CliRunner().invoke(main, [words[0], {str(lrw / "plan.jsonl")!r}, {str(tmp_path / "out")!r}, *words[1:],
        "--dry-run"])
    assert made.exit_code == 0 or "yunet" in made.output, made.output
print(*sorted({{name.split(".")[0] for name in sys.modules}}))
"""
        modules = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
        assert not set(modules.split()) & {"torch", "numpy", "cv2", "av", "onnxruntime", "scipy"}

    def test_commands_come_in_the_order_of_use(self) -> None:
        """The list of commands is in the order of use."""
        listed = re.findall(r"^  (\w\S*)", call("--help").output.partition("\nData:\n")[2], re.MULTILINE)
        assert listed[:7] == ["index", "crop", "mfcc", "sync", "select", "verify", "weights"]
        assert listed[7:12] == ["slurm", "status", "retry", "report", "inspect"]
        assert listed[12:16] == ["train", "evaluate", "ablate", "generate"]


class TestIndex:
    """`avprep index`."""

    def test_what_it_says(self, lrw: Path, tmp_path: Path) -> None:
        """The output counts the clips of each split and names the file, which is a manifest."""
        path = tmp_path / "new/plan.jsonl"
        result = call("index", "lrw", lrw / "corpus", "-o", path)
        assert (result.exit_code, result.stdout) == (
            0,
            f"{path}: 6 clips (train 2, val 2, test 2), 0 problems\n",
        )
        assert len(manifest.read(path).clips) == 6

    def test_overwrites_only_by_force(self, lrw: Path, tmp_path: Path) -> None:
        """An existing manifest is replaced only with --force."""
        path = tmp_path / "plan.jsonl"
        path.write_text("dear to me")
        refused = call("index", "lrw", lrw / "corpus", "-o", path)
        assert_one_line(refused, 2, str(path), "is there already", "--force")
        assert path.read_text() == "dear to me"
        assert call("index", "lrw", lrw / "corpus", "-o", path, "--force").exit_code == 0
        assert len(manifest.read(path).clips) == 6

    @pytest.mark.parametrize(
        ("layout", "options", "name"),
        [("lrw", ["--sentences"], "--sentences"), ("voxceleb2", ["--val-fraction", "0.2"], "--val-fraction")],
    )
    def test_options_of_other_layouts(
        self, lrw: Path, tmp_path: Path, layout: str, options: list[str], name: str
    ) -> None:
        """An option that a layout does not have is refused by name."""
        result = call("index", layout, lrw / "corpus", "-o", tmp_path / "x.jsonl", *options)
        assert_one_line(result, 2, f"{name} is not an option of the layout {layout}")
        assert not (tmp_path / "x.jsonl").exists()

    def test_limit(self, lrw: Path, tmp_path: Path) -> None:
        """--limit keeps that many clips of each split; 0 is not a valid limit."""
        path = tmp_path / "x.jsonl"
        assert "3 clips" in call("index", "lrw", lrw / "corpus", "-o", path, "--limit", 1).output
        assert_one_line(call("index", "lrw", lrw / "corpus", "-o", path, "--force", "--limit", -1), 2, "--limit")

    def test_no_such_root(self, tmp_path: Path) -> None:
        """A root that does not exist is named."""
        result = call("index", "lrw", tmp_path / "gone", "-o", tmp_path / "x.jsonl")
        assert_one_line(result, 1, str(tmp_path / "gone"))

    def test_a_manifest_that_cannot_be_written(self, lrw: Path, tmp_path: Path) -> None:
        """An output that cannot be written is named."""
        (tmp_path / "file").write_text("")
        result = call("index", "lrw", lrw / "corpus", "-o", tmp_path / "file/x.jsonl")
        assert_one_line(result, 1, "file/x.jsonl: cannot write")

    def test_problems_never_take_the_manifests_place(self, lrw: Path, tmp_path: Path) -> None:
        """The same file for the manifest and its problems is a usage error, whichever path names it."""
        path = tmp_path / "x.jsonl"
        refused = call("index", "lrw", lrw / "corpus", "-o", path, "--problems", tmp_path / "." / "x.jsonl")
        assert_one_line(refused, 2, "-o and --problems are the same file")
        assert not path.exists()

    def test_problems_are_listed(self, lrw: Path, tmp_path: Path) -> None:
        """--problems writes each problem as JSON; the counts are on the screen."""
        root = tmp_path / "corpus"
        for word in ("ABOUT", "ABOVE"):
            (root / word / "train").mkdir(parents=True)
            (root / word / "train" / f"{word}_00001.mp4").touch()
        result = call("index", "lrw", root, "-o", tmp_path / "x.jsonl", "--problems", tmp_path / "problems.jsonl")
        assert result.exit_code == 0, result.output
        rows = [json.loads(line) for line in (tmp_path / "problems.jsonl").read_text().splitlines()]
        assert all(row.keys() == {"kind", "path", "message", "count"} for row in rows)
        assert f"{sum(row['count'] for row in rows)} problem" in result.stdout

    def test_problems_tell_why_no_clip_is_found(self, tmp_path: Path) -> None:
        """If no clip can be made, the problems and their remedies are printed and written all the same."""
        (tmp_path / "mp4/id00012/video").mkdir(parents=True)
        (tmp_path / "mp4/id00012/video/00001.mp4").touch()
        listed = tmp_path / "problems.jsonl"
        result = call("index", "voxceleb2", tmp_path, "-o", tmp_path / "x.jsonl", "--problems", listed)
        assert_one_line(result, 1, "no clip found", "1 missing_audio")
        assert "missing_audio: mp4/id00012/video/00001.mp4: " in result.stderr
        assert "--audio-root" in result.stderr
        assert [json.loads(line)["kind"] for line in listed.read_text().splitlines()] == ["missing_audio"]


class TestRun:
    """The common part of `avprep crop` and `avprep mfcc`."""

    def test_what_it_says(self, shards_made: tuple[Path, Result]) -> None:
        """The output gives the results, failures with reasons, and the place of the shards in WebDataset's form."""
        out, result = shards_made
        assert result.exit_code == 0, result.output
        first, *patterns = result.stdout.splitlines()
        assert first.startswith("mfcc: 6 shards, 5 clips ok, 1 failed (unreadable 1), 145 frames, ")
        assert patterns == [f"  {out}/mfcc/{split}-{{000000..000001}}.tar" for split in manifest.SPLITS]
        assert "unreadable: " in result.stderr

    def test_again(self, lrw: Path, shards_made: tuple[Path, Result]) -> None:
        """A second call finds everything done and says so; with --strict failures give exit status 3."""
        again = call("mfcc", lrw / "plan.jsonl", shards_made[0], "-j", 1)
        assert again.exit_code == 0
        assert again.stdout.startswith(
            "mfcc: 6 shards (6 done before), 5 clips ok, 1 failed (unreadable 1), 145 frames"
        )
        assert call("mfcc", lrw / "plan.jsonl", shards_made[0], "-j", 1, "--strict").exit_code == 3

    def test_strict_is_content_with_success(self, lrw: Path, tmp_path: Path) -> None:
        """--strict gives exit status 0 if no clip failed."""
        plan = manifest.read(lrw / "plan.jsonl")
        good = [clip for clip in plan.clips if (lrw / "corpus" / clip.video).stat().st_size > 100]
        path = tmp_path / "plan.jsonl"
        path.write_text(manifest.render(manifest.Manifest("lrw", plan.root, tuple(good[:1]))))
        assert call("mfcc", path, tmp_path / "out", "-j", 1, "--strict").exit_code == 0

    def test_dry_run_touches_nothing(self, lrw: Path, shards_made: tuple[Path, Result], tmp_path: Path) -> None:
        """--dry-run shows settings and work, in a new folder and in a finished one, and writes nothing."""
        new = call("mfcc", lrw / "plan.jsonl", tmp_path / "out", "--dry-run", "--task-index", 1, "--num-tasks", 3)
        assert new.exit_code == 0, new.output
        assert not (tmp_path / "out").exists()
        shown, _, last = new.stdout.rstrip().rpartition("\n")
        assert json.loads(shown)["settings"]["preset"] == "davs"
        assert last == "task 1 of 3: 1 shard, 2 clips; 0 shards done"
        before = contents(shards_made[0])
        done = call("mfcc", lrw / "plan.jsonl", shards_made[0], "--dry-run")
        assert contents(shards_made[0]) == before
        assert done.stdout.endswith("task 0 of 1: 6 shards, 6 clips; 6 shards done\n")
        assert json.loads(done.stdout.rpartition("}")[0] + "}")["shard_size"] == 1

    @pytest.mark.parametrize("dry", [[], ["--dry-run"]])
    def test_other_settings(self, lrw: Path, shards_made: tuple[Path, Result], dry: list[str]) -> None:
        """Other settings are refused with the difference, also by --dry-run."""
        result = call("mfcc", lrw / "plan.jsonl", shards_made[0], "--preset", "syncnet", *dry)
        assert_one_line(
            result, 1, "mfcc/run.json: made with other settings (settings.preset: there davs, here syncnet)"
        )

    def test_limit_is_another_plan(self, lrw: Path, shards_made: tuple[Path, Result]) -> None:
        """A limited manifest does not join a run of the whole one."""
        result = call("mfcc", lrw / "plan.jsonl", shards_made[0], "--limit", 1)
        assert_one_line(result, 1, "manifest.jsonl: another manifest (lrw, 6 clips; this one: lrw, 3 clips)")

    def test_root(self, lrw: Path, tmp_path: Path) -> None:
        """A data set that was moved is found with --root, and reported as missing without."""
        plan = manifest.read(lrw / "plan.jsonl")
        path = tmp_path / "plan.jsonl"
        path.write_text(manifest.render(manifest.Manifest("lrw", tmp_path / "gone", plan.clips)))
        assert_one_line(call("mfcc", path, tmp_path / "out", "-j", 1), 1, f"{tmp_path / 'gone'}: ", "--root")
        result = call("mfcc", path, tmp_path / "out", "-j", 1, "--limit", 1, "--root", lrw / "corpus")
        assert result.exit_code == 0, result.output
        assert "3 shards" in result.stdout

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--task-index", "3"], "--task-index needs --num-tasks"),
            (["--task-index", "3", "--num-tasks", "3"], "--task-index 3 is not one of 3 tasks"),
            (["--num-tasks", "3"], "--num-tasks needs --task-index outside an array job"),
        ],
    )
    def test_tasks(self, lrw: Path, tmp_path: Path, options: list[str], message: str) -> None:
        """Task options that do not fit together are a usage error, exit status 2, in one line."""
        assert_one_line(call("mfcc", lrw / "plan.jsonl", tmp_path / "out", *options), 2, message)

    @pytest.mark.parametrize(
        ("options", "name"),
        [
            (["--jobs", "0"], "--jobs"),
            (["--shard-size", "0"], "--shard-size"),
            (["--clip-timeout", "0"], "--clip-timeout"),
            (["--preset", "x"], "--preset"),
            (["--root", "/nowhere/at/all"], "--root"),
            (["--colour", "red"], "--colour"),
        ],
    )
    def test_wrong_usage(self, lrw: Path, tmp_path: Path, options: list[str], name: str) -> None:
        """A value that an option cannot have gives exit status 2 and names the option."""
        assert_one_line(call("mfcc", lrw / "plan.jsonl", tmp_path / "out", *options), 2, name)

    def test_no_manifest(self, tmp_path: Path) -> None:
        """A manifest that is missing or invalid is named."""
        assert_one_line(call("mfcc", tmp_path / "gone.jsonl", tmp_path / "out"), 1, "gone.jsonl", "avprep index")
        (tmp_path / "x.jsonl").write_text("{}\n")
        assert_one_line(call("crop", tmp_path / "x.jsonl", tmp_path / "out"), 1, "x.jsonl: not a manifest")

    def test_out_that_cannot_be(self, lrw: Path, tmp_path: Path) -> None:
        """An OUT below a file is named."""
        (tmp_path / "file").write_text("")
        result = call("mfcc", lrw / "plan.jsonl", tmp_path / "file/out")
        assert_one_line(result, 1, "file/out", "cannot write there (Not a directory)")

    @pytest.mark.parametrize(
        ("split", "count", "pattern"),
        [
            ("val", 1, "val-000000.tar"),
            ("train", 2, "train-{000000..000001}.tar"),
            ("test", 124, "test-{000000..000123}.tar"),
            ("train", 1_000_000, "train-{000000..999999}.tar"),
        ],
    )
    def test_brace_patterns(self, split: str, count: int, pattern: str) -> None:
        """The shards of a split are one brace pattern; a single shard is its own name."""
        assert summary.brace_pattern(split, count) == pattern

    @pytest.mark.filterwarnings("ignore:unclosed file")  # webdataset leaves that to the garbage collector
    def test_one_task_of_several(self, lrw: Path, tmp_path: Path) -> None:
        """A task reports the missing shards; the last one prints patterns by which webdataset reads every clip."""
        out = tmp_path / "out"
        options = ["--shard-size", 1, "--num-tasks", 2, "-j", 1]
        first = call("mfcc", lrw / "plan.jsonl", out, *options, "--task-index", 1).stdout.splitlines()
        assert first[1:] == ["  3 of 6 shards are missing"]
        last = call("mfcc", lrw / "plan.jsonl", out, *options, "--task-index", 0).stdout.splitlines()
        assert last[1:] == [f"  {out}/mfcc/{split}-{{000000..000001}}.tar" for split in manifest.SPLITS]
        read = [
            sample["__key__"] for line in last[1:] for sample in webdataset.WebDataset(line.strip(), shardshuffle=False)
        ]
        plan = manifest.read(lrw / "plan.jsonl")
        assert read == [clip.key for clip in plan.clips if (plan.root / clip.video).stat().st_size > 100]

    def test_no_pattern_before_all_is_there(self, lrw: Path, shards_made: tuple[Path, Result]) -> None:
        """A task that finds its own shards done prints no pattern while one of another task is missing."""
        sidecar = shards.sidecar_path(shards_made[0], "mfcc", "test-000001")
        content = sidecar.read_bytes()
        try:
            sidecar.unlink()
            result = call("mfcc", lrw / "plan.jsonl", shards_made[0], "-j", 1, "--task-index", 0, "--num-tasks", 6)
        finally:
            sidecar.write_bytes(content)
        assert result.stdout.splitlines()[1:] == ["  1 of 6 shards is missing"]
        assert result.stderr.endswith(f"next: avprep status {shards_made[0]}\n")

    def test_a_library_that_the_system_lacks(self, lrw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """If OpenCV cannot be loaded because libGL is missing, one line says what to install."""
        real = builtins.__import__

        def without(name: str, *arguments: Any, **named: Any) -> Any:
            if name == "avprep.stages":
                raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")
            return real(name, *arguments, **named)

        monkeypatch.setattr(builtins, "__import__", without)
        result = call("crop", lrw / "plan.jsonl", tmp_path / "out")
        assert_one_line(result, 1, "libGL.so.1", "apt install libgl1", "opencv-python-headless")

    def test_other_import_errors_are_not_hidden(
        self, lrw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An import error that is a bug is raised unchanged."""
        real = builtins.__import__

        def without(name: str, *arguments: Any, **named: Any) -> Any:
            if name == "avprep.stages":
                raise ImportError("cannot import name 'x'")
            return real(name, *arguments, **named)

        monkeypatch.setattr(builtins, "__import__", without)
        assert isinstance(call("crop", lrw / "plan.jsonl", tmp_path / "out").exception, ImportError)


class TestStatusAndVerify:
    """`avprep status` and `avprep verify`."""

    def test_status(self, shards_made: tuple[Path, Result]) -> None:
        """`status` prints counts by split, and reasons."""
        result = call("status", shards_made[0])
        assert result.exit_code == 0
        lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
        assert lines[0].startswith("crop: not begun; avprep crop ")
        assert lines[2:] == [
            "mfcc val 2/2 shards 2 ok 0 failed 0 missing 58 frames",
            "mfcc test 2/2 shards 2 ok 0 failed 0 missing 58 frames",
            "mfcc failed unreadable: 1",
        ]

    def test_status_as_json(self, shards_made: tuple[Path, Result]) -> None:
        """--json is for scripts."""
        found = json.loads(call("status", shards_made[0], "--json").stdout)
        assert found["mfcc"]["reasons"] == {"unreadable": 1}
        assert found["mfcc"]["splits"]["val"]["ok"] == 2

    def test_verify(self, shards_made: tuple[Path, Result], tmp_path: Path) -> None:
        """An intact run is verified with its sums; a damaged one gives exit status 1 and a line per problem."""
        proven = call("verify", shards_made[0], "-j", 1)
        assert (proven.exit_code, proven.stdout) == (0, "mfcc: verified: 6 clips = 5 ok + 1 failed (unreadable 1)\n")
        path = shards_made[0] / "mfcc/val-000001.tar"
        content = path.read_bytes()
        try:
            path.write_bytes(content[:-1])
            broken = call("verify", shards_made[0], "-j", 1)
        finally:
            path.write_bytes(content)
        assert_one_line(broken, 1, "1 problem")
        assert f"{path}: the digest is not the sidecar's" in broken.stderr

    def test_select_leaves_the_manifest_of_the_run_alone(self, shards_made: tuple[Path, Result]) -> None:
        """The manifest of a run, to which every shard belongs, is not replaced by a selection, even with --force."""
        path = shards_made[0] / "manifest.jsonl"
        frozen = path.read_bytes()
        refused = call("select", shards_made[0], "--where", "split == 'val'", "-o", path, "--force")
        assert_one_line(refused, 2, f"{path}: is the input too")
        assert path.read_bytes() == frozen

    @pytest.mark.parametrize("command", ["status", "verify"])
    def test_no_run(self, tmp_path: Path, command: str) -> None:
        """A folder without a run, or a missing folder, gives a one-line error."""
        assert_one_line(call(command, tmp_path), 1, "no run was ever started there")
        assert_one_line(call(command, tmp_path / "gone"), 2, "gone")
