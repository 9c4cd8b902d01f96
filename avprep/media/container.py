"""Opening media files with PyAV: a single local file, its audio and video streams, its clock.

Input is untrusted: decoders get no network, no playlists and no second file to open.
"""

from __future__ import annotations

import errno
import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.container
import av.error
import av.stream

from avprep.errors import Reject, explained, plural
from avprep.files import check_regular

FORMATS = (
    "aac,ac3,aiff,asf,avi,flac,flv,h264,hevc,ivf,m4v,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpeg,mpegts,mpegvideo,"
    "mxf,nut,ogg,rm,vob,wav,w64,gxf,dv"
)
"""Demuxers that read a single file. They exclude playlists (hls, dash, concat), scripts and image sequences."""
MAX_PIXELS = 8192 * 8192
"""Larger pictures are refused before memory is allocated (pixels)."""
SEEK_BEYOND = 20
"""Clips that start later than this into a file are reached by seeking (s)."""
_METADATA: dict[str, Any] = {"metadata_errors": "replace"} if hasattr(av.container.Container, "metadata_errors") else {}
"""Makes PyAV accept tags that are not UTF-8; from version 19 on it always does."""
Seconds = Fraction


def duration(path: Path) -> float | None:
    """Return the duration in a file's header (s), None if there is none. Reject(`missing`, `unreadable`)."""
    with open_file(path) as container:
        return None if container.duration is None else container.duration / av.time_base


class _File(io.FileIO):
    """A file that keeps its first read error, because demuxers treat it as the end of the file."""

    failure: OSError | None = None

    def read(self, size: int | None = -1) -> bytes:
        """Read up to `size` bytes; none if that fails."""
        try:
            return super().read() if size is None or size < 0 else os.read(self.fileno(), size)
        except OSError as error:
            self.failure = self.failure or error
            return b""

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position and return it; -1, libavformat's error value, if that fails."""
        try:
            return super().seek(position, whence)
        except OSError as error:
            # In damaged files demuxers seek to positions before the start.
            self.failure = self.failure or (None if error.errno == errno.EINVAL else error)
            return -1


def broken_storage(path: object, failure: OSError) -> Reject:
    """Return the Reject for a file that the system could not read."""
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
        raise Reject("unreadable", f"{path}: {explained(error)}") from error
    with file:
        try:
            container = av.open(
                file,
                "r",
                # Headers suffice: without this each file's first picture is decoded twice.
                options={"max_pixels": str(MAX_PIXELS), "skip_frame": "all"},
                container_options={"protocol_whitelist": "file", "format_whitelist": FORMATS},
                **_METADATA,
            )
        except (av.error.FFmpegError, UnicodeError, ValueError) as error:
            if file.failure is not None:
                raise broken_storage(path, file.failure) from error
            reason = explained(error)
            if isinstance(error, av.error.InvalidDataError | av.error.ArgumentError):  # the latter: not one of FORMATS
                reason = "no audio or video can be read from it (Invalid data found when processing input)"
            raise Reject("unreadable", f"{path}: {reason}") from error
        try:
            yield container
        finally:
            container.close()


def container_start(container: av.container.InputContainer) -> Seconds:
    """Return the start time of a file's own clock, in seconds."""
    return Fraction(container.start_time or 0, av.time_base)


def video_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """Return the default video stream, else the first; cover art does not count."""
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


def audio_stream(container: av.container.InputContainer, track: int | None) -> av.AudioStream | None:
    """Return an audio track: the first default one, else the first; None without audio.

    track: the number of another, from 0. Reject(`no_audio`) if the file has no such track or it cannot be decoded.
    """
    every = container.streams.audio
    if track is not None:
        if track < len(every) and every[track].codec_context is not None:
            return every[track]
        there = plural(len(every), "audio track")
        which = "cannot be decoded" if track < len(every) else f"does not exist: the file has {there}, from 0"
        raise Reject("no_audio", f"{container.name.removeprefix('file:')}: --audio-track {track} {which}")
    usable = [stream for stream in every if stream.codec_context is not None]
    preferred = [stream for stream in usable if stream.disposition & av.stream.Disposition.default]
    return next(iter(preferred or usable), None)


def track_number(container: av.container.InputContainer, stream: av.AudioStream) -> int:
    """Return the number of a stream among the file's audio tracks, from 0."""
    return [other.index for other in container.streams.audio].index(stream.index)


def is_ogg_vorbis(stream: av.AudioStream) -> bool:
    """Return whether an audio track is Vorbis in Ogg.

    For these, libavformat gives the first short block after a long one too late a time stamp; its end is correct.
    """
    return stream.codec_context.name == "vorbis" and stream.container.format.name == "ogg"


def has_presentation_times(container: av.container.InputContainer) -> bool:
    """Return whether the packets have presentation times.

    Packets of AVI are in decoding order, one for each instant; the times that libavformat makes up for them are wrong
    for H.264.
    """
    return container.format.name != "avi"


def seek(container: av.container.InputContainer, stream: Any, time: Seconds) -> bool:
    """Seek to the key frame before a time in seconds; False if the file is not seekable."""
    try:
        container.seek(math.floor(time / Fraction(stream.time_base)), stream=stream, backward=True)
    except av.error.FFmpegError:
        return False
    return True


def seconds(value: float | None) -> Seconds:
    """Return a number of seconds as an exact fraction, rounded to microseconds; None is 0."""
    return Fraction(value).limit_denominator(10**6) if value else Fraction(0)
