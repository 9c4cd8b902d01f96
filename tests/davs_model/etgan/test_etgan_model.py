"""ET-GAN-ACW as a model: its shapes, weights and stages, from training to a video."""

from __future__ import annotations

import json
import math
import shutil
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
from small_models import made_model
from tiny_shards import make_shards
from torch import Tensor

from avprep.demo import drawing, speech
from avprep.demo.expression import expression
from avprep.errors import RunError
from avprep.talking import inputs
from avprep.talking.person import Person
from davs_model import checkpoint
from davs_model.data.corpus import read_corpus
from davs_model.data.sampling import spread
from davs_model.film import PhotoTalker
from davs_model.generation import Talker
from davs_model.models.base import EXPRESSION, EXPRESSION_FRAMES, SOUND
from davs_model.models.etgan import Settings, corruption, objective
from davs_model.models.etgan.corruption import Inputs
from davs_model.models.etgan.dimensions import MODALITIES
from davs_model.models.etgan.networks import ETGAN
from davs_model.models.etgan.stages import READERS, judges
from davs_model.training import loop

pytestmark = pytest.mark.usefixtures("one_thread")

EMOTIONS = ("happy", "neutral", "sad")
QUICK = (
    "model.width=0.05",
    "model.audio_width=0",
    "model.mouth_size=0",
    "model.speech_frames=8",
    "data.batch_size=3",
    "data.cache_mib=0",
    "generation.views=2",
    "adversaries.frame_from=0",
    "adversaries.clip_from=0",
    "loop.log_every=1",
    "loop.save_every=2",
    "loop.talking_clips=4",
    "steps.identity=1",
    "steps.speech=1",
    "steps.judge=1",
    "steps.expression=2",
    "steps.full=3",
)
SIZES = {
    "n_words": 3,
    "n_people": 3,
    "n_speakers": 3,
    "n_emotions": 3,
    "width": 0.05,
    "image_size": 64,
    "identity_scales": 4,
    "blend": 1,
    "speech_map": 4,
}


def made(seed: int = 0, **sizes: float) -> ETGAN:
    """Make a small model."""
    torch.manual_seed(seed)
    return ETGAN(**{**SIZES, **sizes})


def batch(count: int = 3, side: int = 64) -> dict[str, Tensor]:
    """Make the inputs of the full stage, at random."""
    torch.manual_seed(5)
    labels = {name: torch.arange(count) % 3 for name in ("words", "speakers", "emotions")}
    return {
        "run": torch.rand(count, 8, 3, side, side),
        "run_windows": torch.randn(count, 8, 12, 20),
        "positions": torch.randn(count, 8, 14),
        "views": torch.rand(count, 4, 3, side, side),
        EXPRESSION: torch.rand(count, 8, 3, side, side),
        SOUND: torch.stack((torch.zeros(count, 12), torch.ones(count, 12)), 1),
        "judged": torch.rand(count, 4, 3, side, side),
        **labels,
        **{f"{EXPRESSION}_{name}": numbers for name, numbers in labels.items()},
    }


