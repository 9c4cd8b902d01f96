"""Whole files with ffmpeg: transcoding, and videos from frames and audio. Needs no ffmpeg on the system."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ffmpeg
import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from avprep.errors import AvprepError, Reject
from avprep.media.container import FORMATS, Seconds, audio_stream, is_ogg_vorbis, open_file
from avprep.media.pcm import GAP
from avprep.schema import FPS
from avprep.signals import Stop, Stopped, stop_signals

QUALITY = 18
"""x264's constant rate factor for videos: smaller is better, 18 looks like the source."""
SAID = 1 << 16
"""Bytes of ffmpeg's messages that are kept from the beginning and from the end."""
MESSAGE = 400
"""Maximum characters of ffmpeg's messages in an error."""
THREADS = 4
"""x264's threads on every machine: its bytes depend on their number."""
VORBIS_LATE = 448
"""Samples by which libavformat's time stamp of a short block of Ogg Vorbis after a long one is late: a quarter of the
difference of libvorbis's 2048 and 256 samples. The next block has its correct time."""

FINITE = "if(isnan(val(ch)),0,clip(val(ch),-1,1))"
"""Filter for floating-point samples, as for the MFCC windows: encoders accept only finite ones."""


def ffmpeg_binary() -> str:
    """Return the system's ffmpeg, or else the one that imageio-ffmpeg ships; AvprepError if there is none."""
    system = shutil.which("ffmpeg")
    if system is not None:
        return system
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise AvprepError("no ffmpeg was found: install ffmpeg, or set IMAGEIO_FFMPEG_EXE to one") from error


def transcode(source: Path, output: Path, **options: Any) -> None:
    """Transcode one file; options are ffmpeg's output options, e.g. `vcodec="libx264", r=25`.

    The output is written atomically. Raises AvprepError with ffmpeg's own last message.
    """
    with _output(output, [source]) as part:
        command = _command([_input(source)], part, options).global_args("-nostdin")
        with _running(command, stdin=subprocess.DEVNULL) as (process, messages):
            if process.wait():
                raise _failed([source], output, messages.read())


def write_film(
    output: Path,
    frames: Iterable[NDArray[np.uint8]],
    n_frames: int,
    *,
    sound: Path | None = None,
    zero: Seconds | None = None,
    track: int = 0,
) -> None:
    """Write frames as a video of 25 fps, H.264 in mp4, with the audio of a file.

    frames: uint8 (H, W, 3), RGB, all of the same even size; n_frames of them.
    sound: a file with audio; the audio at frame 0 has the time stamp `zero` (s) in it. Silence fills missing audio
        before, between and after; the video's audio is as long as its pictures, to the sample.
    track: which of the file's audio tracks, from 0.
    The output is written atomically, even if reading the frames raises. Raises AvprepError with ffmpeg's own last
    message, and Stopped after SIGTERM or SIGHUP; an unfinished output is removed.
    """
    shown = iter(frames)
    first = next(shown)
    height, width = first.shape[:2]
    streams = [
        ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", framerate=FPS).filter(
            "scale", out_color_matrix="bt709", out_range="tv"
        )
    ]
    if sound is not None:
        heard = _heard(sound, track, float(zero or 0))
        streams.append(heard.filter("apad").filter("atrim", end=n_frames / FPS))
    options = {
        "vcodec": "libx264",
        "crf": QUALITY,
        "pix_fmt": "yuv420p",
        "threads": THREADS,
        "movflags": "+faststart",
        **dict.fromkeys(("color_primaries", "color_trc", "colorspace"), "bt709"),
        "color_range": "tv",
    }
    sources = [] if sound is None else [sound]
    with stop_signals((signal.SIGTERM, signal.SIGHUP)) as stop, _output(output, sources) as part:
        command = _command(streams, part, options).global_args("-copyts")  # so that `zero` is a time stamp of the file
        with _running(command, stdin=subprocess.PIPE) as (process, messages):
            _feed(process, first, shown, stop)
            if stop.is_set():
                raise Stopped(f"{output}: stopped by {stop.by}, and not written")
            if process.wait():
                raise _failed(sources, output, messages.read())


