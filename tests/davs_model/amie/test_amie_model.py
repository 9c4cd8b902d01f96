"""AMIE as a model: its shapes, recurrence and stages, from training to a video."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any, Literal

import cv2
import interrupted
import made_media
import numpy as np
import pytest
import torch
from avprep_cli.main import main
from click.testing import CliRunner
from small_models import SMALL
from tiny_shards import make_shards
from torch import Tensor

from avprep import schema
from davs_model import adaptation, checkpoint, models
from davs_model.data.batch import empty_batch
from davs_model.data.corpus import read_corpus
from davs_model.data.pictures import WHOLE, Warp
from davs_model.data.sampling import apart
from davs_model.data.sources import ClipSource
from davs_model.evaluation import evaluate as evaluation
from davs_model.generation import Talker
from davs_model.models.amie import Settings, losses, masks, objective
from davs_model.models.amie.networks import AMIE
from davs_model.models.base import PORTRAIT
from davs_model.models.davs import Settings as DavsSettings
from davs_model.training import loop
from davs_model.training.sources import training_shape

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = (
    "model.width=0.05",
    "model.audio_width=0",
    "model.mouth_size=0",
    "model.speech_frames=8",
    "data.batch_size=4",
    "data.cache_mib=0",
    "loop.log_every=1",
    "loop.save_every=2",
    "loop.talking_clips=2",
    "steps.identity=1",
    "steps.speech=1",
    "steps.coherence=2",
    "steps.talk=3",
)
SIZES = {"n_words": 3, "width": 0.05, "image_size": 64, "identity_scales": 4, "blend": 1, "speech_map": 4}


def made(seed: int = 0, **sizes: float) -> AMIE:
    """Make a small model."""
    torch.manual_seed(seed)
    return AMIE(**{**SIZES, **sizes})


def batch(count: int = 2, run: int = 16) -> dict[str, Tensor]:
    """Make the inputs of the talk stage, at random."""
    torch.manual_seed(5)
    return {
        "run": torch.rand(count, run, 3, 64, 64),
        "run_windows": torch.randn(count, run, 12, 20),
        "heard": torch.ones(count, run),
        "corners": torch.rand(count, run, 2, 2) * 40 + torch.tensor([100.0, 190.0]),
        PORTRAIT: torch.rand(count, 1, 3, 64, 64),
        "run_start": torch.tensor(3),
    }


def gradients(model: AMIE, *terms: str, progress: float = 0.5, **overrides: str) -> set[str]:
    """Return the networks that have a gradient of these terms."""
    settings = Settings.resolve(
        "small", None, [f"{name.replace('__', '.')}={value}" for name, value in overrides.items()]
    )
    model.zero_grad(set_to_none=True)
    found = model.train().terms(batch(), terms, settings, progress=progress)
    assert found.keys() == set(terms)
    torch.stack(list(found.values())).sum().backward()
    return {name.partition(".")[0] for name, each in model.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("side", [64, 128, 256])
def test_it_generates_frames_of_every_size(side: int) -> None:
    """Frames are `[B, T, 3, S, S]` in [0, 1], and attention a quarter of their side, for all frames but the first."""
    model = made(image_size=side).eval()
    with torch.no_grad():
        face = model.encode_identity(torch.rand(2, 1, 3, side, side))
        found = model.generate(face, torch.randn(2, 3, 256), rates=[0.5] * 3)
    assert found.frames.shape == (2, 3, 3, side, side)
    assert found.attention.shape == (2, 2, side // 4, side // 4)
    assert float(found.frames.min()) >= 0
    assert float(found.frames.max()) <= 1


def test_part_by_part_is_at_once() -> None:
    """A long speech decoded in parts of any length gives the same frames as at once."""
    model = made().eval()
    with torch.no_grad():
        face = model.encode_identity(torch.rand(2, 1, 3, 64, 64))
        speech = torch.randn(2, 9, 256)
        whole, parts = model.decode(face, speech), []
        for part in speech.split([1, 4, 2, 2], dim=1):
            frames, face = model.decode_on(face, part)
            parts.append(frames)
    assert torch.equal(torch.cat(parts, dim=1), whole)


def test_several_pictures_are_one_person() -> None:
    """Features of several images are averaged, similar images themselves too; a single image is used unchanged."""
    model = made().eval()
    first = torch.rand(1, 1, 3, 64, 64)
    alike, other = (first + 0.02 * torch.randn_like(first)).clamp(0, 1), torch.rand(1, 1, 3, 64, 64)
    with torch.no_grad():
        features = [model.encode_identity(one).identity.feature for one in (first, alike, other)]
        person, alone = model.encode_person(torch.cat((first, alike, other), 1)), model.encode_person(first)
    assert torch.allclose(person.identity.feature, torch.stack(features).mean(0), atol=1e-6)
    assert torch.allclose(person.frame, (first + alike) / 2)
    assert torch.equal(alone.frame, first)
    assert torch.allclose(alone.identity.feature, features[0], atol=1e-6)


def test_a_frame_depends_on_the_one_before() -> None:
    """A change of the previous frame changes the next one; with the mouth masked, a change of the mouth does not."""
    model = made().eval()
    face, speech = model.encode_identity(torch.rand(1, 1, 3, 64, 64)), torch.randn(1, 1, 256)
    other = face.frame.clone()
    other[..., 46:54, 24:40] = 0.0
    with torch.no_grad():
        first, second = (model.generate(face._replace(frame=frame), speech).frames for frame in (face.frame, other))
        masked = [
            model.generate(face._replace(frame=frame), speech, rates=[0.0]).frames for frame in (face.frame, other)
        ]
    assert not torch.equal(first, second)
    assert torch.allclose(masked[0], masked[1], atol=1e-6)


def test_whose_gradients_are_whose() -> None:
    """T's own bound updates T alone, the generator's bound does not update T; the two sides of D are separate too."""
    model = made()
    assert gradients(model, "estimator") == {"estimator"}
    generator = {"identity_encoder", "audio_speech_encoder", "image_encoder", "decoder", "attention"}
    for term in ("mi", "frame_confusion", "perceptual", "face", "lip"):
        assert gradients(model, term) <= generator, term
        assert {"audio_speech_encoder", "decoder"} <= gradients(model, term), term
    assert gradients(model, "frame") == {"frame_discriminator"}
    assert gradients(model, "mask") == {"attention"}
    assert gradients(model, "estimator", mi__asymmetric="false") == {"estimator"}


def test_no_opinion_of_the_estimator_counts_early() -> None:
    """Until a fifth of the steps are done the term is present but 0."""
    settings = Settings.resolve("small")
    early = made().train().terms(batch(), ("mi", "lip"), settings, progress=0.1)
    assert float(early["mi"]) == 0
    assert float(made().train().terms(batch(), ("mi",), settings, progress=0.3)["mi"].detach()) > 0.5


def test_an_asymmetric_estimator_learns_from_real_pairs_alone() -> None:
    """An asymmetric estimator's bound does not depend on the generated frames; a symmetric one's does."""
    bounds: dict[tuple[str, int], float] = {}
    for asymmetric, start in itertools.product(("true", "false"), (-9, 9)):
        settings = Settings.resolve("small", None, [f"mi.asymmetric={asymmetric}"])
        model = made().eval()
        with torch.no_grad():
            model.decoder.last[-1].bias.fill_(start)
            found = model.terms(batch(), ("estimator", "lip"), settings, progress=1.0)
        bounds[asymmetric, start] = float(found["estimator"])
    assert bounds["true", -9] == bounds["true", 9]
    assert bounds["false", -9] != bounds["false", 9]


def paired(model: AMIE, frames: Tensor, first: int, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return T of every joint and of every marginal pair that is heard; frames: of the run, from `first` on."""
    scores = model.estimator(*model.estimator.encode(frames, inputs["run_windows"]))
    pairs: tuple[list[Tensor], list[Tensor]] = ([], [])
    for clip, i, k in itertools.product(*map(range, scores.shape)):
        if inputs["heard"][clip, first + i] and inputs["heard"][clip, k]:
            if k == first + i:
                pairs[0].append(scores[clip, i, k])
            elif abs(first + i - k) >= 3:
                pairs[1].append(scores[clip, i, k])
    return torch.stack(pairs[0]).double(), torch.stack(pairs[1]).double()


