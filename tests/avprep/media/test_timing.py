"""A flash and a click at the same instant are in the same frame and MFCC step, whatever the container."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import made_media as made
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from avprep import stages
from avprep.errors import Reject
from avprep.manifest import Clip
from avprep.media import mfcc
from avprep.media.audio import Sound, read_sound
from avprep.media.container import open_file
from avprep.media.timeline import FrameCount
from avprep.media.video import Frames
from avprep.schema import FPS, decode_array

LENGTH = 3.0
COLUMN = 0.010  # seconds
WINDOW = {"before": mfcc.SAMPLES_BEFORE, "after": mfcc.SAMPLES_AFTER}


class Made(NamedTuple):
    """A generated file, its audio file if separate, and the largest half interval between two frames."""

    video: Path
    audio: Path | None
    instants: list[float]  # seconds after the first frame
    half_a_picture: float


def flashing(path: Path, times: Sequence[Fraction], rate: int, *, apart: bool = False, **options: Any) -> Made:
    """Make a file that flashes and clicks four times, each time when a frame begins near a 25-fps instant."""
    wanted = [times[0] + Fraction(n, 10) for n in (6, 10, 16, 22)]
    instants = [min(times, key=lambda time, near=near: abs(time - near)) for near in wanted]
    made.flash_and_click(path, times, instants, LENGTH, rate, **options)
    half = float(max(after - before for before, after in itertools.pairwise(times))) / 2
    sound = None
    if apart:
        whole, path, sound = path, path.with_name("picture.mp4"), path.with_name("sound.m4a")
        made.ffmpeg("-i", whole, "-an", "-c", "copy", path)
        made.ffmpeg("-i", whole, "-vn", "-c", "copy", sound)
    return Made(path, sound, [float(instant - times[0]) for instant in instants], half)


def flashes(path: Path, **span: float) -> list[float]:
    """Return the instants of the frames that light up."""
    lit = [made.is_lit(picture.rgb()) for picture in Frames(path, **span)]
    return [n / FPS for n in range(1, len(lit)) if lit[n] and not lit[n - 1]]


def check(file: Made) -> None:
    """Check flashes against clicks, and both against the true instants."""
    sound = read_sound(file.video, file.audio, **WINDOW)
    seen, heard = flashes(file.video), made.loud_instants(sound.samples, sound.first)
    assert len(seen) == len(heard) == len(file.instants)
    for flash, click, instant in zip(seen, heard, file.instants, strict=True):
        assert abs(flash - click) <= COLUMN + file.half_a_picture
        assert abs(click - instant) <= COLUMN
        assert abs(flash - instant) <= file.half_a_picture + 1e-3
    exact = made.peaks(sound.samples, sound.first, len(file.instants))
    assert np.abs(np.array(exact) - file.instants).max() < 0.001  # mp4 rounds an edit list to 1 ms


RATES = {"25": Fraction(25), "29.97": made.NTSC, "30": Fraction(30), "50": Fraction(50), "uneven": None}


def times_of(rate: str, first: Fraction | float = 0, length: float = LENGTH) -> list[Fraction]:
    """Return the presentation times of a named frame rate."""
    fps = RATES[rate]
    return made.uneven(length, first=first) if fps is None else made.steady(fps, length, first)


HERTZ = (16_000, 44_100, 48_000)


def pairwise(number: int) -> pytest.MarkDecorator:
    """Pair each frame rate with a sample rate, shifted by `number`, so that a class covers all pairs of two."""
    pairs = [(fps, HERTZ[(n + number) % len(HERTZ)]) for n, fps in enumerate(RATES)]
    return pytest.mark.parametrize(("fps", "hertz"), pairs)


class TestEveryRate:
    """Each container at each frame rate, and at each sample rate; each frame rate at each sample rate."""

    @pairwise(0)
    def test_mp4(self, fps: str, hertz: int, tmp_path: Path) -> None:
        """H.264 with B-frames and AAC in mp4: priming does not shift the audio."""
        check(flashing(tmp_path / "clip.mp4", times_of(fps), hertz))

    @pairwise(1)
    def test_mpg(self, fps: str, hertz: int, tmp_path: Path) -> None:
        """MPEG-1 and MP2 in mpg."""
        if RATES[fps] is None:
            pytest.skip("MPEG-1 has no variable frame rate")
        options = {"fps": RATES[fps], "vcodec": "mpeg1video", "acodec": "mp2"}
        check(flashing(tmp_path / "clip.mpg", times_of(fps), hertz, **options))

    @pairwise(2)
    def test_late_sound(self, fps: str, hertz: int, tmp_path: Path) -> None:
        """Audio that starts 0.4 s after the video keeps its offset, in mkv and in mp4's edit list."""
        for name in ("clip.mkv", "clip.mp4"):
            check(flashing(tmp_path / name, times_of(fps), hertz, sound_at=Fraction(4, 10)))

    @pairwise(3)
    def test_late_picture(self, fps: str, hertz: int, tmp_path: Path) -> None:
        """Audio that starts 0.5 s before the video is timed relative to the video."""
        for name in ("clip.mkv", "clip.mp4", "clip.ts"):
            check(flashing(tmp_path / name, times_of(fps, Fraction(1, 2), LENGTH - 0.5), hertz))

    @pairwise(4)
    def test_sound_apart(self, fps: str, hertz: int, tmp_path: Path) -> None:
        """Video in mp4 and audio in m4a, as in VoxCeleb2."""
        check(flashing(tmp_path / "whole.mp4", times_of(fps), hertz, apart=True))


