"""The pool of processes by itself: a failing worker loses its own job and no other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from avprep.runs import pool
from avprep.runs.pool import Died, Ended, Pool, PoolError

pytestmark = pytest.mark.interpreters

TESTS = Path(__file__).parent


def double(number: int) -> int:
    """Return twice a number."""
    return 2 * number


def hang() -> None:
    """Never end."""
    time.sleep(3600)


def hang_in_c() -> None:
    """Never end, in one instruction of the interpreter, so that no other thread runs."""
    _ = 7 ** (10**9)


def hang_with_leave(seconds: float) -> None:
    """Ask for some time, then exceed it."""
    pool.grant(seconds)
    hang()


def wait_for(path: Path) -> str:
    """Wait until there is a file."""
    while not path.exists():
        time.sleep(0.01)
    return "there"


def hang_once(begun: Path) -> str:
    """Never end, but only the first time."""
    if not begun.exists():
        begun.touch()
        hang()
    return "done"


def nap(seconds: float, leave: float) -> str:
    """Ask for some time, and take less."""
    pool.grant(leave)
    time.sleep(seconds)
    return "rested"


def end(exit_code: int) -> None:
    """End the process."""
    os._exit(exit_code)


def fall(number: int) -> None:
    """End by a signal."""
    os.kill(os.getpid(), number)


def complain(message: str) -> None:
    """Raise an error."""
    raise ValueError(message)


class OddError(Exception):
    """An error that does not survive a pipe."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def complain_oddly() -> None:
    """Raise it."""
    raise OddError(1, 2)


def secret() -> Any:
    """Return a value that cannot be pickled."""
    return threading.Lock()


def ask(name: str) -> str | None:
    """Return a variable of the environment."""
    return os.environ.get(name)


def prepare(value: str) -> None:
    """Set up a worker, or fail to."""
    if value == "raise":
        raise OSError("no room")
    if value == "exit":
        os._exit(7)
    os.environ["PREPARED"] = value


def prepare_every_other_time(begun: Path) -> None:
    """Set up every second worker; end the others."""
    if not begun.exists():
        begun.touch()
        os._exit(7)
    begun.unlink()


def shout(text: str) -> None:
    """Write to both outputs."""
    print(text, file=sys.stderr)
    print(text, flush=True)


def dispositions() -> tuple[bool, list[int]]:
    """Return whether SIGINT is ignored, and which signals are blocked."""
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    return ignored, sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))


def ended(workers: Pool) -> dict[Any, Ended]:
    """Return the results of all jobs, by tag; each ends once."""
    found = list(workers.all())
    assert len({one.tag for one in found}) == len(found)
    return {one.tag: one for one in found}


def wait_until_dead(pids: list[int]) -> None:
    """Wait for the end of processes, and kill those that are left."""
    until = time.monotonic() + 10
    try:
        while alive := [pid for pid in pids if runs(pid)]:
            assert time.monotonic() < until, alive
            time.sleep(0.01)
    finally:
        for pid in filter(runs, pids):
            os.kill(pid, signal.SIGKILL)


