"""Features of all frames of the training clips, computed once by an encoder that a stage does not train."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from avprep.errors import ShardError
from davs_model import precision
from davs_model.data.clips import Clips
from davs_model.data.reads import chosen
from davs_model.data.sources import read_whole
from davs_model.data.store import FrameStore
from davs_model.models.base import FRAMES, TalkingModel

AT_ONCE = 256
"""Number of frames in one pass of the encoder: a clip may last half an hour."""


@torch.inference_mode()
def codes_of(
    model: TalkingModel, clips: Clips, device: torch.device, *, store: FrameStore | None = None, bf16: bool = False
) -> list[NDArray[np.float32]]:
    """Return `TalkingModel.encode_speech` of every frame of each clip, float32 `[T, F]`.

    The model is left in eval mode. A clip that cannot be read has features of no frame, `[0, F]`, even if the
    unreadable frame is not needed later.
    """
    model.eval()
    known: dict[tuple[Path, bytes], NDArray[np.float32]] = {}  # the table may hold a clip several times
    reads, side = chosen(model.reads(model.dimensions), (FRAMES,)), int(model.dimensions["image_size"])
    found = []
    for row in range(len(clips)):
        place = clips.sample(row)
        if place in known:
            found.append(known[place])
            continue
        try:
            raw = read_whole(clips, row, reads, side, store=store)
        except ShardError:
            found.append(np.zeros((0, model.code_length), np.float32))
            continue
        parts = []
        for pictures in raw[FRAMES].split(AT_ONCE, 1):
            with precision.autocast(device, bf16=bf16):
                codes = model.encode_speech(frames=replace(raw, tensors={FRAMES: pictures}).to(device)[FRAMES])
            parts.append(codes[0].float().cpu().numpy())
        found.append(known.setdefault(place, np.concatenate(parts)))
    return found
