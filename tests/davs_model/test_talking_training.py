"""Training of talking faces: random moments, precomputed features, several OUT, and the measures."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import interrupted
import numpy as np
import pytest
import torch
from small_models import made_model
from tiny_shards import make_shards

from avprep.errors import RunError, ShardError
from davs_model import checkpoint
from davs_model.checkpoint import Checkpoint
from davs_model.data.batches import EvaluationBatches
from davs_model.data.clips import joined, read_clips
from davs_model.data.corpus import read_corpus
from davs_model.data.loader import first_batch
from davs_model.data.reads import Shape
from davs_model.data.sources import ClipSource
from davs_model.evaluation import embed, samples, talk
from davs_model.evaluation.evaluate import EvaluationSettings, evaluate
from davs_model.generation import Heard, Talker
from davs_model.models.base import SOUND
from davs_model.models.davs import Settings, losses, objective
from davs_model.models.davs.dimensions import Dimensions
from davs_model.models.davs.networks import DAVS
from davs_model.models.davs.networks.classifiers import IdentityWordClassifier
from davs_model.models.davs.networks.decoder import moved
from davs_model.models.davs.networks.speech import AudioSpeechEncoder, sound_statistics
from davs_model.models.davs.settings import STANDARDISE
from davs_model.training import codes, loop
from davs_model.training import state as states
from davs_model.training.distributed import World
from davs_model.training.sources import training_shape, validation_shape
from davs_model.training.step import StageTrainer

TINY = (
    "model.width=0.05",
    "model.audio_width=0.05",
    "model.speech_map=2",
    "model.speech_frames=8",
    "model.identity_frames=9",
    "data.batch_size=4",
    "machine.threads=1",
    "loop.log_every=1",
    "loop.talking_clips=2",
    "steps.identity=0",
    "steps.speech=1",
    "steps.full=2",
)
VISUAL = "visual_speech_encoder."
pytestmark = pytest.mark.usefixtures("one_thread")


def train(out: Path | list[Path], run: Path, *overrides: str, **more: Any) -> list[str]:
    """Train the preset `small` at a tiny size; return the messages."""
    lines: list[str] = []
    settings = Settings.resolve("small", None, (*TINY, *overrides))
    loop.train(out, run, settings, **{"stages": ("speech", "full"), "say": lines.append, **more})
    return lines


@pytest.fixture(scope="module")
def run(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the preset `small` at a tiny size; read-only."""
    folder = tmp_path_factory.mktemp("run") / "run"
    before = torch.get_num_threads()
    train(out, folder)
    torch.set_num_threads(before)
    return folder


def test_the_checkpoint_says_whether_it_talks(run: Path) -> None:
    """Validation figures are stored with the weights; a one-line message reports a model that does not talk."""
    saved = checkpoint.load(run)
    found = saved.settings["talking"]
    assert found.keys() == {"audio", "wrong_audio", "talks"}
    assert found["audio"]["n_clips"] == 2
    mute = Checkpoint(
        saved.name, saved.dimensions, {**saved.settings, "talking": {**found, "talks": False}}, saved.weights
    )
    checkpoint.save(run.parent / "mute", mute)
    assert "does not talk" in Talker.load(run.parent / "mute").doubt
    fluent = Checkpoint(
        saved.name, saved.dimensions, {**saved.settings, "talking": {**found, "talks": True}}, saved.weights
    )
    checkpoint.save(run.parent / "fluent", fluent)
    assert Talker.load(run.parent / "fluent").doubt == ""


def test_what_is_measured_no_more_leaves_the_checkpoint(out: Path, tmp_path: Path) -> None:
    """A run that is resumed without generating whole clips ends without the figures of earlier weights."""
    every = ("loop.save_every=1", "loop.validate_every=1")
    with interrupted.after("full", 1):
        train(out, tmp_path / "run", *every, stages=("full",))
    before = states.load(tmp_path / "run")
    assert before is not None
    assert "talking" in before[0].checkpoint.settings
    train(out, tmp_path / "run", *every, "loop.talking_clips=0", stages=("full",))
    assert "talking" not in checkpoint.load(tmp_path / "run").settings


