"""Array jobs as text: scripts are compared with recorded ones, parsed as by sbatch, and run by bash.

No Slurm is needed: small programs replace it. `python tests/avprep/runs/test_slurm.py` renews the recorded scripts.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avprep.errors import RunError
from avprep.runs import slurm, tasks

RECORDED = Path(__file__).parents[2] / "recorded"
BASH = shutil.which("bash") or "/bin/bash"

PLAIN = slurm.ArrayJob(
    name="avprep-mfcc",
    command=["avprep", "mfcc", "/data/lrw.jsonl", "/data/shards"],
    array="0-63",
    num_tasks=64,
    work="mfcc: 538766 clips in 1079 shards, 0 done.",
    logs=Path("/data/shards/logs"),
)
FULL = slurm.ArrayJob(
    name="avprep-crop",
    command=["avprep", "crop", "/my data/100% lrw.jsonl", "/my data/50%/it's", "--detector", "face-alignment"],
    array="0-2,7,9-11",
    num_tasks=12,
    work="crop: 538766 clips in 1079 shards, 500 done.",
    logs=Path("/my data/50%/shards/logs"),
    time="1-12:00:00",
    cpus=8,
    mem="24G",
    partition="short,long",
    gpus=1,
    max_parallel=4,
    sbatch=["--account=lab", '--comment="two words"'],
    setup=["module load python/3.11", "export PATH='/my venv/bin':$PATH"],
)
JOBS = {"plain": PLAIN, "full": FULL}

LINES = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\n\r\0"), max_size=20) | st.text(
    " \t\"'#\\%$`;&|-=ab", max_size=12
)
"""What can stand in one line of a script."""


def read_by_sbatch(script: str) -> list[str]:
    """Return the options that sbatch reads from a script, by its own rules for quotes, `\\` and `#`."""
    options: list[str] = []
    for line in script.split("\n"):
        if not line.startswith("#"):
            if line.strip():
                break  # the first command ends the search
            continue
        if not line.startswith("#SBATCH"):
            continue
        option, quote, escaped = "", "", False
        for character in f"{line.removeprefix('#SBATCH')} ":
            if escaped:
                option, escaped = option + character, False
            elif character == "\\":
                escaped = True
            elif quote or character in "\"'":
                if quote in ("", character):
                    quote = "" if quote else character
                else:
                    option += character
            elif character == "#":
                break
            elif character not in " \t\v\f":
                option += character
            elif option:
                options.append(option)
                option = ""
        assert not quote, f"sbatch refuses a quote without its pair: {line}"
        options += [option] if option else []
    return options


def command_of(script: str) -> list[str]:
    """Return the command line of a rendered script, as the shell splits it."""
    commands = [line for line in script.replace(" \\\n", " ").split("\n") if line.startswith("avprep ")]
    assert len(commands) == 1
    return shlex.split(commands[0])


class TestScript:
    """The output of `render` for a job."""

    @pytest.mark.parametrize("name", JOBS)
    def test_the_whole_text(self, name: str) -> None:
        """A script equals the recorded one to the letter."""
        assert slurm.render(JOBS[name]) == (RECORDED / f"{name}.sbatch").read_text(encoding="utf-8")

    @pytest.mark.parametrize("name", JOBS)
    def test_bash_takes_it(self, name: str) -> None:
        """A script is valid shell syntax."""
        checked = subprocess.run([BASH, "-n", RECORDED / f"{name}.sbatch"], capture_output=True, text=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, "")

    def test_what_sbatch_reads(self) -> None:
        """Spaces, a list of partitions and % in the folder of the logs reach sbatch as intended."""
        assert read_by_sbatch(slurm.render(FULL)) == [
            "--job-name=avprep-crop",
            "--array=0-2,7,9-11%4",
            "--time=1-12:00:00",
            "--cpus-per-task=8",
            "--mem=24G",
            "--partition=short,long",
            "--gpus=1",
            "--output=/my data/50%%/shards/logs/avprep-crop-%A_%a.log",
            "--open-mode=append",
            f"--signal=B:USR1@{slurm.WARNING_SECONDS}",
            "--requeue",
            "--account=lab",
            "--comment=two words",
        ]

    @pytest.mark.parametrize(
        "job",
        [
            replace(PLAIN, partition="short\n#SBATCH --uid=0"),
            replace(PLAIN, mem="8G\r"),
            replace(PLAIN, time="\n"),
            replace(PLAIN, logs=Path("/data/a\nb")),
            replace(PLAIN, sbatch=["--account=lab", "--qos=high\nrm -r shards"]),
            replace(PLAIN, setup=["module load x\nexit"]),
        ],
        ids=["partition", "mem", "time", "logs", "sbatch", "setup"],
    )
    def test_an_option_of_two_lines_is_refused(self, job: slurm.ArrayJob) -> None:
        """An option that would continue on the next line of the script is refused in one line that quotes it."""
        with pytest.raises(RunError, match=r"^an option of a script must be one line: '.*\\[nr].*'$"):
            slurm.render(job)

    @given(time=LINES, mem=LINES, partition=LINES, folder=LINES)
    def test_no_option_becomes_another(self, time: str, mem: str, partition: str, folder: str) -> None:
        """Whatever the text of an option, sbatch reads that option with that text and no other option."""
        job = replace(PLAIN, time=time, mem=mem, partition=partition, logs=Path("/data", folder.replace("/", "")))
        plain = read_by_sbatch(slurm.render(PLAIN))
        assert read_by_sbatch(slurm.render(job)) == [
            *plain[:2],
            f"--time={time}",
            plain[3],
            f"--mem={mem}",
            f"--partition={partition}",
            f"--output={str(job.logs).replace('%', '%%')}/avprep-mfcc-%A_%a.log",
            *plain[6:],
        ]

    @given(partition=LINES, extra=LINES, setup=LINES, path=LINES)
    def test_no_option_adds_a_line(self, partition: str, extra: str, setup: str, path: str) -> None:
        """Whatever the text of the options, a script has one line for each and no more."""
        usual = replace(PLAIN, partition="short", sbatch=["--account=lab"], setup=["module load x"])
        job = replace(PLAIN, command=["avprep", "mfcc", path], partition=partition, sbatch=[extra], setup=[setup])
        lines = slurm.render(job).split("\n")
        assert len(lines) <= len(slurm.render(usual).split("\n"))
        head = lines[1 : lines.index("")]
        assert len(head) == len(read_by_sbatch(slurm.render(usual)))
        assert all(line.startswith("#SBATCH --") for line in head[:-1])

    @given(LINES, LINES, LINES)
    def test_paths_survive_the_shell(self, manifest: str, out: str, root: str) -> None:
        """Whatever a path contains, the shell passes it to the command unchanged, followed by the number of tasks."""
        command = ["avprep", "crop", f"/{manifest}", f"/{out}", "--root", root]
        script = slurm.render(replace(PLAIN, command=command))
        assert command_of(script) == [*command, "--num-tasks", "64", "--jobs", "$SLURM_CPUS_PER_TASK", "&"]


class TestSentScript:
    """Values that are read back from a script that was sent."""

    @given(
        numbers=st.sets(st.integers(0, 5000), min_size=1, max_size=20),
        num_tasks=st.integers(1, 5001),
        parallel=st.none() | st.integers(1, 500),
        path=LINES,
    )
    def test_round_trip(self, numbers: set[int], num_tasks: int, parallel: int | None, path: str) -> None:
        """The number of tasks, and how many of them run at once, are read back from the script, whatever its paths."""
        job = replace(
            PLAIN,
            command=["avprep", "mfcc", f"/{path}"],
            array=tasks.expression(numbers),
            num_tasks=num_tasks,
            max_parallel=parallel,
        )
        with tempfile.TemporaryDirectory() as folder:
            script = slurm.script_path(Path(folder), "mfcc")
            script.write_text(slurm.render(job), encoding="utf-8")
            assert slurm.sent_tasks(script) == (num_tasks, parallel)

    @pytest.mark.parametrize(
        "job",
        [
            replace(PLAIN, command=["avprep", "mfcc", "/data/--num-tasks 3/x.jsonl", "/data/shards"]),
            replace(PLAIN, setup=["# once with --num-tasks 3"]),
            replace(PLAIN, sbatch=["--comment=%5", "--comment=--num-tasks 3"]),
        ],
        ids=["path", "setup", "sbatch"],
    )
    def test_other_places_of_the_same_words(self, job: slurm.ArrayJob, tmp_path: Path) -> None:
        """Only the command's own --num-tasks and the array's own % are read."""
        (tmp_path / "x").write_text(slurm.render(job), encoding="utf-8")
        assert slurm.sent_tasks(tmp_path / "x") == (64, None)

    def test_no_script(self, tmp_path: Path) -> None:
        """If nothing was sent, or the file is another script, the result is None."""
        assert slurm.sent_tasks(tmp_path / "x") is None
        (tmp_path / "x").write_text("#!/bin/bash\nsleep 1\n")
        assert slurm.sent_tasks(tmp_path / "x") is None

    def test_unreadable(self, tmp_path: Path) -> None:
        """A script that cannot be read is named."""
        (tmp_path / "x").mkdir()
        with pytest.raises(RunError, match=rf"^{re.escape(str(tmp_path / 'x'))}: cannot be read \(.*\)$"):
            slurm.sent_tasks(tmp_path / "x")


class TestArrayLimit:
    """The maximum size of arrays in Slurm."""

    @pytest.mark.parametrize(
        ("answer", "limit"),
        [
            ("JobRequeue              = 1\nMaxArraySize            = 4001\nMaxJobCount             = 10000", 4001),
            ("MaxArraySize=1", 1),
            ("slurm_load_ctl_conf error: Unable to contact slurm controller", slurm.DEFAULT_ARRAY_LIMIT),
            ("", slurm.DEFAULT_ARRAY_LIMIT),
        ],
        ids=["config", "one", "other words", "nothing"],
    )
    def test_from_its_configuration(self, program: Callable[[str, str], Path], answer: str, limit: int) -> None:
        """The cluster's MaxArraySize applies, or Slurm's default if it gives none."""
        program("scontrol", f'#!/bin/sh\n[ "$*" = "show config" ] && echo "{answer}"\n')
        assert slurm.array_limit() == limit

    @pytest.mark.usefixtures("program")
    def test_no_slurm_here(self) -> None:
        """Without Slurm its default applies."""
        assert slurm.array_limit() == slurm.DEFAULT_ARRAY_LIMIT == 1001

    def test_no_arrays(self, program: Callable[[str, str], Path]) -> None:
        """A cluster without arrays gives a one-line error."""
        program("scontrol", "#!/bin/sh\necho 'MaxArraySize            = 0'\n")
        with pytest.raises(RunError, match=r"^this cluster takes no array jobs \(MaxArraySize is 0\)$"):
            slurm.array_limit()


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("2", 120),
        ("90:30", 5430),
        ("04:00:00", 14400),
        ("1-2", 93600),
        ("1-2:30", 95400),
        ("1-02:30:15", 95415),
        ("INFINITE", None),
        ("", None),
        ("1:2:3:4", None),
    ],
)
def test_time_limits(limit: str, expected: int | None) -> None:
    """A time limit is read as by Slurm; an invalid one is left to Slurm."""
    assert slurm.seconds(limit) == expected


class TestSubmit:
    """Sending a script."""

    @pytest.mark.parametrize("answer", ["123", "123;cluster"])
    def test_the_number_of_the_job(self, program: Callable[[str, str], Path], tmp_path: Path, answer: str) -> None:
        """The result is the job's number, also from one cluster of several."""
        program("sbatch", f'#!/bin/sh\n/bin/cat > "{tmp_path}/got"\n[ "$*" = --parsable ] && echo "{answer}"\n')
        assert slurm.submit("#!/bin/bash\n# ü\udcff\n") == "123"
        assert (tmp_path / "got").read_bytes() == b"#!/bin/bash\n# \xc3\xbc\xff\n"

    @pytest.mark.parametrize(
        ("said", "told"),
        [("sbatch: error: bad partition\nsbatch: error: no", "bad partition no"), ("", "exit status 1")],
        ids=["two-lines", "silent"],
    )
    def test_a_refusal(self, program: Callable[[str, str], Path], said: str, told: str) -> None:
        """The message of sbatch when it refuses a script is quoted in one line."""
        program("sbatch", f"#!/bin/sh\nprintf '%s' '{said}' >&2\nexit 1\n")
        with pytest.raises(RunError) as caught:
            slurm.submit("x")
        assert str(caught.value) == f"sbatch refuses the script: {told}"

    @pytest.mark.usefixtures("program")
    def test_no_slurm_here(self) -> None:
        """Without Slurm the message says how to get the script."""
        with pytest.raises(RunError, match=r"^there is no sbatch here: without --submit the script is printed$"):
            slurm.submit("x")


