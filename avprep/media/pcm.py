"""Decoded audio as samples: one channel, placed by presentation time, resampled to 16 kHz."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from avprep.errors import Reject, plural
from avprep.media.container import Seconds, is_ogg_vorbis
from avprep.media.filters import resample
from avprep.schema import SAMPLE_RATE

GAP = Fraction(5, 1000)
"""Audio whose time stamp is off by more than this is moved to it; less is the container's rounding (s)."""

CENTRE = "FC"
"""libavutil's name of the front centre."""
SUBWOOFERS = ("LFE", "LFE2")
"""Channels that carry no speech."""
MAX_CHANNELS = 16
"""Maximum channels to try if the usual one is silent."""
LOWEST_RATE, HIGHEST_RATE = 1000, 1_000_000
"""Sample rates outside this range are refused (Hz): a wrong header would decide the length of a file."""


class Pieces:
    """One channel during decoding: int16 pieces with their presentation times.

    wanted: the channel to take, from 0. None: the front centre of surround audio, which usually carries the speech,
        else the first channel.

    Decoding sets `rate` (Hz), `channels` (count), `channel` (the one that is taken) and `others` (other channels that
    may carry speech). Raises Reject(`no_audio`) if the wanted channel does not exist, Reject(`unreadable`) for an
    impossible sample rate.
    """

    def __init__(self, path: Path, wanted: int | None = None) -> None:
        self.path = path
        self.wanted = wanted
        self.rate = 0
        self.channels = 0
        self.channel = 0
        self.others: tuple[int, ...] = ()
        self.decode_errors = 0
        self.clock = Fraction(1, SAMPLE_RATE)  # s, the unit of the pieces' times
        self._low: tuple[Seconds | float, float] = (-math.inf, -math.inf)  # in seconds, and in that unit
        self._second = float(SAMPLE_RATE)  # in that unit
        self._due: float | None = None  # end of the last frame, kept or not, in that unit
        self._ogg_vorbis = False
        self._pieces: list[tuple[int | None, NDArray[Any]]] = []

    def add(self, packet: av.Packet[Any], low: Seconds | float) -> None:
        """Decode a packet; keep the frames that begin at the time `low` or later."""
        try:
            frames: list[Any] = packet.decode()
        except av.error.FFmpegError:
            self.decode_errors += 1
            return
        for frame in frames:
            if not self.rate:  # the first one: a decoder's clock stays the same
                self.clock = Fraction(frame.time_base or self.clock)
                self._second = float(1 / self.clock)
                self._begin(frame, packet.stream)
            if low is not self._low[0]:
                self._low = low, math.ceil(low / self.clock) if isinstance(low, Fraction) else low
            time, rate = frame.pts, frame.sample_rate
            if self._ogg_vorbis and time is not None and packet.duration:
                time -= max(0, frame.samples - packet.duration)
            begin = self._due if time is None else time  # only the first of a packet's frames has a time stamp
            if begin is not None:
                self._due = begin + frame.samples * self._second / rate
                if begin < self._low[1]:
                    continue
                if not self._pieces:
                    time = round(begin)
            if self.rate not in (0, rate):
                change = f"from {self.rate} to {rate} Hz"
                raise Reject("unreadable", f"{self.path}: the sample rate changes midway {change}")
            layout = frame.layout
            self.rate, self.channels, self.channel = rate, layout.nb_channels, _chosen(layout, self.wanted)
            self._pieces.append((time, _channel(frame, self.channel)))

    def _begin(self, frame: av.AudioFrame, stream: Any) -> None:
        """Record the properties of the first frame; Reject for a missing channel or an impossible sample rate."""
        if not LOWEST_RATE <= frame.sample_rate <= HIGHEST_RATE:
            limits = f"{LOWEST_RATE} to {HIGHEST_RATE} Hz can be read"
            raise Reject("unreadable", f"{self.path}: the audio's sample rate is {frame.sample_rate} Hz; {limits}")
        count = frame.layout.nb_channels
        if self.wanted is not None and self.wanted >= count:
            lack = f"--audio-channel {self.wanted} does not exist: its audio has {plural(count, 'channel')}, from 0"
            raise Reject("no_audio", f"{self.path}: {lack}")
        self.others = _others(frame.layout, _chosen(frame.layout, self.wanted))
        self._ogg_vorbis = is_ogg_vorbis(stream)

    def resampled(self, zero: Seconds, low: int, high: int) -> tuple[NDArray[np.int16], int]:
        """Place the pieces by time and resample them to 16 kHz.

        zero: the time of sample 0.
        low, high: wanted range in 16 kHz samples.
        Returns the samples and the position of the first one.
        """
        if not self._pieces:
            return np.empty(0, np.int16), 0
        line = Line(self.rate, *source_range(self.rate, low, high))
        pieces = self.taken()
        sample_at = sampling(self.clock, zero, self.rate)
        positions = [None if time is None else sample_at(time) for time, _ in pieces]
        stamped = next((n for n, position in enumerate(positions) if position is not None), 0)
        if stamped:  # Matroska's audio before zero has no time stamp: it ends where the first one begins
            positions[0] = (positions[stamped] or 0) - sum(piece.size for _, piece in pieces[:stamped])
        after: int | None = None
        for position, (_, piece) in zip(positions, pieces, strict=True):
            position = after if position is None else position
            line.add(position, piece)
            after = None if position is None else position + piece.size
        return line.resampled(low, high)

    def taken(self) -> list[tuple[int | None, NDArray[np.int16]]]:
        """Return the pieces decoded since the last call, with their presentation times in `clock`s."""
        pieces, self._pieces = self._pieces, []
        if len({piece.dtype for _, piece in pieces}) > 1:
            return [(time, _int16(piece)) for time, piece in pieces]
        # All at once: packets are so small that numpy's calls would cost more than the decoding.
        whole = _int16(np.concatenate([piece for _, piece in pieces])) if pieces else np.empty(0, np.int16)
        ends = itertools.accumulate(piece.size for _, piece in pieces)
        return [(time, whole[end - piece.size : end]) for (time, piece), end in zip(pieces, ends, strict=True)]


