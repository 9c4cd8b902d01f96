"""The pipelines that `crop` and `mfcc` are measured against do their work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("AVPREP_SHARED", HERE.parents[2] / "shared"))
CLIPS, WEIGHTS = SHARED / "clips" / "grid" / "s26", SHARED / "weights"


@pytest.mark.slow
@pytest.mark.skipif(not (CLIPS.is_dir() and WEIGHTS.is_dir()), reason="needs GRID's sentences and YuNet's weights")
def test_both_are_measured() -> None:
    """A line for each pipeline, and ours is the quickest."""
    line = [sys.executable, str(HERE / "side_by_side.py"), str(CLIPS), "--limit", "1", "--repeat", "1"]
    found = subprocess.run(
        line, check=True, capture_output=True, text=True, env={**os.environ, "AVPREP_WEIGHTS": str(WEIGHTS)}
    ).stdout.splitlines()
    ours, script = (row.split() for row in found)
    assert (ours[0], script[0]) == ("ours", "script")
    assert float(script[1]) > float(ours[1]) > 0