def _feed(
    process: subprocess.Popen[bytes], first: NDArray[np.uint8], others: Iterator[NDArray[np.uint8]], stop: Stop
) -> None:
    """Send frames to ffmpeg until a stop; if ffmpeg has ended early, its messages and status explain it."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.write(first.tobytes())
        for frame in others:
            if stop.is_set():
                return
            assert frame.shape == first.shape, (frame.shape, first.shape)
            process.stdin.write(frame.tobytes())
        process.stdin.close()


def _input(path: Path) -> Any:
    """Return a file as an input of ffmpeg, read only in the formats that our own decoders read."""
    return ffmpeg.input(_local(path), format_whitelist=FORMATS, protocol_whitelist="file")


def _heard(sound: Path, track: int, start: float) -> Any:
    """Return an audio track from a time stamp (s) on, with silence before it and in its gaps."""
    gap, fractions = float(GAP), False
    with suppress(Reject), open_file(sound) as container:  # ffmpeg reports an unreadable file itself
        stream = audio_stream(container, track)
        if stream is not None and stream.rate:
            fractions = stream.codec_context.name.startswith("pcm_f")
            gap += VORBIS_LATE / stream.rate if is_ogg_vorbis(stream) else 0
    heard = _input(sound)[f"a:{track}"]
    if fractions:
        heard = heard.filter("aeval", FINITE, channel_layout="same")
    heard = heard.filter("atrim", start=start).filter("asetpts", f"PTS-{start:.6f}/TB")
    return heard.filter("aresample", **{"async": 1, "min_hard_comp": gap, "first_pts": 0})


def _local(path: Path) -> str:
    """Return a file's name for ffmpeg-python, whose options must be UTF-8: each byte is a character; see `_compiled`.

    `file:` keeps names from being interpreted as protocols.
    """
    return f"file:{os.fsencode(path).decode('latin-1')}"


def _compiled(command: Any) -> list[bytes]:
    """Return the command line of ffmpeg, with the bytes of names that need not be UTF-8."""
    _, *arguments = command.compile()
    return [os.fsencode(ffmpeg_binary()), *(argument.encode("latin-1") for argument in arguments)]


def _command(streams: list[Any], part: Path, options: dict[str, Any]) -> Any:
    command = ffmpeg.output(*streams, _local(part), **options).overwrite_output()
    return command.global_args("-hide_banner", "-loglevel", "error")


@contextmanager
def _output(output: Path, sources: list[Path]) -> Iterator[Path]:
    """Yield a temporary name to write to; afterwards the file gets the output's own name."""
    if output.exists() and any(source.exists() and source.samefile(output) for source in sources):
        raise AvprepError(f"{output}: is the input too; choose another name for the output")
    # A separate name for each process; ffmpeg takes the format from the suffix.
    part = output.with_name(f".{output.stem[:100]}.{os.getpid()}.part{output.suffix}")
    try:
        part.touch()  # ffmpeg's message would have the temporary name
    except OSError as error:
        raise AvprepError(f"{output}: cannot write ({error.strerror})") from error
    try:
        yield part
        part.replace(output)
    except OSError as error:
        raise AvprepError(f"{_names(sources, output)}: {error}") from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _running(command: Any, *, stdin: int) -> Iterator[tuple[subprocess.Popen[bytes], _Messages]]:
    """Start ffmpeg and read its messages while it runs; it does not outlive the block."""
    process = subprocess.Popen(_compiled(command), stdin=stdin, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    messages = _Messages(process)
    try:
        yield process, messages
    finally:
        process.kill()
        if process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.close()
        process.wait()
        messages.read()
        assert process.stderr is not None
        process.stderr.close()


class _Messages:
    """ffmpeg's messages on standard error, read while it runs: a full pipe would block it for ever.

    Only the beginning and the end are kept, `SAID` bytes of each: a damaged file may cause a line per packet.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._head, self._tail = b"", b""
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def read(self) -> bytes:
        """Return the messages, once ffmpeg has ended."""
        self._listener.join()
        return self._head + self._tail

    def _listen(self) -> None:
        assert self._process.stderr is not None
        while part := os.read(self._process.stderr.fileno(), SAID):
            room = SAID - len(self._head)
            self._head += part[:room]
            self._tail = (self._tail + part[room:])[-SAID:]


def _failed(sources: list[Path], output: Path, stderr: bytes) -> AvprepError:
    return AvprepError(f"{_names(sources, output)}: ffmpeg failed: {_reason(stderr)}")


def _names(sources: list[Path], output: Path) -> str:
    return f"{' and '.join(map(str, sources))} to {output}" if sources else str(output)


def _reason(stderr: bytes) -> str:
    """Return the first and the last of ffmpeg's lines (the cause and the end), without its objects' addresses."""
    lines = [
        re.sub(r"^(\[[^]]*\] )+", "", line) for line in stderr.decode(errors="replace").splitlines() if line.strip()
    ]
    said = "; ".join(dict.fromkeys(line.strip() for line in (*lines[:1], *lines[-1:]))) or "no message"
    said = "".join(letter if letter.isprintable() else "·" for letter in said)
    return said if len(said) <= MESSAGE else f"{said[: MESSAGE - 1]}…"
