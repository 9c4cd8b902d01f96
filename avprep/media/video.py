"""Opening media files, and pictures at 25 fps by presentation time, decoded in process with PyAV.

Zero of a clip's clock is the file's first picture plus the clip's `start`. Files from strangers are hostile: decoders
get no network, no playlists and no second file to open.
"""

from __future__ import annotations

import bisect
import errno
import io
import itertools
import math
import os
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
import av.format
import av.stream
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from avprep.errors import Reject
from avprep.files import check_regular
from avprep.media import hdr
from avprep.media.display import AS_STORED, Display, display, rotation_matrix
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
LEAD, TAIL = Fraction(1), Fraction(2)
"""Packets that are read before and after what a clip needs: files do not interleave exactly (s)."""
MOST_DELAY = 16
"""Pictures that a decoder holds back at most."""
MOST_HELD = 12
"""Frames in a row that may show a neighbour's picture because their own is damaged."""
LEAST_FOUND = Fraction(1, 3)
"""A file that ends before this fraction of what its header promises in the clip's span is refused; see `Promise`."""
JUMP_BACK, JUMP_AHEAD = Fraction(1, 10), Fraction(10)
"""Time stamps of a broadcast that step back or ahead by more than this begin another part, as in ffmpeg (s)."""
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
    seen), `decode_errors` (damaged packets that were passed over, as ffmpeg does), `held` (frames that show a
    neighbour's picture because their own is damaged), `promised` (s, what the file's header promises in the clip's
    span, where the file ends before it, else None), `interlaced`, and of the first picture `hdr` and `pixel_aspect` are
    set.

    Iterating raises Reject: `missing`, `unreadable` (also: more than `MOST_HELD` damaged pictures in a row),
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
        self.decode_errors = self.held = 0
        self.promised: Seconds | None = None
        self.interlaced = False
        self._timeline: Timeline | None = None  # where the packets tell it
        self.hdr: str | None = None
        self.pixel_aspect = Fraction(1)
        self._tick = Fraction(1, 2 * FPS)
        self._kept: list[Picture] | None = None

    @property
    def damage(self) -> dict[str, Any]:
        """What a record of the clip says of a damaged file as JSON; nothing for one that is whole."""
        held = {"held_frames": self.held} if self.held else {}
        return held if self.promised is None else {**held, "promised_seconds": round(float(self.promised), 4)}

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
        lost = _Lost(self)
        shown: Picture | None = None
        before = emitted = 0
        limit: float = math.inf
        longest: Seconds | float = math.inf
        self.source_frames = 0
        for time, picture in self._pictures():
            self.source_frames += 1
            if count is None:
                count = FrameCount(self.start, self.duration, self._tick)
                if self._timeline is not None:
                    limit = self._timeline.n_frames
                elif count.wanted is not None:
                    limit = count.wanted
                elif self.max_seconds < math.inf:
                    longest = (self.start + seconds(self.max_seconds)) / self._tick
            count.add(time)
            if time > longest:
                raise too_long(self.path, self.max_seconds)
            lost.seen(time)
            if shown is not None:
                # Instants up to half way between two pictures belong to the earlier one.
                for _ in range(emitted, math.floor(min(count.until(before + time), limit))):
                    yield shown
                    emitted += 1
            before, shown = time, picture
            if emitted > self.max_seconds * FPS:
                raise too_long(self.path, self.max_seconds)
            if emitted == count.wanted or count.past_the_end:
                break
        if shown is None or count is None:
            raise Reject("unreadable", f"{self.path}: no picture could be decoded")
        lost.end()
        self.n_frames = count.total() if self._timeline is None else self._timeline.n_frames
        if self.n_frames < 1:
            raise Reject("too_short", f"{self.path}: ends before the clip's start at {float(self.start):.2f} s")
        for _ in range(emitted, self.n_frames):
            yield shown

    def _pictures(self) -> Iterator[tuple[int, Picture]]:
        """Yield (ticks after the file's first picture, picture) from before the clip's start on, in order."""
        self.decode_errors = 0
        timeline = read_timeline(self.path, self.start, self.duration, self.max_seconds)
        self.promised = timeline.promised
        self._timeline = timeline if timeline.told else None
        with open_file(self.path) as container:
            stream = video_stream(container)
            assert stream is not None  # for it has a timeline
            self._ready(stream)
            # The deinterlacer's clock is twice as fine as the stream's.
            self._tick = Fraction(stream.time_base or Fraction(1, av.time_base)) / 2
            stamps = _Stamps(container, stream, timeline)
            frames = self._decoded(container, stream, stamps)
            if self.start > SEEK_BEYOND and not timeline.joined:
                frames = self._sought(container, stream, stamps, frames)
            zero = int(timeline.zero / self._tick) if timeline.told else None
            furthest = (timeline.times[-1] * timeline.tick + TAIL) / self._tick if timeline.told else math.inf
            displays = _Displays(stream)
            last = None
            for time, frame in frames:
                if zero is None:
                    zero = time
                if time - zero > furthest:  # its time stamp is damaged
                    continue
                if last is None or time > last:  # a broken file may run backwards
                    self.zero = zero * self._tick
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
        for packet in packets(container, stream, jumps=stamps.timeline.joined):
            stamps.fed(packet)
            try:
                frames: list[av.VideoFrame] = packet.decode()
            except av.error.FFmpegError:
                self.decode_errors += 1
                stamps.refused()
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
            yield from self._decoded(again, anew, _Stamps(again, anew, stamps.timeline))

    def _ticks(self, frame: av.VideoFrame) -> int:
        """Return a stamped picture's time in ticks, to the nearest."""
        assert frame.pts is not None
        clock, tick = frame.time_base, self._tick
        assert clock is not None
        one = clock.denominator * tick.numerator
        whole, rest = divmod(frame.pts * clock.numerator * tick.denominator, one)
        return whole + (2 * rest >= one)


