"""A shard that is being filled: samples in the manifest's order, from workers or copied from the tar it replaces."""

from __future__ import annotations

import functools
import time
from collections import Counter
from pathlib import Path
from typing import IO, Any

from avprep import schema, shards
from avprep.errors import RunError
from avprep.manifest import Clip
from avprep.runs import worker
from avprep.runs.fingerprint import ColumnStage, other_versions
from avprep.runs.workfolder import one_at_a_time


class OpenShard:
    """A shard that is being filled.

    records: the outcome of each row. failed: the reason for each row that is run again.
    begun: when this run began the shard, in monotonic seconds.
    """

    def __init__(self, stage: ColumnStage, out: Path, work: Path, name: str, clips: tuple[Clip, ...]) -> None:
        self.name, self.clips = name, clips
        self.records: dict[int, dict[str, Any]] = {}
        self.failed: dict[int, str] = {}
        self.begun = time.monotonic()
        self._stage, self._out, self._work = stage, out, work
        self._before = self._stamp()
        self._kept: dict[int, shards.Stretch] = {}  # rows whose samples are copied from the replaced tar
        self._source: IO[bytes] | None = None  # that tar
        self._versions: object = None  # the sidecar's record of other versions
        self._started, self._spent = time.time(), 0.0  # the first run's start, and the seconds it took

    def resume(self, retry: frozenset[str]) -> dict[str, Any] | None:
        """Take over the records of a finished shard, except for clips that failed for a reason to retry.

        Returns its sidecar; None if the shard is not finished.
        """
        found = shards.open_finished(self._out, self._stage.column, self.name, [clip.key for clip in self.clips])
        if found is None:
            return None
        sidecar, self._source = found
        self._versions = sidecar.get("other_versions")
        self.records = {n: clip for n, clip in enumerate(sidecar["clips"]) if clip.get("reason") not in retry}
        self.failed = {n: clip["reason"] for n, clip in enumerate(sidecar["clips"]) if n not in self.records}
        self._started = sidecar["timings"].get("started", self._started)
        self._spent = sidecar["timings"].get("wall_seconds", 0.0)
        return sidecar

    def keep_samples(self) -> None:
        """Find the samples to copy in the resumed tar; RunError if one is missing."""
        assert self._source is not None
        there = shards.stretches(self._source)
        for row, record in self.records.items():
            if record["state"] == "ok":
                if record["key"] not in there:
                    raise RunError(f"{self._source.name}: {record['key']} is missing; delete the file and run again")
                self._kept[row] = there[record["key"]]

    def stretch(self, row: int) -> str:
        """Return the path of a row's sample; a string, because a Path takes longer to pickle than a clip."""
        return f"{self._work}/{self.name}-{row}.part"

    def add(self, row: int, record: dict[str, Any]) -> bool:
        """Record the outcome of a clip; return whether the shard is complete."""
        if row in self.failed and record.get("reason") == self.failed[row]:
            record["again"] = True
        self.records[row] = {"key": self.clips[row].key, **record}
        if record["state"] != "ok":
            Path(self.stretch(row)).unlink(missing_ok=True)
        return len(self.records) == len(self.clips)

    @property
    def copies(self) -> bool:
        """Whether samples are copied from the replaced tar, which only this process has open."""
        return bool(self._kept)

    @functools.cached_property
    def parts(self) -> tuple[Path, Path, list[str | shards.Stretch]]:
        """The arguments with which `shards.string_together` makes the tar of the complete shard."""
        rows = (row for row in range(len(self.clips)) if self.records[row]["state"] == "ok")
        samples = [self._kept[row] if row in self._kept else self.stretch(row) for row in rows]
        return shards.tar_path(self._out, self._stage.column, self.name), self._work / f"{self.name}.tar.part", samples

    @property
    def written(self) -> list[str]:
        """The files written by workers, which are not needed once the tar is made."""
        return [sample for sample in self.parts[2] if isinstance(sample, str)]

    def string(self) -> tuple[str, int]:
        """Make the tar, and remove the files written by workers; return its sha256 and size in bytes."""
        made = shards.string_together(*self.parts, self._source)
        worker.remove(self.written)
        return made

    def finish(self, digest: str, size: int) -> dict[str, Any]:
        """Move the shard, whose tar is still aside, into place, unless another run finished it in the meantime.

        Returns the counts of the shard that is in place.
        """
        path, aside, _ = self.parts
        records = [self.records[row] for row in range(len(self.clips))]
        sidecar = shards.render_sidecar(self._head(records, digest, size), records)
        with one_at_a_time(self._out / self._stage.column / "run.json"):
            theirs = self._made_meanwhile()
            if theirs is None:
                shards.publish(path, aside, sidecar, self._work / f"{self.name}.json.part")
            else:
                aside.unlink()
        self.close()
        return shards.counts(records if theirs is None else theirs["clips"])

    def close(self) -> None:
        """Close the replaced tar."""
        if self._source is not None:
            self._source.close()

    def _head(self, records: list[dict[str, Any]], digest: str, size: int) -> dict[str, Any]:
        """Return the first line of the sidecar."""
        head: dict[str, Any] = {
            "avprep_sidecar": schema.SIDECAR_VERSION,
            "column": self._stage.column,
            "shard": self.name,
            "sha256": digest,
            "bytes": size,
            "counts": shards.counts(records),
            "timings": {
                "started": round(self._started, 3),
                "wall_seconds": round(self._spent + time.monotonic() - self.begun, 3),
                "clip_seconds": round(sum(record.get("seconds") or 0 for record in records), 3),
            },
        }
        if slowest := [record["seconds"] for record in records if record.get("reason") == "timeout"]:
            head["timings"]["longest_timeout"] = max(slowest)
        if again := Counter(record["reason"] for record in records if record.get("again")):
            head["again"] = dict(sorted(again.items()))
        if others := other_versions(self._stage, self._out, self._versions):
            head["other_versions"] = others
        return head

    def _made_meanwhile(self) -> dict[str, Any] | None:
        """Return the sidecar of another run that was faster; None if there is none."""
        if self._stamp() == self._before:
            return None
        return shards.finished(self._out, self._stage.column, self.name, [clip.key for clip in self.clips])

    def _stamp(self) -> tuple[int, int, int] | None:
        """Return a stamp that changes with the sidecar's content, without reading it; None if there is no sidecar."""
        try:
            found = shards.sidecar_path(self._out, self._stage.column, self.name).stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size
