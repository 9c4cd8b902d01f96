"""Talking faces: the model generates what it is asked for, however the speech is divided."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import made_media as made
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_models import SIZES, made_model

from avprep.errors import CheckpointError, RunError, SettingsError
from avprep.schema import FPS
from avprep.talking.driver import Driver
from avprep.talking.person import Person
from avprep.talking.photo import Photo
from davs_model import adaptation, checkpoint, film, models
from davs_model.checkpoint import Checkpoint
from davs_model.data.pictures import MOUTH_BOX, region
from davs_model.film import PhotoTalker
from davs_model.generation import LISTENED, Talker, pictures
from davs_model.models.davs import losses
from davs_model.models.davs.settings import STANDARDISE

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def talker() -> Talker:
    """A small model with random weights."""
    return Talker(made_model())


@pytest.fixture(scope="module")
def tuned(talker: Talker) -> Talker:
    """That talker after 40 steps on the photo `soft(1)`; read-only."""
    return talker.adapted(soft(1), [windows(2, 4)], 40)


@pytest.fixture(scope="module")
def smoothing() -> Talker:
    """A talker that smooths audio."""
    return Talker(made_model(audio_smoothing=0.5))


def soft(seed: int, *count: int) -> NDArray[np.uint8]:
    """Make soft images, uint8 (…, 256, 256, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 255, (*count, 8, 8, 3), np.uint8)
    return np.repeat(np.repeat(coarse, 32, axis=-3), 32, axis=-2)


def windows(seed: int, count: int) -> NDArray[np.float32]:
    """Make windows (count, 12, 20)."""
    return np.random.default_rng(seed).normal(size=(count, 12, 20)).astype(np.float32) * 3


@pytest.mark.parametrize("name", ["davs", "amie", "etgan"])
def test_a_photo_teaches_no_mouth(name: str) -> None:
    """With any model, tuning to a photo has no loss if the face looks like the photo and keeps its former mouth."""
    model, box = models.build(name, SIZES), (..., *region(MOUTH_BOX, 64))
    photo, before, drawn = (torch.rand(1, count, 3, 64, 64) for count in (1, 4, 4))
    drawn[:] = photo
    drawn[box] = before[box]
    assert float(model.adaptation_loss(photo, drawn, before)) == 0
    assert float(model.imitation_loss(drawn, before)) == pytest.approx(float(losses.imitation_loss(drawn, before)))


@pytest.mark.parametrize("kind", ["windows", "faces"])
def test_frames_are_those_of_the_model(talker: Talker, kind: str) -> None:
    """There is one RGB frame of 256×256 per window or face: the output of Figure 2's networks, enlarged."""
    face, speech = soft(1), windows(2, 5) if kind == "windows" else soft(2, 5)
    drawn = np.stack(list(talker.talk(face, [speech])))
    assert drawn.dtype == np.uint8
    assert drawn.shape == (5, 256, 256, 3)
    model = talker.model

    def small(pictures: NDArray[np.uint8]) -> torch.Tensor:
        """Average 4×4 pixels."""
        means = pictures.reshape(-1, 64, 4, 64, 4, 3).mean(axis=(2, 4))
        return torch.from_numpy(means).permute(0, 3, 1, 2)[None].float() / 255

    with torch.no_grad():
        heard = model.encode_sound(torch.from_numpy(speech)[None]) if kind == "windows" else None
        said = heard if heard is not None else model.encode_speech(frames=small(speech))
        expected = model.decode(model.encode_identity(small(face)), said)[0]
    found = small(drawn)[0]
    assert (found - expected).abs().mean() < 0.03  # 8 bits, and bicubic enlargement
    assert expected.std(0).mean() > 1e-4  # frames differ, so the comparison means something


def test_runs_do_not_show(talker: Talker) -> None:
    """Speech divided into parts of any length gives the same frames, to one grey level."""
    face, speech = soft(1), windows(3, 17)
    whole = np.stack(list(talker.talk(face, [speech])))
    for size in (1, 4, 16):
        runs = np.split(speech, range(size, 17, size))
        parts = np.stack(list(talker.talk(face, runs)))
        assert np.abs(parts.astype(int) - whole).max() <= 1