@pytest.mark.parametrize("form", ["js", "dv"])
@pytest.mark.parametrize("asymmetric", ["true", "false"])
def test_the_terms_are_those_of_the_paper(form: str, asymmetric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """T maximises the bound of real, or generated, pairs; the generator that of its own frames; D is one of eq. 9."""
    settings = Settings.resolve("paper", None, [f"mi.form={form}", f"mi.asymmetric={asymmetric}"])
    model, inputs, kept = made().eval(), batch(run=12), list[Any]()
    inputs["heard"][0, 4] = inputs["heard"][1, 9] = 0
    generate = AMIE.generate
    monkeypatch.setattr(AMIE, "generate", lambda *args, **more: kept.append(generate(*args, **more)) or kept[-1])
    with torch.no_grad():
        found = model.terms(inputs, objective.TALK, settings, progress=0.95)
        drawn, part = kept[0].frames, slice(3, 9)
        real, windows = inputs["run"][:, part], inputs["run_windows"][:, part]

        def bound(frames: Tensor, first: int) -> float:
            joint, marginal = paired(model, frames, first, inputs)
            if form == "dv":
                return float(joint.mean() - marginal.exp().mean().log())
            return float(-(1 + (-joint).exp()).log().mean() - (1 + marginal.exp()).log().mean())

        true, false = (model.frame_discriminator(frames, windows).sigmoid() for frames in (real, drawn))
        lips = masks.lips(inputs["corners"][:, part], real)[:, :-1]  # of the frame that the attention masks
        expected = {
            "estimator": -bound(inputs["run"], 0) if asymmetric == "true" else -bound(drawn, 3),
            "mi": -bound(drawn, 3),
            "frame": float(-true.log().mean() - (1 - false).log().mean()),
            "frame_confusion": float(-false.log().mean()),
            "face": float((real - drawn).abs().mean()),
            "lip": float((real - drawn)[..., 42:58, 16:48].abs().mean()),
            "mask": float(losses.mask_loss(kept[0].attention, lips)),
        }
    assert found.keys() == {*expected, "perceptual"}
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value, abs=1e-5), name