@dataclass(frozen=True, slots=True)
class Timeline:
    """When the pictures of a clip are shown: the one rule for the number of frames, the same for every column.

    It follows from the time stamps of packets, so that damage inside of them does not change it.

    zero: time stamp of the file's first picture (s). n_frames: 25-fps frames of the clip.
    tick: unit of `times` (s). times: when each picture is shown, after `zero`, ascending.
    told: whether packets tell all of this. Where they don't, decoded pictures have to be counted (`Frames` does).
    joined: whether time stamps jump, so that nothing can be sought by them.
    promised: what the file's header promises in the clip's span (s) where the file ends before it, else None.
    """

    zero: Seconds
    n_frames: int
    tick: Seconds
    times: list[int]
    told: bool
    joined: bool
    promised: Seconds | None


def read_timeline(path: Path, start: Seconds, duration: float | None, max_seconds: float) -> Timeline:
    """Read the packets around a clip's span, without decoding them.

    Raises Reject: `missing`, `unreadable`, `no_video`, `too_short`, `too_long`.
    """
    with open_file(path) as container:
        times = PictureTimes(path, container, start, duration, max_seconds)
        for packet in times.span():
            times.add(packet)
            if times.done:
                break
        return times.timeline()


class PictureTimes:
    """Collects the presentation times of a clip's pictures from the packets of a file.

    done: whether enough packets were seen. high: the time beyond which none is needed (s).
    Raises Reject(`no_video`) for a file without pictures.
    """

    def __init__(
        self,
        path: Path,
        container: av.container.InputContainer,
        start: Seconds,
        duration: float | None,
        max_seconds: float,
    ) -> None:
        self.path = path
        stream = video_stream(container)
        if stream is None:
            raise Reject("no_video", f"{path}: holds no picture to count frames by")
        self.stream: av.VideoStream = stream
        self.done = False
        self.packets = Packets(container)
        self._container = container
        self._start, self._duration, self._max_seconds = start, duration, max_seconds
        self._in_order = not has_presentation_times(container)
        self._blank_before_zero = container.format.name.startswith("matroska")
        self._tick = Fraction(stream.time_base or Fraction(1, av.time_base))
        self._first_key: int | None = None
        self._ticks: list[int] = []
        self._blank: list[int] = []
        self._damaged = False
        self.high: Seconds | float = math.inf
        self._limit = math.inf  # that in ticks
        self._beyond = 0

    @property
    def zero(self) -> Seconds | None:
        """Time of the first picture so far."""
        return min(self._ticks) * self._tick if self._ticks else None

    def span(self) -> Iterator[av.Packet[Any]]:
        """Yield the packets from the file's start, or that and what lies around a clip far behind it, to the end.

        `add` must be given each of them; what comes when it is `done` does not count.
        """
        reading = iter(self.packets)
        if self._start > SEEK_BEYOND and not may_jump(self._container):
            for n, packet in enumerate(reading):  # the file's first picture, not the span's, is zero
                yield packet
                if n > 4 * MOST_DELAY and self.zero is not None:
                    break
            if self.zero is not None and not self.packets.ended:
                seek(self._container, self.stream, self.zero + self._start - LEAD - 1)
                reading = iter(self.packets)
        yield from reading

    def add(self, packet: av.Packet[Any]) -> None:
        """Note a packet; those of other streams do not count."""
        if self.done or packet.stream.index != self.stream.index or not packet.size:
            return
        if beyond(packet, self._limit):
            self._beyond += 1  # a single one may have a damaged time stamp
            self.done = self._beyond > MOST_DELAY
            return
        self._beyond = 0
        # Packets of AVI lie in decoding order and only their order tells the time.
        stamp = packet.dts if self._in_order else packet.pts
        if stamp is None and self._blank_before_zero and not self._ticks and packet.duration and not packet.is_corrupt:
            self._blank.append(packet.duration)  # libavformat gives none to what Matroska shows before zero
            self._damaged |= len(self._blank) == 1 and not packet.is_keyframe
            return
        if stamp is None or packet.is_corrupt:
            self._damaged = True
            return
        if self._first_key is None:
            if not packet.is_keyframe and not self._blank:
                self._damaged = True
                return
            self._first_key = stamp
            ahead = self._max_seconds if self._duration is None else self._duration
            if ahead < math.inf:
                self.high = stamp * self._tick + self._start + seconds(ahead) + TAIL
                self._limit = in_ticks(self.high, self.stream)
        if self._in_order and 1 < len(self._ticks) <= MOST_DELAY:
            first, second, *_ = self._ticks
            if stamp - self._ticks[-1] != second - first:
                self._damaged = True  # a hole so early: the decoder's delay decides where the first picture lies
        # Pictures that lead the first key frame cannot be decoded, those that an edit list hides are not shown.
        if (stamp >= self._first_key or self._blank) and not packet.is_discard:
            self._ticks.append(stamp)

    def timeline(self) -> Timeline:
        """Return what the packets tell."""
        ticks = list(self._ticks)
        for step in reversed(self._blank if ticks else ()):
            ticks.append(min(ticks[-1:] if len(ticks) > len(self._ticks) else ticks) - step)
        told = bool(ticks) and not self._damaged
        zero = min(ticks) if ticks else 0
        begin = zero * self._tick + self._start
        promised = None
        if ticks and not self.done:
            span = None if self._duration is None else seconds(self._duration)
            promised = check_promise(self.path, self._container, self.packets.last, begin, span)
        count = FrameCount(self._start, self._duration, self._tick)
        for stamp in ticks:
            count.add(stamp - zero)
        n_frames = count.total()
        if told and n_frames < 1:
            raise Reject("too_short", f"{self.path}: ends before the clip's start at {float(self._start):.2f} s")
        if told and n_frames > self._max_seconds * FPS:
            raise too_long(self.path, self._max_seconds)
        times = sorted({stamp - zero for stamp in ticks})
        return Timeline(zero * self._tick, n_frames, self._tick, times, told, self.packets.joined, promised)


