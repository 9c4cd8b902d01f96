"""Windows that are shifted by the column sync's measurement, and its sign, on real files."""

from __future__ import annotations

import hashlib
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import made_media
import made_shards
import numpy as np
import pytest
from avprep_cli.main import main
from click.testing import CliRunner, Result
from made_shards import Made

import avprep
from avprep import manifest, schema, shards
from avprep.errors import RunError, SettingsError
from avprep.manifest import Clip, Manifest
from avprep.quality import clip_view
from davs_model.models.sync import curve

KEYS = ("late", "sure", "unsure", "far", "failed")
LEADS = {"late": (-5.0, 0.5), "sure": (2.5, 0.3), "unsure": (4.0, 0.1), "far": (-15.0, 0.5)}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An OUT with windows of five clips of the same audio, one of them delayed by 200 ms by ffmpeg."""
    root = tmp_path / "films"
    root.mkdir()
    times = made_media.steady(25, 2)
    made_media.numbered(root / "sure.mp4", times, made_media.noise(2, made_media.RATE), fps=Fraction(25))
    for name in ("unsure", "far", "failed"):
        (root / f"{name}.mp4").write_bytes((root / "sure.mp4").read_bytes())
    made_media.ffmpeg("-i", root / "sure.mp4", "-af", "adelay=200", "-c:v", "copy", root / "late.mp4")
    plan = Manifest("films", root, tuple(Clip(key, f"{key}.mp4", "train") for key in KEYS))
    (tmp_path / "plan.jsonl").write_text(manifest.render(plan))
    folder = tmp_path / "out"
    done = call("mfcc", tmp_path / "plan.jsonl", folder, "-j", 1)
    assert done.exit_code == 0, done.output
    return folder


def call(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def write_sync(out: Path, leads: dict[str, tuple[float, float]] = LEADS) -> None:
    """Write a measurement of OUT's windows, in which clips without a lead have failed."""
    rows = [Made(key, mfcc="" if key in leads else "no_sample", n_frames=50) for key in KEYS]
    made_shards.write_shard(out, "sync", "train-000000", [(row, b"") for row in rows])
    path = out / "sync" / "train-000000.json"
    sidecar: dict[str, Any] = json.loads(path.read_text())
    for clip in sidecar["clips"]:
        if clip["key"] in leads:
            clip["audio_lead_frames"], clip["confidence"] = leads[clip["key"]]
    head = {name: value for name, value in sidecar.items() if name != "clips"}
    path.write_bytes(shards.render_sidecar(head, sidecar["clips"]))
    digest = hashlib.sha256((out / "mfcc" / "run.json").read_bytes()).hexdigest()[:16]
    run = json.loads((out / "mfcc" / "run.json").read_text()) | {"column": "sync", "settings": {"mfcc": digest}}
    (out / "sync" / "run.json").write_text(json.dumps(run))


def windows(out: Path, column: str = "mfcc") -> dict[str, tuple[np.ndarray, np.ndarray, dict[str, Any]]]:
    """Return the windows of each clip, which of them are real, and its facts."""
    return {
        key: (
            schema.decode_array(members["mfcc.npy"]),
            schema.decode_array(members["valid.npy"]),
            json.loads(members["audio.json"]),
        )
        for key, members in shards.read(out / column / "train-000000.tar")
    }


def test_audio_that_ffmpeg_delays_by_200_ms_has_a_lead_of_minus_5(out: Path) -> None:
    """The lead of audio that ffmpeg delayed by 200 ms is −5 frames, measured against the undelayed windows."""
    (here, valid, _), (late, late_valid, _) = (windows(out)[key] for key in ("sure", "late"))
    flat = [part.reshape(len(part), -1) for part in (here, late)]
    found = curve.offset(curve.distances(*flat, valid, late_valid))
    assert found is not None
    assert found.audio_lead_frames == pytest.approx(-5, abs=0.1)
    assert found.audio_lead_ms == pytest.approx(-200, abs=4)


def test_each_clip_is_moved_by_its_own_offset(out: Path) -> None:
    """Delayed by its lead, a clip's audio is in sync again; clips with low confidence, or failed ones, stay.

    So do clips whose lead is the maximum of the search, as the true lead may be larger.
    """
    before = windows(out)
    write_sync(out)
    done = call("mfcc", out.parent / "plan.jsonl", out, "--audio-offset", "sync", "-j", 1, "--min-confidence", "0.2")
    assert done.exit_code == 0, done.output
    after = windows(out)
    both = after["late"][1] & before["sure"][1]
    both[:3] = both[-8:] = False  # the codec rings at the audio's start, and the end of the delayed audio is cut off
    assert both.sum() > 30
    error = np.abs(after["late"][0] - before["sure"][0])[both].mean()
    assert error < 0.05 * np.abs(before["late"][0] - before["sure"][0])[both].mean()
    for key, delay in (("late", -200.0), ("sure", 100.0), ("unsure", 0.0), ("far", 0.0), ("failed", 0.0)):
        assert after[key][2]["audio_offset_ms"] == delay
    for key in ("unsure", "far", "failed"):
        np.testing.assert_array_equal(after[key][0], before[key][0])
    assert after["sure"][2]["audio_lead_frames"] == 2.5
    sidecar = shards.read_sidecar(out, "mfcc", "train-000000")
    assert sidecar is not None
    assert [clip["audio_offset_ms"] for clip in sidecar["clips"]] == [-200.0, 100.0, 0.0, 0.0, 0.0]
    assert clip_view.read(out, "late").shift == pytest.approx(-0.2)


