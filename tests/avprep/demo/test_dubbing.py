"""Synthetic people who say what real clips say: mouth movement, audio, and what is refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import assert_one_line, call
from hypothesis import given
from hypothesis import strategies as st

import avprep
from avprep import manifest
from avprep.demo import dubbing, speech, synthetic
from avprep.errors import AvprepError
from avprep.media.audio import read_sound
from avprep.media.video import Frames

pytestmark = pytest.mark.usefixtures("torch_and_opencv_in_one_thread")


@pytest.fixture(scope="module")
def dubbed(marked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """These clips said by ten synthetic people, as the command makes them; read-only."""
    root = tmp_path_factory.mktemp("dubbed") / "new"
    result = call("dub", marked, root, "--speakers", "10", "--seed", "3", "-j", "1", "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert (facts["clips"], facts["splits"]) == (6, {"train": 2, "val": 2, "test": 2})
    return root


def test_the_plan_keeps_splits_and_labels_and_names_the_drawn_people(marked: Path, dubbed: Path) -> None:
    """The new manifest has each clip once, with the same split and word; no speaker of val or test is in train."""
    old, new = manifest.read(marked / "manifest.jsonl"), manifest.read(dubbed / "manifest.jsonl")
    assert sorted((clip.split, clip.word) for clip in new.clips) == sorted(
        (clip.split, clip.word) for clip in old.clips
    )
    assert {clip.key.partition("/")[2] for clip in new.clips} == {clip.key for clip in old.clips}
    speakers = {split: {clip.speaker for clip in new.split(split)} for split in manifest.SPLITS}
    assert not (speakers["train"] & (speakers["val"] | speakers["test"]))
    assert all((dubbed / clip.video).is_file() for clip in new.clips)


def test_mouths_move_as_those_of_the_source(made_corpus: Path, dubbed: Path) -> None:
    """The region around the synthetic mouth is dark in the frames in which the source's jaw is open."""
    likeness = []
    for clip in manifest.read(dubbed / "manifest.jsonl").clips:
        source = (made_corpus / clip.key.partition("/")[2]).with_suffix(".txt").read_text(encoding="utf-8")
        person = speech.speaker(0, int(source.split("Speaker: s")[1]))
        jaw = speech.perform(str(clip.word), person, 0).lips[:, 0]
        frames = np.stack([frame.rgb() for frame in Frames(dubbed / clip.video)])
        mouth = frames[:, 150:186, 106:150].mean(axis=3)
        dark = (mouth < 0.55 * np.median(mouth)).mean(axis=(1, 2))
        likeness.append(np.corrcoef(jaw, dark)[0, 1])
    assert np.median(likeness) > 0.8, likeness


def test_the_sound_is_that_of_the_source_at_the_same_time(marked: Path, dubbed: Path) -> None:
    """The audio of a dubbed clip is that of its source, to the sample."""
    plan = manifest.read(marked / "manifest.jsonl")
    for clip in manifest.read(dubbed / "manifest.jsonl").clips:
        source = next(one for one in plan.clips if one.key == clip.key.partition("/")[2])
        before, after = (read_sound(path) for path in (plan.root / source.video, dubbed / clip.video))
        assert after.n_frames == before.n_frames == 29
        count = min(len(before.samples), len(after.samples))
        x, y = (np.float64(sound.samples[:count]) for sound in (before, after))
        lags = [np.corrcoef(x[100:-100], np.roll(y, lag)[100:-100])[0, 1] for lag in range(-8, 9)]
        assert np.argmax(lags) == 8
        assert lags[8] > 0.98


def test_the_sound_is_delayed_as_in_the_windows_of_the_source(marked: Path, tmp_path: Path) -> None:
    """If the windows of OUT are of delayed audio, a dubbed clip has the same delay: its mouth is that of the video."""
    out, root = tmp_path / "out", tmp_path / "new"
    shutil.copytree(marked, out)
    plan = manifest.read(out / "manifest.jsonl")
    avprep.mfcc(plan, out, jobs=1, audio_shift_ms=200)
    (clip,) = dubbing.dub(out, root, speakers=1, clips=1).split("train")
    source = next(one for one in plan.clips if one.key == clip.key.partition("/")[2])
    before, after = (np.float64(read_sound(path).beside(29)) for path in (plan.root / source.video, root / clip.video))
    lags = [np.corrcoef(before[:15_000], after[lag:][:15_000])[0, 1] for lag in range(0, 3521, 320)]
    assert np.argmax(lags) == 3200 // 320


