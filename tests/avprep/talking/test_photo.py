"""Photos: from any image file to an aligned crop, and from a face back into its photo."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_faces import EYES_AND_MOUTH
from numpy.typing import NDArray
from PIL import Image, ImageChops
from skimage import data as pictures

from avprep.errors import AvprepError
from avprep.faces import align, detectors
from avprep.faces.detectors.base import Detector, Face
from avprep.talking import photo
from avprep.talking.photo import PasteBack, Photo

Pixels = NDArray[np.uint8]

ORIENTATION = 0x0112
TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""EXIF orientation -> what an upright picture is stored as."""


@pytest.fixture(scope="module")
def portrait() -> Pixels:
    """A real face, 512×512, the face about 90 pixels wide in the upper middle."""
    picture: Pixels = pictures.astronaut()
    return picture


@pytest.fixture(scope="module")
def haar() -> Detector:
    """The detector that needs no weights."""
    return detectors.build("opencv")


@pytest.fixture(scope="module")
def built() -> dict[str, Detector]:
    """The detectors that were built before, by name."""
    return {}


@pytest.fixture(params=["opencv", "yunet"])
def detector(request: pytest.FixtureRequest, built: dict[str, Detector]) -> Detector:
    """Each detector that runs here."""
    name: str = request.param
    if name == "yunet":
        request.getfixturevalue(name)
    if name not in built:
        built[name] = detectors.build(name)
    return built[name]


def saved(path: Path, image: Pixels | Image.Image, **options: Any) -> Path:
    """Write an image in the format of its suffix; PNG, which is lossless at any level, quickly."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(path, compress_level=1, **options)
    return path


def misplaced(found: Photo, to_portrait: float = 1.0, shift: tuple[float, float] = (0, 0)) -> float:
    """Return how far eyes and mouth of the portrait, scaled and then shifted, lie from the template (crop pixels)."""
    points = (EYES_AND_MOUTH + 0.5) * to_portrait - 0.5 + shift
    return float(np.linalg.norm(align.apply(found.affine, points) - align.TEMPLATE, axis=1).mean())


def refused(path: Path) -> str:
    """Read an unreadable file and return the error, which is one line that begins with the file's name."""
    with pytest.raises(AvprepError) as caught:
        photo.read_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


# ---------------------------------------------------------------- reading
@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.webp", "a.jpg"])
def test_every_format_is_read(name: str, portrait: Pixels, tmp_path: Path) -> None:
    """JPEG, PNG, WebP, BMP and TIFF give the image's colours, whatever the file's name."""
    path = saved(tmp_path / name, portrait[:128, 150:300], quality=98)
    path = path.rename(tmp_path / "picture")
    image = photo.read_image(path)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - portrait[:128, 150:300]).mean() < 3


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_few_colours_become_rgb(mode: str, portrait: Pixels, tmp_path: Path) -> None:
    """Black and white, grey and palette images are read as RGB with the same pixels."""
    picture = Image.fromarray(portrait).convert(mode)
    image = photo.read_image(saved(tmp_path / "a.png", picture))
    np.testing.assert_array_equal(image, np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_of_grey_are_scaled_to_eight(name: str, tmp_path: Path) -> None:
    """Of 16 bits per channel the upper eight are kept, instead of clipping all values above 255."""
    grey = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64)
    image = photo.read_image(saved(tmp_path / name, Image.fromarray(grey)))
    np.testing.assert_array_equal(image, np.repeat((grey >> 8)[..., None], 3, axis=2))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_shows_the_crops_grey(mode: str, tmp_path: Path) -> None:
    """An alpha channel blends the image with grey 127."""
    rgba = np.full((1, 3, 4), 255, np.uint8)
    rgba[0, :, 3] = 0, 51, 255
    image = photo.read_image(saved(tmp_path / "a.png", Image.fromarray(rgba).convert(mode)))
    np.testing.assert_allclose(image[0, :, 0], [127, 127 * 0.8 + 255 * 0.2, 255], atol=1)


@pytest.mark.parametrize("transparency", [2, bytes([255, 255, 0])])
def test_transparent_palette_entries_become_grey(transparency: int | bytes, tmp_path: Path) -> None:
    """The transparent colour of a palette image becomes grey, the others are unchanged."""
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    picture.putpalette([200, 10, 20, 30, 210, 40, 50, 60, 220])
    image = photo.read_image(saved(tmp_path / "a.png", picture, transparency=transparency))
    np.testing.assert_array_equal(image[0], [[200, 10, 20], [30, 210, 40], [127, 127, 127]])


