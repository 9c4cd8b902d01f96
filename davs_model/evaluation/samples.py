"""Sheets of generated frames to look at: who, the truth, driven by sound, driven by video."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from avprep.errors import RunError
from davs_model import precision
from davs_model.data.batch import RawBatch
from davs_model.models.base import FRAMES, PORTRAIT, WINDOWS, TalkingModel

CLIPS = 4
"""Clips of a sheet."""
GAP = 4
"""White pixels around each picture."""


@torch.inference_mode()
def sheet(model: TalkingModel, raw: RawBatch, device: torch.device, *, bf16: bool = False) -> NDArray[np.uint8]:
    """Return a sheet, RGB uint8 (H, W, 3), of B clips, three rows each; the model is left in eval mode.

    A row begins with the identity frame. Then come the frames that a step generates: the real ones, those driven by
    their audio, or those driven by their own video.
    """
    model.eval()
    batch = raw.to(device)
    part = model.generated_part(batch)
    with precision.autocast(device, bf16=bf16):
        identity = model.encode_identity(batch[PORTRAIT])
        audio = model.decode(identity, model.encode_speech(windows=batch[WINDOWS])[:, part])
        video = model.decode(identity, model.encode_speech(frames=batch[FRAMES])[:, part])
    rows = [
        torch.cat((batch[PORTRAIT][clip], frames[clip]))
        for clip in range(len(batch[FRAMES]))
        for frames in (batch[FRAMES][:, part], audio, video)
    ]
    pictures = torch.stack(rows).permute(0, 1, 3, 4, 2).mul(255).round().byte().cpu().numpy()
    framed = np.pad(pictures, ((0, 0), (0, 0), (GAP, GAP), (GAP, GAP), (0, 0)), constant_values=255)
    n_rows, n_columns, height, width, _ = framed.shape
    return framed.transpose(0, 2, 1, 3, 4).reshape(n_rows * height, n_columns * width, 3)


def write_png(path: Path, rgb: NDArray[np.uint8]) -> None:
    """Write a picture, RGB uint8 (H, W, 3), so that it appears whole; RunError where it cannot be written."""
    whole, data = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    assert whole
    write(path, data.tobytes())


def write(path: Path, data: bytes) -> None:
    """Write a file, its folder made if need be, so that it appears whole; RunError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror})") from error
