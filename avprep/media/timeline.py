"""Presentation times of a clip's pictures, from packet time stamps alone: the one rule for its number of frames.

The zero of a clip's clock is the file's first picture plus the clip's `start`.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.container

from avprep.errors import Reject
from avprep.media.container import (
    SEEK_BEYOND,
    Seconds,
    broken_storage,
    container_start,
    has_presentation_times,
    seconds,
    seek,
    video_stream,
)
from avprep.media.packets import Packets, beyond, in_ticks, may_jump
from avprep.schema import FPS

LEAD, TAIL = Fraction(1), Fraction(2)
"""Packets that are read before and after what a clip needs: files do not interleave exactly (s)."""
MAX_DELAY = 16
"""Maximum number of pictures that a decoder holds back."""
MIN_FOUND = Fraction(1, 3)
"""A file that ends before this fraction of the length promised by its header in the clip's span is refused."""
UNNOTICED = Fraction(1, 10)
"""Maximum length that may be missing of what a header promises without being recorded (s)."""
KEPT = 8 << 20
"""Maximum size of a clip's video packets that are kept for decoding (bytes)."""
PROMISING = ("mov", "matroska", "avi", "asf", "wav", "w64")
"""Containers with a duration in their header; for others libavformat guesses from the last packets."""


class FrameCount:
    """Counts the 25-fps frames of a sequence of pictures, from presentation times alone.

    The last picture is held as long as the median picture, so 75 pictures at 25 fps make 75 frames, and 60 at
    29.97 fps (2.002 s) make 50.

    tick: the unit of the times (s), which are integers, because fractions would cost more than decoding.
    """

    def __init__(self, start: Seconds, duration: float | None, tick: Seconds) -> None:
        self.wanted = None if duration is None else max(1, round(duration * FPS))
        # The frames' instants as integers of a finer unit.
        fine = math.lcm(2 * FPS, start.denominator, tick.denominator)
        self._start = start.numerator * (fine // start.denominator)
        self._frame = fine // FPS
        self._tick = tick.numerator * (fine // tick.denominator)
        self._times: list[int] = []

    def add(self, ticks: int) -> None:
        """Add a picture at a time in ticks after the file's first picture."""
        self._times.append(ticks * self._tick)

    def until(self, half_ticks: int) -> int:
        """Return the number of frames up to a time in half ticks after the file's first picture."""
        return self._until(half_ticks * self._tick)

    def _until(self, twice: int) -> int:
        return (twice - 2 * self._start) // (2 * self._frame) + 1

    @property
    def past_the_end(self) -> bool:
        """Whether the last picture is at least a frame beyond the end of the clip."""
        return self.wanted is not None and self._times[-1] >= self._start + (self.wanted + 1) * self._frame

    def total(self) -> int:
        """Return the number of frames from the clip's start to its end or that of the last picture."""
        if not self._times:
            return 0
        start, frame = self._start, self._frame
        times = sorted(set(self._times))
        # Pictures before the clip do not count: how many of them are read depends on the position after seeking.
        gaps = sorted(after - before for before, after in itertools.pairwise(times) if after >= start)
        twice_hold = gaps[(len(gaps) - 1) // 2] + gaps[len(gaps) // 2] if gaps else 2 * frame
        available = (2 * (times[-1] - start) + twice_hold + frame) // (2 * frame)
        if gaps:  # the second last picture is shown until half way; above 75 fps that may be the later bound
            available = max(available, self._until(times[-2] + times[-1]))
        available = max(available, int(start <= times[-1]))
        return available if self.wanted is None else min(available, self.wanted)


@dataclass(frozen=True, slots=True)
class Timeline:
    """Presentation times of a clip's pictures: the one rule for the number of frames, the same for every column.

    It depends only on the time stamps of packets, so that damaged contents do not change it.

    zero: time stamp of the file's first picture (s). n_frames: 25-fps frames of the clip.
    tick: unit of `times` (s). times: when each picture is shown, after `zero`, ascending.
    reliable: whether the packets are enough for all of this. Otherwise `Frames` counts decoded pictures.
    joined: whether time stamps jump, so that they cannot be used for seeking.
    promised: length that the file's header promises in the clip's span (s) if the file ends before that, else None.
    """

    zero: Seconds
    n_frames: int
    tick: Seconds
    times: list[int]
    reliable: bool
    joined: bool
    promised: Seconds | None


@dataclass(frozen=True, slots=True)
class PicturePackets:
    """The packets of a clip's pictures from the file's start on, so that they can be decoded without reading again.

    first: those that were read for the timeline. rest: the following packets of the file, including other streams'.
    """

    first: list[av.Packet[Any]]
    rest: Iterator[av.Packet[Any]]


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
        self._limit = math.inf  # the same in ticks
        self._beyond = 0

    @property
    def zero(self) -> Seconds | None:
        """Time of the first picture so far."""
        return min(self._ticks) * self._tick if self._ticks else None

    def span(self) -> Iterator[av.Packet[Any]]:
        """Yield all packets of the file; if the clip is far into it, those of the file's start and from its span on.

        Each of them must be passed to `add`; those after it is `done` do not count.
        """
        reading = iter(self.packets)
        if self._start > SEEK_BEYOND and not may_jump(self._container):
            for packet in reading:  # zero is the file's first picture, not the span's
                yield packet
                if len(self._ticks) > MAX_DELAY:  # of the pictures, since those hidden by an edit list may be many
                    break
            if self.zero is not None and not self.packets.ended:
                seek(self._container, self.stream, self.zero + self._start - LEAD - 1)
                reading = iter(self.packets)
        yield from reading

    def read(self) -> tuple[Timeline, PicturePackets | None]:
        """Read the span's packets; also return those of pictures, None if they are large or the span was sought."""
        reading, size = self.span(), 0
        first: list[av.Packet[Any]] = []
        for packet in reading:
            self.add(packet)
            if size <= KEPT and packet.stream.index == self.stream.index:
                first.append(packet)
                size += packet.size
                if size > KEPT:
                    first.clear()
            if self.done:
                break
        whole = size <= KEPT and self._start <= SEEK_BEYOND
        return self.timeline(), PicturePackets(first, reading) if whole else None

    def add(self, packet: av.Packet[Any]) -> None:
        """Add a packet; those of other streams do not count."""
        if self.done or packet.stream.index != self.stream.index or not packet.size:
            return
        if beyond(packet, self._limit):
            self._beyond += 1  # a single one may have a damaged time stamp
            self.done = self._beyond > MAX_DELAY
            return
        self._beyond = 0
        # Packets of AVI are in decoding order, and only their order gives the time.
        stamp = packet.dts if self._in_order else packet.pts
        if stamp is None and self._blank_before_zero and not self._ticks and packet.duration and not packet.is_corrupt:
            self._blank.append(packet.duration)  # Matroska's pictures before zero get no time stamp from libavformat
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
        if self._in_order and 1 < len(self._ticks) <= MAX_DELAY:
            first, second, *_ = self._ticks
            if stamp - self._ticks[-1] != second - first:
                self._damaged = True  # a gap so early: the time of the first picture depends on the decoder's delay
        # Pictures before the first key frame cannot be decoded; those hidden by an edit list are not shown.
        if (stamp >= self._first_key or self._blank) and not packet.is_discard:
            if not self._ticks:
                self._bound(stamp)
            self._ticks.append(stamp)

    def _bound(self, stamp: int) -> None:
        """Set the time beyond which no packet is needed; stamp: of the first packet whose picture is shown."""
        ahead = self._max_seconds if self._duration is None else self._duration
        if ahead < math.inf:
            self.high = stamp * self._tick + self._start + seconds(ahead) + TAIL
            self._limit = in_ticks(self.high, self.stream)

    def timeline(self) -> Timeline:
        """Return the timeline of the packets added so far."""
        ticks = list(self._ticks)
        for step in reversed(self._blank if ticks else ()):
            ticks.append(min(ticks[-1:] if len(ticks) > len(self._ticks) else ticks) - step)
        reliable = bool(ticks) and not self._damaged
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
        if reliable and n_frames < 1:
            raise Reject("too_short", f"{self.path}: ends before the clip's start at {float(self._start):.2f} s")
        if reliable and n_frames > self._max_seconds * FPS:
            raise too_long(self.path, self._max_seconds)
        times = sorted({stamp - zero for stamp in ticks})
        return Timeline(zero * self._tick, n_frames, self._tick, times, reliable, self.packets.joined, promised)


def check_promise(
    path: Path, container: av.container.InputContainer, found: Seconds | None, begin: Seconds, length: Seconds | None
) -> Seconds | None:
    """Compare the actual end of a file with the length that its header promises.

    found: the end of its last packet. begin, length: of the clip (s, by the file's time stamps; None: to its end).
    Returns the seconds promised in the clip's span if more than `UNNOTICED` of it is missing, else None.
    Reject(`unreadable`) if less than `MIN_FOUND` of them are there and more than a second is missing.
    """
    if container.duration is None or not container.format.name.startswith(PROMISING):
        return None
    start, duration = container_start(container), Fraction(container.duration, av.time_base) * _cut_short(container)
    # If a file's clock starts late, some headers count from its zero (Matroska, ASF), others from
    # its start; the earlier end is surely promised.
    end = duration if 0 < start < duration else start + duration
    promised = end - begin
    if length is not None:
        promised = min(promised, length)
    there = max(Fraction(0), min(promised, (begin if found is None else found) - begin))
    missing = promised - there
    if missing > 1 and there < MIN_FOUND * promised:
        raise Reject(
            "unreadable",
            f"{path}: breaks off: of {float(promised):.1f} s that its header promises only {float(there):.1f} s are"
            " there; get a complete copy",
        )
    return promised if missing > UNNOTICED else None


def _cut_short(container: av.container.InputContainer) -> Fraction:
    """Return the ratio of the size promised by a RIFF file (AVI, wav) to its actual size; 1 for a complete file.

    libavformat reduces the duration of a truncated RIFF file to the part that is there.
    """
    file = container.file.file
    try:
        head = os.pread(file.fileno(), 8, 0)
        size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise broken_storage(file.name, error) from error
    promised = int.from_bytes(head[4:8], "little") + 8
    # Programs that cannot seek back to write the size write 0, or the maximum of 31 or 32 bits, or nearly that.
    if head[:4] != b"RIFF" or promised <= size or promised >= 2**31 - 2**16:
        return Fraction(1)
    return Fraction(promised, size)


def too_long(path: Path, max_seconds: float) -> Reject:
    """Return the Reject for a clip longer than `max_seconds`."""
    return Reject("too_long", f"{path}: longer than {max_seconds:g} s; raise --max-seconds or cut it")
