"""Faces that are upside down or on their side, and upright ones that must be left alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_faces import EYES_AND_MOUTH
from numpy.typing import NDArray
from PIL import Image
from skimage import data as pictures

from avprep import schema
from avprep.demo import synthetic
from avprep.faces import align, detectors, keyframes, views
from avprep.faces.detectors.base import Detector, Face
from avprep.manifest import Clip
from avprep.media.picture import Picture
from avprep.media.video import Frames
from avprep.shards.image import decode_image
from avprep.stages import CropSettings, align_clip, crop_clip
from avprep.talking import photo

Pixels = NDArray[np.uint8]


@pytest.fixture(params=["opencv", "yunet"])
def named(request: pytest.FixtureRequest) -> tuple[str, Detector]:
    """Each detector that runs here, and its name."""
    name: str = request.param
    return name, detectors.build(name if name == "opencv" else request.getfixturevalue(name))


@pytest.fixture(scope="module")
def spoken() -> tuple[Pixels, NDArray[np.float32]]:
    """A synthetic talker's frames and speech."""
    return synthetic.utterance("ABOUT", synthetic.speaker(3), 0, 256)


def clip_of(folder: Path, frames: Pixels, speech: Any) -> Clip:
    """Write a clip of these frames."""
    synthetic.write_clip(folder / "a.mp4", np.ascontiguousarray(frames), speech)
    return Clip("a", "a.mp4", "train")


def cropped(clip: Clip, root: Path, named: tuple[str, Detector]) -> tuple[Pixels, dict[str, Any], dict[str, Any]]:
    """Return the tenth crop of a clip, its facts and its arrays."""
    members = dict(crop_clip(clip, root, CropSettings(named[0]), named[1]).members)
    arrays = {name: schema.decode_array(members[f"{name}.npy"]) for name in ("points", "affine")}
    image = decode_image(members["010.jpg"])
    assert image is not None
    return image, json.loads(members["clip.json"]), arrays


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_clip_is_cropped_upright(
    turns: int, named: tuple[str, Detector], spoken: tuple[Pixels, Any], tmp_path: Path
) -> None:
    """A video that lies on its side or upside down gives the upright video's crops, and records its rotation."""
    frames, speech = spoken
    upright, facts, _ = cropped(clip_of(tmp_path, frames, speech), tmp_path, named)
    assert "turned" not in facts
    turned, facts, arrays = cropped(clip_of(tmp_path, np.rot90(frames, turns, axes=(1, 2)), speech), tmp_path, named)
    assert facts["turned"] == 90 * turns  # clockwise: rot90 turned it the other way
    assert np.corrcoef(turned.ravel(), upright.ravel())[0, 1] > 0.97
    np.testing.assert_allclose(arrays["affine"], align.similarity(arrays["points"]), rtol=1e-4, atol=2e-3)
    across, down = arrays["affine"][0, :, 0]
    assert abs((np.degrees(np.arctan2(down, across)) - 90 * turns + 180) % 360 - 180) < 10


class Turned(Frames):
    """A file's frames, rotated counter-clockwise by quarter turns."""

    turns = 0

    def _nearest(self) -> Any:
        for picture in super()._nearest():
            frame = np.ascontiguousarray(np.rot90(picture.rgb(), self.turns))
            yield picture_of(frame)


def picture_of(image: Pixels) -> Picture:
    """Return what a decoder would for these pixels."""
    return photo._picture(image)


@pytest.mark.parametrize("turns", range(4))
def test_real_faces_are_turned_upright_and_only_turned_ones(turns: int, shared: Path, yunet: str) -> None:
    """Real clips that are turned are recognised as such, and upright ones are not turned."""
    detector = detectors.build(yunet)
    for name in ("grid/s26/lrbi7p.mpg", "voxceleb2/dev/mp4/id00002/vid086/00001.mp4", "hard/variable_rate.mp4"):
        path = shared / "clips" / name
        whole = Turned(path, duration=0.6)
        whole.turns = turns
        found = align_clip(whole, detector, CropSettings(yunet), name=name)
        assert found.turned == 90 * turns, name


@pytest.mark.parametrize("turns", range(4))
def test_a_turned_photo_is_aligned_and_pasted_back(turns: int, named: tuple[str, Detector], tmp_path: Path) -> None:
    """A photo's face is aligned in any orientation of the photo; pasting its own crop back gives the photo."""
    portrait: Pixels = pictures.astronaut()
    image = np.ascontiguousarray(np.rot90(portrait, turns))
    Image.fromarray(image).save(tmp_path / "a.png")
    found = photo.read_face(tmp_path / "a.png", named[1])
    points = (EYES_AND_MOUTH - 255.5).copy().view(np.complex128) * (1, -1j, -1, 1j)[turns]
    placed = align.apply(found.affine, points.view(np.float64) + 255.5)
    assert np.linalg.norm(placed - align.TEMPLATE, axis=1).mean() < 10
    np.testing.assert_array_equal(found.image, image)
    back = photo.PasteBack(found)(found.crop)
    assert np.abs(back.astype(int) - image).mean() < 1


class Counting:
    """YuNet, counting its detection passes."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self.picture_side, self.batch_size = detector.picture_side, detector.batch_size
        self.search_sides, self.close_up = detector.search_sides, detector.close_up
        self.whole = self.close = 0

    def detect(self, frames: Pixels) -> list[list[Face]]:
        """Detect in whole images."""
        self.whole += 1
        return self._detector.detect(frames)

    def detect_close(self, frames: Pixels) -> list[list[Face]]:
        """Detect in close-ups."""
        self.close += 1
        return self._detector.detect_close(frames)


def test_an_upright_face_costs_no_more_detections(yunet: str, spoken: tuple[Pixels, Any]) -> None:
    """If the face is clearly upright, no turned image is searched."""
    detector = Counting(detectors.build(yunet))
    seen = keyframes.find_faces([picture_of(frame) for frame in spoken[0][:6]], detector, 5)
    assert [len(faces) for faces in seen.by_frame.values()] == [1, 1]
    assert detector.whole == 1
    assert detector.close <= views.CLOSE_UPS


@pytest.mark.parametrize("name", ["opencv", "yunet"])
def test_a_photo_settles_where_a_still_clip_does(
    name: str, request: pytest.FixtureRequest, spoken: tuple[Pixels, Any], tmp_path: Path
) -> None:
    """A photo that is a frame of a video gets the transform of a clip of only this frame, to about a pixel.

    For twelve other synthetic speakers the two transforms differ by 0.2 to 0.9 px with YuNet, for this one by 1.0.
    """
    detector = detectors.build(name if name == "opencv" else request.getfixturevalue(name))
    image = np.ascontiguousarray(spoken[0][12])
    Image.fromarray(image).save(tmp_path / "a.png")
    found = photo.read_face(tmp_path / "a.png", detector)
    still: Any = [picture_of(image)] * 75
    affine = align_clip(still, detector, CropSettings(name), name="still").affine.astype(float)
    clip = np.median(affine[25:], axis=0)  # by then it has settled
    three = align.apply(np.linalg.inv(np.vstack([found.affine, [0, 0, 1]]))[:2], align.TEMPLATE)
    assert np.linalg.norm(align.apply(clip, three) - align.TEMPLATE, axis=1).mean() < 1.1
