"""The networks of the face_alignment package, run in batches over frames: S3FD finds faces, FAN places 68 landmarks.

S3FD: Zhang et al., "S³FD: Single Shot Scale-invariant Face Detector", 2017. FAN: Bulat and Tzimiropoulos, "How far are
we from solving the 2D & 3D Face Alignment problem?", 2017. The package itself runs FAN frame by frame and decodes S3FD
position by position; only its networks are used here.

Coordinates: inside this module a pixel is a square, the first from 0 to 1. Returned points have the centre of the first
pixel at (0, 0), as in cv2.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from avprep.errors import WeightsError
from avprep.faces import weights
from avprep.faces.detectors.base import Bias, CloseUp, Face
from avprep.faces.landmarks import five_points

if TYPE_CHECKING:  # at run time torch is imported when the detector is built
    import torch

PACKAGES = {"torch": "torch", "face-alignment": "face_alignment"}
EXTRA = "gpu"
_FAN = "https://www.adrianbulat.com/downloads/python-fan"
# The digests of these two begin with the digits in their file names: torch hub names files this way.
WEIGHTS = (
    weights.WeightsFile(
        name="s3fd",
        detector="face-alignment",
        file="s3fd-619a316812.pth",
        url=f"{_FAN}/s3fd-619a316812.pth",
        sha256="619a31681264d3f7f7fc7a16a42cbbe8b23f31a256f75a366e5a1bcd59b33543",
        size=89_843_225,
        licence="none stated for the file; face-alignment is BSD-3-Clause",
        source="https://github.com/1adrianb/face-alignment",
        torch_hub=True,
    ),
    weights.WeightsFile(
        name="2dfan4",
        detector="face-alignment",
        file="2DFAN4-11f355bf06.pth.tar",
        url=f"{_FAN}/2DFAN4-11f355bf06.pth.tar",
        sha256="11f355bf0693120222f5955ce3f9dc8fb5763ebb30a47d7906e509490d32e4aa",
        size=None,
        licence="BSD-3-Clause",
        source="https://github.com/1adrianb/face-alignment",
        torch_hub=True,
    ),
)

MEAN_BGR = (104.0, 117.0, 123.0)
"""The mean that is subtracted from S3FD's input, as in training, like that of its VGG-16."""

OVERLAP = 0.3
CROP_SIDE = 256
CROP_RISE = 0.12
"""The centre of FAN's crop lies this fraction of the box's height above the centre of the box."""

CROP_SPAN = 200 / 195
"""The side of FAN's crop, relative to the sum of the box's width and height."""

FACES_PER_FRAME = 4
"""FAN's batch size relative to that of the frames: its pictures are that much smaller."""


