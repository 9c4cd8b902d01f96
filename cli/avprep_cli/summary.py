"""The summary of a run: what was done, what failed and why, where the results are, and the next command."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avprep import manifest
from avprep.errors import plural
from avprep_cli import say

if TYPE_CHECKING:
    from avprep.runs.run import Outcome
    from avprep.runs.status import ColumnStatus

ACCIDENTS = ("crashed", "error", "missing", "timeout")
"""Reasons that a retry may resolve; the others are due to the clip itself."""

ONCE = ("crashed", "error")
"""Those of them that one retry may resolve, but not a second one."""

LONGEST = 24 * 3600
"""Maximum --clip-timeout to recommend (s)."""

SOME_FILM = ("--face", "photo.jpg", "--audio", "speech.wav", "-o", "talking.mp4")
"""Example arguments of `generate` after the run."""


def show(
    done: str, *, where: Sequence[Path | str] = (), then: Sequence[str] = (), facts: dict[str, Any] | None = None
) -> None:
    """Print the summary of a run: what was done, where the results are, and the next commands.

    facts: the same for scripts; with --json only this is printed.
    """
    tell(done, where)
    close(then, facts or {})


def tell(done: str, where: Sequence[Path | str] = ()) -> None:
    """Print the result part of a summary: with -q only what was done, with --json nothing."""
    if say.as_json():
        return
    say.echo(done)
    for path in () if say.quiet() else where:
        say.echo(f"  {path}")


def close(then: Sequence[str], facts: dict[str, Any]) -> None:
    """Print the rest: the next commands; with --json the one object that holds everything."""
    if say.as_json():
        say.echo(json.dumps({**facts, "next": list(then)}, indent=2))
        return
    for command in then:
        say.aside(f"next: {say.to_type(command)}")


def of_column(outcome: Outcome, out: Path, column: str) -> tuple[str, list[str], dict[str, Any]]:
    """Return the outcome of a column's run: a line; where its shards are or how many are missing; facts for scripts."""
    from avprep.runs.status import status

    before = f" ({len(outcome.skipped)} done before)" if outcome.skipped else ""
    ok, failed = f"{plural(outcome.ok, 'clip')} ok", tally("failed", outcome.failed)
    ok = (say.good(ok) if outcome.ok or not outcome.failed else ok) + silent(outcome.silent)
    failed = say.bad(failed) if outcome.failed else failed
    done = (
        f"{column}: {plural(len(outcome.planned), 'shard')}{before}, {ok}, {failed}, "
        f"{plural(outcome.frames, 'frame')}, {outcome.seconds:.1f} s"
    )
    (found,) = status(out, columns=(column,))
    patterns = [str(out / column / brace_pattern(split, counts.shards)) for split, counts in found.splits.items()]
    where = [missing_shards(found)] if found.unfinished else patterns
    facts = {
        "column": column,
        "planned": outcome.planned,
        "skipped": outcome.skipped,
        "unfinished": outcome.unfinished,
        "ok": outcome.ok,
        "failed": outcome.failed,
        "silent": outcome.silent,
        "frames": outcome.frames,
        "seconds": round(outcome.seconds, 3),
        "stuck": [{"pid": pid, "video": video} for pid, video in outcome.stuck],
        "missing_shards": len(found.unfinished),
        "where": [] if found.unfinished else patterns,
    }
    return done, where, facts


def next_steps(out: Path, otherwise: str, tried: Collection[str] = ()) -> list[str]:
    """Return the next commands for the shards of OUT: how to finish them, or to retry clips that failed by accident.

    otherwise: the next command if both columns are complete and no accident happened. If a column has no clip that is
    ok, only retries are returned, because later steps would have no input.
    tried: reasons of accidents for which clips have just been retried, without success if any are left.
    """
    from avprep.runs.status import status
    from avprep.schema import COLUMNS

    found = {column.column: column for column in status(out)}
    if any(column.unfinished for column in found.values()):
        return [line("status", out)]
    retries = [retry_line(out, column, again) for column in found.values() if (again := accidents(column, tried))]
    if not all(column.total.ok for column in found.values()):
        return retries
    return [*retries, *(line(name, out / "manifest.jsonl", out) for name in COLUMNS if name not in found)] or [
        otherwise
    ]


def line(command: str, *words: object) -> str:
    """Return a command line, quoted for the shell."""
    return shlex.join(["avprep", command, *map(str, words)])


def accidents(column: ColumnStatus, tried: Collection[str] = ()) -> dict[str, int]:
    """Return the number of failed clips, by reason, that a retry may resolve.

    It leaves out reasons already tried, except time-outs that can still be extended; an error of all clips; and clips
    that failed again when they were retried.
    """
    found = {}
    for reason in ACCIDENTS:
        count = column.reasons.get(reason, 0) - (column.again.get(reason, 0) if reason in ONCE else 0)
        hopeless = reason in tried or (reason == "error" and not column.total.ok)
        if reason == "timeout":
            hopeless = _longer(column) > LONGEST
        if count > 0 and not hopeless:
            found[reason] = count
    return found


def follows_speaker(settings: Mapping[str, Any]) -> bool:
    """Return whether crops with these settings follow the active speaker, which needs a sync model."""
    return settings.get("subject") == "speaking"


def retry_line(out: Path, column: ColumnStatus, again: dict[str, int]) -> str:
    """Return the command that retries clips, with a longer time limit for those that timed out.

    A column made with a sync model needs that model again, which its folder does not name.
    """
    from avprep.schema import MEASURED
    from avprep.shards import read_run

    settings = (read_run(out, column.column) or {}).get("settings", {})
    judged = column.column in MEASURED or follows_speaker(settings)
    model = ("--model", "RUN") if judged else ()
    more = ("--clip-timeout", _longer(column)) if "timeout" in again else ()
    return line("retry", out, "--column", column.column, *model, "--reason", ",".join(again), *more)


def _longer(column: ColumnStatus) -> int:
    from avprep.runs.run import longer
    from avprep.runs.worker import CLIP_TIMEOUT

    return longer(column.longest_timeout or CLIP_TIMEOUT)


def none_ok(column: str, failed: dict[str, int]) -> str:
    """Return the error message of a run in which no clip is ok."""
    report = "; please report this error" if set(failed) == {"error"} else ""
    return f"{column}: no clip is ok, {tally('failed', failed)}{report}"


def missing_shards(column: ColumnStatus) -> str:
    """Return how many shards of a column are missing, in words."""
    return (
        f"{len(column.unfinished)} of {column.shards} shards {'is' if len(column.unfinished) == 1 else 'are'} missing"
    )


def brace_pattern(split: str, shards: int) -> str:
    """Return the shards of a split in WebDataset's notation: `train-{000000..000123}.tar`."""
    first, last = (manifest.shard_name(split, n).rpartition("-")[2] for n in (0, shards - 1))
    return f"{split}-{first if first == last else f'{{{first}..{last}}}'}.tar"


def silent(count: int) -> str:
    """Return how many of the ok clips hold only silence, as a remark to append to their number; "" for none."""
    return f", {say.bad(f'{count} of them silent')}" if count else ""


def tally(noun: str, counts: dict[str, int]) -> str:
    """Return a total and its parts: `3 failed (no_face 2, timeout 1)`."""
    total = sum(counts.values())
    detail = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    label = f"{total} failed" if noun == "failed" else plural(total, noun)
    return label + (f" ({detail})" if detail else "")
