"""`avprep study` and `avprep study-results`: from runs to a page, from answers to the table."""

from __future__ import annotations

import base64
import csv
import json
import re
import shutil
from pathlib import Path

import cv2
import made_media as made
import numpy as np
import pytest
import skimage.data
from avprep_cli.main import main
from click.testing import CliRunner, Result
from small_models import SIZES, made_model

from davs_model import checkpoint
from davs_model.checkpoint import Checkpoint
from davs_model.film import PhotoTalker
from davs_model.models.amie.networks import AMIE
from davs_model.study.study import COLUMNS

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, a photo, two audio files and a real video; read-only."""
    folder = tmp_path_factory.mktemp("study")
    for name, seed in (("ours", 0), ("theirs", 1)):
        checkpoint.save(folder / name, Checkpoint.of(made_model(seed), {"mfcc_preset": "davs"}))
    cv2.imwrite(str(folder / "photo.jpg"), cv2.cvtColor(skimage.data.astronaut(), cv2.COLOR_RGB2BGR))
    for name in ("one", "two"):
        made.write_wav(folder / f"{name}.wav", made.noise(0.2, 16_000), 16_000)
    made.numbered(folder / "real.mp4", made.steady(25, 0.4), made.noise(0.4, 16_000))
    return folder


def call(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_page_of_every_run_face_and_sound(folder: Path, tmp_path: Path) -> None:
    """Two runs, a face and two audio files give four videos, real ones are added; the videos on the page play."""
    page = tmp_path / "study.html"
    runs = (folder / "ours", folder / "theirs")
    sounds = ("--audio", folder / "one.wav", "--audio", folder / "two.wav")
    film = ("--film", "real", folder / "real.mp4", folder / "photo.jpg")
    face = ("--face", folder / "photo.jpg", "--detector", "opencv")
    result = call("study", *runs, *face, *sounds, *film, "-o", page, "--title", "Who speaks?")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{page}: 5 videos by 3 methods: ours, from audio; real; theirs, from audio\n"
    text = page.read_text(encoding="utf-8")
    assert "Who speaks?" in text
    assert "from audio" not in text  # blind
    films = [base64.b64decode(data) for data in re.findall(r'"film": ?"([A-Za-z0-9+/=]+)"', text)]
    assert len(films) == 5
    for n, data in enumerate(films):
        (tmp_path / f"{n}.mp4").write_bytes(data)
        about = made.probe(tmp_path / f"{n}.mp4")
        assert (about.video, about.audio) == ("h264", "aac")
    again = call("study", *runs, *face, *sounds, *film, "-o", tmp_path / "again.html", "--title", "Who speaks?")
    assert again.exit_code == 0
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_a_model_of_sound_alone_is_rated_as_such(folder: Path, tmp_path: Path) -> None:
    """A video drives a model of audio alone by its audio, and the row of the table says so."""
    run = tmp_path / "run"
    checkpoint.save(run, Checkpoint.of(AMIE(**SIZES).eval(), {"mfcc_preset": "davs"}))
    face, page = ("--face", folder / "photo.jpg", "--detector", "opencv"), tmp_path / "study.html"
    result = call("study", run, *face, "--video", folder / "real.mp4", "-o", page)
    assert result.stdout == f"{page}: 1 video by 1 method: run, from audio\n"


def test_a_file_drives_a_model_of_sound_alone_only_once(folder: Path, tmp_path: Path) -> None:
    """A file given as --audio and as --video gives one video of a model that only audio drives, not the same twice."""
    run, page = tmp_path / "run", tmp_path / "study.html"
    checkpoint.save(run, Checkpoint.of(AMIE(**SIZES).eval(), {"mfcc_preset": "davs"}))
    face, real = ("--face", folder / "photo.jpg", "--detector", "opencv"), folder / "real.mp4"
    result = call("study", run, *face, "--audio", real, "--video", real, "-o", page)
    assert result.stdout == f"{page}: 1 video by 1 method: run, from audio\n", result.output


def test_every_run_and_driver_is_read_before_a_video_is_made(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later run without a model and a later file without audio are refused first, since videos may take hours."""
    monkeypatch.setattr(PhotoTalker, "film", lambda *_, **__: pytest.fail("a video was made"))
    photo, one = folder / "photo.jpg", folder / "one.wav"
    shared = ("--face", photo, "--audio", one, "--detector", "opencv", "-o", tmp_path / "study.html")
    for arguments, words in (
        ((folder / "ours", tmp_path), "there is no model in this folder yet"),
        ((folder / "ours", "--audio", photo), f"{photo}: cannot be read as a file with audio"),
    ):
        result = call("study", *arguments, *shared)
        assert result.exit_code == 1
        assert words in result.stderr


