"""The synthetic corpus: people that detectors find, words that can be seen and heard, files in LRW's form."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from python_speech_features import mfcc

from avprep.demo import drawing, speech, synthetic
from avprep.errors import AvprepError
from avprep.schema import FPS

SEED = 5
PEOPLE = [synthetic.speaker(SEED, index) for index in range(6)]
WORDS = list(synthetic.WORDS)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(before)


@pytest.fixture(scope="module")
def corpus(made_corpus: Path) -> tuple[Path, list[Path]]:
    """Two words by three speakers."""
    return made_corpus, sorted(made_corpus.rglob("*.mp4"))


def contents(root: Path) -> dict[str, bytes]:
    """Return the files below a folder by relative path."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def decode(path: Path) -> tuple[list[Any], Any]:
    """Return the video frames and the audio, float32, after the edit list is applied."""
    with av.open(str(path)) as source:
        pictures = list(source.decode(video=0))
    with av.open(str(path)) as source:
        sounds = list(source.decode(audio=0))
    assert sounds[0].pts == 0
    return pictures, np.concatenate([frame.to_ndarray()[0] for frame in sounds])


def opening(frames: Any) -> Any:
    """Return the fraction of dark pixels around the mouth of each frame, relative to the clip's median."""
    mouth = frames[:, 150:186, 106:150].mean(axis=3)
    dark = (mouth < 0.55 * np.median(mouth)).mean(axis=(1, 2))
    return dark - np.median(dark)


def loudness(samples: Any) -> Any:
    """Return the root mean square of the 40 ms around each frame's instant."""
    x = np.pad(samples.astype(np.float64), (320, 0))[: 29 * 640].reshape(29, 640)
    return np.sqrt((x**2).mean(axis=1))


def test_same_arguments_give_the_same_bytes_whatever_the_jobs(corpus: tuple[Path, list[Path]], tmp_path: Path) -> None:
    """The same corpus made by two processes is byte-identical."""
    synthetic.make_corpus(tmp_path / "again", words=2, speakers=3, takes=1, jobs=2)
    assert contents(tmp_path / "again") == contents(corpus[0])


def test_another_seed_gives_other_people() -> None:
    """The seed determines the speakers of the corpus."""
    assert synthetic.speaker(1) == synthetic.speaker(1)
    assert synthetic.speaker(1) != synthetic.speaker(2)


def test_layout_is_that_of_lrw(corpus: tuple[Path, list[Path]]) -> None:
    """Each clip is WORD/split/WORD_00001.mp4 with a .txt that has LRW's lines and the speaker."""
    root, paths = corpus
    names = {f"{word}/{split}/{word}_00001" for word in WORDS[:2] for split in ("train", "val", "test")}
    assert set(contents(root)) == {name + suffix for name in names for suffix in (".mp4", ".txt")}
    assert {path.relative_to(root).with_suffix("").as_posix() for path in paths} == names
    text = paths[0].with_suffix(".txt").read_text(encoding="utf-8")
    assert re.search(r"^Duration: 0\.\d\d seconds$", text, re.MULTILINE)
    assert re.search(r"^Speaker: s\d\d$", text, re.MULTILINE)


def test_test_speakers_are_not_in_training(corpus: tuple[Path, list[Path]]) -> None:
    """Each speaker is in one split only."""
    by_split: dict[str, set[str]] = {}
    for path in corpus[1]:
        by_split.setdefault(path.parent.name, set()).add(path.with_suffix(".txt").read_text().split("Speaker: ")[1])
    assert len(by_split) == 3
    assert len(set.union(*by_split.values())) == sum(len(people) for people in by_split.values()) == 3


def test_files_play_as_lrw_does(corpus: tuple[Path, list[Path]]) -> None:
    """A file holds 29 frames at 25 fps and 1.216 s of audio at 16 kHz, both starting at 0."""
    pictures, sound = decode(corpus[1][0])
    assert [frame.pts * frame.time_base for frame in pictures] == [Fraction(i, 25) for i in range(29)]
    assert (pictures[0].width, pictures[0].height) == (256, 256)
    assert len(sound) == speech.SAMPLES == 19_456
    assert np.abs(sound).max() > 0.05


def test_a_click_comes_back_where_it_was_written(tmp_path: Path) -> None:
    """Neither the encoder's priming nor the container shifts the audio."""
    places = [1_000, 8_123, 17_500]
    samples = np.zeros(speech.SAMPLES, np.int16)
    samples[places] = 30_000
    synthetic.write_clip(tmp_path / "click.mp4", np.full((29, 64, 64, 3), 128, np.uint8), samples)
    _, sound = decode(tmp_path / "click.mp4")
    found = [place - 400 + int(np.abs(sound[place - 400 : place + 400]).argmax()) for place in places]
    assert found == pytest.approx(places, abs=32)  # 2 ms


