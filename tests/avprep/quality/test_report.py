"""The report: what it counts and shows, of complete and of damaged runs, and the page in a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import made_shards
import numpy as np
import pytest
import stand_ins
from avprep_cli import look
from avprep_cli.main import Commands
from click.testing import CliRunner, Result

from avprep import manifest, schema, shards, stages
from avprep.errors import REASONS, ManifestError, RunError
from avprep.quality import excerpts, findings, report
from avprep.quality.findings import Row
from avprep.runs.run import run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&\u202e\x1b[31m"
"""Words that break a careless page."""


@pytest.fixture(scope="module")
def whole(lrw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both columns of the synthetic corpus, one of whose clips is not a video, in shards of two clips."""
    out = tmp_path_factory.mktemp("report") / "out"
    plan = manifest.read(lrw / "plan.jsonl")
    run(stages.CropStage(plan.root, stages.CropSettings("opencv")), plan, out, jobs=2, shard_size=2)
    run(stages.MfccStage(plan.root, stages.MfccSettings()), plan, out, jobs=2, shard_size=2)
    return out


@pytest.fixture(scope="module")
def whole_page(whole: Path) -> str:
    """The page of that run."""
    return report.report(whole).page


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(whole, tmp_path / "out"))


class Elements(HTMLParser):
    """The elements of a page, and the text of each section by its id."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: dict[str, str] = {"": ""}
        self._section = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Count an element."""
        self.tags.append(tag)
        if tag == "section":
            self._section = dict(attrs)["id"] or ""
            self.words[self._section] = ""

    def handle_endtag(self, tag: str) -> None:
        """End a section."""
        self._section = "" if tag == "section" else self._section

    def handle_data(self, data: str) -> None:
        """Keep text."""
        self.words[self._section] += data + " "


def words(page: str, section: str) -> str:
    """Return the text of a section, on one line."""
    return " ".join(Elements(page).words[section].split())


