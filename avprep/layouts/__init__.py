"""Data set layouts: one module each, whose name is its name on the command line.

A layout module has `scan(root, scan, **options)`, which walks a data set and adds what it finds to a `Scan`, and
`EXPECTS`, which states in one line what it looks for. `SIGN`, if a corpus has one, matches the path of a file that
hardly any other corpus would hold. Only names and text annotations are read, never a video.

The options of `avprep index` are the keyword-only parameters of every `scan`, annotated bool, str, int from 0, float
for a fraction below 1, Path for a folder, or a `Literal` of texts; see `options`. To add a layout, add a file here;
nothing else changes.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from avprep.errors import ManifestError
from avprep.layouts.scan import Problem, Scan, is_unicode, printable, walk
from avprep.manifest import Clip, Manifest, duplicate_keys, shuffled

NAMES = tuple(sorted(found.name for found in pkgutil.iter_modules(__path__) if found.name != "scan"))


def _is_fraction(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and 0 <= float(value) < 1


_VALUES: dict[type[Any], tuple[Callable[[object], bool], str]] = {
    bool: (lambda value: isinstance(value, bool), "True or False"),
    str: (lambda value: isinstance(value, str), "a text"),
    float: (_is_fraction, "a number from 0 to below 1"),
    int: (lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0, "a whole number from 0"),
    Path: (lambda value: isinstance(value, Path), "a path"),
}
"""For each kind of option, a check of a library caller's value and a description of valid values."""


class NoClipError(ManifestError):
    """A data set from which no clip can be made; `problems` give the reasons, each with a remedy."""

    def __init__(self, message: str, problems: Sequence[Problem]) -> None:
        super().__init__(message)
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Option:
    """A keyword-only parameter of the `scan` of one or more layouts.

    kind: its type: bool, str, int from 0, Path for a folder, float for a fraction, 0 ≤ x < 1; str for a choice.
    choices: its values in all layouts that have it; empty if it is not a choice.
    help: its meaning in each layout that has it.
    default: its default in each of them.
    """

    name: str
    kind: type[Any]
    choices: tuple[str, ...]
    help: dict[str, str]
    default: dict[str, Any]


def module(layout: str) -> ModuleType:
    """Return the module of a layout; ManifestError for an unknown name."""
    if layout not in NAMES:
        raise ManifestError(f"{layout}: no such layout; choose one of {', '.join(NAMES)}")
    return importlib.import_module(f"{__name__}.{layout}")


def options() -> list[Option]:
    """Return the options of all layouts; an option of several layouts occurs once.

    The type of a parameter is the option's kind; a `Literal` is a choice of texts. The docstring of `scan` has a line
    `name: meaning` for each.
    """
    found: dict[str, Option] = {}
    for layout in NAMES:
        for name, its in _options(layout).items():
            before = found.get(name, its)
            choices = tuple(dict.fromkeys((*before.choices, *its.choices)))
            found[name] = Option(name, its.kind, choices, before.help | its.help, before.default | its.default)
    return list(found.values())