def test_written_pictures_come_back(tmp_path: Path) -> None:
    """The encoder preserves the colours and the order of the frames."""
    frames, samples = synthetic.utterance("WATER", PEOPLE[0], 0)
    synthetic.write_clip(tmp_path / "clip.mp4", frames, samples)
    decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in decode(tmp_path / "clip.mp4")[0]])
    assert np.abs(decoded.astype(float) - frames).mean() < 4


def test_people_look_and_sound_different() -> None:
    """Two speakers of one word look different; two renderings of the same speaker do not."""
    (frames, sound), (other_frames, other_sound) = (synthetic.utterance("ABOUT", who, 0) for who in PEOPLE[:2])
    again, sound_again = synthetic.utterance("ABOUT", PEOPLE[0], 0)
    assert np.array_equal(frames, again)
    assert np.array_equal(sound, sound_again)
    face = np.s_[0, 70:220, 70:186]
    assert np.abs(frames[face].astype(float) - other_frames[face]).mean() > 15
    assert abs(PEOPLE[0].pitch - PEOPLE[1].pitch) > 20
    assert not np.array_equal(sound, other_sound)


def test_open_mouths_are_bright_or_dark() -> None:
    """Teeth and the colour of the inside determine the brightness of an open mouth."""
    take = speech.perform("ABOUT", PEOPLE[0], 0)
    widest = int(take.lips[:, 0].argmax())

    def brightness(**look: float) -> float:
        frame = drawing.render(take, dataclasses.replace(PEOPLE[0], blur=0.0, **look))[widest]
        return float(frame[160:172, 120:136].mean())

    dark = brightness(teeth=0.0, inside=0.5)
    assert brightness(teeth=1.0, inside=0.5) > dark + 10
    assert brightness(teeth=0.0, inside=2.0) > dark + 10


def test_lips_are_darker_or_lighter_than_the_skin() -> None:
    """Light skins have darker lips; dark skins have darker or lighter lips."""
    people = [synthetic.speaker(SEED, index) for index in range(60)]
    lighter = [np.mean(who.lips) > np.mean(who.skin) for who in people if np.mean(who.skin) < 130]
    assert 0 < sum(lighter) < len(lighter)
    assert not any(np.mean(who.lips) > np.mean(who.skin) for who in people if np.mean(who.skin) > 190)


def test_a_moustache_and_the_camera_show() -> None:
    """A moustache darkens the upper lip, and blur removes detail."""
    take, shaved = (
        speech.perform("ABOUT", PEOPLE[0], 0),
        dataclasses.replace(PEOPLE[0], beard=0.0, moustache=0.0, blur=0.0),
    )
    plain, grown, soft = (
        drawing.render(take, dataclasses.replace(shaved, **look))[0].astype(float)
        for look in (dict[str, float](), {"moustache": 1.0}, {"blur": 1.4})
    )
    above = np.s_[146:152, 112:144]
    assert grown[above].mean() < plain[above].mean() - 10
    assert np.abs(np.diff(soft, axis=1)).mean() < 0.9 * np.abs(np.diff(plain, axis=1)).mean()


def test_some_people_smile_while_they_are_silent_and_speak() -> None:
    """A smile shows teeth in silence, but lips still close for P and round for UW."""
    grave, merry = (
        dataclasses.replace(PEOPLE[0], smile=amount, beard=0.0, moustache=0.0, blur=0.0) for amount in (0, 1)
    )
    take, smiling = (speech.perform("PEOPLE", who, 0) for who in (grave, merry))
    closed = int((take.edges[:-1] + take.edges[1:])[2] / 2 * 25)  # the second P
    assert smiling.smile[0] > 0.9 > 0.3 > smiling.smile[closed]
    assert smiling.lips[closed, 0] < 0.15
    assert (smiling.lips[:, 0] >= take.lips[:, 0]).all()
    silent, still = (drawing.render(one, who)[0].astype(float) for one, who in ((smiling, merry), (take, grave)))
    mouth = np.s_[152:166, 118:138]
    assert silent[mouth].min(axis=2).max() > still[mouth].min(axis=2).max() + 30  # teeth are white
    rounded = speech.perform("SCHOOL", merry, 0)
    assert rounded.lips[:, 2].max() > 0.6


