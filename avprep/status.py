"""What a run's folder holds: a quick count from the sidecars, and a proof that reads everything again."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import joblib

from avprep import schema, shards
from avprep.errors import REASONS, ShardError
from avprep.fingerprint import read_fingerprint, read_plan
from avprep.manifest import SPLITS, Manifest
from avprep.stages import decode_image


@dataclass
class SplitStatus:
    """Clips of one split in one column; `missing` ones are in shards that are not finished."""

    ok: int = 0
    failed: int = 0
    missing: int = 0
    frames: int = 0
    shards: int = 0
    shards_done: int = 0


@dataclass
class ColumnStatus:
    """One column of a run's folder.

    clip_seconds: work done so far, in seconds of one worker; eta_seconds: the same for what is missing, at that rate,
    None where nothing is done yet.
    unfinished: shard names that are still to be made.
    """

    column: str
    splits: dict[str, SplitStatus] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    clip_seconds: float = 0.0
    eta_seconds: float | None = None
    unfinished: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)


def status(out: Path) -> list[ColumnStatus]:
    """Count what is done, from the first line of every sidecar and the size of its tar; digests are left to `verify`.

    Raises RunError where `out` holds no run.
    """
    plan = read_plan(out)
    columns = []
    for column in schema.COLUMNS:
        run = read_fingerprint(out, column)
        if run is not None:
            columns.append(_column_status(out, column, plan, run["shard_size"]))
    return columns


def verify(out: Path, jobs: int = 1) -> list[str]:
    """Read every shard again; prove that each clip of the plan has one state and each sample keeps the contract.

    Returns the problems, one line each; none means proven: digests agree, keys and their order are the plan's, every
    `ok` clip has one well-formed sample, every image decodes to 256×256, both columns agree on the number of frames.
    """
    plan = read_plan(out)
    digest = plan.digest()
    problems: list[str] = []
    lengths: dict[str, dict[str, int]] = {}
    for column in schema.COLUMNS:
        run = read_fingerprint(out, column)
        if run is None:
            continue
        if run.get("manifest") != digest:
            problems.append(f"{out / column / 'run.json'}: made from another manifest")
        planned = [(name, [clip.key for clip in clips]) for name, clips in plan.shards(run["shard_size"])]
        names = {name for name, _ in planned}
        problems += [
            f"{path}: not a shard of the plan"
            for path in sorted((out / column).glob("*"))
            if path.suffix in (".tar", ".json") and path.stem not in names and path.name != "run.json"
        ]
        results = joblib.Parallel(n_jobs=jobs)(
            joblib.delayed(_verify_shard)(out, column, name, keys) for name, keys in planned
        )
        lengths[column] = {}
        for found, frames in results:
            problems += found
            lengths[column].update(frames)
    if not lengths:
        problems.append(f"{out}: no column was started")
    for key in lengths.get("crop", {}).keys() & lengths.get("mfcc", {}).keys():
        crop, mfcc = lengths["crop"][key], lengths["mfcc"][key]
        if crop != mfcc:
            problems.append(f"{key}: crop has {crop} frames, mfcc {mfcc}")
    return problems


def _column_status(out: Path, column: str, plan: Manifest, shard_size: int) -> ColumnStatus:
    result = ColumnStatus(column)
    reasons: Counter[str] = Counter()
    for name, clips in plan.shards(shard_size):
        split = result.splits.setdefault(name.rpartition("-")[0], SplitStatus())
        split.shards += 1
        head = _finished_head(out, column, name)
        if head is None:
            split.missing += len(clips)
            result.unfinished.append(name)
            continue
        split.shards_done += 1
        split.ok += head["counts"]["ok"]
        split.failed += head["counts"]["failed"]
        split.frames += head["counts"]["frames"]
        reasons.update(head["counts"]["reasons"])
        result.clip_seconds += head["timings"]["clip_seconds"]
    result.splits = {split: result.splits[split] for split in SPLITS if split in result.splits}
    result.reasons = dict(sorted(reasons.items()))
    done = sum(split.ok + split.failed for split in result.splits.values())
    missing = sum(split.missing for split in result.splits.values())
    result.eta_seconds = result.clip_seconds / done * missing if done else None
    return result


def _finished_head(out: Path, column: str, shard: str) -> dict[str, Any] | None:
    try:
        head = shards.read_sidecar_head(out, column, shard)
        if head is None or shards.tar_path(out, column, shard).stat().st_size != head["bytes"]:
            return None
    except (ShardError, OSError):
        return None  # counted as missing; the run makes it again, `verify` says what is wrong
    return head


def _verify_shard(out: Path, column: str, name: str, keys: list[str]) -> tuple[list[str], dict[str, int]]:
    """Return the problems of one shard and the number of frames of its samples."""
    path = shards.tar_path(out, column, name)
    try:
        sidecar = shards.read_sidecar(out, column, name)
    except ShardError as error:
        return [str(error)], {}
    if sidecar is None:
        return [f"{path}: not finished, {len(keys)} clips are missing"], {}
    where = shards.sidecar_path(out, column, name)
    clips = sidecar["clips"]
    expected = {clip["key"]: clip["n_frames"] for clip in clips if clip["state"] == "ok"}
    problems: list[str] = []
    frames: dict[str, int] = {}
    if (sidecar["column"], sidecar["shard"]) != (column, name):
        problems.append(f"{where}: is the sidecar of {sidecar['column']}/{sidecar['shard']}")
    if [clip["key"] for clip in clips] != keys:
        problems.append(f"{where}: its clips are not those of the plan")
    if sidecar["counts"] != shards.counts(clips):
        problems.append(f"{where}: its counts are not those of its clips")
    if strange := [clip["reason"] for clip in clips if clip["state"] == "failed" and clip["reason"] not in REASONS]:
        problems.append(f"{where}: unknown reason {strange[0]}")
    try:
        if shards.sha256(path) != sidecar["sha256"]:
            problems.append(f"{path}: the digest is not the sidecar's; delete both files and run again")
        for key, members in shards.read(path):
            metadata = schema.check_sample(column, key, members)
            frames[key] = metadata["n_frames"]
            if expected.get(key) != frames[key]:
                problems.append(f"{path}: {key} has {frames[key]} frames, the sidecar says {expected.get(key)}")
            problems += [f"{path}: {key}.{bad} is not a 256×256 image" for bad in _bad_images(members)]
        if list(frames) != list(expected):
            problems.append(f"{path}: holds {len(frames)} samples, the sidecar has {len(expected)} ok clips")
    except ShardError as error:
        problems.append(str(error) if str(path) in str(error) else f"{path}: {error}")
    except OSError as error:
        problems.append(f"{path}: cannot be read ({error.strerror})")
    return problems, frames


def _bad_images(members: dict[str, bytes]) -> list[str]:
    shape = (schema.CROP_SIZE, schema.CROP_SIZE, 3)
    bad = []
    for member, data in members.items():
        if member.endswith(schema.IMAGE_FORMATS):
            image = decode_image(data)
            if image is None or image.shape != shape:
                bad.append(member)
    return bad
