"""`avprep demo`: every step once, on a corpus that it makes itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from avprep import files, layouts, manifest
from avprep.errors import RunError, plural
from avprep.schema import FPS
from avprep_cli import data, kinds, options, say, summary

if TYPE_CHECKING:
    from avprep.columns import Filling
    from avprep.runs.fingerprint import ColumnStage

TRAINING = (
    "steps.identity=0",
    "data.jitter=0.35",
    "generation.video=0",
    "loop.validate_every=5000",
    "loop.sample_every=5000",
    "loop.save_every=500",
    "loop.talking_clips=10",
)
"""Settings of the demo's model, over the preset `small`; unseen people need more varied colours, and no cached features
of video, without which clips are shifted and mirrored."""
BATCH = 8
"""Clips per step, or all training clips if there are fewer."""
UNHEARD = 10_000
"""Take of the words in the demo's last videos: no corpus has so many takes."""
WORDS_SPOKEN = 5
"""Maximum words in the demo's last videos."""


@click.command()
@click.argument("directory", metavar="DIR", type=options.OUT)
@click.option("--words", type=click.IntRange(1, 26), default=5, help="Words in the corpus.")
@click.option("--speakers", type=click.IntRange(1, 10_000), default=24, help="Speakers in the corpus.")
@click.option("--takes", type=click.IntRange(1, 10_000), default=1, help="Clips per word and speaker.")
@click.option("--emotions", is_flag=True, help="Each speaker says each word in five labelled emotions.")
@click.option(
    "--no-smiles",
    "smiles",
    is_flag=True,
    flag_value=False,
    default=True,
    show_default=False,
    help="Nobody smiles; without it most speakers do, each to a degree of their own, but not with --emotions.",
)
@options.seed("Random seed of the corpus.")
@click.option(
    "--train-steps",
    type=click.IntRange(0, kinds.MOST),
    default=1000,
    help="Training steps of the generator, after a tenth as many of the speech space; 0: make shards only.",
)
@options.jobs
@options.verbosity
def demo(directory: Path, train_steps: int, jobs: int, **corpus: Any) -> None:
    """Run every step once on a small synthetic corpus.

    It needs no data and no network, and takes some minutes on two cores. DIR then holds the corpus, its manifest, the
    shards, a contact sheet of the crops, a model after a short training on them, the page of its evaluation, and two
    videos. The first shows a generated unseen speaker next to the ground truth, the second a real photo saying the same
    words.
    """
    wanted = _Corpus(**corpus)
    if train_steps:
        _enough_to_train(wanted)
        import torch  # noqa: F401 - if it is missing, fail before minutes of work
    import skimage  # noqa: F401 - if it is missing, fail before the corpus folder is made

    out, picture = directory / "shards", directory / "contact-sheet.png"
    plan = _index(directory, wanted, jobs)
    detector = _fill(plan, out, picture, jobs)
    if not train_steps:
        summary.show(f"Look at {picture}; read the shards with webdataset from {out}")
        return
    model = directory / "model"
    _train(out, model, train_steps, batch=min(BATCH, len(plan.split("train"))))
    page = _evaluate(model, out, directory / "results", detector)
    film = _generate(plan, model, directory, detector, wanted)
    portrait = _animate(model, directory, film, detector)
    summary.show(f"Look at {picture}, {page}, {film} and {portrait}; read the shards with webdataset from {out}")


class _Corpus(NamedTuple):
    """The synthetic corpus: arguments of `synthetic.make_corpus`."""

    words: int
    speakers: int
    takes: int
    emotions: bool
    smiles: bool
    seed: int

    def clips_of(self, people: int) -> int:
        """Return the number of clips of that many people."""
        from avprep.demo import expression

        return self.words * people * self.takes * (len(expression.EMOTIONS) if self.emotions else 1)


