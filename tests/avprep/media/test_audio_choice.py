"""Which audio is used: the default track and the channel with audio; silent clips are counted, not trained on."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import sys
import threading
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_media as made
import made_shards
import numpy as np
import pytest
from avprep_cli.main import main
from click.testing import CliRunner
from numpy.typing import NDArray

from avprep import files, manifest, shards
from avprep.errors import AvprepError, ManifestError, Reject
from avprep.manifest import Clip, Manifest
from avprep.media import film
from avprep.media.audio import SoundFile, read_heard, read_sound
from avprep.media.container import open_file
from avprep.runs import status
from avprep.stages import MfccSettings, MfccStage, mfcc_clip
from avprep.talking import driver as drivers
from davs_model.data.clips import read_clips
from davs_model.data.corpus import read_corpus
from davs_model.models.davs import Settings as DavsSettings

SECOND = 16_000
TIMES = made.steady(25, 1)
SPEECH = made.noise(1, SECOND)
QUIET = np.zeros(SECOND, np.int16)
HISS = (np.random.default_rng(0).normal(0, 8, SECOND)).astype(np.int16)  # −72 dB of full scale


def channels(*each: NDArray[np.int16]) -> NDArray[np.int16]:
    """Return channels side by side."""
    return np.stack(each)


def video(path: Path, samples: NDArray[np.int16], layout: str = "stereo") -> Path:
    """Write a second of video with lossless audio."""
    return made.numbered(path, TIMES, samples, acodec="flac", layout=layout)


def tracks(path: Path, *each: NDArray[np.int16], default: tuple[int, ...]) -> Path:
    """Write a second of video with several mono tracks, of which some are default."""
    picture = made.numbered(path.with_name("picture.mkv"), TIMES)
    inputs: list[Any] = ["-i", picture]
    options: list[Any] = ["-map", "0:v"]
    for n, samples in enumerate(each):
        inputs += ["-i", made.write_wav(path.with_name(f"{n}.wav"), samples, SECOND)]
        options += ["-map", f"{n + 1}:a", f"-disposition:a:{n}", "default" if n in default else "0"]
    made.ffmpeg(*inputs, *options, "-c:v", "copy", "-c:a", "flac", "-default_mode", "passthrough", path)
    return path


def facts(path: Path, settings: MfccSettings | None = None, **clip: Any) -> dict[str, Any]:
    """Return the content of a video's audio.json."""
    sample = mfcc_clip(Clip("a", path.name, "train", **clip), path.parent, settings or MfccSettings())
    found: dict[str, Any] = json.loads(dict(sample.members)["audio.json"])
    assert sample.summary["silent"] is found["silent"]
    return found


