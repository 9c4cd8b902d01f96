"""Audio on the video's clock: the positions of its pieces, and what the reader reports."""

from __future__ import annotations

import math
import tracemalloc
from fractions import Fraction
from pathlib import Path
from typing import Any

import made_media as made
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from avprep.errors import Reject
from avprep.media.audio import Sound, SoundFile, read_sound
from avprep.media.pcm import GAP, Line, Pieces, sampling

TIMES = made.steady(25, 2)


def pieces(rate: int, laid: list[tuple[Fraction | None, NDArray[np.int16]]]) -> Pieces:
    """Return decoded pieces as if they had been read."""
    made_up = Pieces(Path("a.wav"))
    made_up.rate, made_up._pieces = rate, laid
    return made_up


def sample_by_sample(
    laid: list[tuple[Fraction | None, NDArray[np.int16]]], rate: int, zero: Fraction, low: int, high: int
) -> dict[int, int]:
    """Lay the pieces out sample by sample: position -> sample; the first one stays, and gaps are silent."""
    line: dict[int, int] = {}
    end = None
    for time, piece in laid:
        position = end if time is None else round((time - zero) * rate)
        if position is None:
            position = low
        if end is not None and abs(position - end) <= GAP * rate:
            position = end
        for n, sample in enumerate(piece.tolist(), position):
            if low <= n < high and n not in line and (not line or n > max(line)):
                line[n] = sample
        if any(low <= n < high for n in range(position, position + len(piece))):
            end = max(end, min(high, position + len(piece))) if end is not None else min(high, position + len(piece))
    if not line:
        return {}
    return {n: line.get(n, 0) for n in range(min(line), max(line) + 1)}


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[tuple[Fraction | None, NDArray[np.int16]]], int, int]:
    """Draw pieces at 1 kHz (so that 5 ms are 5 samples) with gaps, overlaps, jitter and missing stamps, and a range."""
    laid: list[tuple[Fraction | None, NDArray[np.int16]]] = []
    position = draw(st.integers(-40, 40))
    for n in range(draw(st.integers(0, 6))):
        size = draw(st.integers(1, 30))
        jump = draw(st.sampled_from([0, 0, 0, 3, -3, 5, -5, 6, -6, 20, -20, -50]))
        position += jump
        stamp = None if draw(st.integers(0, 5)) == 0 else Fraction(position, 1000)
        laid.append((stamp, np.arange(1, size + 1, dtype=np.int16) + 100 * (n + 1)))
        position += size
    low = draw(st.integers(-60, 40))
    return laid, low, low + draw(st.integers(1, 150))


@given(layouts())
def test_pieces_are_laid_out_by_time(drawn: tuple[list[tuple[Fraction | None, NDArray[np.int16]]], int, int]) -> None:
    """Gaps are filled with silence, the first of overlapping pieces stays, and rounded time stamps have no effect."""
    laid, low, high = drawn
    line = Line(1000, low, high)
    for time, piece in laid:
        line.add(
            None if time is None else sampling(Fraction(1, time.denominator), Fraction(0), 1000)(time.numerator), piece
        )
    expected = sample_by_sample(laid, 1000, Fraction(0), low, high)
    assert line.samples().tolist() == list(expected.values())
    if expected:
        assert line.begin == min(expected)


@given(st.fractions(Fraction(1, 96_000), 1), st.fractions(-9, 9), st.integers(-999, 999))
@example(Fraction(1, 2), Fraction(0), 1)
@example(Fraction(1, 2), Fraction(0), 3)
def test_times_are_rounded_to_samples(clock: Fraction, zero: Fraction, time: int) -> None:
    """A time in whole clock ticks maps to the nearest sample, and to the even one of two."""
    for rate in (1, 16_000, 44_100):
        assert sampling(clock, zero, rate)(time) == round((time * clock - zero) * rate)


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 32_000, 44_100, 48_000, 96_000])
def test_resampling_does_not_move_sound(rate: int, tmp_path: Path) -> None:
    """At every sample rate a click stays in place, to the sample, and a tone keeps its level."""
    time = np.arange(2 * rate) / rate
    tone = made.clicks([0.5, 1.5], 2, rate) + (3000 * np.sin(2 * np.pi * 500 * time)).astype(np.int16)
    clip = made.numbered(tmp_path / "clip.mkv", TIMES, tone, rate=rate, acodec="pcm_s16le")
    sound = read_sound(clip)
    assert (sound.first, sound.samples.size, sound.rate) == (0, 32_000, rate)
    assert np.allclose(made.peaks(sound.samples, 0, 2), [0.5, 1.5], atol=1 / 16_000)
    middle = sound.samples[12_000:20_000].astype(float)
    assert np.abs(middle - 3000 * np.sin(2 * np.pi * 500 * np.arange(12_000, 20_000) / 16_000)).max() < 60


