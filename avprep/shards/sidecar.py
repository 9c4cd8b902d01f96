"""Sidecars: the JSON file of each shard that accounts for every clip, and the definition of a finished shard."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from avprep import files, schema, untrusted
from avprep.errors import RunError, ShardError, explained


def tar_path(out: Path, column: str, shard: str) -> Path:
    """Return the path of a shard's tar."""
    return out / column / f"{shard}.tar"


def sidecar_path(out: Path, column: str, shard: str) -> Path:
    """Return the path of a shard's sidecar."""
    return out / column / f"{shard}.json"


def read_sidecar(out: Path, column: str, shard: str) -> dict[str, Any] | None:
    """Read a shard's sidecar; None if there is none; ShardError if it is damaged."""
    path = sidecar_path(out, column, shard)
    sidecar = _read_head(path, whole=True)
    if sidecar is None:
        return None
    clips = sidecar.get("clips")
    if not isinstance(clips, list):
        raise ShardError(f"{path}: damaged, its clips are missing")
    for n, clip in enumerate(clips):
        match clip:
            case {"key": str(), "state": "ok", "n_frames": int()}:
                pass
            case {"key": str(), "state": "failed", "reason": str(), "message": str()}:
                pass
            case _:
                raise ShardError(f"{path}: damaged, clip {n} is neither ok nor failed")
    return sidecar


def read_sidecar_head(out: Path, column: str, shard: str) -> dict[str, Any] | None:
    """Read all of a sidecar except its clips; None if there is none; ShardError if it is damaged."""
    return _read_head(sidecar_path(out, column, shard), whole=False)


def _read_head(path: Path, *, whole: bool) -> dict[str, Any] | None:
    try:
        head = untrusted.read_json(path) if whole else untrusted.parse_json(_first_line(path).rstrip(b",\r\n") + b"}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ShardError(f"{path}: cannot read the sidecar ({explained(error)})") from error
    match head:
        case {
            "avprep_sidecar": version,
            "column": str(),
            "shard": str(),
            "sha256": str(),
            "bytes": int(),
            "counts": {"clips": int(), "ok": int(), "failed": int(), "frames": int(), "reasons": dict(reasons)},
            "timings": {"clip_seconds": int() | float()},
        } if (
            version == schema.SIDECAR_VERSION
            and all(isinstance(count, int) for count in (*reasons.values(), head["counts"].get("silent", 0)))
            and all(isinstance(seconds, int | float) and math.isfinite(seconds) for seconds in head["timings"].values())
        ):
            return dict(head)
        case {"avprep_sidecar": version} if version != schema.SIDECAR_VERSION:
            raise ShardError(f"{path}: not a sidecar that this avprep reads, but of version {repr(version)[:40]}")
    raise ShardError(f"{path}: not a sidecar that this avprep reads")


def _first_line(path: Path) -> bytes:
    with files.open_file(path) as file:
        return file.readline(untrusted.MAX_LINE)


def counts(clips: list[dict[str, Any]]) -> dict[str, Any]:
    """Count the clips of a sidecar by outcome; `silent`, ok clips that hold only silence, is present only if not 0."""
    reasons = Counter(clip["reason"] for clip in clips if clip["state"] == "failed")
    silent = sum(clip["state"] == "ok" and clip.get("silent") is True for clip in clips)
    return {
        "clips": len(clips),
        "ok": len(clips) - reasons.total(),
        "failed": reasons.total(),
        "frames": sum(clip["n_frames"] for clip in clips if clip["state"] == "ok"),
        "reasons": dict(sorted(reasons.items())),
        **({"silent": silent} if silent else {}),
    }


def render_sidecar(head: dict[str, Any], clips: list[dict[str, Any]]) -> bytes:
    """Return the bytes of a sidecar: valid JSON, its head on the first line and then one clip per line.

    So a summary of ten thousand shards reads only ten thousand first lines, and `grep` finds a clip.
    """
    first = json.dumps(head, ensure_ascii=False)[:-1]
    lines = ",\n".join(json.dumps(clip, ensure_ascii=False) for clip in clips)
    return f'{first},\n"clips": [\n{lines}\n]}}\n'.encode("utf-8", "backslashreplace")  # for names that are not UTF-8


def finished(out: Path, column: str, shard: str, keys: Iterable[str]) -> dict[str, Any] | None:
    """Return the sidecar of a finished shard: tar and sidecar are there, digest and keys are correct.

    None for any other shard: whatever is wrong with it, it is made again.
    """
    found = open_finished(out, column, shard, keys)
    if found is None:
        return None
    sidecar, file = found
    file.close()
    return sidecar


def finished_head(out: Path, column: str, shard: str) -> dict[str, Any] | None:
    """Return the first line of a shard's sidecar if its tar is there and has the recorded size; else None.

    This is a fast check, not a proof: a run checks the digest, and `verify` reports what is wrong.
    """
    with contextlib.suppress(ShardError, OSError):
        head = read_sidecar_head(out, column, shard)
        if head is not None and tar_path(out, column, shard).stat().st_size == head["bytes"]:
            return head
    return None


def open_finished(out: Path, column: str, shard: str, keys: Iterable[str]) -> tuple[dict[str, Any], IO[bytes]] | None:
    """Return the result of `finished` and the open tar, which another one may replace at any time.

    Raises RunError if this process has too many open files to check.
    """
    try:
        with contextlib.ExitStack() as on_return:
            sidecar = read_sidecar(out, column, shard)
            if sidecar is None or [clip["key"] for clip in sidecar["clips"]] != list(keys):
                return None
            file = on_return.enter_context(files.open_file(tar_path(out, column, shard)))
            if hashlib.file_digest(file, "sha256").hexdigest() == sidecar["sha256"]:
                on_return.pop_all()
                return sidecar, file
    except (ShardError, OSError) as error:
        why = error if isinstance(error, OSError) else error.__cause__
        if isinstance(why, OSError) and why.errno in (errno.EMFILE, errno.ENFILE):
            path = tar_path(out, column, shard)
            raise RunError(f"{path}: cannot be opened ({why.strerror}); try a smaller -j, or `ulimit -n`") from error
    return None
