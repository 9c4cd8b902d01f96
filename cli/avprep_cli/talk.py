"""The command that makes photos talk. Heavy imports wait until it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from avprep.errors import plural
from avprep_cli import kinds, options, say, summary

if TYPE_CHECKING:
    from avprep.talking.driver import Driver
    from avprep.talking.person import Person
    from davs_model.film import Counted
    from davs_model.generation import Talker

MANY_PEOPLE = 50
"""Minimum speakers in training from which a model can be expected to keep the appearance of an unseen photo."""
RUN = PATH = options.EXISTING


@click.command()
@click.argument("run", type=RUN)
@click.option(
    "--face",
    "faces",
    type=PATH,
    multiple=True,
    required=True,
    help="A photo of the face that talks. Several show one person, unless --grid is given; without it the video "
    "shows the first, or with etgan the one with the largest weight.",
)
@click.option("--audio", type=PATH, help="Speech that drives the face: a file with audio, or a folder of N.bin.")
@click.option("--video", type=PATH, help="A talking face that drives the face: a video, or a folder of aligned N.jpg.")
@click.option("-o", "--output", type=kinds.Output(".mp4"), required=True, help="The video to write, .mp4.")
@click.option("--face-box", type=kinds.Box(), help="The face's box in the photo, in pixels.  [the largest face]")
@click.option("--aligned", is_flag=True, help="The photos are already crops: 256×256, or the released code's 260×260.")
@click.option(
    "--one-person",
    is_flag=True,
    help="The photos show one person, as always without --grid; not allowed with --grid. This is not checked.",
)
@click.option("--grid", is_flag=True, help="Show several faces side by side, their photos above.")
@click.option("--paste-back", is_flag=True, help="Put the talking face back into the photo.")
@options.speech_scale
@click.option(
    "--adapt-steps",
    type=click.IntRange(0, 100_000),
    default=0,
    help="Steps of fine-tuning before generation: to --person, else to the photo outside the mouth.",
)
@click.option(
    "--person", type=PATH, help="A few seconds of video of the person, up to 20, as more pictures of the face."
)
@click.option(
    "--expression",
    type=PATH,
    help="A few seconds of video, up to 20, or a photo of any person's face with the expression to show.",
)
@click.option("--emotion", type=kinds.OneLine(100), help="An emotion to show, one the model was trained on.  [neutral]")
@click.option("--weights-plot", type=kinds.Output(".png"), help="Plot of the weight of each modality to write, .png.")
@options.seed("Random seed of --adapt-steps.")
@options.audio_track
@options.audio_channel
@options.max_length
@options.detector
@options.device
@options.threads
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
    one_person: bool,
    grid: bool,
    paste_back: bool,
    person: Path | None,
    max_seconds: float,
    detector: str,
    device: str,
    audio_track: int | None,
    audio_channel: int | None,
    **how: Any,
) -> None:
    """Make a face photo talk, as a video with its audio.

    RUN is a folder written by `avprep train` or `avprep import-checkpoint`. The largest face of the photo is detected
    and aligned like the crops. The video has 25 fps. Memory does not grow with the length of audio or video;
    --max-seconds bounds the time. The last example uses files prepared by the released code.

    \b
    avprep generate RUN --face photo.jpg --audio speech.wav -o out.mp4
    avprep generate RUN --face photo.jpg --video driver.mp4 --paste-back \\
        -o out.mp4
    avprep generate RUN --face a.jpg --face b.jpg --audio speech.wav --grid \\
        -o grid.mp4
    avprep generate RUN --face photo.jpg --person person.mp4 \\
        --adapt-steps 100 --audio speech.wav -o out.mp4
    avprep generate RUN --face a.jpg --audio a.wav --emotion happy -o out.mp4
    avprep generate RUN --face 0.jpg --aligned --audio windows/ -o out.mp4
    """
    tracks = {"audio_track": audio_track, "audio_channel": audio_channel}
    _check_faces(faces, face_box, aligned=aligned, grid=grid, paste_back=paste_back, person=person, one=one_person)
    _check_speech(audio, video, how["speech_scale"], **tracks)
    _check_written(output, how["weights_plot"], audio, video, person, how["expression"], *faces)
    if how["expression"] is not None and how["emotion"] is not None:
        raise click.UsageError("give either --expression or --emotion")
    from avprep.talking import inputs
    from davs_model.film import PhotoTalker

    device = options.chosen_device(device)
    say.detail(f"generate: on {device}")
    talker = PhotoTalker.load(run, device=device)
    talker.expression(emotion=how["emotion"])  # an unknown one is refused before any photo is read
    shown: Any = {"choosable": len(faces) == 1, "remark": say.once, "detail": say.detail}
    photos = inputs.read_photos(faces, detector=detector, box=face_box, aligned=aligned, paste_back=paste_back, **shown)
    _tell_what_to_expect(run, talker)
    driver = read_driver(audio, video, detector, talker, max_seconds, **tracks)
    how |= {"person": _read_person(person, detector, talker, how["adapt_steps"]), "detector": detector}
    film = talker.film(photos, driver, output, grid=grid, paste_back=paste_back, counted=progress(output), **how)
    heard = "" if film.sound else ", without sound: there is none to it"
    summary.show(
        f"{output}: {plural(film.n_frames, 'frame')}, {film.seconds:.2f} s{heard}",
        facts={"frames": film.n_frames, "seconds": film.seconds, "sound": film.sound, "where": [str(output)]},
    )


def _tell_what_to_expect(run: Path, talker: Talker) -> None:
    """Print what the model's last validation and training data suggest about other faces."""
    if talker.doubt:
        say.echo(f"warning: {talker.doubt}", err=True)
    elif talker.measured:
        say.once(f"{run}: in its last validation {talker.measured}; photos unlike its training data come out worse")
    if talker.people is not None and talker.people < MANY_PEOPLE:
        say.once(
            f"{run}: has learned from {plural(talker.people, 'speaker')}: other faces may lose their looks or move less"
        )