@pytest.mark.parametrize("adobe", [True, False])
def test_cmyk_jpegs_keep_their_colours(adobe: bool, portrait: Pixels, tmp_path: Path) -> None:
    """A CMYK JPEG has the right colours in Adobe's form, which is inverted, and in the standard form."""
    inks = Image.fromarray(portrait).convert("CMYK")
    buffer = io.BytesIO()
    (inks if adobe else ImageChops.invert(inks)).save(buffer, "JPEG", quality=95)
    written = buffer.getvalue()
    mark = written.index(b"\xff\xee\x00\x0eAdobe")  # Pillow writes Adobe's form, so the other is the one without it
    path = tmp_path / "a.jpg"
    path.write_bytes(written if adobe else written[:mark] + written[mark + 16 :])
    assert np.abs(photo.read_image(path).astype(int) - portrait).mean() < 5


@pytest.mark.parametrize("orientation", TURNS)
def test_photos_are_turned_upright(orientation: int, portrait: Pixels, tmp_path: Path) -> None:
    """Whatever the camera's orientation, the photo is upright by its EXIF tag, in PNG and TIFF."""
    picture, turn = Image.fromarray(portrait[:200, 100:400]), TURNS[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    for name in ("a.png", "a.tif"):
        stored = picture if turn is None else picture.transpose(turn)
        np.testing.assert_array_equal(photo.read_image(saved(tmp_path / name, stored, exif=exif)), picture)


def test_sixteen_bit_photos_are_turned_too(tmp_path: Path) -> None:
    """The orientation applies to 16-bit images as well."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    grey = np.arange(6, dtype=np.uint16).reshape(2, 3) << 8
    image = photo.read_image(saved(tmp_path / "a.png", Image.fromarray(grey), exif=exif))
    np.testing.assert_array_equal(image[..., 0], np.rot90(grey >> 8, -1))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_first_picture_of_several_is_taken(name: str, tmp_path: Path) -> None:
    """Of an animation or a file of many pages the first image is read."""
    pages = [Image.new("RGB", (40, 30), (level, level, level)) for level in (10, 120, 240)]
    image = photo.read_image(saved(tmp_path / name, pages[0], save_all=True, append_images=pages[1:], lossless=True))
    np.testing.assert_array_equal(image, np.full((30, 40, 3), 10))
    assert not photo.is_still(tmp_path / name)
    assert photo.is_still(saved(tmp_path / f"one-{name}", pages[0]))


# ---------------------------------------------------------------- untrusted files
def test_what_is_no_picture_is_no_still(tmp_path: Path) -> None:
    """A folder, a pipe, a text and a missing file are not still images, and the check is immediate."""
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "text.png").write_text("Dear Sir or Madam,\n", encoding="utf-8")
    for name in (".", "pipe.jpg", "text.png", "gone.png", "a\0b"):
        assert not photo.is_still(tmp_path / name)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    """A missing file, a folder, a pipe and an impossible name are reported differently from damaged images."""
    assert "no such file" in refused(tmp_path / "gone.jpg")
    assert "not a file" in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "not a file" in refused(tmp_path / "pipe.jpg")  # opening it would wait for ever
    assert "too long" in refused(tmp_path / ("a" * 300)).lower()
    assert "no such file" in refused(tmp_path / "a\0b")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xd8\xff",
        b"Dear Sir or Madam,\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\nshowpage\n",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="file:///etc/hosts"/></svg>',
        b"GIF89a\x01\x00\x01\x00\x00\x00\x00;",
        bytes(range(256)) * 8,
    ],
    ids=["empty", "start", "text", "eps", "svg", "gif", "bytes"],
)
def test_what_is_no_photo_is_refused(content: bytes, tmp_path: Path) -> None:
    """Texts, drawings and unsupported formats are refused whatever their names, and no program is run."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    assert "save it as a JPEG or PNG file" in refused(path)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.bmp", "a.tif"])
