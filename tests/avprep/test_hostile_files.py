"""Untrusted shards, sidecars, manifests and checkpoints cost a line each: no traceback, hang or memory."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_shards
import pytest
from avprep_cli import say
from avprep_cli.main import main
from checkpoint_files import described
from click.testing import CliRunner, Result
from made_shards import Made

from avprep import manifest, schema, shards, untrusted
from avprep.errors import CheckpointError, ManifestError, RunError, ShardError
from avprep.quality import compare, report, sheet, verify
from avprep.runs.status import status
from avprep.shards import tars, writer
from davs_model import checkpoint
from davs_model.data.clips import read_clips
from davs_model.evaluation import evaluate
from davs_model.models.davs.networks import DAVS
from davs_model.study import study

KEY = "s0/yes_00"
SHARD = "train-000000"
DEEP = b"[" * 200_000
LONG_NUMBER = "9" * 5000
STEERING = "\x1b[2J\x9b31m\u202ebad\x07\nError: none"


def call(*words: object) -> Result:
    """Run a command; fail on any exception but SystemExit."""
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips of three frames in two shards, in both columns; read-only."""
    out = tmp_path_factory.mktemp("made")
    rows = [Made(key, n // 2, "yes", "s0", n_frames=3) for n, key in enumerate((KEY, "s1/b", "s0/c", "s1/d"))]
    made_shards.write(out, rows)
    plan = manifest.read(out / "manifest.jsonl")
    for column in schema.COLUMNS:
        run = {"avprep_run": 1, "column": column, "manifest": plan.digest(), "clips": plan.counts(), "shard_size": 2}
        (out / column / "run.json").write_text(json.dumps({**run, "settings": {"preset": "davs"}, "versions": {}}))
    return out


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(made, tmp_path / "out"))


def header(name: str, size: int = 0, kind: bytes = b"0") -> bytes:
    """Return a tar header with a right checksum, whatever its content."""
    plain = bytearray(writer._header("x", size))
    plain[:100], plain[156:157], plain[148:156] = name.encode().ljust(100, b"\0"), kind, b" " * 8
    plain[148:156] = b"%06o\0 " % sum(plain)
    return bytes(plain)


def file(name: str, data: bytes, kind: bytes = b"0") -> bytes:
    """Return a member as it is in a tar."""
    return header(name, len(data), kind) + data + bytes(-len(data) % 512)


def replaced(out: Path, first: bytes, column: str = "crop") -> Path:
    """Replace the bytes of a shard's first sample, and update the sidecar; return the tar's path."""
    members = made_shards.crop_members if column == "crop" else made_shards.mfcc_members
    second = made_shards.stretch(out, "s1/b", members("s1/b", 3))
    data = first + second + bytes(1024)
    path = shards.tar_path(out, column, SHARD)
    path.write_bytes(data)
    sidecar = json.loads(path.with_suffix(".json").read_text())
    clips = sidecar.pop("clips")
    clips[0]["bytes"], clips[1]["bytes"] = len(first), len(second)
    head = sidecar | {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    path.with_suffix(".json").write_bytes(shards.render_sidecar(head, clips))
    return path


def sample(**changes: bytes) -> bytes:
    """Return the first sample's bytes with some members changed: `000_jpg=…`."""
    members = made_shards.crop_members(KEY, 3) | {name.lstrip("_").replace("_", "."): d for name, d in changes.items()}
    return b"".join(file(f"{KEY}.{name}", data) for name, data in members.items())


def jpeg(width: int, height: int) -> bytes:
    """Return a crop whose header has another size."""
    data = bytearray(made_shards.crop_members(KEY, 3)["000.jpg"])
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def png(width: int, height: int) -> bytes:
    """Return the head of a PNG of the given size."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    """Return a PAX header."""
    return file("././@PaxHeader", records, kind)


TARS: dict[str, Callable[[], bytes]] = {
    "GNU.sparse in a PAX header": lambda: pax(b"22 GNU.sparse.major=1\n31 GNU.sparse.realsize=99999999\n") + sample(),
    "old GNU sparse": lambda: sample() + header(f"{KEY}.x.npy", 0, b"S"),
    "a chain of long names": lambda: file("././@LongLink", b"a" * 20, b"L") * 3000 + sample(),
    "a chain of PAX headers": lambda: pax(b"9 path=a\n") * 3000 + sample(),
    "a chain of global PAX headers": lambda: pax(b"9 path=a\n", b"g") * 3000 + sample(),
    "300 kB of digits": lambda: pax(b"9" * 300_000) + sample(),
    "60 kB of digits": lambda: pax(b"9" * 60_000) + sample(),
    "a PAX header of length 0": lambda: pax(b"0 path=a\n") + sample(),
    "a PAX size": lambda: pax(b"16 size=9999999\n") + sample(),
    "a PAX header of 1 GB": lambda: header("././@PaxHeader", 10**9, b"x") + sample(),
    "a base-256 size": lambda: header(f"{KEY}.a")[:124] + b"\x80" + bytes(387) + sample(),
}


@pytest.mark.parametrize("name", TARS)
def test_a_hostile_tar_is_one_line(out: Path, name: str) -> None:
    """verify and report name the shard and continue with the others; the other readers refuse it in one line."""
    path = replaced(out, TARS[name]())
    begin = time.process_time()
    problems = verify.verify(out)
    assert [problem for problem in problems if str(path) not in problem] == []
    assert len(problems) in (1, 2)  # the tar, and the number of its samples if they can be read
    made = report.report(out)
    assert made.n_clips == 4
    for read in (
        lambda: list(shards.read(path)),
        lambda: sheet.contact_sheet(out, rows=4),
        lambda: compare.page(out, out),
        lambda: read_clips(out, "train").read(0, "crop", (0,)),
    ):
        with pytest.raises(ShardError) as raised:
            read()
        assert str(path) in str(raised.value)
        assert len(str(raised.value).splitlines()) == 1
    assert read_clips(out, "train").read(2, "crop", (0,))
    assert time.process_time() - begin < 20  # it took minutes


@pytest.mark.parametrize(
    "data",
    [
        jpeg(65500, 65500),
        jpeg(65500, 1),
        jpeg(0, 0),
        jpeg(256, 257),
        png(65500, 65500),
        png(2**31 - 1, 2**31 - 1),
        jpeg(256, 256) + b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" * 60_000,
        jpeg(256, 256) + bytes(2 << 20),
    ],
    ids=["65500", "wide", "empty", "257", "png", "png-huge", "scans", "long"],
)
def test_a_decompression_bomb_is_not_decoded(out: Path, data: bytes) -> None:
    """An image whose header has another size, or needs endless passes, is a problem and costs no memory."""
    path = replaced(out, sample(_000_jpg=data))
    tracemalloc.start()
    (problem,) = verify.verify(out)
    made = report.report(out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert problem.startswith(f"{path}: {KEY}")
    assert made.n_problems == 1
    assert peak < 64 << 20


@pytest.mark.parametrize("kind", ["fifo", "folder", "link to a device"])
def test_what_is_no_plain_file_is_not_opened(out: Path, kind: str) -> None:
    """A pipe, which would block for ever, a folder or a device in place of a tar or a sidecar is named."""
    for place in ("crop/train-000000.tar", "mfcc/train-000001.json"):
        path = out / place
        path.unlink()
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to("/dev/zero")
        assert any(place in problem for problem in verify.verify(out))
        assert report.report(out).n_problems


def test_an_unforeseen_error_is_a_line_of_its_shard(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever error reading a shard raises, verify continues with the next shard."""

    def broken(column: str, key: str, members: dict[str, bytes]) -> dict[str, Any]:
        raise MemoryError("too much")

    monkeypatch.setattr(schema, "check_sample", broken)
    problems = verify.verify(out)
    assert len(problems) == 4
    assert all("cannot be verified (MemoryError: too much)" in problem for problem in problems)


def test_names_are_those_that_were_written(tmp_path: Path) -> None:
    """The strict reader reads tarfile's output for short, long and odd names, also with a prefix."""
    names = ["a.jpg", "n" * 99 + ".jpg", "d" * 80 + "/" + "n" * 80 + ".npy", "日本語/ünï.json", "x" * 12_000 + ".npy"]
    path = tmp_path / "x.tar"
    path.write_bytes(b"".join(writer._header(name, 3) + b"abc" + bytes(509) for name in names) + bytes(1024))
    with path.open("rb") as tar:
        found = list(tars.members(tar))
        assert [member.name for member in found] == names
        assert {tars.content(tar, member) for member in found} == {b"abc"}
        assert [member.first for member in found[1:]] == [member.end for member in found[:-1]]


JSON = {
    "nested": DEEP.decode(),
    "nested objects": '{"a":' * 200_000,
    "nested and closed": "[" * 500 + "]" * 500,
    "digits": LONG_NUMBER,
    "10^30": "1" + "0" * 30,
}


@pytest.mark.parametrize("name", JSON)
@pytest.mark.parametrize("place", ["manifest.jsonl", "crop/run.json", "crop/train-000000.json"])
def test_hostile_json_is_one_line(out: Path, place: str, name: str) -> None:
    """Depth, digits and size of a file's JSON are limited: each command ends in a line that names the file."""
    path = out / place
    path.write_text(path.read_text().replace("{", f'{{"odd": {JSON[name]}, ', 1))
    for words in (("verify", out), ("report", out, "-o", out / "r.html"), ("status", out)):
        result = call(*words)
        assert len(result.stderr.splitlines()) <= 3
    result = call("verify", out)
    assert result.exit_code == 1
    assert place in result.stderr
    assert max(map(len, result.stderr.splitlines())) < 1000


@pytest.mark.parametrize(
    "change",
    [
        {"clips": {"train": 10**12, "val": 0, "test": 0}},
        {"clips": {"train": -4, "val": 0, "test": 0}},
        {"shard_size": "2"},
        {"shard_size": 0},
        {"settings": [1, 2]},
        {"versions": "none"},
        {"manifest": []},
    ],
    ids=["10^12", "negative", "size", "zero", "settings", "versions", "digest"],
)
def test_a_hostile_run_is_one_line(out: Path, change: dict[str, Any]) -> None:
    """Counts above those of the manifest, and fields of another type, are refused before anything is done."""
    path = out / "crop/run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RunError, match=r"damaged") as raised:
        status(out)
    assert len(str(raised.value).splitlines()) == 1
    with pytest.raises(RunError, match=r"damaged"):
        report.report(out)


def test_settings_that_differ_are_told_briefly(out: Path) -> None:
    """A setting of a megabyte does not give a message of a megabyte."""
    path = out / "mfcc/run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"settings": {"preset": ["x" * 10**6], "\x1b" * 999: 1}}))
    (out / "root").mkdir()
    result = call("mfcc", out / "manifest.jsonl", out, "--root", out / "root")
    assert result.exit_code == 1
    assert "made with other settings" in result.stderr
    assert len(result.stderr) < 3000


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"key": "a\ud800"}, r"holds half a letter \(\\ud800\)"),
        ({"video": "\udcff.mp4"}, r"holds half a letter \(\\udcff\)"),
        ({"key": "a\0b"}, r"up to 12288 characters, none of them NUL"),
        ({"key": "a" * 20_000}, r"up to 12288 characters, none of them NUL"),
        ({"start": "x" * 10**5}, r"start must be a number of seconds, not .{1,101}$"),
    ],
)
def test_odd_rows_of_a_manifest(tmp_path: Path, row: dict[str, Any], complaint: str) -> None:
    """A row with lone surrogates, control characters or endless names is refused by file and line, in brief."""
    path = tmp_path / "m.jsonl"
    lines = [
        {"avprep_manifest": 1, "dataset": "x", "root": "/x"},
        {"key": "b", "video": "b.mp4", "split": "val"} | row,
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ManifestError, match=complaint) as raised:
        manifest.read(path)
    assert str(raised.value).startswith(f"{path}:2: ")


