"""Pictures at 25 fps and sound at 16 kHz, both by presentation time, decoded in process with PyAV.

Zero of a clip's clock is the file's first picture plus the clip's `start`. Files from strangers are hostile: decoders
get no network, no playlists and no second file to open.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.container
import av.error
import av.filter
import av.stream
import numpy as np
from numpy.typing import NDArray

from avprep.errors import Reject
from avprep.schema import FPS, SAMPLE_RATE

FORMATS = (
    "aac,ac3,aiff,asf,avi,flac,flv,h264,hevc,ivf,m4v,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpeg,mpegts,mpegvideo,"
    "mxf,nut,ogg,rm,vob,wav,w64,gxf,dv"
)
"""Demuxers that read one file and nothing else. Playlists (hls, dash, concat), scripts and image sequences are not
among them."""
MAX_PIXELS = 8192 * 8192
"""Larger pictures are refused before memory is taken for them (pixels)."""
SEEK_BEYOND = 20.0
"""Clips that start later than this into a file are reached by seeking (s)."""
GAP = Fraction(5, 1000)
"""Sound whose time stamp is off by more than this is moved there; less is the container's rounding (s)."""

Seconds = Fraction
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Probe:
    """What a file says of itself; counts are the container's claims, not decoded truth.

    video, audio: codec names, None where there is no such stream.
    width, height: pixels as stored, before rotation.
    fps: average frames a second; sample_rate in Hz; duration in seconds; None where the file does not say.
    """

    container: str
    duration: float | None
    video: str | None
    width: int | None
    height: int | None
    fps: float | None
    audio: str | None
    sample_rate: int | None
    channels: int | None


def probe(path: Path) -> Probe:
    """Read a file's headers; Reject(`missing` or `unreadable`) where that fails."""
    with _open(path) as container:
        video, audio = _video_stream(container), _audio_stream(container)
        picture = None if video is None else video.codec_context
        sound = None if audio is None else audio.codec_context
        rate = None if video is None else video.average_rate
        return Probe(
            container=container.format.name,
            duration=None if container.duration is None else container.duration / av.time_base,
            video=picture.name if picture else None,
            width=picture.width if picture else None,
            height=picture.height if picture else None,
            fps=float(rate) if rate else None,
            audio=sound.name if sound else None,
            sample_rate=sound.sample_rate if sound else None,
            channels=sound.channels if sound else None,
        )


class Picture:
    """One decoded frame, converted only as far as it is asked for. Upright: the display matrix is applied."""

    def __init__(self, frame: av.VideoFrame, turns: int) -> None:
        self._frame = frame
        self._turns = turns

    @property
    def nbytes(self) -> int:
        """Memory that the decoded frame holds, in bytes (an estimate from its planes)."""
        return sum(plane.buffer_size for plane in self._frame.planes)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, upright."""
        width, height = self._frame.width, self._frame.height
        return (height, width) if self._turns % 2 else (width, height)

    def rgb(self) -> Bytes:
        """Return uint8 (H, W, 3), RGB."""
        return self._upright(self._frame.to_ndarray(format="rgb24"))

    def small(self, side: int) -> Bytes:
        """Return uint8 (h, w, 3), RGB, downscaled so that the longer side is `side` at most."""
        scale = side / max(self._frame.width, self._frame.height)
        if scale >= 1:
            return self.rgb()
        width, height = (max(1, round(length * scale)) for length in (self._frame.width, self._frame.height))
        small = self._frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA")
        return self._upright(small.to_ndarray())

    def thumbnail(self) -> NDArray[np.int16]:
        """Return about 24×32 luma samples of the picture as stored, int16, for telling a cut from a movement."""
        if self._frame.format.name in ("yuv420p", "yuvj420p", "yuv422p", "yuv444p", "nv12", "gray"):
            plane = self._frame.planes[0]
            rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
            luma: NDArray[Any] = rows[:, : plane.width]
        else:
            luma = self._frame.to_ndarray(format="gray")
        down, across = max(1, luma.shape[0] // 24), max(1, luma.shape[1] // 32)
        return luma[down // 2 :: down, across // 2 :: across].astype(np.int16)

    def _upright(self, image: NDArray[Any]) -> Bytes:
        return np.ascontiguousarray(np.rot90(image, self._turns), dtype=np.uint8)


class FrameCount:
    """How many 25-fps frames a stretch of pictures makes, from presentation times alone.

    The last picture is held as long as the median picture, so 75 pictures at 25 fps make 75 frames, and 60 at
    29.97 fps (2.002 s) make 50.
    """

    def __init__(self, start: Seconds, duration: float | None) -> None:
        self.start = start
        self.wanted = None if duration is None else max(1, round(duration * FPS))
        self._times: list[Seconds] = []

    def add(self, time: Seconds) -> None:
        """Count a picture shown at `time`, in seconds after the file's first."""
        self._times.append(time)

    @property
    def past_the_end(self) -> bool:
        """Whether the last picture counted is beyond what the clip wants."""
        return self.wanted is not None and self._times[-1] >= self.start + Fraction(self.wanted + 1, FPS)

    def total(self) -> int:
        """Return the number of frames between the clip's start and its end or the last picture's."""
        times = sorted(self._times)
        gaps = [after - before for before, after in itertools.pairwise(times)]
        hold = statistics.median(gaps) if gaps else Fraction(1, FPS)
        available = math.floor((times[-1] + hold - self.start) * FPS + Fraction(1, 2)) if times else 0
        available = max(available, 1) if times and self.start <= times[-1] else max(available, 0)
        return available if self.wanted is None else min(available, self.wanted)


