"""Transcoding whole files with ffmpeg, and videos from frames and audio."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import made_media as made
import numpy as np
import pytest
from numpy.typing import NDArray

from avprep.errors import AvprepError, ShardError
from avprep.media import film
from avprep.media.audio import SoundFile, read_sound
from avprep.media.video import Frames
from avprep.signals import Stopped


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of numbered frames."""
    return made.numbered(tmp_path_factory.mktemp("mux") / "picture.mp4", made.steady(25, 2), video={"bf": "2"})


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of clicks."""
    samples = made.clicks([0.4, 1.2], 2, 16_000)
    return made.write_wav(tmp_path_factory.mktemp("mux") / "sound.wav", samples, 16_000)


def test_transcode_changes_what_it_is_told_to(picture: Path, tmp_path: Path) -> None:
    """Output options are ffmpeg's; the frames keep their times."""
    film.transcode(picture, tmp_path / "film.mpg", vcodec="mpeg1video", r=25)
    assert made.probe(tmp_path / "film.mpg").video == "mpeg1video"
    assert [made.number_of(image.rgb()) for image in Frames(tmp_path / "film.mpg")] == list(range(50))


ODD_BYTES = os.fsdecode(b"caf\xe9 \xff.mp4")
"""A name that is not UTF-8, as old file systems have them."""


@pytest.mark.parametrize(
    "name",
    [
        *("with space.mp4", "100%03d.mp4", "http:x.mp4", "concat:a|b.mp4", "-i.mp4", "quo'te.mp4", "猫.mp4"),
        pytest.param(ODD_BYTES, id="not UTF-8"),
    ],
)
def test_odd_names(name: str, picture: Path, tmp_path: Path) -> None:
    """Names that look like options, patterns or protocols are taken as names, for inputs and outputs."""
    film.transcode(picture, tmp_path / name, vcodec="copy")
    film.transcode(tmp_path / name, tmp_path / "again.mp4", vcodec="copy")
    assert sum(1 for _ in Frames(tmp_path / "again.mp4")) == 50


def test_an_error_is_one_line_with_ffmpegs_words(tmp_path: Path) -> None:
    """A failure is one line that names both files and quotes ffmpeg; nothing is left behind."""
    bad = tmp_path / "bad.mp4"
    bad.write_text("no film")
    with pytest.raises(AvprepError, match="Invalid data found when processing input") as error:
        film.transcode(bad, tmp_path / "out.mp4")
    message = str(error.value)
    assert "\n" not in message
    assert "out.mp4" in message
    assert "bad.mp4" in message
    assert [path.name for path in tmp_path.iterdir()] == ["bad.mp4"]
    with pytest.raises(AvprepError, match="No such file"):
        film.transcode(tmp_path / "missing.mp4", tmp_path / "out.mp4")


def test_a_failure_keeps_what_was_there(picture: Path, tmp_path: Path) -> None:
    """An existing output is replaced only by a complete one."""
    output = tmp_path / "out.mp4"
    output.write_text("precious")
    with pytest.raises(AvprepError):
        film.transcode(picture, output, vcodec="no_such_codec")
    assert output.read_text() == "precious"
    with pytest.raises(AvprepError, match="VP8"):  # refused after writing began
        film.transcode(picture, tmp_path / "out.webm", vcodec="copy")
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    film.transcode(picture, output, vcodec="copy")
    assert made.probe(output).video == "h264"


def test_the_input_is_not_overwritten(picture: Path, tmp_path: Path) -> None:
    """Input and output under one name are refused, and the input stays."""
    same = tmp_path / "same.mp4"
    same.write_bytes(picture.read_bytes())
    with pytest.raises(AvprepError, match="is the input too"):
        film.transcode(same, tmp_path / "." / "same.mp4", vcodec="copy")
    assert same.read_bytes() == picture.read_bytes()


