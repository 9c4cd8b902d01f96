"""The page that compares two runs: what changed, how far crops differ, and nothing to fetch for the browser."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import made_shards
import numpy as np
import pytest

from avprep import manifest, shards
from avprep.errors import RunError, ShardError
from avprep.faces import align
from avprep.manifest import Clip, Manifest
from avprep.quality.compare import page, sample
from avprep.quality.distances import MEASURES, NAMES, Cropped, distances, summary
from avprep.runs.run import run
from avprep.stages import Align, CropSettings, CropStage

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HOSTILE = "<script>alert(1)</script>&\"'\u202e"


def crop(lrw: Path, out: Path, kind: Align, shard_size: int) -> Path:
    """Crop the corpus with the detector that needs no weights."""
    plan = manifest.read(lrw / "plan.jsonl")
    run(CropStage(plan.root, CropSettings(align=kind)), plan, out, jobs=1, shard_size=shard_size)
    return out


@pytest.fixture(scope="module")
def runs(lrw: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs of the corpus, smooth and with one transform per clip, in shards of different sizes; read-only."""
    folder = tmp_path_factory.mktemp("runs")
    return crop(lrw, folder / "smooth", "smooth", 2), crop(lrw, folder / "fixed", "per-clip", 500)


@pytest.fixture(scope="module")
def text(runs: tuple[Path, Path]) -> str:
    """Their page."""
    return page(*runs)


def face(points: Any, affine: Any, **facts: object) -> Cropped:
    """Return the arrays and facts of a crop sample."""
    return Cropped(np.float32(points), np.float32(affine), facts, (0, 0, 0), (b"", b"", b""))


def cells(text: str, title: str) -> list[str]:
    """Return the numbers in the row of a measure."""
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', text)
    row = next(cells for head, cells in rows if html.unescape(head).startswith(title))
    return re.findall(r"<td>(?:<b>)?(.*?)(?:</b>)?</td>", row)


class TestDistances:
    """The distances measured for one clip."""

    points = np.tile(np.array([[60, 80], [120, 80], [90, 110], [70, 140], [110, 140]], float), (6, 1, 1))

    def test_a_shift_of_the_crop_is_found(self) -> None:
        """If B's crop shows the face 3 px further right and 4 px further down, the crops are 5 px apart."""
        affine = align.similarity(self.points)
        moved = affine.copy()
        moved[:, 0, 2] += 3
        moved[:, 1, 2] += 4
        found = distances(face(self.points, affine), face(self.points, moved))
        expected = {"crop": 5, "right": 3, "down": 4, "zoom": 0, "points_px": 0, "against": 0, "shake_B": 0}
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, abs=1e-3), name

    def test_points_are_compared_where_both_have_them(self) -> None:
        """The nose is left out if a detector has none; the fraction refers to the mean of both face sizes."""
        other = self.points + np.array([0, 2])
        other[:, 3:] += (0, 4)
        other[:, 2] = np.nan
        affine = align.similarity(self.points)
        found = distances(face(self.points, affine, face_size=80), face(other, affine, face_size=120, jitter=0.25))
        assert found["eyes"] == pytest.approx(2)
        assert found["mouth corners"] == pytest.approx(6)
        assert np.isnan(found["nose"])
        assert found["points_px"] == pytest.approx(4)
        assert found["points_share"] == pytest.approx(4)
        assert (found["face_A"], found["face_B"], found["jitter_B"]) == (80, 120, 0.25)
        assert np.isnan(found["jitter_A"])
        assert found.keys() == MEASURES.keys()

    def test_the_larger_face_is_b_s(self) -> None:
        """A transform that enlarges everything by 10 % about the eyes is reported as doing so."""
        affine = align.similarity(self.points)
        found = distances(face(self.points, affine), face(self.points, 1.1 * affine))
        assert found["zoom"] == pytest.approx(10, abs=1e-3)

    def test_shake_tells_the_restless_run(self) -> None:
        """A crop that steps to and fro by a pixel has the second difference as shake; steady motion has none."""
        gliding = self.points + np.arange(6)[:, None, None] * (1.0, 0.5)
        shaking = gliding + np.array([0, 1] * 3)[:, None, None] * (1.0, 0.0)
        found = distances(face(gliding, align.similarity(gliding)), face(gliding, align.similarity(shaking)))
        scale = align.scale(align.similarity(gliding))[0]
        assert found["shake_A"] == pytest.approx(0, abs=1e-3)
        assert found["shake_B"] == pytest.approx(2 * scale, rel=1e-3)
        assert found["against"] == pytest.approx(scale, rel=1e-3)

    def test_a_transform_to_a_single_point_is_no_error(self) -> None:
        """A hostile shard's singular transform gives numbers, not a traceback."""
        found = distances(
            face(self.points, np.zeros((6, 2, 3))), face(self.points[:1].repeat(6, 0), np.zeros((6, 2, 3)))
        )
        assert all(np.isfinite(found[name]) for name in ("crop", "zoom", "shake_A"))


