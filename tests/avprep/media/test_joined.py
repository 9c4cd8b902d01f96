"""Broadcast recordings made of several parts, whose time stamps jump where one part ends and the next begins."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import made_media as made
import numpy as np
import pytest

from avprep.media.audio import read_sound
from avprep.media.packets import _Joints
from avprep.media.video import Frames

TIMES = made.steady(25, 2)
FLASHES = [Fraction(6, 10), Fraction(14, 10)]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three parts of two seconds, whose pictures are numbered through; each flashes and clicks twice."""
    folder = tmp_path_factory.mktemp("parts")
    made_parts = []
    for n in range(3):
        lit = [any(instant <= time < instant + Fraction(16, 100) for instant in FLASHES) for time in TIMES]
        pictures = (made.picture(50 * n + i, lit=on) for i, on in enumerate(lit))
        codecs = {"fps": 25, "vcodec": "mpeg2video", "acodec": "mp2", "video": {"g": "12", "bf": "2"}}
        made_parts.append(
            made.write(folder / f"{n}.mkv", TIMES, pictures, made.clicks(FLASHES, 2, 48_000), 48_000, **codecs)
        )
    return made_parts


def joined(path: Path, parts: list[Path], begins: tuple[int, ...]) -> Path:
    """Write the parts one after another; begins: where the time stamps of each begin (s)."""
    data = b""
    for n, (part, begin) in enumerate(zip(parts, begins, strict=False)):
        alone = path.with_stem(f"part{n}")
        made.ffmpeg("-i", part, "-c", "copy", "-output_ts_offset", begin, alone)
        data += alone.read_bytes()
    path.write_bytes(data)
    return path


def check(path: Path, first: int, n_frames: int, **span: float) -> None:
    """Check that a clip has consecutive pictures from `first` on, as many windows, and clicks at its flashes."""
    pictures = [picture.rgb() for picture in Frames(path, **span)]
    assert [made.number_of(picture) for picture in pictures] == list(range(first, first + n_frames))
    lit = [False, *map(made.is_lit, pictures)]
    seen = [n / 25 for n, (before, now) in enumerate(itertools.pairwise(lit)) if now and not before]
    sound = read_sound(path, **span)
    assert sound.n_frames == n_frames
    assert np.allclose(made.peaks(sound.samples, sound.first, len(seen)), seen, atol=0.001)


@pytest.mark.parametrize("suffix", ["ts", "mpg"])
@pytest.mark.parametrize("begins", [(0, 0, 0), (50, 0, 20), (0, 100, 200), (0, 100, 0)], ids=str)
def test_parts_follow_each_other(begins: tuple[int, ...], suffix: str, parts: list[Path], tmp_path: Path) -> None:
    """Wherever the clock of each part begins, its pictures and audio follow those of the last part, in sync."""
    path = joined(tmp_path / f"joined.{suffix}", parts, begins)
    check(path, 0, 150)
    check(path, 60, 40, start=2.4, duration=1.6)


def test_a_late_clip_of_many_parts(parts: list[Path], tmp_path: Path) -> None:
    """A clip that starts 22 s into such a recording is found, although its time stamps occur before, too."""
    path = joined(tmp_path / "joined.ts", parts, (0, 0, 30))
    path.write_bytes(path.read_bytes() * 4)
    check(path, 560 % 150, 25, start=22.4, duration=1.0)


def test_a_hole_of_some_seconds_is_no_joint(parts: list[Path], tmp_path: Path) -> None:
    """Time stamps that leap ahead by less than ten seconds, as after lost reception, keep their times."""
    path = joined(tmp_path / "joined.ts", parts[:2], (0, 5))
    shown = [made.number_of(picture.rgb()) for picture in Frames(path)]
    begins = shown.index(51) - 1
    assert begins == pytest.approx(25 * 5, abs=2)
    assert shown[:50] == list(range(50))
    assert shown[begins + 1 :] == list(range(51, 100))
    sound = read_sound(path)
    assert sound.n_frames == len(shown)
    late = [begins / 25 + float(instant) for instant in FLASHES]
    assert np.allclose(made.peaks(sound.samples, sound.first, 4)[2:], late, atol=0.001)


@pytest.mark.parametrize("lag", [0, 150, 450, 900])
@pytest.mark.parametrize(
    "begins",
    [
        (0, 1700),
        (0, 1000),
        (0, 0),
        (0, 90_000),
        (0, 1700, 0),
        (0, 90_000, 9),
        (0, 26_000, 0) * 4,
    ],
    ids=str,
)
def test_streams_enter_a_part_one_after_the_other(begins: tuple[int, ...], lag: int) -> None:
    """If packets of two parts alternate around a joint, the audio later in the file, each is placed in its own part."""
    packets = [
        (2000 * part + time + lag * stream, stream, begin + time, 2000 * part + time)
        for part, begin in enumerate(begins)
        for stream, step in enumerate((40, 24))
        for time in range(0, 2000 - 2000 % step, step)
    ]
    joints = _Joints()
    for _, stream, stamp, expected in sorted(packets):
        packet: Any = SimpleNamespace(dts=stamp, pts=stamp + 80, duration=(40, 24)[stream], time_base=Fraction(1, 1000))
        packet.stream = SimpleNamespace(index=stream)
        joints.place(packet)
        assert packet.dts == pytest.approx(expected, abs=24)
        assert packet.pts - packet.dts == 80
    assert joints.found