class Frames:
    """The pictures of one clip at 25 fps; iterate as often as needed.

    Yields one `Picture` a frame, the one whose presentation time is nearest (the same object again where the source
    is slower). The pictures are kept for the next iteration while they fit into `keep_bytes`, otherwise decoded anew.

    After a full iteration `zero` (time stamp of the file's first picture), `n_frames`, `source_frames` (pictures
    seen), `decode_errors` (damaged packets that were passed over, as ffmpeg does) and `interlaced` are set.

    Iterating raises Reject: `missing`, `unreadable`,
    `no_video`, `too_short` (nothing to show in the clip's span), `too_long`.
    """

    def __init__(
        self,
        path: Path,
        *,
        start: float | None = None,
        duration: float | None = None,
        max_seconds: float = math.inf,
        keep_bytes: int = 256 << 20,
        threads: int = 1,
    ) -> None:
        self.path = path
        self.start = _seconds(start)
        self.duration = duration
        self.max_seconds = max_seconds
        self.keep_bytes = keep_bytes
        self.threads = threads
        self.zero = Fraction(0)
        self.n_frames = 0
        self.source_frames = 0
        self.decode_errors = 0
        self.interlaced = False
        self._kept: list[Picture] | None = None

    def __iter__(self) -> Iterator[Picture]:
        """Yield the picture of each frame."""
        if self._kept is not None:
            yield from self._kept
            return
        keep: list[Picture] | None = []
        room = self.keep_bytes
        for picture in self._nearest():
            if keep is not None:
                room -= 0 if keep and picture is keep[-1] else picture.nbytes
                keep.append(picture)
                keep = keep if room >= 0 else None
            yield picture
        self._kept = keep

    def _nearest(self) -> Iterator[Picture]:
        """Choose the nearest picture of each instant, holding two at a time."""
        count = FrameCount(self.start, self.duration)
        shown: tuple[Seconds, Picture] | None = None
        emitted = 0
        self.source_frames = 0
        for time, picture in self._pictures():
            self.source_frames += 1
            count.add(time)
            if shown is not None:
                # Instants up to half way between two pictures belong to the earlier one.
                half_way = (shown[0] + time) / 2
                while emitted != count.wanted and self.start + Fraction(emitted, FPS) <= half_way:
                    yield shown[1]
                    emitted += 1
            shown = (time, picture)
            if emitted > self.max_seconds * FPS:
                raise _too_long(self.path, self.max_seconds)
            if emitted == count.wanted or count.past_the_end:
                break
        if shown is None:
            raise Reject("unreadable", f"{self.path}: no picture could be decoded")
        self.n_frames = count.total()
        if self.n_frames < 1:
            raise Reject("too_short", f"{self.path}: ends before the clip's start at {float(self.start):.2f} s")
        for _ in range(emitted, self.n_frames):
            yield shown[1]

    def _pictures(self) -> Iterator[tuple[Seconds, Picture]]:
        """Yield (seconds after the file's first picture, picture) from before the clip's start on, in order."""
        self.decode_errors = 0
        with _open(self.path) as container:
            stream = _video_stream(container)
            if stream is None:
                raise Reject("no_video", f"{self.path}: holds no picture")
            if self.duration is None and (container.duration or 0) / av.time_base > self.max_seconds + 1:
                raise _too_long(self.path, self.max_seconds)
            stream.codec_context.thread_count = self.threads
            frames = self._decoded(container, stream)
            if self.start > SEEK_BEYOND:
                frames = self._sought(container, stream, frames)
            zero = last = None
            for time, frame in frames:
                if zero is None:
                    self.zero = zero = time
                if last is None or time > last:  # a broken file may run backwards
                    yield time - zero, Picture(frame, _quarter_turns(frame))
                    last = time

    def _decoded(
        self, container: av.container.InputContainer, stream: av.VideoStream
    ) -> Iterator[tuple[Seconds, av.VideoFrame]]:
        """Decode from where the container stands, passing over damaged packets."""
        step = 1 / Fraction(stream.average_rate) if stream.average_rate else Fraction(1, FPS)
        time = None
        deinterlacer = None
        for packet in _packets(container, stream):
            try:
                frames: list[av.VideoFrame] = packet.decode()
            except av.error.FFmpegError:
                self.decode_errors += 1
                continue
            for frame in frames:
                if deinterlacer is None and frame.interlaced_frame:
                    self.interlaced = True
                    deinterlacer = _Deinterlacer(stream)
                for whole in (frame,) if deinterlacer is None else deinterlacer.push(frame):
                    time = _frame_time(whole, default=Fraction(0) if time is None else time + step)
                    yield time, whole
        for whole in deinterlacer.push(None) if deinterlacer else ():
            yield _frame_time(whole, default=Fraction(0) if time is None else time + step), whole

    def _sought(
        self,
        container: av.container.InputContainer,
        stream: av.VideoStream,
        frames: Iterator[tuple[Seconds, av.VideoFrame]],
    ) -> Iterator[tuple[Seconds, av.VideoFrame]]:
        """Yield the file's first picture, which sets the clock, and then those from before the clip's start on."""
        first = next(frames, None)
        if first is None or stream.time_base is None:
            return
        yield first
        target = first[0] + self.start
        for back in (2, 10, 60):  # a decoder needs a key frame before the start, however far back it lies
            if back > self.start:
                break
            container.seek(int((target - back) / stream.time_base), stream=stream, backward=True)
            stream.codec_context.flush_buffers()
            frames = self._decoded(container, stream)
            landed = next(frames, None)
            if landed is not None and landed[0] <= target:
                yield landed
                yield from frames
                return
        container.seek(0)
        stream.codec_context.flush_buffers()
        yield from self._decoded(container, stream)


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
    begin = _seconds(start)
    pictures, pieces = _PictureTimes(), _Pieces()
    with _open(video) as container:
        stream = _video_stream(container)
        if stream is None:
            raise Reject("no_video", f"{video}: holds no picture to count frames by")
        if duration is None and (container.duration or 0) / av.time_base > max_seconds + 1:
            raise _too_long(video, max_seconds)
        sound = _audio_stream(container) if audio is None else None
        if audio is None and sound is None:
            raise Reject("no_audio", f"{video}: holds no sound")
        _read(container, stream, sound, pictures, pieces, begin, duration)
        own_start = _container_start(container)
    zero, n_frames = pictures.clock(video, begin, duration, max_seconds)
    if audio is not None:
        zero -= own_start
        with _open(audio) as container:
            sound = _audio_stream(container)
            if sound is None:
                raise Reject("no_audio", f"{audio}: holds no sound")
            _read(container, None, sound, pictures, pieces, begin, duration)
            zero += _container_start(container)
    last = n_frames * SAMPLE_RATE // FPS + after
    samples, first = pieces.resampled(zero + begin - _seconds(shift), -before, last)
    if not samples.size:
        raise Reject("no_audio", f"{audio or video}: holds no sound in the clip's span")
    return Sound(samples, first, n_frames, pieces.rate, pieces.channels, pieces.decode_errors)