def _enough_to_train(corpus: _Corpus) -> None:
    """Raise UsageError for a corpus too small to train on: a split without a person, or a single training clip."""
    from avprep.demo import speech

    splits = speech.people(corpus.speakers, 0)
    if not all(splits.values()):
        raise click.UsageError(
            f"--speakers {corpus.speakers}: training, validation and test need a person each: give 3, or "
            "--train-steps 0"
        )
    if corpus.clips_of(len(splits["train"])) < 2:
        raise click.UsageError("one clip is too little to train on: give more --words or --takes, or --train-steps 0")


def _index(directory: Path, corpus: _Corpus, jobs: int) -> manifest.Manifest:
    """Make the corpus and its manifest."""
    from avprep.demo import synthetic

    folder, path = directory / "corpus", directory / "manifest.jsonl"
    say.story(f"1/9 synthesise {corpus.clips_of(corpus.speakers)} clips of talking faces: {folder}")
    synthetic.make_corpus(folder, **corpus._asdict(), jobs=jobs)
    say.story(f"2/9 index: {path}")
    plan, scan = layouts.index("lrw", folder, seed=corpus.seed)
    plan = replace(plan, dataset="synthetic")  # it only has the folders of LRW
    files.write_text(path, manifest.render(plan))
    # With one or two people there may be a missing split.
    if problems := [problem for problem in scan.problems if corpus.speakers >= 3 or problem.kind != "missing_split"]:
        raise RunError(f"{folder}: {problems[0].path}: {problems[0].message}")
    return plan


def _fill(plan: manifest.Manifest, out: Path, picture: Path, jobs: int) -> str:
    """Fill and verify both columns and draw a contact sheet; return the detector that was used."""
    from avprep import columns
    from avprep.quality import sheet
    from avprep.quality.verify import verify
    from avprep.shards.image import write_png

    crop = columns.crop(plan, out, jobs=jobs, remark=say.once, subject="central")
    detector = crop.stage.settings.detector
    say.story(f"3/9 crop with {detector}: {out / 'crop'}")
    _fill_column(crop)
    say.story(f"4/9 mfcc: {out / 'mfcc'}")
    _fill_column(columns.mfcc(plan, out, jobs=jobs))
    data.refuse(out, verify(out, jobs))
    say.story(f"5/9 verify: every one of {len(plan.clips)} clips is accounted for")
    write_png(picture, sheet.contact_sheet(out))
    return detector


def _fill_column(filling: Filling[ColumnStage]) -> None:
    outcome = filling.run(verbosity=say.verbosity())
    done, where, _ = summary.of_column(outcome, filling.out, filling.stage.column)
    for line in (done, *(f"  {path}" for path in where)):
        say.story(line)


def _train(out: Path, model: Path, steps: int, *, batch: int) -> None:
    from davs_model.models.davs import Model, Settings
    from davs_model.training import loop

    say.story(f"6/9 train the small preset for a few minutes: {model}")
    length = (f"steps.speech={max(1, steps // 10)}", f"steps.full={steps}", f"data.batch_size={batch}")
    preset = Settings.resolve("small", None, [*TRAINING, *length])
    loop.train(out, model, preset, stages=tuple(Model.stages), say=say.story)


def _evaluate(model: Path, out: Path, results: Path, detector: str) -> Path:
    """Evaluate the model on unseen speakers; return the page."""
    from avprep import auto
    from davs_model.evaluation import evaluate as library

    say.story(f"7/9 evaluate on the test split: {results}")
    mouths = auto.mouth_finder(detector, say.once, say.detail)
    metrics = library.evaluate(model, out, results, library.EvaluationSettings(), landmarks=mouths, say=say.story)
    say.story(library.in_words(metrics))
    return results / library.PAGE


