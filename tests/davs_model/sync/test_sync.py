"""A sync model from training on shards to measuring, shifting and selecting their clips."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import interrupted
import made_media as made
import made_shards
import numpy as np
import pytest
import torch
from avprep_cli.main import main
from click.testing import CliRunner, Result
from made_shards import Made
from small_models import made_model
from talking_shards import make_talking_shards, picture

from avprep import manifest, schema, shards
from avprep.errors import RunError, ShardError
from avprep.manifest import Clip
from avprep.quality import verify
from davs_model import checkpoint
from davs_model.checkpoint import Checkpoint
from davs_model.data.clips import joined, read_clips
from davs_model.evaluation import progress
from davs_model.generation import Talker
from davs_model.models.sync import Settings
from davs_model.models.sync import clips as sync_clips
from davs_model.models.sync.curve import Offset
from davs_model.models.sync.model import Sync
from davs_model.models.sync.scorer import Scorer
from davs_model.sync.column import measure
from davs_model.sync.load import load
from davs_model.training import left_out, loop

SHIFTED = {"train/clip003": 6, "train/clip011": -5, "train/clip017": 9, "val/clip002": 4}
FAILED = {"test/clip001": "no_face"}
QUICK = (
    *("model.width=.25", "model.mouth_size=32", "contrast.augment=.2", "contrast.frames=24", "data.batch_size=8"),
    *("data.workers=0", "steps.contrast=50", "steps.refine=12", "optimizer.warmup=5", "optimizer.learning_rate=3e-3"),
    *("loop.log_every=10", "loop.validate_every=50", "loop.save_every=8"),
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of clips, four of them out of sync; read-only."""
    counts = {"train": 24, "val": 6, "test": 4}
    return make_talking_shards(tmp_path_factory.mktemp("sync") / "out", counts, leads=SHIFTED, failed=FAILED)


def train(out: Path, run: Path) -> list[str]:
    """Train both passes and return the messages."""
    lines: list[str] = []
    settings = Settings.resolve("small", None, QUICK)
    loop.train(out, run, settings, stages=("contrast", "refine"), say=lines.append)
    return lines


