"""A shard of one column: the sidecar's record of each clip, and the samples by key."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from avprep.errors import RunError
from avprep.shards.reader import places, read_at, read_sample
from avprep.shards.sample import Stretch
from avprep.shards.sidecar import read_sidecar, sidecar_path, tar_path


class ColumnShard:
    """A finished shard of a column. path: its tar. sidecar: as returned by `read_sidecar`."""

    def __init__(self, path: Path, sidecar: dict[str, Any]) -> None:
        self.path, self.sidecar = path, sidecar

    @classmethod
    def read(cls, out: Path, column: str, shard: str) -> ColumnShard | None:
        """Read a shard's sidecar; None if the shard is not finished, ShardError if the sidecar is damaged."""
        sidecar = read_sidecar(out, column, shard)
        return None if sidecar is None else cls(tar_path(out, column, shard), sidecar)

    @classmethod
    def finished(cls, out: Path, column: str, shard: str) -> ColumnShard:
        """Read a shard, cached while its sidecar stays the same; RunError if it is not finished, errors of `read`."""
        path = sidecar_path(out, column, shard)
        found = path.stat() if path.exists() else None
        return cls._cached(out, column, shard, found and (found.st_ino, found.st_mtime_ns, found.st_size))

    @classmethod
    @lru_cache(8)
    def _cached(cls, out: Path, column: str, shard: str, stamp: tuple[int, int, int] | None) -> ColumnShard:
        """Read a shard; stamp: changes with its sidecar."""
        found = cls.read(out, column, shard)
        if found is None:
            path = sidecar_path(out, column, shard)
            raise RunError(f"{path}: is not there: run `avprep {column}` first (see `avprep status {out}`)")
        return found

    @property
    def clips(self) -> list[dict[str, Any]]:
        """The record of each clip, in the manifest's order."""
        clips: list[dict[str, Any]] = self.sidecar["clips"]
        return clips

    def record(self, key: str) -> dict[str, Any] | None:
        """Return the record of a clip; None if the shard has no such clip."""
        return self._records.get(key)

    @cached_property
    def places(self) -> dict[str, Stretch]:
        """The position in the tar of each clip that is ok; ShardError if the sidecar does not give it."""
        return places(self.path.with_suffix(".json"), self.clips)

    def members(self, key: str, wanted: Collection[str] | None = None) -> dict[str, bytes]:
        """Return all members, or the wanted ones, of a clip that is ok; errors as in `read_sample`."""
        return read_sample(self.path, key, self.places[key], wanted)

    def members_at_once(self, key: str) -> dict[str, memoryview]:
        """Return all members of a clip that is ok, from a tar that stays open; errors as in `read_at`."""
        return read_at(self.path, key, self.places[key])

    @cached_property
    def _records(self) -> dict[str, dict[str, Any]]:
        return {clip["key"]: clip for clip in self.clips}
