"""What decides the bytes of a column, kept in its run.json: a folder takes only the run it belongs to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from avprep import manifest as manifests
from avprep import shards, untrusted
from avprep.errors import RunError
from avprep.manifest import Clip, Manifest

FINGERPRINT_VERSION = 1
LEAST_CLIP = len('{"key":"k","video":"v","split":"val"}')
"""Bytes that a clip takes in a manifest at least."""


class Stage(Protocol):
    """What is done to each clip. Pickled to every worker and called there once for the function that does it.

    column: the folder below OUT that the shards go to.
    """

    @property
    def column(self) -> str:
        """The column's name."""
        ...

    def resolved(self) -> dict[str, Any]:
        """Return the settings that decide the bytes."""
        ...

    def versions(self) -> dict[str, str]:
        """Return the versions that decide the bytes."""
        ...

    def seconds(self, clip: Clip) -> float | None:
        """Return how long a clip is, which decides the time that it may take; None where that is unknown."""
        ...

    def __call__(self) -> Callable[[Clip], shards.Sample]:
        """Build the function; it raises Reject to fail a clip."""
        ...


def fingerprint(stage: Stage, plan: Manifest, shard_size: int) -> dict[str, Any]:
    """Return what decides a column's bytes, as JSON gives it back."""
    ours = {
        "avprep_run": FINGERPRINT_VERSION,
        "column": stage.column,
        "manifest": plan.digest(),
        "clips": plan.counts(),
        "shard_size": shard_size,
        "settings": stage.resolved(),
        "versions": stage.versions(),
    }
    return dict(json.loads(json.dumps(ours)))


def check(stage: Stage, plan: Manifest, out: Path, shard_size: int | None, ignore: tuple[str, ...] = ()) -> int:
    """Prove that `out` is free or holds this very run; return its shard size. Nothing is written.

    ignore: parts of the fingerprint that may differ: `versions`, where another machine is to do the work.
    Raises RunError with the difference where `out` belongs to another plan or other settings.
    """
    size = _shard_size(out, shard_size)
    ours = fingerprint(stage, plan, size)
    theirs = read_fingerprint(out, stage.column)
    if theirs is not None:
        theirs |= {name: ours[name] for name in ignore}
    if theirs == ours:  # so the frozen plan, seconds of reading for a large set, is this one too
        return size
    frozen_path = out / "manifest.jsonl"
    if frozen_path.exists():
        frozen = manifests.read(frozen_path)
        if frozen.digest() != ours["manifest"]:
            raise RunError(
                f"{frozen_path}: another plan ({frozen.dataset}, {len(frozen.clips)} clips; this one: {plan.dataset}, "
                f"{len(plan.clips)} clips); use another OUT or that manifest"
            )
    if theirs is not None:
        differences = "; ".join(_differences(theirs, ours))
        path = out / stage.column / "run.json"
        raise RunError(f"{path}: made with other settings ({differences}); use another OUT or the same settings")
    return size


def read_plan(out: Path) -> Manifest:
    """Read the frozen plan of a run's folder; RunError where there is none."""
    return manifests.read(plan_path(out))


def plan_path(out: Path) -> Path:
    """Return where the frozen plan of a run's folder lies; RunError where there is none."""
    path = out / "manifest.jsonl"
    if not path.is_file():
        raise RunError(f"{out}: no run was ever started there (no manifest.jsonl)")
    return path


def clip_counts(out: Path, run: dict[str, Any]) -> dict[str, int]:
    """Return the number of clips of each split: from a column's run.json, for reading a large plan takes seconds."""
    match run.get("clips"):
        case {"train": int(train), "val": int(val), "test": int(test)}:
            total = train + val + test
            if min(train, val, test) < 0 or total * LEAST_CLIP > plan_path(out).stat().st_size:
                raise RunError(
                    f"{out}: its run.json is damaged: it speaks of {total} clips, more than its manifest has"
                )
            return {"train": train, "val": val, "test": test}
    return read_plan(out).counts()


def read_fingerprint(out: Path, column: str) -> dict[str, Any] | None:
    """Read a column's run.json; None where the column was never started; RunError where it is damaged."""
    path = out / column / "run.json"
    return _read_run(path) if path.is_file() else None


def join(stage: Stage, plan: Manifest, out: Path, shard_size: int, missing: list[Path], work: Path) -> None:
    """Enter `out`: write what is `missing` of the frozen plan and the fingerprint, by way of the folder `work`.

    Raises RunError with the difference where another run was a moment faster and differs.
    """
    try:
        for path in missing:
            if path.name == "run.json":
                text = json.dumps(fingerprint(stage, plan, shard_size), indent=2, ensure_ascii=False) + "\n"
            else:
                text = manifests.render(plan)
            if not _create(path, text, work / path.name):
                check(stage, plan, out, shard_size)
    except OSError as error:
        raise RunError(f"{out}: cannot write there ({error.strerror})") from error
    _shard_size(out, shard_size)  # the other column may have started this moment


def _shard_size(out: Path, wanted: int | None) -> int:
    """Return the shard size that every column of a folder shares."""
    for path in sorted(out.glob("*/run.json")):
        size: int = _read_run(path)["shard_size"]
        if wanted not in (None, size):
            raise RunError(f"{path}: made with --shard-size {size}; both columns need the same")
        return size
    return wanted or 500


def _create(path: Path, text: str, aside: Path) -> bool:
    """Create a file whole; of several processes that try, one wins. Return whether this one did."""
    shards.write_aside(aside, text.encode())
    try:
        path.hardlink_to(aside)
    except FileExistsError:
        return False
    except OSError:  # a file system without links, exFAT say: the last one wins, and reads what it wrote
        aside.replace(path)
    return True


def _read_run(path: Path) -> dict[str, Any]:
    """Read a run.json; RunError where it is damaged: what it holds has the kinds that `fingerprint` gives it."""
    try:
        run = untrusted.read_json(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error})") from error
    size = run.get("shard_size")
    kinds = {"column": str, "manifest": str, "settings": dict, "versions": dict}
    if (
        type(size) is not int
        or size < 1
        or not all(isinstance(run.get(name, kind()), kind) for name, kind in kinds.items())
    ):
        raise RunError(f"{path}: damaged; delete it and give the first run's options again")
    return run


def _differences(theirs: dict[str, Any], ours: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name in sorted(theirs.keys() | ours.keys()):
        there, here = theirs.get(name), ours.get(name)
        if isinstance(there, dict) and isinstance(here, dict):
            yield from _differences(there, here, f"{prefix}{name}.")
        elif there != here:
            yield f"{prefix}{name[:60]}: there {str(there)[:60]}, here {str(here)[:60]}"