@pytest.fixture(scope="module")
def run(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained sync model, and beside it `killed`, the run as it was during its second pass; read-only."""
    folder = tmp_path_factory.mktemp("sync") / "run"
    with interrupted.kept({("refine", 8): folder.parent / "killed"}):
        train(out, folder)
    return folder


@pytest.fixture(scope="module")
def measured(out: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those shards, measured by `avprep sync`; read-only."""
    folder = tmp_path_factory.mktemp("sync") / "measured"
    shutil.copytree(out, folder)
    result = call("sync", folder, "--model", run, "-j", 1)
    assert result.exit_code == 0, result.output
    return folder


def call(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def facts(out: Path) -> dict[str, dict[str, Any]]:
    """Return the content of the column sync for each clip."""
    return {
        key: json.loads(members["sync.json"])
        for path in sorted((out / "sync").glob("*.tar"))
        for key, members in shards.read(path)
    }


def test_validation_finds_known_shifts(out: Path, run: Path) -> None:
    """Validation counts the known shifts that were found, which are nearly all for clips in sync."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (_, last) = [record["validation"] for record in records if "validation" in record]
    assert last["offsets"]["n_clips"] == 6
    assert last["offsets"]["within_1"] > 0.75  # one clip of six is out of sync itself
    assert last["video_to_audio"]["r1"] > 0.5


def test_the_second_pass_leaves_out_what_is_out_of_sync(run: Path) -> None:
    """The clips that the first pass finds shifted are listed with their lead, and left out of the second pass."""
    found = json.loads((run / left_out.NAME).read_text())["clips"]
    assert found.keys() >= {key for key in SHIFTED if key.startswith("train/")}
    assert len(found) <= 6
    for key, (lead, confidence) in found.items():
        assert lead == pytest.approx(SHIFTED.get(key, 0), abs=1)
        assert confidence > 0


def test_a_second_pass_without_clips_says_why_and_what_to_do(out: Path, tmp_path: Path) -> None:
    """If the first pass finds no clip in sync, the error names their list; without its second pass the run is done."""
    quick = (*QUICK, "steps.contrast=1", "refine.offset=0")
    settings, without = (Settings.resolve("small", None, (*quick, f"steps.refine={steps}")) for steps in (1, 0))
    message = r"24 of 24 clips left out .*left_out\.json.* more steps in another RUN, .* by --set steps\.refine=0$"
    with pytest.raises(RunError, match=message):
        loop.train(out, tmp_path, settings, stages=("contrast", "refine"), say=lambda _: None)
    assert len(json.loads((tmp_path / left_out.NAME).read_text())["clips"]) == 24
    loop.train(out, tmp_path, without, stages=("contrast", "refine"), say=lambda _: None)


def test_a_clip_is_not_left_out_for_one_of_another_out(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two OUT with the same keys only the clip out of sync is left out, not the other OUT's clip of that key."""
    other = Path(shutil.copytree(out, tmp_path / "other"))
    clips = joined([read_clips(one, "train") for one in (out, other)])
    late = Offset(5.0, 1.0, 0.5, 20, ())
    found = [late if row == len(clips) - 1 else replace(late, audio_lead_frames=0.0) for row in range(len(clips))]
    monkeypatch.setattr(sync_clips, "offsets", lambda *_: found)
    model, settings = Sync(width=0.1), Settings.resolve("small", None, ())
    left_out.measure(tmp_path, model, clips, torch.device("cpu"), settings)
    kept = left_out.kept(tmp_path, clips)
    assert [kept.sample(row) for row in range(len(kept))] == [clips.sample(row) for row in range(len(clips) - 1)]


def test_a_run_goes_on_bit_for_bit_in_its_second_pass(out: Path, run: Path, tmp_path: Path) -> None:
    """A run that was killed in the second pass ends with exactly the weights of an uninterrupted one."""
    train(out, Path(shutil.copytree(run.parent / "killed", tmp_path / "run")))
    assert checkpoint.load(tmp_path / "run").digest() == checkpoint.load(run).digest()


def test_the_column_has_the_lead_of_each_clip(measured: Path) -> None:
    """`avprep sync` finds by how many frames the audio of each clip is early, with the curve; verify agrees."""
    found = facts(measured)
    assert found.keys() == {
        clip.key for clip in manifest.read(measured / "manifest.jsonl").clips if clip.key not in FAILED
    }
    for key, one in found.items():
        assert one["audio_lead_frames"] == pytest.approx(SHIFTED.get(key, 0), abs=1), key
        assert one["audio_lead_ms"] == pytest.approx(40 * one["audio_lead_frames"])
        assert len(one["curve"]) == schema.CURVE
        assert one["distance"] == min(value for value in one["curve"] if value is not None)
        assert one["n_windows"] == 36
    assert verify.verify(measured) == []
    sidecar = shards.read_sidecar(measured, "sync", "test-000000")
    assert sidecar is not None
    assert [(clip["state"], clip.get("reason")) for clip in sidecar["clips"]][:2] == [
        ("ok", None),
        ("failed", "no_sample"),
    ]
    assert sidecar["clips"][0]["confidence"] == found["test/clip000"]["confidence"]


@pytest.mark.slow
def test_two_workers_and_an_interruption_change_no_byte(measured: Path, out: Path, run: Path, tmp_path: Path) -> None:
    """Array tasks, several workers and a second run make the same shards with the same bytes."""
    shutil.copytree(out, tmp_path / "out")
    for index in (1, 0):
        options = ("--task-index", index, "--num-tasks", 2, "-j", 2)
        assert call("sync", tmp_path / "out", "--model", run, *options).exit_code == 0
    for path in sorted((measured / "sync").glob("*.tar")):
        assert path.read_bytes() == (tmp_path / "out" / "sync" / path.name).read_bytes()
    again = call("sync", tmp_path / "out", "--model", run, "--json")
    assert json.loads(again.stdout)["skipped"] == [
        "train-000000",
        "train-000001",
        "train-000002",
        "val-000000",
        "test-000000",
    ]


def test_status_retry_and_slurm_know_the_column(measured: Path, run: Path) -> None:
    """The column is counted, an unfinished one has its command, and an array job can make it."""
    assert json.loads(call("status", measured, "--json").stdout)["sync"]["splits"]["train"]["ok"] == 24
    shown = call("retry", measured, "--reason", "no_sample", "--column", "sync", "--model", run, "--dry-run")
    assert "sync: 1 clip (no_sample 1) to run again" in shown.stdout
    (measured / "sync" / "val-000000.json").rename(measured / "aside.json")
    try:
        assert f"avprep sync {measured} --model RUN" in call("status", measured).stdout
        script = call("slurm", "sync", measured, "--model", run)
        assert script.exit_code == 0, script.output
        assert f"avprep sync {measured} --model {run} --device cpu" in script.stdout
    finally:
        (measured / "aside.json").rename(measured / "sync" / "val-000000.json")


def test_a_report_shows_the_column(measured: Path, tmp_path: Path) -> None:
    """The report has distributions of lead and confidence, and the curves of the worst clips."""
    result = call("report", measured, "-o", tmp_path / "report.html")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "report.html").read_text()
    assert "Audio lead" in page
    assert "Farthest out of sync" in page
    assert page.count('class="curve"') > 20
    assert "lowest at 9" in page


def test_select_finds_the_clips_that_are_out_of_sync(measured: Path, tmp_path: Path) -> None:
    """`select` selects clips by sync figures, also by one of the field's presets, and lists what it leaves out."""
    result = call("select", measured, "--where", "abs(sync.audio_lead_frames) > 2", "-o", tmp_path / "shifted.jsonl")
    assert result.exit_code == 0, result.output
    assert {clip.key for clip in manifest.read(tmp_path / "shifted.jsonl").clips} == SHIFTED.keys()
    result = call("select", measured, "--preset", "wav2lip", "-o", tmp_path / "good.jsonl", "--json")
    kept = manifest.read(tmp_path / "good.jsonl").clips
    assert json.loads(result.stdout)["left_out"]["not ok in crop"] == 1
    assert len(kept) == 34 - 1 - len(SHIFTED)


def test_it_is_evaluated_and_draws_nothing(out: Path, run: Path, tmp_path: Path) -> None:
    """`evaluate` measures retrieval between audio and video; as a talker the model is refused in one line."""
    command = ("evaluate", run, out, "-o", tmp_path / "results", "--split", "val", "--workers", 0)
    result = call(*command, "--detector", "opencv", "--sync", run)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "results" / "metrics.json").read_text())
    assert found["retrieval"]["video_to_audio"]["r1"] > 0.5
    assert found["missing"]["reconstruction"] == found["missing"]["sync"] == "the model draws nothing"
    assert "- not measured: sync: the model draws nothing" in (tmp_path / "results" / "evaluation.md").read_text()
    with pytest.raises(RunError, match="a model sync, which draws no faces"):
        Talker.load(run)