def test_a_line_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a limited part of a manifest's line, and of a sidecar, is read into memory."""
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"avprep_manifest": 1, "x": "' + b"x" * (2 << 20))
    with pytest.raises(ManifestError, match="a line is longer than 1024 KiB"):
        manifest.read(path)
    monkeypatch.setattr(untrusted, "MAX_JSON", 1000)
    with pytest.raises(ValueError, match="larger than 0 MiB"):
        untrusted.read_json(path)


class TestTerminal:
    """Text from files cannot control a terminal."""

    def test_what_steers_is_escaped(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Escapes, C1 controls, reversed text and lone surrogates are shown as escapes; avprep's own colours stay."""
        assert untrusted.shown(f"ü 日本 {STEERING}\ud800") == (
            "ü 日本 \\x1b[2J\\x9b31m\\u202ebad\\x07\nError: none\\ud800"
        )
        say.echo(f"{say.good('fine')} {say.bad(STEERING)}")
        assert capsys.readouterr().out == "fine \\x9b31m\\u202ebad\\x07\nError: none\n".replace(
            "\\x9b", "\\x1b[2J\\x9b"
        )
        assert say.one_line(STEERING) == "\\x1b[2J\\x9b31m\\u202ebad\\x07 Error: none"

    def test_no_command_prints_what_steers(self, out: Path) -> None:
        """Text from a sidecar, a run.json and a manifest is escaped by every command, and in the report."""
        for column in schema.COLUMNS:
            path = out / column / f"{SHARD}.json"
            sidecar = json.loads(path.read_text())
            clips = sidecar.pop("clips")
            clips[0] = {"key": KEY, "state": "failed", "reason": STEERING, "message": STEERING}
            sidecar["counts"] = shards.counts(clips)
            path.write_bytes(shards.render_sidecar(sidecar, clips))
            run = out / column / "run.json"
            run.write_text(json.dumps(json.loads(run.read_text()) | {"settings": {STEERING: STEERING}}))
        lines = (out / "manifest.jsonl").read_text().splitlines()
        lines[1:] = [json.dumps(json.loads(line) | {"word": STEERING, "speaker": STEERING}) for line in lines[1:]]
        (out / "manifest.jsonl").write_text("\n".join(lines))
        (out / "root").mkdir()
        page = out / "r.html"
        for words in (
            ("verify", out),
            ("status", out),
            ("report", out, "-o", page),
            ("report", "--compare", out, out, "-o", page),
            ("mfcc", out / "manifest.jsonl", out, "--root", out / "root"),
            ("train", out, out / "RUN", "--dry-run"),
        ):
            result = call(*words)
            assert not set("\x1b\x9b\u202e\x07") & set(result.output + result.stderr), words
            assert "\nError: none" not in result.stderr
        assert not set("\x1b\x9b\u202e\x07") & set(page.read_text())


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"words": 5}, "words is not a list of words"),
        ({"words": ["a", 5]}, "words is not a list of words"),
        ({"steps": [1]}, "steps is not a number for each stage"),
        ({"mfcc_preset": ["davs"]}, "mfcc_preset is not the name of one"),
    ],
)
def test_settings_of_another_kind(tmp_path: Path, made: Path, settings: dict[str, Any], complaint: str) -> None:
    """A checkpoint with unusable settings is refused, by evaluate and generate alike."""
    run = tmp_path / "run"
    small = checkpoint.Checkpoint.of(DAVS(n_words=3, width=0.125, image_size=64), {"steps": {"full": 1}, **settings})
    described(run / checkpoint.NAME, small.header(), small.weights)
    with pytest.raises(CheckpointError, match=complaint):
        evaluate.evaluate(run, made, tmp_path / "results", evaluate.EvaluationSettings(split="train", workers=0))
    result = call("evaluate", run, made, "-o", tmp_path / "results")
    assert result.stderr.splitlines()[-1].startswith(f"Error: {run / checkpoint.NAME}: its setting ")


def test_a_run_of_a_width_beyond_all_bounds(made: Path, tmp_path: Path) -> None:
    """A run of a model too large for any machine is refused before memory is allocated."""
    result = call("train", made, tmp_path / "run", "--set", "model.width=1e9", "--dry-run")
    assert result.exit_code == 1
    assert "model.width = 1000000000.0 must be a number above 0, at most 16" in result.stderr


def test_many_methods_are_tabled_in_time() -> None:
    """The time for a study of thousands of methods grows with its answers, not with their square."""
    answers = [
        study.Answer("s0", f"p{n % 2}", 1, f"f{n}", f"method {n // 2}", "", True, True, 50, 1.0) for n in range(10_000)
    ]
    begin = time.process_time()
    assert len(study.table(answers).splitlines()) > 5_000
    assert time.process_time() - begin < 30  # it took hours