def test_cut_off_files_are_refused(name: str, portrait: Pixels, tmp_path: Path) -> None:
    """A file truncated at any point is refused rather than read with a grey lower half."""
    whole = saved(tmp_path / name, portrait[:90, 180:270]).read_bytes()
    for end in [1, 2, 12, 40, *np.linspace(100, len(whole) - 40, 12).astype(int)]:
        (tmp_path / name).write_bytes(whole[:end])
        refused(tmp_path / name)
    (tmp_path / name).write_bytes(whole)
    assert photo.read_image(tmp_path / name).shape == (90, 90, 3)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_damage_is_one_clear_line(form: str, portrait: Pixels, tmp_path: Path) -> None:
    """Files with flipped bytes are read or refused in one line, without any other error."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    buffer = io.BytesIO()
    Image.fromarray(portrait[60:140, 180:270]).save(buffer, form, exif=exif)
    rng = np.random.default_rng(0)
    path, n_refused = tmp_path / "a", 0
    for _ in range(150):
        damaged = np.frombuffer(buffer.getvalue(), np.uint8).copy()
        where = rng.integers(0, rng.choice([30, 300, len(damaged)]), rng.integers(1, 6))
        damaged[where] = rng.integers(0, 256, len(where))
        path.write_bytes(damaged.tobytes())
        try:
            photo.read_image(path)
        except AvprepError:
            refused(path)
            n_refused += 1
    assert n_refused > 10


@pytest.mark.parametrize("size", [(60000, 60000), (12000, 9000), (33000, 10)])
def test_huge_pictures_are_refused_by_their_header(size: tuple[int, int], tmp_path: Path) -> None:
    """An image above 100 megapixels, or with a longer side than OpenCV supports, is refused before decoding."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    path = tmp_path / "bomb.png"
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))))
    assert "larger than 100 megapixels or 32000 pixels a side: shrink it" in refused(path)


def test_pixels_that_are_fractions_are_refused(tmp_path: Path) -> None:
    """A floating-point TIFF, whose white level is unknown, is refused."""
    assert "fractions" in refused(saved(tmp_path / "a.tif", Image.fromarray(np.ones((9, 9), np.float32))))


# ---------------------------------------------------------------- the face
def test_face_comes_to_lie_on_the_template(detector: Detector, portrait: Pixels, tmp_path: Path) -> None:
    """A photo's face is aligned like a video's: eyes and mouth within a few pixels of the template."""
    found = photo.read_face(saved(tmp_path / "a.png", portrait), detector)
    assert misplaced(found) < 10
    assert found.n_faces == 1
    np.testing.assert_array_equal(found.image, portrait)
    np.testing.assert_array_equal(found.crop, align.crop(portrait, found.affine))


@pytest.fixture(scope="module")
def upright(haar: Detector, portrait: Pixels, tmp_path_factory: pytest.TempPathFactory) -> photo.Photo:
    """The upper part of the portrait, as read by the product."""
    path = saved(tmp_path_factory.mktemp("upright") / "a.png", Image.fromarray(portrait[:300, 50:450]))
    return photo.read_face(path, haar)