@pytest.mark.parametrize("size", [1, 2, 5, 17])
def test_smoothed_audio_is_that_of_the_whole(smoothing: Talker, size: int) -> None:
    """With smoothing, audio in parts of any length gives the frames of the whole, each by its own and neighbours."""
    talker, face, speech = smoothing, soft(1), windows(3, 17)
    with torch.no_grad():
        features = talker.model.encode_sound(torch.from_numpy(speech)[None])
        smoothed = talker.model.smooth_sound(features)
    middle = features[:, 7:10]
    torch.testing.assert_close(smoothed[:, 8], (middle[:, 0] + 2 * middle[:, 1] + middle[:, 2]) / 4)
    torch.testing.assert_close(smoothed[:, 0], (3 * features[:, 0] + features[:, 1]) / 4)
    found = torch.cat(list(talker._features(np.split(speech, range(size, 17, size)), 1.0)), dim=1)
    torch.testing.assert_close(found, smoothed, rtol=1e-4, atol=1e-5)
    assert len(list(talker.talk(face, [speech[:3]]))) == 3
    seen = soft(2, 3)
    assert torch.cat(list(talker._features([seen], 1.0))).equal(talker._encode_speech(seen, 1.0))


def test_people_side_by_side(talker: Talker) -> None:
    """Several faces with the same speech are each as if alone, to the rounding of a processor's sums."""
    faces, speech = soft(4, 3), windows(5, 6)
    together = np.stack(list(talker.talk(faces, [speech[:4], speech[4:]])))
    assert together.shape == (6, 3, 256, 256, 3)
    for n, face in enumerate(faces):
        alone = np.stack(list(talker.talk(face, [speech])))
        assert np.abs(together[:, n].astype(int) - alone).max() <= 3
    assert np.abs(together[:, 0].astype(int) - together[:, 1]).max() > 5


def test_it_reads_no_further_than_it_draws(talker: Talker) -> None:
    """Speech is requested part by part, so it may be of any length."""
    asked: list[int] = []

    def endless() -> Iterator[NDArray[np.float32]]:
        while True:
            asked.append(len(asked))
            yield windows(len(asked), 2)

    frames = talker.talk(soft(1), endless())
    for _ in range(5):
        next(frames)
    assert len(asked) == 3


def test_speech_scale_is_a_factor_of_the_features_of_sound(talker: Talker) -> None:
    """Audio features are scaled, video features are not."""
    face = soft(1)
    heard, seen = windows(2, 3), soft(2, 3)
    plain, scaled = (np.stack(list(talker.talk(face, [heard], speech_scale=scale))) for scale in (1.0, 1.5))
    with torch.no_grad():
        features = talker.model.encode_sound(torch.from_numpy(heard)[None])
        assert talker._encode_speech(heard, 1.5).equal(1.5 * features)
    assert not np.array_equal(plain, scaled)
    plain, scaled = (np.stack(list(talker.talk(face, [seen], speech_scale=scale))) for scale in (1.0, 1.5))
    assert np.array_equal(plain, scaled)


def test_adapting_brings_frames_nearer_to_the_photo(talker: Talker, tuned: Talker) -> None:
    """Fine-tuning lowers the error outside the mouth; the talker itself and the speech encoders do not change."""
    face, speech = soft(1), windows(2, 4)
    before = {name: tensor.clone() for name, tensor in talker.model.state_dict().items()}
    one, other = (talker.adapted(face, [speech], 2).model.state_dict() for _ in range(2))
    assert all(tensor.equal(one[name]) for name, tensor in other.items())
    assert all(tensor.equal(before[name]) for name, tensor in talker.model.state_dict().items())
    truth = torch.from_numpy(face).permute(2, 0, 1) / 255

    def error(of: Talker) -> float:
        frames = torch.from_numpy(np.stack(list(of.talk(face, [speech])))).permute(0, 3, 1, 2) / 255
        return float(losses.outside_mouth_loss(truth, frames))

    assert error(tuned) < 0.99 * error(talker)
    changed = {
        name.partition(".")[0] for name, tensor in tuned.model.state_dict().items() if not tensor.equal(before[name])
    }
    assert changed == {"identity_encoder", "decoder"}


