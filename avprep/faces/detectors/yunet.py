"""YuNet with ONNX Runtime: a box and five points in half a millisecond on one core."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from avprep.errors import WeightsError
from avprep.faces import weights
from avprep.faces.detectors.base import Bias, CloseUp, Face

if TYPE_CHECKING:  # the process that hands out clips reads the detector's requirements, and should not wait for numpy
    import numpy as np
    import onnxruntime
    from numpy.typing import NDArray

PACKAGES = {"onnxruntime": "onnxruntime"}
WEIGHTS = (
    weights.WeightsFile(
        name="yunet",
        detector="yunet",
        file="face_detection_yunet_2023mar.onnx",
        # The zoo keeps it in Git LFS: a raw.githubusercontent.com URL would give the 131-byte pointer.
        url="https://media.githubusercontent.com/media/opencv/opencv_zoo/47534e27c9851bb1128ccc0102f1145e27f23f98"
        "/models/face_detection_yunet/face_detection_yunet_2023mar.onnx",
        sha256="8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
        size=232_589,
        licence="MIT",
        source="https://github.com/opencv/opencv_zoo",
    ),
)

CANDIDATE_SCORE = 0.3
SAME_FACE = 0.5
OVERLAP = 0.3
STRIDES = (8, 16, 32)
"""Pixels per cell of the network's three grids."""

_FIXED = b"\n\x03\x08\x80\x05" * 2
"""The network's input height and width in its file: the number 640, in protobuf."""
_FREE = b"\n\x03\x12\x01h\n\x03\x12\x01w"
"""The same two dimensions as the names h and w, so that the network takes pictures of any size. The file is pinned by
its digest, so there is exactly one such place."""


