"""A shard of a column by key: its records, its members, and its faults."""

from __future__ import annotations

import os
from pathlib import Path

import made_shards
import pytest

from avprep import schema, shards
from avprep.errors import ShardError


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips, one of which failed in crop; read-only."""
    folder = tmp_path_factory.mktemp("column")
    made_shards.write(folder, [made_shards.Made("a"), made_shards.Made("b", crop="no_face")])
    return folder


def test_a_shard_by_key(out: Path) -> None:
    """Records are found by key; members are read separately or at once, all or the requested ones."""
    found = shards.ColumnShard.read(out, "crop", "train-000000")
    assert found is not None
    assert [clip["key"] for clip in found.clips] == ["a", "b"]
    record, failed = found.record("a"), found.record("b")
    assert record is not None
    assert failed is not None
    assert (record["state"], failed["reason"], found.record("c")) == ("ok", "no_face", None)
    whole = found.members("a")
    assert schema.check_sample("crop", "a", whole)["n_frames"] == record["n_frames"]
    assert found.members("a", {"clip.json"}) == {"clip.json": whole["clip.json"]}
    assert found.members_at_once("a") == whole
    assert list(found.places) == ["a"]
    shards.close_tars()


def test_no_shard(out: Path, tmp_path: Path) -> None:
    """An unfinished shard is None; a member that a sample lacks is an error that names tar and clip."""
    assert shards.ColumnShard.read(tmp_path, "crop", "train-000000") is None
    found = shards.ColumnShard.read(out, "crop", "train-000000")
    assert found is not None
    with pytest.raises(ShardError, match=r"crop/train-000000\.tar: a: has no mfcc\.npy"):
        found.members("a", {"mfcc.npy"})


def test_a_system_that_hands_over_less(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample is read whole even if a call returns only a part, as Linux does above 2 GiB."""
    found = shards.ColumnShard.read(out, "crop", "train-000000")
    assert found is not None
    whole, pread = found.members("a"), os.pread
    monkeypatch.setattr(os, "pread", lambda file, length, offset: pread(file, min(length, 5000), offset))
    assert found.members("a") == whole
    assert found.members_at_once("a") == whole
    shards.close_tars()
