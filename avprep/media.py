"""Opening media files, and pictures at 25 fps by presentation time, decoded in process with PyAV.

Zero of a clip's clock is the file's first picture plus the clip's `start`. Files from strangers are hostile: decoders
get no network, no playlists and no second file to open.
"""

from __future__ import annotations

import itertools
import math
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
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from avprep.errors import Reject
from avprep.files import check_regular
from avprep.schema import FPS

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
    with open_file(path) as container:
        video, audio = video_stream(container), audio_stream(container)
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


# A frame's own converter is set up, threads and all, for that frame alone: ten times the cost of the conversion. These
# keep their set-up from frame to frame, one for each use.
_SCALER, _SHRINKER = VideoReformatter(), VideoReformatter()


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
        return self._upright(_SCALER.reformat(self._frame, format="rgb24", threads=1))

    def rgba(self) -> Bytes:
        """Return uint8 (H, W, 4), RGBA: OpenCV warps four channels faster than three."""
        return self._upright(_SCALER.reformat(self._frame, format="rgba", threads=1))

    def luma(self) -> Bytes:
        """Return uint8 (H, W), the luma of the picture, as decoded where that is eight bits."""
        luma = self._luma()
        return np.ascontiguousarray(np.rot90(luma, self._turns)) if self._turns else luma

    def small(self, side: int) -> Bytes:
        """Return uint8 (h, w, 3), RGB, downscaled so that the longer side is `side` at most."""
        scale = side / max(self._frame.width, self._frame.height)
        if scale >= 1:
            return self.rgb()
        width, height = (max(1, round(length * scale)) for length in (self._frame.width, self._frame.height))
        return self._upright(
            _SHRINKER.reformat(self._frame, width, height, format="rgb24", interpolation="AREA", threads=1)
        )

    def thumbnail(self) -> Bytes:
        """Return about 24×32 luma samples of the picture as stored, uint8, for telling a cut from a movement."""
        luma = self._luma()
        down, across = max(1, luma.shape[0] // 24), max(1, luma.shape[1] // 32)
        return np.ascontiguousarray(luma[down // 2 :: down, across // 2 :: across])

    def _luma(self) -> Bytes:
        if self._frame.format.name in ("yuv420p", "yuvj420p", "yuv422p", "yuv444p", "nv12", "gray"):
            plane = self._frame.planes[0]
            rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
            return rows[:, : plane.width]
        return np.asarray(_SHRINKER.reformat(self._frame, format="gray", threads=1).to_ndarray(), np.uint8)

    def _upright(self, frame: av.VideoFrame) -> Bytes:
        image: NDArray[Any] = frame.to_ndarray()
        return np.ascontiguousarray(np.rot90(image, self._turns), dtype=np.uint8)


class FrameCount:
    """How many 25-fps frames a stretch of pictures makes, from presentation times alone.

    The last picture is held as long as the median picture, so 75 pictures at 25 fps make 75 frames, and 60 at
    29.97 fps (2.002 s) make 50.

    tick: the unit of the times (s); they are whole numbers, for fractions would cost more than decoding.
    """

    def __init__(self, start: Seconds, duration: float | None, tick: Seconds) -> None:
        self.wanted = None if duration is None else max(1, round(duration * FPS))
        # Instants of frames as whole numbers of a finer unit.
        fine = math.lcm(2 * FPS, start.denominator, tick.denominator)
        self._start = start.numerator * (fine // start.denominator)
        self._frame = fine // FPS
        self._tick = tick.numerator * (fine // tick.denominator)
        self._times: list[int] = []

    def add(self, ticks: int) -> None:
        """Count a picture shown so many ticks after the file's first."""
        self._times.append(ticks * self._tick)

    def until(self, half_ticks: int) -> int:
        """Return how many frames have their instants up to a time in half ticks after the file's first picture."""
        return self._until(half_ticks * self._tick)

    def _until(self, twice: int) -> int:
        return (twice - 2 * self._start) // (2 * self._frame) + 1

    @property
    def past_the_end(self) -> bool:
        """Whether the last picture counted is beyond what the clip wants."""
        return self.wanted is not None and self._times[-1] >= self._start + (self.wanted + 1) * self._frame

    def total(self) -> int:
        """Return the number of frames between the clip's start and its end or the last picture's."""
        if not self._times:
            return 0
        start, frame = self._start, self._frame
        times = sorted(set(self._times))
        # Pictures before the clip do not count: how many of them are read depends on where seeking lands.
        gaps = sorted(after - before for before, after in itertools.pairwise(times) if after >= start)
        twice_hold = gaps[(len(gaps) - 1) // 2] + gaps[len(gaps) // 2] if gaps else 2 * frame
        available = (2 * (times[-1] - start) + twice_hold + frame) // (2 * frame)
        if gaps:  # the picture before the last is shown until half way; above 75 fps that may be the later bound
            available = max(available, self._until(times[-2] + times[-1]))
        available = max(available, int(start <= times[-1]))
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
        self.start = seconds(start)
        self.duration = duration
        self.max_seconds = max_seconds
        self.keep_bytes = keep_bytes
        self.threads = threads
        self.zero = Fraction(0)
        self.n_frames = 0
        self.source_frames = 0
        self.decode_errors = 0
        self.interlaced = False
        self._tick = Fraction(1, 2 * FPS)
        self._kept: list[Picture] | None = None

    def __iter__(self) -> Iterator[Picture]:
        """Yield the picture of each frame."""
        if self._kept is not None:
            yield from self._kept
            return
        keep: list[Picture] | None = []
        room = self.keep_bytes
        last, size, nbytes = None, (0, 0), 0
        for picture in self._nearest():
            if picture is not last:
                if last is None:
                    size, nbytes = picture.size, picture.nbytes
                elif picture.size != size:
                    change = "from {}×{} to {}×{}".format(*size, *picture.size)
                    raise Reject("unreadable", f"{self.path}: the picture's size changes midway {change}")
                room -= nbytes
                last = picture
            if keep is not None:
                keep.append(picture)
                keep = keep if room >= 0 else None
            yield picture
        self._kept = keep

    def _nearest(self) -> Iterator[Picture]:
        """Choose the nearest picture of each instant, holding two at a time."""
        count: FrameCount | None = None
        shown: Picture | None = None
        before = emitted = 0
        longest: Seconds | float = math.inf
        self.source_frames = 0
        for time, picture in self._pictures():
            self.source_frames += 1
            if count is None:
                count = FrameCount(self.start, self.duration, self._tick)
                if self.max_seconds < math.inf and count.wanted is None:
                    longest = (self.start + seconds(self.max_seconds)) / self._tick
            count.add(time)
            if time > longest:
                raise too_long(self.path, self.max_seconds)
            if shown is not None:
                # Instants up to half way between two pictures belong to the earlier one.
                until = count.until(before + time)
                for _ in range(emitted, until if count.wanted is None else min(until, count.wanted)):
                    yield shown
                    emitted += 1
            before, shown = time, picture
            if emitted > self.max_seconds * FPS:
                raise too_long(self.path, self.max_seconds)
            if emitted == count.wanted or count.past_the_end:
                break
        if shown is None or count is None:
            raise Reject("unreadable", f"{self.path}: no picture could be decoded")
        self.n_frames = count.total()
        if self.n_frames < 1:
            raise Reject("too_short", f"{self.path}: ends before the clip's start at {float(self.start):.2f} s")
        for _ in range(emitted, self.n_frames):
            yield shown

    def _pictures(self) -> Iterator[tuple[int, Picture]]:
        """Yield (ticks after the file's first picture, picture) from before the clip's start on, in order."""
        self.decode_errors = 0
        with open_file(self.path) as container:
            stream = video_stream(container)
            if stream is None:
                raise Reject("no_video", f"{self.path}: holds no picture")
            if self.duration is None and (container.duration or 0) / av.time_base > self.max_seconds + 1:
                raise too_long(self.path, self.max_seconds)
            self._ready(stream)
            # The deinterlacer's clock is twice as fine as the stream's.
            self._tick = (stream.time_base or Fraction(1, av.time_base)) / 2
            stamps = _Stamps(container, stream)
            frames = self._decoded(container, stream, stamps)
            if self.start > SEEK_BEYOND:
                frames = self._sought(container, stream, stamps, frames)
            zero = last = None
            for time, frame in frames:
                if zero is None:
                    zero = time
                    self.zero = time * self._tick
                if last is None or time > last:  # a broken file may run backwards
                    yield time - zero, Picture(frame, _quarter_turns(frame))
                    last = time

    def _ready(self, stream: av.VideoStream) -> None:
        """Set a decoder up before its first packet."""
        stream.codec_context.thread_count = self.threads
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}

    def _decoded(
        self, container: av.container.InputContainer, stream: av.VideoStream, stamps: _Stamps
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decode from where the container stands, passing over damaged packets; gives each frame its time in ticks."""
        deinterlacer = None
        for packet in packets(container, stream):
            stamps.fed(packet)
            try:
                frames: list[av.VideoFrame] = packet.decode()
            except av.error.FFmpegError:
                self.decode_errors += 1
                continue
            for frame in frames:
                stamps.stamp(frame)
                if deinterlacer is None and frame.interlaced_frame:
                    self.interlaced = True
                    deinterlacer = _Deinterlacer()
                for whole in (frame,) if deinterlacer is None else deinterlacer.push(frame):
                    yield self._ticks(whole), whole
        for whole in deinterlacer.push(None) if deinterlacer else ():
            yield self._ticks(whole), whole

    def _sought(
        self,
        container: av.container.InputContainer,
        stream: av.VideoStream,
        stamps: _Stamps,
        frames: Iterator[tuple[int, av.VideoFrame]],
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield the file's first picture, which sets the clock, and then those from before the clip's start on."""
        first = next(frames, None)
        if first is None:
            return
        yield first
        if stream.time_base is None or stream.start_time is None:  # no time stamps: frames can only be counted
            yield from frames
            return
        target = first[0] * self._tick + self.start
        for back in (2, 10, 60):  # a decoder needs a key frame before the start, however far back it lies
            if back > self.start or not seek(container, stream, target - back):
                break
            stream.codec_context.flush_buffers()
            stamps.restart()
            frames = self._decoded(container, stream, stamps)
            landed = next(frames, None)
            if landed is not None and landed[0] * self._tick <= target:
                yield landed
                yield from frames
                return
        with open_file(self.path) as again:
            anew = video_stream(again)
            assert anew is not None
            self._ready(anew)
            yield from self._decoded(again, anew, _Stamps(again, anew))

    def _ticks(self, frame: av.VideoFrame) -> int:
        """Return a stamped picture's time in ticks, to the nearest."""
        assert frame.pts is not None
        clock, tick = frame.time_base, self._tick
        assert clock is not None
        one = clock.denominator * tick.numerator
        whole, rest = divmod(frame.pts * clock.numerator * tick.denominator, one)
        return whole + (2 * rest >= one)


class _Stamps:
    """Gives decoded pictures of one stream their time stamps, also where the file has none for them."""

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream) -> None:
        self._shown = has_presentation_times(container)
        self._step = 1 / Fraction(stream.average_rate) if stream.average_rate else Fraction(1, FPS)
        self._lag: int | None = None
        self.restart()

    def restart(self) -> None:
        """Begin anew after seeking; the decoder's delay stays what it was."""
        self._first_packet: int | None = None
        self._shortest: int | None = None
        self._last: int | None = None

    def fed(self, packet: av.Packet[Any]) -> None:
        """Note a packet that goes into the decoder."""
        if self._first_packet is None:
            self._first_packet = packet.dts

    def stamp(self, frame: av.VideoFrame) -> None:
        """Set the picture's `pts` and `time_base`; one without a stamp follows the last by the shortest gap so far."""
        stamp = frame.pts if frame.pts is not None and self._shown else frame.dts
        if not self._shown and stamp is not None:
            # The decoder stamps a picture with the packet that set it free: late by its delay.
            if self._lag is None:
                self._lag = stamp - (self._first_packet or 0)
            stamp -= self._lag
        clock = frame.time_base or Fraction(1, av.time_base)
        if stamp is None:
            stamp = 0 if self._last is None else self._last + (self._shortest or round(self._step / clock))
        elif self._last is not None and stamp > self._last:
            gap = stamp - self._last
            self._shortest = gap if self._shortest is None else min(self._shortest, gap)
        frame.pts, frame.time_base = stamp, clock
        self._last = stamp


class _Deinterlacer:
    """Turns interlaced pictures into whole ones, one for one, with libavfilter's bwdif."""

    def __init__(self) -> None:
        self._graph: av.filter.Graph | None = None
        self._form: tuple[int, int, str, Fraction] | None = None

    def push(self, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
        """Yield the pictures that are ready; None flushes."""
        if frame is not None:
            assert frame.time_base is not None
            form = (frame.width, frame.height, frame.format.name, frame.time_base)
            if form != self._form:  # a filter is built for one size and format
                yield from self._pushed(None)
                self._graph, self._form = _bwdif(*form), form
        yield from self._pushed(frame)

    def _pushed(self, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
        if self._graph is None:
            return
        self._graph.push(frame)
        while True:
            try:
                ready = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            assert isinstance(ready, av.VideoFrame)
            yield ready


def _bwdif(width: int, height: int, pixels: str, clock: Fraction) -> av.filter.Graph:
    graph = av.filter.Graph()
    graph.threads = 1  # workers share the cores among them
    graph.link_nodes(
        graph.add_buffer(width=width, height=height, format=av.VideoFormat(pixels), time_base=clock),
        graph.add("bwdif", "mode=send_frame:deint=interlaced"),
        graph.add("buffersink"),
    ).configure()
    return graph


@contextmanager
def open_file(path: Path) -> Iterator[av.container.InputContainer]:
    """Open one local file for reading; Reject(`missing`, `unreadable`) in one line."""
    try:
        check_regular(path)
    except FileNotFoundError as error:
        raise Reject("missing", f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise Reject("unreadable", f"{path}: {getattr(error, 'strerror', None) or error}") from error
    try:
        container = av.open(
            f"file:{path}",
            # The headers tell enough: without this each file's first picture is decoded twice.
            options={"max_pixels": str(MAX_PIXELS), "skip_frame": "all"},
            container_options={"protocol_whitelist": "file", "format_whitelist": FORMATS},
            metadata_errors="replace",
        )
    except (av.error.FFmpegError, UnicodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, av.error.InvalidDataError | av.error.ArgumentError):  # the latter: none of FORMATS
            reason = "no audio or video can be read from it (Invalid data found when processing input)"
        raise Reject("unreadable", f"{path}: {reason}") from error
    try:
        yield container
    finally:
        container.close()


def packets(container: av.container.InputContainer, *streams: Any) -> Iterator[av.Packet[Any]]:
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


def video_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """Return the first stream of moving pictures; cover art is none."""
    cover = av.stream.Disposition.attached_pic
    for stream in container.streams.video:
        if not stream.disposition & cover and stream.codec_context is not None:
            if stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
                raise Reject("unreadable", f"{container.name}: the picture is larger than {MAX_PIXELS} pixels")
            return stream
    return None


def audio_stream(container: av.container.InputContainer, track: int | None = None) -> av.AudioStream | None:
    """Return an audio track: the default one, the first of several, or the first where none is; None without audio.

    track: the number of another, from 0. Reject(`no_audio`) where the file has no such track, or it cannot be decoded.
    """
    every = container.streams.audio
    if track is not None:
        if track < len(every) and every[track].codec_context is not None:
            return every[track]
        there = "1 audio track" if len(every) == 1 else f"{len(every)} audio tracks"
        which = "cannot be decoded" if track < len(every) else f"does not exist: the file has {there}, from 0"
        raise Reject("no_audio", f"{container.name.removeprefix('file:')}: --audio-track {track} {which}")
    usable = [stream for stream in every if stream.codec_context is not None]
    preferred = [stream for stream in usable if stream.disposition & av.stream.Disposition.default]
    return next(iter(preferred or usable), None)


def track_number(container: av.container.InputContainer, stream: av.AudioStream) -> int:
    """Return which of a file's audio tracks a stream is, from 0."""
    return [other.index for other in container.streams.audio].index(stream.index)


def has_presentation_times(container: av.container.InputContainer) -> bool:
    """Tell whether the packets say when they are shown.

    Those of AVI lie in decoding order, one for each instant; the times that libavformat makes up for them are wrong
    for H.264.
    """
    return container.format.name != "avi"


def seek(container: av.container.InputContainer, stream: Any, time: Seconds) -> bool:
    """Go to the key frame before a time in seconds; False where the file cannot be sought in."""
    try:
        container.seek(math.floor(time / stream.time_base), stream=stream, backward=True)
    except av.error.FFmpegError:
        return False
    return True


def _quarter_turns(frame: av.VideoFrame) -> int:
    """Return the counter-clockwise quarter turns that make a picture upright."""
    return round(frame.rotation / 90) % 4


def seconds(value: float | None) -> Seconds:
    """Return a number of seconds exactly, to the microsecond; None is 0."""
    return Fraction(value or 0).limit_denominator(10**6)


def too_long(path: Path, max_seconds: float) -> Reject:
    """Return the Reject of a clip beyond the longest that is allowed."""
    return Reject("too_long", f"{path}: longer than {max_seconds:g} s; raise --max-seconds or cut it")
