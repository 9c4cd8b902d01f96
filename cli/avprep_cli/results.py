"""Commands of a trained model: talking faces, the paper's tables. Heavy imports wait until a command runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from avprep_cli import kinds, options, say, summary

if TYPE_CHECKING:
    from avprep.talking.driver import Driver
    from davs_model.film import Counted
    from davs_model.generation import Talker
    from davs_model.study.study import Film

MANY_PEOPLE = 50
"""Speakers from which on a model can be expected to keep the looks of a photo that it has not seen."""
RUN = PATH = options.EXISTING


max_length = click.option(
    "--max-seconds",
    type=kinds.Number(0, 86_400, min_open=True),
    default=1800.0,
    show_default=True,
    help="Maximum length of audio or video in seconds.",
)


@click.command()
@click.argument("run", type=RUN)
@click.option(
    "--face",
    "faces",
    type=PATH,
    multiple=True,
    required=True,
    help="A photo of the face that talks; several are of one person, the first of which is shown, unless --grid.",
)
@click.option("--audio", type=PATH, help="Speech that drives the face: any file with audio, or a folder of N.bin.")
@click.option("--video", type=PATH, help="A talking face that drives it: a video, or a folder of aligned N.jpg.")
@click.option("-o", "--output", type=kinds.Output(".mp4"), required=True, help="The video to write, .mp4.")
@click.option("--face-box", type=kinds.Box(), help="Where the face is in the photo, in pixels.  [the largest]")
@click.option("--aligned", is_flag=True, help="The photos are crops already: 256×256, or the released code's 260×260.")
@click.option("--grid", is_flag=True, help="Show several faces side by side, their photos above.")
@click.option("--paste-back", is_flag=True, help="Put the talking face back into the photo.")
@click.option(
    "--speech-scale",
    type=kinds.Number(0, 10, min_open=True),
    default=1.0,
    show_default=True,
    help="Factor of the audio features; the released demo has 1.5.",
)
@click.option(
    "--adapt-steps",
    type=click.IntRange(0, 100_000),
    default=0,
    show_default=True,
    help="Steps that fine-tune the model first: to --person, else to the photo outside the mouth.",
)
@click.option("--person", type=PATH, help="A few seconds of video of the person, up to 20: more pictures of the face.")
@options.seed("Random seed of --adapt-steps.")
@options.audio_track
@options.audio_channel
@max_length
@options.detector
@options.device
@options.as_json
@options.verbosity
def generate(
    run: Path,
    faces: tuple[Path, ...],
    audio: Path | None,
    video: Path | None,
    output: Path,
    face_box: tuple[float, float, float, float] | None,
    aligned: bool,
    grid: bool,
    paste_back: bool,
    speech_scale: float,
    adapt_steps: int,
    person: Path | None,
    seed: int,
    max_seconds: float,
    detector: str,
    device: str,
    **given: int | None,
) -> None:
    """Make a face photo talk, as a video with its audio.

    RUN is what `avprep train` or `avprep import-checkpoint` wrote. The largest face of the photo is detected and
    aligned as the crops were. The video has 25 fps. Memory does not grow with the length of audio or video;
    --max-seconds bounds the time. The last example takes files that the released code prepared.

    \b
    avprep generate RUN --face photo.jpg --audio speech.wav -o out.mp4
    avprep generate RUN --face photo.jpg --video driver.mp4 --paste-back \\
        -o out.mp4
    avprep generate RUN --face a.jpg --face b.jpg --audio speech.wav --grid \\
        -o grid.mp4
    avprep generate RUN --face photo.jpg --person person.mp4 \\
        --adapt-steps 100 --audio speech.wav -o out.mp4
    avprep generate RUN --face 0.jpg --aligned --audio windows/ -o out.mp4
    """
    _check_faces(faces, face_box, aligned=aligned, grid=grid, paste_back=paste_back, person=person)
    _check_speech(audio, video, speech_scale, **given)
    options.spare(output, audio, video, person, *faces)
    options.folder_there(output)
    from avprep.talking import inputs

    shown: Any = {"remark": say.once, "detail": say.detail}
    photos = inputs.read_photos(faces, detector=detector, box=face_box, aligned=aligned, paste_back=paste_back, **shown)
    from davs_model.film import PhotoTalker

    device = options.chosen_device(device)
    say.detail(f"generate: on {device}")
    talker = PhotoTalker.load(run, device=device)
    _tell_what_to_expect(run, talker)
    driver = _driver(audio, video, detector, talker, max_seconds, **given)
    if audio is not None and (driver.track or driver.channel):
        say.aside(f"{audio}: audio track {driver.track}, channel {driver.channel}")
    how: Any = {"speech_scale": speech_scale, "adapt_steps": adapt_steps, "seed": seed, "counted": progress(output)}
    seen: Any = {"person": person, "detector": detector}
    film = talker.film(photos, driver, output, grid=grid, paste_back=paste_back, **seen, **how)
    heard = "" if film.sound else ", without sound: there is none to it"
    summary.show(
        f"{output}: {film.n_frames} frames, {film.seconds:.2f} s{heard}",
        facts={"frames": film.n_frames, "seconds": film.seconds, "sound": film.sound, "where": [str(output)]},
    )


def _tell_what_to_expect(run: Path, talker: Talker) -> None:
    """Remark on what the model's last validation and its training say of other faces."""
    if talker.doubt:
        say.echo(f"warning: {talker.doubt}", err=True)
    elif talker.measured:
        say.once(f"{run}: in its last validation {talker.measured}; photos unlike its training data come out worse")
    if talker.people is not None and talker.people < MANY_PEOPLE:
        say.once(f"{run}: has learned from {talker.people} speakers: other faces may lose their looks or move less")


