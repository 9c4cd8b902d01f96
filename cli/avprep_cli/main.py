"""The `avprep` command: it groups the subcommands and turns errors into one clear line."""

from __future__ import annotations

from avprep_cli import starting  # isort: skip - before all imports that take time

import os
import sys
from typing import Any

import click

from avprep import __version__
from avprep.errors import AvprepError, missing_library, missing_package
from avprep_cli import ablation, bench, cluster, data, demo, look, measure, model, options, results, say, streams, talk

_NAMES = ("filelock", "h5py", "matplotlib", "pydantic", "safetensors", "tensorboard", "torch", "torchmetrics")
OPTIONAL = {name: name for name in _NAMES}
OPTIONAL |= {"face_alignment": "face-alignment", "skimage": "scikit-image", "sklearn": "scikit-learn"}
OPTIONAL |= {"annotated_types": "pydantic"}  # pydantic requires it
"""Packages that only an extra installs: the pip name of each, by its import name."""
EXTRAS = {
    "inspect": "look",
    "demo": "demo",
    "dub": "demo",
    "bench": "all",
}
"""The extra that a command needs; `model` for all others. Detectors name their own."""
SECTIONS = {
    "Data": ("index", "crop", "mfcc", "sync", "select", "verify", "weights"),
    "Cluster": ("slurm", "status", "retry"),
    "Look": ("report", "inspect"),
    "Model": ("train", "evaluate", "ablate", "generate", "import-checkpoint", "study", "study-results"),
    "Tools": ("demo", "dub", "bench"),
}
"""The commands in the order in which they are used."""
SPINS = "1000"
"""How often a thread of torch looks whether the others are done before it sleeps; by default 300,000 times, which takes
the core from a process that computes, such as the very thread that it waits for."""


class Commands(click.Group):
    """A group whose commands report errors that the user can solve in one line, without a traceback."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the program."""
        streams.make_whole()
        try:
            return super().main(*args, **extra)
        except streams.OutputError as error:
            streams.give_up_output()
            say.echo(f"Error: standard output cannot be written ({error.strerror})", err=True)
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except AvprepError as error:
            raise click.ClickException(say.one_line(str(error))) from error
        except FileNotFoundError as error:
            if _here():
                raise
            raise click.ClickException("the folder that this runs in was removed: cd to one that is there") from error
        except OSError as error:  # may happen anywhere, for example at a folder without permission
            if error.filename is None:
                raise
            raise click.ClickException(say.one_line(f"{error.filename}: {error.strerror}")) from error
        except ImportError as error:
            if remedy := missing_library(error) or _missing_extra(error, ctx.invoked_subcommand or "avprep"):
                raise click.ClickException(remedy) from error
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a list of commands for each section."""
        width = max(map(len, self.commands))
        for section, names in SECTIONS.items():
            rows = [(f"{name:{width}}", self.commands[name].get_short_help_str(limit=100)) for name in names]
            with formatter.section(section):
                formatter.write_dl(rows)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which they are used."""
        return list(self.commands)


def _here() -> bool:
    """Whether the current folder, the base of relative paths, exists."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _missing_extra(error: ImportError, command: str) -> str | None:
    """Return the remedy for an optional package that is not installed."""
    package = (error.name or "").partition(".")[0]
    if package not in OPTIONAL or not isinstance(error, ModuleNotFoundError):
        return None
    return missing_package(f"avprep {command}", OPTIONAL[package], EXTRAS.get(command, "model"))


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True},
)
@click.version_option(__version__, prog_name="avprep")
@options.verbosity
@click.pass_context
def main(context: click.Context) -> None:
    """Turn videos of talking faces into training shards, and train on them.

    \b
    avprep index grid GRID -o grid.jsonl    a manifest, one clip per line
    avprep crop grid.jsonl OUT              video: aligned 256×256 faces
    avprep mfcc grid.jsonl OUT              audio: a 12×20 window per frame
    avprep verify OUT                       every clip is accounted for
    avprep report OUT -o report.html        a page to read before training
    avprep train OUT RUN                    a model
    avprep evaluate RUN OUT -o RESULTS      the paper's tables for it
    avprep generate RUN --face photo.jpg --audio speech.wav -o out.mp4

    `avprep demo DIR` runs all of it on a small synthetic corpus.
    """
    say.choose_colour(context)
    # libgomp reads it when torch is loaded, which a command does.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


_modules = (data, measure, cluster, look, model, results, talk, ablation, demo, bench)
_commands = {command.name: command for module in _modules for command in module.COMMANDS}
for _name in (name for names in SECTIONS.values() for name in names):
    main.add_command(_commands[_name])
starting.done()
