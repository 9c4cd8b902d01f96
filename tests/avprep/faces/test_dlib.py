"""The detector dlib, with its published weights: where points and landmarks lie, and which faces it finds."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data as pictures

from avprep import auto, schema
from avprep.errors import AvprepError, WeightsError
from avprep.faces import align, detectors, landmarks, weights
from avprep.faces.detectors import base
from avprep.faces.detectors import dlib as module
from avprep.faces.detectors.base import LEFT_EYE, LEFT_MOUTH, NOSE, RIGHT_EYE, RIGHT_MOUTH, Face
from avprep.faces.detectors.dlib import DlibDetector
from avprep.faces.mouth import mouth_landmarks
from avprep.manifest import Clip
from avprep.stages import CropSettings, CropStage, crop_clip

EYES = {LEFT_EYE: (203, 101), RIGHT_EYE: (247, 104)}
ASTRONAUT = {**EYES, NOSE: (223, 127), LEFT_MOUTH: (205, 141), RIGHT_MOUTH: (244, 142)}
"""Points of the picture that scikit-image ships, read off by eye."""
SHARED = Path(os.environ.get("AVPREP_SHARED") or Path(__file__).resolve().parents[4] / "shared")
SIZES = (0.4, 0.55, 0.7, 0.85, 1.0)

pytestmark = pytest.mark.usefixtures("torch_and_opencv_in_one_thread")


def build(boxes: str | None = None) -> DlibDetector:
    """Build the detector on faces that another finds; the test is skipped where its extra is not installed."""
    try:
        detectors.require("dlib")
    except AvprepError as error:
        pytest.skip(str(error))
    return DlibDetector(detectors.build(boxes) if boxes else None)


@pytest.fixture(scope="module")
def dlib() -> Iterator[DlibDetector]:
    """The detector as it is built: with YuNet's faces if its weights are there."""
    with pytest.MonkeyPatch.context() as patch:
        if not weights.available("yunet"):
            patch.setenv("AVPREP_WEIGHTS", str(SHARED / "weights"))
        yield build()


@pytest.fixture
def astronaut() -> NDArray[np.uint8]:
    """The upper left of the astronaut's portrait: (300, 400, 3)."""
    picture: NDArray[np.uint8] = pictures.astronaut()[:300, :400]
    return picture


def only(found: list[list[Face]]) -> Face:
    """Return the best face of the one frame."""
    (faces,) = found
    assert faces, "no face"
    return faces[0]


