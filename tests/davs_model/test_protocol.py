"""A second model in one file works throughout: training, evaluation and generation do not depend on its name."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import interrupted
import made_media
import numpy as np
import pytest
import torch
from avprep_cli.main import main
from click.testing import CliRunner, Result
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_shards import make_shards

import davs_model
from avprep.errors import CheckpointError, SettingsError
from avprep.media.video import Frames
from davs_model import checkpoint, models
from davs_model.data.corpus import read_corpus
from davs_model.data.store import FrameStore
from davs_model.evaluation import evaluate as evaluation
from davs_model.training import loop
from davs_model.training import state as states
from davs_model.training.distributed import World
from davs_model.training.step import StageTrainer

FOLDER = Path(__file__).parent / "models"
QUICK = ("data.batch_size=4", "data.workers=0", "loop.log_every=1", "loop.save_every=1", "machine.bf16=false")
AMID = (("listen", 2), ("talk", 1))
"""Stages and steps after which a run is killed."""

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True, scope="module")
def toy() -> Iterator[None]:
    """Put the file of the toy model among the models, as if it were in their folder."""
    models.__path__.append(str(FOLDER))
    yield
    models.__path__.remove(str(FOLDER))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of shards; read-only."""
    return make_shards(tmp_path_factory.mktemp("protocol") / "shards")


def train(out: Path, run: Path, *overrides: str) -> list[str]:
    """Train all stages of the toy model, and return the messages."""
    lines: list[str] = []
    kind = models.find("toy")
    settings = kind.Settings.resolve(None, None, (*QUICK, *overrides))
    loop.train(out, run, settings, stages=tuple(kind.stages), say=lines.append)
    return lines


def trainer(out: Path, *overrides: str, stage: str = "listen", rank: int = 0) -> StageTrainer:
    """Prepare a stage of the toy model as one of two processes, but with all clips and alone."""
    kind = models.find("toy")
    settings = kind.Settings.resolve(None, None, (*QUICK, *overrides))
    corpus = read_corpus(out, settings)
    torch.manual_seed(0)
    model = models.build("toy", kind.dimensions_for(corpus, settings))
    made = StageTrainer.of(model.stages[stage], model, corpus, settings, World(), torch.device("cpu"))
    return replace(made, world=World(rank=rank))


