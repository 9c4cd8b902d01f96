"""From a photo of a face to an aligned crop like those of videos, and from a talking face back into its photo."""

from __future__ import annotations

import dataclasses
import io
import itertools
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError

from avprep import boxes
from avprep.errors import AvprepError, explained
from avprep.faces import align, keyframes, smoothing, track, views
from avprep.faces.detectors.base import Detector, Face
from avprep.media.picture import Picture
from avprep.schema import CROP_SIZE

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""Formats that are read, by Pillow's names. None of its readers for these runs another program."""
MAX_PIXELS, MAX_SIDE = 100_000_000, 32_000
"""Larger pictures are refused before memory is allocated; OpenCV counts a side's pixels in 16 bits."""
SIDE = 512
"""Faces are searched in copies whose longer side has this many pixels. Measured from 100×100 to 4000×3000: larger
copies show no more faces."""
SAME = 0.3
"""Boxes that overlap by more (intersection over union) belong to one face."""
STILL_FRAMES, STILL_EVERY = 25, 12
"""A photo is treated as a clip of `STILL_FRAMES` frames with a detection pass every `STILL_EVERY` frames, so that it is
detected at all of a detector's sizes."""
FEATHER = 32
"""Crop pixels over which a talking face fades into its photo at the crop's border."""
EDGE = 8
"""The same at the photo's own edge: the crop is grey beyond it, and a model blurs this over a few pixels."""
SAME_COLOUR = 3
"""A profile that changes no colour by more than this, of 255, is one of sRGB, which differ in their rounding."""


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo of a face and the face's position in it.

    image: uint8 (H, W, 3), RGB, upright.
    affine: float64 (2, 3), photo → crop pixels.
    crop: uint8 (256, 256, 3), RGB, the aligned face.
    n_faces: number of faces found; 0 for an already aligned photo.
    turned: distance of the nose's tip from the middle between the eyes, relative to the distance between the eyes; None
        if the detector finds no nose.
    """

    image: NDArray[np.uint8]
    affine: NDArray[np.float64]
    crop: NDArray[np.uint8]
    n_faces: int = 0
    turned: float | None = None


def is_still(path: Path) -> bool:
    """Return whether a file holds a single picture that `read_image` may read; an animation counts as a video."""
    try:
        if not path.is_file():  # opening a pipe would block
            return False
        with Image.open(path, formats=FORMATS) as image:
            return not getattr(image, "is_animated", False)
    except (OSError, ValueError, Image.DecompressionBombError):  # no picture, or one that is refused when it is read
        return False


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read a picture file upright: uint8 (H, W, 3), RGB; for an animation the first picture.

    Transparent parts show the grey that crops have outside their source.
    Raises AvprepError if the file is missing, not one of `FORMATS`, too large or damaged.
    """
    try:
        if not path.is_file():
            raise AvprepError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
        file = path.open("rb")
    except (OSError, ValueError) as error:
        raise AvprepError(f"{path}: {explained(error)}") from error
    with file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow finds odd about a file is of no use to its user
        try:
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height <= MAX_PIXELS and max(image.size) <= MAX_SIDE:
                    return _rgb(image)
        except UnidentifiedImageError as error:
            raise AvprepError(f"{path}: not a picture that can be read: save it as a JPEG or PNG file") from error
        except Image.DecompressionBombError:
            pass
        except Exception as error:  # damaged files make Pillow raise nearly everything there is
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise AvprepError(f"{path}: the picture is damaged ({reason}): fetch or save it anew") from error
    limit = f"{MAX_PIXELS // 10**6} megapixels or {MAX_SIDE} pixels a side"
    raise AvprepError(f"{path}: the picture is larger than {limit}: shrink it")


def read_face(
    path: Path, detector: Detector, *, box: tuple[float, float, float, float] | None = None, choosable: bool = True
) -> Photo:
    """Read a photo and align its largest face like the faces of videos.

    box: x0, y0, x1, y1 in pixels of the upright photo: the approximate box of the wanted face, if there are several or
        it isn't found in the whole photo. choosable: whether the user can give one, for the advice in errors.
    Raises AvprepError if the photo cannot be read, shows no face, or has none in the box.
    """
    image = read_image(path)
    height, width = image.shape[:2]
    whole = np.array([0, 0, width, height])
    meant, parts, where = whole, [whole], ""
    advice = (
        f"give a photo with an upright face seen from the front, {'say where it is with --face-box, ' * choosable}add "
        "--aligned if this is an aligned 256×256 crop already, or try another --detector"
    )
    if box is not None:
        meant, where = np.clip(box, 0, np.tile(whole[2:], 2)), f" in the box {','.join(f'{side:g}' for side in box)}"
        advice = f"give left, top, right and bottom of a face in the upright photo, which is {width}×{height} pixels"
        if not (meant[:2] < meant[2:]).all():
            raise AvprepError(f"{path}: there is nothing{where}: {advice}")
        advice += ", or try another --detector"
        parts = [boxes.grown(meant, 0.5), whole]
    for part in parts:
        found = [face for face in _find(image, part, detector) if boxes.meet(face.box, meant)]
        if found:
            break
    else:
        raise AvprepError(f"{path}: no face was found{where}: {advice}")
    face = max(found, key=lambda face: boxes.overlap(face.box, meant))  # with the whole photo that is the largest
    points = (_closer(image, face, detector) or face).points
    affine = align.similarity(points)
    crop = align.crop(image, affine, sigma=align.blur_sigma(affine[None]))
    return Photo(image, affine, crop, len(found), _turned(points))


