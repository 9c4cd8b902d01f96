"""Whole files through ffmpeg: transcoding, and joining pictures with sound. Needs no ffmpeg on the system."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import ffmpeg
import imageio_ffmpeg

from avprep.errors import AvprepError


def ffmpeg_binary() -> str:
    """Return the system's ffmpeg, or else the one that imageio-ffmpeg ships; AvprepError where there is none."""
    system = shutil.which("ffmpeg")
    if system is not None:
        return system
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise AvprepError("no ffmpeg was found: install ffmpeg, or set IMAGEIO_FFMPEG_EXE to one") from error


def transcode(source: Path, output: Path, **options: Any) -> None:
    """Transcode one file; options are ffmpeg's output options, e.g. `vcodec="libx264", r=25`.

    The output appears whole or not at all. Raises AvprepError with ffmpeg's own last words.
    """
    _run([ffmpeg.input(_local(source))], [source], output, options)


def mux(pictures: Path, sound: Path, output: Path, **options: Any) -> None:
    """Put the pictures of one file and the sound of another into a third, both from their own start.

    The video stream is copied unless options say otherwise. The output appears whole or not at all. Raises AvprepError
    with ffmpeg's own last words.
    """
    streams = [ffmpeg.input(_local(pictures))["v:0"], ffmpeg.input(_local(sound))["a:0"]]
    _run(streams, [pictures, sound], output, {"vcodec": "copy", **options})


def _local(path: Path) -> str:
    return f"file:{path}"  # so that no name is ever taken for a protocol


def _run(streams: list[Any], sources: list[Path], output: Path, options: dict[str, Any]) -> None:
    names = " and ".join(map(str, sources))
    if output.exists() and any(source.exists() and source.samefile(output) for source in sources):
        raise AvprepError(f"{output}: is the input too; choose another name for the output")
    part = output.with_name(f".{output.stem}.part{output.suffix}")  # ffmpeg takes the format from the suffix
    command = ffmpeg.output(*streams, _local(part), **options).overwrite_output()
    command = command.global_args("-hide_banner", "-loglevel", "error", "-nostdin")
    try:
        command.run(cmd=ffmpeg_binary(), capture_stdout=True, capture_stderr=True)
        part.replace(output)
    except ffmpeg.Error as error:
        raise AvprepError(f"{names} to {output}: ffmpeg failed: {_words(error.stderr)}") from error
    except OSError as error:
        raise AvprepError(f"{names} to {output}: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def _words(stderr: bytes) -> str:
    """Return the first and the last of ffmpeg's lines, without the addresses of its objects: the cause and the end."""
    lines = [
        re.sub(r"^(\[[^]]*\] )+", "", line) for line in stderr.decode(errors="replace").splitlines() if line.strip()
    ]
    return "; ".join(dict.fromkeys(line.strip() for line in (*lines[:1], *lines[-1:]))) or "no message"