class TestSample:
    """The choice of clips to compare."""

    plan = Manifest("made", Path("/nowhere"), tuple(Clip(f"c{n:05d}", "v.mp4", "train") for n in range(3000)))

    def test_it_is_drawn_from_few_shards(self) -> None:
        """The requested number of clips comes in the manifest's order, from no more shards than a fair sample needs."""
        ok = {clip.key for clip in self.plan.clips}
        keys, n_shards = sample(self.plan, 100, ok, 0, 400)
        assert len(keys) == 400
        assert n_shards == len({key[:4] for key in keys}) == 8  # shards of 100 begin with the same three digits
        assert keys == sorted(keys)
        assert sample(self.plan, 100, ok, 0, 400) == (keys, 8)
        assert sample(self.plan, 100, ok, 1, 400)[0] != keys

    def test_small_shards_give_as_many_clips(self) -> None:
        """Shards of two clips are used until there are enough clips, or all clips if there are no more."""
        ok = {clip.key for clip in self.plan.clips}
        assert len(sample(self.plan, 2, ok, 0, 400)[0]) == 400
        few = set(sorted(ok)[::300])
        assert set(sample(self.plan, 2, few, 0, 400)[0]) == few


def test_two_ways_of_aligning_are_compared(runs: tuple[Path, Path], text: str) -> None:
    """The page names both runs, the settings that differ, no changed state, and the run whose transforms move."""
    for out in runs:
        assert str(out) in text
    assert "<td>smooth</td><td>per-clip</td>" in text
    assert "<td>2</td><td>500</td>" in text
    assert "<td>unreadable</td><td>unreadable</td><td>1</td>" in text
    assert "None: every clip that both have finished ended alike." in text
    assert "All 5 clips that are ok in both runs." in text
    following, fixed = (float(cells(text, f"shake, {name}")[2]) for name in NAMES)
    assert following > fixed == 0
    assert cells(text, "… of the nose") == ["–"] * 6 + ["0"]
    assert 2 < float(cells(text, "distance between crops")[2]) < 6  # as far as the head moves
    assert text.count("<image ") == 5 * 6
    assert text.count("<figure>") == 4
    assert len(text) < 400_000


def test_numbers_are_the_shards_own(runs: tuple[Path, Path], text: str) -> None:
    """Face size, jitter and slip come from the sidecars, if there are any; the medians are numpy's."""
    for name, out in zip(NAMES, runs, strict=True):
        clips = [
            clip
            for path in sorted((out / "crop").glob("*-0*.json"))
            for clip in json.loads(path.read_text())["clips"]
            if clip["state"] == "ok"
        ]
        assert float(cells(text, f"face size, {name}")[2]) == pytest.approx(
            np.median([clip["face_size"] for clip in clips]), abs=0.051
        )
        for figure in ("jitter", "slip"):
            median = np.median([clip[figure] for clip in clips])
            assert float(cells(text, f"{figure}, {name}")[2]) == pytest.approx(median, abs=0.00051)
    n, values = summary([{"crop": float(n)} for n in range(101)] + [{"crop": float("nan")}], "crop")
    assert (n, values) == (101, [5, 25, 50, 75, 95, 100])


def test_the_same_runs_give_the_same_bytes(runs: tuple[Path, Path], text: str) -> None:
    """A page has no time stamp and nothing random; another seed gives another sample of few clips."""
    assert page(*runs) == text
    assert "2 clips of the 5 that are ok in both runs, drawn with seed 3" in page(*runs, seed=3, clips=2)


def test_a_run_compared_with_itself_differs_in_nothing(runs: tuple[Path, Path]) -> None:
    """No settings, no states, no distances, and no clips that differ most."""
    text = page(runs[0], runs[0])
    assert "None: the same settings and versions." in text
    assert float(cells(text, "distance between crops")[5]) == 0
    assert float(cells(text, "B's face is larger by")[2]) == 0
    assert '<p class="note">0 crop px in 5 clips</p>' in text
    assert "All of these crops have the same place in both runs." in text
    assert "<image " not in text