def test_the_number_of_workers_and_interruptions_change_no_byte(marked: Path, dubbed: Path, tmp_path: Path) -> None:
    """A corpus that was left incomplete and is finished by two processes is byte-identical."""
    again = tmp_path / "again"
    shutil.copytree(dubbed, again)
    (again / "manifest.jsonl").unlink()
    with pytest.raises(AvprepError, match="holds other files"):
        dubbing.dub(marked, again, speakers=10, seed=3)
    shutil.rmtree(again)
    dubbing.dub(marked, again, speakers=10, seed=3, jobs=1)
    videos = sorted(again.rglob("*.mp4"))
    videos[0].unlink()
    videos[3].unlink()
    dubbing.dub(marked, again, speakers=10, seed=3, jobs=2)
    for path in videos:
        assert path.read_bytes() == (dubbed / path.relative_to(again)).read_bytes()


def test_another_corpus_is_not_mixed_in(marked: Path, dubbed: Path) -> None:
    """Other settings in the same folder are refused in one line, and nothing is written."""
    before = sorted(dubbed.rglob("*"))
    assert_one_line(call("dub", marked, dubbed, "--speakers", "11", "--seed", "3"), 1, "manifest.jsonl", "empty folder")
    assert sorted(dubbed.rglob("*")) == before


def test_people_of_another_seed_are_not_mixed_in(marked: Path, tmp_path: Path) -> None:
    """Speakers have the same numbers with every seed, but other faces: another seed in the same folder is refused."""
    root = tmp_path / "two"
    dubbing.dub(marked, root, speakers=2, clips=1, seed=0)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    next(root.rglob("*.mp4")).unlink()
    assert_one_line(call("dub", marked, root, "--speakers", "2", "--clips", "1", "--seed", "5"), 1, "empty folder")
    dubbing.dub(marked, root, speakers=2, clips=1, seed=0)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_audio_with_other_delays_is_not_mixed_in(marked: Path, tmp_path: Path) -> None:
    """If the windows of OUT are moved before a call is resumed, it is refused, for the finished videos were not."""
    out, root = tmp_path / "out", tmp_path / "new"
    shutil.copytree(marked, out)
    dubbing.dub(out, root, speakers=2, clips=1)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    shutil.rmtree(out / "mfcc", ignore_errors=True)
    avprep.mfcc(manifest.read(out / "manifest.jsonl"), out, jobs=1, audio_shift_ms=200)
    call_again = ("dub", out, root, "--speakers", "2", "--clips", "1")
    assert_one_line(call(*call_again), 1, "manifest.jsonl", "audio", "empty folder")
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    shutil.rmtree(out / "mfcc")
    dubbing.dub(out, root, speakers=2, clips=1)  # the same audio again


def test_clips_moved_one_by_one_in_the_same_process(marked: Path, tmp_path: Path) -> None:
    """If the delay of a single clip changes between two calls, the second one reads the new delay, and is refused."""
    out, root = tmp_path / "out", tmp_path / "new"
    shutil.copytree(marked, out)
    avprep.mfcc(manifest.read(out / "manifest.jsonl"), out, jobs=1)
    run = out / "mfcc" / "run.json"
    made = json.loads(run.read_text())
    run.write_text(json.dumps(made | {"settings": made["settings"] | {"audio_offset": "sync", "sync": "a"}}))
    dubbing.dub(out, root, speakers=2, clips=1)
    sidecar = out / "mfcc" / "train-000000.json"
    told = json.loads(sidecar.read_text())
    told["clips"][0]["audio_offset_ms"] = 80.0
    sidecar.write_text(json.dumps(told))
    with pytest.raises(
        AvprepError, match=r"manifest\.jsonl is of other clips, audio or settings: use an empty folder$"
    ):
        dubbing.dub(out, root, speakers=2, clips=1)


def test_crops_that_are_not_finished_are_told(marked: Path, tmp_path: Path) -> None:
    """For an OUT with an unfinished shard of crops, the error names the commands that finish and show it."""
    out = tmp_path / "out"
    shutil.copytree(marked, out)
    (out / "crop" / "val-000000.json").unlink()
    result = call("dub", out, tmp_path / "new")
    assert_one_line(result, 1, "val-000000.json: is not there: run `avprep crop` first", f"avprep status {out}")
    assert not (tmp_path / "new").exists()