class Line:
    """Samples of one source, placed by time at its own rate: silence in gaps, overlaps cut off.

    low, high: positions of the first sample to keep and of the one after the last.
    """

    def __init__(self, rate: int, low: int, high: int) -> None:
        self.rate, self.low, self.high = rate, low, high
        self._gap = math.floor(GAP * rate)
        self.begin = self.end = 0
        self._parts: list[NDArray[np.int16]] = []
        self._last: int | None = None  # end of the last piece, kept or not

    def add(self, position: int | None, piece: NDArray[np.int16]) -> None:
        """Place a piece at its position; None: after the last one."""
        if position is None:
            position = self._last
        if position is None:
            position = self.low  # no time stamp at all: the audio starts where reading does
        end = self._last
        if end is not None and abs(position - end) <= self._gap:
            position = end
        if end is not None and position < end:
            piece, position = piece[end - position :], end
        piece = piece[max(0, self.low - position) : max(0, self.high - position)]
        position = max(position, self.low)
        if not piece.size:
            return
        if end is None:
            self.begin = end = position
        if position > end:
            self._parts.append(np.zeros(position - end, np.int16))
        self._parts.append(piece)
        self.end = self._last = position + piece.size

    def samples(self) -> NDArray[np.int16]:
        """Return the placed samples, int16 (N,); the first one is at `begin`."""
        return np.concatenate([*self._parts, np.empty(0, np.int16)])

    def forget(self, position: int) -> None:
        """Drop the samples before a position."""
        if position > self.begin and self._parts:
            kept = self.samples()[position - self.begin :]
            self._parts, self.begin = [kept], min(position, self.end)

    def resampled(self, low: int, high: int) -> tuple[NDArray[np.int16], int]:
        """Resample the part between two positions, given in 16 kHz samples, to 16 kHz.

        Returns the samples and the position of the first one.
        """
        from_, to = source_range(self.rate, low, high)
        line = self.samples()[max(0, from_ - self.begin) : max(0, to - self.begin)]
        begin = max(from_, self.begin)
        # Start where samples of both rates coincide, so that every part of a file gets the same samples.
        lead = begin % (self.rate // math.gcd(self.rate, SAMPLE_RATE))
        samples = resample(np.pad(line, (lead, 0)), self.rate)
        first = (begin - lead) * SAMPLE_RATE // self.rate
        cut = max(low, math.ceil(Fraction(begin * SAMPLE_RATE, self.rate))) - first
        return samples[cut : max(cut, high - first)], first + cut


def source_range(rate: int, low: int, high: int) -> tuple[int, int]:
    """Return a range of 16 kHz samples in samples of the source, slightly wider because of the resampler's filter."""
    margin = rate // 100
    return low * rate // SAMPLE_RATE - margin, high * rate // SAMPLE_RATE + margin


def sampling(clock: Seconds, zero: Seconds, rate: int) -> Callable[[int], int]:
    """Return the function `round((time * clock - zero) * rate)`, in integers, as it is called for every packet."""
    tick, begin = clock.numerator * zero.denominator * rate, zero.numerator * clock.denominator * rate
    below = clock.denominator * zero.denominator

    def sample_at(time: int) -> int:
        whole, rest = divmod(time * tick - begin, below)
        return whole + (2 * rest > below or (2 * rest == below and whole % 2 == 1))

    return sample_at


_DTYPES = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "s64": np.int64, "flt": np.float32, "dbl": np.float64}


def _chosen(layout: av.AudioLayout, wanted: int | None) -> int:
    """Return the channel to take: the wanted one if a layout has it, else the front centre, else the first."""
    if wanted is not None and wanted < layout.nb_channels:
        return wanted
    if layout.nb_channels < 3:  # names need not be read for mono and stereo
        return 0
    names = [channel.name for channel in layout.channels]
    return names.index(CENTRE) if CENTRE in names else 0


def _others(layout: av.AudioLayout, chosen: int) -> tuple[int, ...]:
    """Return the other channels that may carry speech, in the file's order; their number is bounded."""
    names = [channel.name for channel in layout.channels[:MAX_CHANNELS]] if layout.nb_channels > 1 else []
    return tuple(n for n, name in enumerate(names) if n != chosen and name not in SUBWOOFERS)


def _channel(frame: av.AudioFrame, number: int) -> NDArray[Any]:
    """Return a channel as decoded."""
    form = frame.format  # a new object at each access
    planar = form.is_planar
    samples = np.frombuffer(memoryview(frame.planes[number if planar else 0]), _DTYPES[form.name.removesuffix("p")])
    first, channels = (0, 1) if planar else (number, frame.layout.nb_channels)
    return samples[first : frame.samples * channels : channels].copy()


def _int16(channel: NDArray[Any]) -> NDArray[np.int16]:
    """Convert samples of any format to int16, with ffmpeg's scaling."""
    if channel.dtype == np.int16:
        return channel
    if channel.dtype == np.uint8:
        return np.asarray((channel.astype(np.int16) - 128) << 8, np.int16)
    if np.issubdtype(channel.dtype, np.integer):
        return np.asarray(channel >> (8 * channel.dtype.itemsize - 16), np.int16)
    scaled = np.rint(channel * channel.dtype.type(32768))
    if not np.isfinite(scaled).all():
        scaled = np.nan_to_num(scaled)
    return np.asarray(scaled.clip(-32768, 32767), np.int16)
