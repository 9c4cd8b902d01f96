"""Frames are what a player shows: rotated, mirrored, of the right width, with the colours of a BT.709 screen."""

from __future__ import annotations

import gc
import json
import struct
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import made_media as made
import numpy as np
import pytest
from made_faces import Anywhere, clip_of
from numpy.typing import NDArray
from PIL import Image

from avprep import schema, stages
from avprep.demo import synthetic
from avprep.errors import Reject
from avprep.faces import align
from avprep.media.display import AS_STORED, Display, display
from avprep.media.picture import Picture
from avprep.media.video import Frames
from avprep.talking.photo import read_image

ORIENTATIONS = [(degrees, mirrored) for degrees in (0, 90, 180, 270) for mirrored in (False, True)]


def scene(width: int = 96, height: int = 64) -> NDArray[np.uint8]:
    """Draw an image that looks different in each of the eight orientations, uint8 (H, W, 3)."""
    y, x = np.mgrid[:height, :width]
    grey = 40 + 100 * x / width + 60 * y / height
    image = np.repeat(grey[..., None], 3, 2).astype(np.uint8)
    cv2.circle(image, (width // 4, height // 3), height // 6, (220, 210, 60), -1)
    cv2.rectangle(image, (width // 2, height // 2), (width - 8, height - 8), (40, 90, 200), -1)
    return image


def plain(path: Path, image: NDArray[np.uint8], n_frames: int = 3, **options: Any) -> Path:
    """Write a video that shows one image."""
    return made.write(path, made.steady(25, n_frames / 25), [image] * n_frames, video={"crf": "4"}, **options)


def first(path: Path) -> Picture:
    """The first frame of a file."""
    return next(iter(Frames(path)))


def by_ffmpeg(path: Path, *filters: str) -> NDArray[np.uint8]:
    """Return the first frame as the ffmpeg program shows it, uint8 (H, W, 3)."""
    out = path.with_suffix(".png")
    made.ffmpeg("-i", path, *filters, "-frames:v", "1", out)
    return np.asarray(Image.open(out).convert("RGB"))


def off(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Return the mean difference of two images of the same size."""
    assert one.shape == other.shape
    return float(np.abs(one.astype(int) - other).mean())


def flagged(path: Path, degrees: float, *, mirrored: bool = False, flipped: bool = False) -> Path:
    """Write a video whose display matrix rotates and mirrors it."""
    source = plain(path.with_name("plain.mp4"), scene())
    mirrors = [*(["-display_hflip"] if mirrored else []), *(["-display_vflip"] if flipped else [])]
    made.ffmpeg("-display_rotation", degrees, *mirrors, "-i", source, "-c", "copy", path)
    return path


@pytest.mark.parametrize(("degrees", "mirrored"), ORIENTATIONS)
def test_display_matrices_turn_and_mirror_as_in_ffmpeg(degrees: int, mirrored: bool, tmp_path: Path) -> None:
    """All eight orientations match ffmpeg's: in colour, in luma, at small size, and for the crop."""
    clip = flagged(tmp_path / "clip.mp4", degrees, mirrored=mirrored)
    picture, shown = first(clip), by_ffmpeg(clip)
    assert picture.size == shown.shape[1::-1]
    assert off(picture.rgb(), shown) < 2
    assert np.array_equal(picture.rgba()[..., :3], picture.rgb())
    source, to_source = picture.source()
    assert to_source is None
    assert np.array_equal(source, picture.rgba())
    grey = cv2.cvtColor(shown, cv2.COLOR_RGB2GRAY).astype(float)
    assert np.corrcoef(picture.luma().ravel(), grey.ravel())[0, 1] > 0.99
    small = picture.small(48)
    assert off(small, cv2.resize(shown, small.shape[1::-1], interpolation=cv2.INTER_AREA)) < 4


def test_a_picture_upside_down_in_a_mirror_is_flipped(tmp_path: Path) -> None:
    """A matrix that only swaps top and bottom, with an angle of 0, is applied."""
    clip = flagged(tmp_path / "clip.mp4", 0, flipped=True)
    assert off(first(clip).rgb(), scene()[::-1]) < 4
    assert off(first(clip).rgb(), by_ffmpeg(clip)) < 2


@pytest.mark.parametrize("degrees", [1, 2, 10, 91, 215])
def test_any_other_angle_turns_the_picture_within_its_frame(degrees: int, tmp_path: Path) -> None:
    """A display matrix with any other angle rotates the frame as ffmpeg does; a single degree is ignored."""
    clip = flagged(tmp_path / "clip.mp4", -degrees)
    picture, shown = first(clip), by_ffmpeg(clip)
    inside = (slice(12, -12), slice(24, -24))  # away from the corners, which ffmpeg paints black
    assert off(picture.rgb()[inside], shown[inside]) < 3
    source, to_source = picture.source()
    if degrees == 1:
        assert to_source is None
    else:
        assert to_source is not None
        turned = cv2.warpAffine(source, to_source, picture.size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        assert off(turned[..., :3][inside], picture.rgb()[inside]) < 1


def test_matrices_that_mean_nothing() -> None:
    """A matrix that flattens the frame, or is truncated, is ignored."""
    assert display(struct.pack("=9i", *[0] * 9), None) == AS_STORED
    assert display(b"short", Fraction(0)) == AS_STORED
    assert display(None, Fraction(-1, 3)) == AS_STORED


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_come_upright_from_all_eight_exif_orientations(orientation: int, tmp_path: Path) -> None:
    """A photo is rotated and mirrored by its EXIF tag."""
    stored = {
        1: lambda image: image,
        2: lambda image: image[:, ::-1],
        3: lambda image: image[::-1, ::-1],
        4: lambda image: image[::-1],
        5: lambda image: image.swapaxes(0, 1),
        6: lambda image: np.rot90(image, 1),
        7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
        8: lambda image: np.rot90(image, -1),
    }[orientation](scene())
    photo = Image.fromarray(np.ascontiguousarray(stored))
    exif = photo.getexif()
    exif[0x0112] = orientation
    photo.save(tmp_path / "photo.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "photo.png"), scene())


def test_motion_jpeg_with_exif_is_upright(tmp_path: Path) -> None:
    """Frames with EXIF of their own are read, even if PyAV does not support such side data, and rotated by it."""
    photo = Image.fromarray(np.ascontiguousarray(np.rot90(scene(), 1)))
    exif = photo.getexif()
    exif[0x0112] = 6
    for n in range(3):
        photo.save(tmp_path / f"{n}.jpg", exif=exif, quality=98)
    clip = tmp_path / "clip.mkv"
    made.ffmpeg("-framerate", 25, "-i", tmp_path / "%d.jpg", "-c", "copy", clip)
    picture = first(clip)
    assert picture.size == by_ffmpeg(clip).shape[1::-1]
    assert off(picture.rgb(), by_ffmpeg(clip)) < 3


def test_pictures_are_let_go_one_by_one(tmp_path: Path) -> None:
    """A frame's memory is freed as soon as the next frames are read, without waiting for garbage collection."""
    pictures = iter(Frames(plain(tmp_path / "clip.mp4", scene(), 25), keep_bytes=0))
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            next(pictures)
        held = sum(issubclass(type(thing), av.VideoFrame) for thing in gc.get_objects())
    finally:
        gc.enable()
    assert 1 <= held <= 5


def test_no_picture_outlives_its_clip(tmp_path: Path) -> None:
    """Nothing of a clip waits for garbage collection: one frame would hold on to the memory of all."""
    path = plain(tmp_path / "clip.mp4", scene(), 10)
    gc.collect()
    gc.disable()
    try:
        for picture in Frames(path):
            picture.rgb()
        del picture
        assert not any(issubclass(type(thing), av.VideoFrame) for thing in gc.get_objects())
    finally:
        gc.enable()


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A talking face in a large lossless video, 512×512, of ten frames."""
    frames, _ = synthetic.utterance("ABOUT", synthetic.speaker(3), 0, 512)
    clip = tmp_path_factory.mktemp("talker") / "talker.mkv"
    return made.write(clip, made.steady(25, 0.4), frames[:10], vcodec="ffv1", pixels="yuv444p")


def cropped(clip: Path, detector: Any = None, **settings: Any) -> tuple[list[NDArray[np.uint8]], dict[str, Any]]:
    """Return a clip's crops, and its points, transforms and facts."""
    sample = stages.crop_clip(
        clip_of(clip),
        clip.parent,
        replace(stages.CropSettings(min_face=1.0, image_format="png"), **settings),
        detector or Anywhere(),
    )
    members = dict(sample.members)
    crops = [cv2.imdecode(np.frombuffer(data, np.uint8), 1) for name, data in members.items() if name.endswith("png")]
    arrays = {name: schema.decode_array(data) for name, data in members.items() if name.endswith("npy")}
    return crops, {**arrays, **json.loads(members["clip.json"])}


def stored_as(talker: Path, clip: Path, size: str, aspect: str, *options: Any) -> Path:
    """Store the talker with the given size and pixel aspect."""
    filters = f"scale={size}:flags=bicubic,setsar={aspect}"
    made.ffmpeg("-i", talker, "-vf", filters, "-crf", 4, "-pix_fmt", "yuv420p", *options, clip)
    return clip


@pytest.mark.parametrize(
    ("stored", "aspect", "square"),
    [
        ("288:288", "4/3", "384:288"),
        ("288:384", "64/45", "410:384"),
        ("320:214", "1/1.5", "320:320"),
        ("400:100", "1/4", "400:400"),
        ("384:288", "1", "384:288"),
    ],
)
def test_crops_do_not_depend_on_the_pixels_aspect(
    stored: str, aspect: str, square: str, talker: Path, tmp_path: Path
) -> None:
    """A face stored with non-square pixels gives the size, points, transforms and crops of one with square pixels."""
    anamorphic = stored_as(talker, tmp_path / "anamorphic.mp4", stored, aspect)
    right = stored_as(talker, tmp_path / "square.mp4", square, "1")
    found, (crops, facts) = cropped(right), cropped(anamorphic)
    width, height = map(int, square.split(":"))
    assert facts["size"] == pytest.approx([width, height], abs=1)
    np.testing.assert_allclose(facts["points.npy"], found[1]["points.npy"], atol=1)
    np.testing.assert_allclose(facts["affine.npy"][:, :, :2], found[1]["affine.npy"][:, :, :2], rtol=0.01, atol=0.005)
    coarse = 8 if stored == "400:100" else 3  # a quarter of the lines is missing
    assert np.mean([off(one, other) for one, other in zip(crops, found[0], strict=True)]) < coarse
    wide = Fraction(aspect) if "." not in aspect else Fraction(2, 3)
    assert ("pixel_aspect" in facts) == (wide != 1)


def test_a_real_detector_finds_the_same_face_in_wide_pixels(talker: Path, tmp_path: Path) -> None:
    """Detectors are shown frames of the right aspect."""
    from avprep.faces import detectors

    detector = detectors.build("opencv")
    anamorphic = stored_as(talker, tmp_path / "anamorphic.mp4", "360:576", "64/45")
    right = stored_as(talker, tmp_path / "square.mp4", "512:576", "1")
    (crops, facts), (expected, found) = cropped(anamorphic, detector), cropped(right, detector)
    assert facts["size"] == found["size"] == [512, 576]
    assert np.abs(facts["points.npy"] - found["points.npy"])[:, :2].max() < 3
    assert np.mean([off(one, other) for one, other in zip(crops, expected, strict=True)]) < 4


@pytest.mark.parametrize("name", ["clip.ts", "clip.mpg", "clip.mkv", "clip.avi", "clip.mov"])
def test_the_aspect_is_found_where_each_container_has_it(name: str, talker: Path, tmp_path: Path) -> None:
    """The aspect may be stored in the container or in the stream alone."""
    codec = ("-c:v", "mpeg2video", "-q:v", 2) if name.endswith((".mpg", ".ts")) else ()
    clip = stored_as(talker, tmp_path / name, "320:240", "16/11" if not codec else "4/3", *codec)
    with av.open(str(clip)) as container:
        aspect = float(container.streams.video[0].sample_aspect_ratio)
    assert first(clip).size == (pytest.approx(320 * aspect, abs=1), 240)
    assert aspect > 1.3


def test_the_containers_aspect_comes_before_the_streams(talker: Path, tmp_path: Path) -> None:
    """If container and stream disagree, the container's aspect is used, as in FFmpeg."""
    stream = stored_as(talker, tmp_path / "stream.mp4", "240:240", "2")
    clip = tmp_path / "clip.mkv"
    made.ffmpeg("-i", stream, "-c", "copy", "-aspect", "1:2", clip)
    assert first(clip).size == (240, 480)


def test_a_clip_has_the_aspect_of_its_own_part_of_a_recording(talker: Path, tmp_path: Path) -> None:
    """If a recording changes its aspect, clips on either side have their own, and one across the change is refused."""
    parts = [
        stored_as(talker, tmp_path / f"{name}.ts", "320:240", aspect, "-c:v", "mpeg2video", "-q:v", 2)
        for name, aspect in (("narrow", "1"), ("wide", "4/3"))
    ]
    recording = tmp_path / "recording.ts"
    recording.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert next(iter(Frames(recording, duration=0.2))).size == (320, 240)
    assert next(iter(Frames(recording, start=0.5, duration=0.2))).size == (427, 240)
    with pytest.raises(Reject, match="size changes midway"):
        list(Frames(recording))


@pytest.mark.parametrize("flags", ["+bitexact", "+ildct+ilme"])
def test_a_clip_may_end_at_a_key_frame_before_another_aspect(flags: str, talker: Path, tmp_path: Path) -> None:
    """A picture that decoder and deinterlacer hold back until the aspect has changed keeps its own."""
    options = ("-c:v", "mpeg2video", "-q:v", 2, "-g", 1, "-flags", flags)
    parts = [
        stored_as(talker, tmp_path / f"{name}.mpg", "320:240", aspect, *options)
        for name, aspect in (("narrow", "1"), ("wide", "4/3"))
    ]
    recording = tmp_path / "recording.mpg"
    recording.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = Frames(recording, duration=0.4)
    assert {picture.size for picture in frames} == {(320, 240)}
    assert frames.n_frames == 10
    assert frames.interlaced == (flags == "+ildct+ilme")


def test_aspect_and_turn_together(talker: Path, tmp_path: Path) -> None:
    """The aspect is that of the pixels as stored, before the frame is rotated."""
    wide = stored_as(talker, tmp_path / "wide.mp4", "240:320", "4/3")
    clip = tmp_path / "clip.mp4"
    made.ffmpeg("-display_rotation", 90, "-i", wide, "-c", "copy", clip)
    picture = first(clip)
    assert picture.size == (320, 320)
    upright = by_ffmpeg(wide, "-vf", "scale=320:320")
    turned = np.ascontiguousarray(np.rot90(upright, 1))
    assert off(picture.rgb(), turned) < 4
    source, to_source = picture.source()
    assert source.shape == (240, 320, 4)
    assert to_source is not None
    warped = align.crop(source, np.array([[0.8, 0, 0], [0, 0.8, 0]]), to_image=to_source)
    assert off(warped[..., :3], align.crop(picture.rgb(), np.array([[0.8, 0, 0], [0, 0.8, 0]]))) < 2


@pytest.mark.parametrize("aspect", [Fraction(2), Fraction(1, 2), Fraction(64, 45)])
def test_the_edges_of_both_pictures_agree(aspect: Fraction) -> None:
    """The displayed picture ends where the stored one does: non-square pixels move nothing by a part of a pixel."""
    turned = Display(aspect, transpose=True)
    width, height = turned.size(48, 36)
    to_source = turned.to_source(48, 36)
    assert to_source is not None
    edges = to_source @ [[-0.5, width - 0.5], [-0.5, height - 0.5], [1, 1]]
    np.testing.assert_allclose(edges, [[-0.5, 35.5], [-0.5, 47.5]])


def test_an_aspect_beside_square_changes_nothing() -> None:
    """An aspect that only comes from an encoder's rounding does not cause resampling."""
    assert display(None, Fraction(1280, 1281)) == AS_STORED
    assert display(None, Fraction(12, 11)) == Display(Fraction(12, 11))


def test_an_aspect_that_makes_a_huge_picture_is_refused(talker: Path, tmp_path: Path) -> None:
    """A file whose pixel aspect makes a huge frame is refused."""
    clip = stored_as(talker, tmp_path / "clip.mp4", "1280:720", "200/1")
    with pytest.raises(Reject, match="shown larger than") as reject:
        list(Frames(clip))
    assert reject.value.reason == "unreadable"


THREADS = """
import sys, threading
from hashlib import sha256
from pathlib import Path
from avprep.media.video import Frames

def digest(path, digests):
    total = sha256()
    for _ in range(8):
        for picture in Frames(Path(path)):
            total.update(picture.rgb().tobytes() + picture.small(40).tobytes())
    digests[path] = total.hexdigest()

alone, together = {}, {}
for path in sys.argv[1:]:
    digest(path, alone)
threads = [threading.Thread(target=digest, args=(path, together)) for path in sys.argv[1:]]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(alone == together)
"""


def test_two_threads_read_two_videos(tmp_path: Path) -> None:
    """Videos of different sizes read in threads at once give the same frames as each alone."""
    sizes = ((96, 64), (320, 240), (64, 96))
    clips = [plain(tmp_path / f"{n}.mp4", scene(*size), 25) for n, size in enumerate(sizes)]
    done = subprocess.run([sys.executable, "-c", THREADS, *clips], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