PROMISING = ("mov", "matroska", "avi", "asf", "wav", "w64")
"""Containers whose header says how long they are; for others libavformat guesses from the last packets."""


def check_promise(
    path: Path, container: av.container.InputContainer, found: Seconds | None, begin: Seconds, length: Seconds | None
) -> Seconds | None:
    """Compare where a file ends with what its header promises.

    found: where its last packet ends; begin, length: of the clip (s, by the file's time stamps; None: to its end).
    Returns the seconds that are promised in the clip's span where more than a tenth of a second of it is missing, else
    None. Reject(`unreadable`) where only `LEAST_FOUND` of them are there, and more than a second is missing.
    """
    if container.duration is None or not container.format.name.startswith(PROMISING):
        return None
    start, duration = container_start(container), Fraction(container.duration, av.time_base) * _cut_short(container)
    # Where a file's clock starts late, some headers count from its zero (Matroska, ASF), others from
    # its start; the earlier end is what is surely promised.
    end = duration if 0 < start < duration else start + duration
    promised = end - begin
    if length is not None:
        promised = min(promised, length)
    there = max(Fraction(0), min(promised, (begin if found is None else found) - begin))
    missing = promised - there
    if missing > 1 and there < LEAST_FOUND * promised:
        raise Reject(
            "unreadable",
            f"{path}: breaks off: of {float(promised):.1f} s that its header promises only {float(there):.1f} s are"
            " there; get a complete copy",
        )
    return promised if missing > Fraction(1, 10) else None


