"""Options that several commands have in common, as decorators."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from avprep import layouts
from avprep.errors import RunError
from avprep.faces import detectors
from avprep.files import check_regular
from avprep.runs import tasks
from avprep_cli import say
from avprep_cli.kinds import MOST, MOST_PROCESSES, MOST_SEED, MOST_TASKS, ManifestFile, Number, OneLine, Text

F = TypeVar("F", bound=Callable[..., Any])


class FileOrFolder(click.Path):
    """A path, but not of a pipe, socket or device: reading one may never end, and a rename would replace it.

    Nor is it an empty text, which would be the current folder: so the shell gives a variable that is not set.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; usage error if it is empty, or neither a file nor a folder."""
        if value == "":
            self.fail("empty: give a name (is a variable unset?)", param, ctx)
        path = super().convert(value, param, ctx)
        assert isinstance(path, Path)
        if not self.file_okay:
            return path
        try:
            check_regular(path)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError, ValueError):
            return path  # reported when it is opened
        except OSError as error:
            self.fail(f"{click.format_filename(value)}: {error.strerror}", param, ctx)
        return path


OUT = FileOrFolder(file_okay=False, path_type=Path)
FILE = FileOrFolder(dir_okay=False, path_type=Path)
EXISTING = FileOrFolder(exists=True, path_type=Path)
EXISTING_OUT = FileOrFolder(exists=True, file_okay=False, path_type=Path)
MANIFEST = ManifestFile()


def is_default(name: str) -> bool:
    """Whether this parameter was not given to the running command."""
    return click.get_current_context().get_parameter_source(name) == ParameterSource.DEFAULT


def verbosity(command: F) -> F:
    """Options of every command that does work, and of `avprep` itself for all commands."""
    return _all_of(
        command,
        click.option(
            "-v",
            "--verbose",
            is_flag=True,
            expose_value=False,
            callback=say.set_verbosity,
            help="Print more: versions, settings, the state of every clip and shard.",
        ),
        click.option(
            "-q",
            "--quiet",
            is_flag=True,
            expose_value=False,
            callback=say.set_verbosity,
            help="Print only the result and errors.",
        ),
    )


as_json = click.option(
    "--json",
    "as_json",
    is_flag=True,
    expose_value=False,
    callback=say.set_json,
    help="Print only one JSON object on standard output, for scripts.",
)


jobs = click.option(
    "-j",
    "--jobs",
    type=click.IntRange(1, MOST_PROCESSES),
    default=tasks.cores,
    show_default="all cores",
    help="Worker processes.",
)


detector = click.option(
    "--detector",
    type=click.Choice(("auto", *detectors.NAMES)),
    default="auto",
    help="auto: face-alignment if CUDA and its weights are there, else yunet if its weights are, else opencv. "
    "dlib: 68 landmarks, for non-commercial use only.",
)


max_length = click.option(
    "--max-seconds",
    type=Number(0, 86_400, min_open=True),
    default=1800.0,
    help="Maximum length of audio or video in seconds.",
)


sync_judge = click.option(
    "--sync", type=EXISTING, help="With --subject speaking: a RUN of a sync model, which finds the active speaker."
)


device = click.option("--device", type=click.Choice(("auto", "cpu", "cuda")), default="auto", help="Where to compute.")


_THREADS = "avprep.threads"


def _note_threads(context: click.Context, _: click.Parameter, value: int | None) -> int | None:
    context.meta[_THREADS] = value
    return value


threads = click.option(
    "--threads",
    type=click.IntRange(1, MOST_PROCESSES),
    callback=_note_threads,
    expose_value=False,
    help="Threads for computing on a CPU.  [OMP_NUM_THREADS, or all cores]",
)


def chosen_device(name: str) -> str:
    """Return the device of --device, with torch set to --threads; UsageError if it is not available."""
    import torch

    from davs_model import precision

    if (count := click.get_current_context().meta.get(_THREADS)) is not None:
        torch.set_num_threads(count)
    if (chosen := precision.device_name(name)) is None:
        raise click.UsageError("--device cuda: torch sees no CUDA device here")
    return chosen


def spare(output: Path | None, *inputs: Path | None) -> None:
    """Raise UsageError if an output would replace an input."""
    for path in inputs:
        if output is not None and path is not None and path.exists() and output.exists() and output.samefile(path):
            raise click.UsageError(f"{output}: is the input too; choose another name for the output")


def folder_there(*outputs: Path | None) -> None:
    """Raise RunError if the folder of an output does not exist, before anything is computed."""
    for path in outputs:
        if path is not None and not path.parent.is_dir():
            raise RunError(f"{path}: cannot write (its folder is not there): make {path.parent} first")


speech_scale = click.option(
    "--speech-scale",
    type=Number(0, 10, min_open=True),
    default=1.0,
    help="Factor of the audio features; the released demo uses 1.5.",
)
root = click.option("--root", type=EXISTING_OUT, help="Folder of the data set, if it was moved since it was indexed.")
clip_timeout = click.option(
    "--clip-timeout",
    type=Number(0, 7 * 86_400, min_open=True),
    show_default="120, or 10 times the clip's length if that is more",
    help="Seconds after which a clip is stopped and counted as failed.",
)
task_index = click.option(
    "--task-index", type=click.IntRange(0, MOST_TASKS - 1), help="Number of this task, from 0.  [the array job's]"
)
num_tasks = click.option(
    "--num-tasks", type=click.IntRange(1, MOST_TASKS), help="Total number of tasks.  [the array job's]"
)


def selected_task(index: int | None, count: int | None) -> tuple[int, int]:
    """Return the task and the number of tasks, as `tasks.select` does; UsageError if the options contradict."""
    try:
        return tasks.select(index, count)
    except tasks.TaskOptionError as error:
        raise click.UsageError(str(error)) from error


dry_run = click.option("--dry-run", is_flag=True, help="Show what would be done, then stop.")
strict = click.option("--strict", is_flag=True, help="Exit with status 3 if any clip failed.")

accept_versions = click.option(
    "--accept-versions",
    is_flag=True,
    help="Continue an OUT that was started with other library versions, and record them.",
)

shard_size = click.option(
    "--shard-size",
    type=click.IntRange(1, 1_000_000),
    show_default="500, or what OUT has",
    help="Clips per shard; it must be the same for all columns of an OUT.",
)
max_seconds = click.option(
    "--max-seconds",
    type=Number(0, 86_400, min_open=True),
    default=1800.0,
    help="Maximum clip length in seconds; it bounds a worker's memory.",
)
limit = click.option("--limit", type=click.IntRange(1, MOST), help="Process only the first clips of each split.")


def setting(text: str) -> Callable[[F], F]:
    """--set, a setting of the model; `davs_model.settings` checks its value."""
    return click.option("--set", "overrides", type=OneLine(), multiple=True, metavar="SECTION.NAME=VALUE", help=text)


def preset(text: str, default: str | None = None) -> Callable[[F], F]:
    """--preset, one of the model's; `davs_model.settings` defines them."""
    text += "" if default else "  [paper; sync: small]"
    return click.option("--preset", type=OneLine(100), default=default, metavar="NAME", help=text)