def test_without_ffmpeg_on_the_path(picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If PATH has no ffmpeg, the one of imageio-ffmpeg is used; otherwise the one in PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert film.ffmpeg_binary() == made.FFMPEG
    film.transcode(picture, tmp_path / "film.mp4", vcodec="copy")
    assert sum(1 for _ in Frames(tmp_path / "film.mp4")) == 50
    (tmp_path / "ffmpeg").write_text("#!/bin/sh\n")
    (tmp_path / "ffmpeg").chmod(0o755)
    assert film.ffmpeg_binary() == str(tmp_path / "ffmpeg")


def test_no_ffmpeg_at_all(picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any ffmpeg the error says what to do; a configured ffmpeg that is missing is named."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "nowhere"))
    with pytest.raises(AvprepError, match="nowhere"):
        film.transcode(picture, tmp_path / "out.mp4")

    def none_shipped() -> str:
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", none_shipped)
    with pytest.raises(AvprepError, match="install ffmpeg"):
        film.transcode(picture, tmp_path / "out.mp4")


@pytest.mark.parametrize(("parent", "why"), [("nowhere", "No such file or directory"), ("file", "Not a directory")])
def test_a_folder_that_is_not_there(picture: Path, tmp_path: Path, parent: str, why: str) -> None:
    """An output in a missing folder is a one-line error that names the output, not a temporary file."""
    (tmp_path / "file").write_text("no folder")
    output = tmp_path / parent / "out.mp4"
    with pytest.raises(AvprepError, match=rf"^{re.escape(str(output))}: cannot write \({why}\)$"):
        film.transcode(picture, output, vcodec="copy")


class TestFilm:
    """Frames become a video whose audio is in sync and as long as the frames."""

    instants = (0.4, 1.2, 2.0)

    def frames(self, count: int) -> list[NDArray[np.uint8]]:
        """Make numbered RGB frames that light up at the given instants."""
        lit = [any(instant <= n / 25 < instant + 0.16 for instant in self.instants) for n in range(count)]
        return [np.repeat(made.picture(n, lit=on)[..., None], 3, axis=2) for n, on in enumerate(lit)]

    def measure(self, output: Path, count: int) -> None:
        """Check that flashes and clicks of a video coincide to 2 ms and that both streams have the right length."""
        shown = [image.rgb() for image in Frames(output)]
        assert [made.number_of(image) for image in shown] == list(range(count))
        lit = [n for n, image in enumerate(shown) if made.is_lit(image)]
        flashes = [n / 25 for n in lit if n - 1 not in lit]
        heard = read_sound(output)
        assert np.allclose(made.peaks(heard.samples, heard.first, 3), flashes, atol=0.002)
        with av.open(str(output)) as container:
            (video,), (audio,) = container.streams.video, container.streams.audio
            assert video.codec_context.name == "h264"
            assert video.average_rate == 25
            for stream in (video, audio):
                assert stream.duration is not None
                assert stream.time_base is not None
                assert abs(stream.duration * stream.time_base - Fraction(count, 25)) < Fraction(2, 1000)
            assert container.start_time == 0

    @pytest.mark.parametrize(
        ("name", "rate", "options"),
        [
            ("a.wav", 8000, ()),
            ("a.wav", 44_100, ()),
            ("a.flac", 96_000, ()),
            ("a.m4a", 16_000, ()),
            ("a.mp3", 44_100, ()),
            ("a.ogg", 48_000, ("-c:a", "libopus")),
            ("a.mka", 48_000, ("-output_ts_offset", "5")),
            ("a.ts", 48_000, ("-c:a", "aac")),
            ("a.avi", 22_050, ("-c:a", "pcm_s16le")),
        ],
    )
    def test_sound_of_its_own(self, tmp_path: Path, name: str, rate: int, options: tuple[str, ...]) -> None:
        """Driven by an audio file, the video begins with the first sample, whatever its time stamp."""
        wav = made.write_wav(tmp_path / "made.wav", made.clicks(self.instants, 2.6, rate), rate)
        made.ffmpeg("-i", wav, *options, tmp_path / name)
        file = SoundFile(tmp_path / name)
        file.scan()
        (part,) = file.stretches(10_000)
        lead = made.peaks(part.samples, part.first, 3)[0] - self.instants[0]  # added in front by an encoder
        assert abs(lead) < 0.06
        wanted = [instant + lead for instant in self.instants]
        lit = [any(instant - 0.02 <= n / 25 < instant + 0.14 for instant in wanted) for n in range(file.n_frames)]
        frames = (np.repeat(made.picture(n, lit=on)[..., None], 3, axis=2) for n, on in enumerate(lit))
        output = tmp_path / "film.mp4"
        film.write_film(output, frames, file.n_frames, sound=file.path, zero=file.zero)
        heard = read_sound(output)
        assert np.allclose(made.peaks(heard.samples, heard.first, 3), wanted, atol=0.002)
        shown = [made.is_lit(image.rgb()) for image in Frames(output)]
        assert shown == lit
        assert heard.n_frames == file.n_frames

    @pytest.mark.parametrize("sound_at", [0.0, 0.2, -0.3], ids=["together", "late sound", "early sound"])
    @pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.mpg"])
    def test_sound_of_a_video(self, tmp_path: Path, name: str, sound_at: float) -> None:
        """Driven by a video, the generated video begins with its first frame, and the audio keeps its offset."""
        first = max(0.0, -sound_at)
        times = made.steady(25, 2.4, first=first)
        sound = made.clicks([first + t for t in self.instants], 3.2, 48_000)
        codecs: dict[str, Any] = {"vcodec": "mpeg1video", "acodec": "mp2", "fps": 25} if name == "a.mpg" else {}
        if codecs and first:
            pytest.skip("the clock of a constant rate begins at 0")
        at = max(0.0, sound_at)
        clip = made.numbered(tmp_path / name, times, sound[round(at * 48_000) :], rate=48_000, sound_at=at, **codecs)
        pictures = Frames(clip)
        count = len(list(pictures))
        output = tmp_path / "film.mp4"
        film.write_film(output, self.frames(count), count, sound=clip, zero=pictures.zero)
        self.measure(output, count)

    def test_short_blocks_of_vorbis(self, tmp_path: Path) -> None:
        """Clicks in Ogg Vorbis, at which block sizes change, sound the same in the video as in the driving audio."""
        wav = made.write_wav(tmp_path / "made.wav", made.clicks(self.instants, 2.6, 44_100), 44_100)
        made.ffmpeg("-i", wav, "-c:a", "libvorbis", "-q:a", "8", tmp_path / "a.ogg")
        file = SoundFile(tmp_path / "a.ogg")
        file.scan()
        (part,) = file.stretches(10_000)
        film.write_film(tmp_path / "film.mp4", self.frames(65), 65, sound=file.path, zero=file.zero)
        heard = read_sound(tmp_path / "film.mp4").samples[: part.samples.size]
        for instant in self.instants:
            click = slice(round(16_000 * (instant - 0.01)), round(16_000 * (instant + 0.01)))
            wanted = part.samples[click].astype(float)
            assert ((heard[click] - wanted) ** 2).mean() < 0.1 * (wanted**2).mean()

    def test_samples_that_are_not_finite(self, tmp_path: Path) -> None:
        """NaN samples are silent in a video and infinite ones at full scale, as in windows."""
        samples = (made.noise(0.8, 16_000) / 2**15).astype("<f4")
        samples[4000:8000] = np.nan
        samples[10_000:10_010] = np.inf
        (tmp_path / "raw").write_bytes(samples.tobytes())
        made.ffmpeg("-f", "f32le", "-ar", "16000", "-i", tmp_path / "raw", "-c:a", "pcm_f32le", tmp_path / "a.wav")
        film.write_film(tmp_path / "film.mp4", self.frames(20), 20, sound=tmp_path / "a.wav")
        heard = read_sound(tmp_path / "film.mp4").samples.astype(float)
        assert np.abs(heard[5000:7000]).max() < 100 < np.abs(heard[1000:3000]).max()
        assert np.corrcoef(heard[1000:3000], samples[1000:3000])[0, 1] > 0.9
        assert heard[9990:10_020].max() > 20_000

    def test_sound_that_is_too_short_or_too_long(self, tmp_path: Path, sound: Path) -> None:
        """Missing audio is filled with silence; audio beyond the frames is left out."""
        for count in (10, 50, 200):
            output = tmp_path / "film.mp4"
            film.write_film(output, self.frames(count), count, sound=sound)
            with av.open(str(output)) as container:
                audio = container.streams.audio[0]
                assert audio.duration is not None
                assert audio.time_base is not None
                assert abs(audio.duration * audio.time_base - Fraction(count, 25)) < Fraction(2, 1000)

    def test_without_sound(self, tmp_path: Path) -> None:
        """A video without audio has no audio stream, and its colours match the frames to a few grey levels."""
        colours = [np.full((64, 64, 3), colour, np.uint8) for colour in ((200, 40, 40), (30, 160, 90), (60, 60, 220))]
        output = tmp_path / "film.mp4"
        film.write_film(output, [colour for colour in colours for _ in range(5)], 15)
        assert made.probe(output).audio is None
        shown = [image.rgb().astype(int) for image in Frames(output)]
        assert all(np.abs(image - colours[n // 5]).max() <= 6 for n, image in enumerate(shown))

    def test_the_same_frames_give_the_same_bytes(self, tmp_path: Path, sound: Path) -> None:
        """A video does not depend on the time at which it is written, nor on its path."""
        for name in ("a.mp4", "b.mp4"):
            film.write_film(tmp_path / name, self.frames(40), 40, sound=sound)
        assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()

    def test_what_breaks_off_leaves_nothing(self, tmp_path: Path, sound: Path) -> None:
        """Failing frames, unreadable audio and a missing folder each give one error and no video."""

        def broken() -> Iterator[NDArray[np.uint8]]:
            yield from self.frames(3)
            raise ShardError("no more frames")

        output = tmp_path / "film.mp4"
        with pytest.raises(ShardError, match="no more frames"):
            film.write_film(output, broken(), 40, sound=sound)
        bad = tmp_path / "bad.wav"
        bad.write_text("#EXTM3U\nsound.wav")
        with pytest.raises(AvprepError, match=r"bad\.wav to .*film\.mp4: ffmpeg failed: .*"):
            film.write_film(output, self.frames(200), 200, sound=bad)
        with pytest.raises(AvprepError, match=r"none/film\.mp4: cannot write \(No such file or directory\)$"):
            film.write_film(tmp_path / "none" / "film.mp4", self.frames(3), 3)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.wav"]

    @pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
    def test_a_stop_leaves_nothing(self, tmp_path: Path, name: str) -> None:
        """Termination by a scheduler or a closed terminal keeps the existing output and leaves nothing half-written."""

        def stopped() -> Iterator[NDArray[np.uint8]]:
            yield from self.frames(3)
            os.kill(os.getpid(), signal.Signals[name])
            yield from self.frames(37)

        output = tmp_path / "film.mp4"
        output.write_bytes(b"of before")
        number = signal.Signals[name]
        before = signal.signal(number, signal.SIG_DFL)  # SIGHUP may be ignored where the tests run
        try:
            with pytest.raises(Stopped, match=rf"film\.mp4: stopped by {name}, and not written"):
                film.write_film(output, stopped(), 40)
            assert signal.getsignal(number) is signal.SIG_DFL
        finally:
            signal.signal(number, before)
        assert [path.name for path in tmp_path.iterdir()] == [output.name]
        assert output.read_bytes() == b"of before"

    def test_names_that_are_not_utf_8(self, tmp_path: Path, sound: Path) -> None:
        """The audio file and the video may have names that are not UTF-8; the bytes written are the same."""
        odd = Path(shutil.copy(sound, tmp_path / ODD_BYTES.replace("mp4", "wav")))
        film.write_film(tmp_path / "plain.mp4", self.frames(3), 3, sound=sound)
        film.write_film(tmp_path / ODD_BYTES, self.frames(3), 3, sound=odd)
        assert (tmp_path / ODD_BYTES).read_bytes() == (tmp_path / "plain.mp4").read_bytes()

    def test_its_sound_is_not_overwritten(self, tmp_path: Path, picture: Path) -> None:
        """A generated video does not overwrite the video that drives it."""
        clip = tmp_path / "clip.mp4"
        clip.write_bytes(picture.read_bytes())
        with pytest.raises(AvprepError, match="is the input too"):
            film.write_film(clip, self.frames(3), 3, sound=clip)
        assert clip.read_bytes() == picture.read_bytes()
