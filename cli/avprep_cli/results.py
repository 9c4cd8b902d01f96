"""Commands that evaluate a trained model: the paper's tables, a user study. Heavy imports wait until a command runs."""

from __future__ import annotations

import filecmp
import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from avprep import files
from avprep.errors import RunError, plural
from avprep_cli import kinds, options, say, summary
from avprep_cli.talk import progress, read_driver

if TYPE_CHECKING:
    from davs_model.study.study import StudyVideo

RUN = PATH = options.EXISTING


@click.command()
@click.argument("run", type=RUN)
@click.argument("out", type=options.EXISTING_OUT)
@click.option("-o", "--output", type=options.OUT, required=True, help="Folder for the page, figures and numbers.")
@click.option("--split", type=click.Choice(("train", "val", "test")), default="test", help="Split to evaluate on.")
@click.option("--limit", type=click.IntRange(1, kinds.MOST), help="Evaluate only the first clips of the split.")
@click.option("--baseline", "baselines", type=RUN, multiple=True, help="Another run to show in the tables. Repeatable.")
@click.option("--batch", type=click.IntRange(1, kinds.MOST_BATCH), default=16, help="Clips per batch.")
@click.option("--workers", type=click.IntRange(0, kinds.MOST_PROCESSES), default=2, help="Loader processes.")
@click.option("--svm-clips", type=click.IntRange(2, kinds.MOST), default=5000, help="Maximum SVM training clips.")
@click.option(
    "--mouth-clips", type=click.IntRange(0, kinds.MOST), default=1000, help="Maximum clips for mouth landmarks."
)
@click.option(
    "--talking-clips",
    type=click.IntRange(0, kinds.MOST),
    default=100,
    help="Maximum clips to generate in full, to measure whether they talk.",
)
@options.speech_scale
@click.option("--sync", type=RUN, help="A RUN of a sync model that measures generated and real clips.")
@click.option(
    "--identity", type=RUN, help="A RUN whose identity encoder measures the clips of a model with expressions."
)
@options.seed("Random seed; it draws the identity frames.")
@options.detector
@options.device
@options.threads
@options.as_json
@options.verbosity
def evaluate(
    run: Path,
    out: Path,
    output: Path,
    detector: str,
    device: str,
    baselines: tuple[Path, ...],
    batch: int,
    sync: Path | None,
    identity: Path | None,
    **given: Any,
) -> None:
    """Evaluate the model of RUN: talking, the paper's tables.

    Writes evaluation.md and evaluation.html with figures, metrics.json with every number and embeddings.h5 with the
    embeddings of each clip. Each table gives the values of the model's paper below. Word recognition and retrieval need
    the speech stage, the rest the full stage as well. Mouth landmarks need a detector that finds mouths, and its
    weights. A model with expressions is also evaluated on them if the clips have emotions.

    \b
    avprep evaluate RUN OUT -o results/
    avprep evaluate RUN OUT -o results/ --baseline OTHER_RUN
    avprep evaluate RUN OUT -o results/ --sync SYNC_RUN
    """
    from avprep import auto
    from davs_model.evaluation import evaluate as library

    by, whom = (str(judge or "") for judge in (sync, identity))
    settings = library.EvaluationSettings(
        batch_size=batch, device=options.chosen_device(device), sync=by, identity=whom, **given
    )
    say.detail(f"evaluate: {settings}")
    mouths = auto.mouth_finder(detector, say.once, say.detail)
    metrics = library.evaluate(run, out, output, settings, baselines=baselines, landmarks=mouths, say=say.aside)
    for name, reason in metrics["missing"].items():
        say.aside(f"not measured: {name}: {reason}")
    where = [output / name for name in (library.PAGE, library.HTML, library.METRICS, library.EMBEDDINGS)]
    summary.show(
        library.in_words(metrics),
        where=where,
        then=[summary.line("generate", run, *summary.SOME_FILM)] if "reconstruction" in metrics else [],
        facts={
            "metrics": json.loads((output / library.METRICS).read_text(encoding="utf-8")),
            "where": [str(path) for path in where],
        },
    )


