"""Commands use no network and leave only their outputs behind, whatever the libraries would do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import made_media as made
import pytest
import skimage.data
from small_models import made_model

from davs_model import checkpoint
from davs_model.checkpoint import Checkpoint

SCRIPT = "import sys; from avprep_cli.main import main; main(sys.argv[1:])"
STRACE = shutil.which("strace")

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Traces:
    """The traces that commands left.

    files: below folders of their own for HOME, the cache and temporary files.
    sockets: the system calls, one line each, that opened one to another machine; None if nothing recorded them.
    """

    files: list[str]
    sockets: list[str] | None


@pytest.fixture(scope="module")
def traces(lrw: Path, yunet_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Traces:
    """The traces of crop, mfcc and generate with YuNet, each in a process of its own, as started by a user."""
    folder = tmp_path_factory.mktemp("privacy")
    places = {"HOME": "home", "TMPDIR": "temporary", "XDG_CACHE_HOME": "cache", "XDG_CONFIG_HOME": "config"}
    for name in places.values():
        (folder / name).mkdir()
    checkpoint.save(folder / "run", Checkpoint.of(made_model(), {"mfcc_preset": "davs", "steps": {"full": 1}}))
    cv2.imwrite(str(folder / "photo.jpg"), cv2.cvtColor(skimage.data.astronaut(), cv2.COLOR_RGB2BGR))
    made.write_wav(folder / "speech.wav", made.noise(0.4, 16_000), 16_000)
    # CI disables what some libraries report, so that it would not be seen here.
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    environment |= {name: str(folder / place) for name, place in places.items()}
    environment |= {"AVPREP_WEIGHTS": str(yunet_weights), "OMP_NUM_THREADS": "1"}
    log = folder / "system-calls"
    tracer = () if STRACE is None else (STRACE, "-f", "-qq", "--seccomp-bpf", "-e", "trace=socket", "-A", "-o", log)
    photo = ("--face", folder / "photo.jpg", "--detector", "yunet")
    speech = ("--audio", folder / "speech.wav")
    for arguments in (
        ("crop", lrw / "plan.jsonl", folder / "out", "--detector", "yunet", "--limit", "1", "-j", "1"),
        ("mfcc", lrw / "plan.jsonl", folder / "out", "--limit", "1", "-j", "1"),
        ("generate", folder / "run", *photo, *speech, "-o", folder / "talking.mp4"),
    ):
        command = [*tracer, sys.executable, "-c", SCRIPT, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    files = [str(path.relative_to(folder)) for place in places.values() for path in (folder / place).rglob("*")]
    if STRACE is None:
        return Traces(files, None)
    calls = [line for line in log.read_text().splitlines() if "socket(" in line]
    return Traces(files, [call for call in calls if not re.search(r"AF_UNIX|AF_NETLINK", call)])


def test_commands_leave_no_files_but_their_outputs(traces: Traces) -> None:
    """Nothing appears in the user's home, cache, configuration or temporary folder."""
    assert traces.files == []


def test_commands_open_no_socket(traces: Traces) -> None:
    """No process of crop, mfcc and generate opens a socket to another machine, not even to look up a name."""
    if traces.sockets is None:
        pytest.skip("strace, which would record them, is not installed")
    assert traces.sockets == []