class _PictureTimes:
    """Presentation times of pictures, read from packets without decoding them."""

    def __init__(self) -> None:
        self._first_key: Seconds | None = None
        self._times: list[Seconds] = []
        self._damaged = False

    def add(self, packet: av.Packet[Any]) -> None:
        if packet.pts is None or packet.time_base is None or packet.is_corrupt:
            self._damaged = True
            return
        time = packet.pts * packet.time_base
        if self._first_key is None:
            if not packet.is_keyframe:
                self._damaged = True
                return
            self._first_key = time
        # Pictures that lead the first key frame cannot be decoded, those that an edit list hides are not shown.
        if time >= self._first_key and not packet.is_discard:
            self._times.append(time)

    @property
    def zero(self) -> Seconds | None:
        """Time of the first picture so far."""
        return min(self._times, default=None)

    def clock(self, path: Path, start: Seconds, duration: float | None, max_seconds: float) -> tuple[Seconds, int]:
        """Return the first picture's time and the clip's number of frames, decoding where packets do not tell."""
        if self._damaged or not self._times:
            frames = Frames(path, start=float(start), duration=duration, max_seconds=max_seconds, keep_bytes=0)
            for _ in frames:
                pass
            return frames.zero, frames.n_frames
        count = FrameCount(start, duration)
        zero = min(self._times)
        for time in self._times:
            count.add(time - zero)
        n_frames = count.total()
        if n_frames < 1:
            raise Reject("too_short", f"{path}: ends before the clip's start at {float(start):.2f} s")
        if n_frames > max_seconds * FPS:
            raise _too_long(path, max_seconds)
        return zero, n_frames