def test_a_gap_in_the_sound_is_silent(tmp_path: Path) -> None:
    """A gap in the file's audio is read as silence, and the audio after it keeps its time."""
    sound = made.noise(2, 16_000)
    clip = tmp_path / "clip.mkv"
    made.numbered(clip, TIMES, sound, acodec="pcm_s16le")
    made.ffmpeg("-i", clip, "-c", "copy", "-bsf:a", r"noise=drop=between(n\,8\,15)", tmp_path / "gap.mkv")
    read = read_sound(tmp_path / "gap.mkv")
    expected = sound.copy()
    expected[8 * 1024 : 16 * 1024] = 0
    assert np.array_equal(read.samples, expected)


def test_short_blocks_of_vorbis(tmp_path: Path) -> None:
    """In an Ogg file, the Vorbis blocks around a click are read at their times, with no gap or loss."""
    instants = [0.3 + 0.17 * n for n in range(9)]
    wav = made.write_wav(tmp_path / "sound.wav", made.clicks(instants, 2, 16_000), 16_000)
    clip = made.numbered(tmp_path / "clip.mp4", TIMES)
    made.ffmpeg("-i", wav, "-c:a", "libvorbis", "-q:a", "8", tmp_path / "sound.ogg")
    for start in (0.0, 1.1):
        expected = read_sound(clip, wav, start=start, duration=0.88).samples.astype(float)
        read = read_sound(clip, tmp_path / "sound.ogg", start=start, duration=0.88)
        error = read.samples[: expected.size] - expected[: read.samples.size]
        assert abs(read.samples.size - expected.size) <= 160
        assert (error**2).mean() < 0.01 * (expected**2).mean()


@pytest.mark.parametrize("start", [0.4, 1.6, 4.0])
def test_packets_of_several_frames(start: float, tmp_path: Path) -> None:
    """If only the first frame of a packet has a time stamp, a clip has the audio of its span and nothing earlier."""
    wav = made.write_wav(tmp_path / "source.wav", made.noise(6, 48_000), 48_000)
    made.ffmpeg("-i", wav, "-c:a", "adpcm_ms", tmp_path / "sound.wav")
    clip = made.numbered(tmp_path / "clip.mp4", made.steady(25, 6))
    everything = read_sound(clip, tmp_path / "sound.wav")
    part = read_sound(clip, tmp_path / "sound.wav", start=start, duration=1.0)
    begin = round(start * 16_000)
    assert (everything.first, part.first) == (0, 0)
    assert np.array_equal(part.samples, everything.samples[begin : begin + 16_000])


def test_sound_around_the_clip(tmp_path: Path) -> None:
    """`before` and `after` add the source's audio outside the span, at most as much as asked for and available."""
    sound = made.noise(2, 16_000)
    clip = made.numbered(tmp_path / "clip.mkv", TIMES, sound, acodec="pcm_s16le")
    for start, before, after in ((1.0, 0, 0), (0.4, 1281, 1520), (0.04, 1281, 0), (1.0, 5, 100_000)):
        read = read_sound(clip, start=start, duration=0.4, before=before, after=after)
        begin = max(0, round(start * 16_000) - before)
        assert read.first == begin - round(start * 16_000)
        assert np.array_equal(read.samples, sound[begin : round(start * 16_000) + 6400 + after])


@pytest.mark.parametrize("first", [-1281, -7000, 0, 500, 7000])
@pytest.mark.parametrize("length", [400, 3000, 9000])
def test_sound_beside_pictures(first: int, length: int) -> None:
    """Beside ten frames lie 6,400 samples from the first picture on, silent wherever there is no audio."""
    samples = made.noise(1, 16_000)[:length]
    beside = Sound(samples, first, 10, 16_000, 1, 0).beside(10)
    there = dict(enumerate(samples.tolist(), first))
    assert beside.tolist() == [there.get(n, 0) for n in range(6400)]


