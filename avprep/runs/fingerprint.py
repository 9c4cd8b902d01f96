"""The fingerprint of a column: what decides its bytes, kept in run.json. A folder accepts only its own run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from avprep import files, schema, shards
from avprep import manifest as manifests
from avprep.errors import RunError
from avprep.manifest import Clip, Manifest
from avprep.runs.workfolder import one_at_a_time

FINGERPRINT_VERSION = 1
MIN_CLIP = len('{"key":"k","video":"v","split":"val"}')
"""Minimum size of a clip in a manifest (bytes)."""


class ColumnStage(Protocol):
    """The processing of each clip. It is pickled to every worker and called there once to build the worker's function.

    column: the folder below OUT for the shards.
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
        """Return the length of a clip, which decides its time-out; None if unknown."""
        ...

    def __call__(self) -> Callable[..., shards.Sample]:
        """Build the function of a clip (and its shard, for a `Derived` stage); it raises Reject to fail a clip."""
        ...


@runtime_checkable
class Demanding(Protocol):
    """A stage that needs something on the machine besides the clips, for example weights."""

    def require(self) -> None:
        """Raise AvprepError, one line, if it is missing."""
        ...


@runtime_checkable
class Derived(Protocol):
    """A stage that reads other columns: its function also takes the name of the clip's shard."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of these columns."""
        ...


def fingerprint(stage: ColumnStage, manifest: Manifest, shard_size: int) -> dict[str, Any]:
    """Return what decides a column's bytes, as it is after a round trip through JSON."""
    ours = {
        "avprep_run": FINGERPRINT_VERSION,
        "column": stage.column,
        "manifest": manifest.digest(),
        "clips": manifest.counts(),
        "shard_size": shard_size,
        "settings": stage.resolved(),
        "versions": stage.versions(),
    }
    return dict(json.loads(json.dumps(ours)))


def check(
    stage: ColumnStage,
    manifest: Manifest,
    out: Path,
    shard_size: int | None,
    ignore: tuple[str, ...] = (),
    *,
    accept_versions: bool = False,
    anew: bool = False,
) -> int:
    """Check that `out` is free or holds this same run, and that the stage has what it needs; return the shard size.

    Nothing is written, so a first attempt that fails here leaves `out` as it was.
    ignore: parts of the fingerprint that may differ: `versions`, if another machine will do the work.
    accept_versions: whether library versions may differ; weights and everything else must be the same.
    anew: the existing column is going to be set aside, and is not compared.
    Raises RunError with the difference if `out` belongs to another manifest or other settings.
    """
    if isinstance(stage, Demanding):
        stage.require()
    size = _shard_size(out, shard_size, stage.column)
    ours = fingerprint(stage, manifest, size)
    theirs = None if anew else shards.read_run(out, stage.column)
    if theirs is not None:
        theirs |= {name: ours[name] for name in ignore}
        if accept_versions:
            theirs = _with_our_libraries(theirs, ours)
    if theirs == ours:  # so the frozen manifest is the same too; reading a large one takes seconds
        return size
    frozen_path = out / "manifest.jsonl"
    if frozen_path.exists():
        frozen = manifests.read(frozen_path)
        if frozen.digest() != ours["manifest"]:
            raise RunError(
                f"{frozen_path}: another manifest ({manifests.in_words(frozen)}; this one: "
                f"{manifests.in_words(manifest, frozen)}); use another OUT or that manifest"
            )
    if theirs is not None:
        differences = "; ".join(_differences(theirs, ours))
        path = out / stage.column / "run.json"
        if _with_our_libraries(theirs, ours) == ours:
            raise RunError(
                f"{path}: made with other versions ({differences}); go on with those, or with --accept-versions, which "
                "records the others"
            )
        raise RunError(f"{path}: made with other settings ({differences}); use another OUT or the same settings")
    return size


def other_versions(stage: ColumnStage, out: Path, before: object = None) -> list[dict[str, str]]:
    """Return the sets of versions, other than that of run.json, that a shard made now records, oldest first.

    before: those it recorded until now. Empty if everything was made with the versions of run.json.
    """
    others = [one for one in before if isinstance(one, dict)] if isinstance(before, list) else []
    run = shards.read_run(out, stage.column)
    ours = stage.versions()
    return others if run is None or run.get("versions") == ours or ours in others else [*others, ours]


def read_manifest(out: Path) -> Manifest:
    """Read the frozen manifest of a run's folder; RunError if there is none."""
    return manifests.read(manifest_path(out))


