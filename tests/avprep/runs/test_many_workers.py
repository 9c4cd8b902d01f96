"""How many workers one coordinating process can keep busy, by its CPU time, which a busy machine does not affect."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from avprep.manifest import Clip, Manifest
from avprep.runs import run
from avprep.shards import Sample

WORKERS = 64
CLIP = 0.028
"""Seconds that a worker takes for a clip of 29 crops where they were measured; docs/performance.md."""
MEMBERS, SIZE = 29, 200
"""Members of a sample, as crops have them; small ones, as two cores could not write what 64 workers make."""
CLIPS = 2_500


@dataclass(frozen=True)
class Asleep:
    """A stage that sleeps for the duration of a clip, and returns as many members."""

    column = "crop"

    def resolved(self) -> dict[str, Any]:
        """Return no settings."""
        return {}

    def versions(self) -> dict[str, str]:
        """Return no versions."""
        return {}

    def seconds(self, _: Clip) -> float | None:
        """Return None, as its length is unknown."""
        return None

    def __call__(self) -> Callable[[Clip], Sample]:
        """Return the function."""
        return asleep


def asleep(_: Clip) -> Sample:
    """Sleep, and return a sample."""
    time.sleep(CLIP)
    return Sample([(f"{n:03d}.jpg", bytes(SIZE)) for n in range(MEMBERS)], MEMBERS, {"face_size": 100.0, "score": 0.9})


@pytest.mark.slow  # 64 processes begin
def test_sixty_four_workers_are_kept_busy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With 64 busy workers the coordinating process leaves most of its core idle.

    Each worker already has its next clip, so it waits only if that process cannot keep up.
    """
    clips = tuple(Clip(f"W/train/W_{n:05d}", f"W/train/W_{n:05d}.mp4", "train", word="W") for n in range(CLIPS))
    cpu = time.process_time()
    outcome = run.run(Asleep(), Manifest("lrw", tmp_path, clips, 0), tmp_path / "out", jobs=WORKERS, verbosity=-1)
    spent = (time.process_time() - cpu) / CLIPS
    busy = spent * WORKERS / CLIP
    with capsys.disabled():
        seconds = f"{outcome.seconds:.1f} s for {CLIPS} clips, at best {CLIPS * CLIP / WORKERS:.1f}"
        print(f"\n{spent * 1e3:.3f} ms a clip, {busy:.0%} of a core; {seconds}")
    assert outcome.ok == CLIPS
    assert busy < 0.9