def _check_faces(
    faces: tuple[Path, ...],
    face_box: tuple[float, float, float, float] | None,
    *,
    aligned: bool,
    grid: bool,
    paste_back: bool,
    person: Path | None,
    one: bool,
) -> None:
    """Raise UsageError if the options of the photos do not fit together."""
    if one and grid:
        raise click.UsageError("--one-person puts several photos together, --grid shows several people")
    if paste_back and (grid or aligned):
        raise click.UsageError("--paste-back needs a single photo that is not aligned yet, and no --grid")
    if person and grid:
        raise click.UsageError("--person is a video of one person, --grid shows several")
    if face_box and (aligned or len(faces) > 1):
        raise click.UsageError("--face-box is for a single photo that is not aligned yet")


def _check_written(output: Path, plot: Path | None, *read: Path | None) -> None:
    """Raise UsageError if a file to write is also read, RunError if its folder does not exist."""
    for path in (output, plot):
        if path is not None:
            options.spare(path, *read)
            options.folder_there(path)


def _check_speech(
    audio: Path | None, video: Path | None, speech_scale: float, audio_track: int | None, audio_channel: int | None
) -> None:
    """Raise UsageError if the options of the speech do not fit together."""
    if (audio is None) == (video is None):
        raise click.UsageError("give either --audio or --video")
    if video is not None and speech_scale != 1:
        raise click.UsageError("--speech-scale is a factor of the features of sound: it needs --audio")
    if video is not None and audio_channel is not None:
        raise click.UsageError("--audio-channel chooses what drives the face: it needs --audio")
    prepared = (path := audio or video) is not None and path.is_dir()
    if prepared and (audio_track is not None or audio_channel is not None):
        raise click.UsageError("--audio-track and --audio-channel are for files, not for prepared folders")


def read_driver(
    audio: Path | None,
    video: Path | None,
    detector: str,
    talker: Talker,
    max_seconds: float,
    audio_track: int | None = None,
    audio_channel: int | None = None,
) -> Driver:
    """Read the driver of the face: --audio or --video."""
    from avprep.talking import inputs

    path = video if audio is None else audio
    assert path is not None
    wanted: Literal["audio", "video"] = "video" if audio is None else "audio"
    if (by := talker.driver(wanted)) != wanted:
        say.once(f"{path}: its audio drives the face: the model {talker.model.name} takes nothing else")
    found = inputs.read_driver(
        path,
        by,
        preset=talker.mfcc_preset,
        detector=detector,
        max_seconds=max_seconds,
        track=audio_track,
        channel=audio_channel,
        remark=say.once,
    )
    if found.kind not in talker.drawn_from:
        learned = f"the model has learned to draw from {talker.drawn_from[0]} alone"
        say.echo(f"warning: {path}: {learned}: a face driven by {found.kind} may not talk", err=True)
    if audio is not None and (found.track or found.channel):
        say.aside(f"{audio}: audio track {found.track}, channel {found.channel}")
    return found


def _read_person(path: Path | None, detector: str, talker: Talker, adapt_steps: int) -> Person | None:
    """Read --person; warn if the model cannot learn the mouth from it."""
    if path is None:
        return None
    from avprep.talking import inputs

    person = inputs.read_person(path, preset=talker.mfcc_preset, detector=detector, remark=say.once)
    if adapt_steps and person.windows is None and "video" not in talker.drawn_from:
        learned = "the model has learned to draw from audio alone, so --adapt-steps teaches it nothing of the mouth"
        say.echo(f"warning: {path}: has no sound, and {learned}: give a video in which the person is heard", err=True)
    return person


def progress(output: Path) -> Counted:
    """Return a function that shows how many frames of a video are written."""
    from avprep.runs.progress import counted

    return lambda frames, total: counted(frames, f"generate {output.name}", total, "frame", quiet=say.quiet())


COMMANDS = (generate,)