def test_a_broken_clip_ends_no_validation(out: Path, tmp_path: Path) -> None:
    """An unreadable val clip that is a batch by itself ends neither a run nor an evaluation."""
    copied = Path(shutil.copytree(out, tmp_path / "out"))
    clips = read_clips(copied, "val")
    with (copied / "crop" / f"{clips.shards[clips.shard[3]]}.tar").open("r+b") as file:
        file.seek(int(clips.places[3, 0, 0]) + 257)
        file.write(b"XXXXX")
    train(copied, tmp_path / "run", "data.batch_size=3", stages=("full",))
    how = EvaluationSettings(split="val", batch_size=3, workers=0, talking_clips=2)
    metrics = evaluate(tmp_path / "run", copied, tmp_path / "measured", how, say=lambda _: None)
    assert metrics["data"]["clips"] == 3
    assert metrics["data"]["skipped"] == {"cannot be read": 1}


def test_features_of_a_long_clip_are_computed_part_by_part(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Precomputed features equal those of all frames at once, however few are encoded together."""
    clips, model = read_clips(out, "train").rows(np.arange(2)), made_model()
    whole = codes.codes_of(model, clips, torch.device("cpu"))
    monkeypatch.setattr(codes, "AT_ONCE", 10)
    parts = codes.codes_of(model, clips, torch.device("cpu"))
    for one, other in zip(whole, parts, strict=True):
        assert one.shape == other.shape == (29, 256)
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_what_is_computed_once_fits_what_is_read_later() -> None:
    """Frames in memory are not shifted, and those with precomputed features, if they are not warped, nor mirrored.

    A voice falls and rises as far as each setting allows.
    """

    def shape(*overrides: str) -> Shape:
        settings = Settings.resolve("small", None, (*TINY, "data.shift=3", "data.voice_down=0.1", *overrides))
        dimensions = {"speech_frames": 8, "identity_frames": 9, "sequence_frames": 4, "image_size": 64}
        return training_shape(DAVS, dimensions, DAVS.plan("full", settings), settings)

    plain = ("generation.visual=train", "data.cache_mib=0", "data.warp=0", "data.voice_up=0.2")
    assert (shape(*plain).flip, shape(*plain).shift, shape(*plain).voice) == (True, 3, (0.1, 0.2))
    kept, cached = shape(*plain, "data.cache_mib=1"), shape(*plain, "generation.visual=cache")
    assert ((kept.flip, kept.shift), (cached.flip, cached.shift)) == ((True, 0), (False, 0))
    assert shape(*plain, "generation.visual=cache", "data.warp=0.1").flip


def test_a_clip_without_features_is_not_learned_from(out: Path, tmp_path: Path) -> None:
    """A clip with a damaged frame has no precomputed features: it is skipped whatever frames are requested."""
    copied = Path(shutil.copytree(out, tmp_path / "out"))
    clips = read_clips(copied, "train")
    path, (offset, length) = copied / "crop" / f"{clips.shards[clips.shard[0]]}.tar", clips.places[0, 0].tolist()
    tar = bytearray(path.read_bytes())
    picture = offset + tar[offset : offset + length].index(f"{clips.key(0)}.028.jpg".encode()) + 512
    tar[picture : picture + 400] = bytes(400)
    path.write_bytes(tar)
    settings = Settings.resolve("small", None, (*TINY, "data.cache_mib=0"))
    corpus = read_corpus(copied, settings)
    model = DAVS(**DAVS.dimensions_for(corpus, settings))
    trainer = StageTrainer.of(DAVS.plan("full", settings), model, corpus, settings, World(), torch.device("cpu"))
    read = [trainer.batches[epoch, number] for epoch in range(3) for number in range(len(trainer.batches))]
    assert {key for batch in read for key, _ in batch.skipped} == {clips.key(0)}
    assert clips.key(0) not in {key for batch in read for key in batch.keys}
    assert all(batch["target_codes"].any(-1).all() for batch in read)


def test_a_frozen_encoder_stays_as_it_is(out: Path, run: Path, tmp_path: Path) -> None:
    """The full stage does not change E_w^v, which has no moments, with precomputed features or without."""
    train(out, tmp_path / "frozen", "generation.visual=freeze")
    frozen, kept = (states.load(folder) for folder in (tmp_path / "frozen", run))
    assert frozen is not None
    assert kept is not None
    for name, value in frozen[0].checkpoint.weights.items():
        if name.startswith(VISUAL):
            assert torch.equal(value, kept[0].checkpoint.weights[name]), name
    assert any(name.startswith("model/decoder") for name in kept[0].moments)
    assert not any(VISUAL in name for name in (*kept[0].moments, *frozen[0].moments))


JUDGED = ("weights.sequence=0.05", "adversaries.gan_from=0.6", "adversaries.wrong_sound=true", "steps.full=4")
SAVED = "loop.save_every=2"


def test_the_gan_begins_when_it_is_told_to(out: Path, tmp_path: Path) -> None:
    """L_GAN is computed and D_seq updated from its fraction on; a killed run of this stage alone continues alike."""
    with interrupted.kept({("full", 2): tmp_path / "parts"}):
        train(out, tmp_path / "whole", *JUDGED, SAVED, stages=("full",))
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    steps = {line["step"]: line["terms"] for line in lines if line["stage"] == "full" and "terms" in line}
    assert [name for name in steps[4] if name.startswith("sequence")] == ["sequence", "sequence_confusion"]
    assert [any(name.startswith("sequence") for name in steps[step]) for step in (1, 2, 3, 4)] == [
        False,
        False,
        True,
        True,
    ]
    part = states.load(tmp_path / "parts")
    assert part is not None
    before = part[0].checkpoint.weights
    train(out, tmp_path / "parts", *JUDGED, SAVED, stages=("full",))
    found, wanted = (checkpoint.load(tmp_path / name).weights for name in ("parts", "whole"))
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    judge = "sequence_discriminator.patch.weight"
    assert not torch.equal(before[judge], found[judge])


@pytest.mark.parametrize("visual", ["train", "freeze", "cache"])
def test_frames_in_a_row_are_read_for_the_gan_alone(out: Path, visual: str) -> None:
    """Without L_GAN a stage has the usual reads; with it also six frames, every second one, and their drivers."""
    plain, judged = (
        Settings.resolve("small", None, (*TINY, f"generation.visual={visual}", *more)) for more in ((), JUDGED)
    )
    sizes = DAVS.dimensions_for(read_corpus(out, judged), judged)
    reads = DAVS.training_reads(sizes, "full", judged)
    more = set(DAVS.plan("full", judged).reads) - set(DAVS.plan("full", plain).reads)
    assert more == {"run", "run_windows", "run_codes" if visual == "cache" else "run_frames"}
    assert {(reads[name].length, reads[name].beside or "run") for name in more} == {(6, "run")}
    assert reads["run"].span() == 11
    assert list(reads)[-4:] == ["run", "run_windows", "run_frames", "run_codes"]  # drawn after all others


@pytest.mark.parametrize(("visual", "judged"), [("cache", 1), ("cache", 0), ("train", 1)])
def test_without_terms_of_pictures_the_others_are_learned(out: Path, visual: str, judged: int) -> None:
    """If no weight needs images at random moments, the other terms are computed, L_GAN on consecutive frames."""
    off = [f"weights.{name}=0" for name in objective.PICTURES]
    chosen = (*TINY, *off, f"weights.sequence={judged}", f"generation.visual={visual}", "data.batch_size=2")
    settings = Settings.resolve("small", None, chosen)
    corpus = read_corpus(out, settings)
    model = DAVS(**DAVS.dimensions_for(corpus, settings))
    trainer = StageTrainer.of(DAVS.plan("full", settings), model, corpus, settings, World(), torch.device("cpu"))
    found = trainer.step(1, 1, trainer.batches[0, 0])
    assert found.keys() == {"word", "contrastive", "person", *(("sequence", "sequence_confusion") if judged else ())}


def test_an_adversary_that_has_not_begun_leaves_the_rest() -> None:
    """Both sides of L_adv^D begin at their fraction, but in a stage without other terms at once."""
    settings = Settings.resolve("small", None, ("adversaries.domain_from=0.5",))
    wanted = ("word", "domain", "domain_confusion")
    assert list(objective.begun(wanted, settings, 0.49)) == ["word"]
    assert list(objective.begun(wanted, settings, 0.5)) == list(wanted)
    assert list(objective.begun(wanted[1:], settings, 0.1)) == list(wanted[1:])


def test_words_are_taken_out_in_the_identity_stage(out: Path, tmp_path: Path) -> None:
    """With the setting, eq. 2 and 3 are terms of the identity stage and update C_p^w, which may read the features."""
    settings = Settings.resolve(
        "small",
        None,
        (*TINY, "steps.identity=1", "adversaries.identity_stage=true", "weights.identity_word=1"),
    )
    featured = settings.model_copy(update={"model": settings.model.model_copy(update={"identity_words": "feature"})})
    for name, chosen in (("maps", settings), ("feature", featured)):
        loop.train(out, tmp_path / name, chosen, stages=("identity",), say=lambda _: None)
        state = states.load(tmp_path / name)
        assert state is not None
        assert any(moment.startswith("discriminators/identity_word_classifier") for moment in state[0].moments)
        words = state[0].checkpoint.model().identity_word_classifier
        assert words.from_feature is (name == "feature")
        read = torch.randn(2, 9, *words.shape)
        assert words(read).shape == (2, 3)
    assert "identity_word" not in DAVS.plan("identity", Settings.resolve("small", None, TINY)).terms


def test_words_are_read_from_how_features_change() -> None:
    """C_p^w does not depend on the person, and in training does not respond to changes far below its noise."""
    torch.manual_seed(0)
    words = IdentityWordClassifier(n_words=3, from_feature=True)
    words.dropout.p = 0.0
    changes, people = torch.randn(8, 20, 256), torch.randn(8, 1, 256)
    found = []
    for size in (1.0, 1e-3, 0.0):
        torch.manual_seed(1)
        found.append(words(size * changes + people).detach())
    assert float((found[0] - found[2]).std()) > 0.05
    torch.testing.assert_close(found[1], found[2], rtol=0.0, atol=0.002)
    words.eval()
    torch.testing.assert_close(words(changes + people), words(changes), rtol=1e-4, atol=1e-4)


def test_several_out_are_mixed_by_their_shares(out: Path, tmp_path: Path) -> None:
    """Labels of all OUT are merged, the smaller OUT is repeated, and every clip is used."""
    other = make_shards(tmp_path / "other", clips=4, words=2, people=1)
    settings = Settings.resolve("small", None, TINY)
    both = read_corpus([out, other], settings, (0.25, 0.75))
    assert len(both.train) == 8 + 24
    assert both.train.label_names["words"] == ("word0", "word1", "word2")
    assert len(both.val) == 8
    folders = [both.train.folder(row) for row in range(len(both.train))]
    assert (folders.count(out), folders.count(other)) == (8, 24)
    keys = {(folder, both.train.key(row)) for row, folder in enumerate(folders)}
    assert len(keys) == 12
    assert len(read_corpus([out, other], settings).train) == 12
    lines = train([out, other], tmp_path / "run", "steps.full=1", stages=("full",), shares=(1, 1))
    assert any("full 1/1" in line for line in lines)


def test_windows_of_two_presets_do_not_mix(out: Path, tmp_path: Path) -> None:
    """OUT whose windows have different presets are refused, with both named."""
    tables = [read_clips(out, "train") for _ in range(2)]
    object.__setattr__(tables[1], "mfcc_preset", "syncnet")
    with pytest.raises(ShardError, match="different presets"):
        joined(tables)


@pytest.fixture(scope="module")
def measured(out: Path, run: Path) -> dict[str, dict[str, float]]:
    """The evaluation of that run on three whole clips; read-only."""
    saved = checkpoint.load(run)
    clips = read_clips(out, "test", label_names={"words": tuple(saved.settings["words"])})
    return talk.measure(saved.model(), clips, torch.device("cpu"), limit=3)


def test_the_whole_clip_is_measured(out: Path, run: Path, measured: dict[str, dict[str, float]]) -> None:
    """Evaluation generates whole clips from audio, video and wrong audio, and compares two still baselines."""
    saved, found = checkpoint.load(run), measured
    clips = read_clips(out, "test", label_names={"words": tuple(saved.settings["words"])})
    assert found.keys() == {"audio", "wrong_audio", "video", "repeated", "mean"}
    assert found["audio"]["n_clips"] == found["wrong_audio"]["n_clips"] == 3
    assert found["repeated"]["amplitude"] == pytest.approx(0, abs=1e-3)
    assert found["mean"]["mouth_psnr"] > found["repeated"]["mouth_psnr"]
    assert talk.measure(saved.model(), clips, torch.device("cpu"), limit=1) == {}


def test_a_scale_of_the_features_reaches_what_is_heard_alone(
    out: Path, run: Path, measured: dict[str, dict[str, float]]
) -> None:
    """Evaluation with a factor of the audio features changes the frames from audio, not those from video."""
    saved = checkpoint.load(run)
    clips = read_clips(out, "test", label_names={"words": tuple(saved.settings["words"])})
    more = talk.measure(saved.model(), clips, torch.device("cpu"), limit=3, scale=4.0)
    for name, plain in measured.items():
        assert (plain == more[name]) is (name not in ("audio", "wrong_audio")), name


def test_audio_is_smoothed_where_clips_are_whole(out: Path, run: Path) -> None:
    """A model that smooths audio does so in evaluation, and its checkpoint keeps the setting."""
    saved = checkpoint.load(run)
    clips = read_clips(out, "test", label_names={"words": tuple(saved.settings["words"])})
    plain, smooth = (
        replace(saved, dimensions={**saved.dimensions, "audio_smoothing": part}).model().eval() for part in (0.0, 1.0)
    )
    how: dict[str, Any] = {"limit": 1, "bf16": False, "scale": 1.0}
    with torch.no_grad():
        heard, found = (talk._heard(model, clips, torch.device("cpu"), **how)[0] for model in (plain, smooth))
    torch.testing.assert_close(found[:, 1:-1], (heard[:, :-2] + heard[:, 2:]) / 2)
    assert not found.equal(heard)
    settings = Settings.resolve("small", None, (*TINY, "model.audio_smoothing=0.5"))
    assert Dimensions.of(read_corpus(out, settings), settings).as_dict()["audio_smoothing"] == 0.5


def test_audio_is_smoothed_in_table_1(out: Path, run: Path, tmp_path: Path) -> None:
    """Frames that are compared with real ones come from smoothed audio features, as in `generate`, if from audio."""
    saved, found = checkpoint.load(run), []
    for part in (0.0, 1.0):
        smooth = replace(saved, dimensions={**saved.dimensions, "audio_smoothing": part})
        checkpoint.save(tmp_path / f"run{part}", smooth)
        settings = EvaluationSettings(limit=2, talking_clips=2)
        metrics = evaluate(tmp_path / f"run{part}", out, tmp_path / f"results{part}", settings)
        found.append({name: metrics["reconstruction"][name]["psnr"] for name in ("audio", "video")})
    plain, smoothed = found
    assert plain["video"] == smoothed["video"]
    assert plain["audio"] != smoothed["audio"]


@pytest.mark.parametrize("shown", ["sheet", "validation"])
def test_audio_is_smoothed_where_a_training_shows_frames(
    shown: str, out: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sample sheets and the L1 of a validation are of smoothed audio features, too."""
    saved, decode = checkpoint.load(run), DAVS.decode
    decoded: dict[float, list[torch.Tensor]] = {}
    clips = read_clips(out, "val", label_names={"words": tuple(saved.settings["words"])})
    for part in (0.0, 1.0):
        model = replace(saved, dimensions={**saved.dimensions, "audio_smoothing": part}).model().eval()
        shape = validation_shape(model, model.stages["full"])
        raw = first_batch(EvaluationBatches(ClipSource(clips, shape), shape, batch_size=2))
        calls = decoded.setdefault(part, [])
        monkeypatch.setattr(DAVS, "decode", lambda *given, calls=calls: calls.append(given[2]) or decode(*given))
        if shown == "sheet":
            samples.sheet(model, raw, torch.device("cpu"))
        else:
            embed.embed(model, [raw], torch.device("cpu"), generate=True)
    audio, video = (0, 1) if shown == "sheet" else map(model.drivers.index, ("audio", "video"))
    plain, smoothed = decoded[0.0], decoded[1.0]
    assert torch.equal(smoothed[video], plain[video])
    middle = (plain[audio][:, :-2] + plain[audio][:, 2:]) / 2
    torch.testing.assert_close(smoothed[audio][:, 1:-1], middle)


def test_the_wrong_sound_is_that_of_several_clips(out: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result for wrong audio is averaged over the audio of the two other clips, which differ."""
    saved = checkpoint.load(run)
    clips = read_clips(out, "test", label_names={"words": tuple(saved.settings["words"])})
    monkeypatch.setattr(talk, "portrait_rng", lambda seed, row: np.random.default_rng(0))
    one = []
    for order in ([0, 1, 2], [0, 2, 1]):
        rows = clips.rows(np.array(order))
        with monkeypatch.context() as single:
            single.setattr(talk, "WRONG", 1)
            one.append(talk.measure(saved.model(), rows, torch.device("cpu"), limit=3)["wrong_audio"]["mouth_psnr"])
    both = talk.measure(saved.model(), rows, torch.device("cpu"), limit=3)["wrong_audio"]
    assert one[0] != one[1]
    assert both["mouth_psnr"] == pytest.approx(sum(one) / 2)


@pytest.mark.parametrize(("video", "drivers"), [(0.0, {"audio"}), (0.25, {"audio", "video"}), (1.0, {"video"})])
def test_so_many_clips_are_generated_from_video(out: Path, tmp_path: Path, video: float, drivers: set[str]) -> None:
    """The fraction determines which drivers have terms of their own."""
    lines = train(out, tmp_path / "run", f"generation.video={video}", "steps.full=1", stages=("full",))
    line = next(one for one in lines if one.startswith("full 1/1"))
    assert {name for name in ("audio", "video") if f"motion_{name}" in line} == drivers


def test_talkers_standardise_sound_as_training_does(run: Path) -> None:
    """Windows divided into parts are standardised by the whole audio, and give the same frames as at once."""
    talker = Talker.load(run)
    face = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    windows = np.random.default_rng(1).normal(5, 3, (20, 12, 20)).astype(np.float32)
    whole, parts = (list(talker.talk(face, speech)) for speech in ([windows], np.split(windows, [3, 9])))
    assert np.abs(np.stack(whole).astype(int) - np.stack(parts)).max() <= 1
    heard = Heard()
    heard.add(windows[:7])
    heard.add(windows[7:])
    assert torch.allclose(heard.statistics(), sound_statistics(torch.from_numpy(windows)[None]), atol=1e-4)


UNSEEN = ("model.standardise=voice", "generation.video=0", *(f"weights.{name}=0" for name in ("word", "contrastive")))


def test_people_who_were_never_seen_are_learned_from_audio_alone(out: Path, tmp_path: Path) -> None:
    """Without speech terms no video is read or encoded; a reference voice is computed first, and kept on resuming."""
    settings = Settings.resolve("small", None, (*TINY, *UNSEEN))
    assert set(DAVS.plan("full", settings).reads) == {"identity_frame", "targets", "target_windows", "sound"}
    with interrupted.kept({("full", 1): tmp_path / "parts"}):
        train(out, tmp_path / "whole", *UNSEEN, "loop.save_every=1", stages=("full",))
    part = states.load(tmp_path / "parts")
    assert part is not None
    assert part[0] is not None
    before = part[0].checkpoint.weights
    assert before["audio_speech_encoder.voice.precision"].any()
    train(out, tmp_path / "parts", *UNSEEN, "loop.save_every=1", stages=("full",))
    found, wanted = (checkpoint.load(tmp_path / name).weights for name in ("parts", "whole"))
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    assert not torch.equal(before["decoder.first.0.weight"], found["decoder.first.0.weight"])


def test_a_reference_voice_is_heard_from_speech_alone() -> None:
    """Silent clips are left out of the reference, as are those of unknown speakers if there are known ones."""

    def reference(windows: torch.Tensor, speakers: list[int]) -> torch.Tensor:
        model = DAVS(n_words=3, width=0.05, image_size=64, standardise=STANDARDISE.index("voice"))
        assert model.listens
        model.listen([{SOUND: sound_statistics(windows), "speakers": torch.tensor(speakers)}])
        assert not model.listens
        assert model.audio_speech_encoder.voice is not None
        return model.audio_speech_encoder.voice.precision

    torch.manual_seed(0)
    windows = torch.randn(8, 6, 12, 20) * torch.rand(8, 1, 12, 1)
    silent, click = torch.full((4, 6, 12, 20), -3.0), torch.zeros(4, 6, 12, 20)
    click[:, 2, :, 5] = 7.0
    wanted = reference(windows[:3], [1, 1, 1])
    assert torch.equal(reference(torch.cat((windows[:4], silent, click)), [1, 1, 1, 0, *[0] * 8]), wanted)
    assert torch.equal(reference(windows, [1, 1, 1, 0, -1, -1, -1, -1]), wanted)
    assert torch.equal(reference(windows[:3], [-1, -1, -1]), wanted)


def test_silent_clips_have_no_voice(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If all clips for the reference are silent, the run ends in one line with the remedy."""
    first = StageTrainer._first_batches

    def silent(self: StageTrainer, count: int) -> list[Any]:
        return [{**batch, SOUND: sound_statistics(torch.zeros(4, 6, 12, 20))} for batch in first(self, count)]

    monkeypatch.setattr(StageTrainer, "_first_batches", silent)
    with pytest.raises(RunError, match=r"the first 8 clips are silent: .*; give clips with speech, or model\.standard"):
        train(out, tmp_path / "run", *UNSEEN, stages=("full",))


def test_a_begun_model_hears_a_voice_too(out: Path, run: Path, tmp_path: Path) -> None:
    """A model started from weights without a reference voice computes one; a second run keeps it."""
    once: dict[str, Any] = {"stages": ("full",)}
    train(out, tmp_path / "first", *UNSEEN, "steps.full=1", **once, init_from=run)
    train(out, tmp_path / "second", *UNSEEN, "steps.full=1", "seed=1", **once, init_from=tmp_path / "first")
    first, second = (checkpoint.load(tmp_path / name).weights for name in ("first", "second"))
    voice = "audio_speech_encoder.voice.precision"
    assert first[voice].any()
    assert torch.equal(first[voice], second[voice])


def test_standardised_sound_does_not_depend_on_gain_or_channel() -> None:
    """With standardisation by clip, scaled and shifted audio has the same features; without it, others."""
    windows = torch.randn(2, 6, 12, 20)
    other = windows * 3 + 5
    torch.manual_seed(0)
    for standardise, same in (("clip", True), ("voice", True), ("none", False)):
        encoder = AudioSpeechEncoder(width=0.05, standardise=standardise).eval()
        with torch.no_grad():
            assert torch.allclose(encoder(windows), encoder(other), atol=1e-3) is same


def test_a_blended_picture_begins_as_the_identity_frame() -> None:
    """An untrained decoder that blends keeps most of the identity frame."""
    torch.manual_seed(0)
    model = DAVS(n_words=3, width=0.05, image_size=64, identity_scales=4, blend=1, speech_map=2, mouth_size=64).eval()
    face = torch.rand(2, 1, 3, 64, 64)
    with torch.no_grad():
        drawn = model.decode(model.encode_identity(face), torch.randn(2, 3, 256))
    assert drawn.shape == (2, 3, 3, 64, 64)
    assert float((drawn - face).abs().mean()) < 0.1
    assert float(drawn.min()) >= 0
    assert float(drawn.max()) <= 1


def test_a_flow_moves_the_identity_frame_and_learns() -> None:
    """A new flow moves nothing and has a gradient; one of whole pixels takes each pixel from there, edges repeated."""
    torch.manual_seed(0)
    face = torch.rand(2, 1, 3, 64, 64)
    frames = face[:, 0]
    torch.testing.assert_close(moved(frames, torch.zeros(2, 2, 32, 32)), frames)
    right = torch.tensor([6 / 64, 0.0])[:, None, None].expand(2, 2, 32, 32)
    expected = torch.cat((frames[..., 3:], frames[..., -1:].expand(2, 3, 64, 3)), dim=-1)
    torch.testing.assert_close(moved(frames, right), expected, atol=1e-5, rtol=0)
    down = right.flip(1)
    expected = torch.cat((frames[..., 3:, :], frames[..., -1:, :].expand(2, 3, 3, 64)), dim=-2)
    torch.testing.assert_close(moved(frames, down), expected, atol=1e-5, rtol=0)
    model = DAVS(n_words=3, width=0.05, image_size=64, identity_scales=4, blend=1, flow=1, mouth_size=64)
    drawn = model.decode(model.encode_identity(face), torch.randn(2, 3, 256))
    assert float((drawn.detach() - face).abs().mean()) < 0.1
    (drawn - 0.5).abs().mean().backward()
    assert model.decoder.to_flow is not None
    assert all(float(parameter.grad.abs().max()) > 0 for parameter in model.decoder.to_flow.parameters())


def test_motion_is_what_differs_from_a_clips_mean() -> None:
    """A constant error of a mouth is no error of its motion; neither is one outside the box."""
    real = torch.rand(2, 4, 3, 64, 64) / 2
    box = (..., *losses.mouth_box(64))
    shifted = real + 0.1
    assert losses.motion_loss(real, shifted) == pytest.approx(0, abs=1e-6)
    assert losses.mouth_loss(real, shifted) == pytest.approx(0.1, abs=1e-6)
    still = real.clone()
    still[box] = real[box].mean(1, keepdim=True)
    assert losses.motion_loss(real, still) > 0.05
    elsewhere = real.clone()
    elsewhere[..., :40, :] = 0
    assert losses.mouth_loss(real, elsewhere) == 0