def _cut_short(container: av.container.InputContainer) -> Fraction:
    """Return how many times longer than it is a RIFF file (AVI, wav) promises to be; 1 for one that is whole.

    libavformat makes the duration of such a file that of what is there.
    """
    file = container.file.file
    try:
        head = os.pread(file.fileno(), 8, 0)
        size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise _broken_storage(file.name, error) from error
    promised = int.from_bytes(head[4:8], "little") + 8
    # Who cannot go back to write the size writes 0, or the largest of 31 or 32 bits, or nearly that.
    if head[:4] != b"RIFF" or promised <= size or promised >= 2**31 - 2**16:
        return Fraction(1)
    return Fraction(promised, size)


class _Lost:
    """Counts the frames whose own picture is damaged; more than `MOST_HELD` in a row end the clip."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._last: int | None = None
        frames.held = 0

    def seen(self, time: int) -> None:
        """Note the next decoded picture, in ticks of `frames`."""
        if self._last is None or time > self._last:
            self._between(self._last, time)
            self._last = time

    def end(self) -> None:
        """Note that no more pictures come."""
        timeline = self._frames._timeline
        if timeline is not None:
            self._between(self._last, math.ceil((self._frames.start + Fraction(timeline.n_frames, FPS)) / self._tick))

    @property
    def _tick(self) -> Seconds:
        return self._frames._tick

    def _between(self, before: int | None, time: int) -> None:
        frames = self._frames
        if frames._timeline is None:
            return
        times, tick = frames._timeline.times, frames._timeline.tick
        scale = tick / self._tick
        first = bisect.bisect_right(times, -1 if before is None else before / scale)
        if first == len(times) or times[first] * scale >= time:
            return
        low = max(frames.start, times[first] * tick)
        high = min(time * self._tick, frames.start + Fraction(frames._timeline.n_frames, FPS))
        held = max(0, round((high - low) * FPS))
        frames.held += held
        if held > MOST_HELD:
            at = float(low - frames.start)
            raise Reject("unreadable", f"{frames.path}: {held} frames in a row from {at:.2f} s on cannot be decoded")


class _Stamps:
    """Gives decoded pictures of one stream their time stamps, also where the file has none for them."""

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream, timeline: Timeline) -> None:
        self.timeline = timeline
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

    def refused(self) -> None:
        """Note that the decoder took the last packet for damaged: none from the first on make no delay of its own."""
        if self._lag is None:
            self._first_packet = None

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
            first = round(self.timeline.zero / clock)
            stamp = first if self._last is None else self._last + (self._shortest or round(self._step / clock))
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


class _File(io.FileIO):
    """A file that remembers the first error of reading it: demuxers take one for the file's end."""

    failure: OSError | None = None

    def read(self, size: int | None = -1) -> bytes:
        """Read up to so many bytes; none where that fails."""
        try:
            return super().read() if size is None or size < 0 else os.read(self.fileno(), size)
        except OSError as error:
            self.failure = self.failure or error
            return b""

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position and return it; -1 where that fails, as libavformat knows it."""
        try:
            return super().seek(position, whence)
        except OSError as error:
            # Demuxers ask for places before the start of damaged files.
            self.failure = self.failure or (None if error.errno == errno.EINVAL else error)
            return -1


def _broken_storage(path: object, failure: OSError) -> Reject:
    """Return the Reject of a file whose bytes the system could not hand over."""
    again = "a fault of the storage; once it is mended, run `avprep retry OUT --reason unreadable`"
    return Reject("unreadable", f"{path}: {failure.strerror} while reading: {again}")


@contextmanager
def open_file(path: Path) -> Iterator[av.container.InputContainer]:
    """Open one local file for reading; Reject(`missing`, `unreadable`) in one line."""
    try:
        check_regular(path)
        file = _File(path)
    except FileNotFoundError as error:
        raise Reject("missing", f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise Reject("unreadable", f"{path}: {getattr(error, 'strerror', None) or error}") from error
    with file:
        try:
            container = av.open(
                file,
                "r",
                # The headers tell enough: without this each file's first picture is decoded twice.
                options={"max_pixels": str(MAX_PIXELS), "skip_frame": "all"},
                container_options={"protocol_whitelist": "file", "format_whitelist": FORMATS},
                **_METADATA,
            )
        except (av.error.FFmpegError, UnicodeError, ValueError) as error:
            if file.failure is not None:
                raise _broken_storage(path, file.failure) from error
            reason = getattr(error, "strerror", None) or error
            if isinstance(error, av.error.InvalidDataError | av.error.ArgumentError):  # the latter: none of FORMATS
                reason = "no audio or video can be read from it (Invalid data found when processing input)"
            raise Reject("unreadable", f"{path}: {reason}") from error
        try:
            yield container
        finally:
            container.close()


class Packets:
    """The packets of a file, from where its container stands to the end, on one running clock.

    A file that breaks off ends there, and what came before counts. Iterating raises Reject(`unreadable`) where the
    system cannot read the file.

    jumps: whether time stamps may jump, in a container where they can; after seeking the first ones are not reliable.
    ended: whether the file's end was reached. joined: whether time stamps jumped.
    last: where the last packet in time ends (s), None before any.
    """

    def __init__(self, container: av.container.InputContainer, *, jumps: bool = True) -> None:
        self._container = container
        self._broadcast = may_jump(container)
        self._jumps = jumps and self._broadcast
        self.ended = self.joined = False
        self._ends: dict[int, int] = {}  # of each stream, in ticks

    @property
    def last(self) -> Seconds | None:
        """Where the last packet in time ends (s)."""
        clocks = {stream.index: Fraction(stream.time_base or 0) for stream in self._container.streams}
        return max((end * clock for n, end in self._ends.items() if (clock := clocks[n])), default=None)

    def __iter__(self) -> Iterator[av.Packet[Any]]:
        """Yield every stream's packets; empty ones at the end flush the decoders."""
        joints = _Joints() if self._jumps else None
        file = self._container.file.file
        packets = self._container.demux()
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                self.ended = True
                return
            except av.error.FFmpegError:
                break
            except IndexError:
                # PyAV up to 18 wants to flush streams too that appeared after opening: they come last.
                self.ended = True
                return
            finally:
                if file.failure is not None:
                    raise _broken_storage(file.name, file.failure)
            if self._broadcast and _shown_far_from_decoded(packet):
                packet.pts = None
            if joints is not None and packet.stream.type in ("video", "audio"):
                joints.place(packet)
                self.joined = joints.found
            self._note_end(packet)
            yield packet
        self.ended = True
        for stream in self._container.streams:
            flush: av.Packet[Any] = av.Packet(0)
            flush.stream = stream
            yield flush

    def _note_end(self, packet: av.Packet[Any]) -> None:
        stamp, stream = packet.dts if packet.pts is None else packet.pts, packet.stream.index
        if stamp is not None and packet.size:
            end = stamp + (packet.duration or 0)
            before = self._ends.get(stream)
            if before is None or end > before:
                self._ends[stream] = end