@click.command()
@click.argument("runs", metavar="RUN...", type=RUN, nargs=-1, required=True)
@click.option("--face", "faces", type=PATH, multiple=True, required=True, help="A photo of the face that talks.")
@click.option("--audio", "audios", type=PATH, multiple=True, help="Speech that drives every face. Repeatable.")
@click.option("--video", "videos", type=PATH, multiple=True, help="A talking face that drives every face. Repeatable.")
@click.option(
    "--film",
    "films",
    type=(kinds.OneLine(200), options.FILE, options.FILE),
    multiple=True,
    metavar="METHOD VIDEO PHOTO",
    help="A video by another method, or a real one, to rate among the others. Repeatable.",
)
@click.option("-o", "--output", type=kinds.Output(".html"), required=True, help="The page to write, .html.")
@click.option("--title", type=kinds.OneLine(200), default="Talking faces", help="Title of the page.")
@click.option("--aligned", is_flag=True, help="The photos are already crops: 256×256, or the released code's 260×260.")
@options.seed("Random seed; it shuffles the videos.")
@options.max_length
@options.detector
@options.device
@options.threads
@options.verbosity
def study(
    runs: tuple[Path, ...],
    faces: tuple[Path, ...],
    audios: tuple[Path, ...],
    videos: tuple[Path, ...],
    films: tuple[tuple[str, Path, Path], ...],
    output: Path,
    title: str,
    aligned: bool,
    seed: int,
    max_seconds: float,
    detector: str,
    device: str,
) -> None:
    """Make the blind user study of the paper's Table 2.

    Every RUN drives every face with every --audio and --video. For each video the page asks whether it is realistic,
    how much of the time mouth and audio are in sync, and whether it shows the person of the photo. It hides which
    method made the video, and saves the answers as CSV. It needs no network: send it to participants and collect their
    CSVs.

    \b
    avprep study RUN OTHER_RUN --face a.jpg --face b.jpg --audio speech.wav \\
        --video driver.mp4 -o study.html
    avprep study-results study-*.csv
    """
    if not (audios or videos):
        raise click.UsageError("give an --audio or a --video to drive the faces with")
    options.spare(output, *faces, *audios, *videos, *(path for _, film, photo in films for path in (film, photo)))
    import tempfile

    from davs_model.study import study as library

    named = _names(runs)
    faces, audios, videos = (tuple(dict.fromkeys(paths)) for paths in (faces, audios, videos))
    made = [library.StudyVideo(method, film, photo, label=photo.stem) for method, film, photo in films]
    # Errors of the page are reported before hours of generation.
    library.check_title(title)
    if made:
        library.page(made, title=title)
    for run, name in named.items():
        library.check_names(str(run), _method(name, "audio"), "")
    for face, driver in itertools.product(faces, (*audios, *videos)):
        library.check_names(f"{face} with {driver}", "any", _label(face, driver))
    with tempfile.TemporaryDirectory() as folder:
        made += _study_films(Path(folder), named, faces, audios, videos, max_seconds, detector, device, aligned=aligned)
        files.write_text(output, library.page(made, title=title, seed=seed))
    methods = sorted({film.method for film in made})
    summary.show(
        f"{output}: {plural(len(made), 'video')} by {plural(len(methods), 'method')}: {'; '.join(methods)}",
        then=["avprep study-results study-*.csv"],
    )


@click.command("study-results")
@click.argument("answers", metavar="CSV...", type=options.FILE, nargs=-1, required=True)
@click.option("-o", "--output", type=kinds.Output(".md"), help="Write the table to this file as well, .md.")
def study_results(answers: tuple[Path, ...], output: Path | None) -> None:
    """Make the paper's Table 2 from the answers of a study.

    \b
    avprep study-results study-*.csv -o table-2.md
    """
    options.spare(output, *answers)
    from davs_model.study import study as library

    table = library.table(library.read(answers))
    if output is not None:
        files.write_text(output, table)
    say.echo(table, nl=not table.endswith("\n"))


def _names(runs: tuple[Path, ...]) -> dict[Path, str]:
    """Return a name for each run: that of its folder, or if two are equal, its path."""
    names = {run: Path(os.path.abspath(run)).name for run in runs}
    return names if len(set(names.values())) == len(names) else {run: str(run) for run in names}


def _method(name: str, kind: str) -> str:
    return f"{name}, from {kind}"


def _label(face: Path, driver: Path) -> str:
    return f"{face.stem}, {driver.stem}"


def _study_films(
    folder: Path,
    runs: Mapping[Path, str],
    faces: tuple[Path, ...],
    audios: tuple[Path, ...],
    videos: tuple[Path, ...],
    max_seconds: float,
    detector: str,
    device: str,
    *,
    aligned: bool,
) -> list[StudyVideo]:
    """Make a video for every run, face and driver in a folder, and a picture of each aligned face."""
    from avprep.shards.image import write_png
    from avprep.talking import inputs
    from davs_model.film import PhotoTalker
    from davs_model.study.study import StudyVideo

    how: Any = {"choosable": False, "remark": say.once, "detail": say.detail}
    photos = inputs.read_photos(faces, detector=detector, aligned=aligned, **how)
    shown = []
    for n, one in enumerate(photos):
        shown.append(folder / f"{n}.png")
        write_png(shown[-1], one.crop)
    device = options.chosen_device(device)
    given = [*((path, path, None) for path in audios), *((path, None, path) for path in videos)]
    # Each run and each driver may be refused, so all are read once before hours of generation. None is kept in memory.
    wanted: dict[Path, dict[tuple[Path, str], tuple[Path | None, Path | None]]] = {run: {} for run in runs}
    for run, own in wanted.items():
        talker = PhotoTalker.load(run, device=device)
        for path, audio, video in given:
            driver = read_driver(audio, video, detector, talker, max_seconds)
            own[path, driver.kind] = audio, video  # one video if audio drives in either case
    for paths in (faces, audios, videos):
        _refuse_copies(paths)
    made: list[StudyVideo] = []
    for run, own in wanted.items():
        talker = PhotoTalker.load(run, device=device)
        for (path, kind), (audio, video) in own.items():
            driver = read_driver(audio, video, detector, talker, max_seconds)
            for face, one, picture in zip(faces, photos, shown, strict=True):
                film = folder / f"{len(made)}.mp4"
                talker.film(one, driver, film, counted=progress(film))
                made.append(StudyVideo(_method(runs[run], kind), film, picture, _label(face, path)))
    return made


def _refuse_copies(paths: tuple[Path, ...]) -> None:
    """Raise RunError if two files have the same name and content: their videos would be the same."""
    for other, path in itertools.combinations(paths, 2):
        if other == path or other.stem != path.stem or not (other.is_file() and path.is_file()):
            continue
        if filecmp.cmp(other, path, shallow=False):
            raise RunError(f"{path}: is the same file as {other}: give one of them")


COMMANDS = (evaluate, study, study_results)
