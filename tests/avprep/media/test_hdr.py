"""Colours are those that a BT.709 screen shows, whatever the file's range, matrix, primaries and transfer."""

from __future__ import annotations

import json
from pathlib import Path

import av
import made_media as made
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, ColorTrc, VideoReformatter
from made_faces import Anywhere, clip_of
from numpy.typing import NDArray

from avprep import stages
from avprep.media import hdr
from avprep.media.picture import Picture
from avprep.media.video import Frames

COLOURS = np.array(
    [(20, 20, 20), (64, 64, 64), (110, 110, 110), (150, 150, 150), (150, 100, 80), (60, 120, 60), (50, 60, 140),
     (150, 40, 40), (40, 130, 130), (198, 198, 198), (230, 230, 230), (255, 255, 255)],
    np.uint8,
)  # fmt: skip
BLOCK = 32
BT2020_NCL = 9  # of AVColorSpace


def chart(path: Path) -> Path:
    """Write an image of blocks of colours, RGB."""
    image = np.kron(COLOURS.reshape(3, 4, 3), np.ones((BLOCK, BLOCK, 1), np.uint8)).astype(np.uint8)
    return made.write(path, made.steady(25, 0.4), [image] * 10, vcodec="png", pixels="rgb24")


def colours(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Read the blocks' colours, float64 (12, 3)."""
    blocks = image.reshape(3, BLOCK, 4, BLOCK, 3)[:, 8:-8, :, 8:-8].astype(float)
    return np.asarray(blocks.mean(axis=(1, 3)).reshape(12, 3))


def shown(clip: Path) -> NDArray[np.float64]:
    """Return the colours of a file's first frame, which are the same at full size, at small size and for crops."""
    picture = next(iter(Frames(clip)))
    found = colours(picture.rgb())
    assert np.array_equal(picture.rgba()[..., :3], picture.rgb())
    assert np.array_equal(picture.source()[0], picture.rgba())
    assert np.array_equal(picture.source("bgra")[0][..., [2, 1, 0, 3]], picture.rgba())
    assert (picture.rgba()[..., 3] == 255).all()
    small = picture.small(64)
    assert np.abs(small[8, 8::16].astype(float) - found[:4]).max() <= 4
    return found


def graded(source: Path, clip: Path, transfer: str, white: int) -> Path:
    """Convert a BT.709 video to 10-bit HDR in BT.2020 with zimg; its white is the given number of cd/m²."""
    tags = {"smpte2084": 16, "arib-std-b67": 18}[transfer]
    filters = (
        f"zscale=pin=bt709:tin=bt709:min=gbr:rin=full:p=bt2020:t={transfer}:m=bt2020nc:r=limited:npl={white},"
        "format=yuv444p10"
    )
    params = f"log-level=error:lossless=1:colorprim=9:transfer={tags}:colormatrix=9:range=limited"
    made.ffmpeg("-i", source, "-vf", filters, "-c:v", "libx265", "-x265-params", params, clip)
    return clip


@pytest.mark.parametrize(("transfer", "name"), [("smpte2084", "pq"), ("arib-std-b67", "hlg")])
def test_hdr_is_brought_to_bt709(transfer: str, name: str, tmp_path: Path) -> None:
    """Colours converted to PQ or HLG are restored; those near white are compressed, in order, and not clipped."""
    clip = graded(chart(tmp_path / "source.mov"), tmp_path / "hdr.mp4", transfer, 203)
    found = shown(clip)
    # zimg applies HLG's curve per channel; on greys this equals BT.2100's curve of the luminance.
    like = slice(0, 9) if name == "pq" else slice(0, 4)
    assert np.abs(found[like] - COLOURS[like]).max() <= 5
    assert (np.diff(found[[3, 9, 10, 11]].mean(axis=1)) > 10).all()
    assert 220 <= found[11].min() <= found[11].max() <= 235
    frames = Frames(clip)
    list(frames)
    assert frames.hdr == name


def test_hlg_has_its_white_where_the_standard_puts_it(tmp_path: Path) -> None:
    """An HLG signal of 75 % is the light of PQ's 58 %: 203 cd/m² (BT.2408); grey is the same from both."""
    grey = {}
    for name, transfer, signal in (("hlg", ColorTrc.ARIB_STD_B67, 0.75), ("pq", ColorTrc.SMPTE2084, 0.5807)):
        frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), round(65535 * signal), np.uint16), format="rgb48le")
        frame.color_trc, frame.color_primaries = transfer, ColorPrimaries.BT2020
        grey[name] = Picture(frame).rgb().astype(float)
        assert np.ptp(grey[name]) <= 1
    assert abs(grey["hlg"].mean() - grey["pq"].mean()) <= 1
    assert 220 <= grey["pq"].mean() <= 240