def test_no_sound_in_the_span(tmp_path: Path) -> None:
    """A clip beyond the end of the audio is `no_audio`."""
    clip = made.numbered(tmp_path / "clip.mkv", TIMES, made.noise(0.5, 16_000), acodec="pcm_s16le")
    with pytest.raises(Reject) as reject:
        read_sound(clip, start=1.0, duration=0.4)
    assert reject.value.reason == "no_audio"
    assert "clip.mkv" in reject.value.message
    assert "it begins 1 s before it" in reject.value.message


def test_a_damaged_packet_costs_only_itself(tmp_path: Path) -> None:
    """A packet that cannot be decoded is counted; the audio around it is read and keeps its time."""
    clip = made.numbered(tmp_path / "clip.mp4", TIMES, made.clicks([0.5, 1.5], 2, 44_100), rate=44_100)
    whole = read_sound(clip)
    bad = tmp_path / "bad.mp4"
    made.ffmpeg("-i", clip, "-c", "copy", "-bsf:a", r"noise=amount='if(between(n\,40\,43)\,1\,0)'", bad)
    read = read_sound(bad)
    assert read.n_frames == whole.n_frames == 50
    assert np.allclose(made.peaks(read.samples[:14_000], read.first, 1), [0.5], atol=0.001)
    assert np.allclose(made.peaks(read.samples[20_000:], 20_000, 1), [1.5], atol=0.001)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of decoded samples that were kept, one for each audio that is read."""
    kept: list[int] = []
    original = Pieces.resampled

    def resampled(self: Pieces, *arguments: Any) -> Any:
        kept.append(sum(piece.size for _, piece in self._pieces))
        return original(self, *arguments)

    monkeypatch.setattr(Pieces, "resampled", resampled)
    return kept


@pytest.mark.parametrize("shown", [{"start": 25.0, "duration": 1.16}, {"duration": 1.16}, {}])
def test_only_what_is_needed_is_decoded(shown: dict[str, float], tmp_path: Path, decoded: list[int]) -> None:
    """For a clip from a long file, only some seconds of audio are decoded."""
    clip = made.numbered(tmp_path / "clip.mp4", made.steady(25, 40), made.noise(40, 16_000))
    read_sound(clip, **shown)
    assert decoded[0] <= 16_000 * ((shown["duration"] + 4) if shown else 41)


def test_long_sound_beside_a_short_picture(tmp_path: Path, decoded: list[int]) -> None:
    """An audio file far longer than its video is read only to the end of the video."""
    picture = made.numbered(tmp_path / "picture.mp4", TIMES)
    wav = made.write_wav(tmp_path / "sound.wav", made.noise(60, 16_000), 16_000)
    assert read_sound(picture, wav, after=1520).samples.size == 32_000 + 1520
    assert decoded[0] < 6 * 16_000
    assert math.isclose(read_sound(picture, wav, start=1.0).samples.size, 16_000)


def test_a_sample_rate_that_changes(tmp_path: Path) -> None:
    """Audio whose sample rate changes midway is refused: one of its parts would be at the wrong times."""
    clip = made.numbered(tmp_path / "clip.mp4", TIMES)
    parts = [write_sound(tmp_path / f"{rate}.aac", made.noise(1, rate), rate) for rate in (44_100, 48_000)]
    (tmp_path / "both.aac").write_bytes(b"".join(part.read_bytes() for part in parts))
    for read in (lambda path: read_sound(clip, path), scanned):
        with pytest.raises(Reject, match="the sample rate changes midway from 44100 to 48000 Hz") as caught:
            read(tmp_path / "both.aac")
        assert caught.value.reason == "unreadable"


def write_sound(path: Path, samples: NDArray[np.int16], rate: int, *options: str) -> Path:
    """Write an audio file in the format of its suffix."""
    wav = made.write_wav(path.with_name("made.wav"), samples, rate)
    made.ffmpeg("-i", wav, *options, path)
    return path


def scanned(path: Path) -> SoundFile:
    """Return an audio file that has been scanned."""
    file = SoundFile(path)
    file.scan()
    return file


class TestSoundFile:
    """An audio file of any length is read in parts that join without a seam."""

    @pytest.mark.parametrize(
        ("name", "rate"), [("a.wav", 16_000), ("a.flac", 44_100), ("a.ogg", 48_000), ("a.m4a", 22_050)]
    )
    @pytest.mark.parametrize("frames", [3, 25, 1000])
    def test_stretches_are_parts_of_the_whole(self, tmp_path: Path, name: str, rate: int, frames: int) -> None:
        """Together the parts give the file's samples at 16 kHz; they overlap by the requested number of samples."""
        path = write_sound(tmp_path / name, made.noise(2.5, rate), rate)
        file = scanned(path)
        whole = next(scanned(path).stretches(10_000, after=100_000)).samples
        position = 0
        for part in file.stretches(frames, before=1281, after=1520):
            low, high = max(0, position * 640 - 1281), (position + part.n_frames) * 640 + 1520
            assert part.first == low - position * 640
            assert part.samples.tolist() == whole[low:high].tolist()
            position += part.n_frames
        assert position == file.n_frames

    @pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.m4a", "a.ogg", "a.flac", "a.mka", "a.ts"])
    def test_frames_are_counted_by_decoding(self, tmp_path: Path, name: str) -> None:
        """2.5 s give 62 or 63 frames in any format, and a click stays at its time on the file's own clock."""
        path = write_sound(tmp_path / name, made.clicks([1.0, 2.0], 2.5, 44_100), 44_100)
        file = scanned(path)
        assert file.n_frames in (62, 63, 64)  # an encoder may fill up its last block
        (part,) = file.stretches(1000)
        lead = {"a.mp3": 0.03, "a.ts": 0.03, "a.ogg": 0.006}.get(name, 0.001)  # some keep their encoder's delay
        assert np.allclose(made.peaks(part.samples, part.first, 2), [1.0, 2.0], atol=lead)

    def test_surround_sound_speaks_from_the_centre(self, tmp_path: Path) -> None:
        """Of six channels the front centre is read; of two, the first."""
        for layout, speech in (("5.1", 2), ("stereo", 0)):
            channels = np.zeros((6 if layout == "5.1" else 2, 16_000), np.int16)
            channels[speech] = made.noise(1, 16_000)
            path = made.numbered(tmp_path / "a.mkv", TIMES[:25], channels, acodec="flac", layout=layout)
            (part,) = scanned(path).stretches(100)
            assert part.samples.tolist() == channels[speech].tolist()

    def test_memory_is_that_of_a_stretch(self, tmp_path: Path) -> None:
        """Three minutes of audio, 6 MB, take no more memory than a part of a second."""
        path = made.write_wav(tmp_path / "a.wav", np.tile(made.noise(10, 16_000), 18), 16_000)
        tracemalloc.start()
        file = scanned(path)
        assert sum(part.n_frames for part in file.stretches(25)) == file.n_frames == 4_500
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2_000_000

    def test_a_long_gap_is_refused(self, tmp_path: Path) -> None:
        """A gap of more than ten minutes, as by one wrong time stamp, is refused before memory is taken for it."""
        wav = made.write_wav(tmp_path / "a.wav", made.noise(1, 16_000), 16_000)
        made.ffmpeg("-i", wav, "-c", "copy", "-bsf:a", r"setts=ts=TS+if(gt(N\,5)\,16000*700\,0)", tmp_path / "a.mka")
        with pytest.raises(Reject, match="700 s without sound in the middle"):
            scanned(tmp_path / "a.mka")

    @pytest.mark.parametrize(
        ("data", "reason"),
        [(b"", "unreadable"), (b"RIFF" + bytes(40), "unreadable"), (b"#EXTM3U\na.wav", "unreadable")],
    )
    def test_what_is_no_sound_is_refused(self, tmp_path: Path, data: bytes, reason: str) -> None:
        """An empty file, a broken one and a playlist are refused in one line."""
        path = tmp_path / "a.wav"
        path.write_bytes(data)
        with pytest.raises(Reject) as caught:
            SoundFile(path).scan()
        assert caught.value.reason == "unreadable"
        assert str(path) in caught.value.message

    def test_sound_without_a_sample_is_refused(self, tmp_path: Path) -> None:
        """A file whose audio stream is empty has no audio; neither has a silent video."""
        empty = made.write_wav(tmp_path / "a.wav", np.empty(0, np.int16), 16_000)
        film = made.numbered(tmp_path / "a.mp4", TIMES)
        for path in (empty, film):
            with pytest.raises(Reject) as caught:
                SoundFile(path).scan()
            assert caught.value.reason == "no_audio"