def test_some_people_smile() -> None:
    """Most people smile, each to a degree of their own; and nobody does who shows an emotion."""
    amounts = np.array([synthetic.speaker(SEED, index).smile for index in range(100)])
    assert 0.6 < (amounts > 0).mean() < 0.8
    assert amounts.max() > 0.9
    assert synthetic.speaker(SEED, 3, smiles=False) == dataclasses.replace(synthetic.speaker(SEED, 3), smile=0.0)
    merry, grave = (dataclasses.replace(PEOPLE[0], smile=amount) for amount in (1.0, 0.0))
    faces = [
        synthetic.utterance("ABOUT", who, 0, feeling=synthetic.Feeling("sad", "high"))[0] for who in (merry, grave)
    ]
    assert np.array_equal(*faces)


def test_takes_differ() -> None:
    """No two takes of a word by one speaker are the same."""
    first, second = (speech.perform("PEOPLE", PEOPLE[0], take) for take in range(2))
    assert not np.allclose(first.edges, second.edges, atol=0.001)
    assert not np.allclose(first.lips, second.lips, atol=0.02)


@pytest.mark.parametrize("who", PEOPLE[:4], ids=range(4))
def test_an_open_mouth_is_heard(who: speech.Speaker) -> None:
    """In ABOUT the mouth is widest open where the audio is loudest, to within a frame, and moves with the loudness."""
    frames, samples = synthetic.utterance("ABOUT", who, 1)
    seen, heard = opening(frames), loudness(samples)
    assert np.corrcoef(seen, heard)[0, 1] > 0.5
    lags = {lag: float(np.corrcoef(seen[5:-5], np.roll(heard, lag)[5:-5])[0, 1]) for lag in range(-4, 5)}
    assert abs(max(lags, key=lags.__getitem__)) <= 1


def test_lips_close_while_a_stop_is_silent() -> None:
    """During the closure of P the mouth is shut and the audio nearly silent, at the instant that the units give."""
    who = PEOPLE[0]
    for take_seed in range(3):
        take = speech.perform("PEOPLE", who, take_seed)
        middle = (take.edges[2] + take.edges[3]) / 2  # P IY [P] AH L
        frame = round(middle * FPS)
        assert take.lips[frame, 0] < 0.1 < 2 * take.lips[:, 0].max()
        samples = speech.speak(take, who).astype(float)
        around = np.s_[int((middle - 0.02) * 16_000) : int((middle + 0.01) * 16_000)]
        assert np.sqrt((samples[around] ** 2).mean()) < 0.2 * np.sqrt((samples**2).mean())