def altered(out: Path, folder: Path, change: Any) -> Path:
    """Copy a run and change the clips of its sidecars."""
    copy = folder / "altered"
    shutil.copytree(out, copy)
    for path in (copy / "crop").glob("*-0*.json"):
        sidecar = json.loads(path.read_text())
        clips = [change(clip) for clip in sidecar.pop("clips")]
        path.write_bytes(shards.render_sidecar(sidecar, clips))
    return copy


def test_clips_that_changed_state_are_listed(runs: tuple[Path, Path], tmp_path: Path) -> None:
    """A clip that failed in one run only is in the table with its reason and escaped message, and has no distances."""

    def change(clip: dict[str, Any]) -> dict[str, Any]:
        if clip["key"] != "ABOUT/val/ABOUT_00001":
            return clip
        return {"key": clip["key"], "state": "failed", "reason": "face_lost", "message": HOSTILE}

    text = page(runs[0], altered(runs[1], tmp_path, change))
    row = next(row for row in re.findall("<tr>.*?</tr>", text) if "ABOUT/val/ABOUT_00001</th>" in row)
    assert "<td>ok</td><td><b>face_lost</b><br>&lt;script&gt;alert(1)&lt;/script&gt;&amp;&#34;&#39;·</td>" in row
    assert "1 clip changed." in text
    assert "All 4 clips that are ok in both runs." in text
    assert "<script" not in text


def test_unfinished_shards_are_counted_as_missing(runs: tuple[Path, Path], tmp_path: Path) -> None:
    """A clip whose shard is not finished has not changed; it is counted, not listed."""
    copy = altered(runs[0], tmp_path, lambda clip: clip)
    for path in (copy / "crop").glob("val-*"):
        path.unlink()
    text = page(copy, runs[1])
    assert "2 missing" in text
    assert "<td>missing</td><td>ok</td><td>2</td>" in text
    assert "None: every clip that both have finished ended alike." in text


def test_damage_is_one_line(runs: tuple[Path, Path], tmp_path: Path) -> None:
    """A shard without the content that its sidecar lists is named."""
    copy = altered(runs[0], tmp_path, lambda clip: clip)
    shutil.copy(copy / "crop/val-000000.tar", copy / "crop/test-000000.tar")
    with pytest.raises(ShardError, match=r"test-000000\.tar: .*_00001"):
        page(copy, runs[1])


def test_other_manifests_are_refused(runs: tuple[Path, Path], lrw: Path, tmp_path: Path) -> None:
    """Runs of different manifests cannot be compared: one line names both, as it names a folder without a run."""
    plan = manifest.read(lrw / "plan.jsonl")
    other = dataclasses.replace(plan, clips=plan.clips[:-1])
    (tmp_path / "manifest.jsonl").write_text(manifest.render(other))
    with pytest.raises(RunError, match="different manifests") as error:
        page(runs[0], tmp_path)
    assert str(runs[0]) in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    (tmp_path / "manifest.jsonl").write_text(manifest.render(plan))
    with pytest.raises(RunError, match="no column was ever started"):
        page(runs[0], tmp_path)
    with pytest.raises(RunError, match="no run was ever started"):
        page(tmp_path / "nowhere", runs[0])


def test_made_shards_with_both_columns(tmp_path: Path) -> None:
    """Runs of both columns have a table of states for each; flat crops without a face raise no error."""
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        made_shards.write(folder, made_shards.a_dozen())
        made_shards.write_runs(folder, shard_size=4)
    text = page(*folders)
    assert "Clips that changed state: crop" in text
    assert "Clips that changed state: mfcc" in text


# The page in a browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_and_asks_for_nothing(
    browser: Browser, text: str, tmp_path: Path, width: int, scheme: Any
) -> None:
    """At both widths nothing scrolls sideways, all images load, and the browser reports and fetches nothing."""
    path = tmp_path / "compare.html"
    path.write_text(text, encoding="utf-8")
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    try:
        shown = context.new_page()
        complaints: list[str] = []
        requests: list[str] = []
        shown.on("console", lambda message: complaints.append(message.text))
        shown.on("pageerror", lambda error: complaints.append(str(error)))
        shown.on("request", lambda request: requests.append(request.url))
        shown.goto(path.as_uri())
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        assert shown.evaluate("document.documentElement.scrollHeight") > 1500
        paper = shown.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(22, 25, 29)")
        first = shown.get_by_role("img", name="A, frame 0").first
        shades = np.unique(np.frombuffer(first.screenshot(), np.uint8))
        assert shades.size > 200  # an image of one colour compresses to next to nothing
        assert complaints == []
        assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
    finally:
        context.close()
