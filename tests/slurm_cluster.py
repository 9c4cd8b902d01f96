"""A private Slurm for tests: munged, slurmctld and slurmd, one node of two CPUs, everything in one folder of /tmp.

It needs slurm-wlm and munge as packaged by Debian, and root. A Slurm that the machine may have is neither read nor
touched.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "squeue", "sinfo", "setpriv")
SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"  # location of daemons; not on every user's PATH

# cred_expire: how long a requeued task is held (s, 5 at least). sched_interval: the queue is checked every second. A
# job on `high` preempts those on `main`.
CONFIGURATION = """\
ClusterName=tests
SlurmctldHost=localhost
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,sched_min_interval=1000,batch_sched_delay=0,bf_interval=1
ReturnToService=2
MinJobAge=3600
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=localhost CPUs=2 RealMemory=4000
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE PriorityTier=1
PartitionName=high Nodes=localhost MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""

# Python reads it at its start: opening a file blocks while there is a pipe beside it, to which nobody writes.
GATES = """\
import os
import sys


def wait(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, os.PathLike)):
        gate = f"{os.fspath(arguments[0])}.gate"
        if os.path.exists(gate):
            os.close(os.open(gate, os.O_RDONLY))


sys.addaudithook(wait)
"""


class CannotStartError(Exception):
    """A daemon ended or never answered."""


def missing() -> str | None:
    """Return why no Slurm can be started here; None if it can be tried."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if absent:
        return f"no {', '.join(absent)} here (Debian: apt install slurm-wlm munge)"
    return None if os.geteuid() == 0 else "only root can start a Slurm"


class Cluster:
    """A Slurm, from `start` to `stop`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: a socket's path has 107 characters at most
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start the daemons; CannotStartError with their logs if they do not come up."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Terminate jobs and daemons, kill those that do not respond, and remove the folder."""
        if len(self._daemons) == 3:
            with contextlib.suppress(AssertionError, OSError):
                self.clear()
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for number in self._leftovers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def environment(self) -> dict[str, str]:
        """Return the environment in which Slurm's commands use this Slurm, and `avprep` is the one under test."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "SQUEUE"))}
        return own | {"PATH": _path(), "SLURM_CONF": str(self.folder / "slurm.conf"), "PYTHONPATH": str(self.folder)}

    def call(self, *words: object) -> str:
        """Run a command in this Slurm's environment; return what it prints."""
        done = subprocess.run(
            [str(word) for word in words],
            env=self.environment(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{words}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def end(self, task: str, by: str) -> None:
        """End a task by a signal to its script and to all that the script has started.

        Without --batch Slurm turns KILL into TERM followed by KILL. If a task ends at once, scancel waits for an answer
        for seconds.
        """
        with self.launch("scancel", f"--signal={by}", "--full", "--batch", task) as scancel:
            self.wait(lambda: task not in self.queue(), every=0.02)
            scancel.kill()

    def requeue(self, task: str) -> None:
        """Requeue a running task."""
        self.call("scontrol", "requeue", task)

    def launch(self, *words: object) -> subprocess.Popen[str]:
        """Start a command in this Slurm's environment."""
        command = [str(word) for word in words]
        return subprocess.Popen(command, env=self.environment(), cwd=self.folder, stdout=subprocess.PIPE, text=True)

    def job(self, name: str) -> dict[str, str]:
        """Return Slurm's data on a job, or on a task such as `5_2`: JobState, Restarts and so on."""
        return dict(re.findall(r"(\S+?)=(\S*)", self.call("scontrol", "show", "job", "--oneliner", name)))

    def queue(self) -> dict[str, str]:
        """Return the tasks that are not over, each with its state."""
        return dict(line.split() for line in self.call("squeue", "-h", "-r", "-o", "%i %T").splitlines())

    def is_running(self, *names: str) -> bool:
        """Return whether all of these are running."""
        queue = self.queue()
        return all(queue.get(name) == "RUNNING" for name in names)

    def is_back(self, name: str, restarts: int = 1) -> bool:
        """Return whether a task is queued for another start."""
        job = self.job(name)
        return job["JobState"] == "PENDING" and int(job["Restarts"]) >= restarts

    def wait(self, condition: Callable[[], Any], every: float = 0.1, seconds: float = 120.0) -> None:
        """Wait for a condition that is certain to become true; check it at intervals (s)."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"it did not happen; the queue:\n{self.call('squeue', '-r')}{self.logs()}"
            time.sleep(every)

    def clear(self) -> None:
        """Cancel every job and wait until the last is gone."""
        self.call("scancel", "--user=root")
        self.wait(lambda: not self.queue())

    def logs(self) -> str:
        """Return the last lines of each daemon's log."""
        logs = [self.folder / f"{name}.log" for name in ("munged", "slurmctld", "slurmd")]
        return "".join(f"\n== {log.name}\n{log.read_text()[-3000:]}" for log in logs if log.exists())

    def _start(self) -> None:
        self.folder.chmod(0o711)  # munged requires its socket to be accessible to everybody
        (self.folder / "state").mkdir()
        (self.folder / "spool").mkdir()
        text = CONFIGURATION.format(folder=self.folder, ports=_free_ports(2))
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "sitecustomize.py").write_text(GATES)
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(1024))
        files = {"socket": "munge.sock", "key-file": "munge.key", "pid-file": "munged.pid", "seed-file": "munge.seed"}
        self._daemon("munged", "-F", "--force", *(f"--{name}={self.folder / file}" for name, file in files.items()))
        self._wait_for_daemons(lambda: (self.folder / "munge.sock").exists())
        self._daemon("slurmctld", "-D")
        self._daemon("slurmd", "-D", "-N", "localhost")
        self._wait_for_daemons(lambda: self._answer() == "idle")

    def _daemon(self, *command: str) -> None:
        """Start a daemon that ends with this process and ignores a Ctrl-C meant for this process."""
        with (self.folder / f"{command[0]}.log").open("ab") as log:
            daemon = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *command],
                env=self.environment(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._daemons.append(daemon)

    def _wait_for_daemons(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end or any(daemon.poll() is not None for daemon in self._daemons):
                raise CannotStartError(f"Slurm does not start:{self.logs()}")
            time.sleep(0.05)

    def _answer(self) -> str:
        """Ask for the state of the node."""
        question = ["sinfo", "-h", "-p", "main", "-o", "%T"]
        return subprocess.run(
            question, env=self.environment(), capture_output=True, text=True, check=False
        ).stdout.strip()

    def _leftovers(self) -> list[int]:
        """Return the processes that work in the folder, have a file of it open or have it in their environment."""
        return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if self._is_ours(entry)]

    def _is_ours(self, entry: Path) -> bool:
        with contextlib.suppress(OSError):  # it ended just now
            places = [os.readlink(link) for link in (entry / "cwd", *(entry / "fd").iterdir())]
            told = f"SLURM_CONF={self.folder}/".encode() in (entry / "environ").read_bytes()
            return int(entry.name) != os.getpid() and (told or any(self._is_inside(place) for place in places))
        return False

    def _is_inside(self, place: str) -> bool:
        return place == str(self.folder) or place.startswith(f"{self.folder}/")


def _path() -> str:
    return f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}:{SYSTEM_FOLDERS}"


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("localhost", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]
