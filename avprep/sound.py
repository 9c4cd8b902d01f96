"""Sound at 16 kHz on the clock of a clip's pictures, by presentation time, decoded in process with PyAV."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.container
import av.error
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
    video_stream,
)
from avprep.schema import FPS, SAMPLE_RATE

LEAD, TAIL = Fraction(1), Fraction(2)
"""Sound that is decoded before and after what a clip needs: files do not interleave exactly (s)."""
MOST_DELAY = 16
"""Pictures that a decoder holds back at most."""
GAP = Fraction(5, 1000)
"""Sound whose time stamp is off by more than this is moved there; less is the container's rounding (s)."""

_BLOCK = 8192  # samples handed to the resampler at once: small enough for the cache


@dataclass(frozen=True, eq=False)
class Sound:
    """The sound of one clip.

    samples: int16 (N,), mono, 16 kHz.
    first: position of `samples[0]` in samples after the clip's first picture; negative where sound before it was read.
    n_frames: number of 25-fps video frames of the clip.
    rate, channels: what the source holds (Hz, count).
    decode_errors: damaged packets that were passed over.
    """

    samples: NDArray[np.int16]
    first: int
    n_frames: int
    rate: int
    channels: int
    decode_errors: int


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
) -> Sound:
    """Read the sound of a clip on the clock of its pictures.

    video: the file whose first picture is zero; its pictures are counted by their time stamps, not decoded, unless
        the file is damaged.
    audio: the file that holds the sound, if another. As ffmpeg does, both files' clocks then start at their own start.
    start, duration: the clip's span in seconds; None means the whole file.
    before, after: samples wanted outside the clip's span, where the source has them.
    shift: seconds by which the sound is moved later.
    max_seconds: longest clip; it bounds the memory that the sound takes.
    Raises Reject: `missing`, `unreadable`, `no_video`, `no_audio`, `too_short`, `too_long`.
    """
    begin = seconds(start)
    pictures, pieces = _PictureTimes(), _Pieces(audio or video)
    moved = seconds(shift)
    with open_file(video) as container:
        stream = video_stream(container)
        if stream is None:
            raise Reject("no_video", f"{video}: holds no picture to count frames by")
        if duration is None and (container.duration or 0) / av.time_base > max_seconds + 1:
            raise too_long(video, max_seconds)
        sound = audio_stream(container) if audio is None else None
        if audio is None and sound is None:
            raise Reject("no_audio", f"{video}: holds no sound")
        _read(container, stream, sound, pictures, pieces, begin, duration, moved)
        own_start = _container_start(container)
    zero, n_frames = pictures.clock(video, begin, duration, max_seconds)
    if audio is not None:
        zero -= own_start
        with open_file(audio) as container:
            sound = audio_stream(container)
            if sound is None:
                raise Reject("no_audio", f"{audio}: holds no sound")
            zero += _container_start(container)
            _read_sound(container, sound, pieces, zero + begin - moved, Fraction(n_frames, FPS))
    last = n_frames * SAMPLE_RATE // FPS + after
    samples, first = pieces.resampled(zero + begin - moved, -before, last)
    if not samples.size:
        raise Reject("no_audio", f"{audio or video}: holds no sound in the clip's span")
    return Sound(samples, first, n_frames, pieces.rate, pieces.channels, pieces.decode_errors)


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
        if stamp is None or packet.time_base is None or packet.is_corrupt:
            self._damaged = True
            return
        self._tick = packet.time_base
        if self._first_key is None:
            if not packet.is_keyframe:
                self._damaged = True
                return
            self._first_key = stamp
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
        count = FrameCount(start, duration)
        for stamp in self._ticks:
            count.add((stamp - zero) * self._tick)
        n_frames = count.total()
        if n_frames < 1:
            raise Reject("too_short", f"{path}: ends before the clip's start at {float(start):.2f} s")
        if n_frames > max_seconds * FPS:
            raise too_long(path, max_seconds)
        return zero * self._tick, n_frames


