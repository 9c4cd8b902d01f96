"""Commands that show the contents of shards. Heavy imports wait until a command runs."""

from __future__ import annotations

from pathlib import Path

import click

from avprep import files
from avprep.errors import plural
from avprep_cli import kinds, options, say, summary


@click.command()
@click.argument("outs", metavar="OUT [OTHER_OUT]", nargs=-1, required=True, type=options.EXISTING_OUT)
@click.option("-o", "--output", type=kinds.Output(".html"), required=True, help="The page to write, .html.")
@click.option("--compare", is_flag=True, help="Compare two runs of one manifest: OUT and OTHER_OUT.")
@options.root
@options.seed("Random seed; it draws the clips that are shown.")
@options.verbosity
def report(outs: tuple[Path, ...], output: Path, compare: bool, root: Path | None, seed: int) -> None:
    """Make a page about OUT: totals, failures, distributions.

    The page has a table of failures with frames of their videos, distributions, contact sheets with the detected
    points, the worst clips by each measure, settings and digests. With --compare it shows which clips changed state
    between two runs of one manifest, for example with two detectors, and how far apart their points and crops are.
    Pages need no network. For a large data set they show a sample, and state this.

    \b
    avprep report OUT -o report.html
    avprep report OUT -o report.html --root /new/place/of/the/videos
    avprep report --compare OUT OTHER_OUT -o compare.html
    """
    if len(outs) != 1 + compare:
        raise click.UsageError("give two folders with --compare" if compare else "give one OUT, or two with --compare")
    if compare:
        from avprep.quality import compare as comparison

        files.write_text(output, comparison.page(*outs, seed=seed))
        summary.show(f"{output}: {outs[0]} beside {outs[1]}, {output.stat().st_size / 1e6:.1f} MB")
        return
    from avprep.quality import report as library

    made = library.report(outs[0], root=root, seed=seed)
    files.write_text(output, made.page)
    failures = plural(made.n_failures, "failure")
    if made.n_problems:
        then = [summary.line("verify", outs[0])]  # damaged files may hide what is missing
    else:
        then = summary.next_steps(outs[0], summary.line("train", outs[0], "RUN"))
    summary.show(
        f"{output}: {plural(made.n_clips, 'clip')} ok in at least one column, "
        f"{say.bad(failures) if made.n_failures else failures}, "
        f"{plural(made.n_problems, 'problem')}, {output.stat().st_size / 1e6:.1f} MB",
        then=then,
    )


@click.command()
@click.argument("out", type=options.EXISTING_OUT)
@click.argument("key", type=kinds.Text())
@click.option(
    "-o", "--output", type=kinds.Output(".png"), help="The image to write, .png.  [KEY with _ for /, and .png]"
)
@click.option(
    "--frames",
    type=kinds.FrameNumbers(),
    metavar="N,N,…",
    help="Frames whose windows are outlined: 0,12,28.  [first, middle, last]",
)
@click.option(
    "--play", "film", type=kinds.Output(".mp4"), help="Also write the crops as a video with the audio in sync, .mp4."
)
@options.root
@options.verbosity
def inspect(
    out: Path, key: str, output: Path | None, frames: tuple[int, ...] | None, film: Path | None, root: Path | None
) -> None:
    """Draw one clip: crops, points, waveform and MFCCs.

    All are drawn on one time axis. If the clip failed in a column or its shard is missing, the picture states this.
    Only the clip's own shard is read.

    \b
    avprep inspect OUT s1/bbaf2n/0-bin
    avprep inspect OUT s1/bbaf2n/0-bin -o bin.png --frames 0,12,28 --play bin.mp4
    """
    from avprep.quality import clip_picture, clip_view
    from avprep.shards.image import write_png

    view = clip_view.read(out, key, root)
    options.spare(film, view.root / view.clip.video, *([view.root / view.clip.audio] if view.clip.audio else []))
    path = Path(f"{clip_view.file_name(key)}.png") if output is None else output
    options.folder_there(path, film)
    picture = clip_picture.draw(view, frames)
    write_png(path, picture)
    said = ", ".join(f"{name} {part.words}" for name, part in (("crop", view.crop), ("mfcc", view.mfcc)))
    done = f"{path}: {said}, {plural(view.n_frames, 'frame')}"
    if film is not None:
        silent = clip_view.play(view, film)
        done += f"\n{film}: {view.n_frames / 25:.2f} s" + (f", without sound: {silent}" if silent else "")
    summary.show(done)


COMMANDS: tuple[click.Command, ...] = (report, inspect)