def test_adapting_to_a_photo_holds_the_mouth(talker: Talker, tuned: Talker) -> None:
    """The tuned model's mouths stay much closer to the former ones than their surroundings."""
    face, speech = soft(1), windows(2, 4)
    before, after = (np.stack(list(one.talk(face, [speech]))).astype(int) for one in (talker, tuned))
    changed = np.abs(after - before)
    mouth = changed[:, 170:234, 64:192].mean()
    changed[:, 170:234, 64:192] = 0
    assert mouth < 0.7 * changed.mean() * 256**2 / (256**2 - 64 * 128)


def test_adapting_to_a_video_learns_its_frames() -> None:
    """Fine-tuning to a video lowers the error of its frames, mouths included, with the driver used afterwards."""
    video, heard, speech = (0.8 * soft(1) + 0.2 * soft(7, 12)).astype(np.uint8), windows(8, 12), windows(2, 4)
    model = made_model()
    with torch.no_grad():
        model.decoder.last[-1].weight.mul_(0.1)  # so that no image is black or white, where there is no gradient
    talker = Talker(model)
    before = {name: tensor.clone() for name, tensor in talker.model.state_dict().items()}
    tuned = talker.adapted(video[0], [speech], 20, video=video, heard=heard)
    truth = torch.from_numpy(video).permute(0, 3, 1, 2)[None] / 255

    def error(of: Talker) -> float:
        frames = torch.from_numpy(np.stack(list(of.talk(video[0], [heard])))).permute(0, 3, 1, 2)[None] / 255
        return float(losses.mouth_loss(truth, frames))

    assert error(tuned) < 0.97 * error(talker)
    assert all(tensor.equal(before[name]) for name, tensor in talker.model.state_dict().items())

    def weights(speech: NDArray[Any] = speech, **given: Any) -> torch.Tensor:
        found = talker.adapted(video[0], [speech], 2, video=video, **given).model.get_parameter("decoder.last.0.weight")
        return found.detach()

    one, seen = weights(heard=heard), weights()
    assert one.equal(weights(heard=heard))
    assert not one.equal(weights(heard=heard, seed=1))
    assert not one.equal(seen)
    assert weights(speech=video, heard=heard).equal(seen)


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        ({"drive": "both", "video": 0.0}, ("audio", "video")),
        ({"drive": "alternate", "video": 0.0}, ("audio",)),
        ({"drive": "alternate", "video": 1.0}, ("video",)),
        ({"drive": "alternate", "video": 0.35}, ("audio", "video")),
        ({"drive": "alternate", "video": []}, ("audio", "video")),
        (None, ("audio", "video")),
    ],
)
def test_a_model_knows_what_it_learned_to_draw_from(tmp_path: Path, generation: Any, expected: tuple[str, ...]) -> None:
    """If drivers alternate, those with a turn count; a checkpoint without this information counts as having all."""
    about = {"steps": {"full": 1}, "training": {"generation": generation}}
    checkpoint.save(tmp_path, Checkpoint.of(made_model(), about))
    assert set(Talker.load(tmp_path, device="cpu").drawn_from) == set(expected)


