"""The pictures of a clip at 25 fps by presentation time, decoded in process with PyAV."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

from avprep.errors import Reject
from avprep.media.container import MAX_PIXELS, Seconds, open_file, seconds
from avprep.media.decoding import ClipDecoder
from avprep.media.picture import Displays, Picture
from avprep.media.timeline import TAIL, FrameCount, PictureTimes, Timeline, too_long
from avprep.schema import FPS

MAX_HELD = 12
"""Maximum consecutive frames that show a neighbour's picture because their own is damaged."""


class Frames:
    """The pictures of one clip at 25 fps; iterate as often as needed.

    Yields one `Picture` per frame, the one with the nearest presentation time (the same object again if the source is
    slower). The pictures are kept for the next iteration if they fit into `keep_bytes`, otherwise decoded again.

    A full iteration sets `zero` (time stamp of the file's first picture), `n_frames`, `source_frames` (pictures
    decoded), `decode_errors`, `interlaced`, `held` (frames that show a neighbour's picture because their own is
    damaged), `promised` (s: length that the file's header promises in the clip's span if the file ends before that,
    else None), and, from the first picture, `hdr` and `pixel_aspect`.

    Iterating raises Reject: `missing`, `unreadable` (also: more than `MAX_HELD` damaged pictures in a row),
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
        self.held = 0
        self.promised: Seconds | None = None
        self._decoder: ClipDecoder | None = None
        self._timeline: Timeline | None = None  # if the packets give it
        self.hdr: str | None = None
        self.pixel_aspect = Fraction(1)
        self._tick = Fraction(1, 2 * FPS)
        self._kept: list[Picture] | None = None

    @property
    def decode_errors(self) -> int:
        """Damaged packets that were skipped, as in ffmpeg."""
        return 0 if self._decoder is None else self._decoder.decode_errors

    @property
    def interlaced(self) -> bool:
        """Whether pictures had to be deinterlaced."""
        return self._decoder is not None and self._decoder.interlaced

    @property
    def damage(self) -> dict[str, Any]:
        """The metadata recorded for a damaged file, as JSON; empty for an intact one."""
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
                # Instants up to halfway between two pictures belong to the earlier one.
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
        if emitted < limit:  # else pictures on both sides of the last frame were decoded, and later ones do not matter
            lost.end()
        self.n_frames = count.total() if self._timeline is None else self._timeline.n_frames
        if self.n_frames < 1:
            raise Reject("too_short", f"{self.path}: ends before the clip's start at {float(self.start):.2f} s")
        for _ in range(emitted, self.n_frames):
            yield shown

    def _pictures(self) -> Iterator[tuple[int, Picture]]:
        """Yield (ticks after the file's first picture, picture), in order, from shortly before the clip's start on."""
        with ExitStack() as opened:
            container = opened.enter_context(open_file(self.path))
            times = PictureTimes(self.path, container, self.start, self.duration, self.max_seconds)
            timeline, packets = times.read()
            if packets is None:
                opened.close()
                container = opened.enter_context(open_file(self.path))
            self.promised = timeline.promised
            self._timeline = timeline if timeline.reliable else None
            self._decoder = decoder = ClipDecoder(
                self.path, container, timeline, start=self.start, threads=self.threads, packets=packets
            )
            self._tick = decoder.tick
            displays = Displays(decoder.stream)
            zero = int(timeline.zero / self._tick) if timeline.reliable else None
            furthest: float = math.inf
            if timeline.reliable:  # an integer, as it is compared with every picture's time
                furthest = math.floor((timeline.times[-1] * timeline.tick + TAIL) / self._tick)
            last = None
            for time, frame in decoder:
                if zero is None:
                    zero = time
                if time - zero > furthest:  # its time stamp is damaged
                    continue
                if last is None or time > last:  # time stamps of a damaged file may run backwards
                    if last is None:
                        self.zero = zero * self._tick
                    shown = displays.of(frame)
                    if math.prod(shown.size(frame.width, frame.height)) > MAX_PIXELS:
                        raise Reject("unreadable", f"{self.path}: the picture is shown larger than {MAX_PIXELS} pixels")
                    yield time - zero, Picture(frame, shown)
                    last = time


class _Lost:
    """Counts the frames whose own picture is damaged; more than `MAX_HELD` consecutive ones end the clip."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._last: int | None = None
        self._ratio: tuple[int, int] | None = None
        frames.held = 0

    def seen(self, time: int) -> None:
        """Record the next decoded picture; time: in ticks of `frames`."""
        if self._last is None or time > self._last:
            self._between(self._last, time)
            self._last = time

    def end(self) -> None:
        """Record that no more pictures follow."""
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
        if self._ratio is None:
            self._ratio = (tick / self._tick).as_integer_ratio()
        ours, theirs = self._ratio  # `ours` ticks of `frames` equal `theirs` of its timeline
        # Integers: fractions would take longer than the decoding.
        first = bisect.bisect_right(times, -1 if before is None else before * theirs // ours)
        if first == len(times) or times[first] * ours >= time * theirs:
            return
        low = max(frames.start, times[first] * tick)
        high = min(time * self._tick, frames.start + Fraction(frames._timeline.n_frames, FPS))
        held = max(0, round((high - low) * FPS))
        frames.held += held
        if held > MAX_HELD:
            at = float(low - frames.start)
            raise Reject("unreadable", f"{frames.path}: {held} frames in a row from {at:.2f} s on cannot be decoded")