@pytest.fixture(scope="module")
def run(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all stages, and beside it the same run during each stage; read-only."""
    folder = tmp_path_factory.mktemp("protocol") / "run"
    with interrupted.kept({(stage, step): folder.parent / stage for stage, step in AMID}):
        train(out, folder)
    return folder


def test_a_model_is_one_file() -> None:
    """The toy model is one file: it is found by its name, and no other file of the package names it."""
    assert [path.name for path in FOLDER.glob("*.py")] == ["toy.py"]
    assert models.names() == ["amie", "davs", "etgan", "sync", "toy"]
    assert models.find("toy").name == models.build("toy", {"features": 2, "image_size": 64}).name == "toy"
    with pytest.raises(ValueError, match="no model os: there is amie, davs, etgan, sync, toy"):
        models.find("os")


def test_pictures_too_small_for_a_measure(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose mouths are smaller than SSIM's window is trained and evaluated, with null for that figure."""
    small = {"features": 4, "image_size": 32}
    monkeypatch.setattr(models.find("toy"), "dimensions_for", classmethod(lambda *_: small))
    train(out, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    measured = [row["validation"]["talking"]["audio"] for row in rows if "talking" in row.get("validation", {})]
    assert measured
    assert all(one["mouth_ssim"] is None and one["mouth_psnr"] > 0 for one in measured)
    settings = evaluation.EvaluationSettings(batch_size=3, workers=0)
    evaluation.evaluate(tmp_path / "run", out, tmp_path / "results", settings, say=lambda _: None)
    found = json.loads((tmp_path / "results" / "metrics.json").read_text())
    assert found["talking"]["audio"]["mouth_ssim"] is None


def test_shared_code_names_no_stage_of_davs() -> None:
    """No string of training, evaluation, generation and data is the name of DAVS's full stage, a phase or a term."""
    package = Path(davs_model.__file__).parent
    shared = [package / f"{name}.py" for name in ("film", "generation", "settings")]
    shared += [path for folder in ("data", "training", "evaluation") for path in (package / folder).rglob("*.py")]
    for path in shared:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant):
                assert node.value not in ("full", "discriminators", "speech_person", "domain"), f"{path}:{node.lineno}"


def test_it_trains(run: Path) -> None:
    """Both stages end with records of every step and term, a validation, a sheet of frames and a checkpoint."""
    found = checkpoint.load(run)
    assert (found.name, found.settings["steps"]) == ("toy", {"listen": 4, "talk": 3})
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    terms = {(r["stage"], r["step"]): set(r["terms"]) for r in records if "terms" in r}
    assert terms == {
        **{("listen", n + 1): {"agreement"} for n in range(4)},
        **{("talk", n + 1): {"picture_audio", "picture_video", "likeness"} for n in range(3)},
    }
    (listening, talking) = (r["validation"] for r in records if "validation" in r)
    assert listening.keys() == {"video_to_audio", "audio_to_video"}
    assert talking["l1"].keys() == {"audio", "video"}
    assert (run / "samples" / "talk-000003.png").stat().st_size > 1000
    shown = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [event.step for event in shown.Scalars("talk/terms/likeness")] == [5, 6, 7]  # after the four of `listen`


def test_each_step_draws_its_own_random_numbers(out: Path) -> None:
    """Random numbers of a step depend on the seed, the stage, the step and the process, and on nothing before it."""
    steps = [(0, "listen", 1, 0), (1, "listen", 1, 0), (0, "talk", 1, 0), (0, "listen", 2, 0), (0, "listen", 1, 1)]
    begun = []
    for seed, stage, step, rank in (*steps, steps[0]):
        one = trainer(out, f"seed={seed}", stage=stage, rank=rank)
        one.step(step, 4, one.batches[0, 0])
        begun.append(torch.initial_seed())
    assert begun[-1] == begun[0]
    assert len(set(begun)) == len(steps)


def test_a_step_follows_the_settings(out: Path) -> None:
    """A step minimises the weighted terms by Adam with the betas and the learning rate of the settings.

    The terms that it returns keep none of its graph; otherwise memory would grow until the next log line.
    """
    chosen = ("optimizer.beta1=0.5", "optimizer.warmup=4", "optimizer.learning_rate=0.01")
    gradients = []
    for weight in (1, 3):
        one = trainer(out, *chosen, f"weights.agreement={weight}")
        before = one.model.ear.weight.detach().clone()
        terms = one.step(1, 4, one.batches[0, 0])
        assert not terms["agreement"].requires_grad
        assert one.model.ear.weight.grad is not None
        gradients.append(one.model.ear.weight.grad)
        change = float((one.model.ear.weight.detach() - before).abs().max())
        assert change == pytest.approx(0.01 / 4, rel=0.01)  # Adam's first step is as long as its rate
        assert one.phases["ears"].defaults["betas"] == (0.5, one.settings.optimizer.beta2)
    torch.testing.assert_close(gradients[1], 3 * gradients[0])


def test_a_run_has_the_weights_and_batches_of_its_seed(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another seed begins with other weights and reads other batches.

    The window of shards and the memory for frames are those of the settings.
    """
    limits: list[int] = []
    monkeypatch.setattr(loop, "FrameStore", lambda limit: limits.append(limit) or FrameStore(limit))
    train(out, tmp_path / "run", "steps.listen=1", "steps.talk=0", "seed=1", "data.cache_mib=3")
    assert limits == [3 << 20]
    saved = checkpoint.load(tmp_path / "run")
    torch.manual_seed(1)
    assert torch.equal(saved.weights["face.weight"], models.build("toy", saved.dimensions).face.weight)
    first, second = (trainer(out, f"seed={seed}", "data.window=1").batches for seed in (0, 1))
    assert first[0, 0].keys != second[0, 0].keys
    assert first.window == 1


def test_a_resumed_run_keeps_its_last_validation(out: Path, tmp_path: Path) -> None:
    """What the last validation measured, of as many clips as are wanted, stays in the checkpoint until the next one."""
    with interrupted.after("talk", 1):
        train(out, tmp_path, "steps.listen=1", "loop.validate_every=1", "loop.validation_clips=3")
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {r["validation"]["video_to_audio"]["n_clips"] for r in rows if "validation" in r} == {3}
    with interrupted.after("talk", 2):
        train(out, tmp_path, "steps.listen=1", "loop.validation_clips=3")
    first, second = (checkpoint.read(tmp_path / name, states.KIND)[0] for name in (states.PREVIOUS, states.NAME))
    assert (first["step"], second["step"]) == (1, 2)
    assert first["settings"]["talking"] == second["settings"]["talking"]


@pytest.mark.parametrize("stage", ["listen", "talk"])
def test_it_goes_on_bit_for_bit(out: Path, run: Path, tmp_path: Path, stage: str) -> None:
    """A run that was killed in either stage ends byte-identical to an uninterrupted one."""
    train(out, Path(shutil.copytree(run.parent / stage, tmp_path / "run")))
    interrupted.assert_same_bytes(run, tmp_path / "run")


def test_it_is_evaluated(out: Path, run: Path, tmp_path: Path) -> None:
    """The evaluation measures what the model supports; the page gives reasons for the rest."""
    settings = evaluation.EvaluationSettings(batch_size=3, workers=0)
    found = evaluation.evaluate(run, out, tmp_path, settings, say=lambda _: None)
    assert found["retrieval"]["video_to_audio"]["n_clips"] == 4
    assert found["reconstruction"]["audio"]["n_frames"] == 4 * 7
    assert found["generated_retrieval"].keys() == {"audio", "video", "repeated"}
    assert found["missing"]["recognition"] == "the model does not recognise words"
    assert found["missing"]["words_from_identity"] == "the model does not encode the identity of frames in a row"
    assert {path.name for path in tmp_path.iterdir()} >= {"metrics.json", "evaluation.md", "samples.png", "ranks.png"}


def test_it_makes_a_film(run: Path, tmp_path: Path) -> None:
    """`avprep generate` makes a video of a photo and a speech; unsupported options give one line."""
    cv2.imwrite(str(tmp_path / "photo.png"), np.full((256, 256, 3), 90, np.uint8))
    made_media.write_wav(tmp_path / "speech.wav", made_media.noise(0.6, 16_000), 16_000)
    arguments = ["generate", run, "--face", tmp_path / "photo.png", "--aligned", "--audio", tmp_path / "speech.wav"]
    command: list[Any] = [*arguments, "-o", tmp_path / "film.mp4"]
    made = CliRunner().invoke(main, [str(argument) for argument in command])
    assert made.exit_code == 0, made.output
    assert len(list(Frames(tmp_path / "film.mp4"))) == 15
    tuned = CliRunner().invoke(main, [str(argument) for argument in (*command, "--adapt-steps", 1)])
    assert tuned.exit_code == 1
    assert "the model toy cannot be tuned to a face" in tuned.stderr


@pytest.mark.parametrize("device", ["xpu9", "nowhere", "cuda:99"])
def test_a_device_that_is_not_there(run: Path, device: str) -> None:
    """A device that this machine does not have gives one line."""
    with pytest.raises(SettingsError, match=rf"^device '{device}' cannot be used here: "):
        davs_model.load(run, device=device)


def test_the_command_trains_it(out: Path, tmp_path: Path) -> None:
    """`avprep train --model toy` accepts its preset and its stages and refuses others in one line, like `ablate`."""

    def call(*words: object) -> Result:
        return CliRunner().invoke(main, [str(word) for word in words])

    overrides = [word for text in (*QUICK, "steps.listen=1", "steps.talk=1") for word in ("--set", text)]
    words = ("train", out, tmp_path / "run", "--model", "toy", *overrides)
    made = call(*words, "--preset", "plain")
    assert made.exit_code == 0, made.output
    assert checkpoint.load(tmp_path / "run").settings["steps"] == {"listen": 1, "talk": 1}
    for more, status, line in (
        (("--stage", "full"), 2, "--stage full: the model toy has listen, talk"),
        (("--preset", "small"), 2, "'small' is not one of plain"),
    ):
        refused = call(*words, *more)
        assert (refused.exit_code, line in refused.stderr) == (status, True), refused.output
    refused = call("ablate", out, tmp_path / "rows", "--model", "toy")
    assert (refused.exit_code, "the model toy has no ablation" in refused.stderr) == (1, True), refused.output


def test_its_settings_are_its_own(run: Path) -> None:
    """The model's sections appear among those of any run, and errors name the nearest of its settings."""
    kind = models.find("toy").Settings
    assert kind.resolve(file=run / "settings.toml") == kind.resolve(None, None, QUICK)
    with pytest.raises(SettingsError, match=r"no setting steps.listn; did you mean steps.listen\?"):
        kind.resolve(None, None, ["steps.listn=3"])
    with pytest.raises(SettingsError, match=r"preset = \"small\" must be one of plain"):
        kind.resolve("small")


def test_a_model_that_is_not_there(run: Path, tmp_path: Path) -> None:
    """A checkpoint of an unknown model is refused in one line, and nothing is imported by its name."""
    saved = checkpoint.load(run)
    object.__setattr__(saved, "name", "antigravity")
    with pytest.raises(CheckpointError, match="antigravity"):
        checkpoint.save(tmp_path, saved)
    assert torch.is_tensor(next(iter(saved.weights.values())))