def test_a_video_is_learned_from_the_features_that_it_is_drawn_from(
    smoothing: Talker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that smooths audio is tuned on smoothed features of the video's audio, as it uses them for generation.

    They are not scaled, because the video shows how far the mouth moves with this audio.
    """
    given: list[torch.Tensor] = []
    monkeypatch.setattr(adaptation, "to_video", lambda _, frames, speech, *args, **how: given.append(speech))
    heard = windows(3, 5)
    smoothing.adapted(soft(1), [windows(2, 4)], 1, video=soft(7, 5), heard=heard, speech_scale=1.5)
    with torch.no_grad():
        features = smoothing.model.encode_sound(torch.from_numpy(heard)[None])
        assert torch.allclose(given[0], smoothing.model.smooth_sound(features), atol=1e-6)
        assert not torch.allclose(given[0], features, atol=1e-3)


@pytest.mark.parametrize("sizes", [{"audio_smoothing": 0.5}, {"standardise": STANDARDISE.index("clip")}])
def test_a_photo_is_learned_from_the_features_that_are_drawn(
    sizes: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fine-tuning to a photo uses the features of the first frames as in generation: smoothed, over the whole audio."""
    given: list[torch.Tensor] = []
    monkeypatch.setattr(adaptation, "to_photo", lambda _, photo, speech, *args, **how: given.append(speech))
    talker, runs = Talker(made_model(**sizes)), [windows(3, 5), 2 * windows(4, 5)]
    talker.adapted(soft(1), runs, 1, speech_scale=1.5)
    drawn = torch.cat(list(talker._features(runs, 1.5)), dim=1)
    assert given[0].equal(drawn[:, : given[0].shape[1]])
    with torch.no_grad():
        alone = 1.5 * talker.model.encode_sound(torch.from_numpy(runs[0])[None])
    assert not torch.allclose(given[0][:, : alone.shape[1]], alone[:, : given[0].shape[1]], atol=1e-3)


def test_statistics_do_not_depend_on_how_a_long_sound_is_cut() -> None:
    """With a model that standardises audio, more than a minute of it has the same features in parts of any length."""
    talker, length = Talker(made_model(standardise=STANDARDISE.index("clip"))), LISTENED + 33  # the last part is 1 long
    heard = windows(5, length) * np.linspace(1, 3, length, dtype=np.float32)[:, None, None]
    at_once, *others = (
        torch.cat(list(talker._features(np.split(heard, cuts), 1.0)), dim=1)
        for cuts in ([], range(16, length, 16), [7, 1490, 1491, 1530])
    )
    assert at_once.shape[1] == length
    assert all(other.equal(at_once) for other in others)


def test_pictures_of_one_person_are_averaged(talker: Talker) -> None:
    """Frames that are similar give the face of their mean; a different image changes the feature alone."""
    face, speech = soft(1), windows(2, 3)
    noise = np.random.default_rng(0).integers(-20, 21, (6, 256, 256, 3))
    alike = np.clip(face.astype(int) + noise, 0, 255).astype(np.uint8)
    model = talker.model
    pictures = talker._pictures(np.concatenate((face[None], alike, soft(9, 1)))).transpose(0, 1)
    with torch.no_grad():
        found = model.encode_person(pictures)
        each = model.encode_identity(pictures)
        mean = model.encode_identity(pictures[:, :7].mean(1, keepdim=True))
    assert torch.allclose(found.frames, mean.frames, atol=1e-6)
    assert torch.allclose(found.eighth, mean.eighth, atol=1e-4)
    assert torch.allclose(found.feature, each.feature.mean(1, keepdim=True), atol=1e-5)
    alone, several = (np.stack(list(talker.talk(face, [speech], more=more))) for more in (None, alike))
    assert not np.array_equal(alone, several)
    none = np.stack(list(talker.talk(face, [speech], more=alike[:0])))
    assert np.array_equal(alone, none)


def test_loading_a_run(tmp_path: Path) -> None:
    """A run's checkpoint determines the windows; loaded, it generates what the model did."""
    model = made_model(1)
    checkpoint.save(tmp_path, Checkpoint.of(model, {"mfcc_preset": "syncnet", "steps": {"full": 3}}))
    loaded = Talker.load(tmp_path, device="cpu")
    assert loaded.mfcc_preset == "syncnet"
    face, speech = soft(1), windows(2, 3)
    for one, other in zip(loaded.talk(face, [speech]), Talker(model).talk(face, [speech]), strict=True):
        assert np.array_equal(one, other)


def test_what_cannot_talk_is_refused(tmp_path: Path) -> None:
    """A run without its full stage, and a file that is not a checkpoint, end in one line."""
    checkpoint.save(tmp_path, Checkpoint.of(made_model(), {"steps": {"speech": 100}}))
    with pytest.raises(RunError, match="has not learned to draw faces"):
        Talker.load(tmp_path)
    with pytest.raises(CheckpointError):
        Talker.load(tmp_path / "none")


def test_a_photo_that_was_read_before_is_fitted_to_the_film(tmp_path: Path) -> None:
    """A photo of odd sides that was read by the caller is pasted back like one that is given as a file."""
    read = Photo(soft(1)[:201, :199], np.eye(2, 3), soft(1))
    speech = Driver("audio", 2, lambda: iter([windows(2, 2)]))
    PhotoTalker(made_model()).film(read, speech, tmp_path / "film.mp4", paste_back=True)
    written = made.probe(tmp_path / "film.mp4")
    assert (written.width, written.height) == (198, 200)


@pytest.mark.parametrize(
    ("heard", "shown", "expected"),
    [(Fraction(2, FPS), 0, [2, 3, 3]), (0, Fraction(2, FPS), [0, 0, 0]), (0, 0, [0, 1, 2])],
)
def test_the_truth_beside_a_face_is_that_of_its_audio(
    tmp_path: Path, heard: Fraction, shown: Fraction, expected: list[int]
) -> None:
    """A video that is also the file of the speech is shown from the moment at which its audio begins.

    A video of another file is shown from its beginning; the last frame of a shorter one is repeated.
    """
    sound = made.write_wav(tmp_path / "sound.wav", made.noise(0.5, 16_000), 16_000)
    speech = Driver("audio", 3, lambda: iter([windows(2, 3)]), sound, heard)
    truth = [np.full((1, 256, 256, 3), 40 * (n + 1), np.uint8) for n in range(4)]
    beside = Driver("video", 4, lambda: iter(truth), sound, shown)
    face = Photo(soft(1), np.eye(2, 3), soft(1))
    PhotoTalker(made_model()).film(face, speech, tmp_path / "film.mp4", beside=beside)
    with av.open(str(tmp_path / "film.mp4")) as made_film:
        levels = [frame.to_ndarray(format="rgb24")[100:150, 400:450].mean() for frame in made_film.decode(video=0)]
    assert np.rint(np.array(levels) / 40 - 1).tolist() == expected
    other = film._frames_from(replace(beside, sound=tmp_path / "other.wav"), speech)
    assert [frame[0, 0, 0] // 40 - 1 for frame in other] == [0, 1, 2, 3]


def test_a_film_of_a_person_is_tuned_and_drawn_with_all_that_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fine-tuning gets the person's video, windows, seed and the scale; eight of its frames join all the photos."""
    talk, tuned, shown = Talker.talk, {}, {}

    def adapted(self: Talker, faces: Any, speech: Any, steps: int, **how: Any) -> Talker:
        tuned.update(how, steps=steps)
        return self

    def talking(self: Talker, faces: Any, speech: Any, **how: Any) -> Any:
        shown.update(how, faces=faces)
        return talk(self, faces, speech)

    monkeypatch.setattr(Talker, "adapted", adapted)
    monkeypatch.setattr(Talker, "talk", talking)
    photos = [Photo(soft(seed), np.eye(2, 3), soft(seed)) for seed in (1, 2)]
    person, speech = Person(soft(3, 15), windows(4, 15)), Driver("audio", 1, lambda: iter([windows(2, 1)]))
    how: dict[str, Any] = {"grid": False, "adapt_steps": 3, "speech_scale": 1.5, "seed": 7, "person": person}
    PhotoTalker(made_model()).film(photos, speech, tmp_path / "film.mp4", **how)
    assert (tuned["steps"], tuned["seed"], tuned["speech_scale"], shown["speech_scale"]) == (3, 7, 1.5, 1.5)
    assert tuned["video"] is person.crops
    assert tuned["heard"] is person.windows
    assert np.array_equal(shown["faces"], soft(1)[None])
    assert np.array_equal(shown["more"], np.concatenate((soft(2)[None], person.crops[::2])))


def test_files_are_read_as_the_model_needs_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Speech and person are read with the model's MFCC preset, speech up to the maximum duration that was given."""
    asked: list[tuple[Any, ...]] = []

    def read_driver(path: Path, by: str, *, preset: str, detector: str, max_seconds: float) -> Driver:
        asked.append((path.name, by, preset, detector, max_seconds))
        part = windows(2, 1) if by == "audio" else soft(2, 1)
        return Driver("audio" if by == "audio" else "video", 1, lambda: iter([part]))

    def read_person(path: Path, *, preset: str, detector: str) -> Person:
        asked.append((path.name, preset, detector))
        return Person(soft(3, 2), None)

    monkeypatch.setattr(film.inputs, "read_driver", read_driver)
    monkeypatch.setattr(film.inputs, "read_person", read_person)
    talker, face = PhotoTalker(made_model(), mfcc_preset="syncnet"), Photo(soft(1), np.eye(2, 3), soft(1))
    how: dict[str, Any] = {"detector": "yunet", "max_seconds": 9.0, "beside": "b.mp4", "person": "p.mp4"}
    talker.film(face, "s.wav", tmp_path / "film.mp4", **how)
    assert sorted(asked) == [
        ("b.mp4", "video", "syncnet", "yunet", 9.0),
        ("p.mp4", "syncnet", "yunet"),
        ("s.wav", "audio", "syncnet", "yunet", 9.0),
    ]


def test_photos_are_reduced_as_in_training() -> None:
    """Faces are downscaled by averaging the pixels of each area, as the frames of training."""
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    small = pictures(noise, 64)[0, 0].permute(1, 2, 0) * 255
    assert np.abs(small.numpy() - noise.reshape(64, 4, 64, 4, 3).mean((1, 3))).max() <= 0.5 + 1e-3


@pytest.mark.parametrize(
    ("face", "speech"),
    [
        (np.zeros((128, 128, 3), np.uint8), np.zeros((1, 12, 20), np.float32)),
        (np.zeros((256, 256, 3), np.float32), np.zeros((1, 12, 20), np.float32)),
        (np.zeros((256, 256, 3), np.uint8), np.zeros((1, 20, 12), np.float32)),
        (np.zeros((256, 256, 3), np.uint8), np.zeros((1, 64, 64, 3), np.uint8)),
    ],
)
def test_arrays_of_other_shapes_are_refused(talker: Talker, face: NDArray[np.uint8], speech: NDArray[np.uint8]) -> None:
    """Faces that are not uint8 of 256×256, and windows that are not 12×20, raise ValueError."""
    with pytest.raises(ValueError, match="these"):
        list(talker.talk(face, [speech]))


def test_a_film_refuses_values_that_no_option_has(tmp_path: Path) -> None:
    """Library calls give one-line errors, before anything is read, for wrong values and for wrong types."""
    talker = PhotoTalker(made_model())
    shown, speech = Photo(soft(1), np.eye(2, 3), soft(1)), Driver("audio", 2, lambda: iter([windows(2, 2)]))
    good = {"photos": shown, "speech": speech, "output": tmp_path / "film.mp4"}
    path, flag = "must be a path, not", "must be True or False, not"
    for name, value, problem in (
        ("drive_by", "vid", "must be one of audio, video, not 'vid'"),
        ("output", "film.avi", "must end in .mp4, not 'film.avi'"),
        ("output", None, f"{path} None"),
        ("photos", [], "must hold one at least"),
        ("photos", 5, f"{path} 5"),
        ("photos", b"a.jpg", f"{path} b'a.jpg'"),
        ("photos", [shown, None], f"{path} None"),
        ("speech", None, f"{path} None"),
        ("speech", windows(2, 2), f"{path} array("),
        ("speech", Person(soft(1, 2), None), f"{path} Person("),
        ("beside", 5, f"{path} 5"),
        ("person", shown.crop, f"{path} array("),
        ("expression", 5, f"{path} 5"),
        ("aligned", "no", f"{flag} 'no'"),
        ("grid", 0, f"{flag} 0"),
        ("paste_back", "no", f"{flag} 'no'"),
        ("max_seconds", "1", "must be a number above 0, not '1'"),
        ("adapt_steps", -1, "must be a whole number of at least 0, not -1"),
        ("adapt_steps", "x", "must be a whole number of at least 0, not 'x'"),
        *(("speech_scale", one, f"must be a number above 0, not {one!r}") for one in (np.nan, np.inf, 0.0, "2", None)),
        ("seed", "x", f"must be a whole number from 0 to {2**63 - 1}, not 'x'"),
        ("weights_plot", 5, f"{path} 5"),
        ("counted", 5, "must be a function, not 5"),
        ("steps", 5, "is not an option: a video takes speech_scale, "),
    ):
        with pytest.raises(SettingsError) as caught:
            talker.film(**(good | {name: value}))  # type: ignore[arg-type]
        assert str(caught.value).startswith(f"{name} {problem}")
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