class _Pieces:
    """Channel 0 as it is decoded: int16 pieces with their presentation times."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rate = 0
        self.channels = 0
        self.decode_errors = 0
        self._pieces: list[tuple[Seconds | None, NDArray[np.int16]]] = []

    def add(self, packet: av.Packet[Any], low: Seconds) -> None:
        """Decode a packet; keep what begins after a time."""
        try:
            frames: list[Any] = packet.decode()
        except av.error.FFmpegError:
            self.decode_errors += 1
            return
        for frame in frames:
            time = None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base
            if time is not None and time < low:
                continue
            if self.rate not in (0, frame.sample_rate):
                change = f"from {self.rate} to {frame.sample_rate} Hz"
                raise Reject("unreadable", f"{self.path}: the sample rate changes midway {change}")
            self.rate, self.channels = frame.sample_rate, frame.layout.nb_channels
            self._pieces.append((time, _channel_0(frame)))

    def resampled(self, zero: Seconds, low: int, high: int) -> tuple[NDArray[np.int16], int]:
        """Lay the pieces out by time and bring them to 16 kHz.

        zero: the time of sample 0.
        low, high: wanted range in 16 kHz samples.
        Returns the samples and the position of the first one.
        """
        if not self._pieces:
            return np.empty(0, np.int16), 0
        margin = self.rate // 100  # the resampler's filter reaches further than the cut
        line, begin = self._laid_out(
            zero, low * self.rate // SAMPLE_RATE - margin, high * self.rate // SAMPLE_RATE + margin
        )
        # Start where samples of both rates coincide, so that every part of a file gets the same samples.
        lead = begin % (self.rate // math.gcd(self.rate, SAMPLE_RATE))
        samples = _resample(np.pad(line, (lead, 0)), self.rate)
        first = (begin - lead) * SAMPLE_RATE // self.rate
        cut = max(low, math.ceil(Fraction(begin * SAMPLE_RATE, self.rate))) - first
        return samples[cut : max(cut, high - first)], first + cut

    def _laid_out(self, zero: Seconds, low: int, high: int) -> tuple[NDArray[np.int16], int]:
        """Return the samples between two positions at the source's rate, silence in gaps, and the first's position."""
        parts: list[NDArray[np.int16]] = []
        begin = end = None
        tolerance = math.floor(GAP * self.rate)
        for time, piece in self._pieces:
            position = end if time is None else _sample_at(time, zero, self.rate)
            if position is None:
                position = low  # no time stamp at all: the sound starts where the reading does
            if end is not None and abs(position - end) <= tolerance:
                position = end
            if end is not None and position < end:
                piece, position = piece[end - position :], end
            piece = piece[max(0, low - position) : max(0, high - position)]
            position = max(position, low)
            if not piece.size:
                continue
            if begin is None:
                begin = end = position
            assert end is not None
            if position > end:
                parts.append(np.zeros(position - end, np.int16))
            parts.append(piece)
            end = position + piece.size
        return (np.concatenate(parts), begin) if begin is not None else (np.empty(0, np.int16), 0)


def _read(
    container: av.container.InputContainer,
    video: av.VideoStream,
    audio: av.AudioStream | None,
    pictures: _PictureTimes,
    pieces: _Pieces,
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
    earliest = _container_start(container) if pictures.zero is None else pictures.zero
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
    container: av.container.InputContainer, audio: av.AudioStream, pieces: _Pieces, begin: Seconds, length: Seconds
) -> None:
    """Read the sound around a span of a file that holds nothing else of interest."""
    if begin - _container_start(container) > SEEK_BEYOND:
        seek(container, audio, begin - LEAD - 1)
    for packet in packets(container, audio):
        if _beyond(packet, begin + length + TAIL):
            break
        pieces.add(packet, begin - LEAD)


def _beyond(packet: av.Packet[Any], time: Seconds | float) -> bool:
    if time == math.inf or packet.dts is None or packet.time_base is None:
        return False
    return packet.dts * float(packet.time_base) > time


def _container_start(container: av.container.InputContainer) -> Seconds:
    return Fraction(container.start_time or 0, av.time_base)


def _sample_at(time: Seconds, zero: Seconds, rate: int) -> int:
    """Return `round((time - zero) * rate)`, in whole numbers throughout: it is asked for every packet."""
    above = (time.numerator * zero.denominator - zero.numerator * time.denominator) * rate
    below = time.denominator * zero.denominator
    whole, rest = divmod(above, below)
    return whole + (2 * rest > below or (2 * rest == below and whole % 2 == 1))


_DTYPES = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "s64": np.int64, "flt": np.float32, "dbl": np.float64}


def _channel_0(frame: av.AudioFrame) -> NDArray[np.int16]:
    """Return the first channel as int16, scaled as ffmpeg scales."""
    planar = frame.format.is_planar
    samples = np.frombuffer(memoryview(frame.planes[0]), _DTYPES[frame.format.name.removesuffix("p")])
    channels = 1 if planar else frame.layout.nb_channels
    channel: NDArray[Any] = samples[: frame.samples * channels : channels]
    if channel.dtype == np.int16:
        return channel.copy()
    if channel.dtype == np.uint8:
        return np.asarray((channel.astype(np.int16) - 128) << 8, np.int16)
    if np.issubdtype(channel.dtype, np.integer):
        return np.asarray(channel >> (8 * channel.dtype.itemsize - 16), np.int16)
    scaled = np.rint(channel * channel.dtype.type(32768))
    if not np.isfinite(scaled).all():
        scaled = np.nan_to_num(scaled)
    return np.asarray(scaled.clip(-32768, 32767), np.int16)


def _resample(samples: NDArray[np.int16], rate: int) -> NDArray[np.int16]:
    """Bring int16 samples to 16 kHz with libswresample; sample 0 stays at sample 0 (its filter's delay is made up)."""
    if rate == SAMPLE_RATE or not samples.size:
        return samples
    resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE)
    parts: list[NDArray[Any]] = []
    for first in range(0, samples.size, _BLOCK):
        block = av.AudioFrame.from_ndarray(samples[None, first : first + _BLOCK], format="s16p", layout="mono")
        block.sample_rate = rate
        parts += [part.to_ndarray()[0] for part in resampler.resample(block)]
    parts += [part.to_ndarray()[0] for part in resampler.resample(None)]
    return np.concatenate(parts) if parts else np.empty(0, np.int16)
