"""Damaged files: a reason in one line, or the same number of frames in every stage."""

from __future__ import annotations

import errno
import json
import os
import shlex
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import made_media as made
import made_shards
import numpy as np
import pytest
from avprep_cli.main import main
from click.testing import CliRunner, Result

from avprep import shards, stages
from avprep.demo import synthetic
from avprep.errors import Reject
from avprep.manifest import Clip
from avprep.media import container, timeline
from avprep.media.audio import read_sound
from avprep.media.container import open_file
from avprep.media.packets import Packets
from avprep.media.timeline import PictureTimes
from avprep.media.video import Frames

TIMES = made.steady(25, 3)
GOP = {"g": "12", "bf": "2"}
AVI: dict[str, Any] = {"fps": 25, "vcodec": "mpeg4", "acodec": "pcm_s16le"}
MPEG: dict[str, Any] = {"fps": 25, "vcodec": "mpeg1video", "acodec": "mp2"}
NOISE = [np.random.default_rng(n).integers(0, 255, (64, 96)).astype(np.uint8) for n in range(25)]


def noisy(path: Path, **options: Any) -> Path:
    """Three seconds of incompressible frames, so that a file is large enough to break in the middle."""
    return made.write(path, TIMES, NOISE * 3, made.noise(3, 48_000), 48_000, **options)


def index_first(path: Path, **options: Any) -> Path:
    """An MP4 that can be played before it is complete."""
    whole = noisy(path.with_name("source.mp4"), **options)
    made.ffmpeg("-i", whole, "-c", "copy", "-movflags", "+faststart", path)
    return path


MADE: dict[str, Callable[[Path], Path]] = {
    "a.mp4": noisy,
    "first.mp4": index_first,
    "a.mkv": noisy,
    "a.ts": noisy,
    "a.flv": noisy,
    "a.avi": lambda path: noisy(path, **AVI),
    "a.mpg": lambda path: noisy(path, **MPEG),
}


def reason(work: Callable[[], Any]) -> tuple[str, str]:
    """Return why a clip is refused."""
    with pytest.raises(Reject) as caught:
        work()
    return caught.value.reason, caught.value.message


