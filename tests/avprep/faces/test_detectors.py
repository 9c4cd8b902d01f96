"""Face detectors: what they find, in which order and where; the published weights are used if they are present."""

from __future__ import annotations

import math
from itertools import chain
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from face_alignment.detection.sfd.net_s3fd import s3fd
from face_alignment.models import FAN
from numpy.typing import NDArray
from skimage import data as pictures

from avprep.errors import AvprepError, WeightsError
from avprep.faces import detectors, weights
from avprep.faces.detectors import face_alignment as batched
from avprep.faces.detectors.base import LEFT_EYE, LEFT_MOUTH, NOSE, RIGHT_EYE, RIGHT_MOUTH, Detector, Face
from avprep.faces.detectors.face_alignment import FaceAlignmentDetector
from avprep.faces.detectors.yunet import CANDIDATE_SCORE, YuNetDetector
from avprep.faces.landmarks import five_points

ASTRONAUT = {LEFT_EYE: (203, 101), RIGHT_EYE: (247, 104), LEFT_MOUTH: (205, 141), RIGHT_MOUTH: (244, 142)}
"""Points of the picture that scikit-image ships, read off by eye."""


pytestmark = pytest.mark.usefixtures("torch_and_opencv_in_one_thread")


@pytest.fixture
def yunet(yunet_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Detector:
    """YuNet."""
    monkeypatch.setenv("AVPREP_WEIGHTS", str(yunet_weights))
    return detectors.build("yunet")


@pytest.fixture(scope="module")
def astronaut() -> NDArray[np.uint8]:
    """Return the upper left of the astronaut's portrait as one frame: (1, 300, 400, 3)."""
    picture: NDArray[np.uint8] = pictures.astronaut()[None, :300, :400]
    return picture


def only(found: list[list[Face]]) -> Face:
    """Return the one face of the one frame."""
    (faces,) = found
    assert faces, "no face"
    return faces[0]


def assert_astronaut(face: Face, within: float) -> None:
    """Compare the face with points read off the image, in fractions of the distance between the eyes."""
    x0, y0, x1, y1 = face.box
    for point, place in ASTRONAUT.items():
        assert np.linalg.norm(face.points[point] - place) < within * 44, (point, face.points[point], place)
        assert x0 < face.points[point, 0] < x1
        assert y0 < face.points[point, 1] < y1
    assert face.box.dtype == face.points.dtype == np.float32


def test_opencv_finds_a_face(astronaut: NDArray[np.uint8]) -> None:
    """The cascades find the astronaut, with eyes and mouth in avprep's order, no nose, and an uncorrected bias."""
    face = only(detectors.build("opencv").detect(astronaut))
    assert_astronaut(face, within=0.25)
    assert np.isnan(face.points[NOSE]).all()
    assert face.score >= 4


def test_yunet_finds_a_face(yunet: Detector, astronaut: NDArray[np.uint8]) -> None:
    """YuNet finds the astronaut with left and right as in the image."""
    face = only(yunet.detect(astronaut))
    assert_astronaut(face, within=0.2)
    assert face.points[LEFT_EYE, 0] < face.points[NOSE, 0] < face.points[RIGHT_EYE, 0]
    assert 0.6 <= face.score <= 1


def test_yunet_takes_frames_of_any_size(yunet: Detector, astronaut: NDArray[np.uint8]) -> None:
    """One detector serves frames of different sizes, one after another."""
    small = cv2.resize(astronaut[0], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)[None]
    for frames, scale in ((astronaut, 1), (small, 0.5), (astronaut, 1)):
        points = only(yunet.detect(frames)).points / scale
        np.testing.assert_allclose(points[LEFT_EYE], ASTRONAUT[LEFT_EYE], atol=6)


@pytest.fixture(params=["opencv", "yunet"])
def detector(request: pytest.FixtureRequest) -> Detector:
    """Return each of the detectors that need no CUDA."""
    built: Detector = request.getfixturevalue("yunet") if request.param == "yunet" else detectors.build("opencv")
    return built


def test_two_faces_are_two(detector: Detector, astronaut: NDArray[np.uint8]) -> None:
    """Two people in one frame are two faces, best score first, each with its own points."""
    (faces,) = detector.detect(np.concatenate([astronaut, astronaut], axis=2))
    assert len(faces) == 2
    assert faces[0].score >= faces[1].score
    left, right = sorted(faces, key=lambda face: face.box[0])
    assert_astronaut(left, within=0.25)
    np.testing.assert_allclose(right.points - left.points, np.tile((400, 0), (5, 1)) + 0 * left.points, atol=4)


def test_blank_frames_have_no_face(detector: Detector) -> None:
    """Frames without anything in them give one empty list each."""
    frames = np.stack([np.zeros((120, 160, 3), np.uint8), np.full((120, 160, 3), 127, np.uint8)])
    assert detector.detect(frames) == [[], []]


def test_frames_are_independent(detector: Detector, astronaut: NDArray[np.uint8]) -> None:
    """The faces of a frame do not depend on the other frames of its batch."""
    frames = np.concatenate([astronaut, np.zeros_like(astronaut), astronaut[:, :, ::-1]])
    together = detector.detect(frames)
    assert [len(faces) for faces in together] == [1, 0, 1]
    for frame, faces in zip(frames, together, strict=True):
        for face, alone in zip(faces, detector.detect(frame[None])[0], strict=True):
            np.testing.assert_array_equal(face.points, alone.points)


@pytest.mark.parametrize("size", [(400, 480), (128, 96), (75, 101)])
def test_yunet_answers_as_opencv_does(size: tuple[int, int], yunet: Detector, astronaut: NDArray[np.uint8]) -> None:
    """The detections in an image, whatever its size, are those of OpenCV's own YuNet for it in BGR."""
    assert isinstance(yunet, YuNetDetector)
    frame = np.asarray(cv2.resize(astronaut[0], size, interpolation=cv2.INTER_AREA), np.uint8)
    theirs = cv2.FaceDetectorYN.create(str(weights.find("yunet")), "", size, CANDIDATE_SCORE, 1.0)
    _, expected = theirs.detect(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    found = yunet.candidates(frame)
    assert len(found) > 3
    np.testing.assert_allclose(found[np.argsort(-found[:, 14])], expected[np.argsort(-expected[:, 14])], atol=1e-3)


@pytest.mark.parametrize("clip", ["grid/s1/bbaf2n.mpg", "grid/s26/lwajza.mpg"])
def test_detectors_agree_on_real_speakers(clip: str, shared: Path, yunet: Detector) -> None:
    """On average over a clip, eyes and mouth of the cascades lie within 8 % of the eye distance of YuNet's."""
    with av.open(shared / "clips" / clip) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])[::10]
    points = {}
    for name, detector in (("yunet", yunet), ("opencv", detectors.build("opencv"))):
        faces = detector.detect(frames)
        assert [len(found) for found in faces] == [1] * len(frames)
        points[name] = np.median([found[0].points for found in faces], axis=0)
    eyes = points["yunet"][RIGHT_EYE] - points["yunet"][LEFT_EYE]
    for part in ([LEFT_EYE], [RIGHT_EYE], [LEFT_MOUTH, RIGHT_MOUTH]):
        apart = points["opencv"][part].mean(axis=0) - points["yunet"][part].mean(axis=0)
        assert np.linalg.norm(apart) < 0.08 * np.linalg.norm(eyes)


