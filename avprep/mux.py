"""Whole files through ffmpeg: transcoding, and joining pictures with sound. Needs no ffmpeg on the system."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import ffmpeg
import imageio_ffmpeg

from avprep.errors import AvprepError


def ffmpeg_binary() -> str:
    """Return the system's ffmpeg, or else the one that imageio-ffmpeg ships."""
    return shutil.which("ffmpeg") or str(imageio_ffmpeg.get_ffmpeg_exe())


def transcode(source: Path, output: Path, **options: Any) -> None:
    """Transcode one file; options are ffmpeg's output options, e.g. `vcodec="libx264", r=25`.

    Raises AvprepError with ffmpeg's own last words.
    """
    _run(ffmpeg.input(_local(source)).output(_local(output), **options), output)


def mux(pictures: Path, sound: Path, output: Path, **options: Any) -> None:
    """Put the pictures of one file and the sound of another into a third, both from their own start.

    The video stream is copied unless options say otherwise. Raises AvprepError with ffmpeg's own last words.
    """
    video, audio = ffmpeg.input(_local(pictures)).video, ffmpeg.input(_local(sound)).audio
    _run(ffmpeg.output(video, audio, _local(output), **{"vcodec": "copy", **options}), output)


def _local(path: Path) -> str:
    return f"file:{path}"  # so that no name is ever taken for a protocol


def _run(stream: Any, output: Path) -> None:
    arguments = stream.global_args("-hide_banner", "-loglevel", "error", "-nostdin")
    try:
        arguments.overwrite_output().run(cmd=ffmpeg_binary(), capture_stderr=True)
    except ffmpeg.Error as error:
        words = error.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise AvprepError(f"{output}: ffmpeg failed: {words[-1]}") from error
