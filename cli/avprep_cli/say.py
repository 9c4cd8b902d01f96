"""How commands speak: results on standard output, all else on standard error; how much, and where colour is."""

from __future__ import annotations

import os
import re
import textwrap

import click

from avprep import __version__
from avprep.untrusted import shown

QUIET, NORMAL, VERBOSE = -1, 0, 1
_VERBOSITY, _JSON, _SAID = (f"{__name__}.{name}" for name in ("verbosity", "json", "said"))
"""Names in Context.meta, which a group's commands share."""
_STYLED = re.compile(r"(\x1b\[(?:1|31|32)m)([^\x1b]*)(\x1b\[0m)")  # what good, bad and to_type make
WIDTH = 120
"""Most characters of a line of a log, unless one word has more."""
_FOLD = textwrap.TextWrapper(
    WIDTH,
    subsequent_indent="    ",
    expand_tabs=False,
    replace_whitespace=False,
    break_long_words=False,
    break_on_hyphens=False,
)
_LIBRARIES = ("click", "numpy", "av", "opencv-python", "opencv-python-headless", "torch")


def verbosity() -> int:
    """Return QUIET after -q, VERBOSE after -v, else NORMAL."""
    context = click.get_current_context(silent=True)
    return NORMAL if context is None else int(context.meta.get(_VERBOSITY, NORMAL))


def quiet() -> bool:
    """Whether -q was given."""
    return verbosity() == QUIET


def as_json() -> bool:
    """Whether --json was given: then standard output holds one JSON object and nothing else."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_JSON))


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print a text; whatever a file's names or words hold besides text and our own colours is escaped."""
    parts = _STYLED.split(text)  # plain, begin, styled, end, plain, …
    safe = "".join(part if n % 4 in (1, 3) else shown(part) for n, part in enumerate(parts))
    click.echo(safe, err=err, nl=nl)  # noqa: TID251


def one_line(text: str) -> str:
    """Return a text, as of an error, for one line of a terminal."""
    return shown(" ".join(text.split("\n")))


def aside(line: str) -> None:
    """Say what is good to know, but no result."""
    if not quiet():
        echo(line, err=True)


def once(line: str) -> None:
    """Say what is good to know, but only the first time in a command."""
    context = click.get_current_context(silent=True)
    said: set[str] = set() if context is None else context.meta.setdefault(_SAID, set())
    if line not in said:
        said.add(line)
        aside(line)


def detail(line: str) -> None:
    """Say what only -v wants to know."""
    if verbosity() == VERBOSE:
        echo(folded(line), err=True)


def story(text: str) -> None:
    """Say a line of a long story that is a result itself: what a training run or the demo goes through."""
    if not quiet():
        echo(folded(text), err=as_json())


def folded(text: str) -> str:
    """Return lines of a log with those that are too long broken between words, indented from the second on."""
    return "\n".join(line if len(line) <= WIDTH else _FOLD.fill(line) for line in text.split("\n"))


def good(text: str) -> str:
    """Return what went well, in its colour."""
    return click.style(shown(text), fg="green")


def bad(text: str) -> str:
    """Return what failed, in its colour."""
    return click.style(shown(text), fg="red")


def to_type(command: str) -> str:
    """Return a command for the user to type, set off from its surroundings."""
    return click.style(shown(command), bold=True)


def choose_colour(context: click.Context) -> None:
    """Have no colour where the user wants none or the terminal knows none; click has none but on terminals."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":  # https://no-color.org: set, and not empty
        context.color = False


def set_verbosity(context: click.Context, parameter: click.Parameter, given: bool) -> None:
    """Take -q or -v, before or after a command's name; the last one counts."""
    if given and not context.resilient_parsing:
        before, context.meta[_VERBOSITY] = verbosity(), QUIET if parameter.name == "quiet" else VERBOSE
        if before != VERBOSE:
            detail(versions())


def set_json(context: click.Context, _: click.Parameter, given: bool) -> None:
    """Take --json."""
    if given:
        context.meta[_JSON] = True


def versions() -> str:
    """Return the versions of avprep, Python and of the libraries that matter most, without loading them."""
    import platform
    from importlib import metadata

    found = [f"avprep {__version__}", f"Python {platform.python_version()}"]
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:  # of the two forms of OpenCV there is one
            continue
    return ", ".join(found)
