"""Making tiny real media: pictures that encode their number and flash, and audio that clicks at the same instants."""

from __future__ import annotations

import subprocess
import wave
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
WIDTH, HEIGHT, BLOCK = 64, 48, 16
BITS = 11  # blocks of a picture that encode its number; the twelfth flashes
TICKS = 90_000  # a second in the clock of made pictures
NTSC = Fraction(30000, 1001)
HOP, WINDOW, RATE = 160, 400, 16_000  # samples of the product's clock


@dataclass(frozen=True)
class Probe:
    """The contents of a file's headers: codecs, None if there is no such stream; pixels; frames/s; seconds."""

    video: str | None
    width: int | None
    height: int | None
    fps: float | None
    audio: str | None
    duration: float | None


def probe(path: Path) -> Probe:
    """Read a file's headers."""
    with av.open(str(path)) as container:
        video, audio = next(iter(container.streams.video), None), next(iter(container.streams.audio), None)
        return Probe(
            video=None if video is None else video.codec_context.name,
            width=None if video is None else video.codec_context.width,
            height=None if video is None else video.codec_context.height,
            fps=None if video is None or video.average_rate is None else float(video.average_rate),
            audio=None if audio is None else audio.codec_context.name,
            duration=None if container.duration is None else container.duration / av.time_base,
        )