class TestChannel:
    """One channel is used."""

    @pytest.mark.parametrize(
        ("layout", "each", "heard"),
        [
            ("mono", (SPEECH,), 0),
            ("stereo", (SPEECH, QUIET), 0),
            ("stereo", (SPEECH, made.noise(1, SECOND, 1)), 0),
            ("stereo", (QUIET, SPEECH), 1),
            ("stereo", (HISS, SPEECH), 1),
            ("stereo", (QUIET, HISS), 0),
            ("5.1", (QUIET, QUIET, SPEECH, QUIET, QUIET, QUIET), 2),
            ("5.1", (made.noise(1, SECOND, 1),) * 2 + (SPEECH,) + (QUIET,) * 3, 2),
            ("5.1", (QUIET, SPEECH, QUIET, made.noise(1, SECOND, 1), QUIET, QUIET), 1),
            ("5.1", (QUIET, QUIET, QUIET, SPEECH, QUIET, QUIET), 2),
            ("quad", (QUIET, QUIET, SPEECH, QUIET), 2),
        ],
        ids=[
            "mono",
            "left",
            "both",
            "right",
            "hiss-left",
            "hiss-right",
            "centre",
            "music",
            "front-right",
            "sub",
            "quad",
        ],
    )
    def test_the_one_that_carries_sound(
        self, tmp_path: Path, layout: str, each: tuple[NDArray[np.int16], ...], heard: int
    ) -> None:
        """The first channel (of surround, the centre) is used, unless only another is above −60 dB; LFE never is."""
        path = video(tmp_path / "a.mkv", channels(*each), layout)
        read = read_heard(path)
        assert (read.channel, read.channels) == (heard, len(each))
        assert read.samples.tolist() == each[heard].tolist()
        file = SoundFile(path)
        file.scan()
        (part,) = file.stretches(100)
        assert (file.channel, part.channel) == (heard, heard)
        assert part.samples.tolist() == each[heard].tolist()
        found = facts(path)
        assert found.get("audio_channel", 0) == heard
        assert ("audio_track" in found) == bool(heard)  # the usual case records nothing, so the bytes stay the same

    def test_audio_apart_from_the_video(self, tmp_path: Path) -> None:
        """The same rule applies to a file with the audio alone."""
        picture = made.numbered(tmp_path / "picture.mp4", TIMES)
        apart = video(tmp_path / "apart.mkv", channels(QUIET, SPEECH))
        read = read_heard(picture, apart)
        assert read.channel == 1
        assert read.samples.tolist() == SPEECH.tolist()
        assert facts(picture, audio=apart.name)["audio_channel"] == 1

    def test_each_clip_of_a_file_by_itself(self, tmp_path: Path) -> None:
        """If two people have a channel each, the audio of a clip is that of the one who speaks in it."""
        first, second = SPEECH.copy(), SPEECH.copy()
        first[8000:], second[:8000] = 0, 0
        path = video(tmp_path / "a.mkv", channels(first, second))
        assert [read_heard(path, start=start, duration=0.4).channel for start in (0.0, 0.52)] == [0, 1]

    def test_all_of_a_long_file_by_one_channel(self, tmp_path: Path) -> None:
        """A file that drives a face is read from one channel, even if that is silent for its first minute."""
        silence = np.zeros(20 * SECOND, np.int16)
        late = np.concatenate([silence, SPEECH])
        path = tmp_path / "a.wav"
        with wave.open(str(path), "wb") as out:
            out.setnchannels(2)
            out.setsampwidth(2)
            out.setframerate(SECOND)
            out.writeframes(np.stack([np.zeros_like(late), late], axis=1).astype("<i2").tobytes())
        file = SoundFile(path)
        file.scan()
        parts = list(file.stretches(100))
        assert {part.channel for part in parts} == {1}
        assert np.array_equal(np.concatenate([part.samples for part in parts]), late)

    def test_the_one_that_is_asked_for(self, tmp_path: Path) -> None:
        """A requested channel is read even if it is silent; one that does not exist is `no_audio`, in one line."""
        path = video(tmp_path / "a.mkv", channels(SPEECH, QUIET))
        found = facts(path, MfccSettings(audio_channel=1))
        assert (found["audio_channel"], found["silent"]) == (1, True)
        with pytest.raises(Reject, match=r"a\.mkv: --audio-channel 2 does not exist: its audio has 2 channels") as no:
            facts(path, MfccSettings(audio_channel=2))
        assert no.value.reason == "no_audio"
        with pytest.raises(AvprepError, match="--audio-channel 2 does not exist"):
            drivers.from_sound(path, channel=2)


class TestTrack:
    """One track is used."""

    @pytest.mark.parametrize(("default", "heard"), [((1,), 1), ((0,), 0), ((), 0), ((1, 2), 1), ((2,), 2)], ids=str)
    def test_the_default_one(self, tmp_path: Path, default: tuple[int, ...], heard: int) -> None:
        """The default track is used, the first one if there are several; without any, the first of all tracks."""
        each = [made.noise(1, SECOND, seed) for seed in range(3)]
        path = tracks(tmp_path / "a.mkv", *each, default=default)
        read = read_sound(path)
        assert read.track == heard
        assert read.samples.tolist() == each[heard].tolist()
        assert facts(path).get("audio_track", 0) == heard
        driver = drivers.from_sound(path)
        assert (driver.track, driver.channel) == (heard, 0)

    def test_the_one_that_is_asked_for(self, tmp_path: Path) -> None:
        """Any track can be requested; one that does not exist is `no_audio`, in one line that gives their number."""
        path = tracks(tmp_path / "a.mkv", QUIET, SPEECH, default=(0,))
        assert read_sound(path, track=1).samples.tolist() == SPEECH.tolist()
        assert facts(path)["silent"]
        found = facts(path, MfccSettings(audio_track=1))
        assert (found["audio_track"], found["audio_channel"], found["silent"]) == (1, 0, False)
        with pytest.raises(Reject, match=r"a\.mkv: --audio-track 2 does not exist: the file has 2 audio tracks") as no:
            facts(path, MfccSettings(audio_track=2))
        assert no.value.reason == "no_audio"

    def test_the_video_that_is_made_has_it_too(self, tmp_path: Path) -> None:
        """The audio of a generated video is the track that drove it."""
        path = tracks(tmp_path / "a.mkv", QUIET, SPEECH, default=(1,))
        driver = drivers.from_sound(path)
        frames = [np.zeros((16, 16, 3), np.uint8)] * driver.n_frames
        film.write_film(
            tmp_path / "out.mp4", frames, driver.n_frames, sound=driver.sound, zero=driver.zero, track=driver.track
        )
        assert not read_sound(tmp_path / "out.mp4").silent


