"""`avprep evaluate`: what is measured of a model on a split, stored and shown."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from avprep_cli.main import main
from click.testing import CliRunner
from numpy.typing import NDArray
from small_models import SMALL
from tiny_shards import make_shards

from avprep.errors import CheckpointError, RunError, ShardError
from davs_model import checkpoint
from davs_model.checkpoint import Checkpoint
from davs_model.data.clips import read_clips
from davs_model.evaluation import evaluate as library
from davs_model.evaluation.evaluate import EvaluationSettings, evaluate
from davs_model.evaluation.metrics.recognition import recognise
from davs_model.evaluation.metrics.retrieval import retrieve
from davs_model.models.davs import Settings as DavsSettings
from davs_model.models.davs.networks import DAVS
from davs_model.models.davs.stages import STAGES
from davs_model.training import loop

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of shards; read-only."""
    return make_shards(tmp_path_factory.mktemp("evaluate") / "shards", clips=18)


@pytest.fixture(scope="module")
def run(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all stages; read-only."""
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    settings = DavsSettings.resolve("small", None, (*SMALL, "steps.identity=1", "steps.speech=1", "steps.full=1"))
    loop.train(out, folder, settings, stages=tuple(STAGES), say=lambda _: None)
    return folder


@pytest.fixture(scope="module")
def results(out: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of that run; read-only."""
    folder = tmp_path_factory.mktemp("evaluate") / "results"
    evaluate(run, out, folder, SETTINGS, landmarks=(corners, "two made-up corners"), say=lambda _: None)
    return folder


SETTINGS = EvaluationSettings(batch_size=3, workers=0, talking_clips=2)
NUMBERS = replace(SETTINGS, talking_clips=0)
"""Without films of whole clips; with the fixture `no_figures`, for tests of numbers."""


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no figures, to save a third of the time."""
    monkeypatch.setattr(library.figures, "draw", lambda *_: {})


def corners(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Stand in for a detector: return the brightest rows of the left and right halves."""
    rows = frames.mean(axis=3)
    points = [[[64, half.mean(axis=1).argmax()] for half in (row[:, :128], row[:, 128:])] for row in rows]
    return np.array(points, np.float32)


def lips(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Stand in for a detector of lips: the brighter the mouth, the farther they are apart."""
    mouths = np.zeros((len(frames), 20, 2), np.float32)
    mouths[:, 17:, 1] = frames[:, 170:234, 64:192].mean(axis=(1, 2, 3))[:, None]
    return mouths


def read(results: Path) -> dict[str, Any]:
    """Read metrics.json."""
    found: dict[str, Any] = json.loads((results / library.METRICS).read_text(encoding="utf-8"))
    return found


def test_what_is_written(results: Path) -> None:
    """The results are numbers, a page with its images, and embeddings; nothing half-written is left."""
    names = {path.name for path in results.iterdir()}
    assert {"metrics.json", "evaluation.md", "embeddings.h5", "ranks.png", "samples.png"} <= names
    assert not any(name.startswith(".") for name in names)
    page = (results / "evaluation.md").read_text(encoding="utf-8")
    shown = [part.partition(")")[0] for part in page.split("](")[1:]]
    assert set(shown) <= names
    assert "samples.png" in shown
    metrics = read(results)
    assert metrics["data"] | {"out": ""} == {
        "dataset": "tiny",
        "out": "",
        "split": "test",
        "clips": 4,
        "words": 3,
        "speakers": 2,
        "skipped": {},
    }
    assert {"recognition", "retrieval", "reconstruction", "generated_retrieval", "leakage", "mouth"} <= set(metrics)
    assert metrics["mouth"]["landmarks"] == "two made-up corners"


def test_numbers_are_those_of_the_embeddings(results: Path) -> None:
    """The figures for words and retrieval in metrics.json follow from the stored embeddings."""
    metrics = read(results)
    with h5py.File(results / "embeddings.h5") as file:
        kept = {name: torch.from_numpy(file[name][()]) for name in file if name != "key"}
        keys = [key.decode() for key in file["key"][()]]
    assert keys == sorted(keys)
    assert len(set(keys)) == 4
    assert kept["video"].shape == kept["generated_audio"].shape == (4, 8, 256)
    assert kept["identity"].shape == (4, 256)
    assert metrics["recognition"] == asdict(recognise(kept["video_logits"], kept["audio_logits"], kept["words"]))
    assert metrics["retrieval"]["video_to_audio"] == asdict(retrieve(kept["video"], kept["audio"]))
    assert metrics["generated_retrieval"]["video"] == asdict(retrieve(kept["generated_video"], kept["video"]))


@pytest.mark.usefixtures("no_figures")
def test_the_same_again(out: Path, run: Path, results: Path, tmp_path: Path) -> None:
    """A second evaluation gives the same numbers, also with loader processes; another seed, other identity frames."""
    again = evaluate(run, out, tmp_path / "a", replace(NUMBERS, workers=1), landmarks=(corners, ""), say=lambda _: None)
    before = read(results)
    for part in ("recognition", "retrieval", "reconstruction", "generated_retrieval", "leakage"):
        assert again.get(part) == before.get(part)
    other = evaluate(run, out, tmp_path / "b", replace(NUMBERS, seed=1), say=lambda _: None)
    assert other["recognition"] == before["recognition"]
    assert other["reconstruction"]["repeated"] != before["reconstruction"]["repeated"]
    assert other["missing"]["mouth"] == "not asked for"


@pytest.mark.usefixtures("no_figures")
def test_frames_are_judged_against_those_of_the_shards(out: Path, run: Path, tmp_path: Path) -> None:
    """A decoder that copies the identity frame scores exactly like the repeated frame."""
    saved = checkpoint.load(run)

    class Copying(DAVS):
        def decode(self, identity: Any, speech: torch.Tensor) -> torch.Tensor:
            return self.seen.expand(-1, speech.shape[1], -1, -1, -1)

        def encode_identity(self, frames: torch.Tensor) -> Any:
            self.seen = frames[:, :1]  # the portrait, which is encoded last
            return super().encode_identity(frames)

    def copying(self: Checkpoint) -> DAVS:
        model = Copying(**self.dimensions)  # type: ignore[arg-type]
        model.load_state_dict(saved.weights)
        return model.eval()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "model", copying)
        found = evaluate(run, out, tmp_path, NUMBERS, say=lambda _: None)
    quality = found["reconstruction"]
    assert quality["audio"] == quality["video"] == quality["repeated"]
    assert 5 < quality["audio"]["psnr"] < 40
    assert quality["audio"]["n_frames"] == 4 * 8
    assert found["generated_retrieval"]["audio"] == found["generated_retrieval"]["repeated"]


def test_a_model_that_cannot_draw(out: Path, run: Path, tmp_path: Path) -> None:
    """Before its full stage a model has words and retrieval; the page gives the reason for the missing parts."""
    saved = checkpoint.load(run)
    steps = {"identity": 2, "speech": 2}
    checkpoint.save(tmp_path / "run", replace(saved, settings={**saved.settings, "steps": steps}))
    found = evaluate(tmp_path / "run", out, tmp_path / "results", SETTINGS, say=lambda _: None)
    assert "reconstruction" not in found
    assert "cannot draw" in found["missing"]["reconstruction"]
    assert found["recognition"]["n_clips"] == 4
    assert "cannot draw" in (tmp_path / "results" / "evaluation.md").read_text(encoding="utf-8")


def test_runs_that_cannot_judge_are_told_first(out: Path, run: Path, tmp_path: Path) -> None:
    """An invalid sync model, identity encoder or baseline is refused before anything is measured."""
    results, models = tmp_path / "results", replace(SETTINGS, sync=str(run))
    with pytest.raises(RunError, match="is a model davs: give a RUN of `avprep train OUT RUN --model sync`"):
        evaluate(run, out, results, models, say=lambda _: None)
    for settings, baselines in ((replace(SETTINGS, identity=str(out)), ()), (SETTINGS, (run, out))):
        with pytest.raises(CheckpointError, match="no model in this folder yet"):
            evaluate(run, out, results, settings, baselines=baselines, say=lambda _: None)
    assert not results.exists()


@pytest.mark.slow
def test_baselines_stand_beside(out: Path, run: Path, tmp_path: Path) -> None:
    """Another run is measured in the same way; the same run has the same numbers."""
    found = evaluate(run, out, tmp_path / "results", SETTINGS, baselines=[run], say=lambda _: None)
    other = found["baselines"][str(run)]
    for part in ("recognition", "retrieval", "reconstruction", "generated_retrieval"):
        assert other[part] == found[part]


@pytest.mark.usefixtures("no_figures")
def test_a_model_without_names_of_words(out: Path, run: Path, tmp_path: Path) -> None:
    """An imported model without word names is evaluated on words only if their number equals that of the clips."""
    saved = checkpoint.load(run)
    for n_words in (3, 5):
        model = DAVS(**{**saved.dimensions, "n_words": n_words})  # type: ignore[arg-type]
        checkpoint.save(tmp_path / f"{n_words}", Checkpoint.of(model, {}))
        found = evaluate(
            tmp_path / f"{n_words}", out, tmp_path / f"r{n_words}", replace(NUMBERS, limit=2), say=lambda _: None
        )
        assert ("recognition" in found) == (n_words == 3)
        if n_words == 5:
            assert found["missing"]["recognition"].startswith("the model knows 5 words and not their names")


def test_what_cannot_be_evaluated(out: Path, run: Path, tmp_path: Path) -> None:
    """No checkpoint, no shards, no clips of a split and windows of another kind each give one line, and no results."""
    quiet = {"say": lambda _: None}
    with pytest.raises(CheckpointError):
        evaluate(tmp_path / "none", out, tmp_path / "r", SETTINGS, **quiet)  # type: ignore[arg-type]
    with pytest.raises(ShardError):
        evaluate(run, tmp_path, tmp_path / "r", SETTINGS, **quiet)  # type: ignore[arg-type]
    with pytest.raises(RunError, match="no clip of the dev split can be used"):
        evaluate(run, out, tmp_path / "r", replace(SETTINGS, split="dev"), **quiet)  # type: ignore[arg-type]
    saved = checkpoint.load(run)
    model = saved.model()
    with torch.no_grad():
        model.audio_speech_encoder.fc.weight.fill_(3e38)
    checkpoint.save(tmp_path / "wild", Checkpoint.of(model, saved.settings))
    with pytest.raises(RunError, match=r"wild: cannot be measured: .* not finite"):
        evaluate(tmp_path / "wild", out, tmp_path / "r", SETTINGS, **quiet)  # type: ignore[arg-type]
    assert not list(tmp_path.glob("r/*.*"))


def test_the_command(out: Path, run: Path, tmp_path: Path, results: Path) -> None:
    """`avprep evaluate` prints its results, what it could not measure, and where everything is."""
    arguments = ["evaluate", run, out, "-o", tmp_path / "r", "--batch", 3, "--workers", 0, "--detector", "opencv"]
    more = ("--talking-clips", 2, "--baseline", run)
    done = CliRunner().invoke(main, [str(argument) for argument in (*arguments, *more)])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("words ")
    assert "audio frames PSNR" in done.stdout
    assert done.stdout.rstrip().endswith(str(tmp_path / "r" / "embeddings.h5"))
    assert f"  {tmp_path / 'r' / 'evaluation.html'}\n" in done.stdout
    assert "not measured: mouth: the detector opencv does not see mouths" in done.stderr
    assert read(tmp_path / "r")["recognition"] == read(results)["recognition"]
    refused = CliRunner().invoke(main, ["evaluate", str(run), str(tmp_path), "-o", str(tmp_path / "s")])
    assert refused.exit_code == 1
    assert refused.stderr.splitlines()[-1].startswith("Error: ")


@pytest.mark.usefixtures("no_figures")
def test_the_svm_is_judged_by_clips_that_it_has_not_seen(out: Path, run: Path, tmp_path: Path) -> None:
    """On the train split words are predicted from identity features by cross-validation, as people are."""
    found = evaluate(run, out, tmp_path, replace(NUMBERS, split="train"), say=lambda _: None)
    read = found["leakage"]["words_from_identity"]
    assert read["n_test"] == 18
    assert read["n_train"] < 18


@pytest.mark.usefixtures("no_figures")
def test_words_that_are_counted_are_those_of_the_clips(run: Path, tmp_path: Path) -> None:
    """Clips without words are reported as such, whatever words the model has."""
    unlabelled = make_shards(tmp_path / "shards", clips=6, words=0)
    found = evaluate(run, unlabelled, tmp_path / "r", NUMBERS, say=lambda _: None)
    assert found["data"]["words"] == 0


@pytest.mark.usefixtures("no_figures")
def test_words_have_one_number_in_both_splits(
    out: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a model without word names, the SVM learns the words of the split on which it is tested."""
    copied = Path(shutil.copytree(out, tmp_path / "out"))
    lines = [json.loads(line) for line in (copied / "manifest.jsonl").read_text().splitlines()]
    for line in lines:
        if line.get("split") == "test":
            line["word"] = {"word0": "word2"}.get(line["word"], line["word"])
    (copied / "manifest.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    words = {line["key"]: line["word"] for line in lines[1:]}
    saved = checkpoint.load(run)
    unnamed = {name: value for name, value in saved.settings.items() if name != "words"}
    checkpoint.save(tmp_path / "run", replace(saved, settings=unnamed))
    numbers: set[tuple[str, int]] = set()

    def read(_: Any, learned: torch.Tensor, __: Any, judged: torch.Tensor, **___: Any) -> None:
        for split, given in (("train", learned), ("test", judged)):
            clips = read_clips(copied, split)
            numbers.update(zip((words[clips.key(row)] for row in range(len(clips))), given.tolist(), strict=True))
        raise ValueError("it was seen")

    monkeypatch.setattr(library, "leakage", read)
    evaluate(tmp_path / "run", copied, tmp_path / "r", NUMBERS, say=lambda _: None)
    assert numbers == {("word0", -1), ("word1", 0), ("word2", 1)}


def test_no_model_that_cannot_draw_is_sent_to_generate(out: Path, run: Path, tmp_path: Path) -> None:
    """`avprep evaluate` names `avprep generate` as the next command only for a model that it accepts."""
    saved = checkpoint.load(run)
    steps = {"identity": 2, "speech": 2}
    checkpoint.save(tmp_path / "run", replace(saved, settings={**saved.settings, "steps": steps}))
    few = ("--workers", "0", "--talking-clips", "0", "--mouth-clips", "0", "--detector", "opencv")
    for model, named in ((run, True), (tmp_path / "run", False)):
        done = CliRunner().invoke(main, ["evaluate", str(model), str(out), "-o", str(tmp_path / "r"), *few])
        assert done.exit_code == 0, done.output
        assert ("avprep generate" in done.stderr) == named


@pytest.mark.usefixtures("no_figures")
def test_limit(out: Path, run: Path, tmp_path: Path) -> None:
    """Only the given numbers of clips and of mouths are evaluated."""
    found = evaluate(
        run, out, tmp_path, replace(NUMBERS, limit=3, mouth_clips=2), landmarks=(corners, ""), say=lambda _: None
    )
    assert found["data"]["clips"] == found["recognition"]["n_clips"] == 3
    assert found["mouth"]["audio"]["n_frames"] == 2 * 8


@pytest.mark.usefixtures("no_figures")
def test_words_that_the_model_has_not_learned_are_counted(out: Path, run: Path, tmp_path: Path) -> None:
    """Clips whose word is not among the model's are counted beside the accuracy, which they lower."""
    saved = checkpoint.load(run)
    words = [f"not {word}" for word in saved.settings["words"][:2]] + saved.settings["words"][2:]
    checkpoint.save(tmp_path / "run", replace(saved, settings={**saved.settings, "words": words}))
    found = evaluate(tmp_path / "run", out, tmp_path / "r", NUMBERS, say=lambda _: None)
    with h5py.File(tmp_path / "r" / "embeddings.h5") as file:
        n_unknown = int((file["words"][()] < 0).sum())
    assert 0 < found["recognition"]["n_unknown"] == n_unknown < 4


@pytest.mark.usefixtures("no_figures")
def test_the_number_of_measured_clips_is_told(out: Path, run: Path, tmp_path: Path) -> None:
    """The first line names the number of clips that are measured, not of those that the split has."""
    said: list[str] = []
    evaluate(run, out, tmp_path, replace(NUMBERS, limit=2), say=said.append)
    assert said[0] == f"test: 2 clips of {out}"


@pytest.mark.usefixtures("no_figures")
def test_lips_are_measured_where_a_detector_places_them(out: Path, run: Path, results: Path, tmp_path: Path) -> None:
    """With landmarks of lips, the videos of whole clips have a section of their own; with the mouth's corners, none."""
    found = evaluate(run, out, tmp_path, SETTINGS, landmarks=(lips, "made-up lips"), say=lambda _: None)
    counts = {name: part["n_videos"] for name, part in found["lips"].items() if name != "landmarks"}
    assert counts == {"audio": 2, "wrong_audio": 2, "video": 2}
    page = (tmp_path / "evaluation.md").read_text(encoding="utf-8")
    assert "## Do the lips open with the audio?" in page
    assert "made-up lips" in page
    assert "lips" not in read(results)
    assert "Do the lips" not in (results / "evaluation.md").read_text(encoding="utf-8")
