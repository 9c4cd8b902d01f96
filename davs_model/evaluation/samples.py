"""Sheets of sample frames: the identity frame, real frames, and frames generated from audio and from video."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from avprep.pages.captions import caption
from davs_model import precision
from davs_model.data.batch import RawBatch
from davs_model.data.pictures import tiled, to_pictures
from davs_model.evaluation import talk
from davs_model.models.base import FRAMES, PORTRAIT, REAL, TalkingModel

CLIPS = 4
"""Number of clips on a sheet."""
GAP = 4
"""White pixels around each image."""
ROWS = ("real", "from audio", "from video")
"""The labels of the rows of a clip; that of the first column is `identity`."""
LABELS = 84
"""Width of the column of labels in pixels."""


@torch.inference_mode()
def sheet(model: TalkingModel, raw: RawBatch, device: torch.device, *, bf16: bool = False) -> NDArray[np.uint8]:
    """Return a sheet, RGB uint8 (H, W, 3), of B clips, with a row of each kind; the model is left in eval mode.

    A row begins with its label and the identity frame, followed by the frames of a step: real ones, those generated
    from their audio, or those generated from their video, if that drives the model.
    """
    model.eval()
    batch = raw.to(device)
    part, real = model.generated_part(batch), batch.get(REAL, batch[FRAMES])
    with precision.autocast(device, bf16=bf16):
        identity = model.conditioned(model.encode_identity(batch[PORTRAIT]), batch)
        spoken = {"audio": talk.heard(model, batch)}
        if "video" in model.drivers:
            spoken["video"] = model.encode_speech(frames=batch[FRAMES])
        generated = [model.decode(identity, features[:, part]) for features in spoken.values()]
    rows = [
        torch.cat((batch[PORTRAIT][clip], frames[clip]))
        for clip in range(len(real))
        for frames in (real[:, part], *generated)
    ]
    return labelled(to_pictures(torch.stack(rows)), ROWS[: 1 + len(spoken)], GAP)


def labelled(pictures: NDArray[np.uint8], rows: Sequence[str] = ROWS, gap: int = 0) -> NDArray[np.uint8]:
    """Join images uint8 (rows, columns, H, W, 3) into one, with a line of labels above and a column of labels beside.

    rows: the labels of the rows, which are repeated. gap: as in `tiled`.
    """
    body = tiled(pictures, gap)
    height = len(body) // len(pictures)
    names = [caption(rows[row % len(rows)], LABELS, height) for row in range(len(pictures))]
    beside = np.concatenate((np.concatenate(names), body), axis=1)
    above = np.concatenate((caption("", LABELS), caption("identity", body.shape[1])), axis=1)
    return np.concatenate((above, beside))
