"""Audio at 16 kHz on the clock of a clip's video, by presentation time, decoded in process with PyAV."""

from __future__ import annotations

import math
import os
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
from avprep.media.container import (
    SEEK_BEYOND,
    Seconds,
    audio_stream,
    broken_storage,
    container_start,
    open_file,
    seconds,
    seek,
    track_number,
)
from avprep.media.mfcc import silent_steps
from avprep.media.packets import Packets, beyond, in_ticks
from avprep.media.pcm import Line, Pieces, sampling, source_range
from avprep.media.timeline import LEAD, TAIL, UNNOTICED, PictureTimes, check_promise, too_long
from avprep.media.video import Frames
from avprep.schema import FPS, SAMPLE_RATE

LOOK = 10 * FPS
"""Frames of a `SoundFile` whose audio is held in memory at once while a channel is checked for silence."""
MAX_SILENCE = 600
"""Maximum gap between two packets of a `SoundFile`, which is held in memory as silence (s)."""


@dataclass(frozen=True, eq=False)
class Sound:
    """The audio of one clip.

    samples: int16 (N,), mono, 16 kHz.
    first: position of `samples[0]` in samples after the clip's first picture; negative if earlier audio was read too.
    n_frames: number of 25-fps video frames of the clip.
    rate, channels: those of the source (Hz, count).
    decode_errors: damaged packets that were skipped.
    promised: seconds that the file's header promises in the clip's span if the file ends before that, else None.
    track, channel: the audio track and its channel that were read, from 0. others: other channels of the track that may
        carry speech.
    """

    samples: NDArray[np.int16]
    first: int
    n_frames: int
    rate: int
    channels: int
    decode_errors: int
    promised: float | None = None
    track: int = 0
    channel: int = 0
    others: tuple[int, ...] = ()

    @property
    def silent(self) -> bool:
        """Whether every 25 ms of it are below −60 dB of full scale."""
        return bool(silent_steps(self.samples, self.first).all())

    def beside(self, n_frames: int) -> NDArray[np.int16]:
        """Return the audio of `n_frames` frames from the first picture on, with silence where there is none."""
        whole = np.zeros(n_frames * SAMPLE_RATE // FPS, np.int16)
        first = max(0, self.first)
        part = self.samples[max(0, -self.first) :][: max(0, len(whole) - first)]
        whole[first : first + len(part)] = part
        return whole


def read_heard(path: Path, audio: Path | None = None, *, channel: int | None = None, **given: Any) -> Sound:
    """Read the audio of a clip as `read_sound` does, by default from a channel that is not silent if there is one.

    channel: None: the usual channel; if it is silent throughout the clip, the first other one that is not, if any,
        except a surround subwoofer.
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
    """Read the audio of a clip on the clock of its video.

    video: the file whose first picture is at time zero; its pictures are counted by their time stamps, not decoded,
        unless the file is damaged.
    audio: the file with the audio, if it is another. Then, as in ffmpeg, each file's clock begins at its own start.
    start, duration: the clip's span in seconds; None means the whole file.
    before, after: additional samples before and after the clip's span, if the source has them.
    shift: delay of the audio in seconds.
    max_seconds: maximum length of a clip; it bounds the memory for the audio.
    track, channel: which to read, from 0; None: as `avprep.media.container.audio_stream` and `avprep.media.pcm.Pieces`
        choose.
    Raises Reject: `missing`, `unreadable`, `no_video`, `no_audio`, `too_short`, `too_long`.
    """
    begin, moved = seconds(start), seconds(shift)
    pieces = Pieces(audio or video, channel)
    with open_file(video) as container:
        pictures = PictureTimes(video, container, begin, duration, max_seconds)
        sound = _audio_stream(container, video, track) if audio is None else None
        # Both at once, unless the audio has to be sought by the time of the pictures.
        together = sound is not None and begin <= SEEK_BEYOND
        _read(pictures, sound if together else None, pieces, container_start(container) + begin, moved)
        begins = None if sound is None else _begin(sound)
        number = 0 if sound is None else track_number(container, sound)
        own_start = container_start(container)
        timeline = pictures.timeline()
    zero, n_frames, promised = timeline.zero, timeline.n_frames, timeline.promised
    if not timeline.reliable:
        zero, n_frames = _decoded_length(video, start, duration, max_seconds)
    starts = zero + begin - moved
    if not together:
        with open_file(audio or video) as container:
            sound = _audio_stream(container, audio or video, track)
            number = track_number(container, sound)
            if audio is not None:
                starts += container_start(container) - own_start
            joined = audio is None and timeline.joined
            apart = _read_sound(container, sound, pieces, starts, Fraction(n_frames, FPS), joined=joined)
            promised = apart or promised
            begins = _begin(sound)
    last = n_frames * SAMPLE_RATE // FPS + after
    samples, first = pieces.resampled(starts, -before, last)
    if not samples.size:
        raise Reject("no_audio", f"{audio or video}: holds no sound in the clip's span{_elsewhere(begins, starts)}")
    until = None if promised is None else float(promised)
    return _sound(pieces, samples, first, n_frames, number, until)


def _audio_stream(container: av.container.InputContainer, path: Path, track: int | None) -> av.AudioStream:
    """Return the audio track to read; Reject(`no_audio`) if the file has none."""
    stream = audio_stream(container, track)
    if stream is None:
        raise Reject("no_audio", f"{path}: holds no sound")
    return stream


def _decoded_length(
    video: Path, start: float | None, duration: float | None, max_seconds: float
) -> tuple[Seconds, int]:
    """Decode a clip's pictures to find the time of the file's first picture (s) and the number of frames."""
    frames = Frames(video, start=start, duration=duration, max_seconds=max_seconds, keep_bytes=0)
    for _ in frames:
        pass
    return frames.zero, frames.n_frames


class SoundFile:
    """The audio of a file of any length on its own clock: frame 0 begins with the first sample.

    track, channel: which to read, from 0. None: the default track; the usual channel, unless it is silent from start to
        end and another one is not, as in `read_heard`.
    max_seconds: maximum length of a file.

    `scan` decodes the file once and sets `zero` (time stamp of the first sample), `n_frames` (its length in 25-fps
    frames, rounded, at least 1), `rate`, `channels`, `decode_errors`, `promised` (see `Sound`), and the `track` and
    `channel` that are read.
    Memory does not grow with the file's length. `scan` and `stretches` raise Reject: `missing`, `unreadable`,
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
        self.promised: Seconds | None = None
        self._wanted = channel

    def scan(self) -> None:
        """Decode the whole file without keeping it; choose the channel that is read from all of it."""
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
        """Whether the channel is silent from start to end; for most files the first stretch is enough to decide."""
        return all(part.silent for part in self.stretches(LOOK))

    def stretches(self, n_frames: int, *, before: int = 0, after: int = 0) -> Iterator[Sound]:
        """Yield the audio in stretches of `n_frames` frames, the last one shorter; the file must have been scanned.

        before, after: additional samples before and after each stretch, if the file has them.
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
        """Yield the growing `Line` of samples after each packet that extends it."""
        pieces, line = Pieces(self.path, self._wanted), None
        with open_file(self.path) as container:
            stream = _audio_stream(container, self.path, self.track)
            self.track = track_number(container, stream)
            reading = Packets(container)
            for packet in reading:
                if packet.stream.index == stream.index:
                    pieces.add(packet, -math.inf)
                for time, piece in pieces.taken():
                    if line is None:
                        self.zero = (time or 0) * pieces.clock
                        line = Line(pieces.rate, 0, sys.maxsize)
                        sample_at = sampling(pieces.clock, self.zero, pieces.rate)
                    position = None if time is None else sample_at(time)
                    if position is not None and position - line.end > MAX_SILENCE * pieces.rate:
                        gap = (position - line.end) / pieces.rate
                        raise Reject("unreadable", f"{self.path}: {gap:.0f} s without sound in the middle: cut it")
                    line.add(position, piece)
                    yield line, pieces
            self.promised = check_promise(self.path, container, reading.last, self.zero, None)
            if container.format.name == "mp3" and reading.last is not None and _counts_frames(container):
                length = Fraction(container.duration or 0, av.time_base)
                missing = container_start(container) + length - reading.last
                self.promised = length if missing > UNNOTICED else None


def _sound(
    pieces: Pieces,
    samples: NDArray[np.int16],
    first: int,
    n_frames: int,
    track: int,
    promised: float | None = None,
) -> Sound:
    source = (pieces.rate, pieces.channels, pieces.decode_errors)
    return Sound(samples, first, n_frames, *source, promised, track, pieces.channel, pieces.others)


def _read(pictures: PictureTimes, audio: av.AudioStream | None, pieces: Pieces, begin: Seconds, shift: Seconds) -> None:
    """Read the packets around a clip's span: only the times of pictures, but decoded audio.

    begin: the earliest time at which the clip can start (s), by the header.
    """
    low, limit = begin - shift - LEAD, math.inf
    heard = audio is None
    for packet in pictures.span():
        pictures.add(packet)
        if audio is not None and packet.stream.index == audio.index:
            if limit == math.inf and pictures.high != math.inf:
                limit = in_ticks(pictures.high - min(shift, Fraction(0)), audio)
            if beyond(packet, limit):
                heard = True
            else:
                pieces.add(packet, low)
        if heard and pictures.done:
            break


def _read_sound(
    container: av.container.InputContainer,
    audio: av.AudioStream,
    pieces: Pieces,
    begin: Seconds,
    length: Seconds,
    *,
    joined: bool,
) -> Seconds | None:
    """Read only the audio around a span of a file; returns as `check_promise` does.

    joined: whether time stamps are known to jump, so that they cannot be used for seeking.
    """
    far = begin - container_start(container) > SEEK_BEYOND and not joined
    if far:
        seek(container, audio, begin - LEAD - 1)
    low, limit = begin - LEAD, in_ticks(begin + length + TAIL, audio)
    reading = Packets(container, jumps=not far)
    for packet in reading:
        if packet.stream.index == audio.index:
            if beyond(packet, limit):
                break
            pieces.add(packet, low)
    return check_promise(pieces.path, container, reading.last, begin, length) if reading.ended else None


def _begin(audio: av.AudioStream) -> Seconds | None:
    """Return the time stamp at which a stream begins (s), from the header."""
    clock = audio.time_base
    return None if audio.start_time is None or not clock else audio.start_time * Fraction(clock)


def _counts_frames(container: av.container.InputContainer) -> bool:
    """Return whether an MP3 begins with the number of its frames; else libavformat guesses its length from its size.

    Programs that cut a file may leave that number as it was, so a file is not refused for it.
    """
    file = container.file.file
    try:
        head = os.pread(file.fileno(), 10, 0)
        tag = 10 + sum((byte & 127) << 7 * n for n, byte in enumerate(reversed(head[6:])))  # with a cover, megabytes
        first = os.pread(file.fileno(), 64, tag if head[:3] == b"ID3" else 0)
    except OSError as error:
        raise broken_storage(file.name, error) from error
    return b"Xing" in first or b"Info" in first


def _elsewhere(begins: Seconds | None, clip: Seconds) -> str:
    """Return a remark on how far from a clip the audio begins, for example in files with a camera's clock."""
    away = 0 if begins is None else round(begins - clip)
    return f": by its time stamps it begins {abs(away)} s {'after' if away > 0 else 'before'} it" if away else ""
