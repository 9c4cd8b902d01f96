"""Mouths: the landmarks that detectors give of aligned crops, and the distance between real and generated mouths."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage import data as pictures

from avprep.errors import AvprepError
from avprep.faces import align, detectors
from avprep.faces.detectors.base import Face
from avprep.faces.detectors.face_alignment import FaceAlignmentDetector
from avprep.faces.landmarks import five_points
from avprep.faces.mouth import mouth_landmarks
from davs_model.evaluation.metrics.mouth import MouthDistance, distances, mouth_distance

EYES, CORNERS = align.TEMPLATE[:2], np.array([[104.0, 188.0], [156.0, 189.0]])
"""Where a detector might see a face that is aligned well."""


pytestmark = pytest.mark.usefixtures("torch_and_opencv_in_one_thread")


# Distances


def mouths(seed: int, n_frames: int, n_landmarks: int) -> NDArray[np.float64]:
    """Draw landmarks of mouths `[N, L, 2]` around the middle of a crop."""
    return np.random.default_rng(seed).normal(128, 20, (n_frames, n_landmarks, 2))


def slow_distance(real: list[list[float]], generated: list[list[float]]) -> float:
    """Return the landmark distance of one frame by plain loops."""
    shapes = []
    for points in (real, generated):
        x, y = (sum(point[axis] for point in points) / len(points) for axis in (0, 1))
        shapes.append([(point[0] - x, point[1] - y) for point in points])
    return sum(math.dist(one, other) for one, other in zip(*shapes, strict=True)) / len(real)


@settings(deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 6), st.integers(2, 20), st.sampled_from([np.float32, np.float64]))
def test_distance_is_its_definition(seed: int, n_frames: int, n_landmarks: int, dtype: type) -> None:
    """The distance of each frame is that of plain loops, and their mean is reported."""
    real, generated = (mouths(seed + n, n_frames, n_landmarks).astype(dtype) for n in (0, 1))
    expected = [slow_distance(x, y) for x, y in zip(real.tolist(), generated.tolist(), strict=True)]
    np.testing.assert_allclose(distances(real, generated), expected, rtol=1e-9)
    assert mouth_distance(real, generated) == MouthDistance(pytest.approx(np.mean(expected)), n_frames, 0, 0)


def test_where_a_mouth_is_makes_no_distance() -> None:
    """Moving a whole mouth adds no distance; widening it by a tenth adds a tenth of its landmarks' mean radius."""
    real = mouths(0, 3, 20)
    moved = real + np.array([[[5.0, -3.0]], [[0.0, 9.0]], [[0.0, 0.0]]])
    assert mouth_distance(real, moved).distance_px == pytest.approx(0, abs=1e-12)
    shapes = real - real.mean(axis=1, keepdims=True)
    found = mouth_distance(real, real + 0.1 * shapes)
    assert found.distance_px == pytest.approx(0.1 * np.linalg.norm(shapes, axis=-1).mean())


def test_two_corners_tell_the_width() -> None:
    """With the corners alone, a mouth that is 6 pixels wider has a distance of 3 pixels."""
    real = np.array([[[100.0, 188.0], [150.0, 188.0]]])
    assert distances(real, real + np.array([[-1.0, 4.0], [5.0, 4.0]])).tolist() == [3]


def test_frames_without_a_mouth_are_counted_and_left_out() -> None:
    """A frame in which either mouth has a missing value counts as not found and is left out of the mean."""
    real, generated = mouths(0, 5, 20), mouths(1, 5, 20)
    expected = distances(real[[0, 4]], generated[[0, 4]]).mean()
    real[1:3] = math.nan
    generated[2], generated[3, 7, 1] = math.nan, math.nan
    assert mouth_distance(real, generated) == MouthDistance(pytest.approx(expected), 2, 2, 2)
    np.testing.assert_array_equal(np.isnan(distances(real, generated)), [False, True, True, True, False])


def test_no_mouth_at_all_has_no_distance() -> None:
    """If no frame has both mouths, the distance is NaN, without a warning."""
    nowhere = np.full((4, 2, 2), np.nan, np.float32)
    found = mouth_distance(mouths(0, 4, 2), nowhere)
    assert math.isnan(found.distance_px)
    assert (found.n_frames, found.not_found_real, found.not_found_generated) == (0, 0, 4)