class _Pieces:
    """Channel 0 as it is decoded: int16 pieces with their presentation times."""

    def __init__(self) -> None:
        self.rate = 0
        self.channels = 0
        self.decode_errors = 0
        self._pieces: list[tuple[Seconds | None, NDArray[np.int16]]] = []

    def add(self, packet: av.Packet[Any], low: Seconds, high: Seconds | float) -> None:
        """Decode a packet; keep what lies between two times."""
        try:
            frames: list[Any] = packet.decode()
        except av.error.FFmpegError:
            self.decode_errors += 1
            return
        for frame in frames:
            time = None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base
            if time is not None and not low <= time <= high:
                continue
            if self.rate not in (0, frame.sample_rate):
                raise Reject("unreadable", f"the sample rate changes midway from {self.rate} to {frame.sample_rate} Hz")
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
        samples = _resample(line, self.rate)
        first = round(Fraction(begin * SAMPLE_RATE, self.rate))
        cut = max(0, low - first)
        return samples[cut : max(cut, high - first)], first + cut

    def _laid_out(self, zero: Seconds, low: int, high: int) -> tuple[NDArray[np.int16], int]:
        """Return the samples between two positions at the source's rate, silence in gaps, and the first's position."""
        parts: list[NDArray[np.int16]] = []
        begin = end = None
        for time, piece in self._pieces:
            position = end if time is None else round((time - zero) * self.rate)
            if position is None:
                position = low  # no time stamp at all: the sound starts where the reading does
            if end is not None and abs(position - end) <= GAP * self.rate:
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
    video: av.VideoStream | None,
    audio: av.AudioStream | None,
    pictures: _PictureTimes,
    pieces: _Pieces,
    start: Seconds,
    duration: float | None,
) -> None:
    """Read the packets around a clip's span, pictures by their times only, sound decoded."""
    streams = [stream for stream in (video, audio) if stream is not None]
    base = _container_start(container)
    if start > SEEK_BEYOND:
        if video is not None:  # the clock's zero is the first picture of the file, not of the span
            for n, packet in enumerate(_packets(container, video)):
                pictures.add(packet)
                if n == 32:
                    break
        base = pictures.zero if video is not None and pictures.zero is not None else base
        lead = streams[0]
        assert lead.time_base is not None
        container.seek(int((base + start - 2) / lead.time_base), stream=lead, backward=True)
    low = base + start - 1
    high = math.inf if duration is None else base + start + _seconds(duration) + 2
    unfinished = set(streams)
    for packet in _packets(container, *streams):
        stream = packet.stream
        if packet.dts is not None and packet.time_base is not None and packet.dts * packet.time_base > high:
            unfinished.discard(stream)
            if not unfinished:
                break
        elif stream is video:
            if packet.size:
                pictures.add(packet)
        else:
            pieces.add(packet, low, high)


