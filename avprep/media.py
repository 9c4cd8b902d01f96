"""Opening media files, and pictures at 25 fps by presentation time, decoded in process with PyAV.

Zero of a clip's clock is the file's first picture plus the clip's `start`. Files from strangers are hostile: decoders
get no network, no playlists and no second file to open.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
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

from avprep import hdr
from avprep.display import AS_STORED, Display, display, rotation_matrix
from avprep.errors import Reject
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
_METADATA: dict[str, Any] = {"metadata_errors": "replace"} if hasattr(av.container.Container, "metadata_errors") else {}
"""What makes PyAV take tags that are not UTF-8: from 19 on it always does."""
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


class _Converters(threading.local):
    """Each thread's own colour converters, one for each use; they are not safe in two threads at once.

    A frame's own converter is set up, threads and all, for that frame alone: ten times the cost of the conversion.
    These keep their set-up from frame to frame.
    """

    def __init__(self) -> None:
        self.whole, self.shrunk = VideoReformatter(), VideoReformatter()


_CONVERTERS = _Converters()


class Picture:
    """One decoded frame as a player shows it, converted only as far as it is asked for.

    The display matrix is applied, pixels are square, and HDR is brought to BT.709 where colours are asked for.
    """

    def __init__(self, frame: av.VideoFrame, display: Display = AS_STORED) -> None:
        self._frame = frame
        self._display = display

    @property
    def nbytes(self) -> int:
        """Memory that the decoded frame holds, in bytes (an estimate from its planes)."""
        return sum(plane.buffer_size for plane in self._frame.planes)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as shown."""
        return self._display.size(*self._stored)

    @property
    def hdr(self) -> str | None:
        """`pq` or `hlg` where the picture is HDR."""
        return hdr.transfer(self._frame)

    @property
    def pixel_aspect(self) -> Fraction:
        """Width of a stored pixel over its height; 1 where that is square."""
        return self._display.aspect

    def rgb(self) -> Bytes:
        """Return uint8 (H, W, 3), RGB."""
        return self._shown(self._colours(_CONVERTERS.whole, "rgb24", self._squared))

    def rgba(self) -> Bytes:
        """Return uint8 (H, W, 4), RGBA: OpenCV warps four channels faster than three."""
        return self._shown(self._colours(_CONVERTERS.whole, "rgba", self._squared))

    def source(self) -> tuple[Bytes, NDArray[np.float64] | None]:
        """Return the stored pixels, for who resamples them anyway.

        Returns uint8 (H, W, 4), RGBA, and the transform (2, 3) from pixels as shown to these; None where both are the
        same.
        """
        upright = np.ascontiguousarray(self._display.upright(self._colours(_CONVERTERS.whole, "rgba", self._stored)))
        return upright, self._display.to_source(*self._stored)

    def luma(self) -> Bytes:
        """Return uint8 (H, W), the luma of the picture, as decoded where that is eight bits."""
        if self._display is AS_STORED:
            return self._luma()
        if self._squared == self._stored:
            return self._shown(self._luma())
        converted = _CONVERTERS.shrunk.reformat(
            self._frame, *self._squared, format="gray", interpolation="BICUBIC", threads=1
        )
        return self._shown(np.asarray(converted.to_ndarray(), np.uint8))

    def small(self, side: int) -> Bytes:
        """Return uint8 (h, w, 3), RGB, downscaled so that the longer side is `side` at most."""
        squared = self._squared
        scale = side / max(squared)
        if scale >= 1:
            return self.rgb()
        size = tuple(max(1, round(length * scale)) for length in squared)
        return self._shown(self._colours(_CONVERTERS.shrunk, "rgb24", size, "AREA"))

    def thumbnail(self) -> Bytes:
        """Return about 24×32 luma samples of the picture as stored, uint8, for telling a cut from a movement."""
        luma = self._luma()
        down, across = max(1, luma.shape[0] // 24), max(1, luma.shape[1] // 32)
        return np.ascontiguousarray(luma[down // 2 :: down, across // 2 :: across])

    @property
    def _stored(self) -> tuple[int, int]:
        return self._frame.width, self._frame.height

    @property
    def _squared(self) -> tuple[int, int]:
        """Width and height with square pixels, before the picture is turned."""
        return self._display.squared(*self._stored)

    def _colours(
        self, converter: VideoReformatter, form: str, size: tuple[int, ...], interpolation: str | None = None
    ) -> Bytes:
        """Return the picture in RGB or RGBA of eight bits at a width and height, before it is turned."""
        width, height = size
        if interpolation is None and size != self._stored:
            interpolation = "BICUBIC"
        convert = partial(converter.reformat, width=width, height=height, interpolation=interpolation, threads=1)
        if hdr.needed(self._frame):
            return hdr.to_bt709(self._frame, convert, form)
        return np.asarray(convert(self._frame, format=form).to_ndarray(), np.uint8)

    def _luma(self) -> Bytes:
        if self._frame.format.name in ("yuv420p", "yuvj420p", "yuv422p", "yuv444p", "nv12", "gray"):
            plane = self._frame.planes[0]
            rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
            return rows[:, : plane.width]
        return np.asarray(_CONVERTERS.shrunk.reformat(self._frame, format="gray", threads=1).to_ndarray(), np.uint8)

    def _shown(self, image: Bytes) -> Bytes:
        return self._display.turned(image)


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
    seen), `decode_errors` (damaged packets that were passed over, as ffmpeg does), `interlaced`, and of the first
    picture `hdr` and `pixel_aspect` are set.

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
        self.hdr: str | None = None
        self.pixel_aspect = Fraction(1)
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
                    self.hdr, self.pixel_aspect = picture.hdr, picture.pixel_aspect
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
            self._tick = Fraction(stream.time_base or Fraction(1, av.time_base)) / 2
            stamps = _Stamps(container, stream)
            frames = self._decoded(container, stream, stamps)
            if self.start > SEEK_BEYOND:
                frames = self._sought(container, stream, stamps, frames)
            displays = _Displays(stream)
            zero = last = None
            for time, frame in frames:
                if zero is None:
                    zero = time
                    self.zero = time * self._tick
                if last is None or time > last:  # a broken file may run backwards
                    shown = displays.of(frame)
                    if math.prod(shown.size(frame.width, frame.height)) > MAX_PIXELS:
                        raise Reject("unreadable", f"{self.path}: the picture is shown larger than {MAX_PIXELS} pixels")
                    yield time - zero, Picture(frame, shown)
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
        if not stream.time_base or stream.start_time is None:  # no time stamps: frames can only be counted
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
        clock = Fraction(frame.time_base or Fraction(1, av.time_base))
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
        path.stat()
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
            **_METADATA,
        )
    except (av.error.FFmpegError, UnicodeError, ValueError) as error:
        raise Reject("unreadable", f"{path}: {getattr(error, 'strerror', None) or error}") from error
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


def audio_stream(container: av.container.InputContainer) -> av.AudioStream | None:
    """Return the first stream of sound."""
    for stream in container.streams.audio:
        if stream.codec_context is not None:
            return stream
    return None


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


class _Displays:
    """Tells how a player shows the pictures of a stream."""

    def __init__(self, stream: av.VideoStream) -> None:
        self._stream = stream
        self._rotation: int | None = None
        self._matrix: bytes | None = None

    def of(self, frame: av.VideoFrame) -> Display:
        """Return how a picture is shown; a file's own pixel aspect comes before its stream's, as in FFmpeg."""
        if frame.rotation != self._rotation:
            # Side data and its frame hold on to each other: to ask each frame would pile pictures up in memory.
            self._rotation, self._matrix = frame.rotation, _display_matrix(frame)
        aspect = self._stream.sample_aspect_ratio or self._stream.codec_context.sample_aspect_ratio
        return display(self._matrix, Fraction(aspect) if aspect else None)


def _display_matrix(frame: av.VideoFrame) -> bytes | None:
    """Return a frame's display matrix as FFmpeg holds it, None where it has none."""
    try:
        matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV before 19 gives up where one kind of side data is newer than itself
        return rotation_matrix(-frame.rotation)
    return None if matrix is None else bytes(matrix)


def seconds(value: float | None) -> Seconds:
    """Return a number of seconds exactly, to the microsecond; None is 0."""
    return Fraction(value or 0).limit_denominator(10**6)


def too_long(path: Path, max_seconds: float) -> Reject:
    """Return the Reject of a clip beyond the longest that is allowed."""
    return Reject("too_long", f"{path}: longer than {max_seconds:g} s; raise --max-seconds or cut it")
