"""Sound at 16 kHz on the clock of a clip's pictures, by presentation time, decoded in process with PyAV."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.container
import numpy as np
from numpy.typing import NDArray

from avprep.errors import Reject
from avprep.media import (
    SEEK_BEYOND,
    FrameCount,
    Frames,
    Seconds,
    audio_stream,
    has_presentation_times,
    open_file,
    packets,
    seconds,
    seek,
    too_long,
    track_number,
    video_stream,
)
from avprep.mfcc import silent_columns
from avprep.pcm import Line, Pieces, sample_at, source_range
from avprep.schema import FPS, SAMPLE_RATE

LEAD, TAIL = Fraction(1), Fraction(2)
"""Sound that is decoded before and after what a clip needs: files do not interleave exactly (s)."""
MOST_DELAY = 16
"""Pictures that a decoder holds back at most."""
LOOK = 10 * FPS
"""Frames of a `SoundFile` whose audio is in memory at once while it is told whether a channel is silent."""
MOST_SILENCE = 600
"""Longest gap between two packets of a `SoundFile`, which has to be held as silence (s)."""


@dataclass(frozen=True, eq=False)
class Sound:
    """The sound of one clip.

    samples: int16 (N,), mono, 16 kHz.
    first: position of `samples[0]` in samples after the clip's first picture; negative where sound before it was read.
    n_frames: number of 25-fps video frames of the clip.
    rate, channels: what the source holds (Hz, count).
    decode_errors: damaged packets that were passed over.
    track, channel: the audio track and the channel of it that were read, from 0; others: channels of the track that may
        carry speech besides.
    """

    samples: NDArray[np.int16]
    first: int
    n_frames: int
    rate: int
    channels: int
    decode_errors: int
    track: int = 0
    channel: int = 0
    others: tuple[int, ...] = ()

    @property
    def silent(self) -> bool:
        """Whether no 25 ms of it are as loud as −60 dB of full scale."""
        return bool(silent_columns(self.samples, self.first).all())


def read_heard(path: Path, audio: Path | None = None, *, channel: int | None = None, **given: Any) -> Sound:
    """Read the sound of a clip as `read_sound` does, of the channel that carries it.

    channel: None: the usual channel, unless it is silent throughout the clip and another one is not: then the first
        that is not, a surround subwoofer left aside.
    """
    usual = read_sound(path, audio, channel=channel, **given)
    if channel is None and usual.others and usual.silent:
        read = (read_sound(path, audio, channel=other, **given) for other in usual.others)
        return next((heard for heard in read if not heard.silent), usual)
    return usual


def read_sound(
    video: Path,
    audio: Path | None = None,
    *,
    start: float | None = None,
    duration: float | None = None,
    before: int = 0,
    after: int = 0,
    shift: float = 0.0,
    max_seconds: float = math.inf,
    track: int | None = None,
    channel: int | None = None,
) -> Sound:
    """Read the sound of a clip on the clock of its pictures.

    video: the file whose first picture is zero; its pictures are counted by their time stamps, not decoded, unless
        the file is damaged.
    audio: the file that holds the sound, if another. As ffmpeg does, both files' clocks then start at their own start.
    start, duration: the clip's span in seconds; None means the whole file.
    before, after: samples wanted outside the clip's span, where the source has them.
    shift: seconds by which the sound is moved later.
    max_seconds: longest clip; it bounds the memory that the sound takes.
    track, channel: those to read, from 0; see `avprep.media.audio_stream` and `avprep.pcm.Pieces` for which None is.
    Raises Reject: `missing`, `unreadable`, `no_video`, `no_audio`, `too_short`, `too_long`.
    """
    begin = seconds(start)
    pictures, pieces = _PictureTimes(), Pieces(audio or video, channel)
    moved = seconds(shift)
    with open_file(video) as container:
        stream = video_stream(container)
        if stream is None:
            raise Reject("no_video", f"{video}: holds no picture to count frames by")
        if duration is None and (container.duration or 0) / av.time_base > max_seconds + 1:
            raise too_long(video, max_seconds)
        sound = audio_stream(container, track) if audio is None else None
        if audio is None and sound is None:
            raise Reject("no_audio", f"{video}: holds no sound")
        number = track_number(container, sound) if sound else 0
        _read(container, stream, sound, pictures, pieces, begin, duration, moved)
        own_start = container_start(container)
    zero, n_frames = pictures.clock(video, begin, duration, max_seconds)
    if audio is not None:
        zero -= own_start
        with open_file(audio) as container:
            sound = audio_stream(container, track)
            if sound is None:
                raise Reject("no_audio", f"{audio}: holds no sound")
            number = track_number(container, sound)
            zero += container_start(container)
            _read_sound(container, sound, pieces, zero + begin - moved, Fraction(n_frames, FPS))
    last = n_frames * SAMPLE_RATE // FPS + after
    samples, first = pieces.resampled(zero + begin - moved, -before, last)
    if not samples.size:
        raise Reject("no_audio", f"{audio or video}: holds no sound in the clip's span")
    return _sound(pieces, samples, first, n_frames, number)


class SoundFile:
    """The sound of a file of any length on a clock of its own: frame 0 begins with its first sample.

    track, channel: those to read, from 0. None: the default track; the usual channel, unless it is silent from end to
        end and another one is not, as `read_heard` has it.
    max_seconds: longest file that is taken.

    `scan` decodes it once to learn `zero` (time stamp of the first sample), `n_frames` (25-fps frames that it lasts,
    to the nearest, at least 1), `rate`, `channels`, `decode_errors`, and the `track` and `channel` that are read.
    Memory does not grow with the file's length. Both ways of reading raise Reject: `missing`, `unreadable`,
    `no_audio`, `too_long`.
    """

    def __init__(
        self, path: Path, *, track: int | None = None, channel: int | None = None, max_seconds: float = math.inf
    ) -> None:
        self.path = path
        self.track, self.channel = track, channel
        self.max_seconds = max_seconds
        self.zero = Fraction(0)
        self.n_frames = self.rate = self.channels = self.decode_errors = 0
        self._wanted = channel

    def scan(self) -> None:
        """Decode the whole file and let go of it; settle which channel is read, for all of it."""
        found: Pieces | None = None
        for line, found in self._lines():
            line.forget(line.end)
            if line.end > self.max_seconds * found.rate:
                raise too_long(self.path, self.max_seconds)
            self.n_frames = max(1, round(Fraction(line.end * FPS, found.rate)))
        if found is None:
            raise Reject("no_audio", f"{self.path}: holds no sound")
        self.rate, self.channels, self.decode_errors = found.rate, found.channels, found.decode_errors
        self.channel = found.channel
        if self._wanted is None and found.others and self._silent():
            for self._wanted in found.others:
                if not self._silent():
                    self.channel = self._wanted
                    return
            self._wanted = None

    def _silent(self) -> bool:
        """Whether the channel that is read is silent from end to end; of most files a first look tells."""
        return all(part.silent for part in self.stretches(LOOK))

    def stretches(self, n_frames: int, *, before: int = 0, after: int = 0) -> Iterator[Sound]:
        """Yield the sound of so many frames after another, the last of them shorter; all have been scanned before.

        before, after: samples wanted outside a stretch's span, where the file has them.
        """
        assert self.n_frames, "scan first"
        first = 0
        step = SAMPLE_RATE // FPS
        lines = self._lines()
        ended = False
        while first < self.n_frames:
            count = min(n_frames, self.n_frames - first)
            low, high = first * step - before, (first + count) * step + after
            while not ended:
                line, pieces = next(lines, (None, None))
                if line is None or pieces is None:
                    ended = True
                    break
                held, counts = line, pieces
                if line.end >= source_range(line.rate, low, high)[1]:
                    break
            samples, begin = held.resampled(low, high)
            yield _sound(counts, samples, begin - first * step, count, self.track or 0)
            first += count
            held.forget(source_range(held.rate, first * step - before, high)[0])

    def _lines(self) -> Iterator[tuple[Line, Pieces]]:
        """Yield the growing line of samples after each packet that adds to it."""
        pieces, line = Pieces(self.path, self._wanted), None
        with open_file(self.path) as container:
            stream = audio_stream(container, self.track)
            if stream is None:
                raise Reject("no_audio", f"{self.path}: holds no sound")
            self.track = track_number(container, stream)
            for packet in packets(container, stream):
                pieces.add(packet, -math.inf)
                for time, piece in pieces.taken():
                    if line is None:
                        self.zero = (time or 0) * pieces.clock
                        line = Line(pieces.rate, 0, sys.maxsize)
                    position = None if time is None else sample_at(time, pieces.clock, self.zero, pieces.rate)
                    if position is not None and position - line.end > MOST_SILENCE * pieces.rate:
                        gap = (position - line.end) / pieces.rate
                        raise Reject("unreadable", f"{self.path}: {gap:.0f} s without sound in the middle: cut it")
                    line.add(position, piece)
                    yield line, pieces


def _sound(pieces: Pieces, samples: NDArray[np.int16], first: int, n_frames: int, track: int) -> Sound:
    source = (pieces.rate, pieces.channels, pieces.decode_errors)
    return Sound(samples, first, n_frames, *source, track, pieces.channel, pieces.others)


class _PictureTimes:
    """Presentation times of pictures, read from packets without decoding them."""

    def __init__(self) -> None:
        self._tick = Fraction(1, FPS)  # s; all packets of a stream share it
        self._first_key: int | None = None
        self._ticks: list[int] = []
        self._damaged = False

    @property
    def zero(self) -> Seconds | None:
        """Time of the first picture so far."""
        return min(self._ticks) * self._tick if self._ticks else None

    def add(self, packet: av.Packet[Any], *, in_order: bool) -> None:
        """Count a packet's picture; `in_order`: packets lie in decoding order and only their order tells the time."""
        stamp = packet.dts if in_order else packet.pts
        if stamp is None or packet.is_corrupt:
            self._damaged = True
            return
        if self._first_key is None:
            if not packet.is_keyframe or packet.time_base is None:
                self._damaged = True
                return
            self._first_key, self._tick = stamp, packet.time_base
        if in_order and 1 < len(self._ticks) <= MOST_DELAY:
            first, second, *_ = self._ticks
            if stamp - self._ticks[-1] != second - first:
                self._damaged = True  # a hole so early: the decoder's delay decides where the first picture lies
        # Pictures that lead the first key frame cannot be decoded, those that an edit list hides are not shown.
        if stamp >= self._first_key and not packet.is_discard:
            self._ticks.append(stamp)

    def clock(self, path: Path, start: Seconds, duration: float | None, max_seconds: float) -> tuple[Seconds, int]:
        """Return the first picture's time and the clip's number of frames, decoding where packets do not tell."""
        if self._damaged or not self._ticks:
            frames = Frames(path, start=float(start), duration=duration, max_seconds=max_seconds, keep_bytes=0)
            for _ in frames:
                pass
            return frames.zero, frames.n_frames
        zero = min(self._ticks)
        count = FrameCount(start, duration, self._tick)
        for stamp in self._ticks:
            count.add(stamp - zero)
        n_frames = count.total()
        if n_frames < 1:
            raise Reject("too_short", f"{path}: ends before the clip's start at {float(start):.2f} s")
        if n_frames > max_seconds * FPS:
            raise too_long(path, max_seconds)
        return zero * self._tick, n_frames


