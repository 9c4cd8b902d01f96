"""Shards on disk: reproducible tar files, their sidecars, and one reader that joins columns by key."""

from __future__ import annotations

from avprep.shards.reader import MAX_SAMPLE, read, read_joined, stretches
from avprep.shards.sample import Sample, Stretch
from avprep.shards.sidecar import (
    counts,
    finished,
    finished_head,
    open_finished,
    read_sidecar,
    read_sidecar_head,
    render_sidecar,
    sidecar_path,
    tar_path,
)
from avprep.shards.writer import ShardWriter, write_members

__all__ = [
    "MAX_SAMPLE",
    "Sample",
    "ShardWriter",
    "Stretch",
    "counts",
    "finished",
    "finished_head",
    "open_finished",
    "read",
    "read_joined",
    "read_sidecar",
    "read_sidecar_head",
    "render_sidecar",
    "sidecar_path",
    "stretches",
    "tar_path",
    "write_members",
]
