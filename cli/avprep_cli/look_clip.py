"""A command that shows one clip of a run. Heavy imports wait until it runs."""

from __future__ import annotations

import re
from pathlib import Path

import click

from avprep.errors import RunError
from avprep_cli import options


def _numbers(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Return the numbers of a list with commas."""
    if value is None:
        return None
    parts = [part.strip() for part in value.split(",")]
    if not all(re.fullmatch("[0-9]{1,9}", part) for part in parts):
        raise click.BadParameter(f"{value[:60]!r} is no list of frames such as 0,12,28")
    return tuple(map(int, parts))


@click.command()
@click.argument("out", type=options.EXISTING_OUT)
@click.argument("key")
@click.option("-o", "--output", type=options.FILE, help="The picture to write.  [KEY, / as _, and .png]")
@click.option(
    "--frames",
    metavar="N,N,…",
    callback=_numbers,
    help="Frames whose windows are outlined: 0,12,28.  [first, middle, last]",
)
@click.option("--play", "film", type=options.FILE, help="Write the crops as a film too, with the sound in step, .mp4.")
@options.root
def inspect(
    out: Path, key: str, output: Path | None, frames: tuple[int, ...] | None, film: Path | None, root: Path | None
) -> None:
    """Show one clip of OUT as a picture: crops and points, transforms, sound and MFCC on one time axis.

    What a column does not have, because the clip failed there or its shard is not made, is said in its place. Only the
    clip's own shard is read.

    \b
    avprep inspect OUT s1/bbaf2n/0-bin
    avprep inspect OUT s1/bbaf2n/0-bin -o bin.png --frames 0,12,28 --play bin.mp4
    """
    from avprep import clip_picture, clip_view, sheet

    if output is not None and output.suffix.lower() != ".png":
        raise click.UsageError(f"-o {output}: the picture is a PNG, so name it .png")
    if film is not None and film.suffix.lower() != ".mp4":
        raise click.UsageError(f"--play {film}: the film is an mp4, so name it .mp4")
    view = clip_view.read(out, key, root)
    path = Path(f"{clip_view.file_name(key)}.png") if output is None else output
    picture = clip_picture.draw(view, frames)
    if not path.parent.is_dir():
        raise RunError(f"{path}: cannot write (its folder is not there)")
    sheet.write(picture, path)
    said = ", ".join(f"{name} {part.words}" for name, part in (("crop", view.crop), ("mfcc", view.mfcc)))
    click.echo(f"{path}: {said}, {view.n_frames} frames")
    if film is not None:
        silent = clip_view.play(view, film)
        click.echo(f"{film}: {view.n_frames / 25:.2f} s" + (f", without sound: {silent}" if silent else ""))


COMMANDS: tuple[click.Command, ...] = (inspect,)