def _shown_far_from_decoded(packet: av.Packet[Any]) -> bool:
    """Tell whether a packet's time of showing is so far from that of decoding that it must be damaged."""
    if packet.pts is None or packet.dts is None or not packet.time_base:
        return False
    return bool(abs(packet.pts - packet.dts) * Fraction(packet.time_base) > JUMP_AHEAD)


class _Joints:
    """Puts the parts of a joined broadcast one behind the other: where time stamps jump, later ones are shifted.

    All streams are shifted by the same amount, as in ffmpeg, so that they stay in sync. Each of them enters a new part
    by itself: around a joint packets of both parts lie side by side.
    """

    def __init__(self) -> None:
        self._back = self._ahead = 0  # JUMP_BACK and JUMP_AHEAD in ticks
        self._offsets = [0]  # of each part, in ticks
        self._due: dict[int, int] = {}  # when each stream goes on, shifted
        self._latest: int | None = None

    @property
    def found(self) -> bool:
        """Whether there is more than one part."""
        return len(self._offsets) > 1

    def place(self, packet: av.Packet[Any]) -> None:
        """Shift a packet of video or audio."""
        stamp, stream = packet.dts, packet.stream.index
        if stamp is None:
            return
        if self._latest is None and packet.time_base:
            second = 1 / Fraction(packet.time_base)
            self._back, self._ahead = math.floor(JUMP_BACK * second), math.floor(JUMP_AHEAD * second)
        offset = self._offset(stamp, self._due.get(stream))
        if offset:
            if packet.pts is not None:
                packet.pts += offset
            packet.dts = stamp + offset
        self._due[stream] = stamp + offset + (packet.duration or 0)
        self._latest = stamp + offset if self._latest is None else max(self._latest, stamp + offset)

    def _offset(self, stamp: int, due: int | None) -> int:
        """Return the shift of the part that a time stamp belongs to, which may be a new one."""
        latest = self._latest
        if latest is None:
            return 0
        lowest = latest - self._ahead if due is None else due - self._back
        fitting = [offset for offset in self._offsets if lowest <= stamp + offset <= latest + self._ahead]
        if len(fitting) > 1 and due is not None:
            fitting = [o for o in fitting if abs(stamp + o - due) <= 2 * self._back][-1:] or fitting
        if fitting:
            return min(fitting, key=lambda offset: abs(stamp + offset - latest))
        self._offsets.append((latest if due is None else due) - stamp)
        return self._offsets[-1]


