"""docs/cluster.md: its commands exist, its script is the one that is printed, its numbers are consistent."""

from __future__ import annotations

import itertools
import math
import os
import re
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
from avprep_cli.main import main

from avprep.manifest import shard_name
from avprep.runs import slurm, tasks

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cluster.md"
TEXT = PAGE.read_text(encoding="utf-8")
FENCED = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)

SHARD_SIZE = 500
TASKS, AT_ONCE, CORES = slurm.DEFAULT_TASKS, 16, 4
WORKER_GB = 0.15
CLIPS = {"LRW": (488_766, 25_000, 25_000), "VoxCeleb2": (1_092_009, 0, 36_237)}
FRAMES = {"LRW": 538_766 * 29, "VoxCeleb2": 2_442 * 3600 * 25}


def script() -> str:
    """The script on the page: LRW's crops, with the first shard made by hand."""
    n_shards = sum(shards("LRW"))
    return slurm.render(
        slurm.ArrayJob(
            name="avprep-crop",
            command=["avprep", "crop", "/scratch/me/lrw.jsonl", "/scratch/me/lrw", "--detector", "yunet"],
            array=tasks.expression(n % TASKS for n in range(1, n_shards)),
            num_tasks=TASKS,
            work=f"crop: {sum(CLIPS['LRW'])} clips in {n_shards} shards, 1 done.",
            logs=Path("/scratch/me/lrw/logs"),
            time="01:00:00",
            mem="4G",
            max_parallel=AT_ONCE,
            setup=["export PATH=/home/me/venv/bin:$PATH", "export AVPREP_WEIGHTS=/scratch/me/weights"],
        )
    )


def shards(data_set: str) -> list[int]:
    """The number of shards of each split."""
    return [math.ceil(clips / SHARD_SIZE) for clips in CLIPS[data_set]]


def table(text: str = TEXT) -> dict[str, dict[str, str]]:
    """The cells of the table of numbers: data set, then row."""
    rows = re.findall(r"^\| (.*?) \| (.*?) \| (.*?) \|$", text.partition("## The plan in numbers")[2], re.MULTILINE)
    return {name: {row[0].strip("*"): row[n] for row in rows} for n, name in ((1, "LRW"), (2, "VoxCeleb2"))}


def known(data_set: str, row: str) -> list[float]:
    """The numbers of a measured cell."""
    return [float(number.replace(",", "")) for number in re.findall(r"[\d,.]*\d", table()[data_set][row])]


def expected(data_set: str) -> dict[str, str]:
    """The cells that follow from the others."""
    clips, frames, counts = sum(CLIPS[data_set]), FRAMES[data_set], shards(data_set)
    (crop,) = known(data_set, "`crop --detector yunet`, frames/s per core")
    (mfcc,) = known(data_set, "`mfcc`, frames/s per core")
    (verify,) = known(data_set, "`verify`, frames/s per core")
    (crop_bytes,) = known(data_set, "bytes per frame: `crop`")
    (mfcc_bytes,) = known(data_set, "bytes per frame: `mfcc`")
    (sidecar_bytes,) = known(data_set, "bytes a clip: both sidecars")
    _, manifest_gb = known(data_set, "manifest: a task reads for, and takes")
    shard_frames = SHARD_SIZE * frames / clips
    busiest = math.ceil(sum(counts) / TASKS)
    seconds = {"crop": shard_frames / crop / CORES, "mfcc": shard_frames / mfcc / CORES}
    hours = {name: frames / speed / 3600 for name, speed in (("crop", crop), ("mfcc", mfcc), ("verify", verify))}
    length = "538,766 × 29" if data_set == "LRW" else "2,442 h × 90,000"
    return {
        "clips: train, val, test": " + ".join(f"{n:,}" for n in CLIPS[data_set]) + f" = {clips:,}",
        "frames": f"{length} = {frames:,}",
        f"shards of {SHARD_SIZE} clips": " + ".join(f"{n:,}" for n in counts) + f" = {sum(counts):,}",
        f"shards of the busiest of {TASKS} tasks": f"{busiest}",
        "one shard of `crop`": f"{shard_frames * crop_bytes / 1e6:,.0f} MB, {seconds['crop']:.0f} s on {CORES} cores",
        "core-hours: `crop`, `mfcc`, `verify`": ", ".join(f"{value:.1f}" for value in hours.values()),
        f"`crop`, `mfcc`: {TASKS} tasks × {CORES} cores at once": ", ".join(
            f"{busiest * value / 60:.1f} min" for value in seconds.values()
        ),
        f"`crop`, {AT_ONCE} of the {TASKS} tasks at once": (
            f"{busiest * seconds['crop'] / 60 * TASKS / AT_ONCE:.1f} min"
        ),
        "`crop` and `mfcc`, one machine of 16 cores": f"{(hours['crop'] + hours['mfcc']) / 16:.1f} h",
        "bytes: `crop`, `mfcc`, sidecars": ", ".join(
            f"{size / 1e9:,.{digits}f} GB"
            for size, digits in ((frames * crop_bytes, 0), (frames * mfcc_bytes, 0), (clips * sidecar_bytes, 1))
        ),
        "files: tars and sidecars of both columns": f"{4 * sum(counts):,}",
        f"memory of a task of {CORES} workers": f"{manifest_gb + CORES * WORKER_GB:.1f} GB",
    }