def _options(layout: str) -> dict[str, Option]:
    """Return the options of one layout, by name."""
    scan = module(layout).scan
    kinds, meanings = get_type_hints(scan), inspect.getdoc(scan) or ""
    return {
        name: Option(name, *_kind(kinds[name]), {layout: _meaning(meanings, name)}, {layout: parameter.default})
        for name, parameter in inspect.signature(scan).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def _kind(annotation: Any) -> tuple[type[Any], tuple[str, ...]]:
    """Return the type of a parameter, without None, and the texts of a choice."""
    if get_origin(annotation) is Literal:
        return str, get_args(annotation)
    (kind,) = {*(get_args(annotation) or (annotation,))} - {type(None)}
    return kind, ()


def _check_options(layout: str, given: dict[str, Any]) -> None:
    """Raise ManifestError, one line, for an unknown option of a layout or an invalid value of one."""
    known = _options(layout)
    for name, value in given.items():
        if name not in known:
            others = f", which takes {', '.join(known)}" if known else ", which takes none"
            raise ManifestError(f"{name} is not an option of the layout {layout}{others}")
        option, words = known[name], f"--{name.replace('_', '-')} {value!r}"
        if option.choices and value not in option.choices:
            raise ManifestError(f"{words} is none of this layout's: {', '.join(option.choices)}")
        fits, what = _VALUES[option.kind]
        if not fits(value) and value is not option.default[layout]:
            raise ManifestError(f"{words} must be {what}")


def _meaning(docstring: str, name: str) -> str:
    """Return the text after `name:`, alone or among several names, in a docstring, up to the next paragraph."""
    found = re.search(rf"^(?:\w+, )*{name}(?:, \w+)*: (.+(?:\n {{4}}.+)*)", docstring, re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def index(
    layout: str,
    root: Path,
    *,
    seed: int = 0,
    limit: int | None = None,
    audio_root: Path | None = None,
    **options: Any,
) -> tuple[Manifest, Scan]:
    """Scan a data set into a shuffled manifest; also return the scan, which holds the problems.

    limit: keep only the first `limit` clips of each split, after shuffling.
    audio_root: the folder of the audio files, for layouts whose `scan` takes it. The root of the manifest is then the
    folder that holds both; the keys are the same as without it.
    options: keyword options of the layout's `scan`.

    Raises ManifestError if the root is missing, if several clips share a key, or for an unknown option of the layout or
    an invalid value of one; NoClipError if no clip is found.
    """
    corpus = module(layout)
    _check_options(layout, options if audio_root is None else options | {"audio_root": audio_root})
    if limit is not None and limit < 1:
        raise ManifestError(f"--limit must be at least 1, not {limit}")
    root = _folder(root, "ROOT is the folder that holds the data set")
    found = Scan()
    if audio_root is None:
        corpus.scan(root, found, **options)
    else:
        audio_root = _folder(audio_root, "--audio-root is the folder that holds the audio files")
        corpus.scan(root, found, audio_root=audio_root, **options)
    if not found.clips:
        problems = ", ".join(f"{count} {kind}" for kind, count in sorted(found.counts().items())) or "none"
        raise NoClipError(
            f"{root}: no clip found; the layout {layout} expects {corpus.EXPECTS} under ROOT (problems: {problems})"
            + _resemblance(layout, root),
            found.problems,
        )
    _refuse_duplicates(root, found.clips)
    if audio_root is not None:
        root, found.clips = _joined(root, audio_root, found.clips)
    return Manifest(layout, root, shuffled(found.clips, seed), seed).limited(limit), found


def _folder(path: Path, meaning: str) -> Path:
    """Return the absolute path of a folder; ManifestError if it is not one or cannot be named in a manifest."""
    if not os.path.isdir(path):  # Path.is_dir raises below a folder without permission
        raise ManifestError(f"{path}: not a folder; {meaning}")
    path = path.resolve()
    if not is_unicode(str(path)):
        raise ManifestError(f"{printable(str(path))}: the name is not UTF-8, which a manifest cannot hold; rename it")
    return path


def _joined(root: Path, audio_root: Path, clips: Sequence[Clip]) -> tuple[Path, list[Clip]]:
    """Return the lowest folder that holds both roots, and clips whose paths are relative to it."""
    common = Path(os.path.commonpath((root, audio_root)))
    video_prefix, audio_prefix = (folder.relative_to(common).as_posix() for folder in (root, audio_root))

    def below(prefix: str, path: str | None) -> str | None:
        return path if path is None or prefix == "." else f"{prefix}/{path}"

    return common, [
        replace(
            clip,
            video=f"{below(video_prefix, clip.video)}",
            audio=below(audio_prefix, clip.audio),
            track=below(video_prefix, clip.track),
        )
        for clip in clips
    ]


def _resemblance(layout: str, root: Path) -> str:
    """Return which layout the tree below a root resembles, as the end of a sentence; empty if none is recognised."""
    signs = {name: sign for name in NAMES if (sign := getattr(module(name), "SIGN", None)) is not None}
    paths = list(walk(root, Scan()))
    above: tuple[str, ...] = ()
    for folder in (root, *root.parents[:2]):  # ROOT may be a folder inside the right one
        whole = ["/".join((*above, path)) for path in paths]
        counts = {name: sum(sign.fullmatch(path) is not None for path in whole) for name, sign in signs.items()}
        name = max(counts, key=lambda one: counts[one])
        if counts[name]:
            if above:
                return f"; it looks like a part of {name}: try `avprep index {name}` with ROOT {folder}"
            return "" if name == layout else f"; it looks like {name}: try `avprep index {name}`"
        above = (folder.name, *above)
    return ""


def _refuse_duplicates(root: Path, clips: Sequence[Clip]) -> None:
    duplicates = duplicate_keys(clips)
    if duplicates:
        examples = "; ".join(f"{key} ({', '.join(videos[:3])})" for key, videos in list(duplicates.items())[:3])
        keys = "1 key occurs" if len(duplicates) == 1 else f"{len(duplicates)} keys occur"
        raise ManifestError(
            f"{root}: {keys} more than once: {examples}; rename, remove or set apart all but one of each"
        )