def test_a_plan_that_does_not_fit_on_the_disk_leaves_nothing(
    marked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the manifest cannot be written, the call fails and leaves an empty folder."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(AvprepError, match="No space left"):
            dubbing.dub(marked, tmp_path / "new", speakers=2, clips=1)
    assert not list((tmp_path / "new").iterdir())


def test_crops_without_landmarks_are_told(marked: Path, tmp_path: Path) -> None:
    """For an OUT whose detector gives no landmarks, the error names the detectors that do."""
    plan = replace(manifest.read(marked / "manifest.jsonl"), clips=manifest.read(marked / "manifest.jsonl").clips[:1])
    avprep.crop(plan, tmp_path / "out", detector="opencv", jobs=1)
    assert_one_line(call("dub", tmp_path / "out", tmp_path / "new"), 1, "landmarks", "--detector dlib")
    assert not (tmp_path / "new").exists()


def test_a_source_that_is_gone_is_named(marked: Path, tmp_path: Path) -> None:
    """The error for a clip whose video was moved away names the clip in one line."""
    out = tmp_path / "out"
    shutil.copytree(marked, out)
    plan = replace(manifest.read(out / "manifest.jsonl"), root=tmp_path / "moved")
    (out / "manifest.jsonl").write_text(manifest.render(plan), encoding="utf-8")
    assert_one_line(call("dub", out, tmp_path / "new", "-j", "1"), 1, plan.clips[0].key.partition("/")[0], "moved")


def test_a_key_that_is_longer_than_a_name_of_a_file(tmp_path: Path) -> None:
    """A very long key with many blanks gives a valid file name; different keys give different videos."""
    keys = [manifest.make_key(f"talks/{'My talk (1) ' * 19}{n}") for n in range(2)] + ["talks/short"]
    parts = [dubbing._Part(manifest.Clip(key, "x.mp4", "train"), tmp_path, 0, np.zeros((29, 5))) for key in keys]
    videos = [part.row.video for part in parts]
    for video in videos:
        (tmp_path / f"{video}.part").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{video}.part").touch()
    assert len(set(videos)) == 3
    assert videos[2] == "s000/talks/short.mp4"


def test_a_full_disk_is_one_line() -> None:
    """A write error ends the making of clips with one line that names the file."""

    def fails(path: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    with pytest.raises(AvprepError, match=r"^a\.mp4: cannot write \(No space left on device\)$"):
        synthetic.in_processes(fails, ["a.mp4"], 1)


@given(st.lists(st.booleans(), min_size=8, max_size=40), st.integers(0, 2**31))
def test_frames_without_landmarks_lie_between_those_that_have_some(there: list[bool], seed: int) -> None:
    """A mouth is measured if enough frames have landmarks; the other frames are interpolated, never extrapolated."""
    landmarks = np.random.default_rng(seed).uniform(80, 180, (len(there), 68, 2)).astype(np.float32)
    landmarks[~np.array(there)] = np.nan
    track = dubbing.mouth(landmarks)
    if np.mean(there) < dubbing.FOUND:
        assert track is None
        return
    assert track is not None
    assert np.isfinite(track).all()
    gaps = np.linalg.norm(landmarks[there][:, (61, 62, 63)] - landmarks[there][:, (67, 66, 65)], axis=2).mean(axis=1)
    assert track[:, 0].min() >= gaps.min() - 1e-3
    assert track[:, 0].max() <= gaps.max() + 1e-3


def test_each_speaker_is_measured_by_the_own_mouth() -> None:
    """A large and a small mouth that open in the same proportion give the same lips; a still mouth stays shut."""
    gap = np.abs(np.sin(np.arange(40) / 3)).astype(np.float32)
    wide = np.ones_like(gap)
    mouths = {
        name: dubbing.Mouth(name, np.stack((scale * gap, 40 * scale * wide), axis=1))
        for name, scale in (("large", 14.0), ("small", 7.0), ("still", 0.05))
    }
    lips = dubbing.lips_of(mouths)
    np.testing.assert_allclose(lips["large"], lips["small"], atol=1e-5)
    assert lips["large"][:, 0].max() > 0.95
    assert lips["still"][:, 0].max() < 0.1
    take = speech.performed(lips["large"], speech.speaker(1), "a")
    assert take.lips.shape == (40, 5)
    assert take.pose.shape == (40, 4)
    assert take.lids.shape == (40,)
