"""Faces hold still in their crops however the image moves, and their steadiness is measured there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import made_motion as made
import numpy as np
import pytest
from made_motion import Motion, Pixels, aligned, crops_of, figures, filmed, moved
from numpy.typing import NDArray

from avprep.faces import detectors
from avprep.faces.detectors.base import Detector
from avprep.faces.steadiness import Steadiness
from avprep.manifest import Clip
from avprep.stages import CropSettings, crop_clip

T = np.arange(36) / 25
HZ = 2 * np.pi
NINE = np.rint(np.rint(T * 9) / 9 * 25).astype(int).clip(0, len(T) - 1)


def shaken(t: NDArray[np.float64]) -> Motion:
    """Return the motion of an image that shakes by 6 px at 3 Hz."""
    return moved(6 * np.sin(3 * HZ * t), 4 * np.sin(3.7 * HZ * t))


FILMS: dict[str, Callable[[], tuple[Pixels, Motion]]] = {
    "shake": lambda: (filmed(shaken(T)), shaken(T)),
    "nod": lambda: (filmed(nod := moved(y=10 * np.sin(2 * HZ * T))), nod),
    "jump cut": lambda: (filmed(jump := moved(np.where(T < 0.7, -12.5, 12.5))), jump),
    "zoom": lambda: (filmed(zoom := moved(zoom=1 + T / 4)), zoom),
    "roll": lambda: (filmed(roll := moved(degrees=10 * np.sin(HZ * T))), roll),
    # The nearest frame is shown at each instant: of 30 per second some are left out, of 9 all are repeated.
    "30 fps": lambda: (filmed(fast := shaken(np.rint(T * 30) / 30)), fast),
    "9 fps": lambda: (filmed(shaken(T))[NINE], Motion(shaken(T).at[NINE])),
    "blur": lambda: (filmed(shaken(T), blurred=True), shaken(T)),
    "noise": lambda: (filmed(shaken(T), noise=8), shaken(T)),
    "still": lambda: (filmed(still := moved(0 * T)), still),
}


@pytest.fixture(scope="module")
def films() -> dict[str, tuple[Pixels, Motion]]:
    """The frames of each video, and how they move."""
    return {name: film() for name, film in FILMS.items()}


@pytest.fixture(params=["opencv", "yunet"])
def named(request: pytest.FixtureRequest) -> tuple[str, Detector]:
    """Each detector that runs here, and its name."""
    name: str = request.param
    return name, detectors.build(name if name == "opencv" else request.getfixturevalue(name))


def close(measured: float, truth: float) -> bool:
    """Return whether a measured figure is within 30 % of the truth, or .02 px: images move in steps of 1/32 px."""
    return abs(measured - truth) <= max(0.3 * truth, 0.02)


@pytest.mark.parametrize("name", FILMS)
def test_a_face_holds_still_in_its_crops(
    name: str, named: tuple[str, Detector], films: dict[str, tuple[Pixels, Motion]]
) -> None:
    """However the video moves, the face moves at most 1 px per frame and 3 px in all, and the figures agree."""
    film, motion = films[name]
    crops = crops_of(aligned(film, named[1], named[0]), motion)
    assert crops.step <= (0.25 if name == "still" else 1.0)
    assert crops.off <= 3.0
    assert close(crops.jitter, crops.step), crops
    assert abs(crops.slip - crops.away) <= max(0.3 * crops.away, 0.4), crops
    assert len(crops.cuts) == (1 if name == "jump cut" else 0)


def test_what_does_not_follow_the_face_is_said_to_shake(films: dict[str, tuple[Pixels, Motion]]) -> None:
    """With one transform per clip the face moves as the image does, and jitter and slip measure by how much."""
    film, motion = films["shake"]
    still = crops_of(aligned(film, detectors.build("opencv"), "opencv", "per-clip"), motion)
    assert still.step > 5
    assert still.jitter == pytest.approx(still.step, rel=0.3)
    assert still.slip == pytest.approx(still.away, rel=0.1)


def test_the_figures_stand_in_the_clips_facts(tmp_path: Path, films: dict[str, tuple[Pixels, Motion]]) -> None:
    """`jitter` and `slip` of clip.json and of the summary are those of the crops themselves."""
    film, motion = films["shake"]
    made.write(tmp_path / "a.mp4", film)
    settings = CropSettings("opencv", every=4)
    sample = crop_clip(Clip("a", "a.mp4", "train"), tmp_path, settings, detectors.build("opencv"))
    facts = json.loads(dict(sample.members)["clip.json"])
    crops = crops_of(aligned(film, detectors.build("opencv"), "opencv"), motion)
    assert close(facts["jitter"], crops.step)
    assert facts["jitter_unsmoothed"] > 0
    for name in ("jitter", "slip"):
        assert sample.summary[name] == facts[name]


@pytest.mark.parametrize("x", [0.0, 1.0, 3.0])
def test_measured_movement_is_that_of_the_crops(x: float) -> None:
    """Crops that jump to and fro by x pixels have the jitter of these jumps, and a slip of half of x."""
    rng, measured = np.random.default_rng(0), Steadiness(frozenset())
    texture = np.repeat(np.repeat(rng.integers(0, 256, (40, 40, 1), np.uint8), 8, 0), 8, 1).repeat(4, 2)
    blurred = np.asarray(cv2.GaussianBlur(texture, (0, 0), 5), np.uint8)
    n = np.arange(41)
    shifts = x / 2 * (-1.0) ** (n + n // 10)  # every tenth crop stays where the one before is
    for shift in shifts:
        at = np.array([[1, 0, shift - 20], [0, 1, -20]])
        measured.add(np.asarray(cv2.warpAffine(blurred, at, (256, 256)), np.uint8))
    jitter, slip = figures(measured)
    assert slip == pytest.approx(x / 2, abs=0.1)
    assert jitter == pytest.approx(np.abs(np.diff(shifts)).mean(), abs=0.02)


def test_what_shows_nothing_is_not_measured() -> None:
    """Grey crops have neither jitter nor slip: both are NaN."""
    measured = Steadiness(frozenset())
    for _ in range(30):
        measured.add(np.full((256, 256, 4), 127, np.uint8))
    assert np.isnan(figures(measured)).all()


def test_a_place_that_is_compared_with_none_is_not_measured(films: dict[str, tuple[Pixels, Motion]]) -> None:
    """If no later crop resembles the first one, as with a late face or noise, slip is NaN, not 0."""
    film, _ = films["still"]
    measured = Steadiness(frozenset())
    for crop in (np.roll(film[0], 90, axis=1), *film):
        measured.add(np.dstack([crop, crop[..., :1]]))
    jitter, slip = figures(measured)
    assert jitter < 0.5
    assert np.isnan(slip)


def test_a_cut_is_no_movement(films: dict[str, tuple[Pixels, Motion]]) -> None:
    """Crops before and after a cut are not compared."""
    crop = np.asarray(cv2.resize(films["still"][0][0], (256, 256)), np.uint8)
    crop = np.concatenate([crop, crop[..., :1]], axis=2)
    measured = Steadiness(frozenset({10}))
    for n in range(30):
        measured.add(np.roll(crop, 30 if n >= 10 else 0, axis=1))
    assert max(figures(measured)) < 0.01
