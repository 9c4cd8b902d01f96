"""How commands behave in a terminal: one summary at the end, the requested detail, JSON for scripts, nothing stray."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_media as made
import pytest
from avprep_cli.main import main
from click.testing import CliRunner, Result
from small_models import SMALL, made_model
from tiny_shards import make_shards

from avprep import layouts, manifest, shards
from avprep.faces import https, weights
from avprep.runs.progress import Progress, counted
from avprep.runs.status import status
from davs_model import checkpoint
from davs_model.checkpoint import Checkpoint

COMMAND = [sys.executable, "-c", "from avprep_cli.main import main; main()"]
ESCAPE = "\x1b["


def call(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def on_terminal(*arguments: object, **variables: str) -> str:
    """Run a command on a terminal of 24 lines with 100 characters each; return everything that it shows."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment |= {"TERM": "xterm", **variables}
    streams: dict[str, Any] = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    with subprocess.Popen([*COMMAND, *map(str, arguments)], env=environment, **streams) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:  # Linux's error once the other side is closed
            pass
        os.close(ours)
    assert process.returncode == 0, shown
    return shown.decode().replace("\r\n", "\n")


def next_of(result: Result) -> list[str]:
    """Return the commands that a run recommends next, after asserting that they are its summary's last lines."""
    assert result.exit_code == 0, result.output
    lines = result.stderr.splitlines()
    found = [line.removeprefix("next: ") for line in lines if line.startswith("next: ")]
    assert lines[len(lines) - len(found) :] == [f"next: {command}" for command in found]
    return found