def test_choices_that_are_left_open_are_no_settings() -> None:
    """Without --audio-track and --audio-channel a run's settings equal those of earlier versions."""
    assert MfccStage(Path(), MfccSettings()).resolved() == {
        "preset": "davs",
        "audio_shift_ms": 0.0,
        "max_seconds": 1800.0,
    }
    assert MfccStage(Path(), MfccSettings(audio_track=0)).resolved()["audio_track"] == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips in both columns, one of them silent, with windows made by the command."""
    root = tmp_path_factory.mktemp("silent")
    clips = [Clip(name, f"{name}.mkv", "train", word="yes") for name in ("left", "none", "right")]
    for clip, samples in zip(clips, ((SPEECH, QUIET), (QUIET, HISS), (QUIET, SPEECH)), strict=True):
        video(root / clip.video, channels(*samples))
    plan = Manifest("made", root, tuple(clips))
    (root / "manifest.jsonl").write_text(manifest.render(plan), encoding="utf-8")
    done = CliRunner().invoke(main, ["mfcc", str(root / "manifest.jsonl"), str(root / "out"), "-j", "1"])
    assert done.exit_code == 0, done.output
    assert "mfcc: 1 shard, 3 clips ok, 1 of them silent, 0 failed" in done.stdout
    rows = [made_shards.Made(clip.key, n_frames=25) for clip in clips]
    stretches = [(row, made_shards.stretch(root, row.key, made_shards.crop_members(row.key, 25))) for row in rows]
    made_shards.write_shard(root / "out", "crop", "train-000000", stretches)
    fingerprint = json.loads((root / "out/mfcc/run.json").read_text())
    (root / "out/crop/run.json").write_text(json.dumps({**fingerprint, "column": "crop", "settings": {}}))
    return root / "out"


class TestSilentClips:
    """Clips that contain only silence."""

    def test_counted_in_every_summary(self, run: Path) -> None:
        """The sidecar, `status`, `verify` and the report count silent clips; so does JSON."""
        head = shards.read_sidecar_head(run, "mfcc", "train-000000")
        assert head is not None
        assert head["counts"]["silent"] == 1
        (found,) = status.status(run, columns=["mfcc"])
        assert found.splits["train"].silent == 1
        told = CliRunner().invoke(main, ["status", str(run)])
        assert "3 ok, 1 of them silent" in told.stdout
        verified = CliRunner().invoke(main, ["verify", str(run), "-j", "1"])
        assert verified.exit_code == 0, verified.output
        assert "3 ok, 1 of them silent + 0 failed" in verified.stdout
        page = run.parent / "report.html"
        assert CliRunner().invoke(main, ["report", str(run), "-o", str(page)]).exit_code == 0
        assert "1 of them silent" in page.read_text(encoding="utf-8")
        as_json = json.loads(CliRunner().invoke(main, ["verify", str(run), "-j", "1", "--json"]).stdout)
        assert as_json["columns"]["mfcc"]["silent"] == 1

    def test_left_out_of_training(self, run: Path) -> None:
        """`train` leaves silent clips out and reports their number; with data.keep_silent it uses them."""
        settings = DavsSettings.resolve("small", None, ())
        corpus = read_corpus(run, settings)
        assert [corpus.train.key(row) for row in range(len(corpus.train))] == ["left", "right"]
        assert corpus.train.skipped == {"silent": 1}
        kept = read_corpus(run, DavsSettings.resolve("small", None, ("data.keep_silent=true",)))
        assert (len(kept.train), kept.train.skipped) == (3, {})
        told = CliRunner().invoke(main, ["train", str(run), str(run.parent / "run"), "--preset", "small", "--dry-run"])
        assert "train: 2 clips, 1 left out: silent" in told.output

    def test_a_peak_below_the_bound_is_silence(self, tmp_path: Path) -> None:
        """Noise with a peak below −60 dB makes every column silent, as none can be louder than the peak."""
        found = facts(video(tmp_path / "a.mkv", np.clip(HISS, -32, 32), "mono"))
        assert (found["silent_share"], found["silent"]) == (1.0, True)
        assert 0 < found["peak"] <= 0.001

    def test_full_scale(self, tmp_path: Path) -> None:
        """The peak of the lowest sample is 1; the offset is that of the first sample that was read."""
        found = facts(video(tmp_path / "a.mkv", np.full_like(HISS, -32768), "mono"), start=0.04, duration=0.4)
        assert (found["peak"], found["start_offset"], found["first_sample"]) == (1.0, -0.04, -640)


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A named pipe without a writer."""
    path = tmp_path / "pipe.html"
    os.mkfifo(path)
    return path