def gradients(model: ETGAN, *terms: str, progress: float = 0.5, overrides: tuple[str, ...] = ()) -> set[str]:
    """Return the networks that have a gradient of these terms."""
    settings = Settings.resolve("small", None, ["corruption.probability=0", *overrides])
    model.zero_grad(set_to_none=True)
    found = model.train().terms(batch(), terms, settings, progress=progress)
    assert found.keys() == set(terms)
    torch.stack(list(found.values())).sum().backward()
    return {name.partition(".")[0] for name, each in model.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("side", [64, 128, 256])
def test_it_generates_frames_of_every_size(side: int) -> None:
    """Frames are `[B, T, 3, S, S]` in [0, 1] and depend on the expression; both discriminators accept them."""
    model = made(image_size=side).eval()
    with torch.no_grad():
        person, speech = model.encode_identity(torch.rand(1, 1, 3, side, side)), torch.randn(1, 8, 256)
        frames = model.decode(person, speech)
        other = model.decode(model.expressing(person, torch.randn(1, 64)), speech[:, :1])
        assert model.frame_discriminator(frames[:, :2]).shape[:2] == (1, 2)
        assert model.clip_discriminator(frames).shape[0] == 1
    assert frames.shape == (1, 8, 3, side, side)
    assert not torch.equal(frames[:, :1], other)
    assert 0 <= float(frames.min()) <= float(frames.max()) <= 1


def test_views_in_any_order_are_one_person() -> None:
    """Views in any order give the same frames, based on the view with most weight; one view gives E_id's output."""
    model = made().eval()
    views, speech = torch.rand(2, 4, 3, 64, 64), torch.randn(2, 3, 256)
    with torch.no_grad():
        frames = [model.decode(model.encode_person(views[:, order]), speech) for order in ([0, 1, 2, 3], [2, 0, 3, 1])]
        alone, plain = model.encode_person(views[:, :1]).identity, model.identity_encoder(views[:, :1])
        model.merge.score[0].weight.mul_(1e4)  # at first all have the same weight
        merged, alpha = model.merge(model.identity_encoder(views))
        _, turned = model.merge(model.identity_encoder(views.flip(1)))
    assert torch.equal(*frames)
    assert all(torch.equal(one, other) for one, other in zip(alone, plain, strict=True))
    assert torch.allclose(alpha.sum(1), torch.ones(2))
    assert torch.allclose(alpha, turned.flip(1))
    assert torch.equal(merged.frames[:, 0], views[torch.arange(2), alpha.argmax(1)])


def test_views_are_summed_by_their_softmax() -> None:
    """α is softmax over the views of u · tanh(W f); features and maps are the sums with it."""
    model = made().eval()
    with torch.no_grad():
        views = model.identity_encoder(torch.rand(2, 3, 3, 64, 64))
        views = views._replace(feature=torch.randn(2, 3, 256))
        merged, alpha = model.merge(views)
        first, last = (model.merge.score[n].weight for n in (0, 2))
        scores = (views.feature @ first.T + model.merge.score[0].bias).tanh() @ last[0]
    expected = scores.exp() / scores.exp().sum(1, keepdim=True)
    assert torch.allclose(alpha, expected, atol=1e-6)
    assert float((alpha - 1 / 3).abs().max()) > 0.05
    for name in ("feature", "quarter", "eighth", "sixteenth", "half"):
        found = torch.einsum("bk,bk...->b...", expected, getattr(views, name))
        assert torch.allclose(getattr(merged, name)[:, 0], found, atol=1e-5), name


def test_weights_are_a_softmax_over_the_modalities_in_groups_of_channels() -> None:
    """w is 4 · softmax over the modalities of the bounded gate less doubt, and multiplies groups of 32 channels."""
    model = made().weighting.eval()
    with torch.no_grad():
        for one in (model.second, *(doubt[-1] for doubt in model.doubt)):
            one.weight.normal_()
            one.bias.normal_()
        features = [torch.randn(2, 5, length) for length in (256, 64, 256, 64)]
        fused, weights = model(*features)
        entered = [enter(one) for enter, one in zip(model.enter, features, strict=True)]
        gate = model.second(model.first(torch.cat(entered, -1)).relu()).tanh()
        doubts = [(1 + doubt(one).exp()).log() for doubt, one in zip(model.doubt, entered, strict=True)]
        powers = [(gate[..., 8 * n : 8 * n + 8] - doubts[n]).exp() for n in range(4)]
        shares = [4 * power / sum(powers) for power in powers]
        weighed = [one * share.repeat_interleave(32, -1) for one, share in zip(entered, shares, strict=True)]
        assert torch.allclose(weights, torch.stack(shares, 2), atol=1e-5)
        assert torch.allclose(fused, model.fuse(torch.cat(weighed, -1)), atol=1e-5)


def test_weights_are_one_on_average_and_equal_at_first() -> None:
    """w has a mean of 1 over the modalities; all are 1 before training, and with weighting off."""
    for adaptive in (1, 0):
        model = made(weighting=adaptive).eval()
        person, speech = model.encode_identity(torch.rand(2, 1, 3, 64, 64)), torch.randn(2, 5, 256)
        with torch.no_grad():
            first = model.modality_weights(person, speech)
            model.weighting.second.weight.normal_()
            later = model.modality_weights(person, speech)
        assert first.shape == (2, 5, 4)
        assert bool((first == 1).all())
        assert torch.allclose(later.mean(-1), torch.ones(2, 5))
        assert bool((later == 1).all()) == (not adaptive)


def test_part_by_part_is_at_once() -> None:
    """A speech decoded in parts of any length gives the same frames as at once, with unknown positions."""
    model = made().eval()
    with torch.no_grad():
        person, speech = model.encode_identity(torch.rand(1, 1, 3, 64, 64)), torch.randn(1, 9, 256)
        whole = model.decode(person, speech)
        parts = torch.cat([model.decode(person, part) for part in speech.split([1, 4, 2, 2], dim=1)], dim=1)
    assert torch.allclose(parts, whole, atol=1e-6)


def test_a_silent_video_of_a_person_is_as_a_photo() -> None:
    """A model driven by audio alone is fine-tuned to the photo alone if the video has no audio."""
    random = np.random.default_rng(0)
    video = random.integers(0, 255, (5, 256, 256, 3), np.uint8)
    speech, heard = (random.normal(size=(count, 12, 20)).astype(np.float32) for count in (4, 5))
    talker = Talker(made())

    def weights(**given: Any) -> Tensor:
        tuned = talker.adapted(video[0], [speech], 1, **given)
        return tuned.model.get_parameter("decoder.last.0.weight").detach()

    photo = weights()
    assert weights(video=video).equal(photo)
    assert not weights(video=video, heard=heard).equal(photo)


def test_a_person_is_learned_with_the_expression_that_they_show() -> None:
    """Fine-tuning to a photo or a video of the person uses the expression shown there."""
    random = np.random.default_rng(0)
    video = random.integers(0, 255, (9, 256, 256, 3), np.uint8)
    speech, heard = (random.normal(size=(count, 12, 20)).astype(np.float32) for count in (4, 9))
    talker, given = Talker(made()), list[Tensor]()
    talker.model.get_submodule("weighting").register_forward_pre_hook(lambda _, features: given.append(features[1]))
    talker.adapted(video[0], [speech], 1)
    talker.adapted(video[0], [speech], 1, video=video, heard=heard)
    photo, shown = (talker.expression(frames) for frames in (video[:1], video[spread(9, EXPRESSION_FRAMES)]))
    assert photo is not None
    assert shown is not None
    assert len(given) == 3  # before the photo is learned, and in each step
    for found, expected in zip(given, (photo, photo, shown), strict=True):
        assert torch.allclose(found, expected.expand_as(found), atol=1e-6)


def test_whose_gradients_are_whose() -> None:
    """Discriminators and readers update themselves alone, and the targets of the frames get no gradient."""
    model = made()
    generator = {
        "identity_encoder",
        "merge",
        "expression_encoder",
        "audio_speech_encoder",
        "position_encoder",
        "weighting",
        "decoder",
    }
    everywhere = generator - {"merge"}  # one view has no weight to learn, and the number of views is random
    assert gradients(model, "judge") == {"judge"}
    assert gradients(model, "frame") == {"frame_discriminator"}
    assert gradients(model, "clip") == {"clip_discriminator"}
    assert gradients(model, "emotion") == {"expression_encoder", "emotion_classifier"}
    for name in ("expression_person", "expression_word"):
        assert gradients(model, name) == {f"{name}_classifier"}
        assert gradients(model, f"{name}_confusion") == {"expression_encoder"}
    for term in ("reconstruction", "mouth", "frame_confusion", "clip_confusion", "read", "retained", "spoken"):
        found = gradients(model, term)
        assert everywhere <= found <= generator, term
    assert everywhere <= gradients(model, "likeness") <= generator
    assert gradients(model, "doubt") == {"weighting"}  # the encoders do not learn to hide corruption


def test_frames_do_not_move_the_doubts() -> None:
    """Only its own term updates the doubt of a modality: the losses of frames would give noise more weight."""
    model = made()
    for term, doubts in (("reconstruction", False), ("likeness", False), ("doubt", True)):
        gradients(model, term)
        for name, each in model.weighting.named_parameters():
            assert (each.grad is not None) == (name.startswith("doubt.") == doubts), (term, name)


def test_what_is_doubted_weighs_less() -> None:
    """Doubt of a modality takes weight from it in every group of channels, and gives it to the others equally."""
    model = made().eval()
    with torch.no_grad():
        person, speech = model.encode_identity(torch.rand(2, 1, 3, 64, 64)), torch.randn(2, 5, 256)
        model.weighting.doubt[MODALITIES.index("audio")][-1].bias.fill_(3.0)
        weights = model.fuse(person.identity, person.expression, speech)[1]
    # softplus(3) = 3.049 and, where there is no doubt, softplus(0) = 0.693
    least = 4 / (1 + 3 * math.exp(math.log1p(math.exp(3)) - math.log(2)))
    assert torch.allclose(weights[:, :, MODALITIES.index("audio")], torch.full((2, 5, 8), least))
    assert torch.allclose(weights[:, :, MODALITIES.index("identity")], torch.full((2, 5, 8), (4 - least) / 3))


def test_a_step_moves_the_same_whatever_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The terms and gradients are the same for one view or several and for any corruption, so processes can average."""
    settings = Settings.resolve("small")
    stage, found = ETGAN.plan("full", settings), []
    spoil = corruption.spoil
    for views, spoilt in ((1, -1), (4, -1), (1, MODALITIES.index("expression"))):
        model = made()
        factors = model.factors(stage, settings, people_are_speakers=True)

        def drawn(whole: Inputs, _: float, spoilt: int = spoilt) -> Inputs:
            return replace(spoil(whole, 0.0), spoilt=torch.full((3,), spoilt))

        monkeypatch.setattr(corruption, "spoil", drawn)
        given = {**batch(), "views": batch()["views"][:, :views]}
        losses = model.train().terms(given, factors, settings, progress=1.0)
        torch.stack(list(losses.values())).sum().backward()
        moved = {name for name, each in model.named_parameters() if each.grad is not None}
        found.append((set(losses), moved, float(losses["read"].detach()), float(losses["emotion"].detach())))
    assert found[0][:2] == found[1][:2] == found[2][:2]
    assert found[2][2:] == (0, 0)
    assert min(found[0][2:]) > 0


def test_without_labels_there_is_nothing_to_tell_apart() -> None:
    """Without emotion labels, words or several speakers the rest trains; terms that are off are not planned."""
    model = made(n_emotions=0, n_speakers=1, n_words=1, n_people=0, weighting=0)
    settings = Settings.resolve("small", None, ["weights.clip=0"])
    stage = ETGAN.plan("full", settings)
    factors = model.factors(stage, settings, people_are_speakers=True)
    assert not factors.keys() & {
        "person",
        "read",
        "emotion",
        "expression_person",
        "expression_word",
        "doubt",
        "clip",
    }
    assert "clip_discriminator" not in stage.phases[1].networks
    found = model.train().terms(batch(), factors, settings, progress=1.0)
    assert all(bool(value.isfinite()) for value in found.values())


def test_expression_clips_without_a_label_do_not_count() -> None:
    """Words are read from e_exp for single-word clips alone; sentences are left out, and all clips may be sentences."""
    model, settings = made(), Settings.resolve("small", None, ["corruption.probability=0"])
    names = ("expression_word", "expression_word_confusion", "expression_person", "emotion")
    known = batch()
    for label in ("words", "speakers", "emotions"):
        known[f"{EXPRESSION}_{label}"] = torch.tensor([1, -1, -1])
    found = model.terms(known, names, settings)
    assert all(bool(value.isfinite()) and float(value.detach()) > 0 for value in found.values())
    known[f"{EXPRESSION}_words"] = torch.full((3,), -1)
    found = model.terms(known, names, settings)
    assert [float(found[name].detach()) for name in names[:2]] == [0, 0]
    assert all(found[name].requires_grad for name in names)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of shards with emotions; read-only."""
    return make_shards(tmp_path_factory.mktemp("etgan") / "shards", clips=18, people=3, emotions=EMOTIONS)


def train(out: Path, run: Path, *overrides: str) -> list[str]:
    """Train all stages, and return the messages."""
    lines: list[str] = []
    settings = Settings.resolve("small", None, (*QUICK, *overrides))
    loop.train(out, run, settings, stages=tuple(ETGAN.stages), say=lines.append)
    return lines


@pytest.fixture(scope="module")
def run(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all stages, and beside it `killed`, the run as it was during its last stage; read-only."""
    folder = tmp_path_factory.mktemp("etgan") / "run"
    with interrupted.kept({("full", 2): folder.parent / "killed"}):
        train(out, folder)
    return folder


def test_it_trains_in_five_stages(run: Path) -> None:
    """Every stage ends with its steps and its terms; the checkpoint has the emotions' names and their mean e_exp."""
    found = checkpoint.load(run)
    assert found.name == "etgan"
    assert found.settings["emotions"] == list(EMOTIONS)
    assert found.settings["steps"] == {"identity": 1, "speech": 1, "judge": 1, "expression": 2, "full": 3}
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    terms = {r["stage"]: set(r["terms"]) for r in records if "terms" in r}
    assert terms["judge"] == {"judge"}
    assert terms["expression"] == set(objective.EXPRESSIVE)
    assert terms["full"] == {"person", *objective.EXPRESSIVE, *objective.GENERATION} - {"spoken"}
    validations = {r["stage"]: r["validation"] for r in records if "validation" in r}
    assert {"judge_of_real_frames", "expression_code", "self", "cross"} <= validations["full"]["emotions"].keys()
    assert (run / "samples" / "full-000003.png").stat().st_size > 1000
    assert bool((found.weights["expressions_seen"] > 0).all())
    assert bool((found.weights["expressions"].abs().sum(1) > 0).all())


def test_it_goes_on_bit_for_bit(out: Path, run: Path, tmp_path: Path) -> None:
    """A run that was killed in its last stage ends byte-identical to an uninterrupted one."""
    train(out, Path(shutil.copytree(run.parent / "killed", tmp_path / "run")))
    interrupted.assert_same_bytes(run, tmp_path / "run")


def test_the_judge_learns_from_people_of_its_own(out: Path) -> None:
    """A fraction of the labelled people is reserved for the judge; if none can be spared, all stages use them all."""
    settings = Settings.resolve("small", None, QUICK)
    clips = read_corpus(out, settings).train
    of_judge, of_others = (ETGAN.uses(clips, stage, settings) for stage in ("judge", "full"))
    assert bool((of_judge == ~of_others).all())
    assert len(set(clips.speakers[of_judge])) == 1
    assert bool((ETGAN.uses(clips, "expression", settings) == of_others).all())
    assert bool(ETGAN.uses(clips, "speech", settings).all())
    assert not judges(clips, 0.1).any()
    nobody = Settings.resolve("small", None, ["judge.people=0"])
    assert bool(ETGAN.uses(clips, "judge", nobody).all())
    assert bool(ETGAN.uses(clips, "full", nobody).all())


def test_clips_without_emotions_leave_stages_out(tmp_path: Path) -> None:
    """On clips without emotion labels judge and expression are left out with a message, and the rest trains."""
    out = make_shards(tmp_path / "shards", people=1)
    lines = train(out, tmp_path / "run", "steps.speech=1", "steps.full=1")
    left = [line for line in lines if "left out: " in line and "labelled emotions" in line]
    assert [line.partition(":")[0] for line in left] == ["judge", "expression"]
    assert checkpoint.load(tmp_path / "run").settings["steps"]["full"] == 1


def test_a_talker_goes_on_from_run_to_run(run: Path) -> None:
    """The frames of a talker do not depend on how the windows are divided."""
    talker = Talker.load(run, device="cpu")
    face = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
    windows = np.random.default_rng(1).standard_normal((9, 12, 20)).astype(np.float32)
    at_once = np.stack(list(talker.talk(face, [windows])))
    in_parts = np.stack(list(talker.talk(face, [windows[:2], windows[2:7], windows[7:]])))
    assert np.array_equal(at_once, in_parts)


def test_readers_are_networks_of_the_model() -> None:
    """The names of stages and phases are attributes of the model."""
    model = made()
    for stage in ETGAN.stages.values():
        for name in (*stage.frozen, *(one for phase in stage.phases for one in phase.networks)):
            assert hasattr(model, name), name
    assert all(hasattr(model, name) for name in READERS)


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """Make soft images (n, 256, 256, 3), each a different one."""
    coarse = np.random.default_rng(seed).integers(0, 255, (count, 4, 4, 3), np.uint8)
    return np.stack([cv2.resize(one, (256, 256)) for one in coarse])


def test_an_expression_is_a_clip_or_an_emotion(run: Path) -> None:
    """The default is the neutral emotion, or without one the mean of all; a clip gives its own code."""
    talker, windows = Talker.load(run, device="cpu"), np.zeros((2, 12, 20), np.float32)
    assert talker.emotions == EMOTIONS

    codes = [talker.expression(), *(talker.expression(emotion=name) for name in ("neutral", "happy"))]
    clip = talker.expression(pictures(8, 3))
    assert all(code is not None and code.shape == (1, 64) for code in (*codes, clip))
    assert torch.equal(codes[0], codes[1])
    assert not torch.equal(codes[1], codes[2])
    silent, asked = (
        np.stack(list(talker.talk(pictures(1)[0], [windows], expression=code))) for code in (None, codes[1])
    )
    assert np.array_equal(silent, asked)
    person = talker.model.encode_identity(torch.rand(1, 1, 3, 64, 64))
    with torch.no_grad():
        drawn = [
            talker.model.decode(talker.model.expressing(person, code), torch.zeros(1, 2, 256))
            for code in (*codes, clip)
        ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])
    assert not torch.equal(drawn[2], drawn[3])
    talker.emotions = ("happy", "joyful", "sad")
    assert torch.equal(talker.expression(), talker.model.mean_expression())
    with pytest.raises(RunError, match="knows no emotion bored: it knows happy, joyful, sad"):
        talker.expression(emotion="bored")


def test_an_emotion_without_clips_cannot_be_shown(run: Path) -> None:
    """An emotion without training clips is refused and not listed; if it is neutral, the mean is the default."""
    talker = Talker.load(run, device="cpu")
    talker.model.expressions[EMOTIONS.index("neutral")] = 0
    with pytest.raises(RunError, match="learned from no clip of the emotion neutral: it knows happy, sad"):
        talker.expression(emotion="neutral")
    assert torch.equal(talker.expression(), talker.model.mean_expression())


def test_several_pictures_in_any_order(run: Path) -> None:
    """Images of one person in any order give the same frames; in a grid of people each has its own."""
    talker, windows = Talker.load(run, device="cpu"), np.zeros((2, 12, 20), np.float32)
    three = pictures(3)
    first, second = (
        np.stack(list(talker.talk(three[order[0]], [windows], more=three[order[1:]])))
        for order in ([0, 1, 2], [2, 0, 1])
    )
    assert np.array_equal(first, second)
    grid = np.stack(list(talker.talk(three, [windows])))
    alone = np.stack(list(talker.talk(three[1], [windows])))
    assert grid.shape == (2, 3, 256, 256, 3)
    assert np.abs(grid[:, 1].astype(int) - alone).max() <= 1


def generate(run: Path, folder: Path, *arguments: object) -> Result:
    """Run `avprep generate` with two aligned images and an audio file."""
    for name, picture in zip("ab", pictures(2), strict=True):
        cv2.imwrite(str(folder / f"{name}.png"), picture)
    made_media.write_wav(folder / "speech.wav", made_media.noise(0.6, 16_000), 16_000)
    faces = ("--face", folder / "a.png", "--face", folder / "b.png", "--aligned", "--one-person")
    command = ("generate", run, *faces, "--audio", folder / "speech.wav", "-o", folder / "film.mp4", *arguments)
    return CliRunner().invoke(main, [str(argument) for argument in command])


def test_a_film_of_an_emotion_with_its_weights(run: Path, tmp_path: Path) -> None:
    """`generate` makes a video of a person in an emotion, and plots the weight of each modality."""
    done = generate(run, tmp_path, "--emotion", "happy", "--weights-plot", tmp_path / "weights.png")
    assert done.exit_code == 0, done.output
    assert "film.mp4: 15 frames" in done.output
    plot = cv2.imread(str(tmp_path / "weights.png"))
    assert plot is not None
    assert plot.std() > 10


def test_paths_of_a_film_may_be_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`film` accepts each of its paths as text, that of the plot too, relative to the current folder."""
    monkeypatch.chdir(tmp_path)
    made_media.write_wav(tmp_path / "speech.wav", made_media.noise(0.1, 16_000), 16_000)
    cv2.imwrite("photo.png", pictures(1)[0])
    PhotoTalker(made()).film("photo.png", "speech.wav", "film.mp4", aligned=True, weights_plot="weights.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.mp4", "photo.png", "speech.wav", "weights.png"]


def test_a_film_takes_the_expression_of_a_clip(run: Path, tmp_path: Path) -> None:
    """`film` reads an expression from a clip of anyone."""
    speech = made_media.write_wav(tmp_path / "speech.wav", made_media.noise(0.6, 16_000), 16_000)
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), pictures(1)[0])
    clip = Person(pictures(12, 5), None)
    film = PhotoTalker.load(run, device="cpu").film(photo, speech, tmp_path / "a.mp4", aligned=True, expression=clip)
    assert film.n_frames == 15


@pytest.mark.parametrize(
    ("name", "problem", "advice"),
    [
        ("speech.wav", "holds no picture", ": give a video of a face, of a few seconds"),
        (".", "a folder", ": give a video of a face, of a few seconds"),
        ("a.png", "no face was found", "or try another --detector"),
    ],
)
def test_an_expression_is_a_video_of_a_face(run: Path, tmp_path: Path, name: str, problem: str, advice: str) -> None:
    """An audio file, a folder and an image without a face are answered in one line that says what to give instead."""
    done = generate(run, tmp_path, "--expression", tmp_path / name, "--detector", "opencv")
    assert done.exit_code == 1
    (said,) = [line for line in done.output.splitlines() if line.startswith("Error:")]
    assert said.startswith(f"Error: {tmp_path / name}: ")
    assert problem in said
    assert said.endswith(advice)


def test_a_film_takes_the_expression_of_a_photo(run: Path, tmp_path: Path) -> None:
    """A photo acts as a video of one frame, its aligned face; its expression differs from the default."""
    take, who = speech.perform("WATER", speech.speaker(0, 1), 0), speech.speaker(0, 1)
    face = drawing.render(take, who, face=expression("surprised", "high", who, 0))[0]
    cv2.imwrite(str(tmp_path / "face.png"), face[..., ::-1])
    read = inputs.read_expression(tmp_path / "face.png", detector="opencv")
    assert read.crops.shape == (1, 256, 256, 3)
    talker = Talker.load(run, device="cpu")
    codes = talker.expression(read.crops), talker.expression()
    assert codes[0] is not None
    assert codes[1] is not None
    assert not torch.equal(*codes)
    done = generate(run, tmp_path, "--expression", tmp_path / "face.png", "--detector", "opencv")
    assert done.exit_code == 0, done.output


def test_a_wrong_emotion_is_refused_before_photos(run: Path, tmp_path: Path) -> None:
    """A wrong emotion is reported before a wrong photo, by the command and by `film`."""
    done = generate(run, tmp_path, "--face", tmp_path, "--emotion", "bored")
    assert done.output.splitlines()[-1].startswith("Error: the model knows no emotion bored")
    with pytest.raises(RunError, match="knows no emotion bored"):
        PhotoTalker.load(run).film(tmp_path / "none", tmp_path / "none", tmp_path / "a.mp4", emotion="bored")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--emotion", "bored"), "the model knows no emotion bored: it knows happy, neutral, sad"),
        (("--emotion", "sad", "--expression", "."), "give either --expression or --emotion"),
        (("--grid",), "--one-person puts several photos together, --grid shows several people"),
    ],
)
def test_what_cannot_be_shown_is_one_line(run: Path, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    """For an unknown emotion the error lists the known ones; options that exclude each other are refused."""
    done = generate(run, tmp_path, *arguments)
    assert done.exit_code != 0
    assert [line for line in done.output.splitlines() if line.startswith("Error:")] == [f"Error: {said}"]


def test_other_models_take_no_expression(tmp_path: Path) -> None:
    """A model without expressions or weights refuses both in one line, and otherwise generates as usual."""
    speech = made_media.write_wav(tmp_path / "speech.wav", made_media.noise(0.6, 16_000), 16_000)
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), pictures(1)[0])
    talker = PhotoTalker(made_model())
    assert talker.expression() is None
    with pytest.raises(RunError, match="takes no expression: leave out --expression and --emotion"):
        talker.expression(emotion="happy")
    with pytest.raises(RunError, match="weighs no modalities: leave out --weights-plot"):
        talker.film(photo, speech, tmp_path / "film.mp4", aligned=True, weights_plot=tmp_path / "weights.png")
    assert not list(tmp_path.glob("film*")) + list(tmp_path.glob("weights*"))