def test_generated_frames_are_not_in_the_statistics_of_the_estimator() -> None:
    """The running statistics of T are those of real frames alone."""
    settings, model = Settings.resolve("small"), made().train()

    def statistics() -> dict[str, Tensor]:
        found = model.estimator.named_buffers()
        return {name: value.clone() for name, value in found if ".running_" in name and ".unused." not in name}

    before = statistics()
    with torch.no_grad():
        model.terms(batch(), ("mi",), settings, progress=0.5)
    assert all(torch.equal(value, before[name]) for name, value in statistics().items())
    with torch.no_grad():
        model.terms(batch(), ("estimator",), settings, progress=0.5)
    assert not any(torch.equal(value, before[name]) for name, value in statistics().items())


@pytest.mark.parametrize("on", ["face", "both"])
def test_a_mouth_that_is_masked_away_in_the_face_is_not_seen(on: Literal["face", "both"]) -> None:
    """Two input faces that differ in the masked mouth give one frame, although the decoder joins and keeps parts."""
    model, speech = made().eval(), torch.randn(1, 1, 256)
    face = torch.rand(1, 1, 3, 64, 64)
    other = face.clone()
    other[..., 50:54, 24:40] = 0.0
    with torch.no_grad():
        one, two = (
            model.generate(model.encode_identity(seen)._replace(frame=face), speech, on=on, rates=[0.0]).frames
            for seen in (face, other)
        )
        seen = model.decode(model.encode_identity(face), speech), model.decode(model.encode_identity(other), speech)
    assert torch.allclose(one, two, atol=1e-6)
    assert not torch.allclose(*seen, atol=1e-3)


@pytest.mark.parametrize("length", [20, 5])
def test_a_video_of_the_person_is_learned_in_the_order_of_time(length: int) -> None:
    """Each fine-tuning step generates consecutive frames, so that the previous frame is that of the instant before."""
    model, moments = made().eval(), torch.arange(float(length))[None, :, None].expand(1, -1, 256)
    drawn: list[int] = []
    model.decoder.register_forward_pre_hook(lambda _, given: drawn.append(int(given[1][0, 0, -1])))
    adaptation.to_video(model, torch.rand(1, length, 3, 64, 64), moments, 3, seed=0, bf16=False)
    count = min(adaptation.TARGETS, length)
    starts = drawn[::count]
    assert drawn == [start + i for start in starts for i in range(count)]
    assert len(starts) == 3


@pytest.mark.parametrize("on", ["none", "previous", "face", "both"])
def test_what_attention_masks_is_a_setting(on: str) -> None:
    """Training works with each setting; without attention its network has no gradient and no term."""
    settings = Settings.resolve("small", None, [f"attention.on={on}"])
    model = made()
    stage = AMIE.plan("talk", settings)
    factors = model.factors(stage, settings, people_are_speakers=True)
    assert ("mask" in factors) == (on != "none")
    assert ("attention" in stage.phases[0].networks) == (on != "none")
    found = model.train().terms(batch(), factors, settings, progress=0.5)
    assert all(bool(value.isfinite()) for value in found.values())


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of shards; read-only."""
    return make_shards(tmp_path_factory.mktemp("amie") / "shards")


def train(out: Path, run: Path, *overrides: str, init_from: Path | None = None) -> list[str]:
    """Train all stages, and return the messages."""
    lines: list[str] = []
    settings = Settings.resolve("small", None, (*QUICK, *overrides))
    loop.train(out, run, settings, stages=tuple(AMIE.stages), init_from=init_from, say=lines.append)
    return lines


@pytest.fixture(scope="module")
def run(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all stages, and beside it `killed`, the run as it was during its last stage; read-only."""
    folder = tmp_path_factory.mktemp("amie") / "run"
    with interrupted.kept({("talk", 2): folder.parent / "killed"}):
        train(out, folder)
    return folder