def check_preset(name: str | None, known: Iterable[str]) -> None:
    """Refuse a preset that the model does not have."""
    if name is not None and name not in (names := tuple(known)):
        raise click.BadParameter(f"{name!r} is not one of {', '.join(names)}.", param_hint="'--preset'")


def seed(text: str) -> Callable[[F], F]:
    """--seed; text: what it draws or shuffles."""
    return click.option("--seed", type=click.IntRange(0, MOST_SEED), default=0, help=text)


audio_track = click.option(
    "--audio-track",
    type=click.IntRange(0, 999),
    show_default="the file's default track",
    help="Audio track to read, from 0.",
)
audio_channel = click.option(
    "--audio-channel",
    type=click.IntRange(0, 511),
    show_default="front centre of surround, else 0; another if that is silent",
    help="Audio channel to read, from 0.",
)


def of_layouts(command: F) -> F:
    """Options of the layouts, as their `scan` functions declare them."""
    return _all_of(command, *map(_of_layout, layouts.options()))


def _of_layout(option: layouts.Option) -> Callable[[F], F]:
    """Return an option of one or more layouts; its value is None if it is not given."""
    by_meaning: dict[str, list[str]] = {}
    for layout, meaning in option.help.items():
        by_meaning.setdefault(meaning, []).append(layout)
    text = " ".join(f"{', '.join(names)}: {meaning}" for meaning, names in by_meaning.items())
    defaults = {layout: value for layout, value in option.default.items() if value not in (None, False)}
    if len({*defaults.values()}) == 1:
        text += f"  [{next(iter(defaults.values()))}]"
    elif defaults:
        text += f"  [{'; '.join(f'{layout}: {value}' for layout, value in defaults.items())}]"
    name = f"--{option.name.replace('_', '-')}"
    if option.kind is bool:
        return click.option(name, is_flag=True, default=None, help=text)
    kind: click.ParamType[Any] = click.Choice(option.choices) if option.choices else _LAYOUT_KINDS[option.kind]
    return click.option(name, type=kind, help=text)


_LAYOUT_KINDS: dict[type[Any], click.ParamType[Any]] = {
    float: Number(0, 1, max_open=True),
    str: Text(),
    int: click.IntRange(0, MOST),
    Path: OUT,
}


_OF_A_TASK = (task_index, num_tasks, accept_versions, dry_run, strict, as_json, verbosity)
"""Options of every command that fills shards, after its own."""


def run_options(command: F) -> F:
    """Options of the commands that fill shards."""
    return _all_of(command, jobs, shard_size, clip_timeout, max_seconds, limit, root, *_OF_A_TASK)


def sync_run_options(command: F) -> F:
    """Options of the command that fills a column from others and takes their manifest and shard size."""
    return _all_of(command, jobs, clip_timeout, *_OF_A_TASK)


def retry_options(command: F) -> F:
    """Options of the command that fills shards again."""
    return _all_of(command, jobs, clip_timeout, root, *_OF_A_TASK)


def _all_of(command: F, *decorators: Callable[[F], F]) -> F:
    for option in reversed(decorators):
        command = option(command)
    return command