def test_a_copy_of_a_file_is_refused_before_a_video_is_made(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A face or audio file that is given twice, from two folders, is named before any video is made."""
    monkeypatch.setattr(PhotoTalker, "film", lambda *_, **__: pytest.fail("a video was made"))
    given = {"--face": folder / "photo.jpg", "--audio": folder / "one.wav"}
    for option, path in given.items():
        copy = shutil.copy(path, tmp_path)
        words = [word for pair in given.items() for word in pair]
        result = call("study", folder / "ours", *words, option, copy, "-o", tmp_path / "s.html", "--detector", "opencv")
        assert result.exit_code == 1
        assert f"{copy}: is the same file as {path}: give one of them" in result.stderr


def test_a_photo_without_a_face_names_options_of_the_study(folder: Path, tmp_path: Path) -> None:
    """The advice for a photo without a face names only options that `study` has."""
    empty, page = tmp_path / "empty.png", tmp_path / "study.html"
    cv2.imwrite(str(empty), np.full((60, 60, 3), 255, np.uint8))
    sound = ("--audio", folder / "one.wav", "--detector", "opencv")
    result = call("study", folder / "ours", "--face", empty, *sound, "-o", page)
    assert f"{empty}: no face was found" in result.stderr
    assert set(re.findall(r"--[a-z-]+", result.stderr)) <= set(re.findall(r"--[a-z-]+", call("study", "--help").stdout))


def test_runs_of_one_name_are_told_apart(folder: Path, tmp_path: Path) -> None:
    """Two runs whose folders have the same name are labelled by their paths."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "ours").symlink_to(folder / "ours")
    other = tmp_path / "x" / "ours"
    sound = ("--audio", folder / "one.wav", "--detector", "opencv")
    result = call(
        "study", folder / "ours", other, "--face", folder / "photo.jpg", *sound, "-o", tmp_path / "study.html"
    )
    assert result.exit_code == 0, result.output
    assert f"{other}, from audio" in result.stdout


def test_a_run_goes_by_its_folder_from_within(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run in the current folder has the name of that folder; given twice, it counts once."""
    monkeypatch.chdir(folder / "ours")
    sound = ("--audio", folder / "one.wav", "--face", folder / "photo.jpg", "--detector", "opencv")
    result = call("study", ".", ".", *sound, "-o", tmp_path / "study.html")
    assert result.stdout == f"{tmp_path / 'study.html'}: 1 video by 1 method: ours, from audio\n", result.output


def test_names_that_no_page_takes_are_told_first(folder: Path, tmp_path: Path) -> None:
    """A run's or file's name that does not print, or is too long, is refused by name before any video is made."""
    sound, run = folder / "one.wav", tmp_path / "no\u200dmodel"
    run.mkdir()
    photo = tmp_path / f"{'x' * 200}.jpg"
    photo.symlink_to(folder / "photo.jpg")
    page = tmp_path / "study.html"
    result = call("study", run, "--face", folder / "photo.jpg", "--audio", sound, "-o", page)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {tmp_path / 'no'}\\u200dmodel: its method cannot be")
    result = call("study", folder / "ours", "--face", photo, "--audio", sound, "-o", page)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {photo} with {sound}: its label cannot be")


def test_a_film_that_no_page_takes_is_told_first(folder: Path, tmp_path: Path) -> None:
    """A --film that is not an mp4 or occurs twice, a bad photo and a title that does not print are refused first."""
    run, page, real, photo = tmp_path / "run", tmp_path / "study.html", folder / "real.mp4", folder / "photo.jpg"
    run.mkdir()  # a run without a model, which is an error once a video is to be made
    command = ("study", run, "--face", photo, "--audio", folder / "one.wav", "-o", page)
    for more, message in (
        (("--film", "real", folder / "one.wav", photo), f"{folder / 'one.wav'}: not an mp4"),
        (("--film", "real", real, real), f"{real}: neither JPEG nor PNG"),
        (("--film", "real", real, photo) * 2, f"{real}: is in the study twice as 'real'"),
        (("--title", "no\u200dtitle"), "the study's title cannot be"),
    ):
        result = call(*command, *more)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"Error: {message}"), result.stderr


def test_what_no_study_can_be_made_of(folder: Path, tmp_path: Path) -> None:
    """No driver is a usage error; an invalid video gives one line, and no page."""
    page = tmp_path / "study.html"
    face = ("--face", folder / "photo.jpg", "--detector", "opencv")
    assert call("study", folder / "ours", *face, "-o", page).exit_code == 2
    film = ("--film", "real", folder / "one.wav", folder / "photo.jpg")
    result = call("study", folder / "ours", *face, "--audio", folder / "one.wav", *film, "-o", page)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith(f"Error: {folder / 'one.wav'}: not an mp4")
    assert not page.exists()


def test_answers_become_the_table(tmp_path: Path) -> None:
    """CSVs of participants give Table 2, on the screen and in a file; an invalid CSV gives one line."""
    for n in range(2):
        with (tmp_path / f"{n}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            participant = f"p{n:012x}"
            writer.writerow(["s" + "0" * 12, participant, 1, "f" + "1" * 12, "ours, from audio", "", 1, 1, 80, 9.5])
    result = call("study-results", tmp_path / "0.csv", tmp_path / "1.csv", "-o", tmp_path / "table.md")
    assert result.exit_code == 0, result.output
    assert "ours, from audio" in result.stdout
    assert (tmp_path / "table.md").read_text(encoding="utf-8").strip() == result.stdout.strip()
    before = (tmp_path / "0.csv").read_bytes()
    assert call("study-results", tmp_path / "0.csv", "-o", tmp_path / "0.csv").exit_code == 2
    assert (tmp_path / "0.csv").read_bytes() == before
    (tmp_path / "bad.csv").write_text(json.dumps({}))
    result = call("study-results", tmp_path / "bad.csv")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {tmp_path / 'bad.csv'}")
