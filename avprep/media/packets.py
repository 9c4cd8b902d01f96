"""The packets of a media file on one continuous clock, even if a broadcast's time stamps jump."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import av.container
import av.error
import av.format

from avprep.media.container import Seconds, broken_storage

JUMP_BACK, JUMP_AHEAD = Fraction(1, 10), Fraction(10)
"""Time stamps of a broadcast that jump back or ahead by more than this begin another part, as in ffmpeg (s)."""


class Packets:
    """The packets of a file, from the container's present position to the end, on one continuous clock.

    A truncated file ends at its break, and everything before that counts. Iterating raises Reject(`unreadable`) if the
    system cannot read the file.

    jumps: whether time stamps may jump, if the container allows it; after seeking the first ones are not reliable.
    ended: whether the file's end was reached. joined: whether time stamps jumped.
    last: the end of the last packet in time (s), None before any.
    """

    def __init__(self, container: av.container.InputContainer, *, jumps: bool = True) -> None:
        self._container = container
        self._broadcast = may_jump(container)
        self._jumps = jumps and self._broadcast
        self.ended = self.joined = False
        self._ends: dict[int, int] = {}  # end of each stream, in ticks
        self._far: dict[int, int] = {}  # JUMP_AHEAD in ticks of each stream

    @property
    def last(self) -> Seconds | None:
        """The end of the last packet in time (s)."""
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
                # PyAV up to 18 also tries to flush streams that appeared after opening: they come last.
                self.ended = True
                return
            finally:
                if file.failure is not None:
                    raise broken_storage(file.name, file.failure)
            if self._broadcast and self._shown_far_from_decoded(packet):
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

    def _shown_far_from_decoded(self, packet: av.Packet[Any]) -> bool:
        """Return whether a packet's presentation time is so far from its decoding time that it must be damaged."""
        if packet.pts is None or packet.dts is None or packet.pts == packet.dts:
            return False
        stream = packet.stream.index
        if stream not in self._far:
            tick = Fraction(packet.time_base or 0)
            self._far[stream] = math.floor(JUMP_AHEAD / tick) if tick else sys.maxsize
        return bool(abs(packet.pts - packet.dts) > self._far[stream])

    def _note_end(self, packet: av.Packet[Any]) -> None:
        stamp, stream = packet.dts if packet.pts is None else packet.pts, packet.stream.index
        if stamp is not None and packet.size:
            end = stamp + (packet.duration or 0)
            before = self._ends.get(stream)
            if before is None or end > before:
                self._ends[stream] = end


class _Joints:
    """Places the parts of a joined broadcast one after the other: after a jump, time stamps are shifted.

    All streams are shifted by the same amount, as in ffmpeg, so that they stay in sync. Each stream enters a new part
    independently: around a joint, packets of both parts are interleaved.
    """

    def __init__(self) -> None:
        self.found = False  # whether there is more than one part
        self._back = self._ahead = 0  # JUMP_BACK and JUMP_AHEAD in ticks
        self._offsets = {0: 0}  # of each recent part, in ticks, and the latest time when it was last used
        self._due: dict[int, int] = {}  # when each stream continues, shifted
        self._latest: int | None = None

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
            self.found = True
            if packet.pts is not None:
                packet.pts += offset
            packet.dts = stamp + offset
        self._due[stream] = stamp + offset + (packet.duration or 0)
        self._latest = stamp + offset if self._latest is None else max(self._latest, stamp + offset)
        self._offsets[offset] = self._latest

    def _offset(self, stamp: int, due: int | None) -> int:
        """Return the shift of the part to which a time stamp belongs; this may be a new part."""
        latest = self._latest
        if latest is None:
            return 0
        lowest = latest - self._ahead if due is None else due - self._back
        # In a part of long ago, a time may fit by coincidence.
        self._offsets = {offset: used for offset, used in self._offsets.items() if latest - used <= self._ahead}
        fitting = [offset for offset in self._offsets if lowest <= stamp + offset <= latest + self._ahead]
        if len(fitting) > 1 and due is not None:
            fitting = [o for o in fitting if abs(stamp + o - due) <= 2 * self._back][-1:] or fitting
        if fitting:
            return min(fitting, key=lambda offset: abs(stamp + offset - latest))
        return (latest if due is None else due) - stamp


def may_jump(container: av.container.InputContainer) -> bool:
    """Return whether the container is a broadcast's: its time stamps may restart, and its streams share one clock.

    libavformat also marks Ogg as having jumps, but joins the parts of a chained file itself.
    """
    clocks = {stream.time_base for stream in container.streams if stream.type in ("video", "audio")}
    return len(clocks) == 1 and bool(av.format.Flags(container.format.flags) & av.format.Flags.ts_discont)


def in_ticks(time: Seconds | float, stream: Any) -> float:
    """Return a time (s) in the unit of a stream's time stamps, for fast comparison with many packets."""
    return math.inf if time == math.inf or not stream.time_base else float(time / Fraction(stream.time_base))


def beyond(packet: av.Packet[Any], ticks: float) -> bool:
    """Return whether a packet's decoding time is after a time, given in ticks of its stream."""
    stamp = packet.dts
    return stamp is not None and stamp > ticks
