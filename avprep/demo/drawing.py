"""Rendering the people of the synthetic corpus: warped and recoloured versions of one portrait, with drawn mouths.

The portrait is the photo that scikit-image ships, so ordinary face detectors find these faces. Nothing is downloaded.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from avprep.demo.expression import Expression, brows, bump, furrows, without_brows
from avprep.demo.expression import shift as expressed
from avprep.demo.speech import Colour, Floats, Speaker, Take

Picture = NDArray[np.uint8]

# Heads are built on a plane of 320×320 pixels, whose central 256×256 are the picture of a head at rest.
_PLANE = 320
_MARGIN = 32
_EYES = ((133.0, 142.0), (187.0, 142.0))
_MOUTH = (160.0, 193.0)
_NECK = (160.0, 240.0)  # centre of the head's rotation

# In pixels of skimage.data.astronaut(); the outlines were drawn by hand.
_PORTRAIT_EYES = ((200.1, 101.8), (247.1, 102.6))
_PORTRAIT_SMILE = (223.7, 146.0, 27.0, 14.0)  # centre and half axes of the area that is painted over
_PORTRAIT_HEAD = (
    "175 131 170 116 160 108 154 93 153 70 158 52 173 42 188 37 194 27 210 18 232 15 257 20 277 32 292 47 299 67 "
    "301 87 297 103 287 122 282 132 272 138 267 141 262 158 257 172 256 200 185 200 186 172 183 152 179 135"
)
_PORTRAIT_SKIN = (
    "175 130 176 121 181 119 181 105 184 95 187 80 192 74 212 79 232 81 250 81 262 89 267 92 270 103 271 120 273 128 "
    "279 124 282 130 272 138 266 142 262 158 257 172 256 200 185 200 186 172 183 152 179 135"
)

_Y, _X = np.mgrid[:_PLANE, :_PLANE].astype(np.float32)

# name: (centre x, centre y, sigma x, sigma y, stretch x, stretch y, shift x, shift y), at full amount, in plane pixels
_SHAPE = {
    "face width": ((160, 180, 200, 70, 0.09, 0, 0, 0),),
    "jaw width": ((160, 222, 60, 24, 0.13, 0, 0, 0),),
    "chin length": ((160, 236, 45, 17, 0, 0, 0, 5),),
    "eye distance": ((133, 142, 13, 14, 0, 0, -2.5, 0), (187, 142, 13, 14, 0, 0, 2.5, 0)),
    "eye size": ((133, 142, 11, 8, 0.10, 0.16, 0, 0), (187, 142, 11, 8, 0.10, 0.16, 0, 0)),
    "eye slant": ((123, 141, 7, 9, 0, 0, 0, 1.6), (197, 141, 7, 9, 0, 0, 0, 1.6)),
    "brow height": ((131, 129, 18, 5, 0, 0, 0, -2.2), (190, 130, 18, 5, 0, 0, 0, -2.2)),
    "nose length": ((157, 168, 11, 9, 0, 0, 0, 3),),
    "nose width": ((157, 166, 12, 9, 0.22, 0, 0, 0),),
    "cheeks": ((160, 185, 70, 18, 0.06, 0, 0, 0),),
    "hair height": ((160, 60, 200, 40, 0, 0, 0, -10),),
    "hair width": ((160, 100, 300, 45, 0.12, 0, 0, 0),),
}


def _shift(shape: tuple[float, ...], x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return the displacement by a face shape of the points (x, y) of the average face, in pixels."""
    dx, dy = np.zeros_like(x), np.zeros_like(y)
    for amount, hills in zip(shape, _SHAPE.values(), strict=True):
        for cx, cy, sigma_x, sigma_y, stretch_x, stretch_y, shift_x, shift_y in hills:
            hill = amount * bump(x, y, (cx, cy), (sigma_x, sigma_y))
            dx += hill * (stretch_x * (x - cx) + shift_x)
            dy += hill * (stretch_y * (y - cy) + shift_y)
    return dx, dy


def portrait() -> Picture:
    """Return the portrait that scikit-image ships, unchanged: uint8 (512, 512, 3), RGB."""
    from skimage.data import astronaut

    photo: Picture = astronaut()  # type: ignore[no-untyped-call]
    return photo