@pytest.fixture(scope="module")
def whole(lrw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both columns of the six clips, one of them not a video; read-only."""
    out = tmp_path_factory.mktemp("manners") / "out"
    for column in ("crop", "mfcc"):
        options = ("--detector", "opencv", "--subject", "central") if column == "crop" else ()
        assert call(column, lrw / "plan.jsonl", out, "-j", 1, *options).exit_code == 0
    return out


@pytest.fixture
def corpus(lrw: Path, tmp_path: Path) -> Path:
    """A folder with two clips of the corpus in one split each, and their manifest."""
    clips = sorted(path for path in (lrw / "corpus").rglob("*.mp4") if path.stat().st_size > 100)
    for split, clip in zip(("train", "val"), clips, strict=False):
        place = tmp_path / "corpus" / "ABOUT" / split / "ABOUT_00001.mp4"
        place.parent.mkdir(parents=True)
        shutil.copy(clip, place)
    plan, _ = layouts.index("lrw", tmp_path / "corpus")
    (tmp_path / "plan.jsonl").write_text(manifest.render(plan), encoding="utf-8")
    return tmp_path


class TestSummary:
    """The end of a run: what was done, what failed, where it is, and what to run next."""

    def test_the_road_from_index_to_training(self, lrw: Path, tmp_path: Path) -> None:
        """Each command names the next one, which can be run as printed."""
        plan, out = tmp_path / "my plan.jsonl", tmp_path / "out"
        assert next_of(call("index", "lrw", lrw / "corpus", "-o", plan)) == [f"avprep crop '{plan}' OUT"]
        limited = ("--limit", 1, "-j", 1)
        assert next_of(call("crop", plan, out, "--detector", "opencv", *limited)) == [
            f"avprep mfcc {out}/manifest.jsonl {out}"
        ]
        assert next_of(call("mfcc", out / "manifest.jsonl", out, "-j", 1)) == [f"avprep verify {out}"]
        assert next_of(call("verify", out, "-j", 1)) == [f"avprep report {out} -o report.html"]
        assert next_of(call("report", out, "-o", tmp_path / "page.html")) == [f"avprep train {out} RUN"]

    def test_it_is_short(self, lrw: Path, tmp_path: Path) -> None:
        """The summary has a line of done and failed clips for each split, one for the next command, and no more."""
        result = call("mfcc", lrw / "plan.jsonl", tmp_path / "out", "-j", 1)
        assert len(result.stdout.splitlines()) == 4
        assert "1 failed (unreadable 1)" in result.stdout.splitlines()[0]
        assert len(next_of(result)) == 1

    def test_an_accident_is_to_be_tried_again(self, corpus: Path) -> None:
        """A retry that may help is recommended once; after a failed retry other commands are."""
        video, out = corpus / "corpus/ABOUT/val/ABOUT_00001.mp4", corpus / "out"
        video.rename(corpus / "aside.mp4")
        again = f"avprep retry {out} --column mfcc --reason missing"
        crop = f"avprep crop {out}/manifest.jsonl {out}"
        assert next_of(call("mfcc", corpus / "plan.jsonl", out, "-j", 1)) == [again, crop]
        assert next_of(call(*again.split()[1:], "-j", 1)) == [crop]
        (corpus / "aside.mp4").rename(video)
        assert next_of(call(*again.split()[1:], "-j", 1)) == [crop]
        assert status(out)[0].reasons == {}

    def test_what_is_unfinished_comes_first(self, corpus: Path) -> None:
        """As long as shards are missing, `status` is the next command."""
        task = ("--num-tasks", 2, "--task-index", 1)
        result = call("mfcc", corpus / "plan.jsonl", corpus / "out", "-j", 1, *task)
        assert next_of(result) == [f"avprep status {corpus / 'out'}"]

    def test_weights_that_were_fetched(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Weights in the usual place are used; with another folder the command line includes it."""
        content = b"tensors"
        tiny = replace(weights.known()["yunet"], sha256=hashlib.sha256(content).hexdigest(), size=len(content))
        monkeypatch.setitem(weights.known(), "yunet", tiny)
        monkeypatch.setattr(https, "open_url", lambda _: io.BytesIO(content))
        monkeypatch.setenv("AVPREP_WEIGHTS", str(tmp_path / "here"))
        result = call("weights", "fetch", "yunet")
        assert result.stdout == f"yunet: {tmp_path}/here/{tiny.file}\n"
        assert next_of(result) == ["avprep crop MANIFEST OUT"]
        there = call("weights", "fetch", "yunet", "--to", tmp_path / "there")
        assert next_of(there) == [f"export AVPREP_WEIGHTS={tmp_path}/there"]

    def test_problems_of_a_folder_are_no_summary(self, whole: Path, tmp_path: Path) -> None:
        """If verify finds a problem, the error is the last line, without a next command."""
        out = tmp_path / "out"
        shutil.copytree(whole, out)
        (out / "mfcc/val-000000.tar").unlink()
        result = call("verify", out, "-j", 1)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "next: " not in result.stderr

    def test_a_report_of_damage(self, whole: Path, tmp_path: Path) -> None:
        """If a report finds a damaged sidecar, the report is written, and `verify` is the next command."""
        out = tmp_path / "out"
        shutil.copytree(whole, out)
        (out / "mfcc/val-000000.json").write_text("{")
        result = call("report", out, "-o", tmp_path / "page.html")
        assert " 1 problem, " in result.stdout
        assert next_of(result) == [f"avprep verify {out}"]


class TestQuiet:
    """-q: results and errors."""

    @pytest.mark.parametrize("place", ["before", "after", "last"])
    def test_a_line_is_all(self, lrw: Path, tmp_path: Path, place: str) -> None:
        """-q before or after the command, or as the last of -v and -q, prints one line of results and nothing else."""
        words = ["mfcc", lrw / "plan.jsonl", tmp_path / "out", "-j", 1]
        words = {"before": ["-q", *words], "after": [*words, "--quiet"], "last": [*words, "-q"]}[place]
        result = call(*words)
        assert result.exit_code == 0
        assert result.stderr == ""
        (line,) = result.stdout.splitlines()
        assert line.startswith("mfcc: 3 shards, 5 clips ok, 1 failed (unreadable 1)")

    def test_on_a_terminal(self, lrw: Path, tmp_path: Path) -> None:
        """-q shows no progress bar on a terminal either."""
        shown = on_terminal("mfcc", lrw / "plan.jsonl", tmp_path / "out", "-j", "1", "-q")
        assert len(shown.splitlines()) == 1
        assert "|" not in shown
        assert "|" not in on_terminal("verify", tmp_path / "out", "-j", "1", "-q")

    def test_errors_are_said(self, whole: Path, tmp_path: Path) -> None:
        """-q hides no errors, and none of the problems that verify finds."""
        assert call("-q", "mfcc", tmp_path / "gone.jsonl", tmp_path).stderr.startswith("Error: ")
        out = tmp_path / "out"
        shutil.copytree(whole, out)
        (out / "mfcc/val-000000.tar").unlink()
        result = call("verify", out, "-j", 1, "-q")
        assert "val-000000.tar" in result.stderr
        assert result.stderr.endswith("1 problem\n")

    def test_bugs_are_not_hidden(self, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """An internal error is raised unchanged, with or without -q."""

        def fails(*_: object, **__: object) -> None:
            raise ZeroDivisionError("a flaw")

        monkeypatch.setattr("avprep.quality.verify.verify", fails)
        for options in ((), ("-q",), ("-v",), ("--json",)):
            assert isinstance(call("verify", whole, *options).exception, ZeroDivisionError)

    def test_the_library_is_quiet_too(self, capfd: pytest.CaptureFixture[str]) -> None:
        """Below verbosity 0 a run's progress shows nothing, not even failures; a quiet counter yields every item."""
        progress = Progress("crop", 1, verbosity=-1)
        progress.clip("a", {"state": "failed", "reason": "no_face", "message": "none", "seconds": 1.0})
        progress.close()
        assert list(counted(range(3), "generate", 3, "frame", quiet=True)) == [0, 1, 2]
        assert capfd.readouterr() == ("", "")


class TestVerbose:
    """-v: all details."""

    def test_clips_and_shards(self, lrw: Path, tmp_path: Path) -> None:
        """-v prints settings and versions, then a line per clip with its result and seconds, and a line per shard."""
        result = call("mfcc", lrw / "plan.jsonl", tmp_path / "out", "-j", 1, "-v")
        lines = result.stderr.splitlines()
        assert lines[0].startswith("avprep 0.")
        assert ", av " in lines[0]
        assert any(line.startswith("mfcc: settings: preset davs, ") for line in lines)
        assert any(line.startswith("mfcc: versions: avprep ") for line in lines)
        assert sum(": ok, 29 frames, " in line and line.endswith(" s") for line in lines) == 5
        assert sum(": unreadable: " in line and line.endswith(" s") for line in lines) == 1
        assert [line.partition(",")[0] for line in lines if ": finished, " in line] == [
            f"{split}-000000: finished" for split in manifest.SPLITS
        ]
        assert len(result.stdout.splitlines()) == 4

    def test_every_problem_of_an_index(self, tmp_path: Path) -> None:
        """-v lists all problems of a data set, instead of twenty."""
        for n in range(1, 31):
            place = tmp_path / "corpus" / "ABOUT" / "train" / f"ABOUT_{n:05d}.txt"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        (place.parent / "ABOUT_00001.mp4").touch()
        words = ("index", "lrw", tmp_path / "corpus", "-o", tmp_path / "x.jsonl", "--force")
        few, all_of_them = call(*words), call(*words, "-v")
        assert few.exit_code == all_of_them.exit_code == 0
        assert "more problems" in few.stderr
        assert "more problems" not in all_of_them.stderr
        assert len(all_of_them.stderr.splitlines()) >= 29


class TestJson:
    """--json: one object on standard output, and nothing else there."""

    def test_index(self, lrw: Path, tmp_path: Path) -> None:
        """The object of `index` has clips, splits, problems and the next command."""
        path = tmp_path / "x.jsonl"
        found = json.loads(call("index", "lrw", lrw / "corpus", "-o", path, "--json").stdout)
        assert found == {
            "dataset": "lrw",
            "clips": 6,
            "splits": {"train": 2, "val": 2, "test": 2},
            "problems": {},
            "where": [str(path)],
            "next": [f"avprep crop {path} OUT"],
        }

    @pytest.mark.parametrize("column", ["crop", "mfcc"])
    def test_columns(self, lrw: Path, whole: Path, column: str) -> None:
        """The object of `crop` and `mfcc` has shards, clips, reasons, frames, seconds, paths and the next command."""
        result = call(column, lrw / "plan.jsonl", whole, "-j", 1, "--json")
        found = json.loads(result.stdout)
        names = [f"{split}-000000" for split in manifest.SPLITS]
        assert found.pop("seconds") >= 0
        assert found == {
            "column": column,
            "planned": names,
            "skipped": names,
            "unfinished": [],
            "ok": 5,
            "failed": {"unreadable": 1},
            "silent": 0,
            "frames": 145,
            "missing_shards": 0,
            "stuck": [],
            "where": [f"{whole}/{column}/{name}.tar" for name in names],
            "next": [f"avprep verify {whole}"],
        }

    def test_unfinished_column(self, corpus: Path) -> None:
        """Paths of shards are left out while some are missing; failures still go to standard error."""
        (corpus / "corpus/ABOUT/train/ABOUT_00001.mp4").write_bytes(b"not a video")
        task = ("--num-tasks", 2, "--task-index", 0)
        result = call("mfcc", corpus / "plan.jsonl", corpus / "out", "-j", 1, "--json", *task)
        found = json.loads(result.stdout)
        assert (found["planned"], found["missing_shards"], found["where"]) == (["train-000000"], 1, [])
        assert "unreadable: " in result.stderr

    def test_strict(self, lrw: Path, whole: Path) -> None:
        """--strict gives exit status 3 as usual, after the object."""
        result = call("mfcc", lrw / "plan.jsonl", whole, "-j", 1, "--json", "--strict")
        assert (result.exit_code, json.loads(result.stdout)["ok"]) == (3, 5)

    def test_dry_run(self, lrw: Path, whole: Path, tmp_path: Path) -> None:
        """The object of --dry-run has the fingerprint and the planned and finished shards; nothing is written."""
        plan = lrw / "plan.jsonl"
        names = [f"{split}-000000" for split in manifest.SPLITS]
        done = json.loads(call("mfcc", plan, whole, "--dry-run", "--json").stdout)
        assert (done["settings"]["preset"], done["planned"], done["done"]) == ("davs", names, names)
        new = json.loads(call("mfcc", plan, tmp_path / "new", "--dry-run", "--json").stdout)
        assert (new["planned_clips"], new["done"]) == (6, [])
        assert not (tmp_path / "new").exists()

    def test_verify(self, whole: Path, tmp_path: Path) -> None:
        """The object of `verify` has the verified sums, or the problems with exit status 1."""
        proven = json.loads(call("verify", whole, "-j", 1, "--json").stdout)
        assert proven["columns"] == {name: {"clips": 6, "ok": 5, "failed": 1, "silent": 0} for name in ("crop", "mfcc")}
        assert proven["problems"] == []
        out = tmp_path / "out"
        shutil.copytree(whole, out)
        (out / "mfcc/val-000000.tar").unlink()
        result = call("verify", out, "-j", 1, "--json")
        assert result.exit_code == 1
        (problem,) = json.loads(result.stdout)["problems"]
        assert "val-000000.tar" in problem

    def test_retry(self, whole: Path, tmp_path: Path) -> None:
        """The object of `retry` has the clips to run again by column and, except for a dry run, the result."""
        out = tmp_path / "out"
        shutil.copytree(whole, out)
        words = ("retry", out, "--reason", "unreadable", "--json", "-j", 1)
        planned = json.loads(call(*words, "--dry-run").stdout)
        assert planned["columns"] == {name: {"again": {"unreadable": 1}} for name in ("crop", "mfcc")}
        found = json.loads(call(*words, "--column", "mfcc").stdout)
        assert found["columns"]["mfcc"]["failed"] == {"unreadable": 1}
        assert found["next"] == [f"avprep verify {out}"]
        nothing = json.loads(call("retry", out, "--reason", "timeout", "--json").stdout)
        assert nothing["columns"]["crop"] == {"again": {}}

    def test_weights_list(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The object of `weights list` has every file by its name, and its size as a number, null if unknown."""
        monkeypatch.setenv("AVPREP_WEIGHTS", str(tmp_path))
        found = json.loads(call("weights", "list", "--json").stdout)
        assert set(found) == {"yunet", "s3fd", "2dfan4", "dlib-68"}
        assert found["yunet"]["state"] == "missing"
        assert {name: row["bytes"] for name, row in found.items()} == {
            "yunet": 232_589,
            "s3fd": 89_843_225,
            "2dfan4": None,
            "dlib-68": 99_693_937,
        }

    def test_errors(self, tmp_path: Path) -> None:
        """An error leaves standard output empty; it is one line on standard error, as usual."""
        result = call("mfcc", tmp_path / "gone.jsonl", tmp_path / "out", "--json")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("Error: ")

    @pytest.mark.usefixtures("one_thread")
    def test_model(self, tmp_path: Path) -> None:
        """`train`, `evaluate` and `generate` print their results as the object; other output goes to standard error."""
        out, run, film = make_shards(tmp_path / "shards"), tmp_path / "run", tmp_path / "film.mp4"
        settings = [word for setting in SMALL for word in ("--set", setting)]
        words = ("train", out, run, "--preset", "small", *settings, "--json")
        planned = call(*words, "--dry-run")
        assert json.loads(planned.stdout)["settings"]["model"]["width"] == 0.05
        trained = call(*words, "--stage", "speech")
        found = json.loads(trained.stdout)
        assert found["where"] == [str(run / "checkpoint.safetensors")]
        assert "words" in found["validation"]
        assert found["next"] == [f"avprep evaluate {run} {out} -o RESULTS"]
        assert "speech 4/4" in trained.stderr
        saved = Checkpoint.of(made_model(), {"mfcc_preset": "davs", "steps": {"full": 1}})
        checkpoint.save(tmp_path / "talker", saved)
        options = ("--workers", 0, "--svm-clips", 2, "--mouth-clips", 0, "--detector", "opencv", "--json")
        measured = call("evaluate", run, out, "-o", tmp_path / "results", *options)
        found = json.loads(measured.stdout)
        assert "recognition" in found["metrics"]
        assert found["where"][0] == str(tmp_path / "results" / "evaluation.md")
        made.write_wav(tmp_path / "speech.wav", made.noise(0.4, 16_000), 16_000)
        face = ("--face", _crop(out, tmp_path), "--aligned")
        talks = ("generate", tmp_path / "talker", *face, "--audio", tmp_path / "speech.wav", "-o", film)
        found = json.loads(call(*talks, "--json").stdout)
        assert found == {"frames": 10, "seconds": 0.4, "sound": True, "where": [str(film)], "next": []}
        assert call(*talks, "-q").output == f"{film}: 10 frames, 0.40 s\n"


def _crop(out: Path, folder: Path) -> Path:
    """Write the first crop of some shards to a file."""
    _, members = next(iter(shards.read(out / "crop" / "train-000000.tar")))
    (folder / "0.jpg").write_bytes(members["000.jpg"])
    return folder / "0.jpg"


class TestColour:
    """Colour appears on a terminal that supports it, and nowhere else."""

    def test_on_a_terminal(self, whole: Path) -> None:
        """Success is green, failures are red, and a command to run is bold."""
        shown = on_terminal("status", whole)
        assert f"{ESCAPE}32m1 ok{ESCAPE}0m" in shown
        assert f"{ESCAPE}31m1 failed{ESCAPE}0m" in shown
        assert " 0 failed " in shown
        proven = on_terminal("verify", whole, "-j", "1")
        assert "avprep verify mfcc: 100%" in proven
        assert f"next: {ESCAPE}1mavprep report {whole} -o report.html{ESCAPE}0m" in proven

    @pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
    def test_where_it_is_not_wanted(self, whole: Path, variables: dict[str, str]) -> None:
        """NO_COLOR, and a terminal without colours, give none."""
        shown = on_terminal("status", whole, **variables)
        assert "1 failed" in shown
        assert ESCAPE not in shown

    def test_an_empty_no_color_counts_as_none(self, whole: Path) -> None:
        """An empty NO_COLOR has no effect, as https://no-color.org specifies."""
        assert ESCAPE in on_terminal("status", whole, NO_COLOR="")

    def test_in_a_pipe(self, whole: Path) -> None:
        """Output to a file or another program has no colours."""
        for words in (("status", whole), ("verify", whole, "-j", "1")):
            done = subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True, check=True)
            assert ESCAPE not in done.stdout + done.stderr

    def test_a_bar_on_a_terminal(self, lrw: Path, tmp_path: Path) -> None:
        """A terminal has a progress bar with a total; one that cannot go back in a line gets plain lines."""
        words = ("mfcc", lrw / "plan.jsonl", tmp_path / "out", "-j", "1")
        shown = on_terminal(*words)
        assert "| 6/6 [" in shown
        assert "failed=1" in shown
        shutil.rmtree(tmp_path / "out")
        plain = on_terminal(*words, TERM="dumb")
        assert "mfcc: 6/6 clips, " in plain
        assert "\r" not in plain


class TestNothingStray:
    """Libraries print nothing of their own."""

    def test_damaged_clips(self, lrw: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """Truncated clips, or clips with flipped bits, succeed or give one line of avprep's, and none of a library."""
        good = next(path for path in sorted((lrw / "corpus").rglob("*.mp4")) if path.stat().st_size > 100)
        data = good.read_bytes()
        folder = tmp_path / "mine"
        folder.mkdir()
        for n in range(1, 5):
            (folder / f"cut{n}.mp4").write_bytes(data[: len(data) * n // 5])
            flipped = bytearray(data)
            for at in range(60 + n, len(data), len(data) // (4 * n)):
                flipped[at] ^= 0xFF
            (folder / f"bits{n}.mp4").write_bytes(flipped)
        assert call("index", "folder", folder, "-o", tmp_path / "plan.jsonl", "--val-fraction", 0).exit_code == 0
        for column in ("crop", "mfcc"):
            options = ("--detector", "opencv") if column == "crop" else ()
            result = call(column, tmp_path / "plan.jsonl", tmp_path / "out", "-j", 1, *options)
            assert result.exit_code == 0, result.output
            failed = sum(sum(found.reasons.values()) for found in status(tmp_path / "out", columns=(column,)))
            assert failed > 0
            said = [line for line in result.stderr.splitlines() if ".mp4: " in line]
            assert len(said) == failed
            assert len(result.stderr.splitlines()) == failed + 3  # settings, the last line of progress, what comes next
        assert capfd.readouterr() == ("", "")  # nor through Python

    def test_real_damage(self, shared: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """A file with damaged bits that can still be decoded is ok without a message."""
        (tmp_path / "mine").mkdir()
        shutil.copy(shared / "clips" / "grid" / "s1" / "sgib8n.mpg", tmp_path / "mine")
        assert call("index", "folder", tmp_path / "mine", "-o", tmp_path / "plan.jsonl").exit_code == 0
        result = call("mfcc", tmp_path / "plan.jsonl", tmp_path / "out", "-j", 1, "--strict")
        assert result.exit_code == 0, result.output
        assert capfd.readouterr() == ("", "")

    def test_damaged_crops(self, whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """Damaged images in a shard are one problem line; libjpeg's own warnings are not on the terminal."""
        out = tmp_path / "out"
        shutil.copytree(whole, out)
        path = out / "crop" / "val-000000.tar"
        data, at = bytearray(path.read_bytes()), 0
        while (at := data.find(b"\xff\xd8\xff", at + 1)) > 0:
            data[at + 3000 : at + 3040] = b"\xff\xd9\xff\x00" * 10
        path.write_bytes(data)
        result = call("verify", out, "-j", 1)
        assert result.exit_code == 1
        assert "val-000000.tar: the digest" in result.stderr
        assert call("report", out, "-o", tmp_path / "page.html").exit_code == 0
        key = next(clip.key for clip in manifest.read(out / "manifest.jsonl").split("val"))
        assert call("inspect", out, key, "-o", tmp_path / "clip.png").exit_code == 0
        assert capfd.readouterr() == ("", "")
