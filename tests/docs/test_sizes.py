"""Limits on the length of files, functions and classes of the source, unique class names, and no six equal lines."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[2]
MOST = {ast.Module: 450, ast.FunctionDef: 60, ast.AsyncFunctionDef: 60, ast.ClassDef: 200}


LOOKED_AT = ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Expr | ast.Import | ast.ImportFrom


@functools.cache
def nodes(text: str) -> list[ast.AST]:
    """Return the whole of a file, its functions, classes and imports, and separate statements such as docstrings."""
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, LOOKED_AT)]


def too_long(text: str) -> Iterator[str]:
    """Name everything that exceeds its limit, from `def` or `class` to the last line, docstrings included."""
    for node in nodes(text):
        if isinstance(node, ast.Module):
            length = len(text.splitlines())
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            length = (node.end_lineno or 0) - node.lineno + 1
        else:
            continue
        if length > MOST[type(node)]:
            yield f"{getattr(node, 'name', 'the file')}: {length} lines, {MOST[type(node)]} at most"


@pytest.mark.parametrize("folder", ["avprep", "davs_model", "cli/avprep_cli"])
def test_everything_fits_on_a_screen_or_a_few(folder: str) -> None:
    """A file of the source has at most 450 lines, a function 60, a class 200."""
    sources = sorted((HERE / folder).rglob("*.py"))
    assert sources
    assert [f"{path.relative_to(HERE)}: {one}" for path in sources for one in too_long(path.read_text())] == []


def test_no_two_classes_have_one_name() -> None:
    """A class name is unique; a class that every model has, such as `Settings`, is there once per model."""
    owners: dict[str, list[str]] = {}  # for each name: the model that has such a class, "" if it belongs to none
    for path in chain.from_iterable((HERE / folder).rglob("*.py") for folder in ("avprep", "davs_model", "cli")):
        parts = path.relative_to(HERE).parts
        model = parts[2] if parts[:2] == ("davs_model", "models") and len(parts) > 3 else ""
        for node in nodes(path.read_text(encoding="utf-8")):
            if isinstance(node, ast.ClassDef):
                owners.setdefault(node.name, []).append(model)
    several = {name: found for name, found in owners.items() if len(found) > 1}
    assert [name for name, found in several.items() if "" in found or len(set(found)) < len(found)] == []


def statements(text: str) -> list[str]:
    """Return the lines of a file that are code: no comments, docstrings, imports or blank lines."""
    left_out: set[int] = set()
    for node in nodes(text):
        words = (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        )
        if words or isinstance(node, ast.Import | ast.ImportFrom):
            left_out |= set(range(node.lineno, (node.end_lineno or 0) + 1))
    lines = ((n, line.strip()) for n, line in enumerate(text.splitlines(), 1))
    return [line for n, line in lines if line and not line.startswith("#") and n not in left_out]


def test_no_six_lines_are_written_twice() -> None:
    """No six consecutive lines of code occur twice."""
    seen: dict[tuple[str, ...], Path] = {}
    twice = []
    for path in chain.from_iterable((HERE / folder).rglob("*.py") for folder in ("avprep", "davs_model", "cli")):
        lines = statements(path.read_text(encoding="utf-8"))
        for six in zip(*(lines[n:] for n in range(6)), strict=False):
            if six in seen:
                twice.append(f"{seen[six].relative_to(HERE)}, {path.relative_to(HERE)}: {six[0]}")
            seen[six] = path
    assert twice == []


def test_what_is_longer_is_found() -> None:
    """One line above the limit is too long, for a method as for a function, a class and a file."""
    body = "\n".join("        pass" for _ in range(60))
    method = f"class A:\n    def b(self):\n{body}\n"
    assert list(too_long(method)) == ["b: 61 lines, 60 at most"]
    fields = "\n".join(f"    x{i} = 0" for i in range(200))
    assert list(too_long(f"class A:\n{fields}\n")) == ["A: 201 lines, 200 at most"]
    assert list(too_long("pass\n" * 451)) == ["the file: 451 lines, 450 at most"]
