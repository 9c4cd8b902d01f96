"""`avprep generate`: photos that talk, as videos in sync with their audio; every error is one clear line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import made_media as made
import numpy as np
import pytest
import skimage.data
from avprep_cli.main import main
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from small_models import made_model

from avprep.media.audio import read_sound
from avprep.media.video import Frames
from avprep.talking import driver as drivers
from avprep.talking import inputs, photo
from davs_model import checkpoint
from davs_model import film as film_of
from davs_model.checkpoint import Checkpoint
from davs_model.generation import Talker

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, a photo and its aligned face, a speech of 1.2 s and one of 0.4 s; read-only."""
    folder = tmp_path_factory.mktemp("generate")
    checkpoint.save(folder / "run", Checkpoint.of(made_model(), {"mfcc_preset": "davs", "steps": {"full": 1}}))
    face = cv2.cvtColor(skimage.data.astronaut(), cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(folder / "photo.jpg"), face)
    (read,) = inputs.read_photos([folder / "photo.jpg"], detector="opencv")
    cv2.imwrite(str(folder / "face.png"), read.crop[..., ::-1])
    made.write_wav(folder / "speech.wav", made.noise(1.2, 16_000), 16_000)
    made.write_wav(folder / "word.wav", made.noise(0.4, 16_000), 16_000)
    return folder


@pytest.fixture(scope="module")
def clip(lrw: Path) -> Path:
    """A talking face of 29 frames."""
    return min(path for path in (lrw / "corpus").rglob("*.mp4") if path.stat().st_size > 100)