STUB = f"""#!{sys.executable} -S
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGUSR2])
print(os.getpid(), *sys.argv[1:], flush=True)
print(signal.sigwait([signal.SIGUSR1, signal.SIGUSR2]).name, flush=True)
sys.exit(int(os.environ["STATUS"]))
"""
"""An `avprep` that works until it gets USR1, or until its work is done: USR2."""


class Task:
    """One task of a script, run by bash with a stub as its worker."""

    def __init__(self, script: Path, status: int) -> None:
        slurm_says = {"SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "3", "SLURM_CPUS_PER_TASK": "2"}
        self.bash = subprocess.Popen(
            [BASH, script],
            env=os.environ | slurm_says | {"STATUS": str(status)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.bash.stdout is not None
        pid, _, self.arguments = self.bash.stdout.readline().partition(" ")
        self.worker = int(pid)
        self.wait_for(self.bash.pid, "S")  # it waits for the worker

    def wait_for(self, process: int, state: str) -> None:
        """Wait until a process sleeps (S), is stopped (T) or has ended (Z)."""
        end = time.monotonic() + 30
        while Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != state:
            assert time.monotonic() < end, "it did not happen"
            time.sleep(0.005)

    def end(self) -> tuple[int, str]:
        """Return the script's exit status, and its output after the worker's first line."""
        said, errors = self.bash.communicate(timeout=30)
        assert errors == ""
        return self.bash.returncode, said


@pytest.fixture
def start(tmp_path: Path, program: Callable[[str, str], Path]) -> Iterator[Callable[[int], Task]]:
    """A function that starts a task whose worker will end with a given status."""
    program("avprep", STUB)
    program("scontrol", '#!/bin/sh\necho "scontrol $*"\n')
    script = tmp_path / "mfcc.sbatch"
    script.write_text(slurm.render(PLAIN))
    begun: list[Task] = []

    def begin(status: int) -> Task:
        begun.append(Task(script, status))
        return begun[-1]

    yield begin
    for task in begun:
        for stream in (task.bash.stdout, task.bash.stderr):
            assert stream is not None
            stream.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(task.bash.pid, signal.SIGKILL)
        task.bash.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
class TestTask:
    """The behaviour of a task of a rendered script."""

    def test_the_command(self, start: Callable[[int], Task]) -> None:
        """The command gets the number of tasks, and as many workers as Slurm gives it cores."""
        task = start(0)
        assert task.arguments == "mfcc /data/lrw.jsonl /data/shards --num-tasks 64 --jobs 2\n"

    @pytest.mark.parametrize("status", [0, 1, 3])
    def test_its_status_is_the_commands(self, start: Callable[[int], Task], status: int) -> None:
        """A task that ends by itself has the exit status of its command, and is not queued again."""
        task = start(status)
        os.kill(task.worker, signal.SIGUSR2)
        assert task.end() == (status, "SIGUSR2\n")

    def test_time_is_nearly_up(self, start: Callable[[int], Task]) -> None:
        """Slurm's warning is passed to the command; when that has stopped, the task is queued again."""
        task = start(1)
        task.bash.send_signal(signal.SIGUSR1)
        status, said = task.end()
        assert said == "SIGUSR1\nscontrol requeue 77_3\n"
        assert status != 0

    def test_the_command_is_through_all_the_same(self, start: Callable[[int], Task]) -> None:
        """A command that finishes its work on the warning is not queued again."""
        task = start(0)
        task.bash.send_signal(signal.SIGUSR1)
        assert task.end()[1] == "SIGUSR1\n"

    def test_the_warning_comes_as_the_command_ends(self, start: Callable[[int], Task]) -> None:
        """A warning that arrives just after the command ended successfully does not queue the task again."""
        task = start(0)
        task.bash.send_signal(signal.SIGSTOP)
        task.wait_for(task.bash.pid, "T")
        os.kill(task.worker, signal.SIGUSR2)
        task.wait_for(task.worker, "Z")
        task.bash.send_signal(signal.SIGUSR1)
        task.bash.send_signal(signal.SIGCONT)
        assert task.end()[1] == "SIGUSR2\n"

    def test_success_after_the_warning_is_success(self, start: Callable[[int], Task]) -> None:
        """A task whose command ends successfully after the warning has succeeded for Slurm too."""
        task = start(0)
        task.bash.send_signal(signal.SIGUSR1)
        assert task.end()[0] == 0

    @pytest.mark.parametrize("name", ["TERM", "USR1"])
    def test_a_signal_at_the_moment_of_the_start(
        self, tmp_path: Path, program: Callable[[str, str], Path], name: str
    ) -> None:
        """A command that starts just after its shell got a signal is ended too."""
        program("avprep", "#!/bin/sh\nexec /bin/sleep 60\n")
        program("scontrol", '#!/bin/sh\necho "scontrol $*"\n')
        script = tmp_path / "mfcc.sbatch"
        script.write_text(slurm.render(PLAIN).replace("avprep=$!", f"kill -{name} $$\navprep=$!"))
        own = {"SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "3", "SLURM_CPUS_PER_TASK": "2"}
        with subprocess.Popen(
            [BASH, script], env=os.environ | own, stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as bash:
            said, _ = bash.communicate(timeout=30)
        assert bash.returncode not in (0, None)
        assert said == ("scontrol requeue 77_3\n" if name == "USR1" else "")
        with pytest.raises(ProcessLookupError):  # no process is left in its group
            os.killpg(bash.pid, 0)


if __name__ == "__main__":
    for name, job in JOBS.items():
        (RECORDED / f"{name}.sbatch").write_text(slurm.render(job), encoding="utf-8")