def test_it_trains_in_four_stages(run: Path) -> None:
    """Every stage ends with its steps, its terms and a checkpoint that names its model."""
    found = checkpoint.load(run)
    assert found.name == "amie"
    assert found.settings["steps"] == {"identity": 1, "speech": 1, "coherence": 2, "talk": 3}
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    terms = {r["stage"]: set(r["terms"]) for r in records if "terms" in r}
    assert terms["coherence"] == {"estimator"}
    assert terms["talk"] == {"estimator", "mi", "frame", "frame_confusion", "lip", "perceptual", "face", "mask"}
    validations = [r["validation"] for r in records if "validation" in r]
    assert ["coherence" in found for found in validations] == [False, False, True, True]
    assert (run / "samples" / "talk-000003.png").stat().st_size > 1000


def test_it_goes_on_bit_for_bit(out: Path, run: Path, tmp_path: Path) -> None:
    """A run that was killed in its last stage ends byte-identical to an uninterrupted one."""
    train(out, Path(shutil.copytree(run.parent / "killed", tmp_path / "run")))
    interrupted.assert_same_bytes(run, tmp_path / "run")


def test_it_begins_with_the_weights_of_davs(out: Path, tmp_path: Path) -> None:
    """`--init-from` a run of DAVS takes over its identity and speech encoders and its word classifier."""
    davs = DavsSettings.resolve("small", None, [*SMALL, "model.standardise=clip", "steps.identity=1", "steps.speech=1"])
    loop.train(out, tmp_path / "davs", davs, stages=("identity", "speech"), say=lambda _: None)
    skipped = (
        "steps.identity=0",
        "steps.speech=0",
        "steps.coherence=0",
        "steps.talk=1",
        "optimizer.learning_rate=1e-9",
    )
    train(out, tmp_path / "run", *skipped, init_from=tmp_path / "davs")
    before, after = (checkpoint.load(tmp_path / name).weights for name in ("davs", "run"))
    for network in ("visual_speech_encoder", "identity_encoder.stem.conv", "word_classifier"):
        names = [name for name in after if name.startswith(network) and name.endswith("weight")]
        assert names
        for name in names:
            assert torch.allclose(before[name], after[name], atol=1e-6), name


@pytest.mark.parametrize("standardise", ["voice", "corpus"])
def test_the_estimator_hears_what_the_generator_hears(out: Path, tmp_path: Path, standardise: str) -> None:
    """T standardises MFCC like the audio encoder: with the same reference voice or the same statistics."""
    settings = Settings.resolve("small", None, [*QUICK, f"model.standardise={standardise}"])
    loop.train(out, tmp_path / "run", settings, stages=("speech", "coherence"), say=lambda _: None)
    weights = checkpoint.load(tmp_path / "run").weights
    mine, its = (
        {name.removeprefix(network): value for name, value in weights.items() if name.startswith(network)}
        for network in ("audio_speech_encoder.", "estimator.audio_encoder.")
    )
    held = ("voice.precision",) if standardise == "voice" else ("mean", "deviation")
    assert all(mine[name].any() and torch.equal(mine[name], its[name]) for name in held)