# face-alignment: geometry with networks whose answer is known, batching with randomly filled ones of the real shape


class OneBox(torch.nn.Module):
    """Gives the output of an S3FD that finds one face with the given box in every frame."""

    def __init__(self, box: tuple[float, float, float, float]) -> None:
        super().__init__()
        x0, y0, x1, y1 = box
        middle = torch.tensor([(x0 + x1) / 2, (y0 + y1) / 2])
        # The first position of stride 128 has a prior of 512 pixels around (64, 64).
        self.offsets = torch.cat([(middle - 64) / 51.2, torch.log(torch.tensor([x1 - x0, y1 - y0]) / 512) / 0.2])

    def forward(self, frames: torch.Tensor) -> list[torch.Tensor]:
        """Give an output at the coarsest of six levels only."""
        nothing = [torch.tensor([9.0, -9.0]).view(1, 2, 1, 1), torch.zeros(1, 4, 1, 1)] * 5
        maps = [*nothing, torch.tensor([-4.0, 4.0]).view(1, 2, 1, 1), self.offsets.view(1, 4, 1, 1)]
        return [level.expand(len(frames), -1, -1, -1) for level in maps]


class RedDot(torch.nn.Module):
    """Gives the output of a FAN for which every landmark is the middle of a red dot."""

    def forward(self, crops: torch.Tensor) -> list[torch.Tensor]:
        """Shrink the red channel to the size of a heat map."""
        red = torch.nn.functional.avg_pool2d(crops[:, :1], 4)
        return [red.expand(-1, 68, -1, -1)]