def _read(
    container: av.container.InputContainer,
    video: av.VideoStream,
    audio: av.AudioStream | None,
    pictures: _PictureTimes,
    pieces: Pieces,
    start: Seconds,
    duration: float | None,
    shift: Seconds,
) -> None:
    """Read the packets around a clip's span, pictures by their times only, sound decoded."""
    in_order = not has_presentation_times(container)
    if start > SEEK_BEYOND:
        for n, packet in enumerate(packets(container, video)):  # the file's first picture, not the span's, is zero
            pictures.add(packet, in_order=in_order)
            if n > 2 * MOST_DELAY or (pictures.zero is not None and _beyond(packet, pictures.zero + 1)):
                break
        if pictures.zero is not None:
            seek(container, video, pictures.zero + start - max(shift, Fraction(0)) - LEAD - 1)
    earliest = container_start(container) if pictures.zero is None else pictures.zero
    low = earliest + start - shift - LEAD
    streams = [stream for stream in (video, audio) if stream is not None]
    unfinished = set(streams)
    high: Seconds | float = math.inf
    for packet in packets(container, *streams):
        stream = packet.stream
        if duration is not None and high == math.inf and (zero := pictures.zero) is not None:
            high = zero + start + seconds(duration) - min(shift, Fraction(0)) + TAIL
        if _beyond(packet, high):
            unfinished.discard(stream)
            if not unfinished:
                break
        elif stream is audio:
            pieces.add(packet, low)
        elif packet.size:
            pictures.add(packet, in_order=in_order)


def _read_sound(
    container: av.container.InputContainer, audio: av.AudioStream, pieces: Pieces, begin: Seconds, length: Seconds
) -> None:
    """Read the sound around a span of a file that holds nothing else of interest."""
    if begin - container_start(container) > SEEK_BEYOND:
        seek(container, audio, begin - LEAD - 1)
    for packet in packets(container, audio):
        if _beyond(packet, begin + length + TAIL):
            break
        pieces.add(packet, begin - LEAD)


def _beyond(packet: av.Packet[Any], time: Seconds | float) -> bool:
    if time == math.inf or packet.dts is None or packet.time_base is None:
        return False
    return packet.dts * float(packet.time_base) > time


def container_start(container: av.container.InputContainer) -> Seconds:
    """Return where a file's own clock starts, in seconds."""
    return Fraction(container.start_time or 0, av.time_base)