def _check_faces(
    faces: tuple[Path, ...],
    face_box: tuple[float, float, float, float] | None,
    *,
    aligned: bool,
    grid: bool,
    paste_back: bool,
    person: Path | None,
) -> None:
    """UsageError where the options of the photos do not go together."""
    if paste_back and (grid or aligned):
        raise click.UsageError("--paste-back needs a single photo that is not aligned yet, and no --grid")
    if person and grid:
        raise click.UsageError("--person is a video of one person, --grid shows several")
    if face_box and (aligned or len(faces) > 1):
        raise click.UsageError("--face-box is for a single photo that is not aligned yet")


def _check_speech(
    audio: Path | None, video: Path | None, speech_scale: float, audio_track: int | None, audio_channel: int | None
) -> None:
    """UsageError where the options of the speech do not go together."""
    if (audio is None) == (video is None):
        raise click.UsageError("give either --audio or --video")
    if video is not None and speech_scale != 1:
        raise click.UsageError("--speech-scale is a factor of the features of sound: it needs --audio")
    if video is not None and audio_channel is not None:
        raise click.UsageError("--audio-channel chooses what drives the face: it needs --audio")
    prepared = (path := audio or video) is not None and path.is_dir()
    if prepared and (audio_track is not None or audio_channel is not None):
        raise click.UsageError("--audio-track and --audio-channel are for files, not for prepared folders")


def _driver(
    audio: Path | None,
    video: Path | None,
    detector: str,
    talker: Talker,
    max_seconds: float,
    audio_track: int | None = None,
    audio_channel: int | None = None,
) -> Driver:
    """Read what drives the face: --audio or --video."""
    from avprep.talking import inputs

    path = video if audio is None else audio
    assert path is not None
    wanted: Literal["audio", "video"] = "video" if audio is None else "audio"
    if (by := talker.driver(wanted)) != wanted:
        say.once(f"{path}: its audio drives the face: the model {talker.model.name} takes nothing else")
    return inputs.read_driver(
        path,
        by,
        preset=talker.mfcc_preset,
        detector=detector,
        max_seconds=max_seconds,
        track=audio_track,
        channel=audio_channel,
        remark=say.once,
    )