def runs(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def two() -> Iterator[Pool]:
    """A pool of two."""
    with Pool(2, prepare, ("with this module loaded",)) as workers:
        yield workers


class TestJobs:
    """Results of jobs."""

    def test_values(self, two: Pool) -> None:
        """Every job returns its value once, however many jobs there are."""
        for number in range(200):
            two.submit(number, double, number)
        assert {tag: one.value for tag, one in ended(two).items()} == {n: 2 * n for n in range(200)}

    def test_one_worker_keeps_the_order(self) -> None:
        """A single worker does jobs in the order of submission."""
        with Pool(1) as workers:
            for number in range(30):
                workers.submit(number, double, number)
            assert [one.tag for one in workers.all()] == list(range(30))

    def test_large_jobs_and_results(self, two: Pool) -> None:
        """Megabytes pass in both directions."""
        for number in range(4):
            two.submit(number, double, (b"x" * (4 << 20)))  # type: ignore[arg-type]
        assert {len(one.value) for one in ended(two).values()} == {8 << 20}

    def test_errors(self, two: Pool) -> None:
        """An exception of a job is returned; so is an error for a value that cannot be transferred."""
        two.submit("raise", complain, "a bad number")
        two.submit("odd", complain_oddly)
        two.submit("secret", secret)
        two.submit("exit", sys.exit, 3)
        two.submit("fine", double, 1)
        found = ended(two)
        assert repr(found["raise"].error) == "ValueError('a bad number')"
        assert str(found["odd"].error) == "OddError: 1 and 2"
        assert "pickle" in str(found["secret"].error)
        assert isinstance(found["exit"].error, SystemExit)
        assert (found["fine"].error, found["fine"].value) == (None, 2)

    def test_what_workers_print(self, capfd: pytest.CaptureFixture[str]) -> None:
        """Output of jobs goes to the parent's standard error, and none of it to standard output."""
        with Pool(1) as workers:
            workers.submit("a", shout, "a warning")
            ended(workers)
        assert capfd.readouterr() == ("", "a warning\na warning\n")

    def test_nothing_to_do(self, two: Pool) -> None:
        """Without jobs there is no waiting and no process."""
        assert two.wait(0) == []
        assert list(two.all()) == []


class TestDeaths:
    """Workers that die lose the job they were working on."""

    @pytest.mark.parametrize(
        ("job", "exit_code"),
        [((end, 3), 3), ((end, 0), 0), ((fall, signal.SIGSEGV), -11), ((fall, signal.SIGKILL), -9)],
        ids=["exit-3", "exit-0", "segv", "kill"],
    )
    def test_a_crash(self, two: Pool, job: tuple[Any, ...], exit_code: int) -> None:
        """The job of a worker that died is reported with the exit code; the others are done."""
        for number in range(10):
            two.submit(number, double, number)
        two.submit("bad", *job)
        for number in range(10, 20):
            two.submit(number, double, number)
        found = ended(two)
        error = found.pop("bad").error
        assert isinstance(error, Died)
        assert error.exit_code == exit_code
        assert {tag: one.value for tag, one in found.items()} == {n: 2 * n for n in range(20)}

    def test_the_order_after_a_crash(self) -> None:
        """The job that a worker had ahead when it died is the next one, not the last."""
        with Pool(1) as workers:
            for number in range(5):
                workers.submit(number, *((end, 3) if number == 1 else (double, number)))
            assert [one.tag for one in workers.all()] == list(range(5))

    def test_a_job_that_was_not_begun(self) -> None:
        """A job that a worker has received but not begun when it is killed is given to another worker."""
        with Pool(1) as workers:
            workers.submit("first", double, 1)
            ended(workers)
            os.kill(workers._workers[0].process.pid, signal.SIGSTOP)
            workers.submit("second", double, 2)
            assert workers.wait(0) == []
            os.kill(workers._workers[0].process.pid, signal.SIGKILL)
            assert ended(workers)["second"].value == 4

    def test_a_job_that_ends_as_it_is_killed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A late job that ends before its kill has its value, and the job that its worker then began is done again."""
        kill, killed, begun = subprocess.Popen.kill, tmp_path / "killed", tmp_path / "begun"

        def too_late(process: subprocess.Popen[bytes]) -> None:
            killed.touch()
            wait_for(begun)
            kill(process)

        with Pool(1) as workers:
            monkeypatch.setattr(subprocess.Popen, "kill", too_late)
            workers.submit("quick", double, 1)
            workers.submit("late", wait_for, killed, timeout=0.1)
            workers.submit("next", hang_once, begun, timeout=60)
            found = list(workers.all())
        assert [(one.tag, one.value) for one in found] == [("quick", 2), ("late", "there"), ("next", "done")]

    def test_a_large_job_after_one_that_hangs(self) -> None:
        """A job that does not fit into a pipe waits until its worker is free: sending it would block the time limit."""
        with Pool(1) as workers:
            workers.submit("quick", double, 1)
            workers.submit("bad", nap, 1.0, 0.0, timeout=0.2)
            workers.submit("large", double, b"x" * (4 << 20))
            found = ended(workers)
        assert isinstance(found["bad"].error, TimeoutError)
        assert len(found["large"].value) == 8 << 20

    @pytest.mark.parametrize("job", [hang, hang_in_c])
    def test_a_hang(self, two: Pool, job: Any) -> None:
        """A job that exceeds its time limit is ended and reported with the limit; the others are done."""
        two.submit("bad", job, timeout=0.3)
        for number in range(10):
            two.submit(number, double, number, timeout=60)
        found = ended(two)
        bad = found.pop("bad")
        assert isinstance(bad.error, TimeoutError)
        assert bad.limit == 0.3
        assert len(found) == 10
        assert two.stuck() == []

    def test_a_job_may_ask_for_time(self, two: Pool) -> None:
        """A job that asks for more time gets that much; asking for less changes nothing."""
        two.submit("more", nap, 1.5, 60.0, timeout=1.0)
        two.submit("too little", hang_with_leave, 0.8, timeout=0.2)
        two.submit("less", nap, 0.3, 0.01, timeout=60)
        found = ended(two)
        assert found["more"].value == found["less"].value == "rested"
        assert isinstance(found["too little"].error, TimeoutError)
        assert found["too little"].limit == 0.8

    def test_each_job_has_its_own_limit(self) -> None:
        """A job that a worker had ahead has its own time limit, from when it is begun."""
        with Pool(1) as workers:
            workers.submit("quick", double, 1)
            workers.submit("good", double, 2, timeout=5)
            workers.submit("bad", hang, timeout=0.2)
            bad = ended(workers)["bad"]
        assert isinstance(bad.error, TimeoutError)
        assert bad.limit == 0.2

    def test_the_clock_is_set(self, two: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
        """A wall clock set an hour forward or back ends no job early, and a job that hangs still times out."""
        hour = iter([3600.0, -3600.0] * 10_000)
        wall = time.time
        monkeypatch.setattr(time, "time", lambda: wall() + next(hour))
        two.submit("good", nap, 0.3, 0.0, timeout=30)
        two.submit("bad", hang, timeout=0.5)
        found = ended(two)
        assert found["good"].value == "rested"
        assert isinstance(found["bad"].error, TimeoutError)

    def test_a_worker_that_does_not_die(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A worker that survives its kill is abandoned, named and replaced; close and exit do not wait for it."""
        monkeypatch.setattr(pool, "PATIENCE", 0.2)
        monkeypatch.setattr(subprocess.Popen, "kill", lambda _: None)
        workers = Pool(1)
        workers.submit("bad", hang, timeout=0.2)
        workers.submit("good", double, 4)
        found = ended(workers)
        ((pid, tag),) = workers.stuck()
        try:
            assert tag == "bad"
            assert isinstance(found["bad"].error, TimeoutError)
            assert found["good"].value == 8
            os.kill(pid, 0)
        finally:
            begin = time.monotonic()
            left = [number for number, _ in workers.close()]
            assert time.monotonic() - begin < 5
            assert pid in left
            for number in left:
                os.kill(number, signal.SIGKILL)
            wait_until_dead(left)

    def test_close_amid_work(self) -> None:
        """A pool that is closed during work leaves no process."""
        workers = Pool(2)
        for number in range(6):
            workers.submit(number, hang_in_c if number % 2 else hang)
        assert workers.wait(1.0) == []
        pids = [worker.process.pid for worker in workers._workers]
        workers.close()
        assert len(pids) == 2
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


class TestStarting:
    """Workers that cannot start."""

    def test_the_initializer(self) -> None:
        """The initializer runs once in each worker before any job."""
        with Pool(1, prepare, ("well",)) as workers:
            workers.submit("a", ask, "PREPARED")
            assert [one.value for one in workers.all()] == ["well"]

    def test_one_that_raises(self) -> None:
        """An exception of the initializer is reported, and no job fails for it."""
        with Pool(2, prepare, ("raise",)) as workers:
            workers.submit("a", double, 1)
            with pytest.raises(PoolError, match=r"^a worker could not start: OSError: no room$"):
                list(workers.all())

    def test_one_that_ends_the_process(self) -> None:
        """If workers die before they are ready, the pool ends instead of retrying for ever."""
        with Pool(1, prepare, ("exit",)) as workers:
            workers.submit("a", double, 1)
            with pytest.raises(PoolError, match="die before they do anything"):
                list(workers.all())

    def test_some_that_end_the_process(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Workers that die before they are ready end the pool only if none is ready in between."""
        monkeypatch.setattr(pool, "_STARTS", 2)
        with Pool(1, prepare_every_other_time, (tmp_path / "begun",)) as workers:
            for number in range(2):
                workers.submit(number, end, 3)
            assert [type(one.error) for one in ended(workers).values()] == [Died, Died]

    def test_a_machine_without_room(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """If no process can be started, the error says so; if only some can, they do the work."""
        start, allowed = Pool._start, [0]

        def limited(self: Pool) -> Any:
            if allowed[0] == 0:
                raise OSError(11, "Resource temporarily unavailable")
            allowed[0] -= 1
            return start(self)

        monkeypatch.setattr(Pool, "_start", limited)
        with Pool(4) as workers:
            workers.submit("a", double, 1)
            with pytest.raises(PoolError, match=r"no worker can be started \(Resource temporarily unavailable\)"):
                list(workers.all())
        allowed[0] = 1
        with Pool(4) as workers:
            for number in range(10):
                workers.submit(number, double, number)
            assert len(ended(workers)) == 10

    def test_deaf_from_the_first_moment(self) -> None:
        """Workers ignore the signals that the parent handles, and have no blocked ones."""
        with Pool(1, deaf=(signal.SIGINT, signal.SIGHUP)) as workers:
            workers.submit("a", dispositions)
            workers.wait(0)
            os.kill(workers._workers[0].process.pid, signal.SIGINT)  # it has only just been started
            assert [one.value for one in workers.all()] == [(True, [])]

    def test_the_current_folder_is_not_imported_from(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file in the current folder with a library's name is not imported in its place."""
        (tmp_path / "pickle.py").write_text("raise SystemExit('wrong')")
        monkeypatch.chdir(tmp_path)
        with Pool(1) as workers:
            workers.submit("a", double, 1)
            assert [one.value for one in workers.all()] == [2]


SCRIPT = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from avprep.runs.pool import Pool
import test_pool
print("once", flush=True)
pool = Pool(2)
for number in range(2):
    pool.submit(number, getattr(test_pool, sys.argv[2]))
pool.wait(float(sys.argv[3]))
print(*[worker.process.pid for worker in pool._workers], flush=True)
if sys.argv[2] == "hang":
    pool.wait(3600)
"""


def test_workers_die_with_their_parent() -> None:
    """kill -9 of the parent ends its workers, whatever they are doing."""
    parent = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(TESTS), "hang", "1"], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "once\n"
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.kill()
    parent.communicate()
    wait_until_dead(pids)


def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    """A script without `if __name__ == "__main__"` runs once, with or without workers."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(TESTS), "secret", "30"], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("once") == 1
    assert done.stderr == ""