class _Deinterlacer:
    """Turns interlaced pictures into whole ones, one for one, with libavfilter's bwdif."""

    def __init__(self, stream: av.VideoStream) -> None:
        self._graph = av.filter.Graph()
        self._graph.link_nodes(
            self._graph.add_buffer(template=stream),
            self._graph.add("bwdif", "mode=send_frame:deint=interlaced"),
            self._graph.add("buffersink"),
        ).configure()

    def push(self, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
        """Yield the pictures that are ready; None flushes."""
        self._graph.push(frame)
        while True:
            try:
                ready = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            assert isinstance(ready, av.VideoFrame)
            yield ready


@contextmanager
def _open(path: Path) -> Iterator[av.container.InputContainer]:
    """Open one local file for reading; Reject(`missing`, `unreadable`) in one line."""
    if not path.exists():
        raise Reject("missing", f"{path}: no such file")
    try:
        container = av.open(
            f"file:{path}",
            container_options={"protocol_whitelist": "file", "format_whitelist": FORMATS},
            metadata_errors="replace",
        )
    except (av.error.FFmpegError, UnicodeError, ValueError) as error:
        raise Reject("unreadable", f"{path}: {getattr(error, 'strerror', None) or error}") from error
    try:
        yield container
    finally:
        container.close()


def _packets(container: av.container.InputContainer, *streams: Any) -> Iterator[av.Packet[Any]]:
    """Yield packets to the end; a file that breaks off ends there, and what came before counts."""
    packets = container.demux(*streams)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError:
            break
        yield packet
    for stream in streams:
        flush: av.Packet[Any] = av.Packet(0)
        flush.stream = stream
        yield flush


def _video_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """Return the first stream of moving pictures; cover art is none."""
    cover = av.stream.Disposition.attached_pic
    for stream in container.streams.video:
        if not stream.disposition & cover and stream.codec_context is not None:
            if stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
                raise Reject("unreadable", f"{container.name}: the picture is larger than {MAX_PIXELS} pixels")
            return stream
    return None


def _audio_stream(container: av.container.InputContainer) -> av.AudioStream | None:
    for stream in container.streams.audio:
        if stream.codec_context is not None:
            return stream
    return None


def _container_start(container: av.container.InputContainer) -> Seconds:
    return Fraction(container.start_time or 0, av.time_base)


def _frame_time(frame: av.VideoFrame, *, default: Seconds) -> Seconds:
    stamp = frame.pts if frame.pts is not None else frame.dts
    return default if stamp is None or frame.time_base is None else stamp * frame.time_base


def _quarter_turns(frame: av.VideoFrame) -> int:
    """Return the counter-clockwise quarter turns that make a picture upright."""
    return round(frame.rotation / 90) % 4


def _channel_0(frame: av.AudioFrame) -> NDArray[np.int16]:
    """Return the first channel as int16, scaled as ffmpeg scales."""
    data: NDArray[Any] = frame.to_ndarray()
    channel = data[0] if frame.format.is_planar else data[0, :: frame.layout.nb_channels]
    if channel.dtype == np.int16:
        return channel.copy()
    if channel.dtype == np.uint8:
        return np.asarray((channel.astype(np.int16) - 128) << 8, np.int16)
    if np.issubdtype(channel.dtype, np.integer):
        return np.asarray(channel >> (8 * channel.dtype.itemsize - 16), np.int16)
    return np.clip(np.rint(channel * 32768.0), -32768, 32767).astype(np.int16)


def _resample(samples: NDArray[np.int16], rate: int) -> NDArray[np.int16]:
    """Bring int16 samples to 16 kHz with libswresample; sample 0 stays at sample 0 (its filter's delay is made up)."""
    if rate == SAMPLE_RATE or not samples.size:
        return samples
    resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE)
    parts: list[NDArray[Any]] = []
    for first in range(0, samples.size, 1 << 16):
        block = av.AudioFrame.from_ndarray(samples[None, first : first + (1 << 16)], format="s16p", layout="mono")
        block.sample_rate = rate
        parts += [part.to_ndarray()[0] for part in resampler.resample(block)]
    parts += [part.to_ndarray()[0] for part in resampler.resample(None)]
    return np.concatenate(parts) if parts else np.empty(0, np.int16)


def _seconds(value: float | None) -> Seconds:
    return Fraction(value or 0).limit_denominator(10**6)


def _too_long(path: Path, max_seconds: float) -> Reject:
    return Reject("too_long", f"{path}: longer than {max_seconds:g} s; raise --max-seconds or cut it")
