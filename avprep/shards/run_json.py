"""Reading the run.json of a column: what decides its bytes, as written by `avprep.runs.fingerprint`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from avprep import untrusted
from avprep.errors import RunError, explained

_KINDS = {"column": str, "manifest": str, "settings": dict, "versions": dict}


def read_run(out: Path, column: str) -> dict[str, Any] | None:
    """Read a column's run.json; None if the column was never started.

    Raises RunError if it is damaged. So `shard_size` is always there, and its parts have the types that a run writes.
    """
    path = out / column / "run.json"
    if not path.is_file():
        return None
    try:
        run = untrusted.read_json(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({explained(error)})") from error
    size = run.get("shard_size")
    if (
        type(size) is not int
        or size < 1
        or not all(isinstance(run.get(name, kind()), kind) for name, kind in _KINDS.items())
    ):
        raise RunError(f"{path}: damaged; delete it and give the first run's options again")
    return run
