"""`status` counts, `verify` checks everything: each kind of damage is found and named."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import stand_ins
from hypothesis import given, settings
from hypothesis import strategies as st

from avprep import schema, shards
from avprep.errors import RunError
from avprep.manifest import SPLITS, Clip, Manifest, render
from avprep.quality import verify
from avprep.runs import status

KEYS = [f"s1/{name}" for name in "abcdef"]


def jpeg(side: int = 256) -> bytes:
    """Return a grey JPEG."""
    return bytes(cv2.imencode(".jpg", np.full((side, side, 3), 127, np.uint8))[1])


def crop_members(key: str, n_frames: int, **changes: bytes) -> dict[str, bytes]:
    """Return a crop sample with some members changed."""
    members = {schema.frame_member(n, "jpg"): jpeg() for n in range(n_frames)}
    members["points.npy"] = schema.encode_array(np.zeros((n_frames, 5, 2), np.float32))
    members["affine.npy"] = schema.encode_array(np.zeros((n_frames, 2, 3), np.float32))
    members["clip.json"] = schema.encode_json({"key": key, "n_frames": n_frames})
    return members | {name.replace("_", "."): data for name, data in changes.items()}


def write_shard(out: Path, column: str, name: str, samples: dict[str, dict[str, bytes] | None], seconds: float) -> None:
    """Write one finished shard: samples, and failed clips where there is None."""
    work = out / "work"
    work.mkdir(exist_ok=True)
    writer = shards.ShardWriter(shards.tar_path(out, column, name), work / "tar")
    clips: list[dict[str, Any]] = []
    for key, members in samples.items():
        if members is None:
            clips.append({"key": key, "state": "failed", "reason": "no_face", "message": "none", "seconds": 1.0})
            continue
        shards.write_members(work / "stretch", key, members.items())
        length = (work / "stretch").stat().st_size
        writer.append(work / "stretch")
        facts = json.loads(members[schema.METADATA[column]])
        clips.append({"key": key, "state": "ok", "n_frames": facts["n_frames"], "bytes": length, "seconds": 1.0})
    digest, size = writer.finish()
    head = {
        "avprep_sidecar": 1,
        "column": column,
        "shard": name,
        "sha256": digest,
        "bytes": size,
        "counts": shards.counts(clips),
        "timings": {"clip_seconds": seconds},
    }
    shards.publish(writer.path, work / "tar", shards.render_sidecar(head, clips), work / "json")
    work.rmdir()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both columns of six clips in three shards; one clip failed in both."""
    out = tmp_path_factory.mktemp("whole")
    splits = ["train"] * 4 + ["test"] * 2
    plan = Manifest("x", Path("/x"), tuple(Clip(k, f"{k}.mp4", s) for k, s in zip(KEYS, splits, strict=True)))
    (out / "manifest.jsonl").write_text(render(plan))
    for column in schema.COLUMNS:
        (out / column).mkdir()
        (out / column / "run.json").write_text(
            json.dumps({"manifest": plan.digest(), "clips": plan.counts(), "shard_size": 2})
        )
        for name, clips in plan.shards(2):
            samples: dict[str, dict[str, bytes] | None] = {
                clip.key: crop_members(clip.key, 3) if column == "crop" else dict(stand_ins.mfcc_members(clip.key, 3))
                for clip in clips
            }
            if name == "train-000001":
                samples["s1/d"] = None
            write_shard(out, column, name, samples, seconds=4.0)
    return out


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(whole, tmp_path / "out"))


def test_a_whole_run_is_proven(whole: Path) -> None:
    """No problem is found in an intact run, whatever the number of processes."""
    assert verify.verify(whole) == verify.verify(whole, jobs=2) == []


