"""How a photo differs from the frames that models are trained on: close, upright, frontal faces."""

from __future__ import annotations

import math

import cv2
import numpy as np

from avprep.faces import align
from avprep.schema import CROP_SIZE
from avprep.talking.photo import Photo

ENLARGED = 2.0
"""Crop pixels per photo pixel above which a face counts as small: fewer than 128 photo pixels across the crop."""
TILTED = 20.0
"""Degrees of roll above which the detector's points, and therefore the crop, become less reliable."""
TURNED = 0.2
"""Distance of the nose's tip from the middle between the eyes, relative to the distance between the eyes, above which a
face counts as turned. GRID's speakers stay below .1."""
OUTSIDE = 0.1
"""Fraction of the crop outside the photo above which it is mentioned."""


def differences(photo: Photo) -> list[str]:
    """Return each way in which a photo is unlike the training data, in a few words; none for an already aligned one."""
    if not photo.n_faces:
        return []
    found = []
    if (scale := float(align.scale(photo.affine))) > ENLARGED:
        found.append(f"the face is small, and enlarged {scale:.1f} times")
    if abs(roll := math.degrees(math.atan2(photo.affine[1, 0], photo.affine[0, 0]))) > TILTED:
        found.append(f"the head is tilted by {abs(roll):.0f}°")
    if photo.turned is not None and abs(photo.turned) > TURNED:
        found.append("the face is turned aside")
    if (outside := _outside(photo)) > OUTSIDE:
        found.append(f"{outside:.0%} of the crop lies outside the photo")
    return found


def _outside(photo: Photo) -> float:
    """Return the fraction of the crop that is outside the photo."""
    inside = np.ones(photo.image.shape[:2], np.float32)
    return 1 - float(cv2.warpAffine(inside, photo.affine, (CROP_SIZE, CROP_SIZE)).mean())