@pytest.fixture
def odd(tmp_path: Path, pipe: Path) -> Iterator[list[tuple[Path, str]]]:
    """Paths that are not regular files, and their kinds."""
    listener = socket.socket(socket.AF_UNIX)
    where = os.open(tmp_path, os.O_RDONLY)
    try:
        listener.bind(f"/proc/self/fd/{where}/socket")  # a socket's name must be short
        yield [(pipe, "named pipe"), (tmp_path / "socket", "socket"), (Path("/dev/zero"), "device")]
    finally:
        listener.close()
        os.close(where)


class TestNoFile:
    """A path that is not a regular file is refused without waiting for it."""

    def test_media_and_manifests(self, odd: list[tuple[Path, str]], tmp_path: Path) -> None:
        """A pipe, a socket and a device are refused in one line wherever a file is read."""
        for path, kind in odd:
            with pytest.raises(Reject, match=kind) as reject, open_file(path):
                pass
            assert reject.value.reason == "unreadable"
            with pytest.raises(AvprepError, match=kind):
                drivers.from_sound(path)
            with pytest.raises(ManifestError, match=kind):
                manifest.read(path)
            with pytest.raises(OSError, match=kind):
                files.sha256(path)
            with pytest.raises(AvprepError, match=kind):
                list(shards.read(path))
        with pytest.raises(Reject, match="Is a directory") as reject, open_file(tmp_path):
            pass
        assert reject.value.reason == "unreadable"

    def test_a_pipe_in_the_place_of_a_sidecar(self, tmp_path: Path) -> None:
        """Shards with a pipe among them are reported as damaged."""
        out = made_shards.write(tmp_path / "out", made_shards.a_dozen())
        sidecar = shards.sidecar_path(out, "crop", "train-000000")
        sidecar.unlink()
        os.mkfifo(sidecar)
        with pytest.raises(AvprepError, match="named pipe"):
            shards.read_sidecar(out, "crop", "train-000000")
        with pytest.raises(AvprepError, match="named pipe"):
            read_clips(out, "train")

    @pytest.mark.parametrize(
        "command",
        ["crop PIPE out", "mfcc PIPE out", "generate RUN --face a.jpg --audio PIPE -o a.mp4",
         "generate RUN --face PIPE --audio a.wav -o a.mp4", "generate PIPE --face a.jpg --audio a.wav -o a.mp4",
         "report RUN -o PIPE", "import-checkpoint PIPE run", "train RUN run --config PIPE",
         "study-results PIPE"],
    )  # fmt: skip
    def test_commands(
        self, command: str, run: Path, pipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Every command refuses a pipe in place of a file, for reading and for writing, in one line."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "RUN").mkdir()
        if command.startswith("report"):
            shutil.copytree(run, tmp_path / "RUN", dirs_exist_ok=True)
        for name in ("a.jpg", "a.wav"):
            (tmp_path / name).touch()
        done = CliRunner().invoke(main, command.replace("PIPE", str(pipe)).split())
        assert done.exit_code in (1, 2)
        last = done.output.splitlines()[-1]
        assert last.startswith("Error: ")
        assert "is a named pipe, not a regular file" in last or "not a plain file" in last
        assert pipe.is_fifo()


class TestLyingHeaders:
    """Headers that would make a small file last for days."""

    @pytest.mark.parametrize("rate", [1, 999, 1_000_001])
    def test_sample_rates(self, tmp_path: Path, rate: int) -> None:
        """A sample rate that no recorder uses is refused in one line."""
        data = np.zeros(4000, "<i2").tobytes()
        head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate,
                           2, 16, b"data", len(data))  # fmt: skip
        (tmp_path / "a.wav").write_bytes(head + data)
        with pytest.raises(AvprepError, match=rf"a\.wav: .*\(the audio's sample rate is {rate} Hz; 1000 to 1000000 Hz"):
            drivers.from_sound(tmp_path / "a.wav")
        picture = made.numbered(tmp_path / "picture.mp4", TIMES)
        with pytest.raises(Reject, match=f"{rate} Hz") as reject:
            read_sound(picture, tmp_path / "a.wav")
        assert reject.value.reason == "unreadable"

    def test_longer_than_it_may_be(self, tmp_path: Path) -> None:
        """Audio longer than --max-seconds is refused in a line that names the option, and is not read further."""
        path = made.write_wav(tmp_path / "a.wav", np.tile(SPEECH, 3), SECOND)
        with pytest.raises(AvprepError, match="longer than 2 s; raise --max-seconds"):
            drivers.from_sound(path, max_seconds=2)
        assert drivers.from_sound(path, max_seconds=3).n_frames == 75

    def test_generate_has_a_longest_length(self) -> None:
        """`generate` states the maximum length that it accepts by default."""
        told = CliRunner().invoke(main, ["generate", "--help"])
        assert "--max-seconds" in told.output
        assert "1800.0" in told.output

    @pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n" + bytes(100), b"just words\n" * 20])
    def test_what_has_no_audio(self, tmp_path: Path, data: bytes) -> None:
        """An image or a text in place of audio is reported as containing no audio."""
        (tmp_path / "photo.png").write_bytes(data)
        with pytest.raises(AvprepError, match=r"photo\.png: cannot be read as a file with audio") as error:
            drivers.from_sound(tmp_path / "photo.png")
        assert "\n" not in str(error.value)


