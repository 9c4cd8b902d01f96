"""Muxing and transcoding whole files with ffmpeg."""

from __future__ import annotations

from pathlib import Path

import imageio_ffmpeg
import made_media as made
import numpy as np
import pytest

from avprep import mux
from avprep.errors import AvprepError
from avprep.media import Frames, probe
from avprep.sound import read_sound


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of numbered pictures."""
    return made.numbered(tmp_path_factory.mktemp("mux") / "picture.mp4", made.steady(25, 2), video={"bf": "2"})


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of clicks."""
    samples = made.clicks([0.4, 1.2], 2, 16_000)
    return made.write_wav(tmp_path_factory.mktemp("mux") / "sound.wav", samples, 16_000)


def test_mux_joins_pictures_and_sound(picture: Path, sound: Path, tmp_path: Path) -> None:
    """The muxed film has the pictures untouched and the sound in time with them."""
    film = tmp_path / "film.mp4"
    mux.mux(picture, sound, film)
    assert [made.number_of(image.rgb()) for image in Frames(film)] == list(range(50))
    heard = read_sound(film)
    assert np.allclose(made.peaks(heard.samples, heard.first, 2), [0.4, 1.2], atol=0.001)
    assert probe(film).video == "h264"


def test_transcode_changes_what_it_is_told_to(picture: Path, tmp_path: Path) -> None:
    """Output options are ffmpeg's; the pictures keep their time."""
    mux.transcode(picture, tmp_path / "film.mpg", vcodec="mpeg1video", r=25)
    assert probe(tmp_path / "film.mpg").video == "mpeg1video"
    assert [made.number_of(image.rgb()) for image in Frames(tmp_path / "film.mpg")] == list(range(50))


@pytest.mark.parametrize(
    "name", ["with space.mp4", "100%03d.mp4", "http:x.mp4", "concat:a|b.mp4", "-i.mp4", "quo'te.mp4"]
)
def test_odd_names(name: str, picture: Path, sound: Path, tmp_path: Path) -> None:
    """Names that look like options, patterns or protocols are names, of inputs and outputs."""
    mux.mux(picture, sound, tmp_path / name)
    mux.transcode(tmp_path / name, tmp_path / "again.mp4", vcodec="copy")
    assert read_sound(tmp_path / "again.mp4").n_frames == 50


def test_an_error_is_one_line_with_ffmpegs_words(sound: Path, tmp_path: Path) -> None:
    """What fails is told in one line that names both files and has ffmpeg's own words; nothing is left behind."""
    bad = tmp_path / "bad.mp4"
    bad.write_text("no film")
    for call in (lambda: mux.transcode(bad, tmp_path / "out.mp4"), lambda: mux.mux(bad, sound, tmp_path / "out.mp4")):
        with pytest.raises(AvprepError, match="Invalid data found when processing input") as error:
            call()
        message = str(error.value)
        assert "\n" not in message
        assert "out.mp4" in message
        assert "bad.mp4" in message
        assert [path.name for path in tmp_path.iterdir()] == ["bad.mp4"]
    with pytest.raises(AvprepError, match="No such file"):
        mux.transcode(tmp_path / "missing.mp4", tmp_path / "out.mp4")


def test_a_failure_keeps_what_was_there(picture: Path, tmp_path: Path) -> None:
    """An output that exists is replaced only by a whole one."""
    output = tmp_path / "out.mp4"
    output.write_text("precious")
    with pytest.raises(AvprepError):
        mux.transcode(picture, output, vcodec="no_such_codec")
    assert output.read_text() == "precious"
    with pytest.raises(AvprepError, match="VP8"):  # refused after the output was begun
        mux.transcode(picture, tmp_path / "out.webm", vcodec="copy")
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    mux.transcode(picture, output, vcodec="copy")
    assert probe(output).video == "h264"


def test_the_input_is_not_overwritten(picture: Path, tmp_path: Path) -> None:
    """Input and output under one name are refused, and the input stays."""
    same = tmp_path / "same.mp4"
    same.write_bytes(picture.read_bytes())
    with pytest.raises(AvprepError, match="is the input too"):
        mux.transcode(same, tmp_path / "." / "same.mp4", vcodec="copy")
    assert same.read_bytes() == picture.read_bytes()


def test_without_ffmpeg_on_the_path(
    picture: Path, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where PATH has no ffmpeg, the one that imageio-ffmpeg ships is used; where it has one, that one."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert mux.ffmpeg_binary() == made.FFMPEG
    mux.mux(picture, sound, tmp_path / "film.mp4")
    assert read_sound(tmp_path / "film.mp4").n_frames == 50
    (tmp_path / "ffmpeg").write_text("#!/bin/sh\n")
    (tmp_path / "ffmpeg").chmod(0o755)
    assert mux.ffmpeg_binary() == str(tmp_path / "ffmpeg")


def test_no_ffmpeg_at_all(picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any ffmpeg the error says what to do; where the one that is named is missing, it names it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "nowhere"))
    with pytest.raises(AvprepError, match="nowhere"):
        mux.transcode(picture, tmp_path / "out.mp4")

    def none_shipped() -> str:
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", none_shipped)
    with pytest.raises(AvprepError, match="install ffmpeg"):
        mux.transcode(picture, tmp_path / "out.mp4")


def test_a_folder_that_is_not_there(picture: Path, tmp_path: Path) -> None:
    """An output in a missing folder is an error of one line."""
    with pytest.raises(AvprepError, match="No such file or directory") as error:
        mux.transcode(picture, tmp_path / "nowhere" / "out.mp4", vcodec="copy")
    assert "\n" not in str(error.value)