def manifest_path(out: Path) -> Path:
    """Return the path of the frozen manifest of a run's folder; RunError if there is none."""
    path = out / "manifest.jsonl"
    if not path.is_file():
        raise RunError(f"{out}: no run was ever started there (no manifest.jsonl)")
    return path


def clip_counts(out: Path, run: dict[str, Any]) -> dict[str, int]:
    """Return the number of clips of each split, from a column's run.json: large manifests take seconds to read."""
    match run.get("clips"):
        case {"train": int(train), "val": int(val), "test": int(test)}:
            total = train + val + test
            if min(train, val, test) < 0 or total * MIN_CLIP > manifest_path(out).stat().st_size:
                raise RunError(
                    f"{out}: its run.json is damaged: it speaks of {total} clips, more than its manifest has"
                )
            return {"train": train, "val": val, "test": test}
    raise RunError(f"{out}: its run.json is damaged: it does not hold the number of clips of each split")


def started(out: Path, column: str) -> dict[str, Any]:
    """Read the run.json of a column that must have been started; RunError if it was not, or if it is damaged."""
    run = shards.read_run(out, column)
    if run is None:
        raise RunError(f"{out}: its column {column} was never started: run `avprep {column}`")
    return run


def shard_names(out: Path, run: dict[str, Any], split: str | None) -> list[str]:
    """Return the names of a column's shards, or those of a split, from its run.json; RunError if that is damaged."""
    names = (name for name, _ in manifests.shard_lengths(clip_counts(out, run), run["shard_size"]))
    return [name for name in names if split in (None, name.partition("-")[0])]


def join(
    stage: ColumnStage,
    manifest: Manifest,
    out: Path,
    shard_size: int,
    missing: list[Path],
    work: Path,
    *,
    accept_versions: bool = False,
) -> None:
    """Join the run in `out`: write the `missing` ones of the frozen manifest and the fingerprint, by way of `work`.

    Raises RunError with the difference if another run was a moment faster and differs.
    """
    try:
        for path in missing:
            if path.name == "manifest.jsonl":
                created = _create(path, manifests.render(manifest), work / path.name)
            else:
                text = json.dumps(fingerprint(stage, manifest, shard_size), indent=2, ensure_ascii=False) + "\n"
                with one_at_a_time(out / "manifest.jsonl"):  # another column may start at the same moment
                    _shard_size(out, shard_size, stage.column)
                    created = _create(path, text, work / path.name)
            if not created:
                check(stage, manifest, out, shard_size, accept_versions=accept_versions)
    except OSError as error:
        raise RunError(f"{out}: cannot write there ({error.strerror})") from error
    _shard_size(out, shard_size, stage.column)  # again, in case there are no locks


def _shard_size(out: Path, wanted: int | None, own: str) -> int:
    """Return the shard size common to all columns of a folder; own: the calling column."""
    size = wanted
    for column in sorted({*schema.ALL_COLUMNS, own}):  # other folders may hold training runs
        run = shards.read_run(out, column)
        if run is None:
            continue
        theirs: int = run["shard_size"]
        if size not in (None, theirs):
            path = out / column / "run.json"
            raise RunError(f"{path}: made with --shard-size {theirs}; both columns need the same")
        size = theirs
    return size or 500


def _create(path: Path, text: str, aside: Path) -> bool:
    return files.create(path, text.encode(), aside=aside)


def _with_our_libraries(theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """Return their fingerprint with our library versions in place of theirs.

    The digests of weights and the device, which are listed among the versions, are not replaced.
    """
    there, here = theirs.get("versions"), ours["versions"]
    if not isinstance(there, dict):
        return theirs
    others = {name: version for name, version in there.items() if not _is_version(version)}
    return theirs | {"versions": others | {name: version for name, version in here.items() if _is_version(version)}}


def _is_version(text: object) -> bool:
    """Return whether a text is a version, such as `2.1.0+cpu`, and not a digest or a word."""
    return isinstance(text, str) and re.match(r"\d+(\.|$)", text) is not None


def _differences(theirs: dict[str, Any], ours: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name in sorted(theirs.keys() | ours.keys()):
        there, here = theirs.get(name), ours.get(name)
        if isinstance(there, dict) and isinstance(here, dict):
            yield from _differences(there, here, f"{prefix}{name}.")
        elif there != here:
            yield f"{prefix}{name[:60]}: there {str(there)[:60]}, here {str(here)[:60]}"
