"""A few seconds of video of a person give the crops and windows that training would use."""

from __future__ import annotations

from pathlib import Path

import made_media as made
import numpy as np
import pytest

from avprep import layouts
from avprep.errors import AvprepError
from avprep.faces import detectors
from avprep.manifest import Manifest
from avprep.shards.image import decode_image
from avprep.shards.sample import Sample
from avprep.stages import CropSettings, MfccSettings, crop_clip, mfcc_clip
from avprep.talking import person
from avprep.talking.person import Person

OPENCV = CropSettings("opencv")


@pytest.fixture(scope="module")
def plan(lrw: Path) -> Manifest:
    """The synthetic corpus; one of its clips is no video."""
    plan, _ = layouts.index("lrw", lrw / "corpus")
    return plan


def test_crops_and_windows_are_those_of_the_shards(plan: Manifest) -> None:
    """The crops and windows of a video are those of `avprep crop` and `avprep mfcc`, except for JPEG."""
    clip, detector = plan.split("test")[0], detectors.build("opencv")
    found = person.read_person(plan.root / clip.video, detector, OPENCV, "davs")
    crop: Sample = crop_clip(clip, plan.root, CropSettings("opencv", image_format="png"), detector)
    frames = [decode_image(data) for name, data in crop.members if name.endswith(".png")]
    assert np.array_equal(found.crops, np.stack(frames)[..., :3])
    windows = dict(mfcc_clip(clip, plan.root, MfccSettings()).members)["mfcc.npy"]
    assert found.windows is not None
    assert windows.endswith(found.windows.tobytes())


def test_what_is_not_heard_is_left_out(plan: Manifest, tmp_path: Path) -> None:
    """A video without audio, or with silence alone, has no windows."""
    source, detector = plan.root / plan.split("test")[0].video, detectors.build("opencv")
    made.ffmpeg("-i", source, "-an", "-c:v", "copy", tmp_path / "mute.mp4")
    made.ffmpeg("-i", source, "-af", "volume=0", "-c:v", "copy", tmp_path / "silent.mp4")
    for name in ("mute.mp4", "silent.mp4"):
        found = person.read_person(tmp_path / name, detector, OPENCV, "davs")
        assert found.windows is None, name
        assert found.crops.shape == (29, 256, 256, 3)


def test_a_long_video_is_refused(tmp_path: Path) -> None:
    """More than 20 s is refused to limit memory; one line gives the maximum length."""
    clip = made.numbered(tmp_path / "long.mp4", made.steady(25, 21))
    with pytest.raises(AvprepError, match=r"cut it to 20 s"):
        person.read_person(clip, detectors.build("opencv"), OPENCV, "davs")


def test_crops_are_spread_over_the_video() -> None:
    """Crops are spread evenly from the first to the last; a short video gives all of them."""
    crops = np.arange(11, dtype=np.uint8)[:, None, None, None] * np.ones((256, 256, 3), np.uint8)
    found = Person(crops, None)
    assert found.spread(3)[:, 0, 0, 0].tolist() == [0, 5, 10]
    assert len(found.spread(50)) == 11