def progress(output: Path) -> Counted:
    """Return what shows how many frames of a video are written."""
    from avprep.runs.progress import counted

    return lambda frames, total: counted(frames, f"generate {output.name}", total, "frame", quiet=say.quiet())


@click.command()
@click.argument("run", type=RUN)
@click.argument("out", type=options.EXISTING_OUT)
@click.option("-o", "--output", type=options.OUT, required=True, help="Folder for the page, figures and numbers.")
@click.option(
    "--split",
    type=click.Choice(("train", "val", "test")),
    default="test",
    show_default=True,
    help="Split to evaluate on.",
)
@click.option("--limit", type=click.IntRange(1, kinds.MOST), help="Only the first clips of the split.")
@click.option("--baseline", "baselines", type=RUN, multiple=True, help="Another run to show in the tables. Repeatable.")
@click.option(
    "--batch", type=click.IntRange(1, kinds.MOST_BATCH), default=16, show_default=True, help="Clips per batch."
)
@click.option(
    "--workers", type=click.IntRange(0, kinds.MOST_PROCESSES), default=2, show_default=True, help="Loader processes."
)
@click.option(
    "--svm-clips",
    type=click.IntRange(2, kinds.MOST),
    default=5000,
    show_default=True,
    help="Maximum SVM training clips.",
)
@click.option(
    "--mouth-clips",
    type=click.IntRange(0, kinds.MOST),
    default=1000,
    show_default=True,
    help="Maximum clips for mouth landmarks.",
)
@click.option(
    "--talking-clips",
    type=click.IntRange(0, kinds.MOST),
    default=100,
    show_default=True,
    help="Maximum clips generated whole, to measure whether they talk.",
)
@click.option("--sync", type=RUN, help="A RUN of a sync model that judges generated clips beside real ones.")
@click.option("--identity", type=RUN, help="A RUN whose identity encoder judges the clips of a model with expressions.")
@options.seed("Random seed; it draws the identity frames.")
@options.detector
@options.device
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

    Writes evaluation.md with figures, metrics.json with every number and embeddings.h5 with the embeddings of each
    clip; the paper's values stand beside. Word recognition and retrieval need the speech stage, the rest the full stage
    as well. Mouth landmarks need a detector that finds mouths, and its weights. A model with expressions is measured on
    them where the clips have emotions.

    \b
    avprep evaluate RUN OUT -o results/
    avprep evaluate RUN OUT -o results/ --baseline OTHER_RUN
    avprep evaluate RUN OUT -o results/ --sync SYNC_RUN
    """
    from avprep import auto
    from davs_model.evaluation import evaluate as library

    by, whom = (str(judge or "") for judge in (sync, identity))
    settings = library.Settings(batch_size=batch, device=options.chosen_device(device), sync=by, identity=whom, **given)
    say.detail(f"evaluate: {settings}")
    mouths = auto.mouth_finder(detector, say.once, say.detail)
    metrics = library.evaluate(run, out, output, settings, baselines=baselines, landmarks=mouths, say=say.aside)
    for name, reason in metrics["missing"].items():
        say.aside(f"not measured: {name}: {reason}")
    where = [output / name for name in (library.PAGE, library.METRICS, library.EMBEDDINGS)]
    summary.show(
        library.in_words(metrics),
        where=where,
        then=[summary.line("generate", run, *summary.SOME_FILM)],
        facts={"metrics": json.loads(where[1].read_text(encoding="utf-8")), "where": [str(path) for path in where]},
    )


@click.command()
@click.argument("runs", metavar="RUN...", type=RUN, nargs=-1, required=True)
@click.option("--face", "faces", type=PATH, multiple=True, required=True, help="A photo of the face that talks.")
@click.option("--audio", "audios", type=PATH, multiple=True, help="Speech that drives every face. Repeatable.")
@click.option("--video", "videos", type=PATH, multiple=True, help="A talking face that drives every face. Repeatable.")
@click.option(
    "--film",
    "films",
    type=(kinds.Line(200), options.FILE, options.FILE),
    multiple=True,
    metavar="METHOD VIDEO PHOTO",
    help="A video by another method, or a real one, to rate among the others. Repeatable.",
)
@click.option("-o", "--output", type=kinds.Output(".html"), required=True, help="The page to write, .html.")
@click.option(
    "--title",
    type=kinds.Line(500),
    default="Talking faces",
    show_default=True,
    help="Title of the page.",
)
@click.option("--aligned", is_flag=True, help="The photos are crops already: 256×256, or the released code's 260×260.")
@options.seed("Random seed; it shuffles the videos.")
@max_length
@options.detector
@options.device
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

    Every RUN drives every face with every --audio and --video. The page asks of each video whether it is realistic, how
    much of the time mouth and audio are in sync, and whether it shows the person of the photo. It hides which method
    made the video, and saves the answers as CSV. It needs no network: send it to participants and collect their CSVs.

    \b
    avprep study RUN OTHER_RUN --face a.jpg --face b.jpg --audio speech.wav \\
        --video driver.mp4 -o study.html
    avprep study-results study-*.csv
    """
    if not (audios or videos):
        raise click.UsageError("give an --audio or a --video to drive the faces with")
    options.spare(output, *faces, *audios, *videos, *(path for _, film, photo in films for path in (film, photo)))
    import tempfile

    from avprep_cli.data import write_text
    from davs_model.study import study as library

    with tempfile.TemporaryDirectory() as folder:
        made = _study_films(Path(folder), runs, faces, audios, videos, max_seconds, detector, device, aligned=aligned)
        made += [library.Film(method, film, photo, label=photo.stem) for method, film, photo in films]
        write_text(output, library.page(made, title=title, seed=seed))
    methods = sorted({film.method for film in made})
    summary.show(
        f"{output}: {len(made)} videos by {len(methods)} methods: {'; '.join(methods)}",
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
    from avprep_cli.data import write_text
    from davs_model.study import study as library

    table = library.table(library.read(answers))
    if output is not None:
        write_text(output, table)
    say.echo(table, nl=not table.endswith("\n"))


def _study_films(
    folder: Path,
    runs: tuple[Path, ...],
    faces: tuple[Path, ...],
    audios: tuple[Path, ...],
    videos: tuple[Path, ...],
    max_seconds: float,
    detector: str,
    device: str,
    *,
    aligned: bool,
) -> list[Film]:
    """Make a film of every run, face and driver in a folder, and a picture of each face as it was aligned."""
    from avprep.quality import sheet
    from avprep.talking import inputs
    from davs_model.film import PhotoTalker
    from davs_model.study.study import Film

    photos = inputs.read_photos(faces, detector=detector, aligned=aligned, remark=say.once, detail=say.detail)
    shown = []
    for n, one in enumerate(photos):
        shown.append(folder / f"{n}.png")
        sheet.write(one.crop, shown[-1])
    made: list[Film] = []
    for run in runs:
        talker = PhotoTalker.load(run, device=options.chosen_device(device))
        name = str(run) if len({other.name for other in runs}) < len(runs) else run.name
        for audio, video in (*((path, None) for path in audios), *((None, path) for path in videos)):
            driver = _driver(audio, video, detector, talker, max_seconds)
            for face, one, picture in zip(faces, photos, shown, strict=True):
                film = folder / f"{len(made)}-{face.stem}.mp4"
                talker.film(one, driver, film, counted=progress(film))
                source = "audio" if audio is not None else "video"
                label = f"{face.stem}, {(audio or video or face).stem}"
                made.append(Film(f"{name}, from {source}", film, picture, label))
    return made


COMMANDS = (generate, evaluate, study, study_results)