def test_processes_read_where_the_caller_is(whole: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative OUT is that of the current folder, even after another one of that name was read."""
    flip(out)
    shutil.copytree(whole, out.parent / "other" / out.name)
    for folder, proven in ((out.parent / "other", True), (out.parent, False)):
        monkeypatch.chdir(folder)
        assert (verify.verify(Path(out.name), jobs=2) == []) is proven


def die(*_: object) -> None:
    """Never return."""
    os._exit(3)


def test_a_process_that_dies_is_a_problem(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard whose reading kills its process is named, and the others are checked."""
    monkeypatch.setattr(verify, "_verify_shard", die)
    problems = verify.verify(whole, jobs=2)
    assert len(problems) == 2 * len(list((whole / "crop").glob("*.tar")))
    assert problems[0] == f"{whole / 'crop' / 'train-000000.tar'}: the process that read it died (exit code 3)"


def test_shards_are_handed_over_as_processes_become_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many shards there are, a few wait at once, and each is looked at, in order."""
    plan = Manifest("x", Path("/x"), tuple(Clip(f"clip{n:02}", f"{n}.mp4", "train") for n in range(40)))
    (tmp_path / "manifest.jsonl").write_text(render(plan))
    (tmp_path / "crop").mkdir()
    run = {"manifest": plan.digest(), "clips": plan.counts(), "shard_size": 1}
    (tmp_path / "crop" / "run.json").write_text(json.dumps(run))
    waiting: list[int] = []

    class Watched(verify.Pool):
        def submit(self, *args: Any, **options: Any) -> None:
            super().submit(*args, **options)
            waiting.append(len(self._queue))

    monkeypatch.setattr(verify, "Pool", Watched)
    problems = verify.verify(tmp_path, jobs=2)
    assert len(waiting) == 40
    assert max(waiting) <= 8
    tars = [shards.tar_path(tmp_path, "crop", f"train-{n:06}") for n in range(40)]
    assert problems == [f"{tar}: not finished, 1 clip missing" for tar in tars]


def edit(path: str, old: str, new: str) -> Callable[[Path], Any]:
    """Return a function that edits a text file of a run once."""

    def do(out: Path) -> None:
        text = (out / path).read_text(encoding="utf-8")
        assert old in text
        (out / path).write_text(text.replace(old, new, 1), encoding="utf-8")

    return do


def flip(out: Path) -> None:
    """Flip one bit of a tar."""
    path = out / "crop/train-000001.tar"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(out: Path) -> None:
    """Cut a tar in half."""
    path = out / "crop/train-000001.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rewritten(samples: dict[str, dict[str, bytes] | None], column: str = "crop") -> Callable[[Path], Any]:
    """Return a function that writes the first shard with other samples and a sidecar that agrees."""
    return lambda out: write_shard(out, column, "train-000000", samples, 4.0)


def other_figure(out: Path) -> None:
    """Write another jitter into a sidecar than that of the sample."""
    figures = schema.encode_json({"key": "s1/b", "n_frames": 3, "jitter": 0.1})
    rewritten({**A, "s1/b": crop_members("s1/b", 3, clip_json=figures)})(out)
    path = "crop/train-000000.json"
    (out / path).write_text((out / path).read_text().replace('"n_frames": 3', '"n_frames": 3, "jitter": 0.2'))


def laid_out(out: Path) -> None:
    """Write a sidecar's JSON over many lines, as other programs do."""
    path = out / SIDECAR
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")), indent=2), encoding="utf-8")


def padded(out: Path) -> None:
    """Put a PAX header before the first sample, and update the digest in the sidecar."""
    path = out / "crop/train-000000.tar"
    header = tarfile.TarInfo("x")
    header.pax_headers = {"mtime": "nan"}
    data = header.tobuf(tarfile.PAX_FORMAT)[:1024] + path.read_bytes()
    path.write_bytes(data)
    sidecar = path.with_suffix(".json")
    text = sidecar.read_text(encoding="utf-8")
    found = json.loads(text)
    text = text.replace(found["sha256"], hashlib.sha256(data).hexdigest())
    sidecar.write_text(text.replace(f'"bytes": {found["bytes"]}', f'"bytes": {len(data)}', 1), encoding="utf-8")


A, B = ({key: crop_members(key, 3)} for key in ("s1/a", "s1/b"))
SIDECAR = "mfcc/train-000001.json"
DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "flipped bit": (flip, "crop/train-000001.tar: the digest is not the sidecar's"),
    "cut tar": (cut, "crop/train-000001.tar: is not a whole tar"),
    "missing tar": (lambda out: (out / "mfcc/test-000000.tar").unlink(), "mfcc/test-000000.tar: cannot be read"),
    "missing sidecar": (
        lambda out: (out / "mfcc/test-000000.json").unlink(),
        "mfcc/test-000000.tar: not finished, 2 clips missing",
    ),
    "extra tar": (lambda out: (out / "mfcc/val-000000.tar").touch(), "mfcc/val-000000.tar: not a shard of the"),
    "extra sidecar": (lambda out: (out / "mfcc/val-000000.json").touch(), "mfcc/val-000000.json: not a shard of the"),
    "swapped sidecar": (
        lambda out: shutil.copy(out / "mfcc/test-000000.json", out / "mfcc/train-000000.json"),
        "mfcc/train-000000.json: its clips are not those of the manifest",
    ),
    "sidecar of the other column": (
        lambda out: shutil.copy(out / "crop/test-000000.json", out / "mfcc/test-000000.json"),
        "mfcc/test-000000.json: is the sidecar of crop/test-000000",
    ),
    "half a sidecar": (edit(SIDECAR, "]}", ""), f"{SIDECAR}: cannot read the sidecar"),
    "not a sidecar": (
        lambda out: (out / SIDECAR).write_text("[]"),
        f"{SIDECAR}: cannot read the sidecar (not a JSON object)",
    ),
    "newer sidecar": (edit(SIDECAR, '"avprep_sidecar": 1', '"avprep_sidecar": 2'), f"{SIDECAR}: not a sidecar"),
    "third state": (edit(SIDECAR, '"state": "ok"', '"state": "skipped"'), "clip 0 is neither ok nor failed"),
    "no reason": (edit(SIDECAR, '"reason": "no_face", ', ""), "clip 1 is neither ok nor failed"),
    "odd reason": (edit(SIDECAR, '"reason": "no_face"', '"reason": "mondays"'), f"{SIDECAR}: unknown reason mondays"),
    "hidden failure": (
        edit(SIDECAR, '"failed": 1', '"failed": 0'),
        "its counts are not those of its clips",
    ),
    "other length": (edit(SIDECAR, '"n_frames": 3', '"n_frames": 4'), "has 3 frames, the sidecar says 4"),
    "other figure": (other_figure, "crop/train-000000.json: s1/b: jitter is not the sample's"),
    "other key": (edit(SIDECAR, '"key": "s1/c"', '"key": "s1/x"'), f"{SIDECAR}: its clips are not those of the"),
    "ok that failed": (
        edit(SIDECAR, '"state": "failed"', '"n_frames": 3, "state": "ok"'),
        "train-000001.tar: holds 1 samples, the sidecar has 2 ok clips",
    ),
    "small image": (
        rewritten({**A, "s1/b": crop_members("s1/b", 3) | {"001.jpg": jpeg(255)}}),
        "s1/b.001.jpg is not a 256×256 image",
    ),
    "half an image": (
        rewritten({**A, "s1/b": crop_members("s1/b", 3) | {"002.jpg": jpeg()[:40]}}),
        "s1/b.002.jpg is not a 256×256 image",
    ),
    "broken contract": (
        rewritten({**A, "s1/b": crop_members("s1/b", 3, points_npy=b"")}),
        "train-000000.tar: s1/b: points.npy: not a plain .npy array",
    ),
    "sidecar laid out otherwise": (laid_out, f"{SIDECAR}: its first line does not hold all but its clips"),
    "bytes before the first sample": (padded, "crop/train-000000.tar: s1/a does not lie where the sidecar says"),
    "other order": (rewritten({**B, **A}), "crop/train-000000.json: its clips are not those of the manifest"),
    "columns that differ": (
        rewritten({**A, "s1/b": crop_members("s1/b", 4)}),
        "s1/b: crop has 4 frames, mfcc 3",
    ),
    "columns that differ the other way": (
        rewritten({**A, "s1/b": crop_members("s1/b", 2)}),
        "s1/b: crop has 2 frames, mfcc 3",
    ),
    "other numbers": (
        edit("crop/run.json", '"test": 2', '"test": 3'),
        "crop/run.json: its numbers of clips are not the manifest's",
    ),
    "no numbers": (
        edit("mfcc/run.json", '"clips": ', '"clips": {}, "others": '),
        "mfcc/run.json: its numbers of clips are not the manifest's",
    ),
    "other plan": (edit("manifest.jsonl", "s1/f", "s1/g"), "run.json: made from another manifest"),
    "no run.json": (lambda out: (out / "crop/run.json").unlink(), "crop: holds shards, but no run.json"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found(out: Path, damage: str) -> None:
    """Each kind of damage is a problem of its own, in one line that names the file or clip."""
    breaks, problem = DAMAGE[damage]
    breaks(out)
    problems = verify.verify(out)
    assert any(problem in line for line in problems), problems
    assert all("\n" not in line for line in problems)


def test_a_failed_clip_is_no_problem(out: Path) -> None:
    """A clip that failed in one column only is accounted for."""
    rewritten({**A, "s1/b": None})(out)
    assert verify.verify(out) == []


def test_nothing_started(out: Path) -> None:
    """A folder without any column is not verified as intact."""
    for column in schema.COLUMNS:
        shutil.rmtree(out / column)
    assert verify.verify(out) == [f"{out}: no column was started"]
    assert status.status(out) == []


def test_no_run(tmp_path: Path) -> None:
    """A folder that holds no run is refused."""
    for look in (status.status, verify.verify):
        with pytest.raises(RunError, match="no run was ever started there"):
            look(tmp_path)


class TestCounts:
    """The content of `status`."""

    def test_all_done(self, whole: Path) -> None:
        """Done and failed clips, frames and shards are counted by split, failures by reason."""
        crop, mfcc = status.status(whole)
        assert (crop.column, mfcc.column) == ("crop", "mfcc")
        assert crop.splits == {
            "train": status.SplitStatus(ok=3, failed=1, missing=0, frames=9, shards=2, shards_done=2),
            "test": status.SplitStatus(ok=2, failed=0, missing=0, frames=6, shards=1, shards_done=1),
        }
        assert crop.reasons == {"no_face": 1}
        assert (crop.clip_seconds, crop.core_seconds_left, crop.unfinished) == (12.0, 0.0, [])

    @pytest.mark.parametrize(
        "breaks",
        [
            lambda out: (out / "crop/train-000000.json").unlink(),
            lambda out: (out / "crop/train-000000.tar").unlink(),
            lambda out: (out / "crop/train-000000.tar").write_bytes(b"short"),
            lambda out: (out / "crop/train-000000.json").write_text('{"avprep_sidecar": 1}'),
            edit("crop/train-000000.json", '"failed": 0', '"failed": null'),
            edit("crop/train-000000.json", '"failed": 0', '"failed": 0, "silent": "1"'),
            edit("crop/train-000000.json", '"clip_seconds": 4.0', '"clip_seconds": "4"'),
            edit("crop/train-000000.json", '"clip_seconds": 4.0', '"clip_seconds": NaN'),
        ],
    )
    def test_what_is_missing(self, out: Path, breaks: Callable[[Path], Any]) -> None:
        """Clips of a shard whose tar or sidecar is missing or damaged are missing; the others give the time left."""
        breaks(out)
        crop, _ = status.status(out)
        assert crop.splits["train"] == status.SplitStatus(ok=1, failed=1, missing=2, frames=3, shards=2, shards_done=1)
        assert crop.unfinished == ["train-000000"]
        assert crop.core_seconds_left == pytest.approx(8 / 4 * 2)

    def test_nothing_done_yet(self, out: Path) -> None:
        """Before the first shard no remaining time is given."""
        for path in (out / "mfcc").glob("*-*"):
            path.unlink()
        mfcc = status.status(out)[1]
        assert (mfcc.core_seconds_left, mfcc.rate, mfcc.eta_seconds) == (None, None, None)
        assert sum(split.missing for split in mfcc.splits.values()) == 6

    def test_only_first_lines_are_read(self, out: Path) -> None:
        """Counting reads only a sidecar's first line, so thousands of shards take no time."""
        path = out / "crop/train-000000.json"
        path.write_bytes(path.read_bytes().split(b"\n")[0] + b"\n\xff not read")
        assert status.status(out)[0].unfinished == []

    def test_json(self, whole: Path) -> None:
        """The counts survive a round trip through JSON."""
        crop = status.status(whole)[0].to_json()
        assert json.loads(json.dumps(crop)) == crop
        assert crop["splits"]["train"]["failed"] == 1


NOW = 1_700_000_000.0
HOUR = 3600.0


def start_column(out: Path, clips: dict[str, int], shard_size: int) -> None:
    """Write the start of a crop column; its manifest has room for the clips and is not readable."""
    (out / "crop").mkdir(parents=True)
    (out / "manifest.jsonl").write_bytes(b"\xff this is not read\n")
    os.truncate(out / "manifest.jsonl", 100 * sum(clips.values()))
    (out / "crop/run.json").write_text(json.dumps({"clips": clips, "shard_size": shard_size}))


def finish_shard(
    out: Path,
    name: str,
    ok: int = 1,
    failed: dict[str, int] | None = None,
    *,
    started: float | None = None,
    wall_seconds: float = 60.0,
    size: int = 10_240,
    silent: int = 0,
    again: dict[str, int] | None = None,
    longest_timeout: float | None = None,
) -> None:
    """Write a shard of the crop column that looks finished: a sidecar's head, and a sparse tar."""
    reasons = failed or {}
    clips = ok + sum(reasons.values())
    timings = {"clip_seconds": 2.0 * clips}
    if started is not None:
        timings |= {"started": started, "wall_seconds": wall_seconds}
    if longest_timeout is not None:
        timings["longest_timeout"] = longest_timeout
    head: dict[str, Any] = {
        "avprep_sidecar": schema.SIDECAR_VERSION,
        "column": "crop",
        "shard": name,
        "sha256": "0" * 64,
        "bytes": size,
        "counts": {"clips": clips, "ok": ok, "failed": clips - ok, "frames": 29 * ok, "reasons": reasons},
        "timings": timings,
    }
    head["counts"] |= {"silent": silent} if silent else {}
    head |= {"again": again} if again else {}
    shards.sidecar_path(out, "crop", name).write_bytes(shards.render_sidecar(head, []))
    with shards.tar_path(out, "crop", name).open("wb") as tar:
        tar.truncate(size)


class TestNumbersOfClips:
    """The source of the numbers of clips for `status`."""

    def test_from_run_json(self, tmp_path: Path) -> None:
        """The numbers come from run.json, so that the manifest, slow to read for a large set, is not read."""
        start_column(tmp_path, {"train": 5, "val": 0, "test": 1}, shard_size=2)
        (crop,) = status.status(tmp_path)
        assert {name: (split.missing, split.shards) for name, split in crop.splits.items()} == {
            "train": (5, 3),
            "test": (1, 1),
        }
        assert crop.unfinished == ["train-000000", "train-000001", "train-000002", "test-000000"]

    @pytest.mark.parametrize("clips", [None, {}, {"train": "4"}, {"train": 4, "val": 0}, [4, 0, 2]])
    def test_without_them(self, out: Path, clips: Any) -> None:
        """A run.json without them is damaged, and the error says so in one line."""
        path = out / "crop/run.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"clips": clips}))
        with pytest.raises(RunError, match=r"its run\.json is damaged: it does not hold the number of clips"):
            status.status(out)


class TestArray:
    """Which tasks of an array have work left."""

    @settings(deadline=None)
    @given(
        numbers=st.tuples(*[st.integers(0, 12)] * 3),
        shard_size=st.integers(1, 5),
        num_tasks=st.integers(1, 20),
        done=st.sets(st.integers(0, 40)),
    )
    def test_exactly_those_with_an_unfinished_shard(
        self, numbers: tuple[int, int, int], shard_size: int, num_tasks: int, done: set[int]
    ) -> None:
        """The array names each task that owns an unfinished shard, and no other, whatever is done already."""
        split_of = [split for split, count in zip(SPLITS, numbers, strict=True) for _ in range(count)]
        plan = Manifest("x", Path("/x"), tuple(Clip(str(n), f"{n}.mp4", split) for n, split in enumerate(split_of)))
        names = [name for name, _ in plan.shards(shard_size)]
        finished = {name for n, name in enumerate(names) if n in done}
        with tempfile.TemporaryDirectory() as folder:
            start_column(Path(folder), plan.counts(), shard_size)
            for name in finished:
                finish_shard(Path(folder), name)
            (crop,) = status.status(Path(folder))
        assert crop.unfinished == [name for name in names if name not in finished]
        assert crop.shards == len(names)
        owners = [task for task in range(num_tasks) if set(names[task::num_tasks]) - finished]
        ends = [part.partition("-")[::2] for part in crop.array(num_tasks).split(",") if part]
        assert [task for first, last in ends for task in range(int(first), int(last or first) + 1)] == owners


def test_shards_are_added_up(tmp_path: Path) -> None:
    """The counts of all shards are added, those of a split by themselves; the longest of all time-outs is given."""
    start_column(tmp_path, {"train": 30, "val": 10, "test": 0}, shard_size=10)
    finish_shard(tmp_path, "train-000000", ok=7, failed={"no_face": 1, "timeout": 2}, longest_timeout=150.0, silent=3)
    finish_shard(tmp_path, "train-000001", ok=8, failed={"timeout": 2}, longest_timeout=700.0, again={"timeout": 1})
    finish_shard(tmp_path, "train-000002", ok=10, silent=2)
    finish_shard(
        tmp_path, "val-000000", ok=6, failed={"timeout": 4}, longest_timeout=300.0, again={"timeout": 2}, silent=1
    )
    (crop,) = status.status(tmp_path)
    assert crop.splits["train"] == status.SplitStatus(25, 5, 0, 25 * 29, 3, 3, silent=5)
    assert crop.splits["val"] == status.SplitStatus(6, 4, 0, 6 * 29, 1, 1, silent=1)
    assert crop.reasons == {"no_face": 1, "timeout": 8}
    assert crop.again == {"timeout": 3}
    assert (crop.longest_timeout, crop.clip_seconds) == (700.0, 80.0)


class TestPace:
    """The rate and the remaining time."""

    def test_one_task(self, tmp_path: Path) -> None:
        """The rate is that of the shards of the last hour, from the start of the first one until now."""
        start_column(tmp_path, {"train": 40, "val": 0, "test": 0}, shard_size=10)
        finish_shard(tmp_path, "train-000000", ok=9, failed={"no_face": 1}, started=NOW - 100)
        finish_shard(tmp_path, "train-000001", ok=10, started=NOW - 40, wall_seconds=40)
        (crop,) = status.status(tmp_path, NOW)
        assert crop.rate == pytest.approx(20 / 100)
        assert crop.eta_seconds == pytest.approx(20 / (20 / 100))

    def test_tasks_at_the_same_time(self, tmp_path: Path) -> None:
        """The rate is that of all tasks together: two simultaneous tasks count double."""
        start_column(tmp_path, {"train": 40, "val": 0, "test": 0}, shard_size=10)
        for name in ("train-000000", "train-000001"):
            finish_shard(tmp_path, name, ok=10, started=NOW - 100, wall_seconds=100)
        (crop,) = status.status(tmp_path, NOW)
        assert (crop.rate, crop.eta_seconds) == (pytest.approx(20 / 100), pytest.approx(100))
        assert crop.core_seconds_left == pytest.approx(2.0 * 20)

    def test_only_the_last_hour_counts(self, tmp_path: Path) -> None:
        """Shards finished before the last hour do not count; one that began before it counts over the hour."""
        start_column(tmp_path, {"train": 40, "val": 0, "test": 0}, shard_size=10)
        finish_shard(tmp_path, "train-000000", ok=10, started=NOW - 3 * HOUR, wall_seconds=1.9 * HOUR)
        finish_shard(tmp_path, "train-000001", ok=10, started=NOW - 2 * HOUR, wall_seconds=1.5 * HOUR)
        (crop,) = status.status(tmp_path, NOW)
        assert crop.rate == pytest.approx(10 / HOUR)
        assert crop.eta_seconds == pytest.approx(2 * HOUR)

    def test_nothing_in_the_last_hour(self, tmp_path: Path) -> None:
        """If no shard is known to have finished within the hour, only the remaining work is given, no rate or time."""
        start_column(tmp_path, {"train": 40, "val": 0, "test": 0}, shard_size=10)
        finish_shard(tmp_path, "train-000000", ok=10, started=NOW - 2 * HOUR, wall_seconds=HOUR)
        finish_shard(tmp_path, "train-000001", ok=10)
        (crop,) = status.status(tmp_path, NOW)
        assert (crop.rate, crop.eta_seconds, crop.core_seconds_left) == (None, None, pytest.approx(40))

    def test_a_clock_that_was_set_back(self, tmp_path: Path) -> None:
        """A shard that by its time begins hours from now, before which the clock was set back, does not count."""
        start_column(tmp_path, {"train": 40, "val": 0, "test": 0}, shard_size=10)
        finish_shard(tmp_path, "train-000000", ok=10, started=NOW + 2 * HOUR)
        finish_shard(tmp_path, "train-000001", ok=10, started=NOW - 100)
        (crop,) = status.status(tmp_path, NOW)
        assert crop.rate == pytest.approx(10 / 100)

    def test_nothing_is_missing(self, tmp_path: Path) -> None:
        """When the last shard is there, no time is left."""
        start_column(tmp_path, {"train": 10, "val": 0, "test": 0}, shard_size=10)
        finish_shard(tmp_path, "train-000000", ok=10, started=NOW - 100)
        (crop,) = status.status(tmp_path, NOW)
        assert (crop.eta_seconds, crop.core_seconds_left, crop.array(4)) == (0, 0, "")

    def test_no_time_at_all(self, tmp_path: Path) -> None:
        """A shard that begins and ends at this moment, or by a fast clock, causes no division by zero."""
        start_column(tmp_path, {"train": 20, "val": 0, "test": 0}, shard_size=10)
        finish_shard(tmp_path, "train-000000", ok=10, started=NOW + 5, wall_seconds=0)
        (crop,) = status.status(tmp_path, NOW)
        assert crop.rate is not None
        assert crop.rate > 0

    @pytest.mark.parametrize(("name", "value"), [("started", "soon"), ("wall_seconds", None)])
    def test_damaged_timings(self, tmp_path: Path, name: str, value: Any) -> None:
        """A sidecar whose times are not numbers causes no traceback."""
        start_column(tmp_path, {"train": 20, "val": 0, "test": 0}, shard_size=10)
        finish_shard(tmp_path, "train-000000", ok=10, started=NOW - 10)
        path = shards.sidecar_path(tmp_path, "crop", "train-000000")
        sidecar = json.loads(path.read_text())
        clips = sidecar.pop("clips")
        sidecar["timings"][name] = value
        path.write_bytes(shards.render_sidecar(sidecar, clips))
        (crop,) = status.status(tmp_path, NOW)
        assert crop.eta_seconds is None


def test_ten_thousand_shards(tmp_path: Path) -> None:
    """Five million clips are counted from the first lines of ten thousand sidecars; unfinished shards are named."""
    start_column(tmp_path, {"train": 4_000_000, "val": 500_000, "test": 500_000}, shard_size=500)
    missing = {("train", 17), ("train", 4096), ("val", 0), ("test", 999)}
    for split, number in [*product(["train"], range(8000)), *product(["val", "test"], range(1000))]:
        if (split, number) not in missing:
            failed = {"no_face": 2, "timeout": 1} if number % 2 else {"no_face": 1}
            ok = 500 - sum(failed.values())
            finish_shard(tmp_path, f"{split}-{number:06d}", ok, failed, started=NOW - 4 * HOUR, size=0)
    (crop,) = status.status(tmp_path, NOW)
    assert {name: (split.shards_done, split.shards, split.missing) for name, split in crop.splits.items()} == {
        "train": (7998, 8000, 1000),
        "val": (999, 1000, 500),
        "test": (999, 1000, 500),
    }
    # Odd shards, half of all but for 17 and 999, hold 3 failures; even ones, all but for 4096 and 0, hold 1.
    assert crop.reasons == {"no_face": 2 * 4998 + 4998, "timeout": 4998}
    assert sum(split.ok for split in crop.splits.values()) == 4998 * 497 + 4998 * 499
    assert crop.unfinished == ["train-000017", "train-004096", "val-000000", "test-000999"]
    assert crop.array(64) == "0,15,17"  # of 10,000 in a row: 17 → 17, 4096 → 0, 8000 → 0, 9999 → 15
    assert crop.array(10_000) == "17,4096,8000,9999"
