"""Common mistakes are reported before anything is computed, with the command to use instead."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import made_media as made
import numpy as np
import pytest
from command_line import assert_one_line, call

from avprep.errors import AvprepError
from avprep.shards.image import write_png
from avprep.talking import driver as drivers
from davs_model import checkpoint
from davs_model import film as film_of
from davs_model.generation import Talker


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A speech, a photo (never read) and a folder of a run that does not exist."""
    made.write_wav(tmp_path / "speech.wav", made.noise(1.2, 16_000), 16_000)
    (tmp_path / "photo.jpg").touch()
    (tmp_path / "run").mkdir()
    return tmp_path


@pytest.mark.parametrize("column", ["crop", "mfcc"])
def test_a_folder_where_a_manifest_is_wanted(folder: Path, column: str) -> None:
    """If the folder of videos is given in place of a manifest, the error names `avprep index`."""
    result = call(column, folder, folder / "out")
    assert_one_line(result, 2, "is a folder, not a manifest", f"`avprep index LAYOUT {folder} -o manifest.jsonl`")
    assert not (folder / "out").exists()


def test_an_out_where_a_manifest_is_wanted(folder: Path) -> None:
    """If an OUT is given in place of a manifest, the error names the manifest in it."""
    (folder / "shards").mkdir()
    (folder / "shards/manifest.jsonl").touch()
    result = call("crop", folder / "shards", folder / "out")
    assert_one_line(result, 2, "is a folder, not a manifest", f"give the one in it, {folder / 'shards/manifest.jsonl'}")


def _as_somebody(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a user without root's right to read closed files."""
    humble = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    command = [*humble, sys.executable, "-m", "avprep", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


CLOSED = (("status",), ("verify",), ("report", "-o", "page.html"), ("retry", "--reason", "missing"))


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv here (Debian: apt install util-linux)")
@pytest.mark.parametrize("words", CLOSED, ids=lambda words: words[0])
def test_a_column_that_another_user_keeps_closed(lrw: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    """A column's folder without access permission, as umask 077 makes it, is named in one line."""
    out = tmp_path / "out"
    (out / "mfcc").mkdir(parents=True)
    shutil.copy(lrw / "plan.jsonl", out / "manifest.jsonl")
    (out / "mfcc").chmod(0)
    done = _as_somebody(words[0], str(out), *words[1:], folder=tmp_path)
    (out / "mfcc").chmod(0o755)
    assert done.returncode == 1
    assert done.stderr == f"Error: {out}/mfcc/run.json: Permission denied\n"


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv here (Debian: apt install util-linux)")
@pytest.mark.parametrize(
    ("closed", "words", "said"),
    [
        ("run.json", ("status",), "cannot be read"),
        ("run.json", ("verify",), "cannot be read"),
        ("train-000000.json", ("verify",), "cannot read the sidecar"),
        ("train-000000.json", ("select", "--where", "n_frames > 1", "-o", "kept.jsonl"), "cannot read the sidecar"),
    ],
)
def test_a_file_that_another_user_keeps_closed(
    lrw: Path, tmp_path: Path, closed: str, words: tuple[str, ...], said: str
) -> None:
    """A file without read permission is named once, and the cause is given without Python's terms."""
    out = tmp_path / "out"
    assert call("mfcc", lrw / "plan.jsonl", out, "-j", "1").exit_code == 0
    (out / "mfcc" / closed).chmod(0)
    done = _as_somebody(words[0], str(out), *words[1:], folder=tmp_path)
    assert done.returncode == 1
    assert f"{out}/mfcc/{closed}: {said} (Permission denied)\n" in done.stderr


@pytest.mark.parametrize("words", [("mfcc",), ("slurm", "mfcc")])
def test_a_name_that_no_file_may_have(lrw: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    """An OUT whose name is too long for the file system gives one line."""
    assert_one_line(call(*words, lrw / "plan.jsonl", tmp_path / ("x" * 300)), 1, "File name too long")


@pytest.mark.parametrize("words", [("slurm", "mfcc", "plan.jsonl", "out"), ("mfcc", "{plan}", "out", "--root", ".")])
def test_a_current_folder_that_was_removed(
    lrw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """If the current folder is gone, and relative paths with it, one line says so."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    result = call(*(word.format(plan=lrw / "plan.jsonl") for word in words))
    assert_one_line(result, 1, "the folder that this runs in was removed")


def test_a_film_in_no_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An output whose folder does not exist is named before photo and model are read."""
    monkeypatch.setattr(Talker, "load", None)
    monkeypatch.setattr(film_of, "write", None)
    words = ("--face", folder / "photo.jpg", "--audio", folder / "speech.wav")
    result = call("generate", folder / "run", *words, "-o", folder / "none/g.mp4")
    assert_one_line(result, 1, f"{folder}/none/g.mp4: cannot write (its folder is not there): make {folder}/none first")


def test_a_run_without_a_model(folder: Path) -> None:
    """For a run's folder without a checkpoint the error names the commands that make one."""
    with pytest.raises(
        checkpoint.CheckpointError, match=r"run/checkpoint\.safetensors: not there, .*`avprep train OUT .*/run`"
    ):
        Talker.load(folder / "run")


def test_a_photo_in_place_of_audio_or_video(folder: Path) -> None:
    """For an image in place of audio the error says what is expected."""
    write_png(folder / "photo.png", np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(AvprepError, match=r"photo\.png: cannot be read as a file with audio, such as \.wav"):
        drivers.from_sound(folder / "photo.png")
