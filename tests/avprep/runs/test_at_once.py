"""Several processes that write the same file at once leave it whole, and one of them wins."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from command_line import assert_one_line, call

from avprep import manifest
from avprep.errors import RunError
from avprep.files import write_text
from avprep.runs import slurm

MANY = 8


def at_once(work: Callable[[int], Any], count: int = MANY) -> list[Any]:
    """Return the results of several calls in threads that begin together, or the RunErrors that they raise."""
    barrier = threading.Barrier(count)

    def one(number: int) -> Any:
        barrier.wait()
        try:
            return work(number)
        except RunError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


class TestText:
    """Manifests, pages and tables."""

    def test_one_wins(self, tmp_path: Path) -> None:
        """If nothing may be replaced, one process writes the file and the others report it; nothing else is left."""
        path = tmp_path / "m.jsonl"
        texts = [str(number) * 1_000_000 for number in range(MANY)]
        ended = at_once(lambda number: write_text(path, texts[number], replace=False))
        (winner,) = (number for number, end in enumerate(ended) if end is None)
        assert path.read_text() == texts[winner]
        assert all("another process has just written it" in str(end) for end in ended if end is not None)
        assert list(tmp_path.iterdir()) == [path]

    def test_an_answer_that_nfs_repeats(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A link that was made, although the file system reports that it existed before, is this process's own."""
        link = Path.hardlink_to

        def twice(path: Path, target: Path) -> None:
            link(path, target)
            link(path, target)

        monkeypatch.setattr(Path, "hardlink_to", twice)
        write_text(tmp_path / "m.jsonl", "ours", replace=False)
        assert (tmp_path / "m.jsonl").read_text() == "ours"
        with pytest.raises(RunError, match="another process has just written it"):
            write_text(tmp_path / "m.jsonl", "theirs", replace=False)

    def test_the_last_one_stays(self, tmp_path: Path) -> None:
        """If the file may be replaced, it is that of one process, whole."""
        path = tmp_path / "m.jsonl"
        texts = [str(number) * 1_000_000 for number in range(MANY)]
        assert at_once(lambda number: write_text(path, texts[number])) == [None] * MANY
        assert path.read_text() in texts
        assert list(tmp_path.iterdir()) == [path]

    def test_a_file_that_is_no_file(self, tmp_path: Path) -> None:
        """A pipe or a device is not replaced by a file."""
        path = tmp_path / "m.jsonl"
        os.mkfifo(path)
        with pytest.raises(RunError, match="not a plain file"):
            write_text(path, "text")
        assert path.is_fifo()
        assert list(tmp_path.iterdir()) == [path]

    def test_four_times_index(self, lrw: Path, tmp_path: Path) -> None:
        """Of four `avprep index` with one output one wins and its manifest is kept; the others end in one line."""
        path = tmp_path / "m.jsonl"
        command = [sys.executable, "-c", "from avprep_cli.main import main; main()"]
        words = ["index", "lrw", str(lrw / "corpus"), "-o", str(path), "--seed"]
        started = [
            subprocess.Popen([*command, *words, str(seed)], stdout=-1, stderr=-1, text=True) for seed in range(4)
        ]
        ended = [(process.communicate()[1], process.returncode) for process in started]
        (winner,) = (seed for seed, (_, status) in enumerate(ended) if status == 0)
        assert manifest.read(path).seed == winner
        assert all(status in (1, 2) and "Traceback" not in said for said, status in ended if status)
        assert list(tmp_path.iterdir()) == [path]


SBATCH = """#!/bin/sh
PATH=/usr/bin:/bin
cd "${0%/*}"
mkdir running || echo overlap > problem
cat > script
echo "$(cat script | wc -c)" >> sizes
mv script last
rmdir running
wc -l < sizes
"""
"""An sbatch that counts jobs, keeps the last script and remarks when it is called twice at the same time."""


class TestSubmit:
    """`avprep slurm --submit`."""

    def test_what_stays_is_the_last_jobs_script(self, program: Callable[[str, str], Path], tmp_path: Path) -> None:
        """Simultaneous calls send one after the other, each its own script; the script of the last job is kept."""
        sbatch = program("sbatch", SBATCH)
        (tmp_path / "out").mkdir()
        kept = tmp_path / "out/mfcc.sbatch"
        scripts = [f"#!/bin/bash\n# {'x' * number}\n" for number in range(MANY)]
        jobs = at_once(lambda number: slurm.keep_and_submit(scripts[number], kept))
        assert sorted(jobs) == [str(number) for number in range(1, MANY + 1)]
        assert not (sbatch.parent / "problem").exists()
        assert kept.read_text() == (sbatch.parent / "last").read_text() == scripts[jobs.index(str(MANY))]
        assert list(kept.parent.iterdir()) == [kept]

    def test_a_script_that_cannot_be_kept_is_not_sent(
        self, lrw: Path, tmp_path: Path, program: Callable[[str, str], Path]
    ) -> None:
        """No job runs before its script is written."""
        sbatch = program("sbatch", SBATCH)
        (tmp_path / "out/mfcc.sbatch").mkdir(parents=True)
        assert_one_line(call("slurm", "mfcc", lrw / "plan.jsonl", tmp_path / "out", "--submit"), 1, "nothing was sent")
        assert not (sbatch.parent / "sizes").exists()

    def test_a_refused_script_is_not_kept(self, tmp_path: Path, program: Callable[[str, str], Path]) -> None:
        """A script that sbatch refuses does not replace the script that was sent before."""
        program("sbatch", "#!/bin/sh\nexit 1\n")
        kept = tmp_path / "mfcc.sbatch"
        kept.write_text("before")
        with pytest.raises(RunError, match="sbatch refuses"):
            slurm.keep_and_submit("after", kept)
        assert kept.read_text() == "before"
        assert not list(tmp_path.glob(".*"))


def test_dry_run_reads_no_tar(lrw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--dry-run checks sizes and first lines without computing digests of large files, and notices a short tar."""
    out = tmp_path / "out"
    options = ("mfcc", lrw / "plan.jsonl", out, "-j", 1, "--limit", 1)
    assert call(*options).exit_code == 0
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert call(*options, "--dry-run").output.endswith("3 shards, 3 clips; 3 shards done\n")
    tar = out / "mfcc/val-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-1])
    assert call(*options, "--dry-run").output.endswith("3 shards, 3 clips; 2 shards done\n")