def test_haar_cascades_find_every_face_and_nearly_all_eyes() -> None:
    """OpenCV's cascades find one face in every frame, and both eyes wherever they are open."""
    cascades = Path(cv2.__file__).parent / "data"
    find_face = cv2.CascadeClassifier(str(cascades / "haarcascade_frontalface_default.xml"))
    find_eyes = cv2.CascadeClassifier(str(cascades / "haarcascade_eye.xml"))
    frames_with_eyes = total = 0
    for who, word in zip(PEOPLE, WORDS, strict=False):
        for frame in drawing.render(speech.perform(word, who, 0), who)[::4]:
            grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
            faces = find_face.detectMultiScale(grey, 1.1, 4, minSize=(60, 60))
            assert len(faces) == 1, (who, word)
            x, y, w, h = faces[0]
            eyes = find_eyes.detectMultiScale(grey[y : y + h * 6 // 10, x : x + w], 1.1, 4, minSize=(w // 8, w // 8))
            sides = {bool(eye[0] + eye[2] / 2 > w / 2) for eye in eyes}
            frames_with_eyes += len(sides) == 2
            total += 1
    assert frames_with_eyes / total > 0.9


def test_yunet_finds_every_face(yunet_weights: Path) -> None:
    """YuNet finds one face in every frame, with eyes and mouth where they were rendered."""
    weights = yunet_weights / "face_detection_yunet_2023mar.onnx"
    detector = cv2.FaceDetectorYN.create(str(weights), "", (256, 256))
    for who, word in zip(PEOPLE, WORDS, strict=False):
        for frame in drawing.render(speech.perform(word, who, 0), who)[::4]:
            _, faces = detector.detect(np.ascontiguousarray(frame[..., ::-1]))
            assert faces is not None
            assert len(faces) == 1
            left_eye, right_eye, _, left_mouth, right_mouth = faces[0, 4:14].reshape(5, 2)
            assert np.abs((left_eye + right_eye) / 2 - [128, 110]).max() < 12
            assert np.abs((left_mouth + right_mouth) / 2 - [128, 162]).max() < 14


@pytest.mark.slow
def test_words_are_told_apart_by_ear_and_by_eye() -> None:
    """A ridge classifier recognises the words of unseen speakers from the audio and from the mouth's pixels."""
    heard, seen, word_of, person_of = [], [], [], []
    for word in range(4):
        for person, who in enumerate(PEOPLE):
            for take in range(2):
                frames, samples = synthetic.utterance(WORDS[word], who, take)
                columns = mfcc(samples, 16_000)[:114, 1:]
                heard.append((columns - columns.mean(axis=0)).reshape(38, 3, 12).mean(axis=1).ravel())
                grey = frames[:, 140:212, 88:168].mean(axis=3).astype(np.float32)
                small = np.stack([cv2.resize(g, (20, 18), interpolation=cv2.INTER_AREA) for g in grey])
                seen.append((small - small.mean(axis=0)).ravel() / small.std())
                word_of.append(word)
                person_of.append(person)
    assert leave_one_person_out(np.array(heard), np.array(word_of), np.array(person_of)) >= 0.95
    assert leave_one_person_out(np.array(seen), np.array(word_of), np.array(person_of)) >= 0.85


def leave_one_person_out(features: Any, word_of: Any, person_of: Any) -> float:
    """Return the fraction of clips whose word ridge regression on the other people's clips recognises."""
    hits = 0
    for person in set(person_of.tolist()):
        train, test = person_of != person, person_of == person
        middle, spread = features[train].mean(axis=0), features[train].std(axis=0) + 1e-6
        known, new = (features[train] - middle) / spread, (features[test] - middle) / spread
        kernel = known @ known.T / known.shape[1] + 0.1 * np.eye(len(known))
        scores = new @ known.T / known.shape[1] @ np.linalg.solve(kernel, np.eye(4)[word_of[train]] - 0.25)
        hits += int((scores.argmax(axis=1) == word_of[test]).sum())
    return hits / len(word_of)


def test_the_same_corpus_may_be_completed(corpus: tuple[Path, list[Path]], tmp_path: Path) -> None:
    """After a kill the same call makes the missing files, and the corpus is the same as ever."""
    root = shutil.copytree(corpus[0], tmp_path / "corpus")
    victim = root / corpus[1][0].relative_to(corpus[0])
    victim.rename(victim.with_suffix(".mp4.part"))
    victim.with_suffix(".txt").write_text("Disk")
    synthetic.make_corpus(root, words=2, speakers=3, takes=1)
    assert contents(root) == contents(corpus[0])


@pytest.mark.parametrize("name", ["notes.txt", "ABOUT/train/ABOUT_00001.txt", "ABOUT/train/ABOUT_00001.mp4"])
def test_a_folder_with_other_files_is_refused(tmp_path: Path, name: str) -> None:
    """A user's own files, real LRW files among them, are neither overwritten nor mixed with the corpus."""
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    with pytest.raises(AvprepError, match="use an empty folder"):
        synthetic.make_corpus(tmp_path, words=1, speakers=1, takes=1)
    assert contents(tmp_path) == {name: b"mine"}


def test_another_corpus_is_refused(corpus: tuple[Path, list[Path]]) -> None:
    """A corpus with another seed is not mixed with an existing one."""
    before = contents(corpus[0])
    with pytest.raises(AvprepError, match="use an empty folder"):
        synthetic.make_corpus(corpus[0], words=2, speakers=3, takes=1, seed=1)
    assert contents(corpus[0]) == before


@pytest.mark.parametrize(
    "wrong", [{"words": 0}, {"words": 1000}, {"speakers": 0}, {"takes": 0}, {"size": 255}, {"size": 64}]
)
def test_wrong_numbers_are_named(tmp_path: Path, wrong: dict[str, int]) -> None:
    """An argument out of range is a one-line error that names it."""
    with pytest.raises(AvprepError, match=f"^{next(iter(wrong))} must be .*[0-9]$"):
        synthetic.make_corpus(tmp_path, **wrong)


def test_an_unknown_word_is_named() -> None:
    """A word that the corpus does not have is an error, not a guess."""
    with pytest.raises(AvprepError, match="XYLOPHONE"):
        speech.perform("XYLOPHONE", PEOPLE[0], 0)


def test_every_word_fits_its_clip() -> None:
    """Even the longest word of a slow speaker begins and ends within the video."""
    for word in WORDS:
        for take_seed in range(5):
            edges = speech.perform(word, PEOPLE[take_seed], take_seed).edges
            assert 0 < edges[0] < edges[-1] < speech.FRAMES / FPS


def test_a_larger_picture_shows_the_same_face() -> None:
    """`size` scales the frames and changes nothing else."""
    take = speech.perform("MONEY", PEOPLE[1], 0)
    small, large = drawing.render(take, PEOPLE[1]), drawing.render(take, PEOPLE[1], size=320)
    assert large.shape == (29, 320, 320, 3)
    shrunk = cv2.resize(large[10], (256, 256), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.astype(float) - small[10]).mean() < 4
