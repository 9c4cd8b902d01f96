"""The folder of a run: its lock, and the facts of the run in it."""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from avprep import __version__, files, schema
from avprep.errors import RunError, plural
from davs_model import checkpoint, models
from davs_model.data.corpus import Corpus
from davs_model.settings import RunSettings
from davs_model.training import state as states
from davs_model.training.distributed import World
from davs_model.training.sources import foreseen

Say = Callable[[str], None]
"""Shows a line."""


def check_free(run: Path) -> None:
    """Raise RunError for a folder of shards without a run: with RUN forgotten, the last OUT is taken for it."""
    columns = any((run / column / "run.json").exists() for column in schema.ALL_COLUMNS)
    if columns and not (run / states.NAME).exists():
        raise RunError(f"{run}: holds shards, so it is an OUT: give RUN, another folder, after it")


def describe(run: Path, settings: RunSettings, corpus: Corpus, say: Say, stages: Sequence[str] = ()) -> None:
    """Print what a run would do: its settings, clips and networks, and the training clips of these stages."""
    check_free(run)
    say(settings.to_toml())
    for split, clips in (("train", corpus.train), ("val", corpus.val)):
        skipped = "".join(f", {count} left out: {reason}" for reason, count in sorted(clips.skipped.items()))
        say(f"{split}: {plural(len(clips), 'clip')}{skipped}")
    say(", ".join(plural(len(corpus.train.label_names[label]), label[:-1]) for label in ("words", "speakers")))
    model = checkpoint.outline(settings.of_model, models.find(settings.of_model).dimensions_for(corpus, settings))
    for name in stages:
        if getattr(settings.steps, name):
            say(foreseen(model, model.plan(name, settings), corpus, settings))
    counts = {name: sum(p.numel() for p in network.parameters()) for name, network in model.named_children()}
    say("parameters: " + ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in counts.items()))
    say(f"run: {run}")


def write_facts(run: Path, settings: RunSettings, corpus: Corpus, world: World, device: torch.device, say: Say) -> None:
    """Print the facts of a run, and write them: settings.toml, run.json."""
    describe(run, settings, corpus, say)
    facts = {
        "settings": settings.to_json(),
        "data": corpus.to_json(),
        "versions": {"avprep": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "processes": world.size,
    }
    files.write_text(run / "settings.toml", settings.to_toml())
    files.write_text(run / "run.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


def check_same(
    run: Path,
    state: states.TrainingState,
    settings: RunSettings,
    dimensions: dict[str, int | float],
    about: dict[str, Any],
) -> None:
    """Check that a run is resumed with the inputs that it began with; RunError with the difference if not."""
    before, model = state.checkpoint.settings, state.checkpoint.name
    if model != settings.of_model:
        raise RunError(f"{run}: holds a run of the model {model}, not of {settings.of_model}: give another RUN")
    theirs = type(settings).from_json(before.get("training", {}), source=str(run / states.NAME))
    free = settings.free() - {f"steps.{name}" for name in settings.paced() & state.done.keys()}
    if theirs.data.cache_mib and settings.data.cache_mib:
        free |= {"data.cache_mib"}  # how many frames fit decides no bytes, but without a cache clips shift
    differences = [line for line in theirs.difference(settings) if line.partition(":")[0] not in free]
    if differences:
        raise RunError(
            f"{run}: was started with other settings ({'; '.join(differences)}): give the same, or another RUN"
        )
    same_words = before.get("word_times", about["word_times"]) == about["word_times"]  # not in earlier versions' runs
    if state.checkpoint.dimensions != dimensions or before.get("data") != about["data"] or not same_words:
        raise RunError(
            f"{run}: the clips are not those that it was started with: give another RUN, and --init-from {run}"
        )
    there, here = before.get("mfcc_preset"), about["mfcc_preset"]
    if there and here and there != here:
        raise RunError(f"{run}: was started with windows of the preset {there}, these are of {here}: give another RUN")
    if changed := _made_otherwise(before.get("columns", []), about["columns"]):
        raise RunError(
            f"{run}: was started before the shards were made again with other settings ({'; '.join(changed)}): give "
            f"another RUN, and --init-from {run}"
        )


def _made_otherwise(theirs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> list[str]:
    """Return a line for each setting of a column that differs; runs of earlier versions do not hold them."""
    lines = []
    for there, here in zip(theirs, ours, strict=False):
        for column in there.keys() & here.keys():
            old, new = there[column], here[column]
            names = sorted(old.keys() | new.keys()) if old and new else []
            lines += [
                f"{column}.{name}: {json.dumps(old.get(name))} there, {json.dumps(new.get(name))} here"
                for name in names
                if old.get(name) != new.get(name)
            ]
    return sorted(lines)


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Lock a run's folder against other processes.

    Forked processes do not hold the lock: a loader outlives a killed trainer by seconds, and would keep the run locked.
    """
    path = run / ".lock"
    lock = FileLock(path, fallback_to_soft=False)
    try:
        run.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        raise RunError(f"{run}: cannot be written ({error.strerror})") from error
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise RunError(f"{run}: another process trains in it: wait for it, or give another RUN") from error
    except OSError:
        pass  # some network file systems do not support locks
    try:
        yield
    finally:
        lock.release()
