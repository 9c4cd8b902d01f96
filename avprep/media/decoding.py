"""Decoding a clip's video: damage is skipped, frames are time-stamped and deinterlaced, late clips are sought."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.container
import av.error

from avprep.media.container import (
    MAX_PIXELS,
    SEEK_BEYOND,
    Seconds,
    has_presentation_times,
    open_file,
    seek,
    video_stream,
)
from avprep.media.filters import Deinterlacer
from avprep.media.packets import Packets
from avprep.media.timeline import PicturePackets, Timeline
from avprep.schema import FPS

KEYED = frozenset({"mpeg1video", "mpeg2video", "mpeg4", "vp8", "vp9"})
"""Codecs in which nothing after a key frame depends on anything before it."""
BEFORE = 2
"""Pictures before a clip's first one that are decoded too: the deinterlacer needs them."""
Stamped = tuple[int, av.VideoFrame]
"""A decoded frame and its time in ticks."""


class ClipDecoder:
    """Decodes the video of an open file, starting before a clip's start; iterate once.

    Yields the file's first frame, if that sets the clock, and then those around the clip, as (time in ticks, frame).
    The `opaque` of a key frame is its pixel aspect in the stream, None if the stream has none.

    tick: half the stream's own, since the deinterlacer's clock is twice as fine (s).
    decode_errors: damaged packets that were skipped. interlaced: whether frames had to be deinterlaced.
    """

    def __init__(
        self,
        path: Path,
        container: av.container.InputContainer,
        timeline: Timeline,
        *,
        start: Seconds,
        threads: int,
        packets: PicturePackets | None = None,
    ) -> None:
        stream = video_stream(container)
        assert stream is not None  # since it has a timeline
        self.stream: av.VideoStream = stream
        self.tick = Fraction(stream.time_base or Fraction(1, av.time_base)) / 2
        self.decode_errors = 0
        self.interlaced = False
        self._path, self._container, self._timeline = path, container, timeline
        self._start, self._threads = start, threads
        self._packets = packets
        self._clock: tuple[Fraction, int, int] | None = None  # of the last frame, and see `_ticks`

    def __iter__(self) -> Iterator[Stamped]:
        """Decode."""
        self._set_up(self.stream)
        stamps = _Stamps(self._container, self.stream, self._timeline)
        if self._packets is not None:
            every = itertools.chain(self._from_key_frame(self._packets.first), self._packets.rest)
            return self._decoded(every, self.stream, stamps)
        frames = self._decoded(self._read(self._container), self.stream, stamps)
        if self._start > SEEK_BEYOND and not self._timeline.joined:
            frames = self._sought(stamps, frames)
        return frames

    def _set_up(self, stream: av.VideoStream) -> None:
        """Set up a decoder before its first packet."""
        stream.codec_context.thread_count = self._threads
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}

    def _from_key_frame(self, packets: list[av.Packet[Any]]) -> list[av.Packet[Any]]:
        """Leave out the packets before the last key frame that the clip's first picture needs, if that is known."""
        timeline, stream = self._timeline, self.stream
        known = timeline.reliable and has_presentation_times(self._container)
        if not self._start or not known or stream.codec_context.name not in KEYED:
            return packets
        earlier = bisect.bisect_right(timeline.times, self._start / timeline.tick) - 1 - BEFORE
        if earlier < 0:
            return packets
        needed = timeline.zero / timeline.tick + timeline.times[earlier]
        keys = [n for n, one in enumerate(packets) if one.is_keyframe and one.pts is not None and one.pts <= needed]
        return packets[keys[-1] :] if keys else packets

    def _read(self, container: av.container.InputContainer) -> Iterator[av.Packet[Any]]:
        return iter(Packets(container, jumps=self._timeline.joined))

    def _decoded(self, packets: Iterable[av.Packet[Any]], stream: av.VideoStream, stamps: _Stamps) -> Iterator[Stamped]:
        """Decode a stream's packets, skipping damaged ones."""
        deinterlacer = None
        decoder = stream.codec_context
        aspects: dict[int | None, Fraction | None] = {}
        for packet in packets:
            if packet.stream.index != stream.index:
                continue
            stamps.fed(packet)
            try:
                frames: list[av.VideoFrame] = packet.decode()
            except av.error.FFmpegError:
                self.decode_errors += 1
                stamps.refused()
                continue
            if packet.is_keyframe:
                aspects[packet.pts] = decoder.sample_aspect_ratio
            for frame in frames:
                if frame.key_frame:  # one that was held back comes when the decoder may be at another aspect already
                    frame.opaque = aspects.pop(frame.pts, decoder.sample_aspect_ratio)
                clock = stamps.stamp(frame)
                if deinterlacer is None and frame.interlaced_frame:
                    self.interlaced = True
                    deinterlacer = Deinterlacer()
                if deinterlacer is None:
                    yield self._ticks(frame.pts, clock), frame
                else:
                    yield from self._whole(deinterlacer.push(frame))
        if deinterlacer is not None:
            yield from self._whole(deinterlacer.push(None))

    def _whole(self, frames: Iterable[av.VideoFrame]) -> Iterator[Stamped]:
        for frame in frames:
            yield self._ticks(frame.pts, frame.time_base), frame

    def _sought(self, stamps: _Stamps, frames: Iterator[Stamped]) -> Iterator[Stamped]:
        """Yield the file's first frame and then those from shortly before the clip's start on."""
        first = next(frames, None)
        if first is None:
            return
        yield first
        stream = self.stream
        if not stream.time_base or stream.start_time is None:  # no time stamps: frames can only be counted
            yield from frames
            return
        target = first[0] * self.tick + self._start
        for back in (2, 10, 60):  # a decoder needs a key frame before the start, however far back it is
            if back > self._start or not seek(self._container, stream, target - back):
                break
            stream.codec_context.flush_buffers()
            stamps.restart()
            frames = self._decoded(self._read(self._container), stream, stamps)
            landed = next(frames, None)
            if landed is not None and landed[0] * self.tick <= target:
                yield landed
                yield from frames
                return
        with open_file(self._path) as again:
            anew = video_stream(again)
            assert anew is not None
            self._set_up(anew)
            yield from self._decoded(self._read(again), anew, _Stamps(again, anew, self._timeline))

    def _ticks(self, stamp: int | None, clock: Fraction | None) -> int:
        """Return a frame's time in ticks, rounded."""
        assert stamp is not None
        assert clock is not None
        if self._clock is None or clock is not self._clock[0]:
            tick = self.tick
            self._clock = clock, clock.numerator * tick.denominator, clock.denominator * tick.numerator
        _, times, one = self._clock
        whole, rest = divmod(stamp * times, one)
        return whole + (2 * rest >= one)


