"""The public API: README's lines work, heavy modules load only on use, names are typed and documented."""

from __future__ import annotations

import inspect
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np
import pytest
from avprep_cli.main import main

import avprep
import davs_model
from avprep import columns, manifest, stages
from avprep.errors import ManifestError, RunError, SettingsError, ShardError
from avprep.faces import track
from avprep.media import mfcc
from avprep.runs.run import Outcome, run
from avprep.stages import CropSettings, MfccSettings


@pytest.fixture(scope="module")
def out(lrw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both columns of the six labelled clips, one of them not a video, made by the API; read-only."""
    folder = tmp_path_factory.mktemp("api") / "out"
    plan = avprep.index("lrw", lrw / "corpus")
    plan = replace(plan, clips=tuple(replace(clip, labels={"emotion": "happy"}) for clip in plan.clips))
    (folder.parent / "plan.jsonl").write_text(manifest.render(plan), encoding="utf-8")
    done = avprep.crop(plan, folder, detector="opencv", jobs=1, shard_size=2, verbosity=-1)
    assert isinstance(done, Outcome)
    assert (done.ok, done.failed) == (5, {"unreadable": 1})
    assert avprep.mfcc(str(folder.parent / "plan.jsonl"), str(folder), jobs=1, verbosity=-1).ok == 5
    return folder


def loaded(code: str) -> set[str]:
    """Run code in a fresh interpreter; return the modules that are loaded afterwards."""
    found = subprocess.check_output([sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], text=True)
    return set(found.split())


@pytest.mark.parametrize("package", ["avprep", "davs_model"])
def test_import_loads_nothing(package: str) -> None:
    """Importing a package loads none of its modules except the loader, and none of the libraries that they need."""
    modules = loaded(f"import {package}")
    assert not {name for name in modules if name.startswith(f"{package}.")} - {"avprep.lazy"}
    assert not {"av", "cv2", "numpy", "torch", "click", "PIL"} & modules


def test_making_shards_loads_no_torch() -> None:
    """The calls that make, verify and read shards load none of the packages that only extras install."""
    modules = loaded("import avprep; avprep.crop, avprep.open")
    assert "avprep.api" in modules
    assert not {"torch", "sklearn", "skimage", "matplotlib", "h5py", "tensorboard", "face_alignment"} & modules


@pytest.mark.parametrize("package", [avprep, davs_model])
def test_every_name_is_typed_and_documented(package: object) -> None:
    """Each public name exists, is listed by dir(), documented, and annotated if it is a function."""
    for name in package.__all__:  # type: ignore[attr-defined]
        found = getattr(package, name)
        assert name in dir(package)
        assert inspect.getdoc(found), name
        if inspect.isfunction(found):
            signature = inspect.signature(found)
            assert signature.return_annotation is not inspect.Signature.empty
            for parameter in signature.parameters.values():
                assert parameter.annotation is not inspect.Parameter.empty, f"{name}: {parameter}"


@pytest.mark.parametrize(("name", "settings"), [("crop", CropSettings), ("mfcc", MfccSettings)])
def test_api_and_command_have_the_defaults_of_the_settings(name: str, settings: type) -> None:
    """A call and the command of the same name fill the same OUT: options that they share have the same defaults."""
    options = [param for param in main.commands[name].params if isinstance(param, click.Option)]
    typed = {str(option.name): option.to_info_dict()["default"] for option in options}
    own = {key: value.default for key, value in inspect.signature(getattr(avprep, name)).parameters.items()}
    of_run = inspect.signature(run).parameters
    own |= {key: of_run[key].default for key in ("shard_size", "clip_timeout", "accept_versions")}
    del own["jobs"]  # None: all cores, which is what the command's default counts
    shared = {key: value for key, value in own.items() if key in typed}
    assert shared == {key: typed[key] for key in shared}
    of_settings = {field.name: field.default for field in fields(settings)}
    assert of_settings.keys() <= shared.keys()
    resolved = {"detector": "auto", "subject": "auto"}  # parameters covered by settings
    assert {key: shared[key] for key in of_settings} == {
        key: resolved.get(key, value) for key, value in of_settings.items()
    }


@pytest.mark.parametrize(
    ("call", "name", "value"),
    [
        ("mfcc", "preset", "Davs"),
        ("mfcc", "preset", None),
        ("mfcc", "audio_shift_ms", float("nan")),
        ("mfcc", "audio_track", -1),
        ("mfcc", "audio_channel", "left"),
        ("mfcc", "audio_offset", "Sync"),
        ("mfcc", "max_seconds", -1),
        ("mfcc", "max_seconds", "60"),
        ("mfcc", "max_seconds", float("inf")),
        ("mfcc", "jobs", 0),
        ("mfcc", "jobs", "2"),
        ("mfcc", "shard_size", 0),
        ("mfcc", "shard_size", -1),
        ("mfcc", "shard_size", 2.5),
        ("mfcc", "clip_timeout", 0),
        ("mfcc", "clip_timeout", float("nan")),
        ("mfcc", "num_tasks", 0),
        ("mfcc", "accept_versions", "no"),
        ("mfcc", "verbosity", "quiet"),
        ("mfcc", "task_index", 1),
        ("crop", "align", "per_frame"),
        ("crop", "every", 0),
        ("crop", "every", 13),
        ("crop", "every", True),
        ("crop", "min_face", "32"),
        ("crop", "image_format", "jpeg"),
        ("crop", "subject", "biggest"),
        ("crop", "jobs", 0),
        ("crop", "jobs", -1),
        ("crop", "max_seconds", float("inf")),
        ("crop", "root", 3),
    ],
)
def test_values_that_an_option_cannot_have(lrw: Path, tmp_path: Path, call: str, name: str, value: object) -> None:
    """A typing error in a call gives one line with the name and the value, before OUT is touched."""
    plan = avprep.index("lrw", lrw / "corpus", limit=1)
    given = {"detector": "opencv"} if call == "crop" else {}
    with pytest.raises(SettingsError, match=rf"^{name} must be .*, not {re.escape(repr(value))}$"):
        getattr(avprep, call)(plan, tmp_path / "out", **{"verbosity": -1, "jobs": 1, **given, name: value})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [None, 3, b"data", ["data"], "da\0ta"])
def test_what_no_path_is(lrw: Path, tmp_path: Path, value: Any) -> None:
    """Anything else in the place of a path is one line with the argument's name and the value."""
    plan = avprep.index("lrw", lrw / "corpus", limit=1)
    calls: list[tuple[str, Callable[[], object]]] = [
        ("root", lambda: avprep.index("lrw", value)),
        ("manifest", lambda: avprep.crop(value, tmp_path / "out")),
        ("out", lambda: avprep.crop(plan, value)),
        ("manifest", lambda: avprep.mfcc(value, tmp_path / "out")),
        ("out", lambda: avprep.mfcc(plan, value)),
        ("out", lambda: avprep.verify(value)),
        ("out", lambda: avprep.open(value)),
    ]
    if value is not None:  # None: no file is written
        calls.append(("output", lambda: avprep.index("lrw", lrw / "corpus", output=value)))
    for name, call in calls:
        with pytest.raises(SettingsError, match=f"^{name} must be a path, not {re.escape(repr(value))}$"):
            call()


def test_large_values_in_messages(tmp_path: Path) -> None:
    """Arrays and long lists in the place of an argument are one short line, as anything else is."""
    for value in (np.zeros((30, 3)), ["a.mp4"] * 5000):
        calls = (lambda v=value: avprep.crop(v, tmp_path / "out"), lambda v=value: avprep.open(tmp_path, split=v))
        for call in calls:
            with pytest.raises((SettingsError, ValueError)) as refused:
                call()
            assert "\n" not in str(refused.value)
            assert len(str(refused.value)) < 200
    with pytest.raises(SettingsError, match=r"^align must be one of .*, not array\(\["):
        CropSettings(align=np.zeros(3))  # type: ignore[arg-type]


def test_a_detector_that_there_is_not(lrw: Path, tmp_path: Path) -> None:
    """A misspelt detector raises SettingsError like any invalid value, before OUT is touched."""
    with pytest.raises(SettingsError, match=r"^no detector is called Yunet: choose from "):
        avprep.crop(avprep.index("lrw", lrw / "corpus", limit=1), tmp_path / "out", detector="Yunet", jobs=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("call", ["crop", "mfcc"])
def test_options_that_there_are_not(lrw: Path, tmp_path: Path, call: str) -> None:
    """A misspelt option gives one line that lists those of a run, before OUT is touched."""
    plan = avprep.index("lrw", lrw / "corpus", limit=1)
    with pytest.raises(SettingsError, match=r"^shardsize is not an option: a run takes shard_size, clip_timeout, "):
        getattr(avprep, call)(plan, tmp_path / "out", jobs=1, shardsize=5)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "dav"}, "model must be one of amie, davs, etgan, sync, not 'dav'"),
        ({"stage": "talk"}, "stage must be one of identity, speech, full, all, not 'talk'"),
        ({"out": []}, "train needs at least one OUT, and as many shares or none, not 0 and 0"),
        ({"shares": [-1]}, "shares must be numbers above 0, not -1"),
        ({"shares": [0]}, "shares must be numbers above 0, not 0"),
        ({"shares": [float("nan")]}, "shares must be numbers above 0, not nan"),
        ({"shares": ["1"]}, "shares must be numbers above 0, not '1'"),
        ({"overrides": "steps.full=many"}, '--set: steps.full = "many" must be a whole number from 0 to 1000000000'),
        ({"overrides": [8]}, "overrides must be texts such as 'data.batch_size=8', not 8"),
        ({"overrides": None}, "overrides must be texts such as 'data.batch_size=8', not None"),
        ({"say": None}, "say must be a function, not None"),
        ({"shares": 0.5}, "shares must be a list of numbers, not 0.5"),
        ({"out": None}, "out must be a path, not None"),
        ({"out": [3]}, "out must be a path, not 3"),
        ({"run": None}, "run must be a path, not None"),
        ({"config_file": 3}, "config_file must be a path, not 3"),
        ({"init_from": 3}, "init_from must be a path, not 3"),
        ({"shares": [0.5, 0.5]}, "train needs at least one OUT, and as many shares or none, not 1 and 2"),
    ],
)
def test_training_that_cannot_be(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    """Invalid training arguments give one line, before RUN is touched."""
    with pytest.raises(SettingsError) as refused:
        davs_model.train(**{"out": tmp_path, "run": tmp_path / "run", **given})
    assert str(refused.value) == message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("package", ["torch", "h5py"])
def test_a_missing_extra(package: str) -> None:
    """Without the model's extra, its public names raise an ImportError that states the remedy."""
    code = f"import sys; sys.modules['{package}'] = None; import davs_model; davs_model.{{}}"
    for name in davs_model.__all__:
        failed = subprocess.run([sys.executable, "-c", code.format(name)], capture_output=True, text=True, check=False)
        last = failed.stderr.splitlines()[-1]
        assert last == (
            f"ModuleNotFoundError: davs_model needs {package}, which is not installed: pip install 'avprep[model]'"
        )


@pytest.mark.parametrize(
    ("given", "message"),
    [({"run": 3}, "run must be a path, not 3"), ({"run": "r", "bf16": "no"}, "bf16 must be True or False, not 'no'")],
)
def test_a_model_that_cannot_be_loaded(given: dict[str, Any], message: str) -> None:
    """Invalid arguments of `load` give one line; the text "no" would count as true."""
    with pytest.raises(SettingsError) as refused:
        davs_model.load(**given)
    assert str(refused.value) == message


@pytest.mark.parametrize(("column", "wrong"), [("crop", {"align": "x"}), ("mfcc", {"preset": "x"}), ("mfcc", {"y": 1})])
def test_settings_of_another_avprep(tmp_path: Path, column: str, wrong: dict[str, object]) -> None:
    """For a run.json with a setting that this version lacks, the error names the column."""
    with pytest.raises(RunError, match=rf"^{column}: its settings are of another avprep \("):
        columns.rebuilt(tmp_path, column, wrong, tmp_path)


def test_choices_are_those_of_the_rooms_below() -> None:
    """The presets and subjects of the settings are those of media and faces."""
    assert get_args(mfcc.Preset) == stages.PRESETS
    assert get_args(track.Subject) == stages.SUBJECTS


@pytest.mark.parametrize("package", [avprep, davs_model])
def test_other_names_are_refused(package: object) -> None:
    """A name that the API lacks raises AttributeError, as with any module."""
    with pytest.raises(AttributeError, match="has no attribute 'corp'"):
        package.corp  # type: ignore[attr-defined]  # noqa: B018


class TestOpen:
    """Reading shards."""

    def test_what_a_sample_holds(self, out: Path) -> None:
        """A sample has key, word, labels and split, frames that are decoded once on demand, windows and valid."""
        sample = next(avprep.open(out, split="val"))
        assert sample.split == "val"
        assert sample.key.split("/")[1] == "val"
        assert sample.key.startswith(f"{sample.word}/")
        assert sample.labels == {"emotion": "happy"}
        assert "frames" not in vars(sample)
        assert (sample.frames.dtype, sample.frames.shape) == (np.uint8, (29, 256, 256, 3))
        assert sample.frames is sample.frames
        assert (sample.windows.dtype, sample.windows.shape) == (np.float32, (29, 12, 20))
        assert (sample.valid.dtype, sample.valid.shape) == (np.bool_, (29,))

    def test_frames_are_rgb(self, out: Path) -> None:
        """Faces are redder than blue: the channels are in RGB order."""
        sample = next(avprep.open(out))
        red, _, blue = sample.frames[:, 96:192, 96:160].reshape(-1, 3).mean(axis=0)
        assert red > blue

    def test_order_and_splits(self, out: Path) -> None:
        """Clips that are ok come in the manifest's order, of all splits or of one; failed ones are left out."""
        keys = [clip.key for clip in manifest.read(out / "manifest.jsonl").clips]
        found = [sample.key for sample in avprep.open(out)]
        assert len(found) == 5
        assert found == [key for key in keys if key in found]
        assert [sample.key for split in ("train", "val", "test") for sample in avprep.open(out, split=split)] == found

    def test_what_is_not_there(self, out: Path, tmp_path: Path) -> None:
        """An OUT without a column, and a split that no manifest has, raise errors immediately."""
        with pytest.raises(RunError, match="its column crop was never started"):
            avprep.open(tmp_path)
        with pytest.raises(ValueError, match="train, val, test"):
            avprep.open(out, split="dev")  # type: ignore[arg-type]


def test_verify_raises(out: Path, tmp_path: Path) -> None:
    """Intact shards pass; a problem raises an error that names it."""
    avprep.verify(out)
    with pytest.raises(RunError, match="no run was ever started"):
        avprep.verify(tmp_path)
    damaged = tmp_path / "out"
    subprocess.run(["cp", "-r", out, damaged], check=True)
    tar = next((damaged / "crop").glob("*.tar"))
    tar.write_bytes(tar.read_bytes()[:-1] + b"x")
    with pytest.raises(ShardError, match=re.escape(tar.name)):
        avprep.verify(damaged)


def test_index_logs_problems_and_writes(lrw: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Files from which no clip can be made are logged by name; the manifest is written where requested."""
    corpus = tmp_path / "corpus"
    subprocess.run(["cp", "-r", lrw / "corpus", corpus], check=True)
    (corpus / "stray.mp4").write_bytes(b"")
    with caplog.at_level(logging.WARNING, "avprep"):
        plan = avprep.index("lrw", str(corpus), output=tmp_path / "plan.jsonl")
    assert "unexpected_place: stray.mp4" in caplog.text
    assert manifest.read(tmp_path / "plan.jsonl") == plan


def test_index_writes_a_file_alone(lrw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An output that is a folder, including the current one, gives a one-line error."""
    monkeypatch.chdir(tmp_path)
    for output in (".", "", tmp_path):
        with pytest.raises(RunError, match=r": not a plain file, so nothing can be put in its place"):
            avprep.index("lrw", lrw / "corpus", output=output)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [{"seed": 1.5}, {"seed": None}, {"seed": -1}, {"limit": 0}, {"limit": 1.5}])
def test_index_refuses_what_a_manifest_cannot_hold(lrw: Path, tmp_path: Path, wrong: dict[str, Any]) -> None:
    """A seed that manifests cannot hold, or an invalid limit, is refused before anything is written."""
    with pytest.raises(SettingsError, match=f"{next(iter(wrong))} must be a whole number"):
        avprep.index("lrw", lrw / "corpus", output=tmp_path / "plan.jsonl", **wrong)
    assert not (tmp_path / "plan.jsonl").exists()


def test_a_data_set_that_was_moved(lrw: Path, tmp_path: Path) -> None:
    """A manifest whose data set has moved is refused, unless the new place is given."""
    plan = avprep.index("lrw", lrw / "corpus", limit=1)
    gone = manifest.Manifest(plan.dataset, tmp_path / "gone", plan.clips, plan.seed)
    with pytest.raises(RunError, match="the data set is not there"):
        avprep.mfcc(gone, tmp_path / "out", jobs=1, verbosity=-1)
    assert avprep.mfcc(gone, tmp_path / "out", jobs=1, root=lrw / "corpus", verbosity=-1).planned


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"split": "valid"}, "clip 1: split must be one of train, val, test, not 'valid'"),
        ({"key": "a.b"}, "clip 1: a key holds no dot"),
        ({"video": "../x.mp4"}, "clip 1: video must be a path below the root"),
        ({"key": "ABOUT/x"}, "the key ABOUT/x is there 2 times"),
        ({"start": -1.0}, "clip 1: start must be a number of seconds"),
        ({"words": (("two", 1.0, 0.5),)}, "clip 1: words must be in order"),
    ],
)
def test_a_manifest_made_in_python_is_checked(tmp_path: Path, wrong: dict[str, object], message: str) -> None:
    """Clips that a manifest's file cannot hold are refused before anything is written, not dropped or run."""
    clips = [manifest.Clip(f"ABOUT/{name}", f"ABOUT/{name}.mp4", "test", words=(("a", 0, 1),)) for name in "xy"]
    plan = manifest.Manifest("mine", tmp_path, (clips[0], replace(clips[1], **wrong)))  # type: ignore[arg-type]
    for call in (avprep.crop, avprep.mfcc):
        with pytest.raises(ManifestError, match=re.escape(message)):
            call(plan, tmp_path / "out", jobs=1)
        with pytest.raises(ManifestError, match=r"seed must be a whole number, not 1\.5"):
            call(replace(plan, clips=(), seed=1.5), tmp_path / "out", jobs=1)
    assert not (tmp_path / "out").exists()
