"""Types of option values. Each has bounds; a value outside them causes a one-line error that names the option."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from avprep.runs import slurm
from davs_model import models

MOST = 1_000_000_000
"""Upper bound for numbers of clips, steps and the like: far beyond any corpus, and small enough to be summed."""
MOST_PROCESSES = 4_096
"""Upper bound for numbers of processes or cores: more than any machine has."""
MOST_TASKS = 4_000_001
"""Upper bound for numbers of tasks: the largest MaxArraySize that Slurm allows."""
MOST_BATCH = 65_536
"""Upper bound of a batch, as in the settings of the model."""
MOST_SEED = 2**31 - 1
"""Upper bound of a seed, as in the settings of the model."""

_SLURM_WORDS = ("UNLIMITED", "INFINITE")


class Number(click.FloatRange):
    """A finite number in a range. A plain FloatRange accepts NaN, as all comparisons with it are false."""

    def __init__(self, low: float, high: float, *, min_open: bool = False, max_open: bool = False) -> None:
        super().__init__(low, high, min_open=min_open, max_open=max_open)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return found


class Output(click.Path):
    """A file to write whose format is fixed by the command, so its name must have the matching suffix.

    suffix: for example `.html`, in lower case; any case is accepted.
    """

    def __init__(self, suffix: str) -> None:
        super().__init__(dir_okay=False, path_type=Path)
        self.suffix = suffix

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if path.suffix.lower() != self.suffix:
            self.fail(f"'{path}' has another ending than what is written into it: name it {self.suffix}", param, ctx)
        return path


class ManifestFile(click.Path):
    """A manifest to read. Errors in the file itself are reported when it is read."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        path = Path(value)
        if path.is_dir():
            inside = path / "manifest.jsonl"  # as every OUT has
            make = f"make one first with `avprep index LAYOUT {path} -o manifest.jsonl`, then give manifest.jsonl"
            hint = f"give the one in it, {inside}" if inside.is_file() else make
            self.fail(f"'{path}' is a folder, not a manifest: {hint}", param, ctx)
        return super().convert(value, param, ctx)


class Text(click.ParamType[str]):
    """Free text, such as a file's name: not empty, of bounded length."""

    name = "text"

    def __init__(self, longest: int = 4096) -> None:
        self.longest = longest

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text."""
        text = str(value)
        if not text.strip():
            self.fail("is empty", param, ctx)
        if len(text) > self.longest:
            self.fail(f"has {len(text)} characters; at most {self.longest} are taken", param, ctx)
        return text


class OneLine(Text):
    """Free text on one line, without control characters, which a script or a terminal would interpret."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text."""
        text = super().convert(value, param, ctx)
        if re.search(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]", text):
            self.fail(f"{text[:60]!r} must be one line without control characters", param, ctx)
        return text


class Words(click.ParamType[frozenset[str]]):
    """A subset of a list of words, separated by commas."""

    name = "words"

    def __init__(self, choices: Sequence[str]) -> None:
        self.choices = tuple(choices)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> frozenset[str]:
        """Return the words."""
        if isinstance(value, frozenset):
            return value
        words = frozenset(word.strip() for word in str(value).split(","))
        if strange := sorted(words.difference(self.choices)):
            self.fail(f"{strange[0][:60]!r} is none of {', '.join(self.choices)}", param, ctx)
        return words


class ModelName(click.Choice[str]):
    """The name of a model of `davs_model.models`; no model is imported for it."""

    def __init__(self) -> None:
        super().__init__(models.names())

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name; models registered since are accepted too."""
        self.choices = tuple(models.names())
        return super().convert(value, param, ctx)


class FrameNumbers(click.ParamType[tuple[int, ...]]):
    """Frame numbers, separated by commas."""

    name = "frames"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the numbers."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        if not all(re.fullmatch("[0-9]{1,9}", part) for part in parts):
            self.fail(f"{str(value)[:60]!r} is no list of frames such as 0,12,28", param, ctx)
        return tuple(map(int, parts))


class Box(click.ParamType[tuple[float, float, float, float]]):
    """X0,Y0,X1,Y1 in pixels: left, top, right, bottom."""

    name = "x0,y0,x1,y1"
    most = 1_000_000.0

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float, float, float]:
        """Return the four numbers."""
        if isinstance(value, tuple):
            return value
        try:
            x0, y0, x1, y1 = (float(number) for number in str(value).split(","))
        except ValueError:
            self.fail(f"{str(value)[:60]!r} is not four numbers with commas between", param, ctx)
        if not all(abs(number) <= self.most for number in (x0, y0, x1, y1)):  # false for NaN too
            self.fail(f"{str(value)[:60]!r} is not four numbers of pixels", param, ctx)
        return x0, y0, x1, y1


class TimeLimit(click.ParamType[str]):
    """A time limit in a form that Slurm accepts."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text as it is."""
        text = str(value)
        if len(text) > 20 or (slurm.seconds(text) is None and text.upper() not in _SLURM_WORDS):
            self.fail(
                f"{text[:60]!r} is not a time limit of Slurm: minutes, hours:minutes:seconds or days-hours", param, ctx
            )
        return text


class MemorySize(click.ParamType[str]):
    """An amount of memory in a form that Slurm accepts."""

    name = "memory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text as it is."""
        text = str(value)
        if not re.fullmatch(r"[0-9]{1,9}[KMGTkmgt]?", text):
            self.fail(f"{text[:60]!r} is not an amount of memory such as 16G", param, ctx)
        return text