@pytest.mark.parametrize(
    ("name", "options"),
    {
        "plain.avi": {"fps": 25, "vcodec": "mpeg4", "acodec": "pcm_s16le"},
        "b_frames.avi": {"fps": 25, "vcodec": "mpeg4", "acodec": "pcm_s16le", "video": {"bf": "2"}},
        "h264.avi": {"fps": 25, "acodec": "pcm_s16le"},
        "vp8.webm": {"vcodec": "libvpx", "acodec": "libopus", "video": {"deadline": "realtime"}},
        "opus.mp4": {"acodec": "libopus"},
        "mp3.mp4": {"acodec": "libmp3lame"},
        "mp3.mkv": {"acodec": "libmp3lame"},
        "mpeg2.vob": {"fps": 25, "vcodec": "mpeg2video", "acodec": "mp2", "container": "vob", "video": {"bf": "2"}},
    }.items(),
)
def test_other_formats(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Formats without presentation times, or with other audio delays, are in sync too."""
    check(flashing(tmp_path / name, made.steady(25, LENGTH), 48_000, **options))


def test_ogg(tmp_path: Path) -> None:
    """Theora and Vorbis, whose clocks differ, are in sync, and no sample is lost."""
    file = flashing(tmp_path / "clip.mkv", made.steady(25, LENGTH), 16_000)
    theora, vorbis = ("-c:v", "libtheora", "-q:v", "10"), ("-c:a", "libvorbis", "-q:a", "8")
    made.ffmpeg("-i", file.video, *theora, *vorbis, tmp_path / "clip.ogv")
    check(file._replace(video=tmp_path / "clip.ogv"))
    expected = read_sound(file.video, **WINDOW).samples
    assert abs(len(read_sound(tmp_path / "clip.ogv", **WINDOW).samples) - len(expected)) <= 0.02 * 16_000


def test_one_damaged_time_of_showing(tmp_path: Path) -> None:
    """A broadcast packet whose presentation time is minutes too late does not add minutes of frames."""
    file = flashing(tmp_path / "clip.ts", made.steady(25, LENGTH), 16_000)
    data = bytearray(file.video.read_bytes())
    with open_file(file.video) as container:
        times = [packet.pts for packet in container.demux(video=0) if packet.pts is not None]
    wrong = times[len(times) // 2]
    old, new = (made.time_stamp(time) for time in (wrong, wrong + 300 * 90_000))
    assert data.count(old) >= 1
    (tmp_path / "damaged.ts").write_bytes(data.replace(old, new))
    assert sum(1 for _ in Frames(tmp_path / "damaged.ts")) == sum(1 for _ in Frames(file.video))


def test_many_damaged_times(tmp_path: Path) -> None:
    """Pictures whose time stamps are an hour too late are left out; those after them keep their times."""
    path = made.numbered(tmp_path / "a.flv", made.steady(25, 3), fps=25, video={"g": "1", "bf": "0"})
    data, at = bytearray(path.read_bytes()), 13  # the first tag: type, size, time stamp with its top byte last, stream
    pictures = []
    while at < len(data):
        size = int.from_bytes(data[at + 1 : at + 4], "big")
        pictures += [at + 4] if data[at] == 9 and size > 5 else []
        at += 11 + size + 4
    wrong = range(6, 46, 2)
    for place in (pictures[-75:][n] for n in wrong):
        late = int.from_bytes(data[place : place + 3], "big") + 3_600_000
        data[place : place + 4] = (late & 0xFFFFFF).to_bytes(3, "big") + (late >> 24).to_bytes(1, "big")
    path.write_bytes(data)
    shown = [made.number_of(picture.rgb()) for picture in Frames(path, max_seconds=60)]
    assert [n for n in shown if n not in wrong] == shown
    assert [shown[n] for n in range(75) if n not in wrong] == [n for n in range(75) if n not in wrong]


def test_a_time_of_showing_before_the_last_one(tmp_path: Path) -> None:
    """A frame whose presentation time precedes the last one's, as some in VOB, is shown when it is decoded."""
    whole = made.numbered(tmp_path / "whole.mp4", made.steady(25, 2), fps=25, video={"bf": "2", "g": "12"})
    with av.open(str(whole)) as source, av.open(str(tmp_path / "clip.mp4"), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in itertools.takewhile(lambda packet: packet.size, source.demux()):
            frame = packet.duration
            packet.pts -= 2 * frame if packet.pts == 21 * frame else 0  # that of a P-frame behind two B-frames
            packet.stream = stream
            out.mux(packet)
    assert numbers(whole) == numbers(tmp_path / "clip.mp4") == list(range(50))


@pytest.mark.parametrize("sound_name", ["sound.wav", "sound.ts", "sound.m4a"])
@pytest.mark.parametrize("picture_name", ["picture.mpg", "picture.ts", "picture.mkv"])
def test_files_apart_begin_together(picture_name: str, sound_name: str, tmp_path: Path) -> None:
    """Video and audio in two files are aligned at their beginnings, wherever each file's clock begins."""
    file = flashing(tmp_path / "whole.mkv", made.steady(25, LENGTH), 48_000, acodec="pcm_s16le")
    picture, sound = tmp_path / picture_name, tmp_path / sound_name
    made.ffmpeg("-i", file.video, "-an", "-qscale:v", 2, picture)
    made.ffmpeg("-i", file.video, "-vn", sound)
    read = read_sound(picture, sound, **WINDOW)
    exact = made.peaks(read.samples, read.first, 4)
    priming = 0.0 if sound_name != "sound.ts" else exact[0] - file.instants[0]  # which a ts cannot mark as such
    assert 0 <= priming < 0.07
    assert np.allclose(np.array(exact) - priming, file.instants, atol=0.001)
    assert flashes(picture) == file.instants


def test_sound_moved_by_ffmpeg(tmp_path: Path) -> None:
    """Audio delayed by 0.25 s with `-itsoffset`, which mp4 stores as an edit list, is read 0.25 s later."""
    file = flashing(tmp_path / "clip.mp4", made.steady(25, LENGTH), 44_100)
    moved = tmp_path / "moved.mp4"
    inputs = ("-i", file.video, "-itsoffset", "0.25", "-i", file.video)
    made.ffmpeg(*inputs, "-map", "0:v", "-map", "1:a", "-c", "copy", moved)
    sound = read_sound(moved)
    assert np.allclose(made.peaks(sound.samples, sound.first, 4), np.array(file.instants) + 0.25, atol=0.001)
    assert np.allclose(flashes(moved), file.instants)


def test_a_beginning_cut_by_an_edit_list(tmp_path: Path) -> None:
    """After `ffmpeg -ss -c copy`, which hides the beginning by an edit list, flash and click still agree."""
    file = flashing(tmp_path / "clip.mp4", made.steady(25, LENGTH), 44_100)
    made.ffmpeg("-ss", "0.4", "-i", file.video, "-c", "copy", tmp_path / "cut.mp4")
    check(Made(tmp_path / "cut.mp4", None, [instant - 0.4 for instant in file.instants], 0.02))


def test_the_column_of_a_click(tmp_path: Path) -> None:
    """A click changes exactly the MFCC steps whose 25 ms contain it: `160 c ≤ sample < 160 c + 400`."""
    times = made.steady(25, LENGTH)
    sound = np.zeros(48_000, np.int16)
    sound[16_000 * 6 // 5] = 30_000  # where frame 30 begins
    clip = made.numbered(tmp_path / "clip.mkv", times, sound, acodec="pcm_s16le")
    members = dict(stages.mfcc_clip(Clip("a", clip.name, "train"), tmp_path, stages.MfccSettings()).members)
    windows = decode_array(members["mfcc.npy"])
    changed = np.abs(windows - windows[0]).max(axis=1) > 1e-3
    expected = {column for column in range(300) if 160 * column <= 19_200 < 160 * column + 400}
    assert expected == {118, 119, 120}
    for frame in range(75):
        columns = {4 * (frame - 2) + int(place) for place in np.flatnonzero(changed[frame])}
        assert columns == expected & set(range(4 * (frame - 2), 4 * (frame - 2) + 20))


@pytest.mark.parametrize("shift", [120.0, -120.0, 1700.0, -2600.0, 0.5])
def test_audio_shift(shift: float, tmp_path: Path) -> None:
    """`audio_shift_ms` shifts the audio by exactly that amount, in a clip near the start and in a later one."""
    sound = made.noise(34, 16_000)
    clip = made.numbered(tmp_path / "clip.mkv", made.steady(25, 34), sound, acodec="pcm_s16le")
    for start in (5.0, 25.0):
        shifted = read_sound(clip, start=start, duration=1.16, **WINDOW, shift=shift / 1000)
        begin = round((start - shift / 1000) * 16_000) + shifted.first
        assert shifted.first == -mfcc.SAMPLES_BEFORE
        assert np.array_equal(shifted.samples, sound[begin : begin + 18_560 + 1281 + 1520])


def test_audio_shift_moves_the_windows(tmp_path: Path) -> None:
    """With `audio_shift_ms` 120, the windows of a frame are those of three frames before."""
    clip = made.numbered(tmp_path / "clip.mkv", made.steady(25, 4), made.noise(4, 16_000), acodec="pcm_s16le")
    row = Clip("a", clip.name, "train", start=1.0, duration=1.16)
    plain, moved = (
        decode_array(dict(stages.mfcc_clip(row, tmp_path, stages.MfccSettings(audio_shift_ms=ms)).members)["mfcc.npy"])
        for ms in (0.0, 120.0)
    )
    assert np.allclose(moved[3:], plain[:-3], atol=1e-4)
    assert not np.allclose(moved, plain, atol=1e-1)


class TestValid:
    """Which frames have windows of real MFCC steps only."""

    def test_the_papers_figures(self, tmp_path: Path) -> None:
        """Of 29 frames 2…25 are valid with 18,560 samples (114 steps); with LRW's 19,456 (120) so are 26 and 27."""
        for samples, last in ((18_560, 25), (19_456, 27)):
            sound = made.noise(2, 16_000)[:samples]
            clip = made.numbered(tmp_path / "clip.mkv", made.steady(25, 1.16), sound, acodec="pcm_s16le")
            valid = self._valid(clip)
            assert np.flatnonzero(valid).tolist() == list(range(2, last + 1))
        assert mfcc.n_steps(18_560) == 114

    def test_an_lrw_like_mp4(self, tmp_path: Path) -> None:
        """In a clip like LRW's, with 29 frames and 19 AAC frames, frames 2…27 are valid."""
        sound = made.noise(2, 16_000)[:19_456]
        clip = made.numbered(tmp_path / "clip.mp4", made.steady(25, 1.16), sound)
        assert np.flatnonzero(self._valid(clip)).tolist() == list(range(2, 28))

    def test_neighbours_sound_is_used(self, tmp_path: Path) -> None:
        """With 80 ms of audio before the clip and 95 ms after, every frame is valid; with a sample less, one is not."""
        sound = made.noise(5, 16_000)
        clip = made.numbered(tmp_path / "clip.mkv", made.steady(25, 4), sound, acodec="pcm_s16le")
        assert self._valid(clip, start=2.0, duration=1.16).all()
        assert self._valid(clip, start=0.08, duration=1.16).all()
        short = made.numbered(tmp_path / "short.mkv", made.steady(25, 4), sound[: 50_560 + 1520], acodec="pcm_s16le")
        assert self._valid(short, start=2.0, duration=1.16).all()
        short = made.numbered(tmp_path / "short.mkv", made.steady(25, 4), sound[: 50_560 + 1519], acodec="pcm_s16le")
        assert np.flatnonzero(~self._valid(short, start=2.0, duration=1.16)).tolist() == [28]

    def test_windows_do_not_depend_on_the_cut(self, tmp_path: Path) -> None:
        """The windows of a clip cut by `start` are those of the whole file, including the neighbouring audio."""
        clip = made.numbered(tmp_path / "clip.mkv", made.steady(25, 4), made.noise(4, 16_000), acodec="pcm_s16le")
        whole, part = (self._members(clip, **span)["mfcc.npy"] for span in ({}, {"start": 1.2, "duration": 1.16}))
        assert np.allclose(decode_array(whole)[30:59], decode_array(part), atol=1e-4)

    def _valid(self, clip: Path, **span: float) -> NDArray[np.bool_]:
        return decode_array(self._members(clip, **span)["valid.npy"])

    def _members(self, clip: Path, **span: float) -> dict[str, bytes]:
        row = Clip("a", clip.name, "train", **span)
        return dict(stages.mfcc_clip(row, clip.parent, stages.MfccSettings()).members)


# ---------------------------------------------------------------- parts of long files
LONG = made.steady(25, 45)
GOP = {"g": "250", "bf": "3", "preset": "veryfast", "x264-params": "scenecut=0:open-gop=1"}
PURE = {"aac_pns": "0"}  # without noise whose seed depends on where decoding starts


@functools.cache
def streams(folder: Path, rate: int) -> Path:
    """Make ten-second GOPs with B-frames, and AAC, in mp4, once per folder."""
    path = folder / f"streams-{rate}.mp4"
    return made.numbered(path, LONG, made.noise(45.2, rate), rate=rate, video=GOP, audio=PURE)


def remuxed(*options: str, rate: int = 44_100) -> Callable[[Path], Path]:
    """Return a maker that puts such streams into another container."""

    def make(path: Path) -> Path:
        made.ffmpeg("-i", streams(path.parent, rate), "-c", "copy", *options, path)
        return path

    return make


def mpeg(vcodec: str, gop: str) -> Callable[[Path], Path]:
    """Return a maker of MPEG-1 or 2 with MP2."""

    def make(path: Path) -> Path:
        video = {"g": gop, "bf": "2", "sc_threshold": "1000000000"}
        options = {"vcodec": vcodec, "acodec": "mp2", "video": video, "container": "vob" if "2" in vcodec else "mpeg"}
        return made.numbered(path, LONG, made.noise(45.2, 44_100), rate=44_100, fps=25, **options)

    return make


def mpeg4(path: Path) -> Path:
    """MPEG-4 with B-frames in AVI, which has no presentation times."""
    options = {"vcodec": "mpeg4", "acodec": "pcm_s16le", "video": {"g": "50", "bf": "2"}}
    return made.numbered(path, LONG, made.noise(45.2, 16_000), fps=25, **options)


MAKERS: dict[str, Callable[[Path], Path]] = {
    "long.mp4": lambda path: streams(path.parent, 44_100),
    "long.mkv": remuxed(rate=16_000),  # whose AAC frames are whole milliseconds, as mkv and flv hold them
    "long.flv": remuxed(rate=16_000),
    "long.ts": remuxed(),
    "h264.avi": remuxed("-c:a", "pcm_s16le"),
    "mpeg4.avi": mpeg4,
    "mpeg1.mpg": mpeg("mpeg1video", "12"),
    "mpeg2.mpg": mpeg("mpeg2video", "300"),
}


class Whole(NamedTuple):
    """A long file and its content."""

    path: Path
    numbers: list[int]
    sound: Sound


@pytest.fixture(scope="module")
def long_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all of them, so that files with the same streams share these."""
    return tmp_path_factory.mktemp("long")


@pytest.fixture(scope="module", params=MAKERS)
def whole(request: pytest.FixtureRequest, long_files: Path) -> Whole:
    """A file of 45 s, read completely."""
    path = MAKERS[request.param](long_files / request.param)
    return Whole(path, numbers(path), read_sound(path, **WINDOW))


def numbers(path: Path, **span: float) -> list[int]:
    """Return the number that each frame shows."""
    frames = Frames(path, keep_bytes=0, **span)
    found = [made.number_of(picture.rgb()) for picture in frames]
    assert len(found) == frames.n_frames
    return found


@pytest.mark.parametrize("start", [0.48, 5.0, 19.96, 20.04, 25.0, 33.36, 44.4])
def test_a_part_of_a_file(whole: Whole, start: float) -> None:
    """A clip with `start` and `duration` has the frames and samples of that part of the whole file."""
    assert whole.numbers == list(range(1125))
    first = round(start * FPS)
    assert numbers(whole.path, start=start, duration=1.16) == whole.numbers[first : first + 29]
    part = read_sound(whole.path, start=start, duration=1.16, **WINDOW)
    assert part.first == -mfcc.SAMPLES_BEFORE
    assert part.n_frames == min(29, 1125 - first)
    begin = round(start * 16_000) + part.first - whole.sound.first
    expected = whole.sound.samples[begin : begin + (part.n_frames * 640 + 1281 + 1520)].astype(int)
    assert len(part.samples) == len(expected)
    assert np.abs(part.samples - expected).max() <= 2  # MP2's decoder rounds depending on its state


def test_a_part_of_a_file_that_rounds_to_milliseconds(tmp_path: Path) -> None:
    """If the container rounds time stamps to 1 ms, clicks in a part are within 1 ms of those in the whole."""
    times, instants = made.steady(25, 30), [Fraction(n, 10) for n in (53, 58, 251, 257)]
    sound = made.clicks(instants, 30, 44_100)
    clip = made.numbered(tmp_path / "clip.mkv", times, sound, rate=44_100, video=GOP)
    for start, expected in ((5.0, [0.3, 0.8]), (25.0, [0.1, 0.7])):
        part = read_sound(clip, start=start, duration=1.16, **WINDOW)
        assert np.allclose(made.peaks(part.samples, part.first, 2), expected, atol=0.001)


@pytest.fixture(scope="module")
def apart(long_files: Path) -> tuple[Path, Path]:
    """45 s of video in one file and its audio in another."""
    wav = made.write_wav(long_files / "source.wav", made.noise(45, 16_000), 16_000)
    return made.numbered(long_files / "picture.mp4", LONG), wav


@pytest.mark.parametrize("suffix", ["m4a", "wav", "mp3", "flac", "aac"])
def test_a_part_of_sound_apart(suffix: str, apart: tuple[Path, Path], tmp_path: Path) -> None:
    """A part of an audio file equals that part of the whole audio, also after seeking."""
    picture, wav = apart
    sound = tmp_path / f"sound.{suffix}"
    made.ffmpeg("-i", wav, *(("-aac_pns", "0") if suffix in ("m4a", "aac") else ()), sound)
    everything = read_sound(picture, sound)
    for start in (5.0, 30.0):
        part = read_sound(picture, sound, start=start, duration=1.16, **WINDOW)
        begin = round(start * 16_000) + part.first - everything.first
        assert np.array_equal(part.samples, everything.samples[begin : begin + part.samples.size])
        assert part.samples.size == 18_560 + 1281 + 1520


def test_a_part_of_a_stream_without_time_stamps(tmp_path: Path) -> None:
    """Raw H.264, which cannot be seeked, gives the frames of a late part too."""
    source = made.numbered(tmp_path / "source.mp4", made.steady(25, 26), video={"g": "250", "bf": "2"})
    made.ffmpeg("-i", source, "-c", "copy", tmp_path / "raw.h264")
    assert numbers(tmp_path / "raw.h264", start=25.0, duration=0.4) == list(range(625, 635))


@pytest.mark.parametrize("cut", [1.3, 2.3, 3.3])
def test_a_late_part_of_a_file_cut_by_an_edit_list(cut: float, tmp_path: Path) -> None:
    """However many pictures an edit list hides, the clock of a clip that is sought begins with the first one shown."""
    source = made.numbered(
        tmp_path / "source.mp4",
        made.steady(25, 27),
        made.noise(27, 44_100),
        rate=44_100,
        video={"g": "250", "bf": "3", "x264-params": "b-adapt=0:scenecut=0"},
    )
    made.ffmpeg("-ss", cut, "-i", source, "-c", "copy", tmp_path / "cut.mp4")
    whole = numbers(tmp_path / "cut.mp4")
    assert whole[0] > 30
    assert numbers(tmp_path / "cut.mp4", start=22.0, duration=0.4) == whole[550:560]
    assert numbers(tmp_path / "cut.mp4", start=5.0, duration=0.4) == whole[125:135]
    everything, part = read_sound(tmp_path / "cut.mp4"), read_sound(tmp_path / "cut.mp4", start=22.0, duration=0.4)
    assert part.first == 0
    assert np.array_equal(part.samples[:1000], everything.samples[22 * 16_000 :][:1000])


def test_a_clip_of_a_late_picture(tmp_path: Path) -> None:
    """If the video starts 5 s after the audio, a clip's `start` is relative to the video."""
    clip = made.numbered(tmp_path / "late.mkv", made.steady(25, 3, 5), made.noise(9, 16_000), acodec="pcm_s16le")
    assert numbers(clip, start=0.4, duration=1.16) == list(range(10, 39))
    sound = read_sound(clip, start=0.4, duration=1.16, **WINDOW)
    begin = round(5.4 * 16_000) - 1281
    assert sound.n_frames == 29
    assert np.array_equal(sound.samples, made.noise(9, 16_000)[begin : begin + 18_560 + 1281 + 1520])


# ---------------------------------------------------------------- counting and choosing, against all instants
def nearest_by_force(times: list[Fraction], start: Fraction, wanted: int | None) -> list[int]:
    """Return the index of each frame's image: at every instant the nearest one, the earlier of two."""
    last = max(times)
    after = [b - a for a, b in itertools.pairwise(times) if b >= start]
    hold = float(np.median([float(gap) for gap in after])) if after else 1 / FPS
    shown: list[int] = []
    for n in itertools.count():
        instant = start + Fraction(n, FPS)
        closest = min(range(len(times)), key=lambda i: (abs(times[i] - instant), times[i]))
        within = float(instant) + 0.5 / FPS <= float(last) + hold + 1e-12
        if wanted is not None and n == wanted:
            break
        if not within and times[closest] == last and not (n == 0 and start <= last):
            break
        shown.append(closest)
    return shown


@st.composite
def clocks(draw: st.DrawFn) -> tuple[list[Fraction], Fraction, float | None]:
    """Draw presentation times (multiples of 1 ms, from 0), a start and a duration."""
    gaps = draw(st.lists(st.integers(1, 130), max_size=60))
    times = [Fraction(t, 1000) for t in itertools.accumulate(gaps, initial=0)]
    start = Fraction(draw(st.integers(0, int(times[-1] * 1000) + 60)), 1000)
    duration = draw(st.none() | st.integers(1, 3000).map(lambda ms: ms / 1000))
    return times, start, duration


class Clockwork(Frames):
    """Frames whose images are only numbers."""

    def __init__(self, times: list[Fraction], start: Fraction, duration: float | None, **limits: float) -> None:
        super().__init__(Path("clockwork"), duration=duration, keep_bytes=0, **limits)
        self.start, self.times = start, times
        self._tick = Fraction(1, math.lcm(*(time.denominator for time in times)))

    def _pictures(self) -> Iterator[tuple[int, Any]]:
        yield from zip(
            (int(time / self._tick) for time in self.times), map(Number, range(len(self.times))), strict=True
        )


class Number(NamedTuple):
    """An image that is only a number."""

    number: int
    nbytes: int = 1
    size: tuple[int, int] = (1, 1)
    hdr: str | None = None
    pixel_aspect: Fraction = Fraction(1)


@given(clocks())
@example(([Fraction(5 * n, 1000) for n in range(10)], Fraction(0), None))  # 200 frames per second
def test_frames_show_the_nearest_picture(drawn: tuple[list[Fraction], Fraction, float | None]) -> None:
    """Each frame shows the image nearest to its instant, and time stamps alone give the number of frames."""
    times, start, duration = drawn
    wanted = None if duration is None else max(1, round(duration * FPS))
    expected = nearest_by_force(times, start, wanted)
    frames = Clockwork(times, start, duration)
    count = FrameCount(start, duration, frames._tick)
    for time in sorted(times, key=lambda time: (time % Fraction(7, 1000), time)):  # in any order
        count.add(int(time / frames._tick))
    assert count.total() == len(expected)
    if not expected:
        with pytest.raises(Reject, match="ends before"):
            list(frames)
        return
    assert [picture.number for picture in frames] == expected
    assert frames.n_frames == len(expected)


def test_pictures_of_one_time_count_once() -> None:
    """An image whose time stamp occurs more than once does not shorten the others."""
    count = FrameCount(Fraction(0), None, Fraction(1, 25))
    for n in range(6):
        count.add(n // 3)
    count.add(2)
    assert count.total() == 3


def test_a_leap_in_time_is_too_long_at_once() -> None:
    """A time stamp far beyond the maximum length ends the reading without a frame for every instant up to it."""
    leaping = Clockwork([Fraction(0), Fraction(1, 25), Fraction(10**6)], Fraction(0), None, max_seconds=100.0)
    shown: list[Any] = []
    with pytest.raises(Reject, match="longer than 100 s"):
        shown.extend(leaping)
    assert len(shown) <= 2


def test_the_maximum_length_counts_from_the_clips_start() -> None:
    """A clip whose start is later than the maximum length of a clip is not too long."""
    late = Clockwork([Fraction(n) for n in range(121)], Fraction(80), None, max_seconds=50.0)
    assert sum(1 for _ in late) == 41 * FPS
    with pytest.raises(Reject, match="longer than 50 s"):
        list(Clockwork(late.times, Fraction(60), None, max_seconds=50.0))