def may_jump(container: av.container.InputContainer) -> bool:
    """Tell whether the container is a broadcast's, in which time stamps may start anew and all streams share one clock.

    libavformat says of Ogg, too, that its time stamps jump, and joins the parts of a chained file itself.
    """
    clocks = {stream.time_base for stream in container.streams if stream.type in ("video", "audio")}
    return len(clocks) == 1 and bool(av.format.Flags(container.format.flags) & av.format.Flags.ts_discont)


def packets(container: av.container.InputContainer, *streams: Any, jumps: bool = True) -> Iterator[av.Packet[Any]]:
    """Yield the packets of some streams; see `Packets`."""
    wanted = {stream.index for stream in streams}
    for packet in Packets(container, jumps=jumps):
        if packet.stream.index in wanted:
            yield packet


def in_ticks(time: Seconds | float, stream: Any) -> float:
    """Return a time (s) in the unit of a stream's time stamps, for comparing packets with: there are many of them."""
    return math.inf if time == math.inf or not stream.time_base else float(time / Fraction(stream.time_base))


def beyond(packet: av.Packet[Any], ticks: float) -> bool:
    """Tell whether a packet is decoded after a time, given in ticks of its stream."""
    stamp = packet.dts
    return stamp is not None and stamp > ticks


def container_start(container: av.container.InputContainer) -> Seconds:
    """Return where a file's own clock starts, in seconds."""
    return Fraction(container.start_time or 0, av.time_base)


def video_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """Return the default stream of moving pictures, else the first; cover art is none."""
    cover, default = av.stream.Disposition.attached_pic, av.stream.Disposition.default
    streams = [
        stream
        for stream in container.streams.video
        if not stream.disposition & cover and stream.codec_context is not None
    ]
    stream = next((stream for stream in streams if stream.disposition & default), next(iter(streams), None))
    if stream is not None and stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
        raise Reject("unreadable", f"{container.name}: the picture is larger than {MAX_PIXELS} pixels")
    return stream


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
        container.seek(math.floor(time / Fraction(stream.time_base)), stream=stream, backward=True)
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