@pytest.mark.parametrize("transfer", [ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67])
def test_hdr_is_what_swscale_makes_of_it(transfer: ColorTrc) -> None:
    """Below the knee, greys and colours match FFmpeg's own conversion, which PyAV offers from version 18 on."""
    if int(av.__version__.split(".")[0]) < 18:
        pytest.skip("this PyAV only writes the tags")
    rng = np.random.default_rng(0)
    grey = rng.uniform(0.2, 0.4, (16, 1))
    signal = np.concatenate([np.repeat(grey, 3, axis=1), grey + rng.uniform(-0.03, 0.03, (16, 3))])
    blocks = np.rint(65535 * signal).astype(np.uint16)[None].repeat(8, 0).repeat(8, 1)
    frame = VideoReformatter().reformat(
        av.VideoFrame.from_ndarray(blocks, format="rgb48le"), format="yuv444p10le", dst_colorspace=BT2020_NCL
    )
    frame.colorspace, frame.color_trc, frame.color_primaries = BT2020_NCL, transfer, ColorPrimaries.BT2020
    reference = VideoReformatter().reformat(
        frame, format="rgb24", dst_color_trc=ColorTrc.BT709, dst_color_primaries=ColorPrimaries.BT709
    )
    worst = np.abs(Picture(frame).rgb().astype(int) - reference.to_ndarray()).max()
    assert worst <= 3  # swscale interpolates between few colours


def test_highlights_are_brought_down_by_the_knee() -> None:
    """Light up to about 90 cd/m² is unchanged, brighter light is compressed in order, and 1000 cd/m² is white."""
    light = np.array([1, 10, 80, 150, 203, 400, 700, 1000.0])
    gain = hdr._gain()[hdr._index((light / hdr.PEAK).astype(np.float32))]
    assert np.allclose(gain[:3], 1)
    assert (np.diff(light * gain) > 0).all()
    assert light[-1] * gain[-1] == pytest.approx(hdr.WHITE, rel=1e-3)


def test_wide_gamut_without_hdr(tmp_path: Path) -> None:
    """SDR in BT.2020 primaries has the same colours as in BT.709."""
    clip = tmp_path / "wide.mkv"
    filters = "zscale=pin=bt709:tin=bt709:min=gbr:rin=full:p=bt2020:t=bt709:m=bt2020nc:r=limited,format=yuv444p10"
    made.ffmpeg("-i", chart(tmp_path / "source.mov"), "-vf", filters, "-c:v", "ffv1", clip)
    assert np.abs(shown(clip) - COLOURS).max() <= 4


@pytest.mark.parametrize("matrix", ["bt709", "smpte170m"])
@pytest.mark.parametrize("full", [False, True])
def test_matrix_and_range_are_the_files(matrix: str, full: bool, tmp_path: Path) -> None:
    """BT.601 and BT.709, in full and limited range, give the same colours."""
    clip = tmp_path / "clip.mp4"
    filters = f"scale=out_color_matrix={matrix}:out_range={'full' if full else 'limited'},format=yuv444p"
    tags = ("-colorspace", matrix, "-color_range", "pc" if full else "tv")
    made.ffmpeg("-i", chart(tmp_path / "source.mov"), "-vf", filters, "-crf", 1, *tags, clip)
    assert np.abs(shown(clip) - COLOURS).max() <= 3


def test_a_clip_says_that_it_was_hdr(tmp_path: Path) -> None:
    """The transfer of an HDR clip is recorded in clip.json; an ordinary clip adds nothing."""
    facts = {}
    source = chart(tmp_path / "sdr.mov")
    for clip in (source, graded(source, tmp_path / "hdr.mp4", "smpte2084", 203)):
        settings = stages.CropSettings(min_face=1.0)
        sample = stages.crop_clip(clip_of(clip), clip.parent, settings, Anywhere())
        facts[clip.stem] = json.loads(dict(sample.members)["clip.json"])
    assert facts["hdr"]["hdr"] == "pq"
    assert "hdr" not in facts["sdr"]
