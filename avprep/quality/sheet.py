"""A contact sheet: crops of a run as one picture, for a visual check before training."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from avprep import schema, shards
from avprep.errors import RunError
from avprep.pages.captions import caption
from avprep.runs.fingerprint import read_manifest
from avprep.shards.image import decode_image

CELL = 128
"""Side of a crop on the sheet, in pixels."""


def contact_sheet(out: Path, *, rows: int = 6, columns: int = 8) -> NDArray[np.uint8]:
    """Return one row per clip, of clips from every finished shard: evenly spaced crops below the key.

    Returns uint8 (H, W, 3), RGB. Raises RunError if `out` holds no finished crops.
    """
    run = shards.read_run(out, "crop")
    names = [] if run is None else [name for name, _ in read_manifest(out).shards(run["shard_size"])]
    heads = {name: head for name in names if (head := shards.read_sidecar_head(out, "crop", name)) is not None}
    total = sum(head["counts"]["ok"] for head in heads.values())
    strips: list[NDArray[np.uint8]] = []
    before = 0
    for name, head in heads.items():
        after = before + head["counts"]["ok"]
        wanted = rows * after // total - rows * before // total if total else 0
        strips += _strips(shards.tar_path(out, "crop", name), wanted, columns)
        before = after
    if not strips:
        raise RunError(f"{out}: holds no crops to show")
    return np.concatenate(strips)


def _strips(path: Path, wanted: int, columns: int) -> list[NDArray[np.uint8]]:
    strips: list[NDArray[np.uint8]] = []
    if not wanted:
        return strips
    for key, members in shards.read(path):
        last = schema.check_sample("crop", key, members)["n_frames"] - 1
        image_format = schema.image_format(members)
        cells = []
        for n in range(columns):
            image = decode_image(members[schema.frame_member(n * last // max(columns - 1, 1), image_format)])
            if image is not None:
                cells.append(cv2.resize(image, (CELL, CELL), interpolation=cv2.INTER_AREA))
        if len(cells) == columns:
            row = np.asarray(np.concatenate(cells, axis=1), np.uint8)
            strips.append(np.concatenate((caption(key, row.shape[1]), row)))
        if len(strips) == wanted:
            break
    return strips
