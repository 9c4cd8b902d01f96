"""Messages if no clip is ok, and which clips are worth a retry."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stand_ins
from avprep_cli import summary
from command_line import call

from avprep import manifest
from avprep.runs import status


@pytest.fixture
def bad(lrw: Path, tmp_path: Path) -> Path:
    """A manifest of the one clip that is not a video."""
    plan = manifest.read(lrw / "plan.jsonl")
    names = [clip for clip in plan.clips if (plan.root / clip.video).read_bytes() == b"not a video"]
    path = tmp_path / "bad.jsonl"
    path.write_text(manifest.render(replace(plan, clips=tuple(names))), encoding="utf-8")
    return path


class TestNothingIsOk:
    """Exit status 1, and no message of success."""

    @pytest.mark.parametrize("column", ["crop", "mfcc"])
    def test_a_run(self, bad: Path, tmp_path: Path, column: str) -> None:
        """A run without a single good clip ends with 1 and one line, at first and when it is repeated."""
        for _ in range(2):
            result = call(column, bad, tmp_path / "out", "-j", 1)
            assert result.exit_code == 1
            assert result.stdout.startswith(f"{column}: 1 shard")
            last = result.stderr.splitlines()[-1]
            assert last == f"Error: {column}: no clip is ok, 1 failed (unreadable 1)"
            assert "1 worker\n" in result.stderr

    def test_no_next_step(self, bad: Path, tmp_path: Path) -> None:
        """No command is recommended that would have no clip to work on, be it the other column or training."""
        result = call("crop", bad, tmp_path / "out", "-j", 1)
        assert "next:" not in result.stderr
        assert json.loads(call("mfcc", bad, tmp_path / "out", "-j", 1, "--json").stdout)["next"] == []
        assert "next:" not in call("verify", tmp_path / "out", "-j", 1).stderr

    def test_for_scripts(self, bad: Path, tmp_path: Path) -> None:
        """With --json the object is complete, and the exit status is 1; --strict keeps its own."""
        result = call("mfcc", bad, tmp_path / "out", "-j", 1, "--json")
        assert (result.exit_code, json.loads(result.stdout)["ok"]) == (1, 0)
        assert call("mfcc", bad, tmp_path / "out", "-j", 1, "--strict").exit_code == 3

    def test_again(self, bad: Path, tmp_path: Path) -> None:
        """A retry in which no clip becomes ok ends with 1 too."""
        out = tmp_path / "out"
        call("mfcc", bad, out, "-j", 1)
        result = call("retry", out, "--reason", "unreadable", "-j", 1)
        assert result.exit_code == 1
        assert result.stderr.splitlines()[-1] == "Error: mfcc: no clip is ok, 1 failed (unreadable 1)"

    def test_part_of_a_run(self, lrw: Path, tmp_path: Path) -> None:
        """One good clip among those of the call is enough for 0."""
        assert call("mfcc", lrw / "plan.jsonl", tmp_path / "out", "-j", 1).exit_code == 0

    def test_verify(self, bad: Path, lrw: Path, tmp_path: Path) -> None:
        """The last line of `verify` counts ok and failed clips, with reasons, and reports no success if none is ok."""
        call("mfcc", bad, tmp_path / "bad", "-j", 1)
        line = "mfcc: verified, but no clip is ok: 1 clip = 0 ok + 1 failed (unreadable 1)\n"
        assert call("verify", tmp_path / "bad", "-j", 1).stdout == line
        call("mfcc", lrw / "plan.jsonl", tmp_path / "good", "-j", 1)
        line = "mfcc: verified: 6 clips = 5 ok + 1 failed (unreadable 1)\n"
        assert call("verify", tmp_path / "good", "-j", 1).stdout == line


class TestWorthATry:
    """`retry` is recommended for failures that it may fix."""

    @staticmethod
    def advice(out: Path, *tried: str) -> list[str]:
        """Return the recommendation for the mfcc column."""
        (found,) = status.status(out, columns=("mfcc",))
        again = summary.accidents(found, tried)
        return summary.retry_line(out, found, again).split()[5:] if again else []

    def test_an_error_is_tried_once(self, tmp_path: Path) -> None:
        """An internal error and a crash are suggested for one retry, and no longer after it."""
        words = ["ok", "raise", "segv", "ok"]
        stand_ins.start(words, tmp_path)
        assert self.advice(tmp_path) == ["--reason", "crashed,error"]
        stand_ins.start(words, tmp_path, retry=frozenset({"error"}))
        assert self.advice(tmp_path) == ["--reason", "crashed"]
        stand_ins.start(words, tmp_path, retry=frozenset({"crashed"}))
        assert self.advice(tmp_path) == []

    def test_an_error_of_every_clip(self, tmp_path: Path) -> None:
        """An internal error in every clip is to be reported, not retried."""
        stand_ins.start(["raise"] * 3, tmp_path)
        assert self.advice(tmp_path) == []
        assert summary.none_ok("mfcc", {"error": 3}) == (
            "mfcc: no clip is ok, 3 failed (error 3); please report this error"
        )

    def test_more_time_each_time(self, tmp_path: Path) -> None:
        """After a timeout a longer --clip-timeout, up to a day, is recommended, also if a retry timed out again."""
        words: list[str] = ["ok", "hang"]
        for limit, more in ((0.6, "3"), (1.2, "6")):
            given: dict[str, Any] = {} if limit == 0.6 else {"retry": frozenset({"timeout"})}
            stand_ins.start(words, tmp_path, clip_timeout=limit, **given)
            assert self.advice(tmp_path, *given) == ["--reason", "timeout", "--clip-timeout", more]
        (found,) = status.status(tmp_path)
        assert summary.accidents(replace(found, longest_timeout=20_000.0)) == {}
        assert summary.retry_line(tmp_path, replace(found, longest_timeout=None), {"timeout": 1}).endswith(" 600")
