"""Colour profiles of photos: what is read is sRGB."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from avprep.talking import photo

Pixels = NDArray[np.uint8]

SRGB = np.array(
    [[0.4360657, 0.3851471, 0.1430664], [0.2224884, 0.7168732, 0.0606079], [0.0139160, 0.0970764, 0.7140961]]
)
P3 = np.array([[0.515121, 0.291977, 0.157104], [0.241196, 0.692245, 0.066574], [-0.001053, 0.041885, 0.784073]])
"""Linear RGB -> XYZ at D50, as in the profiles of these names."""


def of_srgb() -> bytes:
    """The profile of sRGB."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def of_p3() -> bytes:
    """A profile of Display P3: that of sRGB with other primaries."""
    data = bytearray(of_srgb())
    for n in range(struct.unpack_from(">I", data, 128)[0]):
        name, place, _ = struct.unpack_from(">4sII", data, 132 + 12 * n)
        if name in (b"rXYZ", b"gXYZ", b"bXYZ"):
            column = P3[:, b"rgb".index(name[0])]
            struct.pack_into(">3i", data, place + 8, *np.rint(column * 65536).astype(int).tolist())
    return bytes(data)


def profile(space: bytes, connection: bytes, tag: bytes, content: bytes) -> bytes:
    """A profile of version 2 with a single tag."""
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    head = struct.pack(">I4sI4s4s4s", 0, b"none", 0x02100000, kind, space, connection) + bytes(12) + b"acsp" + bytes(24)
    head += struct.pack(">I3i", 0, 63190, 65536, 54061)  # the intent, and D50
    data = head.ljust(128, b"\0") + struct.pack(">I4sII", 1, tag, 144, len(content)) + content
    return struct.pack(">I", len(data)) + data[4:]