def command_lines() -> list[list[str]]:
    """Every call of avprep on the page, as words: in blocks, in what `sbatch --wrap` runs, and in running text."""
    blocks = [line for line in TEXT.splitlines() if re.match(r" {4}\S", line) and "avprep " in line]
    scripts = [line for block in FENCED.findall(TEXT) for line in block.replace("\\\n", " ").splitlines()]
    lines = [*blocks, *(line for line in scripts if re.match(r"(exec )?avprep ", line))]
    found = re.findall(r"`(avprep [^`]+)`", FENCED.sub("", TEXT))
    for line in lines:
        words = shlex.split(line, comments=True)
        found.append(words[words.index("--wrap") + 1] if "--wrap" in words else shlex.join(words))
    calls = []
    for line in found:
        words = shlex.split(line)
        calls.append(list(itertools.takewhile(lambda word: word not in (">", "&"), words[words.index("avprep") + 1 :])))
    return calls


def parse(words: list[str]) -> None:
    """Parse a command line like the program, but run nothing."""
    command: click.Command = main
    context = click.Context(main, info_name="avprep", **main.context_settings)
    while isinstance(command, click.Group):
        name, *words = words
        found = command.get_command(context, name)
        assert found is not None, f"there is no avprep command {name}"
        command = found
    command.make_context(name, words, parent=context)