def dotted(shape: tuple[int, int], x: float, y: float, sigma: float = 6.0) -> NDArray[np.uint8]:
    """Draw a soft red dot whose middle is at x y, the first pixel's centre at (0, 0): (H, W, 3)."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    frame = np.zeros((*shape, 3), np.uint8)
    frame[..., 0] = np.rint(255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2)))
    return frame


@pytest.mark.parametrize("place", [(150.0, 120.0), (171.3, 98.6), (120.75, 160.25)])
@pytest.mark.parametrize("box", [(100, 60, 220, 200), (90.5, 70.2, 180.9, 190.4)])
def test_landmarks_come_back_to_the_frame(place: tuple[float, float], box: tuple[float, float, float, float]) -> None:
    """A peak in the heat map is a point in the frame to within half a pixel, whatever the box it was cropped by."""
    detector = FaceAlignmentDetector(device="cpu", face_network=OneBox(box), landmark_network=RedDot())
    face = only(detector.detect(dotted((240, 320), *place)[None]))
    np.testing.assert_allclose(face.box, box, atol=1e-3)
    np.testing.assert_allclose(face.points, np.tile(place, (5, 1)), atol=0.5)
    assert face.score == pytest.approx(1 / (1 + math.exp(-8)))


def test_landmarks_of_a_face_at_the_border() -> None:
    """A box that extends beyond the frame is padded with black; its points stay where they are."""
    detector = FaceAlignmentDetector(device="cpu", face_network=OneBox((-40, -30, 60, 70)), landmark_network=RedDot())
    face = only(detector.detect(dotted((240, 320), 20, 15)[None]))
    np.testing.assert_allclose(face.points, np.tile((20, 15), (5, 1)), atol=0.5)


def test_heatmap_peaks_lie_between_cells() -> None:
    """The peak of a smooth bump is found to a twentieth of a cell; one on the border stays in its cell."""
    rows, columns = np.mgrid[:64, :64]
    places = np.random.default_rng(0).uniform(2, 61, (68, 2))
    bumps = np.exp(-((columns - places[:, :1, None]) ** 2 + (rows - places[:, 1:, None]) ** 2) / (2 * 2.0**2))
    found = batched.heatmap_peaks(torch.from_numpy(bumps)[None])[0].numpy() * 64 - 0.5
    np.testing.assert_allclose(found, places, atol=0.05)
    corner = torch.zeros(1, 1, 64, 64)
    corner[0, 0, 0, 63] = 1
    np.testing.assert_allclose(batched.heatmap_peaks(corner)[0, 0].numpy() * 64, [63.5, 0.5])


def test_decode_is_the_formula() -> None:
    """Decoding all boxes at once gives those of the formula applied position by position."""
    generator = torch.Generator().manual_seed(0)
    maps = []
    for size in (24, 12, 6, 3, 2, 1):
        maps += [torch.randn(3, 2, size, size + 1, generator=generator) for _ in range(1)]
        maps += [torch.randn(3, 4, size, size + 1, generator=generator)]
    expected = []
    for level in range(6):
        stride = 2 ** (level + 2)
        logits, offsets = maps[2 * level].numpy(), maps[2 * level + 1].numpy()
        for frame, row, column in np.ndindex(logits.shape[0], *logits.shape[2:]):
            background, face = np.exp(logits[frame, :, row, column].astype(float))
            score = face / (background + face)
            if score > 0.8:
                dx, dy, dw, dh = offsets[frame, :, row, column].astype(float)
                x = stride / 2 + column * stride + dx * 0.1 * 4 * stride
                y = stride / 2 + row * stride + dy * 0.1 * 4 * stride
                width, height = 4 * stride * math.exp(0.2 * dw), 4 * stride * math.exp(0.2 * dh)
                box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
                expected.append((frame, *box, score))
    index, boxes = batched.decode(maps, 0.8)
    assert len(boxes) > 100
    np.testing.assert_allclose(np.column_stack([index, boxes]), expected, rtol=1e-4, atol=1e-3)


def test_suppress_keeps_the_best_of_overlapping_boxes() -> None:
    """Of boxes that overlap by more than three tenths only the one with the highest score stays, best first."""
    boxes = np.array(
        [[0, 0, 10, 10, 0.7], [100, 0, 110, 10, 0.8], [1, 0, 11, 10, 0.9], [0, 0, 10, 5.1, 0.6], [8, 0, 18, 10, 0.55]],
        np.float32,
    )
    np.testing.assert_array_equal(batched.suppress(boxes), boxes[[2, 1, 4]])
    assert batched.suppress(boxes[:0]).shape == (0, 5)


def test_five_points_of_68() -> None:
    """Eye centres are means of six landmarks each; nose tip and mouth corners are single ones."""
    landmarks = np.column_stack([np.arange(68), -np.arange(68)]).astype(np.float32)
    np.testing.assert_array_equal(five_points(landmarks)[:, 0], [38.5, 44.5, 30, 48, 54])


def random_networks(frames: NDArray[np.uint8], faces: int) -> tuple[torch.nn.Module, torch.nn.Module, float]:
    """Return untrained S3FD and FAN, and the score that about the given number of boxes of the frames exceed."""
    torch.manual_seed(1)
    networks = s3fd().eval(), FAN(4).eval()
    lenient = FaceAlignmentDetector(
        device="cpu", min_score=0.0, face_network=networks[0], landmark_network=torch.nn.Identity()
    )
    with torch.inference_mode():
        scores = np.sort(np.concatenate(lenient._boxes(frames))[:, 4])[::-1]
    return *networks, float(scores[faces - 1 : faces + 1].mean())


@pytest.mark.slow
def test_batches_change_nothing() -> None:
    """Frames in batches, faces in batches: the same boxes and points as one frame at a time."""
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 80, 3), dtype=np.uint8)
    frames[1] //= 2
    face_network, landmark_network, min_score = random_networks(frames, faces=4)
    detector = FaceAlignmentDetector(
        device="cpu", batch_size=2, min_score=min_score, face_network=face_network, landmark_network=landmark_network
    )
    together = detector.detect(frames)
    apart = [detector.detect(frame[None])[0] for frame in frames]
    assert sum(map(len, together)) >= 3
    assert [len(faces) for faces in together] == [len(faces) for faces in apart]
    for one, other in zip(chain(*together), chain(*apart), strict=True):
        np.testing.assert_allclose(one.box, other.box, atol=0.01)
        np.testing.assert_allclose(one.points, other.points, atol=0.05)
        assert one.score == pytest.approx(other.score, abs=1e-4)


def test_s3fd_sees_bgr_less_its_mean() -> None:
    """S3FD gets its pixels as it was trained on them, from frames that are RGB."""
    seen = []

    class Recording(OneBox):
        def forward(self, frames: torch.Tensor) -> list[torch.Tensor]:
            seen.append(frames[0, :, 0, 0].tolist())
            return super().forward(frames)

    detector = FaceAlignmentDetector(device="cpu", face_network=Recording((10, 10, 50, 50)), landmark_network=RedDot())
    red = np.zeros((1, 64, 64, 3), np.uint8)
    red[..., 0] = 200
    detector.detect(red)
    assert seen == [[-104, -117, 200 - 123]]


def test_frames_without_faces_need_no_landmarks() -> None:
    """Frames in which S3FD finds no face give empty lists, and FAN is not run."""
    detector = FaceAlignmentDetector(
        device="cpu", min_score=1.0, face_network=OneBox((0, 0, 9, 9)), landmark_network=torch.nn.Identity()
    )
    assert detector.detect(np.zeros((3, 64, 64, 3), np.uint8)) == [[], [], []]


def test_half_precision_that_overflows_is_repeated() -> None:
    """If float16 overflows in S3FD's output, float32 is used."""

    class Overflowing(OneBox):
        def forward(self, frames: torch.Tensor) -> list[torch.Tensor]:
            maps = super().forward(frames)
            return [level * math.nan for level in maps] if torch.is_autocast_enabled("cpu") else maps

    detector = FaceAlignmentDetector(
        device="cpu", half=True, face_network=Overflowing((10, 10, 50, 50)), landmark_network=RedDot()
    )
    face = only(detector.detect(dotted((64, 64), 30, 30)[None]))
    np.testing.assert_allclose(face.points, 30, atol=0.5)