def edit_sidecar(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the clips of a sidecar and adapt its counts."""
    sidecar = json.loads(path.read_text(encoding="utf-8"))
    for clip in sidecar["clips"]:
        change(clip)
    clips = sidecar.pop("clips")
    path.write_bytes(shards.render_sidecar(sidecar | {"counts": shards.counts(clips)}, clips))


def fail(out: Path, column: str, shard: str, key: str, **failure: str) -> None:
    """Mark a clip of a shard as failed."""

    def change(clip: dict[str, Any]) -> None:
        if clip["key"] == key:
            clip.clear()
            clip.update({"key": key, "state": "failed", "seconds": 1.0, **failure})

    edit_sidecar(shards.sidecar_path(out, column, shard), change)


# Content


def test_totals_are_the_sidecars(whole: Path) -> None:
    """Clips, frames and shards are counted by split, failures by split and reason, each reason with its meaning."""
    made = report.report(whole)
    assert (made.n_clips, made.n_failures, made.n_problems) == (5, 2, 0)
    said = words(made.page, "totals")
    for column in schema.COLUMNS:
        assert f"{column} train val test all clips 2 2 2 6 ok 1 2 2 5 failed 1 0 0 1 unreadable" in said
    assert f"unreadable {REASONS['unreadable']} 1 0 0 1 missing, not finished 0 0 0 0 frames 29 58 58 145" in said
    assert "finished shards 1 of 1 1 of 1 1 of 1 3 of 3" in said
    assert "problems" not in Elements(made.page).words


def test_a_failure_has_its_explanation_and_why_it_has_no_picture(whole: Path, whole_page: str) -> None:
    """A failed clip is listed once per column with reason, meaning and message; the page says if nothing decodes."""
    said = words(whole_page, "failures")
    assert said.count(REASONS["unreadable"]) == 2
    assert said.count(".mp4: ") >= 2
    (clip,) = (
        clip for clip in shards.read_sidecar(whole, "crop", "train-000000")["clips"] if clip["state"] == "failed"
    )  # type: ignore[index]
    assert clip["message"] in said
    assert '<td role="cell" data-label="Picture" class="picture"><div><span' in whole_page


def test_a_failure_shows_the_first_picture_of_its_video(out: Path, lrw: Path) -> None:
    """If the video of a failed clip decodes, its first frame is on the page, and no other."""
    key = shards.read_sidecar(out, "crop", "val-000000")["clips"][0]["key"]  # type: ignore[index]
    fail(out, "crop", "val-000000", key, reason="no_face", message="no face was found")
    page = report.report(out).page
    cells = re.findall('class="picture"><div><img src="data:image/jpeg;base64,(.*?)"', page)
    assert len(cells) == 1
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(cells[0]), np.uint8), cv2.IMREAD_COLOR_RGB)
    video = excerpts.read_labels(out, {key})[1][key].video
    first = next(iter(excerpts.Frames(lrw / "corpus" / video))).small(report.STILL_SIDE)
    assert picture.shape == first.shape
    assert np.abs(picture.astype(int) - first).mean() < 6


def test_a_data_set_that_is_gone_is_said(out: Path, lrw: Path) -> None:
    """Without the videos the page says where they were searched; --root finds them elsewhere."""
    path = out / "manifest.jsonl"
    path.write_text(path.read_text().replace(json.dumps(str(lrw / "corpus")), '"/gone/for/good"'))
    page = report.report(out).page
    assert "The data set is not at /gone/for/good" in words(page, "failures")
    assert "give --root" in words(page, "failures")
    assert "is not at" not in words(report.report(out, root=lrw / "corpus").page, "failures")


def test_a_column_that_was_never_begun_is_said(out: Path) -> None:
    """Without crops there are MFCC strips and audio figures, without MFCC crop images, and the page says so."""
    shutil.move(out / "crop", out / "elsewhere")
    page = report.report(out).page
    assert "crop : not begun" in words(page, "")
    assert 'class="strip"' in page
    assert 'class="shots"' not in page
    assert "Face size median width of the face, in pixels of the source n/a: no clip has it" in words(page, "figures")
    shutil.move(out / "elsewhere", out / "crop")
    shutil.rmtree(out / "mfcc")
    page = report.report(out).page
    assert "mfcc : not begun" in words(page, "")
    assert 'class="shots"' in page
    assert 'class="strip"' not in page
    assert ", no mfcc" in words(page, "sheets")


def test_unfinished_shards_are_said(out: Path) -> None:
    """Clips of unfinished shards are counted as missing, and the page names the command with the details."""
    (out / "crop/test-000000.json").unlink()
    page = report.report(out).page
    assert "crop : 3 ok, 1 failed, 2 missing : 1 of 3 shards is not finished ( avprep status" in words(page, "")
    assert "missing, not finished 0 0 2 2" in words(page, "totals")


def test_a_run_that_has_only_begun(out: Path) -> None:
    """A page is made before the first shard is finished."""
    for column in schema.COLUMNS:
        for path in (out / column).glob("*-*"):
            path.unlink()
    made = report.report(out)
    assert (made.n_clips, made.n_failures, made.n_problems) == (0, 0, 0)
    assert "There is no finished clip to show yet." in words(made.page, "sheets")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "sidecar": (lambda out: (out / "crop/val-000000.json").write_text("{"), "val-000000.json: cannot read the sidecar"),
    "no tar": (lambda out: (out / "crop/val-000000.tar").unlink(), "val-000000.tar: cannot be read"),
    "short tar": (lambda out: os.truncate(out / "crop/val-000000.tar", 512), "val-000000.tar: has 512 bytes"),
    "zeros": (
        lambda out: (out / "crop/val-000000.tar").write_bytes(bytes((out / "crop/val-000000.tar").stat().st_size)),
        "val-000000.tar: ",
    ),
    "other lengths": (
        lambda out: edit_sidecar(out / "crop/val-000000.json", lambda clip: clip.update(bytes=512)),
        "ABOUT_00001: not a tar header",
    ),
    "other frames": (
        lambda out: edit_sidecar(out / "crop/val-000000.json", lambda clip: clip.update(n_frames=30)),
        "has no 029.jpg",
    ),
    "huge frames": (
        lambda out: edit_sidecar(out / "crop/val-000000.json", lambda clip: clip.update(n_frames=10**400)),
        "val-000000.json: ",
    ),
    "no frames": (
        lambda out: edit_sidecar(out / "crop/val-000000.json", lambda clip: clip.update(n_frames=0)),
        "has 0 frames",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_a_problem_on_the_page(out: Path, damage: str) -> None:
    """Any fault of a shard is named, and the page shows the rest."""
    breaks, problem = DAMAGE[damage]
    breaks(out)
    made = report.report(out)
    assert made.n_problems >= 1
    assert problem in words(made.page, "problems")
    assert made.page.count('class="shots"') >= 3


def test_damaged_pictures_and_arrays_are_problems(tmp_path: Path) -> None:
    """An image of the wrong size, an invalid image and arrays of another shape lose only their own clip."""
    clips = [made_shards.Made(f"clip{n}", split="train") for n in range(4)]
    out = made_shards.write(tmp_path / "out", clips)
    bad = [
        {"000.jpg": bytes(cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1])},
        {"000.jpg": b"\xff\xd8\xff"},
        {"points.npy": schema.encode_array(np.zeros((2, 5, 2), np.float32))},
        {"affine.npy": b"no array"},
    ]
    data = [
        (clip, made_shards.stretch(tmp_path, clip.key, made_shards.crop_members(clip.key) | changes))
        for clip, changes in zip(clips, bad, strict=True)
    ]
    made_shards.write_shard(out, "crop", "train-000000", data)
    made_shards.write_runs(out, shard_size=4)
    made = report.report(out)
    said = words(made.page, "problems")
    assert made.n_problems == 4
    for key in ("clip0.000.jpg", "clip1.000.jpg", "clip2.points.npy", "clip3.affine.npy"):
        assert key in said
    assert made.page.count('class="strip"') >= 4


@pytest.mark.parametrize("what", ["nothing", "no column", "no manifest", "a damaged run.json"])
def test_a_folder_that_holds_nothing_is_refused(tmp_path: Path, what: str) -> None:
    """The error names the fault of the folder in one line."""
    if what != "nothing":
        made_shards.write(tmp_path, [made_shards.Made("a")])
    if what == "no column":
        for column in schema.COLUMNS:
            shutil.rmtree(tmp_path / column)
    if what == "no manifest":
        (tmp_path / "manifest.jsonl").unlink()
    if what == "a damaged run.json":
        (tmp_path / "crop" / "run.json").write_text("{}")
    with pytest.raises(RunError) as caught:
        report.report(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_video_that_hangs_costs_its_own_picture(tmp_path: Path, lrw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding stops after some seconds per video, and after too many timeouts the remaining videos are left out.

    The limit on computing is in CPU time, so that the load of a machine does not change the page.
    """
    monkeypatch.setattr(excerpts, "STILL_SECONDS", 0.5)
    monkeypatch.setattr(excerpts, "still", stand_ins.still_or_hang)
    shutil.copy(sorted((lrw / "corpus").rglob("*.mp4"))[-1], tmp_path / "plays.mp4")
    labels = {name: excerpts.Label(f"{name}.mp4") for name in ("hangs", "spins", "plays")}
    hangs = {"hangs": labels.pop("hangs")}
    found = excerpts.stills(tmp_path, labels, 160, jobs=1)
    assert found["spins"] == "decoding takes more than 0.5 s of computing"
    assert isinstance(found["plays"], bytes)
    monkeypatch.setattr(excerpts, "HUNG_SECONDS", 1.0)
    assert excerpts.stills(tmp_path, hangs, 160, jobs=1) == {"hangs": "decoding did not end within 1 s"}
    monkeypatch.setattr(excerpts, "SLOW_STILLS", 0)
    labels = hangs | {f"plays {n}": labels["plays"] for n in range(5)}
    found = excerpts.stills(tmp_path, labels, 160, jobs=1)
    assert found["plays 4"] == "left alone, since decoding others took too long"


def test_a_stop_is_the_reports_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the report and the processes that decode, without tracebacks from these."""
    monkeypatch.setattr(excerpts, "still", stand_ins.still_if_deaf)
    assert excerpts.stills(tmp_path, {"a": excerpts.Label("a.mp4")}, 160, jobs=1) == {"a": "deaf"}


# Figures and images


def test_the_same_folder_gives_the_same_page(whole: Path) -> None:
    """Folder and seed determine every byte."""
    assert report.report(whole, seed=3).page == report.report(whole, seed=3).page


def test_marks_lie_where_the_template_puts_eyes_and_mouth(whole_page: str) -> None:
    """Points mapped into the crop are near the template's eye centres and mouth corners."""
    page = whole_page
    eyes = np.array(re.findall('class="eye" cx="(.+?)" cy="(.+?)"', page), np.float64).reshape(-1, 2, 2)
    assert len(eyes) >= 15
    assert np.abs(eyes - [(91.1, 114.4), (168.7, 114.4)]).max() < 8
    mouths = np.array(re.findall('class="mouth" d="M(.+?) (.+?)L(.+?) (.+?)"', page), np.float64).reshape(-1, 2, 2)
    if len(mouths):
        assert np.abs(mouths.mean(axis=1) - (129.9, 188.1)).max() < 8


def test_points_that_are_not_known_are_not_marked() -> None:
    """NaN, infinite and distant points leave no mark; neither does a single mouth corner."""
    points = np.array([[90, 110], [np.nan, 110], [0, 0], [100, 190], [1e30, np.inf]])
    assert report.marks(points) == {"eyes": [[90, 110]], "mouth": []}


def test_the_strip_has_each_column_once_in_time(tmp_path: Path) -> None:
    """Frame i's four steps are the ninth to twelfth of its window, so the strip is aligned with the frames."""
    n_frames = 6
    columns = np.random.default_rng(0).normal(size=(12, 4 * n_frames + 16)).astype(np.float32)
    windows = np.stack([columns[:, 4 * i : 4 * i + 20] for i in range(n_frames)])
    members = {
        "mfcc.npy": schema.encode_array(windows),
        "valid.npy": schema.encode_array(np.ones(n_frames, bool)),
        "audio.json": schema.encode_json({"key": "a", "n_frames": n_frames}),
    }
    clip = made_shards.Made("a", n_frames=n_frames)
    made_shards.write_shard(tmp_path, "mfcc", "train-000000", [(clip, made_shards.stretch(tmp_path, "a", members))])
    (place,) = shards.places(tmp_path, json.loads((tmp_path / "mfcc/train-000000.json").read_text())["clips"]).values()
    row = Row("a", "train", "train-000000", 0.0, n_frames, where={"mfcc": place})
    assert np.array_equal(excerpts.read_sound(tmp_path, row).columns, columns[:, 8 : 8 + 4 * n_frames])


def test_pictures_end_where_the_room_does(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images beyond the limit are left out, and the page gives their number."""
    monkeypatch.setattr(report, "PICTURES_MB", 0.02)
    page = report.report(whole).page
    assert "pictures are left out: together they exceed 0.02 MB" in words(page, "")
    assert sum(len(data) for data in re.findall('base64,([^"]+)', page)) < 0.02e6 * 4 / 3 + 4000


def test_the_worst_are_the_worst(tmp_path: Path) -> None:
    """For each figure the twenty worst clips are kept, worst first, from any shard."""
    out = sidecars(tmp_path, {"train": 400, "val": 100, "test": 0})
    found = findings.gather(out)
    sizes = [clip["face_size"] for path in out.glob("crop/*-*.json") for clip in ok(path)]
    assert [row.figures["face_size"] for row in found.worst["face_size"]] == sorted(sizes)[:20]
    silence = [clip["silent_share"] for path in out.glob("mfcc/*-*.json") for clip in ok(path)]
    assert [row.figures["silent_share"] for row in found.worst["silent_share"]] == sorted(silence)[:-21:-1]


def test_sound_from_before_the_clip_is_no_bad_offset() -> None:
    """Real audio up to 80 ms before a clip is not listed as an outlier; audio that begins late is."""
    (figure,) = (figure for figure in findings.FIGURES if figure.name == "start_offset")
    assert [figure.badness(seconds) for seconds in (-0.0801, -0.08, -0.01, 0.0)] == [None] * 4
    assert (figure.badness(0.1) or 0) > (figure.badness(0.05) or 0) > 0


@pytest.mark.parametrize(
    ("counts", "total", "shares"),
    [
        ({"a": 10, "b": 3}, 8, {"a": 5, "b": 3}),
        ({"a": 10, "b": 10}, 8, {"a": 4, "b": 4}),
        ({"a": 1, "b": 2}, 8, {"a": 1, "b": 2}),
        ({}, 8, {}),
    ],
)
def test_shares_are_even(counts: dict[str, int], total: int, shares: dict[str, int]) -> None:
    """Small groups are taken whole; the rest is divided evenly among the others."""
    assert findings.even_shares(counts, total) == shares


# Untrusted text


def hostile(out: Path, plan_key: str) -> Path:
    """Write a run with hostile text wherever text is possible."""
    clips = [made_shards.Made(plan_key, word=HOSTILE, speaker=HOSTILE), made_shards.Made("b", crop="no_face")]
    made_shards.write(out, clips)
    edit_sidecar(
        out / "crop/train-000000.json",
        lambda clip: clip.update(message=HOSTILE, reason=HOSTILE) if clip["state"] == "failed" else None,
    )
    made_shards.write_runs(out, 2, settings={HOSTILE: HOSTILE, "n": [HOSTILE]}, **{HOSTILE: HOSTILE})
    path = out / "manifest.jsonl"
    path.write_text(path.read_text().replace('"dataset": "made"', f'"dataset": {json.dumps("@MAIN@" + HOSTILE)}'))
    return out


def test_words_stay_words(tmp_path: Path) -> None:
    """No key, label, message, reason, setting or name adds an element, and invisible characters are spelt out."""
    key = re.sub(r"[./]", "", HOSTILE)
    bad, good = (report.report(hostile(tmp_path / str(n), key_)).page for n, key_ in enumerate((key, "a")))
    assert Elements(bad).tags == Elements(good).tags
    assert "@MAIN@&lt;/script&gt;&lt;img src=x" in bad
    assert "\\u202e\\x1b[31m" in bad
    assert "\u202e" not in bad
    assert "\x1b" not in bad
    assert "<img src=x" not in bad


def test_names_of_two_directions_do_not_change_places(tmp_path: Path) -> None:
    """A key and the labels after it are isolated, so that names from right to left keep their order."""
    clips = [
        made_shards.Made("שלום/a", word="שלום", speaker="דן"),
        made_shards.Made("שלום/b", word="שלום", crop="no_face"),
    ]
    made_shards.write(tmp_path, clips)
    page = report.report(tmp_path).page
    assert '<bdi dir="ltr">שלום/a</bdi> <span class="note"><bdi>שלום</bdi>, <bdi>דן</bdi></span>' in page
    assert page.count('<bdi dir="ltr">שלום/b</bdi> <span class="note"><bdi>שלום</bdi></span>') >= 1


def test_words_that_are_not_unicode(out: Path) -> None:
    """Lone surrogates, as in names that are not UTF-8, can be written."""
    fail(
        out,
        "crop",
        "train-000000",
        ok(out / "crop/train-000000.json")[0]["key"],
        reason="error",
        message="a\udcff\ud800",
    )
    path = out / "crop/train-000000.json"
    path.write_text(path.read_text().replace("a\\\\udcff", "a\\udcff"))
    assert report.report(out).page.encode()


@pytest.mark.parametrize("video", ["../secret.mp4", "/etc/secret.mp4"])
def test_a_plan_cannot_have_other_files_opened(tmp_path: Path, video: str) -> None:
    """A manifest that names a video outside the data set's root is refused."""
    line = json.dumps({"key": "a", "video": video, "split": "train"})
    (tmp_path / "manifest.jsonl").write_text('{"avprep_manifest": 1, "dataset": "x", "root": "/x"}\n' + line)
    with pytest.raises(ManifestError, match="video must be a path below the root"):
        excerpts.read_labels(tmp_path, {"a"})


def test_a_video_whose_name_is_impossible_has_no_picture(tmp_path: Path) -> None:
    """A name that no file can have only loses the image."""
    (why,) = excerpts.stills(tmp_path, {"a": excerpts.Label("a\0b")}, 160).values()
    assert isinstance(why, str)


def test_the_page_runs_no_script_but_its_own(whole_page: str) -> None:
    """The page's policy allows nothing from outside and one script, by digest; its text has no address."""
    page = whole_page
    policy = re.search('Content-Security-Policy" content="(.+?)"', page)
    scripts = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    assert policy
    assert len(scripts) == page.count("<script") == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert policy[1].startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}';" in policy[1]
    assert not re.search(r"https?://|src=\"(?!data:)|url\(", page)


# Large runs


def ok(path: Path) -> list[dict[str, Any]]:
    """Return the clips of a sidecar that are ok."""
    return [clip for clip in json.loads(path.read_text())["clips"] if clip["state"] == "ok"]


def sidecars(out: Path, clips: dict[str, int], shard_size: int = 100) -> Path:
    """Write a run of both columns, a tenth of it failed, with sparse tars; the videos are missing."""
    plan = manifest.Manifest(
        "made",
        out / "nowhere",
        tuple(
            manifest.Clip(f"{split}/{n:06d}", f"{split}/{n}.mp4", split) for split in clips for n in range(clips[split])
        ),
    )
    random = np.random.default_rng(0)
    for column in schema.COLUMNS:
        (out / column).mkdir(parents=True)
        fingerprint = {"manifest": plan.digest(), "clips": plan.counts(), "shard_size": shard_size}
        (out / column / "run.json").write_text(json.dumps(fingerprint))
        for name, rows in plan.shards(shard_size):
            records: list[dict[str, Any]] = []
            for n, clip in enumerate(rows):
                if column == "crop" and n % 10 == 0:
                    reason = list(REASONS)[(n // 10) % len(REASONS)]
                    records.append(
                        {"key": clip.key, "state": "failed", "reason": reason, "message": f"{clip.video}: no"}
                    )
                    continue
                figures = {"face_size": 100 + 20 * random.normal(), "score": random.random(), "jitter": random.gamma(2)}
                sounds = {"n_valid": 25, "silent_share": random.random()}
                own = {name: float(value) for name, value in (figures if column == "crop" else sounds).items()}
                records.append({"key": clip.key, "state": "ok", "n_frames": 29, **own, "bytes": 512})
            head = {
                "avprep_sidecar": 1, "column": column, "shard": name, "sha256": "0" * 64, "bytes": 102_400,
                "counts": shards.counts(records), "timings": {"clip_seconds": 1.0},
            }  # fmt: skip
            shards.sidecar_path(out, column, name).write_bytes(shards.render_sidecar(head, records))
            with shards.tar_path(out, column, name).open("wb") as tar:
                tar.truncate(102_400)
    (out / "manifest.jsonl").write_text(manifest.render(plan))
    return out


def noise(frame: int) -> Any:
    """Return an image that JPEG cannot compress well."""
    return np.random.default_rng(frame).integers(0, 255, (256, 256, 3)).astype(np.uint8)


def with_offset(key: str) -> made_shards.Members:
    """Return the members of an mfcc sample whose audio begins before the clip."""
    facts = {"key": key, "n_frames": made_shards.N_FRAMES, "start_offset": -0.08}
    return made_shards.mfcc_members(key) | {"audio.json": schema.encode_json(facts)}


@pytest.mark.slow
def test_ten_thousand_clips(tmp_path: Path, lrw: Path) -> None:
    """Ten thousand clips, two shards of them with images, take less than a minute and 15 MB; samples are named."""
    out = sidecars(tmp_path / "out", {"train": 9800, "val": 100, "test": 100})
    for split in ("val", "test"):
        clips = [made_shards.Made(f"{split}/{n:06d}", split=split) for n in range(100)]
        for column, members in (
            ("crop", lambda key: made_shards.crop_members(key, picture=noise)),
            ("mfcc", with_offset),
        ):
            data = [(clip, made_shards.stretch(tmp_path, clip.key, members(clip.key))) for clip in clips]
            made_shards.write_shard(out, column, f"{split}-000000", data)
    path = out / "manifest.jsonl"
    videos = sorted((lrw / "corpus").rglob("*.mp4"))
    text = path.read_text().replace(str(out / "nowhere"), str(lrw / "corpus"))
    for n in range(0, 9800, 10):
        text = text.replace(f'"train/{n}.mp4"', json.dumps(str(videos[n // 10 % 6].relative_to(lrw / "corpus"))))
    path.write_text(text)
    begin = time.monotonic()
    made = report.report(out)
    assert time.monotonic() - begin < 60
    assert len(made.page.encode()) < 15e6
    assert (made.n_clips, made.n_failures) == (10_000, 980)
    assert made.page.count('class="shots"') >= 24
    assert "2,000 of 10,000 clips were drawn at random" in words(made.page, "figures")
    assert "12 of 100 clips, drawn at random" in words(made.page, "sheets")
    assert "looked for in 200 of these 980 clips" in words(made.page, "failures")
    assert made.page.count('alt="first picture of the video"') > 100


def test_more_failures_than_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All failures are counted; the list keeps all of the rare reasons, and the page says that it is a selection."""
    monkeypatch.setattr(findings, "LISTED", 30)
    out = sidecars(tmp_path, {"train": 1000, "val": 0, "test": 0})
    fail(out, "mfcc", "train-000000", "train/000001", reason="no_audio", message="silent")
    made = report.report(out)
    assert made.n_failures == 101
    assert "30 of 101 failures are listed" in words(made.page, "failures")
    assert made.page.count('<tr role="row" data-') == 30
    assert made.page.count('data-reason="no_audio"') >= 2


# The command


def call(*arguments: object) -> Result:
    """Run the command in this process, errors as `avprep` shows them."""
    group = Commands("avprep", commands={"report": look.report})
    return CliRunner().invoke(group, ["report", *map(str, arguments)])


def test_the_command_writes_the_page(whole: Path, tmp_path: Path) -> None:
    """The command writes the library's page, and one line sums it up."""
    path = tmp_path / "new" / "report.html"
    result = call(whole, "-o", path, "--seed", 2)
    assert result.exit_code == 0, result.output
    assert path.read_text(encoding="utf-8") == report.report(whole, seed=2).page
    assert re.fullmatch(
        r".*report.html: 5 clips ok in at least one column, 2 failures, 0 problems, \d\.\d MB\n", result.stdout
    )


def test_the_command_ends_in_one_line(tmp_path: Path, whole: Path) -> None:
    """A folder without a run, and a page that cannot be written, give one line and exit status 1."""
    (tmp_path / "file").touch()
    for arguments, part in (
        ((tmp_path, "-o", tmp_path / "x.html"), "no run was ever started there"),
        ((whole, "-o", tmp_path / "file" / "x.html"), "cannot write"),
    ):
        result = call(*arguments)
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1
        assert part in result.stderr


# The page in a browser


class Visit:
    """A page in a browser, with its network requests and its complaints."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        page.set_default_timeout(20_000)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(address)

    def column(self, name: str) -> list[str]:
        """Return the text of a column of the failures that are shown."""
        return [str(words_) for words_ in self.page.locator(f'#failures td[data-label="{name}"]').all_inner_texts()]

    def head(self, name: str) -> Any:
        """Return a heading of the table of failures."""
        return self.page.locator("#failures").get_by_role("columnheader", name=name)


@pytest.fixture(scope="module")
def failures_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run of 1,200 clips, 120 of which failed; the key of one is hostile."""
    folder = tmp_path_factory.mktemp("page")
    out = sidecars(folder / "out", {"train": 1000, "val": 100, "test": 100})
    fail(out, "mfcc", "val-000000", "val/000001", reason="no_audio", message=HOSTILE)
    path = folder / "report.html"
    path.write_text(report.report(out).page, encoding="utf-8")
    return path


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visit]]:
    """A function that opens a page in a browser."""
    contexts = []

    def open_page(path: Path, width: int = 1280, scheme: Any = "light") -> Visit:
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        return Visit(context.new_page(), path.as_uri())

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_all_fits_the_screen(
    visit: Callable[..., Visit], whole_page: str, failures_page: Path, tmp_path: Path, width: int, scheme: str
) -> None:
    """Nothing is wider than the screen, there are no complaints and no network requests, and the page opens at once."""
    (tmp_path / "whole.html").write_text(whole_page, encoding="utf-8")
    for path in (tmp_path / "whole.html", failures_page):
        here = visit(path, width, scheme)
        loaded = here.page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
        assert 0 < loaded < 2000
        for summary in here.page.locator("summary").all()[1:]:
            summary.click()
        assert here.page.evaluate("document.documentElement.scrollWidth") <= width
        assert here.complaints == []
        assert [url for url in here.requests if not url.startswith("data:")] == [here.page.url]
        broken = "[...document.images].filter((image) => image.complete && !image.naturalWidth).length"
        assert here.page.evaluate(broken) == 0


def test_failures_are_sorted_by_a_click(visit: Callable[..., Visit], failures_page: Path) -> None:
    """A heading sorts ascending, then descending, shows it, and takes over the mark from the previous heading."""
    here = visit(failures_page)
    for name in ("Message", "Reason", "Clip"):
        here.head(name).get_by_role("button").click()
        assert here.head(name).get_attribute("aria-sort") == "ascending"
        shown = here.column(name)
        assert len(shown) == report.ROWS
        here.head(name).get_by_role("button").click()
        assert here.head(name).get_attribute("aria-sort") == "descending"
        assert here.column(name) != shown
        assert here.page.locator("#failures th[aria-sort=none]").count() == 4
    clips = [words_.split()[0] for words_ in here.column("Clip")]
    assert clips == sorted(clips, reverse=True)
    assert clips[0] == "val/000090"


def test_the_filters_lie_on_one_line(visit: Callable[..., Visit], failures_page: Path) -> None:
    """The search box and the choices next to it end at one height, and the box's outline is not cut off."""
    here = visit(failures_page)
    boxes = [control.bounding_box() for control in here.page.locator(".filters input, .filters select").all()]
    ends = [box["y"] + box["height"] for box in boxes if box is not None]
    assert len(ends) == 4
    assert max(ends) - min(ends) < 1
    overflow = "getComputedStyle(document.querySelector('.filters label')).overflowX"
    assert here.page.evaluate(overflow) == "visible"


def test_failures_are_filtered(visit: Callable[..., Visit], failures_page: Path) -> None:
    """Text, column, split and reason filter the rows together, and the count follows."""
    here = visit(failures_page)
    status = here.page.locator("#failures").get_by_role("status")
    assert status.inner_text() == "50 of 121 shown"
    here.page.get_by_label("Split").select_option("val")
    assert set(here.column("Split")) == {"val"}
    assert status.inner_text() == "11 of 11 shown, 121 without the filter"
    here.page.get_by_label("Column").select_option("mfcc")
    assert [words_.split()[0] for words_ in here.column("Clip")] == ["val/000001"]
    assert here.column("Message") == ["</script><img src=x onerror=alert(1)>\"'&\\u202e\\x1b[31m"]
    here.page.get_by_label("Column").select_option("all")
    here.page.get_by_label("Split").select_option("all")
    here.page.get_by_label("Reason").select_option("too_long")
    assert {words_.split()[0] for words_ in here.column("Reason")} == {"too_long"}
    here.page.get_by_label("Reason").select_option("all")
    here.page.get_by_label("Filter by words").fill("DIED 000090")
    assert [words_.split()[0] for words_ in here.column("Clip")] == [
        clip for clip in ("train/000090", "val/000090") if clip in " ".join(here.column("Clip"))
    ]
    here.page.get_by_label("Filter by words").fill("nothing has these words")
    assert here.column("Clip") == []
    assert status.inner_text() == "0 of 0 shown, 121 without the filter"
    assert here.complaints == []


def test_more_rows_are_shown_on_demand(visit: Callable[..., Visit], failures_page: Path) -> None:
    """The button shows more rows until all are shown."""
    here = visit(failures_page)
    more = here.page.locator("#failures button.more")
    for shown, left in ((50, "Show 50 more"), (100, "Show 21 more")):
        assert len(here.column("Clip")) == shown
        assert more.inner_text() == left
        more.click()
    assert len(here.column("Clip")) == 121
    assert more.is_hidden()


def test_the_keyboard_is_enough(visit: Callable[..., Visit], failures_page: Path) -> None:
    """Filters, sorting and worst clips can be reached and used without a mouse."""
    here = visit(failures_page)
    keys = here.page.keyboard
    here.page.get_by_label("Filter by words").focus()
    keys.type("timeout")
    for _ in range(4):
        keys.press("Tab")
    assert here.page.evaluate("document.activeElement.textContent") == "Clip"
    keys.press("Enter")
    assert here.head("Clip").get_attribute("aria-sort") == "ascending"
    summary = here.page.locator("summary").nth(1)
    summary.focus()
    keys.press("Enter")
    assert here.page.locator("details").nth(1).get_attribute("open") is not None


def test_the_page_reaches_no_network(visit: Callable[..., Visit], failures_page: Path) -> None:
    """Even a script in the page cannot send anything anywhere, and no other script runs."""
    here = visit(failures_page)
    sent = "fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => error.name)"
    assert here.page.evaluate(sent) == "TypeError"
    here.page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))"
    )
    assert here.page.evaluate("window.ran") is None
    assert any("Content Security Policy" in complaint for complaint in here.complaints)


def test_without_scripts_everything_is_there(browser: Browser, failures_page: Path) -> None:
    """With scripts disabled, all failures are listed."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(failures_page.as_uri())
    assert page.locator("#failures tbody tr").count() == 121
    assert page.locator("#failures form").is_hidden()
    context.close()
