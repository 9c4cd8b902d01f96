"""Verification that a run's folder holds what its manifest asks for: everything is read again."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from avprep import files, schema, shards
from avprep.errors import REASONS, RunError, ShardError, plural
from avprep.runs.fingerprint import read_manifest
from avprep.runs.pool import Pool, PoolError
from avprep.runs.progress import counted
from avprep.runs.worker import DEAF_TO
from avprep.shards.image import decode_image

Verified = tuple[list[str], dict[str, int]]
"""Problems of a shard, one line each, and the number of frames of each sample, by its key."""
_QUEUED_PER_WORKER = 4
"""Shards queued per process: a queue of all shards would hold the pickled keys of the whole data set in memory."""


def verify(out: Path, jobs: int = 1, *, quiet: bool = True) -> list[str]:
    """Read every shard again; verify that each clip of the manifest has one state and each sample meets the contract.

    Returns the problems, one line each; none means verified: digests agree, keys and their order are the manifest's,
    every `ok` clip has one well-formed sample, every image decodes to 256×256, columns agree on the number of frames.
    jobs: number of processes that read. quiet: do not show progress.
    Raises RunError if there is no OUT, or no process can be started.
    """
    plan = read_manifest(out)
    digest = plan.digest()
    problems: list[str] = []
    lengths: dict[str, dict[str, int]] = {}
    lies_in: dict[str, dict[str, str]] = {}  # column -> key -> shard
    for column in schema.ALL_COLUMNS:
        run = shards.read_run(out, column)
        if run is None:
            if any((out / column).glob("*.tar")):
                problems.append(f"{out / column}: holds shards, but no run.json; give the first run's command again")
            continue
        if run.get("manifest") != digest:
            problems.append(f"{out / column / 'run.json'}: made from another manifest")
        if run.get("clips") != plan.counts():
            problems.append(f"{out / column / 'run.json'}: its numbers of clips are not the manifest's")
        planned = [(name, [clip.key for clip in clips]) for name, clips in plan.shards(run["shard_size"])]
        names = {name for name, _ in planned}
        lies_in[column] = {key: name for name, keys in planned for key in keys}
        problems += [
            f"{path}: not a shard of the manifest"
            for path in sorted((out / column).glob("*"))
            if path.suffix in (".tar", ".json") and path.stem not in names and path.name != "run.json"
        ]
        results = _verify_shards(out, column, planned, jobs)
        lengths[column] = {}
        for found, frames in counted(results, f"avprep verify {column}", len(planned), "shard", quiet=quiet):
            problems += found
            lengths[column].update(frames)
    if not lengths and not problems:
        problems.append(f"{out}: no column was started")
    for column in schema.ALL_COLUMNS[1:]:
        for key in sorted(lengths.get("crop", {}).keys() & lengths.get(column, {}).keys()):
            here, there = lengths["crop"][key], lengths[column][key]
            if here != there:
                tars = (shards.tar_path(out, name, lies_in[name][key]) for name in ("crop", column))
                both = " and ".join(f"{tar.with_suffix('')}.{{tar,json}}" for tar in tars)
                remedy = f"delete {both}, and make them anew by the commands that `avprep status {out}` then prints"
                problems.append(f"{key}: crop has {here} frames, {column} {there}: {remedy}")
    return problems


def _verify_shards(out: Path, column: str, planned: list[tuple[str, list[str]]], jobs: int) -> Iterator[Verified]:
    """Yield the result of `_verify_shard` for each shard, in order; `jobs` processes read several at once."""
    if min(jobs, len(planned)) <= 1:
        yield from (_verify_shard(out, column, name, keys) for name, keys in planned)
        return
    early: dict[int, Verified] = {}
    to_come = iter(enumerate(planned))
    with Pool(min(jobs, len(planned)), deaf=DEAF_TO) as pool:

        def hand_over(count: int) -> None:
            for number, (name, keys) in islice(to_come, count):
                pool.submit(number, _verify_shard, out, column, name, keys)

        hand_over(_QUEUED_PER_WORKER * jobs)
        number = 0
        try:
            for ended in pool.all():
                hand_over(1)
                path = shards.tar_path(out, column, planned[ended.tag][0])
                early[ended.tag] = ended.value or ([f"{path}: the process that read it died ({ended.error})"], {})
                while number in early:
                    yield early.pop(number)
                    number += 1
        except PoolError as error:
            raise RunError(f"{error}; try a smaller -j") from error


def _verify_shard(out: Path, column: str, name: str, keys: list[str]) -> Verified:
    """Return the problems of one shard and the number of frames of its samples."""
    path = shards.tar_path(out, column, name)
    try:
        sidecar = shards.read_sidecar(out, column, name)
    except ShardError as error:
        return [str(error)], {}
    if sidecar is None:
        return [f"{path}: not finished, {plural(len(keys), 'clip')} missing"], {}
    where = shards.sidecar_path(out, column, name)
    clips = sidecar["clips"]
    records = {clip["key"]: clip for clip in clips}
    expected = {clip["key"]: clip["n_frames"] for clip in clips if clip["state"] == "ok"}
    problems: list[str] = []
    frames: dict[str, int] = {}
    if not _starts_with_its_head(out, column, name, sidecar):
        problems.append(f"{where}: its first line does not hold all but its clips; delete both files and run again")
    if (sidecar["column"], sidecar["shard"]) != (column, name):
        problems.append(f"{where}: is the sidecar of {sidecar['column']}/{sidecar['shard']}")
    if [clip["key"] for clip in clips] != keys:
        problems.append(f"{where}: its clips are not those of the manifest")
    if sidecar["counts"] != shards.counts(clips):
        problems.append(f"{where}: its counts are not those of its clips")
    if strange := [clip["reason"] for clip in clips if clip["state"] == "failed" and clip["reason"] not in REASONS]:
        problems.append(f"{where}: unknown reason {strange[0]}")
    try:
        # A separate pass: it also finds faults in a tar that cannot be read to its end.
        if files.sha256(path) != sidecar["sha256"]:
            problems.append(f"{path}: the digest is not the sidecar's; delete both files and run again")
        lies: dict[str, shards.Stretch] = {}
        for key, place, members in shards.read_placed(path):
            lies[key] = place
            metadata = schema.check_sample(column, key, members)
            frames[key] = metadata["n_frames"]
            if expected.get(key) != frames[key]:
                problems.append(f"{path}: {key} has {frames[key]} frames, the sidecar says {expected.get(key)}")
            problems += [f"{path}: {key}.{bad} is not a 256×256 image" for bad in _bad_images(members)]
            problems += [
                f"{where}: {key}: {name} is not the sample's" for name in _untrue(records.get(key, {}), metadata)
            ]
        if list(frames) != list(expected):
            problems.append(f"{path}: holds {len(frames)} samples, the sidecar has {len(expected)} ok clips")
        told = shards.places(where, clips)
        problems += [f"{path}: {key} does not lie where the sidecar says" for key in told if lies.get(key) != told[key]]
    except ShardError as error:
        problems.append(str(error) if str(path) in str(error) else f"{path}: {error}")
    except OSError as error:
        problems.append(f"{path}: cannot be read ({error.strerror})")
    except Exception as error:  # one shard, whatever it holds, must not prevent the reading of the others
        problems.append(f"{path}: cannot be verified ({type(error).__name__}: {str(error)[:200]})")
    return problems, frames


def _starts_with_its_head(out: Path, column: str, name: str, sidecar: dict[str, Any]) -> bool:
    """Return whether the first line of a sidecar holds everything but its clips: summaries read only this line."""
    try:
        head = shards.read_sidecar_head(out, column, name)
    except ShardError:
        return False
    return head == {name: value for name, value in sidecar.items() if name != "clips"}


def _untrue(record: dict[str, Any], metadata: dict[str, Any]) -> list[str]:
    """Return the names of a clip's figures that its sample contradicts; `select` and `report` use the sidecar's."""
    both = record.keys() & metadata.keys() - {"n_frames", "seconds"}  # a sidecar's seconds are processing time
    return sorted(name for name in both if record[name] != metadata[name])


def _bad_images(members: dict[str, bytes]) -> list[str]:
    images = ((member, data) for member, data in members.items() if member.endswith(schema.IMAGE_FORMATS))
    return [member for member, data in images if decode_image(data) is None]