class FaceAlignmentDetector:
    """Finds faces at any angle and 68 landmarks on each; needs the weights `s3fd` and `2dfan4`, and preferably CUDA.

    picture_side: pixels; S3FD's smallest prior spans 16, and FAN gets each face in 256×256.
    device: a torch device; by default CUDA if available.
    half: run in half precision; by default on CUDA only.
    batch_size: frames per pass of S3FD; at 480×360 each takes about 0.1 GB in float32.
    min_score: faces with a lower S3FD score are left out.
    face_network, landmark_network: networks with the architecture of S3FD and FAN; default: the published weights.
    """

    close_up: CloseUp | None = None
    bias = Bias()

    def __init__(
        self,
        *,
        picture_side: int = 480,
        device: str | None = None,
        half: bool | None = None,
        batch_size: int = 8,
        min_score: float = 0.5,
        face_network: torch.nn.Module | None = None,
        landmark_network: torch.nn.Module | None = None,
    ) -> None:
        import torch
        from face_alignment.detection.sfd.net_s3fd import s3fd
        from face_alignment.models import FAN

        self.picture_side = picture_side
        self.search_sides: tuple[int, ...] = (picture_side,)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.backends.cudnn.deterministic = True  # the same clip gives the same points
        self.half = self.device.type == "cuda" if half is None else half
        self.batch_size = batch_size
        self.min_score = min_score
        self._s3fd = (face_network or load(s3fd(), weights.find("s3fd"))).to(self.device).eval()
        self._fan = (landmark_network or load(FAN(4), weights.find("2dfan4"))).to(self.device).eval()

    def detect(self, frames: NDArray[np.uint8]) -> list[list[Face]]:
        """Find the faces of each frame; see `avprep.faces.detectors.base.Detector`."""
        return [[_face(box, landmarks) for box, landmarks in found] for found in self._look(frames)]

    detect_close = detect

    def landmarks(self, crops: NDArray[np.uint8]) -> list[list[NDArray[np.float32]]]:
        """Find the landmarks of each face, in the order of `detect`; see `base.LandmarkDetector`."""
        return [[landmarks for _, landmarks in found] for found in self._look(crops)]

    def _look(self, frames: NDArray[np.uint8]) -> list[list[tuple[NDArray[np.float32], NDArray[np.float32]]]]:
        """Find the box (5,) and landmarks (68, 2) of each face of each frame."""
        import torch

        faces: list[list[tuple[NDArray[np.float32], NDArray[np.float32]]]] = []
        with torch.inference_mode():
            for start in range(0, len(frames), self.batch_size):
                batch = frames[start : start + self.batch_size]
                boxes = self._boxes(batch)
                landmarks = self._landmarks(batch, boxes)
                faces += [[(box, next(landmarks)) for box in found] for found in boxes]
        return faces

    def _boxes(self, frames: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Run S3FD: T frames -> T arrays (N, 5), x0 y0 x1 y1 score, best first."""
        import torch

        pixels = torch.from_numpy(np.ascontiguousarray(frames)).to(self.device)
        bgr = pixels.permute(0, 3, 1, 2).flip(1).float() - torch.tensor(MEAN_BGR, device=self.device).view(1, 3, 1, 1)
        with self._precision():
            maps = self._s3fd(bgr)
        if self.half and not torch.stack([level.isfinite().all() for level in maps]).all():
            maps = self._s3fd(bgr)  # float16 overflowed; no face would be found, without any error
        index, boxes = decode(maps, self.min_score)
        return [suppress(boxes[index == frame]) for frame in range(len(frames))]

    def _landmarks(self, frames: NDArray[np.uint8], boxes: list[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """Run FAN on the faces of all frames; yield (68, 2) for each face, in order, x y in pixels of its frame."""
        owners = [frame for frame, found in zip(frames, boxes, strict=True) for _ in found]
        flat = np.concatenate(boxes)
        size = FACES_PER_FRAME * self.batch_size
        for start in range(0, len(flat), size):
            corners, sides = crop_squares(flat[start : start + size])
            crops = np.stack([_crop(*face) for face in zip(owners[start : start + size], corners, sides, strict=True)])
            peaks = heatmap_peaks(self._heatmaps(crops)).cpu().numpy()
            yield from corners[:, None] + peaks * sides[:, None, None] - 0.5

    def _heatmaps(self, crops: NDArray[np.uint8]) -> torch.Tensor:
        """Crops (N, 256, 256, 3) -> float32 heat maps of FAN's last stage (N, 68, 64, 64)."""
        import torch

        pixels = torch.from_numpy(crops).to(self.device).permute(0, 3, 1, 2).float() / 255
        with self._precision():
            heatmaps: torch.Tensor = self._fan(pixels)[-1].float()
        return heatmaps

    def _precision(self) -> torch.autocast:
        import torch

        # Autocast rather than .half(): S3FD sums squares of hundreds of channels, which float16 cannot hold.
        return torch.autocast(self.device.type, dtype=torch.float16, enabled=self.half)


build = FaceAlignmentDetector


def identity() -> dict[str, str]:
    """Return the device: half precision on CUDA rounds differently from single precision on a CPU."""
    import torch

    return {"device": "cuda" if torch.cuda.is_available() else "cpu"}


def load(network: torch.nn.Module, path: Path) -> torch.nn.Module:
    """Load a file's tensors into a network; nothing in the file is executed. WeightsError if they do not fit."""
    import torch

    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, TypeError, KeyError, AttributeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(f"{path} does not hold the weights of {type(network).__name__}: {reason}") from error
    return network


def decode(maps: list[torch.Tensor], min_score: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Decode S3FD's maps into boxes, for all frames and positions at once.

    maps: for each of six strides 4, 8 … 128, logits of background and face (T, 2, H, W), then offsets (T, 4, H, W).
    Returns the frame of each box (N,) and the boxes (N, 5): x0 y0 x1 y1 in pixels, score above `min_score`.

    A position's prior is a square of four strides around its centre. Offsets are scaled by 0.1 for the centre (in units
    of the prior) and by 0.2 for the sides (as exponents of e).
    """
    import torch

    found = []
    for level in range(len(maps) // 2):
        stride = 2 ** (level + 2)
        prior = 4 * stride
        scores = maps[2 * level].float().softmax(dim=1)[:, 1]
        frame, row, column = torch.nonzero(scores > min_score, as_tuple=True)
        offsets = maps[2 * level + 1].float()[frame, :, row, column]
        middle = (torch.stack([column, row], dim=1) + 0.5) * stride + offsets[:, :2] * 0.1 * prior
        half = prior * torch.exp(offsets[:, 2:] * 0.2) / 2
        score = scores[frame, row, column]
        found.append(torch.cat([frame[:, None], middle - half, middle + half, score[:, None]], dim=1))
    # One copy from the device; float32 represents frame numbers exactly up to 16 million.
    boxes = torch.cat(found).cpu().numpy()
    return boxes[:, 0].astype(np.int64), boxes[:, 1:]


def suppress(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Non-maximum suppression: keep only the best of overlapping boxes (N, 5); best score first."""
    boxes = boxes[np.argsort(-boxes[:, 4], kind="stable")]
    kept = []
    while len(boxes):
        best, rest = boxes[0], boxes[1:]
        kept.append(best)
        shared = np.clip(np.minimum(best[2:4], rest[:, 2:4]) - np.maximum(best[:2], rest[:, :2]), 0, None).prod(axis=1)
        union = (best[2:4] - best[:2]).prod() + (rest[:, 2:4] - rest[:, :2]).prod(axis=1) - shared
        boxes = rest[shared <= OVERLAP * union]
    return np.array(kept, np.float32).reshape(-1, 5)


def crop_squares(boxes: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the square around each face, as in FAN's training.

    boxes: (N, 5) -> upper left corners (N, 2) and sides (N,), in pixels of the frame.
    """
    size = boxes[:, 2:4] - boxes[:, :2]
    middle = (boxes[:, :2] + boxes[:, 2:4]) / 2 - np.array([0, CROP_RISE], np.float32) * size
    sides = (size.sum(axis=1) * np.float32(CROP_SPAN)).astype(np.float32)
    return middle - sides[:, None] / 2, sides


def heatmap_peaks(heatmaps: torch.Tensor) -> torch.Tensor:
    """Find the peak of each heat map between its cells: (N, 68, H, W) -> (N, 68, 2), x y in fractions of the map.

    The peak is the top of a parabola through the largest value and its two neighbours, at most half a cell away; a peak
    on the border is not moved.
    """
    import torch

    height, width = heatmaps.shape[-2:]
    cell = heatmaps.flatten(2).argmax(dim=2)
    row, column = cell // width, cell % width
    top = heatmaps.flatten(2).gather(2, cell[..., None])[..., 0]
    across = _parabola_top(heatmaps, top, row, column, dim=3)
    down = _parabola_top(heatmaps, top, row, column, dim=2)
    return torch.stack([(column + 0.5 + across) / width, (row + 0.5 + down) / height], dim=-1)


def _parabola_top(
    heatmaps: torch.Tensor, top: torch.Tensor, row: torch.Tensor, column: torch.Tensor, dim: int
) -> torch.Tensor:
    """Return the offset, -0.5 … 0.5 cells, of each map's (N, 68, H, W) peak along one dimension: (N, 68)."""
    import torch

    width = heatmaps.shape[3]
    position = column if dim == 3 else row
    stride = 1 if dim == 3 else width
    inside = (position > 0) & (position < heatmaps.shape[dim] - 1)
    cell = torch.where(inside, row * width + column, stride)
    flat = heatmaps.flatten(2)
    before = flat.gather(2, (cell - stride)[..., None])[..., 0]
    after = flat.gather(2, (cell + stride)[..., None])[..., 0]
    bend = 2 * top - before - after
    offset = (after - before) / (2 * bend.clamp(min=1e-12))
    return torch.where(inside & (bend > 0), offset.clamp(-0.5, 0.5), torch.zeros_like(offset))


def _crop(frame: NDArray[np.uint8], corner: NDArray[np.float32], side: np.float32) -> NDArray[np.uint8]:
    """Warp one square of a frame to (256, 256, 3); black outside the frame."""
    zoom = CROP_SIDE / float(side)
    # Square coordinates (a pixel spans 0…1) and cv2's pixel centres differ by half a pixel, at either scale.
    shift = zoom * (0.5 - corner.astype(float)) - 0.5
    affine = np.array([[zoom, 0, shift[0]], [0, zoom, shift[1]]])
    crop: NDArray[Any] = cv2.warpAffine(frame, affine, (CROP_SIDE, CROP_SIDE), flags=cv2.INTER_LINEAR)
    return crop.astype(np.uint8, copy=False)


def _face(box: NDArray[np.float32], landmarks: NDArray[np.float32]) -> Face:
    return Face(box=box[:4].copy(), score=float(box[4]), points=five_points(landmarks))