class YuNetDetector:
    """Finds frontal to half-profile faces; needs the weights `yunet`.

    Measured on talking faces: a face 20 pixels wide is always found, one of 16 in six of ten frames, one of 10 never.
    picture_side: at 128, faces down to a sixth of the longer side in about half a millisecond on one core; if none is
        found, the caller searches again at a larger size.
    min_score: faces with a lower score are left out; 0.6 keeps every face above and drops most false positives.
    """

    batch_size = 1
    # Measured: as accurate as larger close-ups. The face is about 70 px wide, and taller above the eyes than below the
    # mouth. Upright faces scored 0.897 to 0.95, and at least 1.02 times as much as in any other orientation.
    close_up: CloseUp | None = CloseUp((96, 128), zoom=0.45, rise=4, tilt_shown=0.4, sure=0.915, better=1.01)

    # Measured on the authors' aligned pictures and 28 clips: YuNet's error depends on the position of its grid, so
    # several sizes and both ways round average it out; these two are as good as three. Large faces show more of their
    # tilt.
    looks = (
        CloseUp((192, 192), zoom=0.9, rise=4, tilt_shown=0.95),
        CloseUp((96, 128), zoom=0.52, rise=3, tilt_shown=0.395),
    )
    bias = Bias(scale=0.983, down=-1.5)

    def __init__(self, *, picture_side: int = 128, min_score: float = 0.6) -> None:
        self.picture_side = picture_side
        self.search_sides: tuple[int, ...] = (picture_side, 2 * picture_side, 4 * picture_side)
        self.min_score = min_score
        self._session = _session(weights.find("yunet"))

    def detect(self, frames: NDArray[np.uint8]) -> list[list[Face]]:
        """Find the faces of each frame; see `avprep.faces.detectors.base.Detector`."""
        return [_merge(self.candidates(frame), self.min_score) for frame in frames]

    detect_close = detect

    def candidates(self, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the network's candidate faces in one frame: float32 (N, 15), see `_merge`.

        The formulas are those of the code published with the network (libfacedetection, and OpenCV's FaceDetectorYN,
        which gives the same results): the input is BGR, padded with black to whole cells.
        """
        import cv2
        import numpy as np

        height, width = frame.shape[:2]
        padded = np.zeros((1, 3, -(-height // 32) * 32, -(-width // 32) * 32), np.float32)
        for plane, values in zip(padded[0], reversed(cv2.split(frame)), strict=True):
            plane[:height, :width] = values
        answers = [answer[0] for answer in self._session.run(None, {"input": padded})]
        # The three grids as one array: each has so few numbers that numpy's calls would dominate.
        face, there, box, points = (np.concatenate(answers[n : n + 3]) for n in range(0, 12, 3))
        sure = np.concatenate([face, there], axis=1)
        np.minimum(np.maximum(sure, 0, out=sure), 1, out=sure)  # as np.clip, which takes twice as long
        score = np.sqrt(sure[:, 0] * sure[:, 1])
        cells = (score >= CANDIDATE_SCORE).nonzero()[0]
        places, strides = _grids(*padded.shape[2:])
        place, stride, box = places[cells], strides[cells], box[cells]
        size = np.exp(box[:, 2:])
        candidates = np.empty((cells.size, 15), np.float32)
        candidates[:, :2] = (place[:, :2] + box[:, :2] - size / 2) * stride
        candidates[:, 2:4] = size * stride
        candidates[:, 4:14] = (points[cells] + place) * stride
        candidates[:, 14] = score[cells]
        return candidates


@lru_cache
def _grids(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the positions of cells of an input's three grids: (N, 10), x y five times, in cells; strides (N, 1)."""
    import numpy as np

    sizes = [(height // stride, width // stride, stride) for stride in STRIDES]
    places = [np.indices((down, across))[::-1].reshape(2, -1).T for down, across, _ in sizes]
    strides = [np.full((down * across, 1), stride) for down, across, stride in sizes]
    return np.tile(np.concatenate(places), 5).astype(np.float32), np.concatenate(strides).astype(np.float32)


def _session(path: Path) -> onnxruntime.InferenceSession:
    # From 1.29 on, ONNX Runtime's Linux wheels send telemetry and keep an identifier in the user's cache. Only this
    # variable, set before the library is loaded, stops all of it; the library's own switch comes too late.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    data = path.read_bytes()
    assert data.count(_FIXED) == 1, f"{path}: its digest was right, its input is not"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # the workers share the cores
    options.log_severity_level = 3  # the file states outputs for 640×640, so each call would log a warning
    try:
        return onnxruntime.InferenceSession(data.replace(_FIXED, _FREE), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise WeightsError(f"{path}: ONNX Runtime cannot load it ({error})") from error


build = YuNetDetector


def _merge(candidates: NDArray[np.float32], min_score: float) -> list[Face]:
    """Merge the candidates of each face into their mean, weighted by score.

    YuNet returns about nine overlapping candidates per face. When the picture shifts by a fraction of a cell, their
    mean moves a third less than the best of them, at no extra cost.

    candidates: float32 (N, 15): x y width height, five points x y, score. YuNet names the points from the person's
    view, right eye first; the person's right is the image's left, so this already is our order.
    """
    import numpy as np

    candidates = candidates[np.argsort(-candidates[:, 14], kind="stable")]
    faces = []
    while len(candidates) and candidates[0, 14] >= min_score:
        overlap = _overlap(candidates[0], candidates)
        same = candidates[overlap >= SAME_FACE]
        mean = same[:, 14] @ same[:, :14] / same[:, 14].sum()
        box = np.concatenate([mean[:2], mean[:2] + mean[2:4]])
        faces.append(Face(box=box, score=float(candidates[0, 14]), points=mean[4:].reshape(5, 2)))
        candidates = candidates[overlap < OVERLAP]
    return faces


def _overlap(one: NDArray[np.float32], many: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of one candidate with many: (15,), (N, 15) -> (N,)."""
    import numpy as np

    extent = np.minimum(one[:2] + one[2:4], many[:, :2] + many[:, 2:4]) - np.maximum(one[:2], many[:, :2])
    extent = np.maximum(extent, 0)
    shared = extent[:, 0] * extent[:, 1]
    ratio: NDArray[np.float32] = shared / (one[2] * one[3] + many[:, 2] * many[:, 3] - shared)
    return ratio