class _Stamps:
    """Time-stamps the decoded frames of one stream, including those without a time in the file."""

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream, timeline: Timeline) -> None:
        self._zero = timeline.zero
        self._presented = has_presentation_times(container)
        self._step = 1 / Fraction(stream.average_rate) if stream.average_rate else Fraction(1, FPS)
        self._delay: int | None = None
        self._clock: Fraction | None = None
        self._flushed = False
        self.restart()

    def restart(self) -> None:
        """Start again after seeking; the decoder's delay is kept."""
        self._first_packet: int | None = None
        self._shortest: int | None = None
        self._last: int | None = None

    def fed(self, packet: av.Packet[Any]) -> None:
        """Record a packet that goes into the decoder."""
        self._flushed = not packet.size
        if self._first_packet is None:
            self._first_packet = packet.dts

    def refused(self) -> None:
        """Record that the decoder refused the last packet: refused packets at the start do not count as its delay."""
        if self._delay is None:
            self._first_packet = None

    def stamp(self, frame: av.VideoFrame) -> Fraction:
        """Set the frame's `pts` and `time_base`, and return the latter.

        A frame without a time stamp follows the last one by the shortest gap so far.
        """
        stamp = frame.pts if frame.pts is not None and self._presented else frame.dts
        if stamp is not None and frame.dts is not None and self._last is not None and stamp <= self._last:
            # A packet of an MPEG program stream may hold parts of two pictures; libavformat then gives one of them the
            # other's time.
            stamp = max(stamp, frame.dts)
        if not self._presented and stamp is not None:
            # The decoder stamps a frame with the packet that released it: late by its delay.
            if self._delay is None:
                self._delay = stamp - (self._first_packet or 0)
            stamp -= self._delay
        # Frames have the clock of their packets: the stream's, except for the empty ones that flush the decoder.
        if self._clock is None or self._flushed:
            self._clock = frame.time_base
        clock = self._clock
        if clock is None:
            clock = frame.time_base = Fraction(1, av.time_base)
        if stamp is None:
            first = round(self._zero / clock)
            stamp = first if self._last is None else self._last + (self._shortest or round(self._step / clock))
        elif self._last is not None and stamp > self._last:
            gap = stamp - self._last
            self._shortest = gap if self._shortest is None else min(self._shortest, gap)
        frame.pts = self._last = stamp
        return clock