def ffmpeg(*arguments: Any) -> None:
    """Run ffmpeg; an error includes its messages."""
    command = [FFMPEG, "-hide_banner", "-loglevel", "error", "-nostdin", "-y", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def picture(number: int, *, lit: bool = False) -> NDArray[np.uint8]:
    """Draw a picture that can be read back after any codec: uint8 (48, 64)."""
    bits = [number >> i & 1 for i in range(BITS)] + [int(lit)]
    blocks = np.array(bits, np.uint8).reshape(HEIGHT // BLOCK, WIDTH // BLOCK)
    return (32 + 192 * blocks).repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)


def number_of(image: NDArray[np.uint8]) -> int:
    """Read the number of a picture from its RGB."""
    return sum(1 << i for i, block in enumerate(_blocks(image)[:BITS]) if block > 128)


def time_stamp(ticks: int) -> bytes:
    """Return a presentation time as a transport stream encodes it if there is a decoding time, too; no first byte."""
    return bytes([ticks >> 22 & 0xFF, (ticks >> 14 & 0xFE) | 1, ticks >> 7 & 0xFF, (ticks << 1 & 0xFE) | 1])


def is_lit(image: NDArray[np.uint8]) -> bool:
    """Return whether the flash is on in a picture's RGB."""
    return bool(_blocks(image)[BITS] > 128)


def _blocks(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    rows, across = HEIGHT // BLOCK, WIDTH // BLOCK
    inner = image.mean(axis=2).reshape(rows, BLOCK, across, BLOCK)[:, 4:12, :, 4:12]
    return np.asarray(inner.mean(axis=(1, 3))).ravel()


def steady(fps: Fraction | int, length: float, first: Fraction | float = 0) -> list[Fraction]:
    """Return the presentation times of a constant frame rate, in seconds."""
    return [Fraction(first) + n / Fraction(fps) for n in range(round(length * fps))]


def uneven(length: float, seed: int = 1, first: Fraction | float = 0) -> list[Fraction]:
    """Return the presentation times of a variable frame rate: 20 to 55 ms apart."""
    rng = np.random.default_rng(seed)
    times = [Fraction(first)]
    while times[-1] < first + length - 0.06:
        times.append(times[-1] + Fraction(int(rng.integers(20, 56)), 1000))
    return times


def clicks(instants: Iterable[Fraction | float], length: float, rate: int) -> NDArray[np.int16]:
    """Make audio that clicks (1 kHz, about 2 ms) at some instants over faint noise: int16 (N,)."""
    time = np.arange(round(length * rate)) / rate
    sound = np.random.default_rng(0).normal(0, 8, time.size)
    for instant in instants:
        near = slice(*np.searchsorted(time, (float(instant) - 0.03, float(instant) + 0.03)))  # beyond it is zero
        away = time[near] - float(instant)
        sound[near] += 20_000 * np.exp(-0.5 * (away / 0.0007) ** 2) * np.cos(2 * np.pi * 1000 * away)
    return np.clip(np.rint(sound), -32768, 32767).astype(np.int16)


def noise(length: float, rate: int, seed: int = 0) -> NDArray[np.int16]:
    """Make speech-like noise in which every segment is different: int16 (N,)."""
    rng = np.random.default_rng(seed)
    white = rng.normal(size=round(length * rate) + 16)
    return np.asarray(np.convolve(white, np.ones(16) / 4, "valid")[: round(length * rate)] * 3000).astype(np.int16)


def write(
    path: Path,
    times: Sequence[Fraction],
    pictures: Iterable[NDArray[np.uint8]],
    samples: NDArray[np.int16] | None = None,
    rate: int = RATE,
    *,
    sound_at: Fraction | float = 0,
    fps: Fraction | int | None = None,
    vcodec: str = "libx264",
    acodec: str = "aac",
    pixels: str = "yuv420p",
    layout: str = "mono",
    video: dict[str, str] | None = None,
    audio: dict[str, str] | None = None,
    container: str | None = None,
) -> Path:
    """Write a file: picture i is shown at times[i], sample n is heard at sound_at + n / rate seconds.

    pictures: uint8, (H, W) grey or (H, W, 3) RGB. samples: int16, (N,), or (C, N).
    fps: the frame rate if the codec needs a constant one; the times are then those of that rate.
    """
    options = {"b": "160k" if rate > 24_000 else "96k"} if acodec in ("aac", "mp2", "libmp3lame") else {}
    if acodec == "aac":
        options["aac_coder"] = "fast"
    with av.open(f"file:{path}", "w", format=container) as out:
        shown = out.add_stream(vcodec, rate=fps or 25, options=dict(video or {}))
        clock = Fraction(1, TICKS) if fps is None else 1 / Fraction(fps)
        shown.pix_fmt, shown.codec_context.time_base = pixels, clock
        if vcodec in ("mpeg1video", "mpeg2video", "mpeg4"):
            shown.bit_rate = 4_000_000
        heard = None
        if samples is not None:
            heard = out.add_stream(acodec, rate=rate, layout=layout, options={**options, **(audio or {})})
        made: list[av.Packet[Any]] = []
        for time, image in zip(times, pictures, strict=True):
            if not made and not shown.codec_context.is_open:
                shown.height, shown.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(image, format="gray" if image.ndim == 2 else "rgb24")
            frame.pts, frame.time_base = round(time / clock), clock
            made += shown.encode(frame)
        made += shown.encode(None)
        if heard is not None and samples is not None:
            channels = samples.reshape(-1, samples.shape[-1])
            for first in range(0, channels.shape[1], 1024):
                block = np.ascontiguousarray(channels[:, first : first + 1024])
                sound = av.AudioFrame.from_ndarray(block, format="s16p", layout=layout)
                sound.sample_rate, sound.time_base = rate, Fraction(1, rate)
                sound.pts = first + round(sound_at * rate)
                made += heard.encode(sound)
            made += heard.encode(None)
        for packet in sorted(made, key=lambda packet: packet.dts * packet.time_base):
            out.mux(packet)
    return path


def flash_and_click(
    path: Path,
    times: Sequence[Fraction],
    instants: Sequence[Fraction],
    length: float,
    rate: int = RATE,
    *,
    sound_at: Fraction | float = 0,
    **options: Any,
) -> Path:
    """Write a file whose picture lights up for 160 ms, and whose audio clicks, at the same instants."""
    lit = [any(instant <= time < instant + Fraction(16, 100) for instant in instants) for time in times]
    pictures = (picture(n, lit=on) for n, on in enumerate(lit))
    sound = clicks(instants, length, rate)[round(sound_at * rate) :]
    return write(path, times, pictures, sound, rate, sound_at=sound_at, **options)


def numbered(path: Path, times: Sequence[Fraction], samples: NDArray[np.int16] | None = None, **options: Any) -> Path:
    """Write a file whose pictures encode their number."""
    return write(path, times, (picture(n) for n in range(len(times))), samples, **options)


def write_wav(path: Path, samples: NDArray[np.int16], rate: int) -> Path:
    """Write int16 samples as a wav: mono (N,), or of several channels (N, C)."""
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(samples.astype("<i2").tobytes())
    return path


def loud_instants(samples: NDArray[np.int16], first: int) -> list[float]:
    """Return the instant of each click, in seconds of the clip: the mean centre of its loud MFCC steps.

    A step is 400 samples, every 160 of the clip; it is loud above a quarter of the loudest.
    """
    skip = -first % HOP
    frames = np.lib.stride_tricks.sliding_window_view(samples[skip:].astype(np.float64), WINDOW)[::HOP]
    level = np.sqrt((frames**2).mean(axis=1))
    loud = np.flatnonzero(level > level.max() / 4)
    runs = np.split(loud, np.flatnonzero(np.diff(loud) > 1) + 1)
    middle = lambda run: (first + skip + (run[0] + run[-1]) / 2 * HOP + WINDOW / 2) / RATE  # noqa: E731
    return [float(middle(run)) for run in runs]


def peaks(samples: NDArray[np.int16], first: int, count: int) -> list[float]:
    """Return the instants of the `count` loudest clicks, exact to the sample, in seconds of the clip."""
    left = np.abs(samples.astype(np.int32))
    found = []
    for _ in range(count):
        at = int(left.argmax())
        found.append((at + first) / RATE)
        left[max(0, at - 1600) : at + 1600] = 0
    return sorted(found)
