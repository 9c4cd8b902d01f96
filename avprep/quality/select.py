"""Selecting clips of a run by the figures that its columns recorded: `abs(audio_lead_frames) <= 1 and jitter < 2`.

An expression compares figures and labels of a clip with constants. Names are those of the sidecars, of each sample's
own JSON, and of the manifest; `column.name` is the figure of one column. No other Python is allowed: the expression is
parsed, not run.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from avprep import schema, shards
from avprep.errors import AvprepError, RunError
from avprep.manifest import Clip, Manifest
from avprep.runs.fingerprint import read_manifest

PRESETS: Mapping[str, str] = {
    "latentsync": "sync.confidence >= {sure} and abs(sync.audio_lead_frames) <= 6",
    "wav2lip": "abs(sync.audio_lead_frames) <= 1",
}
"""Selections that are common in the field; `sure` is in `SURE`."""
SURE = {"syncnet": 3.0, "ours": 0.2}
"""Minimum confidence on each scale: LatentSync's 3 is on SyncNet's scale, the other is ours."""
LONGEST = 2000
"""Maximum characters of an expression."""

_OF_THE_MANIFEST = ("key", "split", "word", "speaker")
Figures = Mapping[str, Any]
_COMPARE: Mapping[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_COMPUTE: Mapping[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_ALLOWED = (
    *(ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.Compare, ast.BinOp, ast.Call),
    *(ast.Name, ast.Attribute, ast.Load, ast.Constant, *_COMPARE, *_COMPUTE),
)


class _MissingError(Exception):
    """A clip does not have this figure."""


_UNKNOWN = (_MissingError, TypeError, ArithmeticError, RecursionError, MemoryError)
"""Errors raised by a part of a condition that cannot be computed for a clip."""


@dataclass(frozen=True)
class Where:
    """A condition on a clip. text: as written; names: the figures that it uses."""

    text: str
    names: frozenset[str]
    _tree: ast.expr

    @classmethod
    def parse(cls, text: str) -> Where:
        """Parse an expression; AvprepError, one line, if it is invalid."""
        try:
            if len(text) > LONGEST:
                raise ValueError(f"longer than {LONGEST} characters")
            tree = ast.parse(text.strip(), mode="eval")
            names = frozenset(_names(tree.body))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            why = error.msg if isinstance(error, SyntaxError) else str(error)
            raise AvprepError(f"--where {text[:80]!r}: {why}: write NAME < NUMBER, joined by and, or, not") from error
        return cls(text, names, tree.body)

    def holds(self, figures: Figures) -> bool | None:
        """Return whether it holds; None if the clip lacks a figure that decides it, or the figure has another type.

        `a or b` is decided by a part that holds, `a and b` by a part that does not, in either order. Text that is
        compared with a number, or used in arithmetic, counts as the number that it spells, since labels are texts.
        """
        try:
            return bool(_value(self._tree, figures))
        except _UNKNOWN:
            return None


@dataclass(frozen=True)
class Selection:
    """A manifest of the kept clips. left_out: the number of the others, by reason."""

    manifest: Manifest
    left_out: Counter[str]


def preset(out: Path, name: str) -> Where:
    """Return a preset for the confidence scale of a run's sync column; RunError if sync was not measured."""
    sync = shards.read_run(out, "sync")
    if sync is None:
        raise RunError(f"{out}: was not measured: run `avprep sync {out} --model RUN` first")
    sure = SURE["syncnet" if (sync.get("settings") or {}).get("scale") == "syncnet" else "ours"]
    return Where.parse(PRESETS[name].format(sure=sure))


def select(out: Path, wheres: list[Where]) -> Selection:
    """Return the clips of a run that are ok in each of its columns and meet all conditions.

    Raises RunError for a name that no column recorded, ShardError for a damaged shard.
    """
    plan = read_manifest(out)
    runs = {name: run for name in schema.ALL_COLUMNS if (run := shards.read_run(out, name)) is not None}
    if not runs:
        raise RunError(f"{out}: no column was ever started there")
    names = frozenset[str]().union(*(where.names for where in wheres))
    labels = {name for clip in plan.clips for name in clip.labels or ()} | set(_OF_THE_MANIFEST)
    known: set[str] = set()
    kept: list[Clip] = []
    left: Counter[str] = Counter()
    for name, clips in plan.shards(next(iter(runs.values()))["shard_size"]):
        found = _figures(out, name, runs, names, labels)
        for clip in clips:
            figures = {**found.get(clip.key, {}), **_labels(clip)}
            known |= figures.keys() & names
            reason = _reason(figures, runs, wheres)
            if reason:
                left[reason] += 1
            else:
                kept.append(clip)
    if plan.clips and (unknown := sorted(names - known)):
        raise RunError(f"{out}: no clip has {unknown[0][:60]!r}: its columns are {', '.join(runs)}")
    return Selection(replace(plan, clips=tuple(kept)), left)


def _reason(figures: Figures, runs: Mapping[str, Any], wheres: list[Where]) -> str:
    """Return the reason why a clip is left out, "" if it is kept."""
    for column in runs:
        if not figures.get(f"{column}.ok"):
            return f"not ok in {column}"
    for where in wheres:
        if not (holds := where.holds(figures)):
            return f"not {where.text}" if holds is not None else f"not known: {where.text}"
    return ""