@pytest.mark.gpu
def test_half_precision_keeps_the_points(astronaut: NDArray[np.uint8]) -> None:
    """On CUDA, half precision moves no point of a real face by half a pixel."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if not weights.available("face-alignment"):
        pytest.skip("no S3FD and FAN weights: avprep weights fetch face-alignment")
    half, full = (only(FaceAlignmentDetector(device="cuda", half=half).detect(astronaut)) for half in (True, False))
    assert_astronaut(full, within=0.15)
    np.testing.assert_allclose(half.points, full.points, atol=0.5)


class Trap:
    """What a hostile weights file would have executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_hostile_weights_are_refused(tmp_path: Path) -> None:
    """A pickle that runs code is refused before anything runs."""
    torch.save({"conv1_1.weight": Trap(tmp_path / "sprung")}, tmp_path / "s3fd.pth")
    with pytest.raises(WeightsError, match=r"s3fd\.pth does not hold the weights of s3fd"):
        batched.load(s3fd(), tmp_path / "s3fd.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"not a file of tensors", None], ids=["empty", "text", "other tensors"])
def test_files_that_do_not_fit_are_refused(tmp_path: Path, content: bytes | None) -> None:
    """A damaged file, or one of another network, is a one-line error."""
    path = tmp_path / "s3fd.pth"
    if content is None:
        torch.save({"other": torch.zeros(1)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        batched.load(s3fd(), path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_saved_weights_load(tmp_path: Path) -> None:
    """A state dict comes back as it was saved."""
    torch.manual_seed(0)
    network = s3fd()
    torch.save(network.state_dict(), tmp_path / "s3fd.pth")
    loaded = batched.load(s3fd(), tmp_path / "s3fd.pth")
    torch.testing.assert_close(loaded.state_dict(), network.state_dict())


# which detector, and what it is


@pytest.mark.parametrize("name", ["yunet", "face-alignment"])
def test_build_without_weights(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector whose weights are missing is not built, and the error names the command that fetches them."""
    monkeypatch.setenv("AVPREP_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match="avprep weights fetch"):
        detectors.build(name)


def test_unknown_detector() -> None:
    """A name that does not exist is a user error that lists the valid names."""
    for function in (detectors.build, detectors.identity):
        with pytest.raises(AvprepError, match="dlib, face-alignment, opencv, yunet"):
            function("haar")


@pytest.mark.parametrize(
    ("cuda", "present", "chosen"),
    [
        (True, {"face-alignment", "yunet"}, "face-alignment"),
        (False, {"face-alignment", "yunet"}, "yunet"),
        (True, {"yunet"}, "yunet"),
        (True, {"face-alignment"}, "face-alignment"),
        (False, {"face-alignment"}, "opencv"),
        (True, set(), "opencv"),
    ],
)
def test_auto(cuda: bool, present: set[str], chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` takes the best detector whose weights and device are there; an explicit name is used as given."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(weights, "available", lambda detector: detector in {*present, "dlib"})
    assert detectors.resolve("auto") == chosen
    assert detectors.resolve("yunet") == "yunet"


def test_identity_names_versions_and_digests() -> None:
    """What determines a detector's output is described as strings, without building the detector."""
    assert detectors.identity("opencv") == {"opencv": cv2.__version__}
    assert detectors.identity("yunet")["yunet"] == weights.known()["yunet"].sha256
    identity = detectors.identity("face-alignment")
    assert set(identity) == {"opencv", "torch", "face-alignment", "device", "s3fd", "2dfan4"}
    assert all(isinstance(value, str) for value in identity.values())