def _generate(plan: manifest.Manifest, model: Path, directory: Path, detector: str, corpus: _Corpus) -> Path:
    """Generate a video of a test speaker's still saying words, next to the ground-truth video; return its path."""
    from avprep.demo import synthetic
    from avprep.media.video import Frames
    from avprep.shards.image import write_png
    from avprep_cli.talk import progress
    from davs_model.film import PhotoTalker

    still, spoken, film = (directory / name for name in ("photo.png", "spoken.mp4", "talking.mp4"))
    test = plan.split("test")
    person = test[0].speaker or ""
    said = sorted({clip.word for clip in test if clip.word})[:WORDS_SPOKEN]
    say.story(f"8/9 generate: {still} says what is heard in {spoken}: {film}")
    number = int(person.removeprefix("s"))
    smiles = corpus.smiles and not corpus.emotions
    synthetic.write_sentence(spoken, said, number, UNHEARD, seed=corpus.seed, smiles=smiles)
    write_png(still, next(iter(Frames(plan.root / test[0].video))).rgb())
    talker = PhotoTalker.load(model)
    if talker.doubt:
        say.story(f"warning: {talker.doubt}")
    talker.film(still, spoken, film, beside=spoken, detector=detector, counted=progress(film))
    return film


def _animate(model: Path, directory: Path, spoken: Path, detector: str) -> Path:
    """Generate a video of a real portrait saying the words of a video; return its path."""
    from avprep.demo import drawing
    from avprep.shards.image import write_png
    from avprep.talking import inputs
    from avprep_cli.talk import progress
    from davs_model.film import PhotoTalker

    still, film = directory / "portrait.png", directory / "portrait.mp4"
    say.story(
        f"9/9 generate: {still}, a real photo, says the same: {film}; the model has learned from drawn mouths alone"
    )
    write_png(still, drawing.portrait())
    photos = inputs.read_photos([still], detector=detector, remark=say.once, detail=say.detail)
    PhotoTalker.load(model).film(photos, spoken, film, detector=detector, counted=progress(film))
    return film


@click.command()
@click.argument("out", type=options.EXISTING_OUT)
@click.argument("directory", metavar="DIR", type=options.OUT)
@click.option("--speakers", type=click.IntRange(1, 10_000), default=100, help="Number of synthetic speakers.")
@click.option(
    "--clips",
    type=click.IntRange(1, kinds.MOST),
    default=600,
    help="Maximum clips of OUT per split to dub.",
)
@click.option(
    "--voices",
    type=options.EXISTING_OUT,
    metavar="VOICES",
    help="Recordings of the same words by other voices, VOICES/NAME/KEY.wav, for the training speakers.",
)
@options.seed("Random seed of the people.")
@options.jobs
@options.as_json
@options.verbosity
def dub(out: Path, directory: Path, jobs: int, **given: Any) -> None:
    """Let synthetic speakers say the words of the clips of OUT.

    Each clip is repeated by one of many synthetic speakers, with the clip's own audio, as in the windows of OUT if it
    has any, and its mouth movements. DIR then holds these videos and their manifest. A model trained on both learns
    many faces from few voices. OUT must have crops with 68 landmarks. With --voices the training speakers get
    recordings of the same words by other voices, human or synthetic, and their mouths follow these recordings: OUT must
    then have word times.

    \b
    avprep crop grid.jsonl marked --detector dlib
    avprep dub marked dubbed
    avprep crop dubbed/manifest.jsonl dubbed/shards
    avprep mfcc dubbed/manifest.jsonl dubbed/shards
    """
    from avprep.demo import dubbing

    made = dubbing.dub(out, directory, jobs=jobs, **given)
    path, said_by = directory / dubbing.PLAN, len({clip.speaker for clip in made.clips})
    splits = made.counts()
    counts = ", ".join(f"{split} {count}" for split, count in splits.items())
    left_out = made.extra["left_out"]
    less = f", {left_out} left out: no mouth, or longer than {dubbing.LONGEST // FPS} s" if left_out else ""
    recorded = made.extra.get("recorded", 0)
    heard = f", {recorded} with other voices" if recorded else ""
    summary.show(
        f"{path}: {plural(len(made.clips), 'clip')} ({counts}) by {plural(said_by, 'drawn speaker')}{heard}{less}",
        then=[summary.line("crop", path, directory / "shards")],
        facts={
            "clips": len(made.clips),
            "splits": splits,
            "speakers": said_by,
            "left_out": left_out,
            "recorded": recorded,
            "where": [str(path)],
        },
    )


COMMANDS: tuple[click.Command, ...] = (demo, dub)
