"""The public API of `avprep`: make a manifest, fill both columns, verify them, read them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from avprep import columns, files, layouts, offsets, schema, shards
from avprep import manifest as manifests
from avprep.bounds import as_path, check_flag, check_whole
from avprep.errors import SettingsError, ShardError, short
from avprep.manifest import Manifest
from avprep.media.mfcc import Preset
from avprep.quality.verify import verify as find_problems
from avprep.runs import fingerprint
from avprep.runs.run import Outcome
from avprep.shards.image import decode_image
from avprep.speaking import JudgeBuilder
from avprep.stages import Align, CropSettings, ImageFormat, MfccSettings

Split = Literal["train", "val", "test"]
log = logging.getLogger("avprep")


class RunOptions(TypedDict, total=False):
    """Options of a run that fills shards.

    shard_size: clips per shard; default: that of an existing OUT, else 500.
    clip_timeout: seconds after which a clip fails; by default 120, or 10 times its length.
    task_index, num_tasks: fill only every `num_tasks`-th shard, starting from shard `task_index`.
    accept_versions: continue an OUT that was started with other library versions.
    verbosity: -1: no progress on standard error; 1: also a line for every clip.
    """

    shard_size: int | None
    clip_timeout: float | None
    task_index: int
    num_tasks: int
    accept_versions: bool
    verbosity: int


def _checked(options: RunOptions) -> RunOptions:
    """Return the options of a run, checked before OUT is created.

    Raises SettingsError, one line, for an unknown option or an invalid value.
    """
    for name in options.keys() - RunOptions.__annotations__.keys():
        raise SettingsError(f"{name} is not an option: a run takes {', '.join(RunOptions.__annotations__)}")
    check_flag("accept_versions", options.get("accept_versions", False))
    check_whole("verbosity", options.get("verbosity", 0), -1)
    return options


def _opened(manifest: Manifest | Path | str, root: Path | str | None) -> Manifest:
    """Return a manifest, or that of a file; see `avprep.manifest.opened`; SettingsError for an invalid path."""
    plan = manifest if isinstance(manifest, Manifest) else as_path("manifest", manifest)
    return manifests.opened(plan, None if root is None else as_path("root", root))


def index(
    layout: str,
    root: Path | str,
    *,
    output: Path | str | None = None,
    seed: int = 0,
    limit: int | None = None,
    **options: Any,
) -> Manifest:
    """Scan a data set into a manifest.

    layout: one of `avprep.layouts.NAMES`. root: the folder that holds the data set.
    output: also write the manifest to this file; an existing file is replaced.
    seed: shuffles the rows within each split. limit: keep only the first `limit` clips of each split.
    options: those of the layout, such as `sentences=True` or `pattern="{speaker}/{word}/*"`.

    Files from which no clip can be made are logged as warnings of the logger `avprep`.
    Raises ManifestError if no clip is found, if several clips share a key, or for an unknown option of the layout or an
    invalid value of one. Raises SettingsError for an invalid `seed`, `limit` or path. Each message is one line.
    """
    check_whole("seed", seed, 0)
    if limit is not None:
        check_whole("limit", limit, 1)
    if isinstance(options.get("audio_root"), str):
        options["audio_root"] = Path(options["audio_root"])
    target = None if output is None else as_path("output", output)
    found, scan = layouts.index(layout, as_path("root", root), seed=seed, limit=limit, **options)
    for problem in scan.problems:
        log.warning("%s: %s: %s", problem.kind, problem.path, problem.message)
    if target is not None:
        files.write_text(target, manifests.render(found))
    return found


def crop(
    manifest: Manifest | Path | str,
    out: Path | str,
    *,
    detector: str = "auto",
    align: Align = CropSettings.align,
    every: int = CropSettings.every,
    min_face: float = CropSettings.min_face,
    image_format: ImageFormat = CropSettings.image_format,
    subject: Literal["auto", "largest", "central", "speaking"] = "auto",
    judge: JudgeBuilder | None = None,
    max_seconds: float = CropSettings.max_seconds,
    jobs: int | None = None,
    root: Path | str | None = None,
    **options: Unpack[RunOptions],
) -> Outcome:
    """Detect, track, align and crop the faces of a manifest's clips to 256×256, into OUT/crop.

    manifest: a Manifest or the path of its file. root: the data set's folder, if it was moved since it was indexed.
    detector, subject: `auto` takes those of an existing OUT, else the best detector here and what suits the clips.
    judge: builds the model that scores who speaks, for `speaking`: a `davs_model.sync.speaker.SpeakerJudge`.
    align, every, min_face, image_format, max_seconds: see `avprep.stages.CropSettings`.
    jobs: worker processes; by default one per core, for face-alignment at most four. options: see `RunOptions`.

    Finished shards are kept: after an interruption, make the same call again. Returns how many clips are ok and how
    many failed, by reason. Raises SettingsError for an unknown option or an invalid value, and RunError if OUT belongs
    to another run or cannot be written. Each message is one line.
    """
    if judge is not None and not isinstance(judge, JudgeBuilder):
        raise SettingsError(f"judge must be a davs_model.sync.speaker.SpeakerJudge, not {short(judge)}")
    filling = columns.crop(
        _opened(manifest, root),
        as_path("out", out),
        jobs=jobs,
        judge=lambda: judge,
        detector=detector,
        align=align,
        every=every,
        min_face=min_face,
        image_format=image_format,
        subject=subject,
        max_seconds=max_seconds,
    )
    if judge is not None and filling.stage.settings.subject != "speaking":
        raise SettingsError("judge is for the subject speaking: give both, or neither")
    return filling.run(**_checked(options))


def mfcc(
    manifest: Manifest | Path | str,
    out: Path | str,
    *,
    preset: Preset = MfccSettings.preset,
    audio_shift_ms: float = MfccSettings.audio_shift_ms,
    audio_track: int | None = MfccSettings.audio_track,
    audio_channel: int | None = MfccSettings.audio_channel,
    audio_offset: Literal["sync"] | None = None,
    min_confidence: float = offsets.MIN_CONFIDENCE,
    max_seconds: float = MfccSettings.max_seconds,
    jobs: int | None = None,
    root: Path | str | None = None,
    **options: Unpack[RunOptions],
) -> Outcome:
    """Compute one 12×20 MFCC window per video frame of a manifest's clips, into OUT/mfcc.

    preset: `davs`, the released MATLAB chain, or `syncnet`, python_speech_features; they are not interchangeable.
    audio_shift_ms: delay of the audio. audio_track, audio_channel: which to read, from 0; None: the file's default.
    audio_offset: `sync` delays the audio of each clip by its lead in OUT/sync, unless the lead's confidence is below
    min_confidence. Existing windows without this delay are kept as OUT/mfcc-unmoved.
    For the other parameters and the result see `crop`.
    """
    filling = columns.mfcc(
        _opened(manifest, root),
        as_path("out", out),
        jobs=jobs,
        audio_offset=audio_offset,
        min_confidence=min_confidence,
        preset=preset,
        audio_shift_ms=audio_shift_ms,
        audio_track=audio_track,
        audio_channel=audio_channel,
        max_seconds=max_seconds,
    )
    return filling.run(**_checked(options))


def verify(out: Path | str, *, jobs: int = 1) -> None:
    """Read every shard of OUT, and check that each clip of the manifest is accounted for.

    Raises ShardError, which names the first problem and the number of others; `avprep verify OUT` lists them all.
    Raises RunError if no run was ever started in OUT, SettingsError for an invalid argument.
    """
    check_whole("jobs", jobs, 1)
    if problems := find_problems(as_path("out", out), jobs):
        more = f", and {len(problems) - 1} more: see `avprep verify {out}`" if len(problems) > 1 else ""
        raise ShardError(f"{problems[0]}{more}")


@dataclass(frozen=True, eq=False)
class Example:
    """One clip of T frames as shards hold it, both columns joined.

    windows: float32 (T, 12, 20), the MFCC window of each frame. valid: bool (T,), whether it holds only real audio.
    word, speaker: None if unknown. labels: the manifest's other labels, such as `emotion`, by name.
    members: the encoded members of both columns.
    """

    key: str
    split: str
    word: str | None
    speaker: str | None
    labels: Mapping[str, str]
    windows: NDArray[np.float32]
    valid: NDArray[np.bool_]
    members: Mapping[str, bytes]

    @cached_property
    def frames(self) -> NDArray[np.uint8]:
        """The aligned face in each frame: uint8 (T, 256, 256, 3), RGB; decoded on first access.

        Raises ShardError, naming the frame, if one cannot be decoded.
        """
        image_format = schema.image_format(self.members)
        frames = np.empty((len(self.windows), schema.CROP_SIZE, schema.CROP_SIZE, 3), np.uint8)
        for n in range(len(frames)):
            member = schema.frame_member(n, image_format)
            picture = decode_image(self.members.get(member, b""))
            if picture is None:
                raise ShardError(f"{self.key}: {member} is missing or no picture of 256×256")
            frames[n] = picture
        return frames


def open(out: Path | str, *, split: Split | None = None) -> Iterator[Example]:  # noqa: A001 - as avprep.open
    """Yield the clips of OUT that are ok in both columns, in the manifest's order, one in memory at a time.

    split: `train`, `val` or `test`; None: all of them.
    Raises RunError if a column was never started, ShardError if a shard is unfinished or damaged, SettingsError if OUT
    is not a path, ValueError for an unknown split.
    """
    folder = as_path("out", out)
    if split is not None and not (isinstance(split, str) and split in manifests.SPLITS):
        raise ValueError(f"split is one of {', '.join(manifests.SPLITS)}, not {short(split)}")
    started = {column: fingerprint.started(folder, column) for column in schema.COLUMNS}
    return _examples(folder, fingerprint.shard_names(folder, started["crop"], split))


def _examples(out: Path, names: list[str]) -> Iterator[Example]:
    for name in names:
        for key, members in shards.read_joined(out, name):
            try:
                facts = schema.decode_json(members[schema.METADATA["crop"]])
                windows, valid = (schema.decode_array(members[member]) for member in ("mfcc.npy", "valid.npy"))
            except KeyError as error:
                raise ShardError(f"{out}: {name}: {key}: {error.args[0]} is missing") from error
            except ShardError as error:
                raise ShardError(f"{out}: {name}: {key}: {error}") from error
            word, speaker = facts.get("word"), facts.get("speaker")
            labels = facts.get("labels") or {}
            yield Example(key, name.partition("-")[0], word, speaker, labels, windows, valid, members)