def of_grey(gamma: float) -> bytes:
    """A profile of grey levels with a gamma."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    return profile(b"GRAY", b"XYZ ", b"kTRC", curve + bytes(2))


def of_inks() -> bytes:
    """A profile of inks, of which only the first one and black darken the paper."""
    steps = np.arange(256, dtype=np.uint8)
    inks = np.indices((2, 2, 2, 2)).reshape(4, -1)
    light = np.where(inks[3] == 1, 0, np.where(inks[0] == 1, 128, 255))
    colours = np.stack([light, np.full(16, 128), np.full(16, 128)], axis=1).astype(np.uint8)
    head = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + struct.pack(">9i", *np.diag([65536] * 3).flat)
    content = head + np.tile(steps, 4).tobytes() + colours.tobytes() + np.tile(steps, 3).tobytes()
    return profile(b"CMYK", b"Lab ", b"A2B0", content)


def read(path: Path, image: Image.Image, icc: bytes | None, **options: Any) -> Pixels:
    """Write a picture with a profile and read it."""
    image.save(path, icc_profile=icc, **options)
    return photo.read_image(path)


def colours(*mode: str) -> Image.Image:
    """A picture of many colours."""
    levels = np.linspace(0, 255, 9).astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(27, 27, 3)).convert(*mode)


def linear(levels: NDArray[Any]) -> NDArray[np.float64]:
    """The light of sRGB's levels."""
    value = levels / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def encoded(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """Levels of light in sRGB."""
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(("name", "mode"), [("a.png", "RGB"), ("a.tif", "RGB"), ("a.png", "P"), ("a.png", "RGBA")])
def test_display_p3_becomes_srgb(name: str, mode: str, tmp_path: Path) -> None:
    """The photos of phones have the colours that they show, up to rounding, opaque, transparent or from a palette."""
    image = colours(*(("RGB",) if mode != "P" else ("P",)))
    shown = np.asarray(image.convert("RGB"))
    if mode == "RGBA":
        image.putalpha(255)
    found = read(tmp_path / name, image, of_p3())
    expected = encoded(linear(shown) @ (np.linalg.inv(SRGB) @ P3).T)
    assert np.abs(found - expected).max() <= 2
    assert np.abs(found.astype(int) - shown).max() > 20


def test_a_transparent_photo_is_converted_before_it_is_blended(tmp_path: Path) -> None:
    """The grey behind transparent parts stays grey 127; half transparent colours are converted first."""
    image = Image.new("RGBA", (3, 1), (200, 40, 40, 255))
    image.putpixel((0, 0), (200, 40, 40, 0))
    image.putpixel((1, 0), (200, 40, 40, 128))
    found = read(tmp_path / "a.png", image, of_p3())[0].astype(int)
    assert found[0].tolist() == [127, 127, 127]
    assert np.abs(found[1] - (found[2] * 128 + 127 * 127) / 255).max() <= 1
    assert found[2, 0] > 210


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1"])
def test_srgb_changes_nothing(mode: str, tmp_path: Path) -> None:
    """With the profile of sRGB, the pixels are exactly those without any."""
    without = read(tmp_path / "a.png", colours(mode), None)
    np.testing.assert_array_equal(read(tmp_path / "b.png", colours(mode), of_srgb()), without)


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_grey_follows_a_profile_of_grey(mode: str, tmp_path: Path) -> None:
    """Grey levels of another gamma become those of sRGB; a photo in colour ignores such a profile."""
    levels = np.arange(256, dtype=np.uint8)[None]
    found = read(tmp_path / "a.png", Image.fromarray(levels).convert(mode), of_grey(1.8))
    assert np.abs(found[0, :, 1] - encoded((levels[0] / 255) ** (461 / 256))).max() <= 2
    np.testing.assert_array_equal(read(tmp_path / "b.png", colours(), of_grey(1.8)), np.asarray(colours()))


def test_sixteen_bits_of_grey_stay(tmp_path: Path) -> None:
    """Grey of 16 bits keeps its upper eight, whatever its profile."""
    levels = np.arange(0, 65536, 256, dtype=np.uint16)[None]
    found = read(tmp_path / "a.png", Image.fromarray(levels), of_grey(1.8))
    np.testing.assert_array_equal(found[0, :, 0], levels[0] >> 8)


@pytest.mark.parametrize("name", ["a.tif", "a.jpg"])
def test_inks_follow_their_profile(name: str, tmp_path: Path) -> None:
    """CMYK is converted by its profile, here one whose yellow ink does not show, in TIFF and in Adobe's JPEG."""
    image = Image.new("CMYK", (48, 16), (0, 0, 255, 0))
    image.paste((255, 0, 0, 0), (16, 0, 32, 16))
    image.paste((0, 0, 0, 255), (32, 0, 48, 16))
    found = read(tmp_path / name, image, of_inks(), **({"quality": 98} if name == "a.jpg" else {}))
    paper, ink, black = (found[8, x].astype(int) for x in (8, 24, 40))
    assert paper.min() > 250
    assert np.ptp(ink) <= 6
    assert 100 < ink.mean() < 140
    assert black.max() < 5


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "RGBA"])
def test_a_damaged_profile_is_ignored(mode: str, tmp_path: Path) -> None:
    """What is no profile, or one that is cut, spoiled or for other pixels, changes nothing and ends nothing."""
    suffix = "tif" if mode == "CMYK" else "png"
    without = read(tmp_path / f"a.{suffix}", colours("RGB").convert(mode), None)
    whole, rng = of_p3(), np.random.default_rng(0)
    spoiled = [b"no profile", whole[:200], whole[:128] + bytes(len(whole) - 128), whole[:132] + b"\xff" * 400]
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for icc in (*spoiled, lab, of_inks() if mode != "CMYK" else whole):
        found = read(tmp_path / f"b.{suffix}", colours("RGB").convert(mode), icc)
        np.testing.assert_array_equal(found, without)
    for _ in range(30):  # flipped bytes may leave a profile that can be used
        data = np.frombuffer(whole, np.uint8).copy()
        data[rng.integers(0, len(data), 20)] = rng.integers(0, 256, 20)
        buffer = io.BytesIO()
        colours("RGB").convert(mode).save(buffer, "TIFF" if mode == "CMYK" else "PNG", icc_profile=data.tobytes())
        (tmp_path / "c").write_bytes(buffer.getvalue())
        assert photo.read_image(tmp_path / "c").shape == without.shape
