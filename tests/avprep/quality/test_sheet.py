"""Contact sheets: a strip of crops for each clip, below its key."""

from __future__ import annotations

from pathlib import Path

import made_shards
import numpy as np

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