@pytest.mark.parametrize(
    ("real", "generated", "complaint"),
    [
        (np.zeros((3, 20, 2)), np.zeros((3, 2, 2)), "differ"),
        (np.zeros((3, 1, 2)), np.zeros((3, 1, 2)), "two of each mouth"),
        (np.zeros((3, 2, 3)), np.zeros((3, 2, 3)), r"should be \[N, L, 2\]"),
        (np.zeros((2, 2)), np.zeros((2, 2)), r"should be \[N, L, 2\]"),
        (np.zeros((0, 2, 2)), np.zeros((0, 2, 2)), "no frames"),
        (np.zeros((1, 2, 2)), np.full((1, 2, 2), np.inf), "infinite"),
    ],
)
def test_what_is_no_mouth_is_refused(real: NDArray[np.float64], generated: NDArray[np.float64], complaint: str) -> None:
    """Shapes that differ or do not fit, no frames and infinite landmarks raise ValueError."""
    for measure in (distances, mouth_distance):
        with pytest.raises(ValueError, match=complaint):
            measure(real, generated)


# Landmarks


def face(mouth: NDArray[np.float64], shift: tuple[float, float] = (0, 0), *, scale: float = 1) -> Face:
    """Return a face with the template's eyes and a mouth, moved and then scaled as images are."""
    nose = np.array([[130.0, 150.0]])
    points = ((np.concatenate([EYES, nose, mouth]) + shift + 0.5) * scale - 0.5).astype(np.float32)
    return Face(box=np.zeros(4, np.float32), score=1.0, points=points)


class StandIn:
    """A detector that finds the given faces, frame by frame, and remembers the frames it was shown."""

    batch_size = 1
    close_up = None

    def __init__(self, faces: Sequence[list[Face]], picture_side: int = 256) -> None:
        self.picture_side = picture_side
        self.faces = list(faces)
        self.shown: list[NDArray[np.uint8]] = []

    def detect(self, frames: NDArray[np.uint8]) -> list[list[Face]]:
        """Return the faces in the coordinates of the frames as shown."""
        self.shown += list(frames)
        return self.faces


def blank(n_frames: int) -> NDArray[np.uint8]:
    """Return the given number of black crops."""
    return np.zeros((n_frames, 256, 256, 3), np.uint8)


def test_the_corners_of_the_face_in_the_middle_are_taken() -> None:
    """Of several faces the one nearest the template is used, whatever its score; its left corner comes first."""
    beside = face(CORNERS + 3, (90, -60))
    found, description = mouth_landmarks(
        blank(3), StandIn([[beside, face(CORNERS, (2, 1))], [], [face(CORNERS)]]), "some detector"
    )
    assert (found.shape, found.dtype) == ((3, 2, 2), np.float32)
    np.testing.assert_allclose(found[0], CORNERS + np.array([2, 1]), atol=1e-4)
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[2], CORNERS, atol=1e-4)
    assert description == "both corners of the mouth by some detector"


@pytest.mark.parametrize("side", [128, 100])
def test_detectors_see_crops_at_their_own_size(side: int) -> None:
    """A crop larger than the detector's input is shrunk for it, and the result is scaled back to the crop."""
    crops = blank(1)
    crops[0, :, 128:] = 200
    near, far = face(CORNERS, scale=side / 256), face(CORNERS, (40, 0), scale=side / 256)
    detector = StandIn([[far, near]], picture_side=side)
    found, _ = mouth_landmarks(crops, detector, "small")
    np.testing.assert_allclose(found, CORNERS[None], atol=1e-3)
    assert detector.shown[0].shape == (side, side, 3)
    assert detector.shown[0][:, [0, -1], 0].tolist() == [[0, 200]] * side


def test_no_crops_have_no_mouths() -> None:
    """An empty batch gives an empty array of the right shape."""
    found, _ = mouth_landmarks(blank(0), StandIn([], picture_side=128), "some detector")
    assert found.shape == (0, 2, 2)


def test_opencv_is_refused() -> None:
    """The cascades derive mouths from the eyes, so they cannot measure mouths; the error names the alternative."""
    with pytest.raises(AvprepError, match="opencv does not see mouths: choose yunet or face-alignment"):
        mouth_landmarks(blank(1), detectors.build("opencv"), "opencv")


