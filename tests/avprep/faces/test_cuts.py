"""Cuts between shots, and what only resembles a cut."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from made_motion import Pixels, filmed, moved, talker

from avprep.demo import synthetic
from avprep.faces.cuts import FLASH, dissolves, with_cuts
from avprep.talking import photo

T = np.arange(36) / 25


def cuts_of(film: Pixels) -> list[int]:
    """Return the frames that begin a shot; all frames must come back, in order."""
    pictures = [photo._picture(frame) for frame in film]
    found = list(with_cuts(pictures))
    assert [picture for picture, _ in found] == pictures
    return [n for n, (_, begins) in enumerate(found) if begins]


@pytest.fixture(scope="module")
def film() -> Pixels:
    """A talker in front of a wall."""
    return talker(36)[0]


@pytest.fixture(scope="module")
def others() -> list[Pixels]:
    """Three other shots: other people in front of other walls."""
    return [synthetic.utterance("ABOUT", synthetic.speaker(seed), 0, 256)[0] for seed in (5, 2, 8)]


def mixed(film: Pixels, shares: Any, other: Any) -> Pixels:
    """Return a video each of whose frames is mixed with the given fraction of another image."""
    shares = np.asarray(shares, np.float64)[:, None, None, None]
    return np.asarray(np.rint(film * (1 - shares) + np.asarray(other, np.float64) * shares), np.uint8)


def test_three_hard_cuts_are_three(film: Pixels, others: list[Pixels]) -> None:
    """Each cut is found at its first frame, even between shots of nine frames."""
    shots = [film[:9], *(other[:9] for other in others)]
    assert cuts_of(np.concatenate(shots)) == [9, 18, 27]


@pytest.mark.parametrize("length", [4, 5, 12])
def test_a_short_shot_is_two_cuts(length: int, film: Pixels, others: list[Pixels]) -> None:
    """A shot longer than a flash counts as a shot, though the first one continues after it."""
    assert length > FLASH
    shots = np.concatenate([film[:12], others[0][:length], film[12:24]])
    assert cuts_of(shots) == [12, 12 + length]


def test_a_jump_cut_is_one(film: Pixels) -> None:
    """A jump of the same head by 25 px is a cut."""
    assert cuts_of(filmed(moved(np.where(T < 0.7, -12.5, 12.5)))) == [18]


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("light", [255, 190])
def test_a_flash_is_no_cut(frames: int, light: int, film: Pixels) -> None:
    """One or two frames that are wholly or partly white make no cut, as the shot before them continues."""
    share = np.zeros(36)
    share[15 : 15 + frames] = 1 if light == 255 else 0.7
    assert cuts_of(mixed(film, share, light)) == []


@pytest.mark.parametrize("frames", [1, 2])
def test_a_picture_of_something_else_is_no_cut(frames: int, film: Pixels, others: list[Pixels]) -> None:
    """One or two frames of another shot, as from a broken file, make no cut."""
    broken = film.copy()
    broken[15 : 15 + frames] = others[0][:frames]
    assert cuts_of(broken) == []


BETWEEN = {
    "a mix": [(0.5, 0.5)],
    "two mixes": [(0.67, 0.33), (0.33, 0.67)],
    "a black picture": [(0, 0)],
    "three black ones": [(0, 0)] * 3,
    "a dip to black": [(0.6, 0), (0, 0), (0, 0.6)],
}


@pytest.mark.parametrize("name", BETWEEN)
def test_pictures_between_two_shots_hide_no_cut(name: str, film: Pixels, others: list[Pixels]) -> None:
    """Up to three frames that show both shots, or nothing, begin a shot each, and so does the frame after them."""
    shares = BETWEEN[name]
    mixes = [np.asarray(np.rint(a * film[12] + b * others[0][12]), np.uint8) for a, b in shares]
    found = cuts_of(np.concatenate([film[:12], mixes, others[0][12:24]]))
    assert found
    assert found[-1] - found[0] == len(found) - 1
    assert 12 <= found[0] <= found[-1] <= 12 + len(shares)
    assert cuts_of(np.concatenate([film[:12], [film[12] // 2, np.zeros_like(film[0])], film[14:26]])) == []


@pytest.mark.parametrize("to", ["black", "white", "another shot"])
def test_a_fade_is_no_cut(to: str, film: Pixels, others: list[Pixels]) -> None:
    """A fade over 8 frames to black, to white or to another shot is no cut."""
    end: Any = {"black": 0, "white": 255}.get(to)
    end = np.concatenate([others[0], others[0]])[:36] if end is None else end
    assert cuts_of(mixed(film, np.clip((np.arange(36) - 12) / 8, 0, 1), end)) == []


def dissolving(film: Pixels) -> bool:
    """Return whether a video dissolves from its first frame into its last."""
    thumbnails: list[Any] = []
    assert len(list(with_cuts([photo._picture(frame) for frame in film], thumbnails))) == len(thumbnails)
    return dissolves(thumbnails)


@pytest.mark.parametrize("length", [5, 8, 25])
def test_pictures_mixed_of_the_first_and_the_last_dissolve(length: int, film: Pixels, others: list[Pixels]) -> None:
    """A dissolve is recognised while both people talk; a hard cut and a fade to black are not dissolves."""
    other = np.concatenate([others[0], others[0]])[:36]
    assert dissolving(mixed(film, np.clip((np.arange(36) - 5) / length, 0, 1), other))
    assert not dissolving(np.concatenate([film[:18], other[18:]]))
    assert not dissolving(mixed(film, np.clip((np.arange(36) - 5) / length, 0, 1), 0))
    assert not dissolves([])


MOVING: dict[str, Callable[[], Pixels]] = {
    "shake": lambda: filmed(moved(6 * np.sin(6 * np.pi * T), 4 * np.sin(7.4 * np.pi * T))),
    "zoom": lambda: filmed(moved(zoom=1 + T / 3)),
    "noise": lambda: filmed(moved(0 * T), noise=25),
    "pan": lambda: filmed(moved(np.linspace(-60, 60, 36))),
    "start of a shake": lambda: filmed(moved(np.where(T > 0.7, 8 * np.sin(6 * np.pi * (T - 0.7)), 0))),
}


@pytest.mark.parametrize("name", MOVING)
def test_movement_and_noise_are_no_cut(name: str) -> None:
    """Shaking, panning, zooming and grain are neither cuts nor dissolves."""
    moving = MOVING[name]()
    assert cuts_of(moving) == []
    assert not dissolving(moving)


@pytest.mark.parametrize("fps", [9, 12, 15])
def test_pictures_that_repeat_hide_no_cut_and_make_none(fps: int, others: list[Pixels]) -> None:
    """A source below 25 fps repeats frames: each cut is found, and the steps between repeated frames are no cuts."""
    shown = np.rint(np.rint(T * fps) / fps * 25).astype(int).clip(0, 35)
    shake = filmed(moved(6 * np.sin(6 * np.pi * T), 4 * np.sin(7.4 * np.pi * T)))
    assert cuts_of(shake[shown]) == []
    cut = np.concatenate([shake[:18], others[0][:18]])
    (found,) = cuts_of(cut[shown])
    assert shown[found - 1] < 18 <= shown[found]


def test_brightness_alone_is_no_cut(film: Pixels) -> None:
    """A lamp that is switched on, which changes brightness and contrast, is no cut."""
    lit = film.copy()
    lit[18:] = np.clip(film[18:] * 1.4 + 10, 0, 255).astype(np.uint8)
    assert cuts_of(lit) == []


def test_few_pictures_are_no_matter(film: Pixels, others: list[Pixels]) -> None:
    """Clips of zero to four frames come back whole, with a cut where there is one."""
    for n, m in itertools.product(range(3), range(3)):
        shots = np.concatenate([film[:n], others[0][:m]])
        assert cuts_of(shots) == ([n] if n and m else []) or min(n, m) < 2


def test_pictures_of_another_size_begin_no_shot_by_themselves(film: Pixels) -> None:
    """Frames of different sizes cannot be compared by pixels, and raise no error."""
    pictures = [photo._picture(frame) for frame in film[:6]] + [
        photo._picture(np.ascontiguousarray(frame[:200, :240])) for frame in film[6:12]
    ]
    assert not any(begins for _, begins in with_cuts(pictures))