def _turned(points: NDArray[np.floating[Any]]) -> float | None:
    """Return `Photo.turned` of points (5, 2)."""
    left, right, nose = np.asarray(points[:3], np.float64)
    across = right - left
    turned = float((nose - (left + right) / 2) @ across / (across @ across))
    return turned if np.isfinite(turned) else None


def read_aligned(path: Path) -> Photo:
    """Read an already aligned photo: 256×256, or 260×260 as in the released demo, of which the centre is taken.

    Raises AvprepError if it cannot be read or has another size.
    """
    image = read_image(path)
    height, width = image.shape[:2]
    if height != width or width not in (CROP_SIZE, CROP_SIZE + 4):
        raise AvprepError(
            f"{path}: an aligned photo has 256×256 or 260×260 pixels, this one {width}×{height}: leave --aligned out, "
            "and the face is found and aligned"
        )
    margin = (width - CROP_SIZE) // 2
    middle = slice(margin, margin + CROP_SIZE)
    return Photo(image, np.array([[1.0, 0.0, -margin], [0.0, 1.0, -margin]]), image[middle, middle].copy())


def fit_film(photo: Photo, longest: int = 1920) -> Photo:
    """Shrink a photo to a video frame: at most `longest` pixels per side, and even sides, as H.264 requires.

    An odd last row or column is cut off. The transform is adapted; the crop stays that of the large photo.
    """
    size = np.array(photo.image.shape[1::-1])
    image, to_photo = _resized(photo.image, size * min(1.0, longest / size.max()), least=2)
    height, width = (side // 2 * 2 for side in image.shape[:2])
    affine = align.chained(photo.affine, to_photo)
    return dataclasses.replace(photo, image=np.ascontiguousarray(image[:height, :width]), affine=affine)


class PasteBack:
    """Puts talking faces into the photo of their crop; the common part of all frames is computed once.

    Inside the crop, `FEATHER` from its border, only the face is shown; outside the crop no bit changes.
    """

    def __init__(self, photo: Photo) -> None:
        self._image = photo.image
        size = np.array(photo.image.shape[1::-1])
        inverse = cv2.invertAffineTransform(photo.affine)
        corners = align.apply(inverse, CROP_SIZE * np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) - 0.5)
        low = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, size - 1)
        high = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 1, low + 1, size)
        self._window = (slice(low[1], high[1]), slice(low[0], high[0]))
        self._size = (high - low).tolist()
        self._affine = photo.affine.copy()  # window → crop pixels
        self._affine[:, 2] += photo.affine[:, :2] @ low
        self._sigma = align.blur_sigma(inverse[None])
        fade = _fade(np.arange(CROP_SIZE), CROP_SIZE, FEATHER)
        edge = EDGE / float(align.scale(photo.affine))  # photo pixels
        across, down = (_fade(np.arange(low[n], high[n]), int(size[n]), edge) for n in (0, 1))
        mask = self._warped(np.outer(fade, fade), cv2.INTER_LINEAR) * np.outer(down, across)
        self._mask = mask[..., None].astype(np.float32)
        self._rest = photo.image[self._window] * (1 - self._mask)

    def __call__(self, face: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the photo with a face, uint8 (256, 256, 3), RGB, in its place: a new array, uint8 (H, W, 3), RGB."""
        if self._sigma:
            face = np.asarray(cv2.GaussianBlur(face, (0, 0), self._sigma), np.uint8)
        whole = self._image.copy()
        whole[self._window] = np.rint(self._rest + self._mask * self._warped(face, cv2.INTER_CUBIC))
        return whole

    def _warped(self, image: NDArray[Any], interpolation: int) -> NDArray[Any]:
        """Warp from the crop to the window; 0 beyond the crop."""
        return cv2.warpAffine(image, self._affine, self._size, flags=interpolation | cv2.WARP_INVERSE_MAP)


def _fade(places: NDArray[np.int64], length: int, over: float) -> NDArray[np.float64]:
    """Rise smoothly from 0 to 1 over `over` pixels from either end of a row of pixels."""
    t = np.clip(np.minimum(places + 0.5, length - 0.5 - places) / over, 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float64)


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Return a picture's pixels upright, for any mode; ValueError if their meaning is not clear."""
    upright = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("its pixels are fractions")
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip at 255
        upright = Image.fromarray((np.asarray(upright).clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        upright = ImageChops.invert(upright)  # Pillow takes every CMYK JPEG for one of Adobe's, which are inverted
    shown = upright if image.mode.startswith("I") else _in_srgb(upright, image.info.get("icc_profile"))
    if not upright.has_transparency_data:
        return np.array(shown.convert("RGB"))
    transparent = upright.convert("RGBA")
    ground = Image.new("RGB", transparent.size, (align.BORDER,) * 3)
    ground.paste(shown.convert("RGB"), mask=transparent)
    return np.array(ground)


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return a picture converted from its ICC profile to sRGB, in RGB.

    It is returned as it is if its colours need no change, and without a profile that can be read.
    """
    if not profile:
        return image
    from PIL import ImageCms

    try:
        source, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        space = source.profile.xcolor_space.strip()
        if space == "RGB" and image.mode != "CMYK":
            pixels = image.convert("RGB")
        elif space == "GRAY" and image.mode in ("1", "L", "LA"):
            pixels = image.convert("L")
        elif space == image.mode == "CMYK":
            pixels = image
        else:
            return image
        intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
        transform = ImageCms.buildTransform(source, srgb, pixels.mode, "RGB", intent, flags)
        if space != "CMYK":
            levels = np.linspace(0, 255, 18).astype(np.uint8)
            chart = Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(18, -1, 3))
            chart = chart.convert(pixels.mode)
            if np.asarray(ImageChops.difference(transform.apply(chart), chart.convert("RGB"))).max() <= SAME_COLOUR:
                return image
        return transform.apply(pixels)
    except (ImageCms.PyCMSError, OSError, ValueError, ImportError):  # a damaged profile; a Pillow without LittleCMS
        return image


def _find(image: NDArray[np.uint8], part: NDArray[Any], detector: Detector) -> list[Face]:
    """Find the faces in a part of a photo; if none are found, in overlapping quarters of it.

    Quarters reveal faces of half the size, for example of a whole person for the Haar cascades. They also give more
    false positives: a face found there counts only if a close-up confirms it.
    """
    found = _detect(*_copy(image, part), detector)
    if found:
        return found
    step = (part[2:] - part[:2]) / 4
    for place in itertools.product(range(3), repeat=2):
        corner = part[:2] + place * step
        for face in _detect(*_copy(image, np.append(corner, corner + 2 * step)), detector):
            closer = _closer(image, face, detector)
            if closer and all(boxes.overlap(closer.box, other.box) <= SAME for other in found):
                found.append(closer)
    return found


def _closer(image: NDArray[np.uint8], face: Face, detector: Detector) -> Face | None:
    """Refine the position of a face, as in a clip of `STILL_FRAMES` frames; None if it is not there."""
    copy, to_photo = _copy(image, boxes.grown(face.box, 1), enlarge=detector.close_up is None)
    shown = views.moved(face, np.asarray(cv2.invertAffineTransform(to_photo), np.float64))
    found = keyframes.find_faces([_picture(copy)] * STILL_FRAMES, detector, STILL_EVERY)
    tracks = track.link(found)

    def shared(one: track.Track) -> float:
        return boxes.overlap(next(iter(one.detections.values())).face.box, shown.box)

    best = max(tracks, key=shared, default=None)
    if best is None or shared(best) <= SAME:
        return None
    points = smoothing.points_per_frame(best, found.n_frames, found.cuts).smoothed.mean(axis=0)
    last = best.detections[best.last].face
    return views.moved(Face(last.box, last.score, points.astype(np.float32)), to_photo)


def _copy(
    image: NDArray[np.uint8], part: NDArray[Any], *, enlarge: bool = True
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return a part of a photo, x0 y0 x1 y1, as a copy of `SIDE` pixels, and the transform from it to the photo.

    enlarge: whether a smaller part is enlarged to that size.
    """
    size = np.array(image.shape[1::-1])
    low = np.clip(np.floor(part[:2]), 0, size - 1).astype(int)
    high = np.clip(np.ceil(part[2:]), low + 1, size).astype(int)
    zoom = SIDE / (high - low).max()
    zoom = zoom if enlarge else min(zoom, 1.0)
    copy, to_photo = _resized(image[low[1] : high[1], low[0] : high[0]], (high - low) * zoom)
    to_photo[:, 2] += low
    return copy, to_photo


def _detect(copy: NDArray[np.uint8], to_photo: NDArray[np.float64], detector: Detector) -> list[Face]:
    """Find the faces of a copy as in videos, and return them in pixels of the photo."""
    found = keyframes.find_faces([_picture(copy)], detector, 1).by_frame[0]
    return [views.moved(detection.face, to_photo) for detection in found]


def _picture(image: NDArray[np.uint8]) -> Picture:
    return Picture(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24"))


def _resized(
    image: NDArray[np.uint8], size: NDArray[np.float64], least: int = 1
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Resize a picture to a width and height, rounded; return it and the transform from it back to the picture."""
    before = np.array(image.shape[1::-1])
    after = np.maximum(np.rint(size).astype(int), least)
    ratio = before / after
    if (ratio != 1).any():
        way = cv2.INTER_AREA if ratio.max() > 1 else cv2.INTER_CUBIC
        image = np.asarray(cv2.resize(image, after.tolist(), interpolation=way), np.uint8)
    # Pixel centres lie at +0.5 of the grid that is scaled.
    return image, np.column_stack([np.diag(ratio), 0.5 * ratio - 0.5])