def test_every_command_line_parses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each `avprep …` on the page is a command with existing options and valid values; its paths need not exist."""

    def convert(self: click.Path, value: Any, param: Any, ctx: Any) -> Path:
        return Path(value)

    monkeypatch.setattr(click.Path, "convert", convert)
    calls = command_lines()
    assert {call[0] for call in calls} >= {"index", "crop", "slurm", "status", "retry", "verify", "weights", "bench"}
    for call in calls:
        words = [re.sub(r"^\$\w+$", "4", word) for word in call]
        try:
            parse(words)
        except click.UsageError as error:
            pytest.fail(f"avprep {shlex.join(call)}: {error.format_message()}")


def test_unknown_options_would_be_found() -> None:
    """The check above refuses an option that does not exist."""
    with pytest.raises(click.UsageError, match="--detektor"):
        parse(["crop", "lrw.jsonl", "lrw", "--detektor", "yunet"])


def test_the_script_is_the_one_that_is_printed() -> None:
    """The page shows the output of `avprep slurm crop` for LRW."""
    assert FENCED.findall(TEXT)[0] == script(), "run python tests/docs/test_cluster_docs.py"


@pytest.mark.parametrize("block", FENCED.findall(TEXT))
def test_the_scripts_are_shell(block: str) -> None:
    """Bash can parse every script on the page."""
    done = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("data_set", CLIPS)
def test_the_table_follows_from_what_was_measured(data_set: str) -> None:
    """Shards, hours, bytes and files equal the results of the arithmetic."""
    cells = table()[data_set]
    assert {row: cells.get(row) for row in expected(data_set)} == expected(data_set), (
        "run python tests/docs/test_cluster_docs.py"
    )


def test_the_text_follows_from_the_table() -> None:
    """Numbers of shards, brace patterns and the load on the storage agree with the table."""
    for data_set, folder in (("LRW", "lrw"), ("VoxCeleb2", "vox2")):
        patterns = {
            f"/scratch/me/{folder}/crop/{split}-{{000000..{shard_name(split, count - 1).rpartition('-')[2]}}}.tar"
            for split, count in zip(("train", "val", "test"), shards(data_set), strict=True)
            if count
        }
        assert set(re.findall(rf"^ {{4}}(/scratch/me/{folder}/crop/.*)$", TEXT, re.MULTILINE)) == patterns
        assert re.findall(rf"crop {folder}\.jsonl {folder} .*--num-tasks (\d+)", TEXT)[0] == str(sum(shards(data_set)))
    (crop,) = known("LRW", "`crop --detector yunet`, frames/s per core")
    (mfcc,) = known("LRW", "`mfcc`, frames/s per core")
    (size,) = known("LRW", "bytes per frame: `crop`")
    workers = TASKS * CORES
    words = " ".join(TEXT.split())
    assert f"{workers} workers of `crop` write {workers * crop * size / 1e9:.1f} GB/s" in words
    assert f"open {round(workers * crop / 29, -2):,.0f} videos a second" in words
    assert f"at `mfcc` they would open {round(workers * mfcc / 29, -3):,.0f}." in words
    shard_gb = known("VoxCeleb2", "one shard of `crop`")[0] / 1e3
    busiest = known("VoxCeleb2", f"shards of the busiest of {TASKS} tasks")[0]
    assert f"up to {busiest * shard_gb:.0f} GB for each of {TASKS} tasks" in words
    assert f"Slurm takes array numbers below its MaxArraySize, {slurm.DEFAULT_ARRAY_LIMIT:,}" in words


@pytest.mark.parametrize(("outcome", "status"), [("stopped", 99), ("failed", 1), ("done", 0)])
def test_the_sge_script_puts_back_only_what_was_stopped(tmp_path: Path, outcome: str, status: int) -> None:
    """A task that was stopped by SIGUSR1 exits with 99; errors and success keep their own status."""
    ready = tmp_path / "ready"
    bodies = {"stopped": f"trap 'exit 1' USR1; touch {ready}; sleep 60 & wait", "failed": "exit 1", "done": "exit 0"}
    stand_in = tmp_path / "avprep"
    stand_in.write_text(f"#!/bin/bash\n{bodies[outcome]}\n")
    stand_in.chmod(0o755)
    (block,) = (block for block in FENCED.findall(TEXT) if "#$ " in block)
    path = f"{tmp_path}:{os.environ['PATH']}"
    text = block.replace("/home/me/venv/bin:$PATH", shlex.quote(path))
    job = subprocess.Popen(["bash", "-c", text], start_new_session=True)
    if outcome == "stopped":
        while not ready.exists():
            assert job.poll() is None
        os.killpg(job.pid, signal.SIGUSR1)
    assert job.wait(timeout=30) == status


def renewed() -> str:
    """The page with its script and its derived cells updated."""
    cells = {data_set: expected(data_set) for data_set in CLIPS}
    lines = []
    for line in FENCED.sub(lambda _: f"```bash\n{script()}```", TEXT, count=1).splitlines():
        label = re.match(r"\| \**(.+?)\** (?=\|)", line)
        made = label is not None and label[1] in cells["LRW"]
        lines.append(f"{label[0]}| {' | '.join(cells[name][label[1]] for name in CLIPS)} |" if made and label else line)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(renewed(), encoding="utf-8")