def test_generated_films_are_judged_beside_real_ones(
    out: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`evaluate --sync` shows offset and confidence of generated and real videos; real ones are in sync."""
    monkeypatch.setattr(progress, "LINE_EVERY", 0)
    about = {"mfcc_preset": "davs", "steps": {"full": 1}}
    checkpoint.save(tmp_path / "talker", Checkpoint.of(made_model(), about))
    command = ("evaluate", tmp_path / "talker", out, "-o", tmp_path / "results", "--sync", run, "--split", "val")
    result = call(*command, "--workers", 0, "--svm-clips", 2, "--detector", "opencv")
    assert result.exit_code == 0, result.output
    assert [result.output.count(f"generated {why}: 6/6 clips\n") for why in ("whole", "for sync")] == [1, 1]
    found = json.loads((tmp_path / "results" / "metrics.json").read_text())["sync"]
    assert found.keys() == {"real", "audio", "wrong_audio"}
    assert found["real"]["n_clips"] == 5  # the first gives the second a wrong audio
    assert found["real"]["within_1"] >= 0.8
    assert found["real"]["confidence"] > found["audio"]["confidence"]
    page = (tmp_path / "results" / "evaluation.md").read_text()
    assert "## Is it in sync?" in page
    assert "another clip's audio" in page.partition("## Is it in sync?")[2].partition("##")[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{empty}", "--model", "{run}"), "no manifest.jsonl"),
        (("{out}", "--model", "{out}"), "not there, so there is no model in this folder yet"),
        (("{out}",), "Missing option '--model'"),
        (("--model", "{run}"), "give an OUT, or --video FILE"),
        (("{out}", "--model", "{run}", "--video", "{out}/manifest.jsonl"), "give an OUT, or --video FILE"),
        (("{out}", "--model", "{run}", "-o", "curve.png"), "go with --video"),
        (("{out}", "--model", "{run}", "--max-seconds", "9"), "go with --video"),
    ],
)
def test_mistakes_are_one_line(out: Path, run: Path, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    """The error for an impossible measurement is one line with the reason."""
    places = {"out": out, "run": run, "empty": tmp_path}
    result = call("sync", *(argument.format(**places) for argument in arguments))
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert not (out / "sync").exists()


@pytest.mark.parametrize("verbosity", [(), ("-v",)])
def test_a_column_that_is_not_there_is_named(tmp_path: Path, verbosity: tuple[str, ...]) -> None:
    """Measuring before there are crops or windows, and moving audio before it is measured, name the command to run."""
    plan, run = tmp_path / "manifest.jsonl", tmp_path / "run"
    checkpoint.save(run, Checkpoint.of(Sync(width=0.05, image_size=32), {}))
    made_shards.write(tmp_path, [Made("clip")])
    moving = call("mfcc", plan, tmp_path, "--root", tmp_path, "--audio-offset", "sync", "-j", 1, *verbosity)
    assert moving.exit_code == 1
    assert moving.stderr.splitlines()[-1].startswith(f"Error: {tmp_path}: was not measured: run `avprep sync ")
    for column in ("mfcc", "crop"):
        shutil.rmtree(tmp_path / column)
        measuring = call("sync", tmp_path, "--model", run, "-j", 1, *verbosity)
        assert measuring.exit_code == 1
        named = f"Error: {tmp_path}: has no column {column}: run `avprep {column}` first"
        assert measuring.stderr.splitlines()[-1] == named


def test_the_longest_video_can_be_chosen(run: Path, tmp_path: Path) -> None:
    """A video longer than --max-seconds is refused, in a message that names this option."""
    video = made.numbered(tmp_path / "long.mp4", made.steady(25, 1), made.noise(1, made.RATE))
    result = call("sync", "--video", video, "--model", run, "--max-seconds", 0.5)
    assert result.exit_code == 1
    assert "longer than 0.5 s; raise --max-seconds or cut it" in result.stderr


def test_another_preset_of_windows_is_refused(out: Path, run: Path, tmp_path: Path) -> None:
    """A model trained on other windows than those of OUT is not used on them."""
    shutil.copytree(out, tmp_path / "out")
    path = tmp_path / "out" / "mfcc" / "run.json"
    path.write_text(path.read_text().replace('"davs"', '"syncnet"'))
    result = call("sync", tmp_path / "out", "--model", run)
    assert "has learned from windows of the preset davs" in result.stderr


def test_a_jpeg_is_read_as_its_crop_is(run: Path) -> None:
    """A JPEG decoded at half the size differs from the crop itself by little more than rounding."""
    import cv2

    scorer, rng = load(run), np.random.default_rng(0)
    face = cv2.GaussianBlur(picture(0.5, rng), (0, 0), 3).astype(np.uint8)
    data = cv2.imencode(".jpg", face[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    read = scorer.read(data)
    assert read is not None
    assert np.abs(read.astype(int) - scorer.grey(face[None])[0]).mean() < 1.5
    for other in (b"no picture", b"", data[:200], cv2.imencode(".png", face[:128])[1].tobytes()):
        assert scorer.read(other) is None


@pytest.mark.parametrize(
    ("column", "name", "data"),
    [
        ("crop", "003.jpg", b""),
        ("mfcc", "mfcc.npy", schema.encode_array(np.zeros((29, 13, 20), np.float32))),
        ("mfcc", "mfcc.npy", schema.encode_array(np.full((29, 12, 20), np.nan, np.float32))),
        ("mfcc", "valid.npy", schema.encode_array(np.ones(20, bool))),
    ],
)
def test_a_damaged_clip_costs_one_line(tmp_path: Path, column: str, name: str, data: bytes) -> None:
    """A picture or array that violates the format leaves the clip out of training, and is named when measuring."""
    row, scorer = Made("clip"), Scorer(Sync(width=0.05, image_size=32))
    made_shards.write(tmp_path, [row])
    members = made_shards.crop_members(row.key) if column == "crop" else made_shards.mfcc_members(row.key)
    stretch = made_shards.stretch(tmp_path, row.key, members | {name: data})
    made_shards.write_shard(tmp_path, column, "train-000000", [(row, stretch)])
    assert sync_clips.offsets(scorer, read_clips(tmp_path, "train")) == [None]
    with pytest.raises(ShardError, match=rf"^[^\n]*clip: {name}[^\n]*$"):
        measure(tmp_path, scorer, Clip("clip", "0.mp4", "train"), "train-000000")


def test_features_do_not_depend_on_how_many_go_at_once(out: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long clip is encoded in parts, with the same features as at once."""
    from davs_model.data.clips import read_clips
    from davs_model.models.sync import scorer

    clips = read_clips(out, "val")
    (whole,) = sync_clips.features(load(run), clips, [0])
    monkeypatch.setattr(scorer, "AT_ONCE", 7)
    (parts,) = sync_clips.features(load(run), clips, [0])
    assert whole is not None
    assert parts is not None
    np.testing.assert_allclose(parts.video, whole.video, atol=1e-5)
    np.testing.assert_allclose(parts.audio, whole.audio, atol=1e-5)
    assert torch.is_grad_enabled()