class TestReadErrors:
    """A read error of the operating system is not the end of a file."""

    @pytest.fixture(params=MADE)
    def clip(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        """A clip in each kind of container."""
        return MADE[request.param](tmp_path / request.param)

    @pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
    def test_are_unreadable(self, clip: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file that cannot be read beyond its middle is `unreadable`, with the system's message and the remedy."""
        real, middle = os.read, clip.stat().st_size // 2

        def failing(file: int, size: int) -> bytes:
            here = os.lseek(file, 0, os.SEEK_CUR)
            if here >= middle:
                raise OSError(code, os.strerror(code))
            return real(file, min(size, middle - here))

        monkeypatch.setattr(container.os, "read", failing)
        for work in (lambda: list(Frames(clip)), lambda: read_sound(clip)):
            why, message = reason(work)
            assert why == "unreadable"
            assert message.startswith(f"{clip}: {os.strerror(code)}")
            assert "avprep retry OUT --reason unreadable" in message

    def test_in_one_block_that_comes_back(self, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """One failed read in the middle counts, even if everything after it can be read."""
        real, failed = os.read, []

        def failing_once(file: int, size: int) -> bytes:
            if not failed and os.lseek(file, 0, os.SEEK_CUR) > clip.stat().st_size // 2:
                failed.append(file)
                raise OSError(errno.EIO, "Input/output error")
            return real(file, size)

        monkeypatch.setattr(container.os, "read", failing_once)
        assert reason(lambda: list(Frames(clip)))[0] == "unreadable"
        assert failed
        monkeypatch.undo()
        assert sum(1 for _ in Frames(clip)) == 75

    def test_beyond_the_clip_do_not_matter(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A clip before the bad block is whole."""
        source = made.write(tmp_path / "a.mp4", made.steady(25, 15), NOISE * 15, made.noise(15, 48_000), 48_000)
        clip = tmp_path / "first.mp4"
        made.ffmpeg("-i", source, "-c", "copy", "-movflags", "+faststart", clip)
        real, end = os.read, clip.stat().st_size - 100

        def failing(file: int, size: int) -> bytes:
            here = os.lseek(file, 0, os.SEEK_CUR)
            if here >= end:
                raise OSError(errno.EIO, "Input/output error")
            return real(file, min(size, end - here))

        monkeypatch.setattr(timeline, "TAIL", Fraction(0))
        monkeypatch.setattr(container.os, "read", failing)
        assert sum(1 for _ in Frames(clip, duration=0.4)) == 10
        assert reason(lambda: list(Frames(clip)))[0] == "unreadable"


class TestBrokenOff:
    """Files that end before the duration in their header."""

    MAKERS: dict[str, Callable[[Path], Path]] = {  # noqa: RUF012
        "first.mp4": index_first,
        "a.mkv": noisy,
        "a.avi": lambda path: noisy(path, **AVI),
    }

    @pytest.mark.parametrize("name", MAKERS)
    def test_a_third_is_the_bound(self, name: str, tmp_path: Path) -> None:
        """Half of a file is ok, and its header's duration is recorded; a quarter of it is `unreadable`."""
        clip = self.MAKERS[name](tmp_path / name)
        data = clip.read_bytes()
        clip.write_bytes(data[: len(data) // 2])
        frames = Frames(clip)
        assert 25 < sum(1 for _ in frames) == read_sound(clip).n_frames < 45
        assert frames.damage["promised_seconds"] == pytest.approx(3, abs=0.1)
        assert read_sound(clip).promised == pytest.approx(3, abs=0.1)
        clip.write_bytes(data[: len(data) // 4])
        for work in (lambda: list(Frames(clip)), lambda: read_sound(clip)):
            why, message = reason(work)
            assert (why, "breaks off" in message) == ("unreadable", True)

    def test_a_clip_before_the_end_is_whole(self, tmp_path: Path) -> None:
        """Data missing after a clip's span does not matter; data missing within it does."""
        clip = index_first(tmp_path / "first.mp4")
        data = clip.read_bytes()
        clip.write_bytes(data[: len(data) // 4])
        frames = Frames(clip, duration=0.4)
        assert sum(1 for _ in frames) == read_sound(clip, duration=0.4).n_frames == 10
        assert frames.damage == {}
        for work in (lambda: list(Frames(clip, start=1.5)), lambda: read_sound(clip, start=1.5)):
            assert reason(work)[0] == "unreadable"

    def test_less_than_a_second_is_no_break(self, tmp_path: Path) -> None:
        """If less than a second of a clip is missing, even most of it, the clip is not refused for that."""
        clip = index_first(tmp_path / "first.mp4")
        clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
        there = sum(1 for _ in Frames(clip))
        frames = Frames(clip, start=(there - 5) / 25, duration=0.9)
        assert sum(1 for _ in frames) == 5
        assert frames.damage == {"promised_seconds": 0.9}

    @pytest.mark.parametrize("claimed", [0, 2**31 - 4060, 2**31 - 1, 2**32 - 1])
    def test_sizes_that_a_pipe_leaves_open(self, claimed: int, tmp_path: Path) -> None:
        """A short wav written to a pipe, whose header has 0 or a maximum in place of its size, is whole."""
        picture = made.numbered(tmp_path / "picture.mp4", TIMES)
        wav = made.write_wav(tmp_path / "sound.wav", made.noise(0.7, 16_000), 16_000)
        data = bytearray(wav.read_bytes())
        data[4:8] = claimed.to_bytes(4, "little")
        data[40:44] = max(0, claimed - 36).to_bytes(4, "little")
        wav.write_bytes(data)
        read = read_sound(picture, wav)
        assert np.array_equal(read.samples, made.noise(0.7, 16_000))
        assert read.promised is None

    def test_sound_apart(self, tmp_path: Path) -> None:
        """An audio file truncated to a quarter of the clip is `unreadable`; one that is merely short is not."""
        picture = made.numbered(tmp_path / "picture.mp4", TIMES)
        wav = made.write_wav(tmp_path / "sound.wav", made.noise(3, 16_000), 16_000)
        wav.write_bytes(wav.read_bytes()[:24_000])
        assert reason(lambda: read_sound(picture, wav))[0] == "unreadable"
        short = made.write_wav(tmp_path / "short.wav", made.noise(0.7, 16_000), 16_000)
        assert read_sound(picture, short).n_frames == 75

    def test_the_records_tell(self, tmp_path: Path) -> None:
        """`audio.json` has the header's duration for a file that ends early, and not for a whole one."""
        clip = index_first(tmp_path / "first.mp4")
        row = Clip("a", clip.name, "train")
        assert "promised_seconds" not in self._facts(row, tmp_path)
        clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
        assert self._facts(row, tmp_path)["promised_seconds"] == pytest.approx(3, abs=0.1)

    def _facts(self, row: Clip, root: Path) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(
            dict(stages.mfcc_clip(row, root, stages.MfccSettings()).members)["audio.json"]
        )
        return facts

    def test_honest_files_promise_what_they_hold(self, tmp_path: Path) -> None:
        """Streams of different lengths, edit lists, and late and early streams are not taken for truncated files."""
        sources = {
            "long_audio.mkv": lambda path: made.numbered(path, TIMES[:25], made.noise(9, 16_000)),
            "long_audio.mp4": lambda path: made.numbered(path, TIMES[:25], made.noise(9, 16_000)),
            "late_audio.mp4": lambda path: made.numbered(path, TIMES, made.noise(1, 16_000), sound_at=5),
            "slow.mp4": lambda path: made.numbered(path, made.steady(1, 3), made.noise(3, 16_000)),
            "one.mkv": lambda path: made.numbered(path, TIMES[:1], made.noise(0.1, 16_000)),
        }
        for name, make in sources.items():
            assert self._promise(make(tmp_path / name)) is None
        source = made.numbered(tmp_path / "a.mp4", TIMES, made.noise(3, 44_100), rate=44_100, video=GOP)
        for name, options in {"cut.mp4": ("-ss", "1.1"), "twice.mp4": ("-ss", "0.9", "-t", "0.5")}.items():
            made.ffmpeg(*options, "-i", source, "-c", "copy", tmp_path / name)
            assert self._promise(tmp_path / name) is None

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("a.mkv", ()),
            ("a.webm", ("-c:v", "libvpx", "-c:a", "libopus")),
            ("a.wmv", ("-c:v", "wmv2", "-c:a", "wmav2")),
            ("plain.mp4", ()),
        ],
    )
    def test_a_clock_that_starts_late(self, name: str, options: tuple[str, ...], tmp_path: Path) -> None:
        """A whole file whose time stamps begin at 100 s, as in live recordings, is not taken for a truncated one."""
        source = made.numbered(tmp_path / "source.mp4", TIMES, made.noise(3, 48_000), rate=48_000, video=GOP)
        codecs = options if "-c:v" in options else ("-c", "copy", *options)
        stamps = ("-copyts", "-avoid_negative_ts", "disabled", "-fps_mode", "passthrough")
        made.ffmpeg("-itsoffset", 100, "-i", source, *codecs, *stamps, tmp_path / name)
        assert self._promise(tmp_path / name) is None
        sound = read_sound(tmp_path / name)
        assert (sound.n_frames, sound.promised) == (75, None)

    def test_a_late_clock_does_not_hide_a_loss(self, tmp_path: Path) -> None:
        """The missing part of a file whose time stamps begin at 100 s is measured as in any other file."""
        made.ffmpeg(
            "-itsoffset", 100, "-i", noisy(tmp_path / "source.mkv"), "-c", "copy", "-copyts", tmp_path / "a.mkv"
        )
        data = (tmp_path / "a.mkv").read_bytes()
        (tmp_path / "a.mkv").write_bytes(data[: len(data) // 2])
        assert read_sound(tmp_path / "a.mkv").promised == pytest.approx(3, abs=0.1)
        (tmp_path / "a.mkv").write_bytes(data[: len(data) // 4])
        assert reason(lambda: read_sound(tmp_path / "a.mkv"))[0] == "unreadable"

    def _promise(self, path: Path) -> Any:
        frames = Frames(path)
        assert sum(1 for _ in frames) == frames.n_frames
        return frames.promised

    def test_real_clips_keep_their_promises(self, shared: Path) -> None:
        """Nothing is missing from real clips, damaged ones among them, and no frame is held over damage."""
        clips = [*(shared / "clips").glob("grid/*/*.mpg"), *(shared / "clips").glob("hard/*.mp4")]
        assert len(clips) > 30
        for path in clips:
            with open_file(path) as container:
                timeline, _ = PictureTimes(path, container, Fraction(0), None, 1800.0).read()
            assert timeline.promised is None
        frames = Frames(next(path for path in clips if path.name == "sgib8n.mpg"))
        assert sum(1 for _ in frames) == 75
        assert frames.damage == {}


class TestDamagedPictures:
    """Packets that cannot be decoded do not change the number of frames."""

    @pytest.fixture
    def intra(self, tmp_path: Path) -> tuple[Path, list[tuple[int, int]]]:
        """A file of intra-coded frames, and the position of each."""
        options = {**AVI, "vcodec": "mjpeg", "pixels": "yuvj420p"}
        clip = made.numbered(tmp_path / "a.avi", TIMES, made.noise(3, 16_000), **options)
        with open_file(clip) as container:
            packets = [packet for packet in Packets(container) if packet.stream.type == "video" and packet.size]
            places = [(packet.pos, packet.size) for packet in packets if packet.pos is not None]
        assert len(places) == 75
        return clip, places

    def spoil(self, clip: Path, places: list[tuple[int, int]], numbers: range) -> None:
        """Overwrite some frames."""
        data = bytearray(clip.read_bytes())
        for number in numbers:
            position, size = places[number]
            data[position : position + size] = bytes(size)
        clip.write_bytes(data)

    @pytest.mark.parametrize("numbers", [range(30, 42), range(63, 75), range(12)])
    def test_neighbours_stand_in_for_half_a_second(
        self, intra: tuple[Path, list[tuple[int, int]]], numbers: range
    ) -> None:
        """Up to 12 damaged frames show the nearest intact frame, at both ends too, and are counted."""
        clip, places = intra
        self.spoil(clip, places, numbers)
        frames = Frames(clip)
        shown = [made.number_of(picture.rgb()) for picture in frames]
        good = [n for n in range(75) if n not in numbers]
        assert shown == [min(good, key=lambda n, own=own: (abs(n - own), n)) for own in range(75)]
        assert read_sound(clip).n_frames == frames.n_frames == 75
        assert frames.held == frames.decode_errors == 12

    @pytest.mark.parametrize("numbers", [range(30, 43), range(62, 75), range(13), range(75)])
    def test_more_is_unreadable(self, intra: tuple[Path, list[tuple[int, int]]], numbers: range) -> None:
        """Thirteen damaged frames in a row make the clip fail."""
        clip, places = intra
        self.spoil(clip, places, numbers)
        assert reason(lambda: list(Frames(clip)))[0] == "unreadable"

    def test_damage_outside_of_the_span_is_none(self, intra: tuple[Path, list[tuple[int, int]]]) -> None:
        """A clip next to the damage is whole."""
        clip, places = intra
        self.spoil(clip, places, range(30, 60))
        for start, expected in ((0.0, range(25)), (2.4, range(60, 75))):
            frames = Frames(clip, start=start, duration=1.0)
            assert [made.number_of(picture.rgb()) for picture in frames] == list(expected)
            assert frames.held == 0

    @pytest.mark.parametrize("fps", [120, 240])
    def test_pictures_after_the_last_frame_are_not_damage(self, tmp_path: Path, fps: int) -> None:
        """No frame of an intact clip within a video with many pictures per frame counts as held."""
        clip = made.numbered(tmp_path / "clip.mp4", made.steady(fps, 1))
        frames = Frames(clip, start=0.2, duration=0.4)
        assert len(list(frames)) == 10
        assert frames.damage == {}


# ---------------------------------------------------------------- chance
SMALL = TIMES[:40]


def copied(suffix: str, *options: str) -> Callable[[Path], Path]:
    """Return a maker of H.264 with B-frames, or of another codec, in a container."""

    def make(path: Path) -> Path:
        source = made.numbered(path.with_name("source.mp4"), SMALL, made.noise(1.7, 44_100), rate=44_100, video=GOP)
        made.ffmpeg("-i", source, *(options or ("-c", "copy")), path)
        return path

    return make


def of(**options: Any) -> Callable[[Path], Path]:
    """Return a maker of another codec."""
    return lambda path: made.numbered(path, SMALL, made.noise(1.7, 44_100), rate=44_100, **{"video": GOP, **options})


VP9 = ("-c:v", "libvpx-vp9", "-b:v", "300k", "-deadline", "realtime", "-g", "12", "-c:a", "libopus")
KINDS: dict[str, Callable[[Path], Path]] = {
    "h264.mp4": copied("mp4"),
    "first.mp4": copied("mp4", "-c", "copy", "-movflags", "+faststart"),
    "h264.mov": copied("mov"),
    "h264.mkv": copied("mkv"),
    "h264.ts": copied("ts"),
    "h264.flv": copied("flv"),
    "vp9.webm": copied("webm", *VP9),
    "mpeg4.avi": of(**AVI),
    "mjpeg.avi": of(**{**AVI, "vcodec": "mjpeg", "pixels": "yuvj420p", "video": {}}),
    "mpeg1.mpg": of(**MPEG),
    "mpeg2.ts": of(**{**MPEG, "vcodec": "mpeg2video"}),
}


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Return a file with flipped bits, a truncated end, or overwritten, zeroed, dropped or doubled stretches."""
    whole = bytearray(data)
    size, at = len(data), int(rng.integers(len(data)))
    long = int(rng.integers(1, size // 4))
    match int(rng.integers(6)):
        case 0:
            for place in rng.integers(size, size=int(rng.integers(1, 20))):
                whole[place] ^= 1 << int(rng.integers(8))
        case 1:
            del whole[max(at, size // 10) :]
        case 2:
            whole[at : at + 1000] = rng.bytes(min(1000, size - at))
        case 3:
            whole[at : at + long] = bytes(min(long, size - at))
        case 4:
            del whole[at : at + 188 * int(rng.integers(1, 20))]
        case _:
            whole[at:at] = whole[at : at + 188 * int(rng.integers(1, 20))]
    return bytes(whole)


@pytest.mark.parametrize("name", KINDS)
def test_both_columns_count_alike_whatever_is_damaged(name: str, tmp_path: Path) -> None:
    """Video and audio of a mutated file have the same number of frames, or each ends with a reason."""
    whole = KINDS[name](tmp_path / name)
    data, agreed = whole.read_bytes(), 0
    for seed in range(16):
        rng = np.random.default_rng([seed, len(name)])
        clip = whole.with_stem(f"mutant{seed}")
        clip.write_bytes(mutated(data, rng))
        span: dict[str, float] = {} if seed % 2 else {"start": float(rng.integers(20)) / 25, "duration": 0.6}
        try:
            frames = Frames(clip, keep_bytes=0, **span)
            count = sum(1 for _ in frames)
            assert count == frames.n_frames
            assert read_sound(clip, **span).n_frames == count
        except Reject:
            continue
        agreed += 1
    assert agreed > 2


class TestAnOutMadeBefore:
    """Shards in which an earlier avprep counted a damaged clip's frames in two different ways."""

    def call(self, *arguments: Any) -> Result:
        """Run a command."""
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    def test_verify_prints_what_mends_them(self, tmp_path: Path) -> None:
        """Deleting the files that `verify` names and running the command that `status` prints completes the folder."""
        frames, samples = synthetic.utterance(next(iter(synthetic.WORDS)), synthetic.speaker(0, 0), 0)
        (tmp_path / "in").mkdir()
        synthetic.write_clip(tmp_path / "in" / "face.mp4", frames, samples)
        plan, out = tmp_path / "m.jsonl", tmp_path / "out"
        assert self.call("index", "folder", tmp_path / "in", "-o", plan).exit_code == 0
        for column in ("crop --detector opencv", "mfcc"):
            command, *options = column.split()
            done = self.call(command, plan, out, "-j", 1, *options)
            assert done.exit_code == 0, done.output
        self._shorten(out)
        found = self.call("verify", out, "-j", 1)
        assert found.exit_code == 1
        (line,) = [line for line in found.stderr.splitlines() if "mfcc 28" in line]
        assert "face: crop has 29 frames, mfcc 28" in line
        assert f"avprep status {out}" in line
        named = [word.rstrip(",") for word in line.split() if word.rstrip(",").endswith(".{tar,json}")]
        assert len(named) == 2
        for name in named:
            for suffix in ("tar", "json"):
                Path(name.replace("{tar,json}", suffix)).unlink()
        columns = json.loads(self.call("status", out, "--json").stdout)
        for column in ("crop", "mfcc"):
            program, *arguments = shlex.split(columns[column]["command"])
            assert program == "avprep"
            done = self.call(*arguments, "-j", 1)
            assert done.exit_code == 0, done.output
        assert self.call("verify", out, "-j", 1).exit_code == 0

    def _shorten(self, out: Path) -> None:
        """Take a frame from the mfcc column, as if counting packets had given one frame less."""
        (tar,) = (out / "mfcc").glob("*.tar")
        ((key, _),) = shards.read(tar)
        clip = made_shards.Made(key, split="train", shard=0, n_frames=28)
        data = made_shards.stretch(out, key, made_shards.mfcc_members(key, 28))
        tar.unlink()
        made_shards.write_shard(out, "mfcc", tar.stem, [(clip, data)])
