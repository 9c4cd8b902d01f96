"""The output of commands: results on standard output, all else on standard error; verbosity and colour."""

from __future__ import annotations

import os
import re
import textwrap

import click

from avprep import __version__
from avprep.untrusted import shown

QUIET, NORMAL, VERBOSE = -1, 0, 1
_VERBOSITY, _JSON, _SAID = (f"{__name__}.{name}" for name in ("verbosity", "json", "said"))
"""Keys in Context.meta, which is common to a group's commands."""
_STYLED = re.compile(r"(\x1b\[(?:1|31|32)m)([^\x1b]*)(\x1b\[0m)")  # the output of good, bad and to_type
WIDTH = 120
"""Maximum characters of a log line, unless a single word has more."""
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
    """Print a text; anything but printable text and our own colours, for example in file names, is escaped."""
    parts = _STYLED.split(text)  # plain, begin, styled, end, plain, …
    safe = "".join(part if n % 4 in (1, 3) else shown(part) for n, part in enumerate(parts))
    click.echo(safe, err=err, nl=nl)  # noqa: TID251


def one_line(text: str) -> str:
    """Return a text, for example of an error, as one line for a terminal."""
    return shown(" ".join(text.split("\n")))


def aside(line: str) -> None:
    """Print a remark that is not a result."""
    if not quiet():
        echo(line, err=True)


def once(line: str) -> None:
    """Print a remark, but only once per command."""
    context = click.get_current_context(silent=True)
    said: set[str] = set() if context is None else context.meta.setdefault(_SAID, set())
    if line not in said:
        said.add(line)
        aside(line)


def detail(line: str) -> None:
    """Print a line only with -v."""
    if verbosity() == VERBOSE:
        echo(folded(line), err=True)


def story(text: str) -> None:
    """Print a line of a progress log that is itself a result, as in a training run or the demo."""
    if not quiet():
        echo(folded(text), err=as_json())


def folded(text: str) -> str:
    """Return log lines, with those that are too long wrapped between words and indented from the second line on."""
    return "\n".join(line if len(line) <= WIDTH else _FOLD.fill(line) for line in text.split("\n"))


def good(text: str) -> str:
    """Return the text of a success, in its colour."""
    return click.style(shown(text), fg="green")


def bad(text: str) -> str:
    """Return the text of a failure, in its colour."""
    return click.style(shown(text), fg="red")


def to_type(command: str) -> str:
    """Return a command for the user to type, highlighted."""
    return click.style(shown(command), bold=True)


def choose_colour(context: click.Context) -> None:
    """Turn colour off if the user or the terminal does not want it; click itself uses it only on terminals."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":  # https://no-color.org: set, and not empty
        context.color = False


def set_verbosity(context: click.Context, parameter: click.Parameter, given: bool) -> None:
    """Callback of -q and -v, before or after a command's name; the last one counts."""
    if given and not context.resilient_parsing:
        before, context.meta[_VERBOSITY] = verbosity(), QUIET if parameter.name == "quiet" else VERBOSE
        if before != VERBOSE:
            detail(versions())


def set_json(context: click.Context, _: click.Parameter, given: bool) -> None:
    """Callback of --json."""
    if given:
        context.meta[_JSON] = True


def versions() -> str:
    """Return the versions of avprep, Python and the most important libraries, without loading them."""
    import platform
    from importlib import metadata

    found = [f"avprep {__version__}", f"Python {platform.python_version()}"]
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:  # only one of the two OpenCV packages is installed
            continue
    return ", ".join(found)
