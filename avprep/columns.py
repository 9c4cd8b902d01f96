"""Fillings of the columns of OUT, with a user's settings or with those of their run.json."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from avprep import auto, manifest, offsets
from avprep.auto import Remark
from avprep.bounds import check_choice, check_number, check_whole
from avprep.errors import RunError, SettingsError
from avprep.manifest import Manifest
from avprep.offsets import MIN_CONFIDENCE, MovedMfccStage
from avprep.runs import fingerprint, tasks
from avprep.runs.fingerprint import ColumnStage
from avprep.runs.run import Outcome, check_options, run
from avprep.shards import finished_head
from avprep.stages import CropSettings, CropStage, MfccSettings, MfccStage

if TYPE_CHECKING:
    from avprep.speaking import JudgeBuilder

S = TypeVar("S", bound=ColumnStage, covariant=True)
_MOVED = ("audio_offset", "min_confidence", "sync")
"""Additional settings of `MovedMfccStage`, besides those of `MfccSettings`."""


@dataclass(frozen=True)
class Filling(Generic[S]):
    """A column to fill with the clips of a manifest; jobs: worker processes."""

    stage: S
    manifest: Manifest
    out: Path
    jobs: int

    @property
    def anew(self) -> bool:
        """Return whether the existing column is going to be set aside."""
        return offsets.replaces_unmoved(self.stage)

    def set_aside(self, remark: Remark = lambda _: None, **options: Any) -> None:
        """Set the existing windows aside if the new ones are to be moved; see `offsets.set_unmoved_aside`.

        options: those of the following `run`: if it would be refused, the existing windows stay in place.
        """
        if not self.anew:
            return
        check_options(self.jobs, **options)
        fingerprint.check(self.stage, self.manifest, self.out, options.get("shard_size"), anew=True)
        if offsets.set_unmoved_aside(self.stage):
            remark(f"mfcc: the windows as they were are kept in {self.out / offsets.UNMOVED}")

    def run(self, **options: Any) -> Outcome:
        """Fill this task's shards; see `avprep.runs.run.run`, whose options these are."""
        self.set_aside(**options)
        return run(self.stage, self.manifest, self.out, jobs=self.jobs, **options)

    def planned(
        self, shard_size: int | None, task_index: int, num_tasks: int, *, accept_versions: bool
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the fingerprint and what the task would do, both as JSON, without doing it; RunError as in `run`."""
        stage, out, anew = self.stage, self.out, self.anew
        size = fingerprint.check(stage, self.manifest, out, shard_size, accept_versions=accept_versions, anew=anew)
        mine = dict(list(self.manifest.shards(size))[task_index::num_tasks])
        # Digests would take hours.
        done = [name for name in mine if not anew and finished_head(out, stage.column, name) is not None]
        return fingerprint.fingerprint(stage, self.manifest, size), {
            "task_index": task_index,
            "num_tasks": num_tasks,
            "planned": list(mine),
            "done": done,
            "planned_clips": sum(map(len, mine.values())),
        }


def crop(
    plan: Manifest,
    out: Path,
    *,
    jobs: int | None = None,
    judge: Callable[[], JudgeBuilder | None] = lambda: None,
    otherwise: str = "auto",
    remark: Remark = auto.log,
    **given: Any,
) -> Filling[CropStage]:
    """Return the Filling of the crop column.

    jobs: None: one per core, for face-alignment at most four. judge: called only for the subject `speaking`.
    given, otherwise: see `auto.crop_settings`.
    """
    settings = auto.crop_settings(plan.dataset, out, given, otherwise=otherwise, remark=remark)
    workers = _workers(jobs, settings.detector)
    stage = crop_stage(plan.root, settings, auto.decoder_threads(workers), _asked(settings.subject, judge))
    return Filling(stage, plan, out, workers)


def mfcc(
    plan: Manifest,
    out: Path,
    *,
    jobs: int | None = None,
    audio_offset: str | None = None,
    min_confidence: float = MIN_CONFIDENCE,
    **given: Any,
) -> Filling[MfccStage]:
    """Return the Filling of the mfcc column, with moved windows if `audio_offset` is `sync`; given: `MfccSettings`."""
    if audio_offset is not None:
        check_choice("audio_offset", audio_offset, ("sync",))
    check_number("min_confidence", min_confidence, 0)
    stage = _mfcc_stage(plan.root, MfccSettings(**given), out, audio_offset, min_confidence)
    return Filling(stage, plan, out, _workers(jobs))


def begun(
    out: Path,
    column: str,
    *,
    jobs: int | None = None,
    root: Path | str | None = None,
    judge: Callable[[], JudgeBuilder | None] = lambda: None,
) -> Filling[CropStage | MfccStage]:
    """Return the Filling with which a column was started; root: the data set's present folder. Others: see `crop`."""
    settings = fingerprint.started(out, column).get("settings", {})
    found = manifest.rooted(fingerprint.read_manifest(out), root)
    workers = _workers(jobs, settings.get("detector", ""))
    asked = _asked(settings.get("subject"), judge)
    return Filling(
        rebuilt(out, column, settings, found.root, auto.decoder_threads(workers), asked), found, out, workers
    )


def rebuilt(
    out: Path, column: str, settings: dict[str, Any], root: Path, threads: int = 1, judge: JudgeBuilder | None = None
) -> CropStage | MfccStage:
    """Return the stage with these `resolved` settings; RunError if they are not valid in this version of avprep.

    judge: builds the active-speaker model, if the column was made with one.
    """
    try:
        if column == "crop":
            return crop_stage(root, CropSettings(**settings), threads, judge)
        heard = MfccSettings(**{name: value for name, value in settings.items() if name not in _MOVED})
    except (TypeError, SettingsError) as error:
        raise RunError(f"{column}: its settings are of another avprep ({error})") from error
    least = float(settings.get("min_confidence", MIN_CONFIDENCE))
    return _mfcc_stage(root, heard, out, settings.get("audio_offset"), least)


def crop_stage(root: Path, settings: CropSettings, threads: int, judge: JudgeBuilder | None) -> CropStage:
    """Return the crop stage; RunError if the subject is `speaking` and there is no active-speaker model."""
    if settings.subject != "speaking":
        return CropStage(root, settings, threads)
    if judge is None:
        raise RunError("crop: the subject is who speaks: give the RUN of a sync model")
    from avprep.speaking import SpeakingCropStage  # imported here: it loads all of face detection

    return SpeakingCropStage(root, settings, threads, judge=judge)


def _workers(jobs: int | None, detector: str = "") -> int:
    """Return the number of workers; by default one per core, for face-alignment at most four."""
    if jobs is None:
        return auto.workers(detector, tasks.cores())
    check_whole("jobs", jobs, 1)
    return jobs


def _asked(subject: str | None, judge: Callable[[], JudgeBuilder | None]) -> JudgeBuilder | None:
    return judge() if subject == "speaking" else None


def _mfcc_stage(root: Path, settings: MfccSettings, out: Path, audio_offset: str | None, least: float) -> MfccStage:
    return MovedMfccStage(root, settings, out, least) if audio_offset else MfccStage(root, settings)