def test_what_was_measured_is_kept_aside_and_the_same_command_goes_on(out: Path) -> None:
    """The previous windows are kept; a second run has nothing to do, and another choice is refused."""
    before = (out / "mfcc" / "train-000000.tar").read_bytes()
    write_sync(out)
    command = ("mfcc", out.parent / "plan.jsonl", out, "--audio-offset", "sync", "-j", 1)
    assert call(*command).exit_code == 0
    assert (out / "mfcc-unmoved" / "train-000000.tar").read_bytes() == before
    moved = (out / "mfcc" / "train-000000.tar").read_bytes()
    assert moved != before
    again = call(*command)
    assert "(1 done before)" in again.stdout
    assert (out / "mfcc" / "train-000000.tar").read_bytes() == moved
    other = call(*command, "--min-confidence", "0.4")
    assert "min_confidence: there 0.2, here 0.4" in other.stderr
    plain = call("mfcc", out.parent / "plan.jsonl", out, "-j", 1)
    assert "audio_offset: there sync, here None" in plain.stderr
    shown = call("retry", out, "--reason", "no_audio", "--column", "mfcc", "--dry-run")
    assert shown.exit_code == 0, shown.output


def test_offsets_by_syncnet_move_no_windows(out: Path) -> None:
    """Offsets measured on crops and audio alone are refused, and the message says so."""
    write_sync(out)
    run = out / "sync" / "run.json"
    run.write_text(json.dumps(json.loads(run.read_text()) | {"settings": {"scale": "syncnet", "crop": "0" * 16}}))
    refused = call("mfcc", out.parent / "plan.jsonl", out, "--audio-offset", "sync", "-j", 1)
    assert refused.exit_code == 1
    assert "was measured on no windows" in refused.stderr
    assert not (out / "mfcc-unmoved").exists()


@pytest.mark.parametrize("options", [(), ("-v",)], ids=("plain", "verbose"))
def test_nothing_is_moved_without_a_measurement(out: Path, options: tuple[str, ...]) -> None:
    """In an OUT that has no column yet, the command that measures is asked for, with and without -v."""
    fresh = out.parent / "fresh"
    refused = call("mfcc", out.parent / "plan.jsonl", fresh, "--audio-offset", "sync", "-j", 1, *options)
    assert refused.exit_code == 1
    assert f"run `avprep sync {fresh} --model RUN` first" in refused.stderr
    assert not fresh.exists()


def test_offsets_must_be_of_these_windows(out: Path) -> None:
    """Without a measurement, or with one of other windows, nothing is shifted and nothing renamed."""
    command = ("mfcc", out.parent / "plan.jsonl", out, "--audio-offset", "sync", "-j", 1)
    assert "run `avprep sync" in call(*command).stderr
    write_sync(out)
    run = out / "sync" / "run.json"
    run.write_text(run.read_text().replace(json.loads(run.read_text())["settings"]["mfcc"], "0" * 16))
    refused = call(*command)
    assert "was measured on other windows" in refused.stderr
    assert not (out / "mfcc-unmoved").exists()
    assert "audio_offset_ms" not in windows(out)["sure"][2]


def test_a_refused_run_renames_nothing(out: Path, tmp_path: Path) -> None:
    """If a run is refused, the windows to be shifted stay in place, and the right command continues."""
    write_sync(out)
    plan = manifest.read(tmp_path / "plan.jsonl")
    fewer = manifest.Manifest("films", plan.root, plan.clips[:3])
    for given, options in ((plan, {"shard_size": 7}), (plan, {"task_index": 5}), (plan, {"jobs": 0}), (fewer, {})):
        with pytest.raises((RunError, SettingsError)):
            avprep.mfcc(given, out, audio_offset="sync", **{"jobs": 1, "verbosity": -1, **options})  # type: ignore[arg-type]
        assert (out / "mfcc" / "train-000000.tar").is_file()
        assert not (out / "mfcc-unmoved").exists()
    command = ("mfcc", tmp_path / "plan.jsonl", out, "--audio-offset", "sync", "-j", 1)
    assert call(*command, "--shard-size", 7).exit_code == 1
    assert not (out / "mfcc-unmoved").exists()
    assert call(*command).exit_code == 0


def test_what_only_shows_renames_nothing(out: Path) -> None:
    """A dry run and a printed array job count every shard as missing, and leave the existing windows in place."""
    write_sync(out)
    moved = (out.parent / "plan.jsonl", out, "--audio-offset", "sync")
    dry = call("mfcc", *moved, "--dry-run", "--json")
    assert dry.exit_code == 0, dry.output
    assert json.loads(dry.stdout)["done"] == []
    printed = call("slurm", "mfcc", *moved)
    assert printed.exit_code == 0, printed.output
    assert "#SBATCH --array=0\n" in printed.stdout
    assert "mfcc-unmoved" in printed.stderr
    assert (out / "mfcc" / "train-000000.tar").is_file()
    assert not (out / "mfcc-unmoved").exists()
    assert call("mfcc", *moved, "-j", 1).exit_code == 0
    assert (out / "mfcc-unmoved" / "train-000000.tar").is_file()