def test_yunet_finds_the_mouth_of_a_portrait(yunet: str) -> None:
    """In crops of the astronaut the corners lie where they were read off the image; a blank crop has none."""
    detector = detectors.build(yunet)
    portrait = pictures.astronaut()[:300, :400]
    affine = align.similarity(detector.detect(portrait[None])[0][0].points)
    crop = align.crop(portrait, affine)
    found, description = mouth_landmarks(np.stack([crop, blank(1)[0], crop[:, ::-1]]), detector, yunet)
    by_eye = align.apply(affine, np.array([[205.0, 141.0], [244.0, 142.0]]))
    mirrored = by_eye[::-1] * (-1, 1) + (255, 0)
    # The eyes are 78 pixels apart, and a pixel of the image is two of the crop.
    np.testing.assert_allclose(found[[0, 2]], [by_eye, mirrored], atol=10)
    assert np.isnan(found[1]).all()
    assert description == "both corners of the mouth by yunet"


# Face-alignment, with stand-ins for its networks whose output is known


class Boxes(torch.nn.Module):
    """Gives the output of an S3FD that finds faces with the given boxes in every frame that is not black.

    At most two of them: one at each of the first positions of stride 128.
    """

    def __init__(self, *boxes: tuple[float, float, float, float]) -> None:
        super().__init__()
        self.boxes = boxes

    def forward(self, frames: torch.Tensor) -> list[torch.Tensor]:
        """Give an output at the coarsest of six levels only, with higher scores for later boxes."""
        logits, offsets = torch.zeros(len(frames), 2, 1, 2), torch.zeros(len(frames), 4, 1, 2)
        logits[:, 1] = -9
        seen = frames.flatten(1).std(dim=1) > 10
        for n, (x0, y0, x1, y1) in enumerate(self.boxes):
            logits[seen, 1, 0, n] = 4.0 + n
            middle = torch.tensor([(x0 + x1) / 2 - 64 - 128 * n, (y0 + y1) / 2 - 64]) / 51.2
            offsets[:, :, 0, n] = torch.cat([middle, torch.log(torch.tensor([x1 - x0, y1 - y0]) / 512) / 0.2])
        nothing = [torch.tensor([9.0, -9.0]).view(1, 2, 1, 1), torch.zeros(1, 4, 1, 1)] * 5
        return [*(level.expand(len(frames), -1, -1, -1) for level in nothing), logits, offsets]


class Grid(torch.nn.Module):
    """Gives the output of a FAN with landmark n of every face in cell (n % 8, n // 8) of the crop, four cells apart."""

    def forward(self, crops: torch.Tensor) -> list[torch.Tensor]:
        """Put a peak in each heat map."""
        heatmaps = torch.zeros(len(crops), 68, 64, 64)
        for n in range(68):
            heatmaps[:, n, 10 + 4 * (n // 8), 10 + 4 * (n % 8)] = 1
        return [heatmaps]


def lit(*which: bool) -> NDArray[np.uint8]:
    """Return crops with something in them, or black ones."""
    crops = blank(len(which))
    crops[np.array(which), 64:192, 64:192] = 255
    return crops


def test_face_alignment_gives_the_68_landmarks_of_what_it_detects() -> None:
    """The faces are those of `detect`, in its order, with the landmarks from which its five points are made."""
    detector = FaceAlignmentDetector(
        device="cpu",
        batch_size=2,
        face_network=Boxes((10, 20, 100, 120), (130, 40, 220, 150)),
        landmark_network=Grid(),
    )
    crops = lit(True, False, True)
    landmarks, faces = detector.landmarks(crops), detector.detect(crops)
    assert [len(found) for found in landmarks] == [len(found) for found in faces] == [2, 0, 2]
    for found, seen in zip(landmarks, faces, strict=True):
        for points, one in zip(found, seen, strict=True):
            assert (points.shape, points.dtype) == ((68, 2), np.float32)
            np.testing.assert_array_equal(five_points(points), one.points)
    assert faces[0][0].box[0] > 100  # the one with the higher score first


def test_face_alignment_gives_20_landmarks_of_the_mouth() -> None:
    """Landmarks 48 … 67 of the face nearest the template are used, not those of another face with a higher score."""
    middle, beside = (30.0, 70.0, 226.0, 256.0), (180.0, 0.0, 250.0, 60.0)
    detector = FaceAlignmentDetector(device="cpu", face_network=Boxes(middle, beside), landmark_network=Grid())
    found, description = mouth_landmarks(lit(False, True), detector, "face-alignment")
    assert (found.shape, found.dtype) == ((2, 20, 2), np.float32)
    assert np.isnan(found[0]).all()
    nearest = min(detector.landmarks(lit(True))[0], key=lambda points: abs(points[:, 0].mean() - 128))
    np.testing.assert_array_equal(found[1], nearest[48:68])
    assert description == "20 landmarks of the mouth by face-alignment"