@pytest.mark.parametrize("orientation", TURNS)
def test_orientation_does_not_change_the_crop(
    orientation: int, upright: photo.Photo, haar: Detector, portrait: Pixels, tmp_path: Path
) -> None:
    """A photo stored in any of the eight EXIF orientations gives the crop of the upright one."""
    picture, turn = Image.fromarray(portrait[:300, 50:450]), TURNS[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = picture if turn is None else picture.transpose(turn)
    turned = photo.read_face(saved(tmp_path / "b.jpg", stored, quality=95, exif=exif), haar)
    assert turned.image.shape == (300, 400, 3)
    points = align.apply(cv2.invertAffineTransform(upright.affine), align.TEMPLATE)
    moved = np.linalg.norm(align.apply(turned.affine, points) - align.TEMPLATE, axis=1)
    assert moved.max() < 6  # the Haar cascades respond to JPEG's noise, too
    assert np.abs(turned.crop.astype(int) - upright.crop).mean() < 18


@pytest.mark.parametrize("angle", [-25, -10, 12, 30])
def test_tilted_faces_come_upright(angle: int, yunet: str, portrait: Pixels, tmp_path: Path) -> None:
    """A tilted head is fully straightened, although one detection pass measures only a part of the tilt."""
    turn = cv2.getRotationMatrix2D((225, 120), angle, 1)
    tilted = cv2.warpAffine(portrait, turn, (512, 512), borderMode=cv2.BORDER_REFLECT)
    upright = photo.read_face(saved(tmp_path / "a.png", portrait), detectors.build(yunet))
    found = photo.read_face(saved(tmp_path / "b.png", np.asarray(tilted, np.uint8)), detectors.build(yunet))
    rest = found.affine[:, :2] @ turn[:, :2] @ np.linalg.inv(upright.affine[:, :2])
    assert abs(np.degrees(np.arctan2(rest[1, 0], rest[0, 0]))) < 2.5
    assert np.linalg.norm(rest - np.eye(2)) < 0.1


def test_faces_of_large_photos_are_found(detector: Detector, portrait: Pixels, tmp_path: Path) -> None:
    """In 12 megapixels a face of a sixth of the height is found, and aligned as exactly as in a small photo."""
    large = np.full((3000, 4000, 3), 200, np.uint8)
    scale = 5.0
    large[400:2960, 900:3460] = cv2.resize(portrait, (2560, 2560), interpolation=cv2.INTER_CUBIC)
    found = photo.read_face(saved(tmp_path / "a.jpg", large), detector)
    assert misplaced(found, scale, (900, 400)) < 10
    sigma = align.blur_sigma(found.affine[None])
    assert sigma > 0
    np.testing.assert_array_equal(found.crop, align.crop(found.image, found.affine, sigma=sigma))


def test_faces_of_tiny_photos_are_found(detector: Detector, portrait: Pixels, tmp_path: Path) -> None:
    """In a photo of 100×100 pixels a face 35 pixels wide is found."""
    tiny = cv2.resize(portrait[:256, 96:352], (100, 100), interpolation=cv2.INTER_AREA)
    scale = 100 / 256
    found = photo.read_face(saved(tmp_path / "a.png", np.asarray(tiny, np.uint8)), detector)
    assert misplaced(found, scale, (-96 * scale, 0)) < 14


def test_small_faces_are_found_in_parts_of_the_photo(detector: Detector, portrait: Pixels, tmp_path: Path) -> None:
    """A face too small for one detection in the whole photo is found in a quarter of it."""
    scene = np.full((1000, 1000, 3), 120, np.uint8)
    scene[560:1000, 380:820] = cv2.resize(portrait, (440, 440), interpolation=cv2.INTER_AREA)
    found = photo.read_face(saved(tmp_path / "a.png", scene), detector)
    assert misplaced(found, 440 / 512, (380, 560)) < 10
    assert found.n_faces == 1  # though overlapping parts show it more than once


class Told:
    """A detector that returns the given faces pass by pass, and none afterwards."""

    picture_side, batch_size, close_up = 512, 1, None

    def __init__(self, *looks: list[Face]) -> None:
        self._looks = iter(looks)

    def detect(self, frames: Pixels) -> list[list[Face]]:
        """Return the faces of the next pass, and none for its mirror image."""
        return [next(self._looks, []), *([[]] * (len(frames) - 1))]


def face_at(x: float, y: float, width: float, score: float = 9.0) -> Face:
    """Return a face by its upper left corner and its width, with points at the usual places."""
    shares = np.array([[0.2, 0.3], [0.8, 0.3], [0.5, 0.5], [0.25, 0.8], [0.75, 0.8]])
    points = np.array([x, y]) + shares * width
    return Face(np.array([x, y, x + width, y + width], np.float32), score, points.astype(np.float32))


def test_a_second_look_must_confirm_what_only_parts_show(portrait: Pixels, tmp_path: Path) -> None:
    """A face that is found in a part of the photo, but not in a closer view of the place, is rejected."""
    path = saved(tmp_path / "a.png", portrait)
    with pytest.raises(AvprepError, match="no face was found"):
        photo.read_face(path, Told([], [face_at(50, 50, 60)]))


def test_largest_face_need_not_be_the_surest(portrait: Pixels, tmp_path: Path) -> None:
    """The largest face is used, not the one with the highest score."""
    small, large = face_at(20, 20, 60, score=9), face_at(150, 200, 200, score=5)
    found = photo.read_face(saved(tmp_path / "a.png", portrait), Told([small, large]))
    np.testing.assert_allclose(found.affine, align.similarity(large.points))
    assert found.n_faces == 2


class Dots:
    """A detector that takes an image's red for the left eye, its green for the right one and its blue for the mouth."""

    picture_side, batch_size, close_up = 512, 1, None

    def detect(self, frames: Pixels) -> list[list[Face]]:
        """Return the one face that the three dots form."""
        return [self._one(frame) for frame in frames]

    def _one(self, frame: Pixels) -> list[Face]:
        y, x = np.mgrid[: frame.shape[0], : frame.shape[1]]
        bright = np.where(frame > 140, frame.astype(float) - 140, 0)
        centres = np.stack([(bright * n[..., None]).sum(axis=(0, 1)) / bright.sum(axis=(0, 1)) for n in (x, y)], axis=1)
        left, right = sorted(centres[:2], key=lambda centre: centre[0])  # reversed in a mirrored image
        mouth = centres[2]
        low, high = centres.min(axis=0) - 3, centres.max(axis=0) + 3
        points = np.stack([left, right, [np.nan, np.nan], mouth, mouth])
        return [Face(np.concatenate([low, high]).astype(np.float32), 1.0, points.astype(np.float32))]


@pytest.mark.parametrize("scale", [0.5, 1, 6])
def test_points_come_back_to_the_very_pixel(scale: float, tmp_path: Path) -> None:
    """However the photo is scaled to find the face, its points have the right place in the photo."""
    dots = np.array([[110.0, 101.0], [162.0, 98.0], [139.0, 152.0]]) * scale
    height, width = int(250 * scale), int(341 * scale)
    y, x = np.mgrid[:height, :width]
    image = np.full((height, width, 3), 100, np.uint8)
    for channel, dot in enumerate(dots):
        near = np.exp(-((x - dot[0]) ** 2 + (y - dot[1]) ** 2) / (2 * (5 * scale) ** 2))
        image[..., channel] = np.rint(100 + 150 * near)
    found = photo.read_face(saved(tmp_path / "a.png", image), Dots())
    np.testing.assert_allclose(
        align.apply(cv2.invertAffineTransform(found.affine), align.TEMPLATE),
        align.apply(cv2.invertAffineTransform(align.similarity(dots[[0, 1, 1, 2, 2]])), align.TEMPLATE),
        atol=0.06 * max(scale, 1),
    )


def two_portraits(path: Path, portrait: Pixels) -> Path:
    """Write a photo with the portrait's face twice: small on the left, twice as large on the right."""
    scene = np.full((600, 900, 3), 90, np.uint8)
    head = portrait[:256, 96:352]
    scene[200:456, 20:276] = head
    scene[50:562, 350:862] = cv2.resize(head, (512, 512), interpolation=cv2.INTER_CUBIC)
    return saved(path, scene)


def test_of_two_faces_the_larger_is_taken(detector: Detector, portrait: Pixels, tmp_path: Path) -> None:
    """Without a box the largest face is used."""
    found = photo.read_face(two_portraits(tmp_path / "a.png", portrait), detector)
    assert misplaced(found, 2, (350 - 2 * 96, 50)) < 10


def test_number_of_faces_can_be_told(yunet: str, portrait: Pixels, tmp_path: Path) -> None:
    """A photo records how many faces were found."""
    assert photo.read_face(two_portraits(tmp_path / "a.png", portrait), detectors.build(yunet)).n_faces == 2


@pytest.mark.parametrize("box", [(90, 240, 190, 370), (120, 270, 170, 330), (-50, 100, 300, 700), (0, 0, 320, 600)])
def test_a_box_says_which_face(
    box: tuple[float, float, float, float], detector: Detector, portrait: Pixels, tmp_path: Path
) -> None:
    """With a box around it, tight, loose or beyond the photo's edge, the smaller face is used."""
    found = photo.read_face(two_portraits(tmp_path / "a.png", portrait), detector, box=box)
    assert misplaced(found, 1, (20 - 96, 200)) < 10
    assert found.n_faces == 1


@pytest.mark.parametrize(
    "box", [(300, 300, 100, 100), (5, 5, 5, 90), (900, 0, 1000, 90), (-90, -90, 0, 0), (float("nan"), 0, 9, 9)]
)
def test_a_box_that_holds_nothing_is_refused(
    box: tuple[float, float, float, float], haar: Detector, portrait: Pixels, tmp_path: Path
) -> None:
    """An empty or inverted box and one outside the photo are refused with the photo's size."""
    path = saved(tmp_path / "a.png", portrait)
    with pytest.raises(AvprepError, match=r"a\.png: there is nothing in the box .*512×512 pixels"):
        photo.read_face(path, haar, box=box)


def test_a_box_beside_the_face_is_refused(detector: Detector, portrait: Pixels, tmp_path: Path) -> None:
    """If the box shows no face, no face from elsewhere is used."""
    path = saved(tmp_path / "a.png", portrait)
    with pytest.raises(AvprepError, match=r"a\.png: no face was found in the box 20,300,120,420: give left, top"):
        photo.read_face(path, detector, box=(20, 300, 120, 420))


def drawn_face() -> Pixels:
    """Draw a face as a child would: a circle, two dots and an arc."""
    paper = np.full((300, 300, 3), 255, np.uint8)
    cv2.circle(paper, (150, 150), 100, (0, 0, 0), 4)
    cv2.circle(paper, (115, 120), 8, (0, 0, 0), -1)
    cv2.circle(paper, (185, 120), 8, (0, 0, 0), -1)
    cv2.ellipse(paper, (150, 170), (50, 35), 0, 20, 160, (0, 0, 0), 4)
    return paper


@pytest.mark.parametrize("detector", [pytest.param("opencv", marks=pytest.mark.slow), "yunet"], indirect=True)
def test_photos_without_a_face_say_what_to_do(detector: Detector, portrait: Pixels, tmp_path: Path) -> None:
    """Noise, an empty page, a drawing and a helmet give one line that names the alternatives."""
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    for picture in (noise, np.full((50, 50, 3), 255, np.uint8), drawn_face(), portrait[340:, 280:]):
        path = saved(tmp_path / "a.png", np.ascontiguousarray(picture))
        with pytest.raises(AvprepError) as caught:
            photo.read_face(path, detector)
        message = str(caught.value)
        assert message.startswith(f"{path}: no face was found: ")
        assert all(word in message for word in ("--face-box", "--aligned", "--detector"))
        assert "\n" not in message


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (900, 1), (7, 400), (400, 30), (60, 3000)])
def test_strips_are_searched_without_a_fuss(shape: tuple[int, int], detector: Detector, tmp_path: Path) -> None:
    """Images of any shape, even a single pixel, give the usual one-line error."""
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    with pytest.raises(AvprepError, match="no face was found"):
        photo.read_face(saved(tmp_path / "a.png", picture), detector)


