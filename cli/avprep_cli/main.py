"""The `avprep` command: groups the commands and turns errors into one clear line."""

from __future__ import annotations

import sys
from typing import Any

import click

from avprep import __version__
from avprep.errors import AvprepError
from avprep_cli import bench, cluster, data, demo, look, model, options, results, say, streams


class Commands(click.Group):
    """A group whose commands end in one line, not in a traceback, where the user can mend things."""

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
        except ImportError as error:
            if remedy := _missing_library(error):
                raise click.ClickException(remedy) from error
            raise

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which they are used."""
        return list(self.commands)


def _missing_library(error: ImportError) -> str | None:
    """Return the remedy for the system libraries that opencv-python wants and slim machines lack."""
    if any(library in str(error) for library in ("libGL", "libgthread", "libglib", "libxcb", "libX11", "libSM")):
        return (
            f"opencv-python cannot be loaded ({error}): install the library (Debian: apt install libgl1 libglib2.0-0), "
            "or pip install --force-reinstall --no-deps 'opencv-python-headless<5'"
        )
    return None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="avprep")
@options.verbosity
@click.pass_context
def main(context: click.Context) -> None:
    """Turn videos of talking faces into aligned crops and MFCC windows, in shards that a GPU can eat.

    \b
    avprep index grid GRID -o grid.jsonl      what there is: the plan
    avprep crop grid.jsonl OUT                pictures: aligned 256×256 faces
    avprep mfcc grid.jsonl OUT                sound: a 12×20 window per frame
    avprep verify OUT                         proof that every clip is accounted for
    avprep report OUT -o report.html          a page to look at before you train
    avprep train OUT RUN                      a model that has learned from it
    avprep evaluate RUN OUT -o RESULTS        the paper's tables for it
    avprep generate RUN --face F --audio A -o out.mp4
                                              a face photo that talks
    avprep import-checkpoint FILE RUN         the released weights of DAVS

    `avprep demo DIR` does all of it on a small synthetic corpus.
    """
    say.choose_colour(context)


_modules = (data, cluster, look, model, results, demo, bench)
_in_order = {command.name: command for module in _modules for command in module.COMMANDS}
for name in (
    *("index", "crop", "mfcc", "status", "verify", "retry", "report", "inspect", "slurm", "weights"),
    *("train", "evaluate", "generate", "import-checkpoint", "study", "study-results"),
    *("demo", "bench"),
):
    main.add_command(_in_order[name])
