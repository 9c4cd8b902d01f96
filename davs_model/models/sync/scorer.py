"""A trained sync model that scores clips: from frames and windows to features and the offset."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from avprep.errors import ShardError
from avprep.schema import CROP_SIZE, costly, picture_size
from davs_model.data.arrays import statistics
from davs_model.data.pictures import region
from davs_model.models.sync import curve
from davs_model.models.sync.curve import Offset
from davs_model.models.sync.networks import (
    CONTEXT,
    LOWER_HALF,
    MIN_CONTRAST,
    AudioEncoder,
    VisualEncoder,
    standardised_windows,
)

if TYPE_CHECKING:
    from davs_model.models.sync.model import Sync

AT_ONCE = 512
"""Maximum number of windows in one pass of an encoder."""

Grey = NDArray[np.uint8]
Windows = NDArray[np.float32]
Encoder = TypeVar("Encoder", VisualEncoder, AudioEncoder)


@dataclass(frozen=True, eq=False)
class Features:
    """Unit vectors of each frame, (T, 256), and which frames have whole windows, (T,); for video and for audio."""

    video: NDArray[np.float32]
    audio: NDArray[np.float32]
    seen: curve.Bools
    heard: curve.Bools

    def distances(self) -> NDArray[np.float64]:
        """Return the distances at each lead; see `curve.distances`."""
        return curve.distances(self.video, self.audio, self.seen, self.heard)

    def offset(self) -> Offset | None:
        """Return the offset of the clip; None if there are too few windows."""
        return curve.offset(self.distances())


class Scorer:
    """A sync model on its device, in eval mode.

    digest: of its checkpoint. mfcc_preset: that of the windows that it was trained on, "" if unknown.
    """

    def __init__(
        self, model: Sync, *, device: torch.device | str = "cpu", digest: str = "", mfcc_preset: str = ""
    ) -> None:
        model.eval()
        self._visual, self._audio = _folded(model.visual_encoder), _folded(model.audio_encoder)
        self.device, self.digest, self.mfcc_preset = torch.device(device), digest, mfcc_preset
        self.side = int(model.dimensions["image_size"])

    def grey(self, crops: NDArray[np.uint8]) -> Grey:
        """Convert crops (T, 256, 256, 3), RGB, to the input of the model: grey (T, S, S)."""
        rows, columns = region(LOWER_HALF, CROP_SIZE)
        return np.stack([self._small(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[rows, columns]) for crop in crops])

    def read(self, data: bytes | memoryview) -> Grey | None:
        """Decode an encoded crop to the input of the model, grey (S, S); None for data that is no 256×256 image.

        A JPEG is decoded at half its size, in a third of the time; the pixels are those of `grey` up to rounding.
        """
        data = bytes(data)
        if picture_size(data) != (CROP_SIZE, CROP_SIZE) or costly(data):  # checked before memory is allocated
            return None
        flags = cv2.IMREAD_REDUCED_GRAYSCALE_2 | cv2.IMREAD_IGNORE_ORIENTATION
        try:
            half = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error:
            return None
        if half is None or half.shape != (CROP_SIZE // 2, CROP_SIZE // 2):
            return None
        rows, columns = region(LOWER_HALF, CROP_SIZE // 2)
        return self._small(half[rows, columns].astype(np.uint8, copy=False))

    def pictures(self, key: str, members: Mapping[str, bytes | memoryview]) -> Grey:
        """Decode all frames of a clip, in order, to grey (T, S, S); ShardError that names the clip."""
        found = np.empty((len(members), self.side, self.side), np.uint8)
        for frame, (name, data) in enumerate(members.items()):
            picture = self.read(data)
            if picture is None:
                raise ShardError(f"{key}: {name}: the picture cannot be decoded")
            found[frame] = picture
        return found

    def lead(self, crops: NDArray[np.uint8], windows: Windows, valid: curve.Bools) -> Offset | None:
        """Return the offset of a video; see `davs_model.models.base.SyncJudge`."""
        return self.features(self.grey(crops), windows, valid).offset()

    @torch.inference_mode()
    def features(self, grey: Grey, windows: Windows, valid: curve.Bools) -> Features:
        """Return the features of a clip, for the frames that have both an image and a window.

        grey: uint8 (T, S, S). windows: float32 (T, 12, 20). valid: (T,), which windows hold nothing but real audio.
        """
        length = min(len(grey), len(windows))
        grey, windows, valid = grey[:length], windows[:length], valid[:length]
        seen = np.zeros(len(grey), bool)
        seen[CONTEXT : len(grey) - CONTEXT] = True
        return Features(self.see(grey), self.hear(windows), seen, np.asarray(valid, bool))

    @torch.inference_mode()
    def see(self, grey: Grey) -> NDArray[np.float32]:
        """Return the features (T, 256) of grey images (T, S, S); those at the ends depend on repeated images."""
        mean, deviation = float(grey.mean()), max(float(grey.std()) / 255, MIN_CONTRAST) * 255
        whole = np.pad(grey, ((CONTEXT, CONTEXT), (0, 0), (0, 0)), mode="edge")
        found = []
        for first in range(0, len(grey), AT_ONCE):
            part = self._tensor(whole[first : first + AT_ONCE + 2 * CONTEXT]).float()
            encoded = self._visual(((part - mean) / deviation)[None])
            found.append(encoded[0, CONTEXT:-CONTEXT].cpu().numpy())
        return np.concatenate(found)

    @torch.inference_mode()
    def hear(self, windows: Windows) -> NDArray[np.float32]:
        """Return the features (T, 256) of windows (T, 12, 20)."""
        of_clip = self._tensor(statistics(windows))[None]
        found = []
        for first in range(0, len(windows), AT_ONCE):
            part = standardised_windows(self._tensor(windows[first : first + AT_ONCE])[None], of_clip)
            found.append(self._audio(part)[0].cpu().numpy())
        return np.concatenate(found)

    def _tensor(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def _small(self, part: Grey) -> Grey:
        return cv2.resize(part, (self.side, self.side), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _folded(encoder: Encoder) -> Encoder:
    """Return a copy of an encoder with BatchNorm folded into its convolutions: equivalent, and a third faster."""
    copied = copy.deepcopy(encoder)
    layers: list[nn.Module] = []
    for layer in copied.layers:
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layers[-1] = fuse_conv_bn_eval(layers[-1], layer)  # type: ignore[type-var] # it accepts both types
        else:
            layers.append(layer)
    copied.layers = nn.Sequential(*layers)
    return copied