# ---------------------------------------------------------------- aligned photos
@pytest.mark.parametrize(("side", "margin"), [(256, 0), (260, 2)])
def test_aligned_photos_are_taken_as_they_are(side: int, margin: int, portrait: Pixels, tmp_path: Path) -> None:
    """An image of 256×256 is the crop; of 260×260 the middle is used, as in the released demo."""
    picture = portrait[:side, 100 : 100 + side]
    aligned = photo.read_aligned(saved(tmp_path / "a.png", np.ascontiguousarray(picture)))
    np.testing.assert_array_equal(aligned.crop, picture[margin : margin + 256, margin : margin + 256])
    np.testing.assert_array_equal(align.crop(aligned.image, aligned.affine), aligned.crop)
    assert aligned.n_faces == 0


@pytest.mark.parametrize("shape", [(256, 260), (260, 256), (255, 255), (512, 512)])
def test_photos_of_other_sizes_are_not_aligned(shape: tuple[int, int], portrait: Pixels, tmp_path: Path) -> None:
    """Any other size is refused with the alternative."""
    path = saved(tmp_path / "a.png", np.ascontiguousarray(portrait[: shape[0], : shape[1]]))
    with pytest.raises(AvprepError, match=rf"a\.png: .* this one {shape[1]}×{shape[0]}: leave --aligned out"):
        photo.read_aligned(path)


