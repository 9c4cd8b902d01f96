"""Closed or full standard streams: no traceback, no damaged shard, and a lost result is an error."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from avprep.quality import verify

COMMAND = f"{shlex.quote(sys.executable)} -c 'from avprep_cli.main import main; main()'"
SH = shutil.which("sh") or "/bin/sh"

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")


def shell(words: str, redirection: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a shell that closes or redirects its streams."""
    return subprocess.run(
        [SH, "-c", f"{COMMAND} {words} {redirection}"], capture_output=True, text=True, check=False, env=os.environ
    )


@pytest.mark.parametrize(
    ("redirection", "said"), [(">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")]
)
@pytest.mark.parametrize("words", ["weights list", "--help"])
def test_a_result_that_is_lost_is_an_error(words: str, redirection: str, said: str) -> None:
    """If standard output cannot be written, one line says so and the exit status is 1."""
    ended = shell(words, redirection)
    assert (ended.returncode, ended.stderr) == (1, f"Error: standard output cannot be written ({said})\n")


@pytest.fixture(scope="module")
def weights() -> str:
    """The output of `weights list` with both streams open."""
    return shell("weights list", "").stdout


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-"])
def test_remarks_that_nobody_reads_are_no_error(redirection: str, weights: str) -> None:
    """If standard error cannot be written, the result is printed, and the exit status is the usual one."""
    listed = shell("weights list", redirection)
    assert listed.stdout == weights != ""
    assert listed.returncode == 0
    assert shell("status /nowhere/at/all", redirection).returncode == 2


@pytest.mark.parametrize(("redirection", "status"), [("2>&-", 0), ("0<&- 1>&- 2>&-", 1), (">/dev/full", 1)])
def test_a_run_is_not_harmed(lrw: Path, tmp_path: Path, redirection: str, status: int) -> None:
    """A run without a stream makes the same shards: no file gets the descriptor of a closed stream."""
    out, plan = shlex.quote(str(tmp_path / "out")), shlex.quote(str(lrw / "plan.jsonl"))
    ended = shell(f"mfcc {plan} {out} -j 1 --limit 1", redirection)
    assert ended.returncode == status, ended.stderr
    assert "Traceback" not in ended.stderr
    assert verify.verify(tmp_path / "out") == []


def test_python_m(lrw: Path, tmp_path: Path) -> None:
    """`python -m avprep` runs the command, including a run's workers."""
    run = [sys.executable, "-m", "avprep"]
    version = subprocess.run([*run, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.startswith("avprep, version ")
    subprocess.run([*run, "mfcc", lrw / "plan.jsonl", tmp_path / "out", "-j", "1", "-q", "--limit", "1"], check=True)
    assert verify.verify(tmp_path / "out") == []


def test_a_stop_while_it_loads() -> None:
    """Ctrl-C during loading ends a command without a traceback; once it is loaded, Ctrl-C works as usual."""
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # even if the tests ignore it
    stopped = heard + "import avprep_cli.starting; signal.raise_signal(signal.SIGINT)"
    ended = subprocess.run([sys.executable, "-c", stopped], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")
    loaded = heard + "import avprep_cli.main; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    subprocess.run([sys.executable, "-c", loaded], check=True)