def test_corners_are_points_of_the_crop(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mouth corners are the shards' points in the crop, mirrored and moved with the frames, and read with them."""
    settings = Settings.resolve("small", None, ("data.shift=2", *QUICK))
    corpus = read_corpus(out, settings)
    shape = training_shape(AMIE, AMIE.dimensions_for(corpus, settings), AMIE.plan("talk", settings), settings)
    source = ClipSource(corpus.train, shape)
    n_frames = int(corpus.train.n_frames[0])
    points = np.tile(np.array([[0, 0], [0, 0], [0, 0], [50, 97.5], [78, 105]], np.float32), (n_frames, 1, 1))
    affine = np.tile(np.array([[2, 0, 1], [0, 2, 2]], np.float32), (n_frames, 1, 1))
    given = {"points.npy": schema.encode_array(points), "affine.npy": schema.encode_array(affine)}
    read, times = source.read, []

    def reading(row: int, column: str, frames: Any, **options: bool) -> dict[str, bytes]:
        times.append(column)
        return read(row, column, frames, **options) | (given if column == "crop" else {})

    monkeypatch.setattr(source, "read", reading)
    raw = empty_batch(shape, 1)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        source.load(0, raw, 0, rng)
        (left, right), *others = raw["corners"][0].tolist()
        assert all(other == [left, right] for other in others)
        (x, y), slant = ((left[0] + right[0]) / 2, (left[1] + right[1]) / 2), right[1] - left[1]
        assert right[0] - left[0] == 56
        assert abs(y - 204.5) <= 2
        if slant > 0:
            assert (slant, abs(x - 129) <= 2) == (15, True)
        else:
            assert (slant, abs(x - 126) <= 2) == (-15, True)
    assert times == ["mfcc", "crop"] * 4


def test_a_portrait_keeps_apart() -> None:
    """A portrait is at least eight frames away from a run, or as far as the clip allows."""
    rng = np.random.default_rng(0)
    assert {apart(40, range(10, 26), rng) for _ in range(400)} == {0, 1, 2, *range(33, 40)}
    assert {apart(20, range(2, 18), rng) for _ in range(100)} == {0, 19}


def test_it_is_evaluated_by_what_drives_it(out: Path, run: Path, tmp_path: Path) -> None:
    """AMIE is evaluated on frames from audio alone, and the tables do not mention video."""
    settings = evaluation.EvaluationSettings(batch_size=3, workers=0, svm_clips=2, talking_clips=2)
    found = evaluation.evaluate(run, out, tmp_path, settings, say=lambda _: None)
    assert found["reconstruction"].keys() == {"audio", "repeated"}
    assert found["generated_retrieval"].keys() == {"audio", "repeated"}
    assert "video" not in found["talking"]
    assert len(found["own"]["coherence"]["facts"]["bound"]) == 21
    assert "## Audio-visual coherence" in (tmp_path / "evaluation.md").read_text(encoding="utf-8")
    assert "Audio-visual coherence" in (tmp_path / "evaluation.html").read_text(encoding="utf-8")


def test_a_talker_goes_on_from_run_to_run(run: Path) -> None:
    """The frames of a talker do not depend on how the windows are divided."""
    talker = Talker.load(run, device="cpu")
    face = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
    windows = np.random.default_rng(1).standard_normal((9, 12, 20)).astype(np.float32)
    at_once = np.stack(list(talker.talk(face, [windows])))
    in_parts = np.stack(list(talker.talk(face, [windows[:2], windows[2:7], windows[7:]])))
    assert np.array_equal(at_once, in_parts)


def test_a_video_drives_it_by_its_sound(run: Path, tmp_path: Path) -> None:
    """`avprep generate --video` uses the audio of the video, and says so."""
    cv2.imwrite(str(tmp_path / "photo.png"), np.full((256, 256, 3), 90, np.uint8))
    made_media.write_wav(tmp_path / "speech.wav", made_media.noise(0.6, 16_000), 16_000)
    arguments = ["generate", run, "--face", tmp_path / "photo.png", "--aligned", "--video", tmp_path / "speech.wav"]
    command: list[Any] = [*arguments, "-o", tmp_path / "film.mp4"]
    done = CliRunner().invoke(main, [str(argument) for argument in command])
    assert done.exit_code == 0, done.output
    assert "its audio drives the face: the model amie takes nothing else" in done.output


@pytest.mark.parametrize("name", models.names())
def test_settings_know_the_stages(name: str) -> None:
    """The settings of a model, which need no torch, list its stages in the order of training."""
    assert models.settings(name).stages() == tuple(models.find(name).stages)


def test_points_move_as_the_pictures_do() -> None:
    """A bright spot of a warped crop is where the warp maps its point."""
    rng = np.random.default_rng(3)
    for _ in range(5):
        warp = Warp.draw(rng, 0.15)
        frame = np.zeros((1, 256, 256, 3), np.uint8)
        cv2.circle(frame[0], (150, 190), 6, (255, 255, 255), -1)
        warp.apply(frame, WHOLE)
        y, x = np.average(np.indices((256, 256)).reshape(2, -1), axis=1, weights=frame[0, :, :, 0].ravel())
        assert warp.points(np.array([150, 190], np.float32)) == pytest.approx((x, y), abs=0.3)