# ---------------------------------------------------------------- the way back
def smooth_picture(seed: int, height: int, width: int) -> Pixels:
    """Make an image of soft colours, which survives resampling."""
    coarse = np.random.default_rng(seed).integers(30, 226, (4, 4, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


@st.composite
def photos(draw: st.DrawFn) -> Photo:
    """A soft image and a crop of it, of any size and rotation, that may extend beyond the image."""
    height, width = draw(st.integers(40, 400)), draw(st.integers(40, 400))
    scale, angle = draw(st.floats(0.3, 4)), draw(st.floats(-1, 1))
    centre = np.array([draw(st.floats(0, width - 1)), draw(st.floats(0, height - 1))])
    image = smooth_picture(draw(st.integers(0, 9)), height, width)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    affine = np.column_stack([turn, 127.5 - turn @ centre])
    return Photo(image, affine, align.crop(image, affine, sigma=align.blur_sigma(affine[None])))


def places_in_crop(of: Photo) -> NDArray[np.float64]:
    """Return the position in the crop of each pixel of a photo: (H, W, 2), x y."""
    height, width = of.image.shape[:2]
    y, x = np.mgrid[:height, :width]
    return align.apply(of.affine, np.stack([x, y], axis=-1).reshape(-1, 2)).reshape(height, width, 2)


@given(photos())
@settings(max_examples=60, deadline=None)
def test_own_crop_pasted_back_is_the_photo(of: Photo) -> None:
    """Pasting back the photo's own crop changes nothing outside the crop, and next to nothing inside."""
    before = of.image.copy()
    back = PasteBack(of)(of.crop)
    np.testing.assert_array_equal(of.image, before)
    outside = (np.abs(places_in_crop(of) - 127.5) > 128.5).any(axis=-1)
    np.testing.assert_array_equal(back[outside], before[outside])
    error = np.abs(back.astype(int) - before)
    assert error.max() < 30
    assert error.mean() < 2


@given(photos(), st.integers(0, 255))
@settings(max_examples=60, deadline=None)
def test_new_face_stands_alone_inside_and_leaves_the_outside(of: Photo, level: int) -> None:
    """Away from all borders there is only the face, outside the crop only the photo, and a blend between them."""
    back = PasteBack(of)(np.full((256, 256, 3), level, np.uint8)).astype(int)
    depth = 128 - np.abs(places_in_crop(of) - 127.5).max(axis=-1)  # crop pixels from the crop's border
    height, width = of.image.shape[:2]
    y, x = np.mgrid[:height, :width]
    from_edge = np.minimum(np.minimum(x, width - 1 - x), np.minimum(y, height - 1 - y)) * align.scale(of.affine)
    alone = (depth > photo.FEATHER + 2 * align.scale(of.affine)) & (from_edge > photo.EDGE)
    assert (np.abs(back[alone] - level) <= 1).all()
    np.testing.assert_array_equal(back[depth < -1], of.image[depth < -1])
    low, high = np.minimum(of.image, level).astype(int), np.maximum(of.image, level).astype(int)
    assert (back >= low - 1).all()
    assert (back <= high + 1).all()


@pytest.mark.parametrize("scale", [0.4, 1, 5])
def test_seam_is_smooth(scale: float) -> None:
    """A white face in a black photo fades in without a step, whatever the photo's size."""
    side = int(256 / scale) + 40
    affine = np.array([[scale, 0.0, -20 * scale], [0.0, scale, -20 * scale]])
    black = Photo(np.zeros((side, side, 3), np.uint8), affine, np.zeros((256, 256, 3), np.uint8))
    back = PasteBack(black)(np.full((256, 256, 3), 255, np.uint8)).astype(int)
    steps = max(np.abs(np.diff(back, axis=0)).max(), np.abs(np.diff(back, axis=1)).max())
    assert back.max() == 255
    assert steps <= 1.5 * scale * 255 / photo.FEATHER + 1  # the curve's maximum slope is 1.5


def test_grey_beyond_the_photo_is_not_pasted_into_it() -> None:
    """Where the crop extends beyond the photo, its grey does not bleed over the photo's edge."""
    image = np.full((200, 300, 3), 250, np.uint8)
    affine = np.array([[1.3, 0.0, -60.0], [0.0, 1.3, 50.0]])
    cut_off = Photo(image, affine, align.crop(image, affine))
    assert (cut_off.crop == align.BORDER).any()
    smeared = np.asarray(cv2.GaussianBlur(cut_off.crop, (0, 0), 2), np.uint8)
    assert np.abs(PasteBack(cut_off)(smeared).astype(int) - 250).max() < 12


def test_shrunk_faces_do_not_alias() -> None:
    """A fine pattern in the face becomes even grey, not moiré, in a photo much smaller than the crop."""
    board = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
    affine = np.array([[4.0, 0.0, -100.0], [0.0, 4.0, -100.0]])
    small = Photo(np.full((120, 120, 3), 127, np.uint8), affine, np.zeros((256, 256, 3), np.uint8))
    assert PasteBack(small)(np.repeat(board[..., None], 3, axis=2)).astype(int).std() < 3


@given(photos(), st.integers(16, 500))
@settings(max_examples=60, deadline=None)
def test_film_shows_the_same_points(of: Photo, longest: int) -> None:
    """A photo resized for a video has even sides within the limit, and its corners keep their places in the crop."""
    film = photo.fit_film(of, longest)
    sides, full = np.array(film.image.shape[1::-1]), np.array(of.image.shape[1::-1])
    assert (sides % 2 == 0).all()
    assert (sides >= 2).all()
    assert sides.max() <= longest
    assert film.crop is of.crop
    first = np.array([[-0.5, -0.5]])  # the corner of the first pixel
    np.testing.assert_allclose(align.apply(film.affine, first), align.apply(of.affine, first), atol=1e-9)
    for cut in ((0, 0), (0, 1), (1, 0), (1, 1)):  # the last row and column may have been cut off
        last = align.apply(film.affine, np.array([sides + cut]) - 0.5)
        if np.allclose(last, align.apply(of.affine, np.array([full]) - 0.5)):
            break
    else:
        pytest.fail("the film's last corner is not the photo's")


def test_film_shows_the_same_crop(portrait: Pixels, tmp_path: Path, haar: Detector) -> None:
    """The crop of the video's frame is that of the photo, to less than a pixel."""
    large = np.asarray(cv2.resize(portrait, (1401, 1401), interpolation=cv2.INTER_CUBIC), np.uint8)
    found = photo.read_face(saved(tmp_path / "a.png", large), haar)
    film = photo.fit_film(found, 901)
    assert film.image.shape == (900, 900, 3)
    again = align.crop(film.image, film.affine, sigma=align.blur_sigma(film.affine[None]))
    (x, y), _ = cv2.phaseCorrelate(found.crop[..., 1].astype(np.float64), again[..., 1].astype(np.float64))
    assert np.hypot(x, y) < 0.1
    assert np.abs(again.astype(int) - found.crop).mean() < 3


def test_film_of_a_small_even_photo_is_the_photo(portrait: Pixels) -> None:
    """A small photo with even sides is not resampled."""
    of = Photo(portrait, np.eye(2, 3), portrait[:256, :256])
    film = photo.fit_film(of)
    np.testing.assert_array_equal(film.image, portrait)
    np.testing.assert_array_equal(film.affine, of.affine)


# ---------------------------------------------------------------- real photos
@pytest.mark.parametrize("name", ["test_sample1.jpg", "test_sample2.jpg", "test_sample3.jpg"])
def test_released_photos_are_aligned_already(name: str, shared: Path, yunet: str) -> None:
    """The released demo's photos, aligned by its own tool, move by only a few pixels when aligned again."""
    path = shared / "clips" / "photos" / name
    found = photo.read_face(path, detectors.build(yunet))
    places = align.TEMPLATE
    assert np.linalg.norm(align.apply(found.affine, places) - places, axis=1).max() < 12
    np.testing.assert_array_equal(photo.read_aligned(path).crop, found.image)


def test_two_people_are_told_apart(shared: Path, yunet: str) -> None:
    """Either of two people can be chosen with a box; without a box one of the equally large faces is used."""
    path, detector = shared / "clips" / "photos" / "two_people.jpg", detectors.build(yunet)
    either = photo.read_face(path, detector)
    left = photo.read_face(path, detector, box=(230, 20, 400, 230))
    right = photo.read_face(path, detector, box=(780, 40, 950, 260))
    assert either.n_faces == 2
    places = align.apply(cv2.invertAffineTransform(either.affine), align.TEMPLATE)
    away = [np.linalg.norm(align.apply(one.affine, places) - align.TEMPLATE, axis=1).mean() for one in (left, right)]
    assert min(away) < 1.5
    middle = align.apply(cv2.invertAffineTransform(left.affine), np.array([[128.0, 128.0]]))[0]
    assert 230 < middle[0] < 400


def test_grass_has_no_face(shared: Path, yunet: str) -> None:
    """A lawn without a face is refused."""
    with pytest.raises(AvprepError, match="no face was found"):
        photo.read_face(shared / "clips" / "photos" / "grass.jpg", detectors.build(yunet))


def test_a_rabbit_that_is_aligned_can_be_used(shared: Path) -> None:
    """An aligned drawing of a rabbit, in which no detector is sure of a face, is used as it is."""
    assert photo.read_aligned(shared / "clips" / "photos" / "test_sample4.jpg").crop.shape == (256, 256, 3)