def _labels(clip: Clip) -> dict[str, Any]:
    return {name: getattr(clip, name) for name in _OF_THE_MANIFEST} | dict(clip.labels or {})


def _figures(
    out: Path, shard: str, runs: Mapping[str, Any], names: frozenset[str], labels: set[str]
) -> dict[str, dict[str, Any]]:
    """Return the recorded figures of each clip of a shard, by `name`, except labels, and by `column.name`."""
    found: dict[str, dict[str, Any]] = {}
    columns = {column: there for column in runs if (there := shards.ColumnShard.read(out, column, shard)) is not None}
    told = labels.union(*(record for there in columns.values() for record in there.clips))  # no sample is read for it
    for column, there in columns.items():
        for record in there.clips:
            figures = found.setdefault(record["key"], {})
            if record["state"] != "ok":
                continue
            facts = {name: value for name, value in record.items() if name != "seconds"}  # processing time
            if _wanted(column, names, told | figures.keys()) - facts.keys():
                facts |= shards.read_facts(there.path, column, record["key"], there.places[record["key"]])
            figures |= {name: value for name, value in facts.items() if name not in figures and name not in labels}
            seconds = record["n_frames"] / schema.FPS
            figures |= {f"{column}.{name}": value for name, value in ({"seconds": seconds} | facts).items()}
            figures |= {f"{column}.ok": True, "seconds": seconds}
    return found


def _wanted(column: str, names: frozenset[str], given: set[str]) -> set[str]:
    """Return the names, without prefix, that may need a column's samples. given: plain names that others provide."""
    plain = {name for name in names if "." not in name} - {"seconds"} - given
    return plain | {name.partition(".")[2] for name in names if name.startswith(f"{column}.")}


def _names(tree: ast.expr) -> Iterator[str]:
    """Yield the names in an expression; ValueError for anything that is not allowed there."""
    for node in ast.walk(tree):
        if not isinstance(node, _ALLOWED):
            raise ValueError(f"{type(node).__name__.lower()} has no place in it")
        if isinstance(node, ast.Constant) and type(node.value) not in (int, float, str, bool, type(None)):
            raise ValueError(f"{node.value!r} has no place in it")
        if isinstance(node, ast.Call):
            one = isinstance(node.func, ast.Name) and node.func.id == "abs" and len(node.args) == 1
            if not one or node.keywords:
                raise ValueError("abs(NAME) is the only function")
        if isinstance(node, ast.Attribute):
            if not isinstance(node.value, ast.Name) or node.value.id not in schema.ALL_COLUMNS:
                raise ValueError(f"a name is NAME or COLUMN.NAME, with a column of {', '.join(schema.ALL_COLUMNS)}")
            yield f"{node.value.id}.{node.attr}"
    dotted = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    dotted |= {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    yield from (node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in dotted)


def _value(node: ast.expr, figures: Figures) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name(id=name):
            return _figure(figures, name)
        case ast.Attribute(value=ast.Name(id=column), attr=name):
            return _figure(figures, f"{column}.{name}")
        case ast.Call():
            return abs(_number(node.args[0], figures))
        case ast.BoolOp():
            return _joined(node, figures)
        case ast.UnaryOp(op=ast.Not()):
            return not _value(node.operand, figures)
        case ast.UnaryOp():
            return -_number(node.operand, figures)
        case ast.BinOp():
            return _COMPUTE[type(node.op)](_number(node.left, figures), _number(node.right, figures))
        case ast.Compare():
            sides = [_value(one, figures) for one in (node.left, *node.comparators)]
            pairs = zip(node.ops, itertools.pairwise(sides), strict=True)
            return all(_COMPARE[type(op)](*_alike(*pair)) for op, pair in pairs)
    raise AssertionError(node)


def _number(node: ast.expr, figures: Figures) -> float:
    """Return an operand of arithmetic; TypeError if it is not a number: `*` could repeat text until memory is full."""
    value = _as_number(_value(node, figures))
    if not isinstance(value, int | float):
        raise TypeError(f"{type(value).__name__} is no number")
    return value


def _joined(node: ast.BoolOp, figures: Figures) -> bool:
    """Return whether parts joined by `and` or `or` hold; raise the error of an unknown part if no other decides."""
    decides = isinstance(node.op, ast.Or)
    unknown: Exception | None = None
    for part in node.values:
        try:
            if bool(_value(part, figures)) is decides:
                return decides
        except _UNKNOWN as error:
            unknown = error
    if unknown is not None:
        raise unknown
    return not decides


def _alike(left: Any, right: Any) -> tuple[Any, Any]:
    """Return both sides of a comparison; if only one is text, it becomes the number that it spells, if any."""
    if isinstance(left, str) != isinstance(right, str):
        return _as_number(left), _as_number(right)
    return left, right


def _as_number(value: Any) -> Any:
    """Return text as the number that it spells, if any; everything else unchanged."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def _figure(figures: Figures, name: str) -> Any:
    value = figures.get(name)
    if value is None:
        raise _MissingError(name)
    return value
