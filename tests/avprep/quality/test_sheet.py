"""Contact sheets: a strip of crops for each clip, below its key."""

from __future__ import annotations

import resource
from pathlib import Path

import made_shards
import numpy as np
import pytest

from avprep.errors import RunError
from avprep.pages.captions import LINE, caption
from avprep.quality import sheet


def test_each_strip_has_its_key(tmp_path: Path) -> None:
    """A row is the clip's key and, below it, its crops in order, whatever shard the clip is in."""
    clips = [made_shards.Made("s1/first", 0), made_shards.Made("s2/second", 1)]
    made_shards.write(tmp_path, clips)
    (tmp_path / "crop" / "run.json").write_text('{"shard_size": 1}')
    found = sheet.contact_sheet(tmp_path, rows=2, columns=3)
    assert found.shape == (2 * (LINE + sheet.CELL), 3 * sheet.CELL, 3)
    for clip, row in zip(clips, np.split(found, 2), strict=True):
        assert np.array_equal(row[:LINE], caption(clip.key, 3 * sheet.CELL))
        levels = row[LINE:].mean(axis=(0, 2)).reshape(3, sheet.CELL).mean(axis=1)
        assert [made_shards.frame_of(level) for level in levels] == [0, 14, 28]


def test_a_full_disk_leaves_the_picture_that_was_there(tmp_path: Path) -> None:
    """If there is no room for the new image, the line says so, the old one stays and nothing else is left."""
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # as on a full disk
    try:
        with pytest.raises(RunError, match=r"a\.png: cannot write \(File too large\)"):
            sheet.write(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {found.name: found.read_bytes() for found in tmp_path.iterdir()} == {"a.png": b"old"}