class TestFfmpegSays:
    """ffmpeg's messages are read while it is fed."""

    def test_more_than_a_pipe_holds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A message per damaged packet does not block ffmpeg; the error has only its first and last line."""
        talker = tmp_path / "ffmpeg"
        talker.write_text(
            f"#!{sys.executable}\nimport sys\n"
            "sys.stderr.write('the cause\\n' + 'a damaged packet\\n' * 100_000 + 'x' * 5000 + '\\x1b[31m the end\\n')\n"
            "sys.stdin.buffer.read()\nsys.exit(1)\n"
        )
        talker.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        frames = (np.zeros((256, 256, 3), np.uint8) for _ in range(50))
        failed = ended(lambda: film.write_film(tmp_path / "a.mp4", frames, 50))
        assert isinstance(failed, AvprepError)
        assert "ffmpeg failed: the cause; xxx" in str(failed)
        assert str(failed).isprintable()
        assert len(str(failed)) < 600
        failed = ended(lambda: film.transcode(made.write_wav(tmp_path / "a.wav", SPEECH, SECOND), tmp_path / "b.wav"))
        assert "the cause" in str(failed)

    def test_damaged_audio(self, tmp_path: Path) -> None:
        """A video is made from audio of which every second packet is damaged."""
        whole = tmp_path / "whole.aac"
        made.ffmpeg("-f", "lavfi", "-i", "sine=300:r=96000:d=50", "-c:a", "aac", whole)
        made.ffmpeg("-i", whole, "-c", "copy", "-bsf:a", r"noise=amount='if(mod(n\,2)\,1\,0)'", tmp_path / "bad.aac")
        file = SoundFile(tmp_path / "bad.aac")
        file.scan()
        assert file.decode_errors > 200  # each gives two lines or more, and a pipe holds 64 KiB
        frames = [np.zeros((16, 16, 3), np.uint8)] * 1250
        assert ended(lambda: film.write_film(tmp_path / "a.mp4", frames, 1250, sound=file.path, zero=file.zero)) is None
        assert made.probe(tmp_path / "a.mp4").audio == "aac"


def ended(work: Any, seconds: float = 60) -> BaseException | None:
    """Run something that must not hang; return what it raised."""
    raised: list[BaseException] = []

    def do() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"still not done after {seconds} s"
    return raised[0] if raised else None