@pytest.fixture(scope="module")
def part(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 10 frames of it."""
    path = tmp_path_factory.mktemp("part") / "part.mp4"
    made.ffmpeg("-i", clip, "-t", "0.4", path)
    return path


def call(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def generate(folder: Path, output: Path, *arguments: object, face: str = "photo.jpg") -> Result:
    """Run `avprep generate` with the photo and the cascades."""
    detector = () if "--aligned" in arguments else ("--detector", "opencv")
    return call("generate", folder / "run", "--face", folder / face, "-o", output, *detector, *arguments)


def pictures(film: Path) -> list[NDArray[np.uint8]]:
    """Read all frames of a video."""
    return [image.rgb() for image in Frames(film)]


def test_a_photo_says_what_is_heard(folder: Path, tmp_path: Path) -> None:
    """The video is 256×256 at 25 fps, in H.264 and AAC, and as long as the audio."""
    film = tmp_path / "film.mp4"
    result = generate(folder, film, "--audio", folder / "speech.wav")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{film}: 30 frames, 1.20 s\n"
    about = made.probe(film)
    assert (about.video, about.audio, about.fps, about.width, about.height) == ("h264", "aac", 25, 256, 256)
    assert len(pictures(film)) == 30
    assert read_sound(film).n_frames == 30
    again = tmp_path / "again.mp4"
    assert generate(folder, again, "--audio", folder / "speech.wav").exit_code == 0
    assert again.read_bytes() == film.read_bytes()


def test_speech_on_the_right_channel(folder: Path, tmp_path: Path) -> None:
    """If the left channel is silent, the right one alone drives the face, and a message says so."""
    left = made.write_wav(tmp_path / "left.wav", np.zeros(19_200, np.int16), 16_000)
    both = ("-i", left, "-i", folder / "speech.wav", "-filter_complex", "[0:a][1:a]join=inputs=2:channel_layout=stereo")
    made.ffmpeg(*both, tmp_path / "right.wav")
    aligned: dict[str, Any] = {"face": "face.png"}
    told = generate(folder, tmp_path / "right.mp4", "--aligned", "--audio", tmp_path / "right.wav", **aligned)
    assert told.exit_code == 0, told.output
    assert "right.wav: audio track 0, channel 1" in told.stderr
    mono = generate(folder, tmp_path / "mono.mp4", "--aligned", "--audio", folder / "speech.wav", **aligned)
    assert mono.exit_code == 0
    right, mono = (pictures(tmp_path / f"{name}.mp4") for name in ("right", "mono"))
    assert all(np.array_equal(*two) for two in zip(right, mono, strict=True))


def test_a_photo_says_what_is_seen(folder: Path, clip: Path, tmp_path: Path) -> None:
    """Driven by a video, the generated video has its frames and its audio."""
    film = tmp_path / "film.mp4"
    result = generate(folder, film, "--video", clip)
    assert result.exit_code == 0, result.output
    assert len(pictures(film)) == len(pictures(clip)) == 29
    heard, spoken = read_sound(film), read_sound(clip)
    n = min(heard.samples.size, spoken.samples.size)
    likeness = np.corrcoef(heard.samples[:n].astype(float), spoken.samples[:n].astype(float))[0, 1]
    assert likeness > 0.9  # AAC once more, without a shift


def test_a_grid(folder: Path, part: Path, tmp_path: Path) -> None:
    """Several faces are side by side below their photos, with the driving face on the left."""
    two, face = ("--aligned", "--face", folder / "face.png", "--grid"), "face.png"
    heard, seen = tmp_path / "heard.mp4", tmp_path / "seen.mp4"
    photos = ("--face", folder / "photo.jpg", "--grid")
    assert generate(folder, heard, *photos, "--audio", folder / "word.wav").exit_code == 0
    assert generate(folder, seen, *two, "--video", part, "--detector", "opencv", face=face).exit_code == 0
    assert pictures(heard)[0].shape == (2 * 272, 2 * 272, 3)
    frame = pictures(seen)[3]
    assert frame.shape == (2 * 272, 3 * 272, 3)
    assert frame[8:264, 8:264].min() > 250  # nothing above the driving face
    one, other = frame[8:264, 280:536], frame[8:264, 552:808]
    assert np.abs(one.astype(int) - other).mean() < 3  # the same photo twice
    assert np.abs(frame[280:536, 8:264].astype(int) - one).mean() > 10


def test_paste_back(folder: Path, tmp_path: Path) -> None:
    """The video is the photo, with even sides, with another face in it and nothing else changed."""
    film = tmp_path / "film.mp4"
    result = generate(folder, film, "--audio", folder / "word.wav", "--paste-back")
    assert result.exit_code == 0, result.output
    frames = np.stack(pictures(film)).astype(int)
    image = photo.read_image(folder / "photo.jpg").astype(int)
    assert frames.shape[1:] == image.shape
    changed = np.abs(frames - image).mean(axis=(0, 3))
    assert changed[300:].mean() < 4  # below the face: the error of H.264
    assert changed[90:150, 195:255].mean() > 15


def test_aligned_photos_and_prepared_speech(folder: Path, tmp_path: Path) -> None:
    """Images that are crops already are used unchanged; a folder of windows drives them without audio."""
    (tmp_path / "mfcc").mkdir()
    for n, window in enumerate(np.random.default_rng(0).normal(size=(20, 20, 12)), 2):
        (tmp_path / "mfcc" / f"{n}.bin").write_bytes(window.tobytes())
    cv2.imwrite(str(folder / "0.png"), np.full((260, 260, 3), 90, np.uint8))
    film = tmp_path / "film.mp4"
    result = generate(folder, film, "--aligned", "--audio", tmp_path / "mfcc", face="0.png")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{film}: 20 frames, 0.80 s, without sound: there is none to it\n"
    assert made.probe(film).audio is None


def test_scale_and_adaptation_change_the_film(folder: Path, tmp_path: Path) -> None:
    """Scaled audio features, and a model that was fine-tuned to the photo, generate other frames."""
    plain, scaled, tuned = (tmp_path / f"{name}.mp4" for name in ("plain", "scaled", "tuned"))
    speech = ("--aligned", "--audio", folder / "word.wav")
    for film, more in ((plain, ()), (scaled, ("--speech-scale", 1.5)), (tuned, ("--adapt-steps", 2))):
        assert generate(folder, film, *speech, *more, face="face.png").exit_code == 0
    assert len({film.read_bytes() for film in (plain, scaled, tuned)}) == 3


def test_more_of_the_person_changes_the_film(folder: Path, part: Path, tmp_path: Path) -> None:
    """A second photo and a video of the person are averaged with the first, and adaptation uses the video."""
    speech = ("--aligned", "--audio", folder / "word.wav")
    person = ("--person", part, "--detector", "opencv")
    plain, two, seen, tuned, again = (tmp_path / f"{name}.mp4" for name in ("plain", "two", "seen", "tuned", "again"))
    cv2.imwrite(str(tmp_path / "other.png"), cv2.imread(str(folder / "face.png"))[:, ::-1])
    for film, arguments in (
        (plain, ()),
        (two, ("--face", tmp_path / "other.png")),
        (seen, person),
        (tuned, (*person, "--adapt-steps", 2)),
        (again, (*person, "--adapt-steps", 2, "--seed", 1)),
    ):
        result = generate(folder, film, *speech, *arguments, face="face.png")
        assert result.exit_code == 0, result.output
    films = {film.read_bytes() for film in (plain, two, seen, tuned, again)}
    assert len(films) == 5
    assert pictures(two)[0].shape == (256, 256, 3)  # of one person, so without a grid
    assert (folder / "run" / "checkpoint.safetensors").stat().st_mtime < plain.stat().st_mtime


def test_it_says_what_to_expect(folder: Path, tmp_path: Path) -> None:
    """The output gives the last validation, and how the photo differs from the training frames."""
    scores = {"opening_r": 0.71, "amplitude": 0.64}
    about = {"mfcc_preset": "davs", "steps": {"full": 1}, "talking": {"audio": scores, "talks": True}}
    checkpoint.save(tmp_path / "run", Checkpoint.of(made_model(), about))
    far = np.full((400, 400, 3), 127, np.uint8)
    far[50:350, 50:350] = cv2.resize(cv2.imread(str(folder / "photo.jpg")), (300, 300), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(tmp_path / "far.png"), far)
    arguments = ("--face", tmp_path / "far.png", "--audio", folder / "word.wav", "-o", tmp_path / "film.mp4")
    result = call("generate", tmp_path / "run", *arguments, "--detector", "opencv")
    assert result.exit_code == 0, result.output
    assert "mouths opened with a correlation of 0.71 with the real ones, and moved 64% as far" in result.stderr
    assert "far.png: unlike what models learn from, so expect less: the face is small" in result.stderr


def test_it_warns_of_what_the_model_never_learned_from(folder: Path, part: Path, tmp_path: Path) -> None:
    """A model that drew from audio alone is driven by a video, or tuned to one without audio, with a warning."""
    about = {"mfcc_preset": "davs", "steps": {"full": 1}}
    alone = {"training": {"generation": {"drive": "alternate", "video": 0.0}}}
    for name, more in (("alone", alone), ("both", {})):
        checkpoint.save(tmp_path / name, Checkpoint.of(made_model(), about | more))
    silent = tmp_path / "silent.mp4"
    made.ffmpeg("-i", part, "-an", "-c", "copy", silent)
    face = ("--face", folder / "face.png", "--aligned", "--detector", "opencv", "-o", tmp_path / "film.mp4")
    spoken = ("--audio", folder / "word.wav", "--adapt-steps", 1, "--person")
    for given, words in (
        (("--video", part), f"warning: {part}: the model has learned to draw from audio alone: a face driven by video"),
        ((*spoken, silent), f"warning: {silent}: has no sound, and the model has learned to draw from audio alone"),
        ((*spoken, part), None),
    ):
        for name in ("alone", "both"):
            result = call("generate", tmp_path / name, *face, *given)
            assert result.exit_code == 0, result.output
            if name == "alone" and words is not None:
                assert words in result.stderr
            else:
                assert "warning" not in result.stderr


class Blinking(Talker):
    """Stands in for a model: white if the windows' middle is loud or the driving face bright, else black."""

    def __init__(self) -> None:
        self.mfcc_preset = "davs"

    def talk(
        self, faces: NDArray[np.uint8], speech: Iterable[NDArray[Any]], *, speech_scale: float = 1.0
    ) -> Iterator[NDArray[np.uint8]]:
        """Generate each frame."""
        for part in speech:
            for one in part:
                loud = one[:, 8:12].std() > 1.5 * one.std()
                yield np.full_like(faces, 255 if loud else 0)


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.m4a", "a.mkv", "a.ts"])
def test_frames_are_in_step_with_the_sound(folder: Path, tmp_path: Path, name: str) -> None:
    """From the windows that drive the frames to the video, clicks coincide with the frames that light up."""
    instants = [0.5, 1.3, 2.1]
    wav = made.write_wav(tmp_path / "made.wav", made.clicks(instants, 2.6, 44_100), 44_100)
    speech = wav if name == "a.wav" else tmp_path / name
    if speech != wav:
        made.ffmpeg("-i", wav, *(("-output_ts_offset", "3") if name == "a.mkv" else ()), speech)
    shown = photo.Photo(np.zeros((256, 256, 3), np.uint8), np.eye(2, 3), np.zeros((256, 256, 3), np.uint8))
    film = tmp_path / "film.mp4"
    driver = drivers.from_sound(speech)
    film_of.write(film, Blinking(), [shown], driver)
    lit = [image.mean() > 128 for image in pictures(film)]
    flashes = [n for n, on in enumerate(lit) if on]
    heard = read_sound(film)
    for click in made.peaks(heard.samples, heard.first, 3):
        nearest = min(flashes, key=lambda n: abs((n + 0.5) / 25 - click))
        assert abs((nearest + 0.5) / 25 - click) <= 0.04
    with av.open(str(film)) as container:
        lengths = [stream.duration * stream.time_base for stream in container.streams if stream.duration]
    assert abs(lengths[0] - lengths[1]) < Fraction(1, 500)
    assert abs(lengths[0] - driver.n_frames / 25) < 0.002


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give either --audio or --video"),
        (("--audio", "speech.wav", "--video", "speech.wav"), "give either --audio or --video"),
        (("--audio", "speech.wav", "--person", "speech.wav", "--grid"), "--person is a video of one person"),
        (("--audio", "speech.wav", "--seed", "-1"), "is not in the range"),
        (("--audio", "speech.wav", "--adapt-steps", "100001"), "is not in the range"),
        (("--audio", "speech.wav", "--paste-back", "--grid"), "--paste-back needs a single photo"),
        (("--audio", "speech.wav", "--face-box", "1,2,3"), "is not four numbers"),
        (("--audio", "speech.wav", "--aligned", "--face-box", "1,2,3,4"), "--face-box is for a single photo"),
        (("--video", "speech.wav", "--speech-scale", "2"), "it needs --audio"),
        (("--audio", "speech.wav", "-o", "out.avi"), "name it .mp4"),
        (("--video", "speech.wav", "--audio-channel", "1"), "it needs --audio"),
        (("--audio", "speech.wav", "--audio-track", "-1"), "is not in the range"),
        (("--audio", "speech.wav", "--max-seconds", "0"), "is not in the range"),
    ],
)
def test_wrong_usage(folder: Path, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    """Options that do not fit together are reported before anything is computed, with status 2."""
    given = [str(folder / word) if word in ("speech.wav", "photo.jpg") else word for word in arguments]
    result = generate(folder, tmp_path / "film.mp4", *given)
    assert result.exit_code == 2
    assert words in result.stderr
    assert not list(tmp_path.iterdir())


def test_no_input_is_overwritten(folder: Path, tmp_path: Path) -> None:
    """The output does not replace the video that drives it, which has no audio, nor a photo."""
    clip = made.numbered(tmp_path / "clip.mp4", made.steady(25, 1))
    photo_too = tmp_path / "photo.mp4"
    photo_too.write_bytes((folder / "photo.jpg").read_bytes())
    for output, arguments in ((clip, ("--video", clip)), (photo_too, ("--video", clip, "--grid", "--face", photo_too))):
        before = output.read_bytes()
        result = generate(folder, output, *arguments)
        assert result.exit_code == 2
        assert "is the input too" in result.stderr
        assert output.read_bytes() == before


def test_what_cannot_be_done_is_one_line(folder: Path, tmp_path: Path) -> None:
    """No face, no audio, no talker in the video, no model and no output folder each give one line, and no video."""
    cv2.imwrite(str(folder / "wall.png"), np.full((96, 128, 3), 150, np.uint8))
    cv2.imwrite(str(folder / "crop.png"), np.full((256, 256, 3), 90, np.uint8))
    made.write_wav(folder / "short.wav", made.noise(0.01, 16_000), 16_000)
    made.numbered(folder / "nobody.mp4", made.steady(25, 0.2))
    film = tmp_path / "film.mp4"
    crop = ("--aligned", "--detector", "opencv")
    searched = [
        (("--audio", folder / "speech.wav"), "wall.png", "wall.png: no face was found"),
        ((*crop, "--video", folder / "nobody.mp4"), "crop.png", "nobody.mp4: no face was found"),
        ((*crop, "--video", folder / "speech.wav"), "crop.png", "speech.wav: holds no picture"),
        ((*crop, "--video", folder / "speech.wav", "--audio-track", 1), "crop.png", "--audio-track 1 does not exist"),
    ]
    no_speech = [
        (("--audio", folder / "short.wav"), "short.wav: the sound is shorter than"),
        (("--audio", folder / "nobody.mp4"), "nobody.mp4: holds no sound"),
        (("--audio", tmp_path), "holds no prepared files"),
        (("--audio", folder / "wall.png"), "wall.png: cannot be read as a file with audio"),
        (("--audio", folder / "speech.wav", "--max-seconds", 1), "longer than 1 s; raise --max-seconds"),
        (("--audio", folder / "speech.wav", "--audio-channel", 1), "--audio-channel 1 does not exist"),
        (("--audio", folder / "speech.wav", "-o", tmp_path / "none" / "a.mp4"), "a.mp4"),
    ]
    for arguments, face, words in (
        *searched,
        *((("--aligned", *given), "crop.png", said) for given, said in no_speech),
    ):
        result = generate(folder, film, *arguments, face=face)
        assert result.exit_code == 1, (arguments, result.output)
        assert result.stderr.startswith("Error: ")
        assert words in result.stderr
        assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
    result = call("generate", tmp_path, "--face", folder / "photo.jpg", "--audio", folder / "speech.wav", "-o", film)
    assert result.exit_code == 1
    assert "no checkpoint" in result.stderr or "checkpoint.safetensors" in result.stderr