@functools.cache
def _portrait() -> Floats:
    """Return the portrait on the plane without its mouth: float32 (320, 320, 5): R, G, B, head matte, skin (0–255)."""
    photo = portrait()

    def outline(points: str) -> Picture:
        corners = np.array(points.split(), np.int32).reshape(-1, 2)
        return cv2.fillPoly(np.zeros(photo.shape[:2], np.uint8), [corners], 255)  # type: ignore[return-value]

    head = outline(_PORTRAIT_HEAD)
    cells = np.full_like(head, cv2.GC_BGD)
    cells[cv2.dilate(head, np.ones((9, 9), np.uint8)) > 0] = cv2.GC_PR_BGD
    cells[head > 0] = cv2.GC_PR_FGD
    cells[cv2.erode(head, np.ones((13, 13), np.uint8)) > 0] = cv2.GC_FGD
    cv2.setRNGSeed(0)
    cv2.grabCut(photo, cells, None, np.zeros((1, 65)), np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    matte = cv2.GaussianBlur(cv2.erode((cells & 1) * 255, np.ones((3, 3), np.uint8)), (0, 0), 0.8)
    skin = cv2.GaussianBlur(outline(_PORTRAIT_SKIN), (0, 0), 1.2)
    layers = np.dstack([_without_mouth(photo.astype(np.float32)), matte, skin]).astype(np.float32)

    (ax, ay), (bx, by) = _PORTRAIT_EYES
    (cx, cy), (dx, dy) = _EYES
    turn = complex(dx - cx, dy - cy) / complex(bx - ax, by - ay)  # a similarity as one complex number
    move = complex(cx, cy) - turn * complex(ax, ay)
    matrix = np.array([[turn.real, -turn.imag, move.real], [turn.imag, turn.real, move.imag]])
    warped = [
        cv2.warpAffine(layer, matrix, (_PLANE, _PLANE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        for layer in np.ascontiguousarray(layers.transpose(2, 0, 1))
    ]
    return np.clip(np.dstack(warped), 0, 255).astype(np.float32)


def _without_mouth(photo: Floats) -> Floats:
    """Fill the smile smoothly from the surrounding skin (Laplace's equation), with a little grain."""
    cx, cy, half_x, half_y = _PORTRAIT_SMILE
    x0, x1, y0, y1 = int(cx - half_x - 4), int(cx + half_x + 5), int(cy - half_y - 4), int(cy + half_y + 5)
    y, x = np.mgrid[y0:y1, x0:x1].astype(np.float32)
    hole = ((x - cx) / half_x) ** 2 + ((y - cy) / half_y) ** 2 < 1
    skin = photo[y0:y1, x0:x1].copy()
    skin[hole] = skin[~hole].mean(axis=0)
    for _ in range(800):
        skin[hole] = cv2.blur(skin, (3, 3))[hole]
    grain = cv2.GaussianBlur(np.random.default_rng(0).normal(0, 6, hole.shape).astype(np.float32), (0, 0), 0.8)
    photo = photo.copy()
    photo[y0:y1, x0:x1] = skin + (grain * hole)[..., None]
    return photo


def _tint(picture: Floats, weight: Floats, mean: float, target: Colour, contrast: float = 1.0) -> Floats:
    """Recolour the area selected by `weight` (0–1) and keep its shading, around the grey `mean`."""
    grey = picture @ np.array([0.3, 0.6, 0.1], np.float32)
    shade = (np.clip(grey / mean, 0, 1.5) ** contrast)[..., None]
    return np.asarray(picture + (np.array(target, np.float32) * shade - picture) * weight[..., None], np.float32)


def _remap(layers: Floats, x: Floats, y: Floats) -> Floats:
    """Sample layers (H, W, channels) at the points (x, y)."""
    found = cv2.remap(np.ascontiguousarray(layers), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(found, np.float32)


def _exposed(picture: Floats, x: Floats, y: Floats, who: Speaker) -> Floats:
    """Apply lighting and the speaker's camera to a picture of the points (x, y) of the plane."""
    light = 1 + 0.22 * who.side_light * np.tanh((x - 160) / 60) + 0.05 * (160 - y) / 160
    developed = 255 * np.clip(picture * light[..., None] / 255, 0, 1) ** who.gamma
    return np.asarray(np.clip((developed - 120) * who.contrast + 120, 0, 255), np.float32)


@functools.lru_cache(maxsize=16)
def _head(who: Speaker, face: Expression | None) -> tuple[Picture, Picture, Floats]:
    """Build a person without a mouth, with or without an expression.

    Returns the person, uint8 (320, 320, 4), RGB premultiplied by alpha, and alpha; the wall in the background, uint8
    (320, 320, 3); the centres of the eyes, float32 (2, 2) x y. All are on the plane.
    """
    rng = np.random.default_rng(who.seed)
    x, y = _X, _Y
    layers = _portrait() if face is None else without_brows(_portrait())
    layers = layers[:, ::-1] if who.mirror else layers
    dx, dy = _shift(who.shape, x, y)
    layers = _remap(layers, x - dx, y - dy)
    if face is not None:
        dx, dy = expressed(face, x, y)
        layers = _remap(layers, x - dx, y - dy)
    picture, matte, skin = layers[..., :3], layers[..., 3] * np.float32(1 / 255), layers[..., 4] * np.float32(1 / 255)
    eyes = np.array(_EYES, np.float32)
    eyes += np.stack(_shift(who.shape, eyes[:, 0], eyes[:, 1]), axis=1)

    white = bump(x, y, eyes[0], (7, 3)) + bump(x, y, eyes[1], (7, 3))  # eyeballs keep some of their colour
    picture = _tint(picture, matte * (1 - skin), 105, who.hair, 0.75)
    picture = _tint(picture, skin * (1 - 0.4 * white), 184, who.skin)
    if who.beard or who.moustache:
        picture = _with_beard(picture, who, rng)
    if face is not None:
        picture = _with_brows(picture, face, eyes, who)
    picture, matte = _dressed(picture, matte, who, rng)
    if who.glasses:
        picture = _with_glasses(picture, eyes)
    picture = _exposed(picture, x, y, who)
    person = np.dstack([picture * matte[..., None], matte * 255])
    return np.rint(person).astype(np.uint8), _wall(who, rng), eyes


def _with_beard(picture: Floats, who: Speaker, rng: np.random.Generator) -> Floats:
    x, y = _X, _Y
    jaw = np.clip((y - 178) / 30, 0, 1) * np.clip(
        ((np.abs(x - 160) / 55) ** 2 + ((y - 165) / 68) ** 2 - 0.28) * 3, 0, 1
    )
    jaw *= np.clip((238 - y) / 10, 0, 1)
    moustache = np.clip(1.6 * bump(x, y, (160, 181), (19, 4.5)), 0, 1) * max(1.2 * who.moustache, who.beard)
    grain = cv2.GaussianBlur(rng.normal(0, 1, x.shape).astype(np.float32), (0, 0), 0.7)
    weight = cv2.GaussianBlur(np.maximum(jaw * who.beard, moustache).astype(np.float32), (0, 0), 2) * 0.7
    return _tint(picture, np.clip(weight * (1 + 0.25 * grain), 0, 0.9), 150, who.hair)


def _with_brows(picture: Floats, face: Expression, eyes: Floats, who: Speaker) -> Floats:
    """Draw brows, a little darker than the hair, and furrows."""
    picture = picture * (1 - 0.55 * furrows(face, _X, _Y))[..., None]
    colour = np.minimum(np.array(who.hair, np.float32) * 0.8, 90)
    return np.asarray(picture + (colour - picture) * (0.85 * brows(face, eyes, _X.shape))[..., None], np.float32)


def _dressed(picture: Floats, matte: Floats, who: Speaker, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Add clothes in front of the neck, and long hair behind it; return picture and matte."""
    x, y = _X, _Y
    folds = cv2.GaussianBlur(rng.normal(0, 1, x.shape).astype(np.float32), (0, 0), 9) * 9
    strands = cv2.GaussianBlur(rng.normal(0, 1, x.shape).astype(np.float32), (0, 0), sigmaX=1, sigmaY=14) * 4
    away = np.abs(x - 160)
    if who.long_hair:
        behind = (
            np.clip((78 + 6 * np.sin(y / 23) - away) / 3, 0, 1)
            * np.clip((y - 95) / 30, 0, 1)
            * np.clip((285 - y) / 12, 0, 1)
        )
        colour = np.array(who.hair, np.float32) * (0.75 + 0.25 * np.clip(strands, -2, 2))[..., None]
        picture = picture * matte[..., None] + colour * (1 - matte[..., None])
        matte = np.maximum(matte, behind)
    collar = 243 - 9 * np.clip(away / 45, 0, 1) ** 2 + 0.9 * _soft(away - 46) - 0.62 * _soft(away - 66)
    clothes = np.clip((y - collar) / 1.5, 0, 1)
    shade = 0.95 + 0.1 * folds - 0.25 * np.exp(-np.clip(y - collar, 0, 99) / 4) * (away < 60)
    colour = np.array(who.clothes, np.float32) * shade[..., None]
    picture = picture + (colour - picture) * clothes[..., None]
    return np.clip(picture, 0, 255).astype(np.float32), np.maximum(matte, clothes).astype(np.float32)


def _soft(x: Floats) -> Floats:
    """Return max(x, 0) with its corner rounded over about 8 pixels."""
    return (np.logaddexp(0, x / 4) * 4).astype(np.float32)


def _with_glasses(picture: Floats, eyes: Floats) -> Floats:
    ink = np.zeros((_PLANE, _PLANE), np.uint8)
    (ax, ay), (bx, by) = np.rint(16 * (eyes + np.array([0, 2]))).astype(int).tolist()  # cv2 draws in 1/16 pixel
    wide, high = 19 * 16, 15 * 16
    for x, y in ((ax, ay), (bx, by)):
        cv2.ellipse(ink, (x, y), (wide, high), 0, 0, 360, 255, 1, cv2.LINE_AA, 4)
    temple_left, temple_right = (ax - 36 * 16, ay - 64), (bx + 36 * 16, by - 64)
    for a, b in (((ax + wide, ay), (bx - wide, by)), ((ax - wide, ay), temple_left), ((bx + wide, by), temple_right)):
        cv2.line(ink, a, b, 255, 1, cv2.LINE_AA, 4)
    return np.asarray(picture + (40 - picture) * (0.8 / 255 * ink)[..., None], np.float32)


def _wall(who: Speaker, rng: np.random.Generator) -> Picture:
    x, y = _X, _Y
    cloud = cv2.GaussianBlur(rng.normal(0, 1, x.shape).astype(np.float32), (0, 0), 25) * 40
    shade = (
        1 + 0.12 * cloud + 0.3 * (x / _PLANE - 0.5) * rng.uniform(-1, 1) + 0.3 * (y / _PLANE - 0.5) * rng.uniform(-1, 1)
    )
    return np.asarray(np.clip(np.array(who.wall, np.float32) * shade[..., None], 0, 255), np.uint8)


def render(take: Take, who: Speaker, size: int = 256, face: Expression | None = None) -> Picture:
    """Render a take, with or without an expression: uint8 (T, size, size, 3), RGB; T is 29 for takes of `perform`."""
    person, wall, eyes = _head(who, face)
    mouths, alphas = _mouths(take, who, face or Expression())
    motion = _Motion(eyes)
    scale = size / 256
    offset = -_MARGIN * scale
    behind = cv2.warpAffine(wall, np.array([[scale, 0, offset], [0, scale, offset]]), (size, size))
    frames = np.empty((len(take.lips), size, size, 3), np.uint8)
    x0, y0, width, height = _MOUTH_BOX
    for i, (x, y, roll, zoom) in enumerate(take.pose.astype(float)):
        head = motion(person, float(take.lips[i, 0]), float(take.lips[i, 1]) - 1, float(take.lids[i]))
        box = head[y0 : y0 + height, x0 : x0 + width, :3]
        box[:] = np.rint(box + (mouths[i] - box) * alphas[i, ..., None])
        matrix = cv2.getRotationMatrix2D(_NECK, math.degrees(roll), zoom * scale)
        matrix[0, 2] += (x + _NECK[0] - _MARGIN) * scale - _NECK[0]
        matrix[1, 2] += (y + _NECK[1] - _MARGIN) * scale - _NECK[1]
        moved = cv2.warpAffine(head, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        seen = 255 - moved[..., 3:].repeat(3, axis=2)  # opacity of the wall
        frames[i] = cv2.add(moved[..., :3], cv2.multiply(behind, seen, scale=1 / 255))
        if who.blur > 0.1:
            cv2.GaussianBlur(frames[i], (0, 0), who.blur * scale, dst=frames[i])
    return frames


class _Motion:
    """Moves the jaw, mouth corners and eyelids of a head by one remap of its face.

    eyes: (2, 2), x y on the plane.
    """

    X0, Y0, X1, Y1 = 95, 125, 225, 262

    def __init__(self, eyes: Floats) -> None:
        y, x = np.mgrid[self.Y0 : self.Y1, self.X0 : self.X1].astype(np.float32)
        self.x, self.y, self.eyes = x, y, eyes
        below = np.clip((y - _MOUTH[1] + 4) / 14, 0, 1)
        neck = np.clip((258 - y) / 26, 0, 1)
        self.drop = 8 * below * neck * np.exp(-0.5 * ((x - 160) / 34) ** 2)  # pixels at jaw 1
        self.pull = (x - 160) * 0.45 * bump(x, y, _MOUTH, (30, 16))  # pixels per unit of width

    def __call__(self, head: Picture, jaw: float, wider: float, lids: float) -> Picture:
        """Return a moved copy of `head`, (320, 320, 4)."""
        x, y = self.x - wider * self.pull, self.y - jaw * self.drop
        if lids > 0.02:
            y = y.copy()
            for eye_x, eye_y in self.eyes:
                y += self._lid(self.x - eye_x, self.y - eye_y, lids)
        out = head.copy()
        face = cv2.remap(head, x, y, cv2.INTER_LINEAR)
        out[self.Y0 : self.Y1, self.X0 : self.X1] = face
        return out

    @staticmethod
    def _lid(x: Floats, y: Floats, shut: float) -> Floats:
        """Return the change of y that stretches the skin between the lid's crease and edge over the eyeball."""
        crease, edge, lower = -8.0, -4.5, 5.0
        over = np.clip(1.35 - np.abs(x / 15) ** 3, 0, 1)
        moved = edge + shut * (lower - 1 - edge) * over  # new position of the edge
        skin = crease + (y - crease) * (edge - crease) / (moved - crease)
        ball = edge + (y - moved) * (lower - edge) / (lower - moved)
        source = np.where(y < moved, skin, ball)
        return np.where((y > crease) & (y < lower) & (np.abs(x) < 17), source - y, 0).astype(np.float32)


_MOUTH_BOX = (122, 166, 76, 66)  # x, y, width, height on the plane
_RAISED = 5.5  # pixels by which a full smile raises the corners of the mouth


class _Edges(NamedTuple):
    """The four edges of a mouth as functions of x, (T, H, W), in pixels below the mouth's centre."""

    upper_out: Floats
    upper_in: Floats
    lower_in: Floats
    lower_out: Floats


def _edges(lips: Floats, half: Floats, x: Floats, lip_size: float, up: Floats) -> _Edges:
    """Return the edges of lips of half width `half` at the points x; their corners are raised by `up` pixels."""
    jaw, wide, purse, teeth, _ = lips.T[:, :, None, None]
    u = np.clip(np.abs(x) / half, 0, 1)
    gap = np.clip(jaw * 1.12 - 0.03, 0, None) + 0.12 * np.clip(teeth - 0.4, 0, 1)  # teeth part the lips a little
    opening = gap * np.clip(1 - (u / (0.93 - 0.12 * purse)) ** 2.4, 0, 1)
    thick = lip_size * (1 + 0.2 * purse) / (0.6 + 0.4 * wide) * np.sqrt(np.clip(1 - u**2.2, 0, 1))
    bow = 1 - 0.22 * np.exp(-0.5 * (x / (0.14 * half)) ** 2) * (1 - purse)  # the dip in the upper lip
    corner = 1.5 * u**2 * (0.7 - 0.5 * wide)  # corners sink a little when the mouth narrows
    corner = corner - up * u**2
    upper_in, lower_in = corner - 3.8 * opening, corner + 14 * opening
    lower = 6.2 * thick * (1 - 0.15 * np.clip(jaw, 0, 1))
    return _Edges(upper_in - 4.6 * thick * bow, upper_in, lower_in, lower_in + lower)


def _mouths(take: Take, who: Speaker, face: Expression) -> tuple[Floats, Floats]:
    """Draw the mouth of each frame: RGB float32 (T, 66, 76, 3), 0–255, and its opacity (T, 66, 76), 0–1."""
    x0, y0, width, height = _MOUTH_BOX
    plane_y, plane_x = np.mgrid[y0 : y0 + height, x0 : x0 + width].astype(np.float32)
    x, y = plane_x - _MOUTH[0], plane_y - _MOUTH[1]
    lips = take.lips
    half = 20.5 * who.mouth_size * face.width * lips[:, 1, None, None]
    edges = _edges(lips, half, x, who.lip_size, face.corners + _RAISED * take.smile[:, None, None])
    _, upper_in, lower_in, lower_out = edges
    mouth = _between(edges.upper_out, y, lower_out, 2.2) * np.clip((half - np.abs(x)) / 2.5, 0, 1)
    hole = _between(upper_in, y, lower_in, 1.2) * np.clip((lower_in - upper_in) / 1.5, 0, 1)
    colour = _lip_colour(edges, half, x, y, who)
    colour += (_inside(lips, edges, half, x, y, who) - colour) * hole[..., None]
    shadow = 0.22 * np.exp(-(((y - lower_out) / 4 - 0.6) ** 2) - (x / (0.6 * half)) ** 2) * (1 - mouth)  # on the chin
    opacity = mouth + shadow
    colour *= (mouth / np.maximum(opacity, 1e-4))[..., None]
    return _exposed(colour, plane_x, plane_y, who), opacity.astype(np.float32)


def _between(top: Floats, y: Floats, bottom: Floats, soft: float) -> Floats:
    """Return 1 between two edges and 0 outside, over a ramp of `soft` pixels."""
    return np.asarray(np.clip((y - top) / soft + 0.5, 0, 1) * np.clip((bottom - y) / soft + 0.5, 0, 1))


def _lip_colour(edges: _Edges, half: Floats, x: Floats, y: Floats, who: Speaker) -> Floats:
    middle, gap = (edges.upper_in + edges.lower_in) / 2, edges.lower_in - edges.upper_in
    rise = (y - edges.lower_in) / (edges.lower_out - edges.lower_in + 1e-3)  # 0 at the wet edge … 1 at the chin's side
    shine = 0.26 * np.exp(-(((rise - 0.45) / 0.3) ** 2) - (x / (0.5 * half)) ** 2)
    shade = np.where(y < middle, 0.86 + 0.02 * (edges.upper_in - y), 1.04 + shine - 0.12 * rise)
    seam = 0.75 * np.exp(-(((y - middle) / 1.1) ** 2)) * (np.abs(x) < half) * np.clip(1.3 - gap / 3, 0, 1)
    return (np.array(who.lips, np.float32) * (shade * (1 - seam))[..., None]).astype(np.float32)


def _inside(lips: Floats, edges: _Edges, half: Floats, x: Floats, y: Floats, who: Speaker) -> Floats:
    """Paint the inside of an open mouth: the dark, the tongue, the teeth."""
    jaw, _, purse, teeth, tongue = lips.T[:, :, None, None]
    teeth = np.maximum(teeth, who.teeth * np.clip(1.6 * jaw, 0, 1) * (1 - purse))  # because the upper lip rises
    _, top, bottom, _ = edges
    depth = (0.55 + 0.5 * (y - top) / (bottom - top + 1e-3))[..., None]
    picture = who.inside * np.array([62, 22, 22], np.float32) * depth
    tongue_top = bottom - (1.5 + (bottom - top) * 0.62 * tongue + 2.2 * jaw)
    flesh = 0.85 * _between(tongue_top, y, bottom + 9, 2.0) * np.exp(-((x / (0.62 * half)) ** 4))
    picture += (np.array([176, 88, 84], np.float32) - picture) * flesh[..., None]
    u = np.clip(np.abs(x) / half, 0, 1)
    upper_row = _between(top - 9, y, top - 2 + 6.5 * teeth - 2.2 * u**2, 1.2)
    lower_row = _between(bottom + 1 - 12.8 * np.clip(teeth - 0.75, 0, 1), y, bottom + 9, 1.2) * (teeth > 0.75)
    chinks = 0.94 - 0.1 * np.cos(2 * np.pi * x / 5) ** 8
    white = np.array([232, 226, 212], np.float32) * (1 - 0.55 * u**2)[..., None]
    picture += (white - picture) * (np.maximum(upper_row, lower_row) * np.clip(teeth * 3, 0, 1) * chinks)[..., None]
    return np.asarray(picture)