def averaged(detector: DlibDetector, picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Detect at several sizes, in the image and its mirror image: the mean of the points, (5, 2)."""
    found = []
    for size in SIZES:
        small = np.asarray(cv2.resize(picture, None, fx=size, fy=size, interpolation=cv2.INTER_AREA), np.uint8)
        found.append(only(detector.detect(small[None])).points)
        mirrored = only(detector.detect(np.ascontiguousarray(small[None, :, ::-1]))).points
        found.append(mirrored[list(base.MIRRORED)] * (-1, 1) + (small.shape[1] - 1, 0))
        found[-2:] = [(points + 0.5) / size - 0.5 for points in found[-2:]]
    return np.mean(found, axis=0)


@pytest.mark.parametrize("boxes", [None, "opencv"])
def test_points_lie_where_the_eye_sees_them(
    boxes: str | None, dlib: DlibDetector, astronaut: NDArray[np.uint8]
) -> None:
    """All five points of a portrait, nose included, are in the right places whichever detector finds the face."""
    face = only((build(boxes) if boxes else dlib).detect(astronaut[None]))
    for point, place in ASTRONAUT.items():
        assert math.dist(face.points[point], place) < 6, point  # the eyes are 44 pixels apart
    assert face.box[0] < 203 < 247 < face.box[2]


def test_a_tilted_head_has_tilted_points(yunet: str, dlib: DlibDetector, astronaut: NDArray[np.uint8]) -> None:
    """Rotating the image by 25 degrees rotates the points by as much, to within a degree."""
    upright = only(dlib.detect(astronaut[None])).points
    for angle in (-25, 25):
        turn = cv2.getRotationMatrix2D((225, 120), angle, 1)
        tilted = only(dlib.detect(align.warp(astronaut, turn, (400, 300))[None])).points
        back = align.similarity(align.apply(cv2.invertAffineTransform(turn), tilted), align.three_points(upright))
        assert abs(math.degrees(math.atan2(back[1, 0], back[0, 0]))) < 1


def test_close_ups_show_the_same_points(dlib: DlibDetector, astronaut: NDArray[np.uint8]) -> None:
    """A close-up of the size that the detector asks for contains its face, with the points of the image."""
    points = only(dlib.detect(astronaut[None])).points
    width, height = dlib.close_up.size
    shift = (np.array([width, height]) - 1) / 2 - dlib.close_up.zoom * 127.5 - (0, dlib.close_up.rise)
    onto = align.similarity(points, align.TEMPLATE * dlib.close_up.zoom + shift)
    close = only(dlib.detect_close(align.warp(astronaut, onto, (width, height))[None]))
    np.testing.assert_allclose(align.apply(cv2.invertAffineTransform(onto), close.points), points, atol=2)
    assert close.score >= dlib.close_up.sure


def test_the_mirror_image_has_the_mirrored_landmarks(dlib: DlibDetector, shared: Path) -> None:
    """Each of the 68 landmarks of a mirrored crop lies near the one that the table gives."""
    picture = cv2.cvtColor(cv2.imread(str(shared / "clips" / "photos" / "test_sample1.jpg")), cv2.COLOR_BGR2RGB)
    both = np.stack([picture, picture[:, ::-1]]).astype(np.uint8)
    own, mirrored = landmarks.in_crops(both, dlib)
    off = np.linalg.norm(mirrored[list(landmarks.MIRRORED)] * (-1, 1) + (255, 0) - own, axis=1)
    assert off.max() < 8
    assert off.mean() < 2.5


def test_the_authors_own_crops_come_back(dlib: DlibDetector, shared: Path) -> None:
    """The paper's authors' aligned images need no other scale, rotation or position once the bias is corrected."""
    errors = []
    for name in ("test_sample1.jpg", "test_sample2.jpg", "test_sample3.jpg"):
        picture = cv2.cvtColor(cv2.imread(str(shared / "clips" / "photos" / name)), cv2.COLOR_BGR2RGB)
        affine = align.similarity(averaged(dlib, np.asarray(picture, np.uint8)), align.template(dlib.bias))
        centre = align.TEMPLATE.mean(axis=0)
        moved = align.apply(affine, centre[None])[0] - centre
        errors.append([align.scale(affine) - 1, math.degrees(math.atan2(affine[1, 0], affine[0, 0])), *moved])
    scale, turn, *moved = np.abs(errors).T
    assert scale.max() < 0.02
    assert turn.max() < 1
    assert np.hypot(*moved).max() < 3


def test_a_real_clip_has_landmarks_in_its_crops(dlib: DlibDetector, shared: Path) -> None:
    """Every frame of a still talker has 68 landmarks, at the face size and position of crops; the lips move."""
    clip = Clip("bbaf2n", "bbaf2n.mpg", "train", duration=1.0)
    sample = crop_clip(clip, shared / "clips" / "grid" / "s1", CropSettings(detector="dlib"), dlib)
    members = dict(sample.members)
    facts = schema.check_sample("crop", clip.key, members)
    placed = schema.decode_array(members["landmarks.npy"])
    assert facts["landmarks"] == len(placed) == sample.n_frames == 25
    centre = align.TEMPLATE.mean(axis=0)
    off = align.similarity(np.stack([landmarks.five_points(face) for face in placed]), align.template(dlib.bias))
    assert abs(np.median(align.scale(off)) - 1) < 0.05
    assert np.median(np.linalg.norm(align.apply(off, centre[None]) - centre, axis=-1)) < 5
    opening = placed[:, 66, 1] - placed[:, 62, 1]
    assert opening.max() - opening.min() > 3
    assert json.loads(members["clip.json"])["detector"] == "dlib"


def test_detectors_of_five_points_give_no_landmarks(shared: Path) -> None:
    """Crops of the cascades have no landmarks, and their clip.json counts none."""
    clip = Clip("bbaf2n", "bbaf2n.mpg", "train", duration=0.4)
    members = dict(crop_clip(clip, shared / "clips" / "grid" / "s1", CropSettings(), detectors.build("opencv")).members)
    assert "landmarks.npy" not in members
    assert "landmarks" not in json.loads(members["clip.json"])


def test_the_mouth_has_twenty_landmarks(dlib: DlibDetector, astronaut: NDArray[np.uint8]) -> None:
    """In a crop the mouth's landmarks lie around its corners; a blank crop has none."""
    affine = align.similarity(only(dlib.detect(astronaut[None])).points)
    crops = np.stack([align.crop(astronaut, affine), np.zeros((256, 256, 3), np.uint8)])
    found, description = mouth_landmarks(crops, dlib, "dlib")
    assert (found.shape, description) == ((2, 20, 2), "20 landmarks of the mouth by dlib")
    corners = align.apply(affine, np.array([ASTRONAUT[LEFT_MOUTH], ASTRONAUT[RIGHT_MOUTH]], float))
    np.testing.assert_allclose(found[0][[0, 6]], corners, atol=10)
    assert np.isnan(found[1]).all()


def test_the_fingerprint_names_who_finds_the_faces(yunet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's fingerprint holds the digests of all weights; without YuNet's it names the cascades."""
    with_yunet = CropStage(tmp_path, CropSettings(detector="dlib")).versions()
    assert with_yunet["boxes"] == "yunet"
    assert with_yunet["dlib-68"] == weights.known()["dlib-68"].sha256
    assert with_yunet["yunet"] == weights.known()["yunet"].sha256
    monkeypatch.setenv("AVPREP_WEIGHTS", str(tmp_path))
    without = CropStage(tmp_path, CropSettings(detector="dlib")).versions()
    assert (without["boxes"], "yunet" in without) == ("opencv", False)
    (tmp_path / weights.known()["yunet"].file).write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="not the pinned"):
        detectors.identity("dlib")


def test_another_distribution_of_dlib_will_do(dlib: DlibDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a dlib built from source, the version is the package's own."""
    monkeypatch.setattr(module, "PACKAGES", {"dlib-of-another-name": "dlib"})
    assert detectors.identity("dlib")["dlib-of-another-name"].split(".")[0].isdecimal()


def test_its_licence_is_said_where_it_is_chosen() -> None:
    """A user who chooses dlib is told that its weights are not for commercial use; other detectors have no note."""
    said: list[str] = []
    assert auto.detector("dlib", said.append) == "dlib"
    assert len(said) == 1
    assert "iBUG 300-W, whose licence excludes commercial use" in said[0]
    settings = auto.crop_settings("lrw", Path("none"), {"detector": "dlib"}, remark=said.append)
    assert (settings.detector, said[1:]) == ("dlib", said[:1])
    assert auto.detector("opencv", said.append) == "opencv"
    assert len(said) == 2


def test_a_file_that_is_no_predictor_is_one_line(
    dlib: DlibDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that dlib cannot load are a user error that names the file."""
    path = tmp_path / "weights.dat"
    path.write_bytes(b"no trees")
    monkeypatch.setattr(weights, "find", lambda name: path)
    with pytest.raises(WeightsError, match=r"weights\.dat: dlib cannot load it"):
        module._predictor()
