"""Shards on disk: reproducible tar files, their sidecars, and one reader that joins columns by key."""

from __future__ import annotations

from avprep.shards.column import ColumnShard
from avprep.shards.reader import (
    close_tars,
    places,
    read,
    read_at,
    read_facts,
    read_joined,
    read_placed,
    read_sample,
    stretches,
)
from avprep.shards.run_json import read_run
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
from avprep.shards.writer import ShardWriter, publish, string_together, write_members

__all__ = [
    "ColumnShard",
    "Sample",
    "ShardWriter",
    "Stretch",
    "close_tars",
    "counts",
    "finished",
    "finished_head",
    "open_finished",
    "places",
    "publish",
    "read",
    "read_at",
    "read_facts",
    "read_joined",
    "read_placed",
    "read_run",
    "read_sample",
    "read_sidecar",
    "read_sidecar_head",
    "render_sidecar",
    "sidecar_path",
    "stretches",
    "string_together",
    "tar_path",
    "write_members",
]
