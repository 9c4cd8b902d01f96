"""An upgrade during a run: `--accept-versions` continues and records it; everything else must be unchanged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import stand_ins
from command_line import assert_one_line, call

from avprep import shards
from avprep.errors import RunError
from avprep.quality import report, verify
from avprep.runs import fingerprint
from avprep.runs.status import status

WORDS = ["ok", "reject", "ok", "ok", "ok", "raise"]
NEW = {"stand-ins": "2"}


def head(out: Path, shard: str) -> dict[str, Any]:
    """Return the first line of a sidecar."""
    found = shards.read_sidecar_head(out, "mfcc", shard)
    assert found is not None
    return found


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A run of three shards of two clips, of which the last was never made."""
    out = tmp_path / "out"
    stand_ins.start(WORDS, out, shard_size=2)
    for suffix in ("tar", "json"):
        (out / f"mfcc/train-000002.{suffix}").unlink()
    return out


class TestRun:
    """Behaviour of a run."""

    def test_it_is_refused_with_the_remedy(self, begun: Path) -> None:
        """Without the option other versions are refused, and the error names the option."""
        wanted = r"other versions \(versions\.stand-ins: there 1, here 2\); .* --accept-versions"
        with pytest.raises(RunError, match=wanted):
            stand_ins.start(WORDS, begun, shard_size=2, version="2")

    def test_it_goes_on_and_is_recorded(self, begun: Path) -> None:
        """Shards made with other versions record them in their sidecars; other shards and run.json do not change."""
        before = {path: path.read_bytes() for path in begun.rglob("*.*") if path.is_file()}
        outcome = stand_ins.start(WORDS, begun, shard_size=2, version="2", accept_versions=True)
        assert outcome.skipped == ("train-000000", "train-000001")
        assert head(begun, "train-000002")["other_versions"] == [NEW]
        assert {path: path.read_bytes() for path in before} == before
        assert verify.verify(begun) == []
        assert status(begun)[0].unfinished == []
        assert report.report(begun).n_problems == 0

    def test_the_first_versions_go_on_without_it(self, begun: Path) -> None:
        """With the first versions no option is needed, and the bytes are those of an uninterrupted run."""
        stand_ins.start(WORDS, begun, shard_size=2, version="2", accept_versions=True)
        shutil.copy(begun / "mfcc/train-000002.tar", begun.parent / "kept.tar")
        for suffix in ("tar", "json"):
            (begun / f"mfcc/train-000002.{suffix}").unlink()
        stand_ins.start(WORDS, begun, shard_size=2, accept_versions=True)
        assert "other_versions" not in head(begun, "train-000002")
        assert (begun / "mfcc/train-000002.tar").read_bytes() == (begun.parent / "kept.tar").read_bytes()

    def test_retry_keeps_what_was_recorded(self, begun: Path) -> None:
        """A shard that is rewritten lists every other set of versions that took part in it, each once."""
        again: dict[str, Any] = {"shard_size": 2, "accept_versions": True}
        for version in ("2", "3", "2"):
            stand_ins.start(WORDS, begun, version=version, retry=frozenset({"no_face"}), **again)
        assert head(begun, "train-000000")["other_versions"] == [NEW, {"stand-ins": "3"}]
        stand_ins.start(WORDS, begun, retry=frozenset({"no_face"}), **again)
        assert head(begun, "train-000000")["other_versions"] == [NEW, {"stand-ins": "3"}]
        assert "other_versions" not in head(begun, "train-000001")

    def test_settings_must_be_the_same(self, begun: Path) -> None:
        """Other settings, with or without other versions, are refused as usual."""
        wanted = r"made with other settings \(settings\.setting: there a, here b"
        with pytest.raises(RunError, match=wanted):
            stand_ins.start(WORDS, begun, shard_size=2, setting="b", version="2", accept_versions=True)

    def test_the_manifest_must_be_the_same(self, begun: Path) -> None:
        """So is another manifest."""
        with pytest.raises(RunError, match="another manifest"):
            stand_ins.start(["ok"] * 7, begun, shard_size=2, version="2", accept_versions=True)

    @pytest.mark.parametrize(("there", "here"), [("8f" * 32, "9e" * 32), ("cpu", "cuda"), (None, "8f" * 32)])
    def test_weights_and_devices_are_no_versions(self, begun: Path, there: str | None, here: str) -> None:
        """Other weights, weights without a record and another device are refused."""
        path = begun / "mfcc/run.json"
        run = json.loads(path.read_text())
        run["versions"] = {} if there is None else {"stand-ins": there}
        path.write_text(json.dumps(run))
        with pytest.raises(RunError, match=r"versions\.stand-ins"):
            stand_ins.start(WORDS, begun, shard_size=2, version=here, accept_versions=True)

    @pytest.mark.parametrize("strange", ["none", 7, [1, 2], {"stand-ins": "x", "others": ["1"]}])
    def test_a_strange_record_is_one_line(self, begun: Path, strange: Any) -> None:
        """A run.json with invalid versions is refused without a crash."""
        path = begun / "mfcc/run.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"versions": strange}))
        with pytest.raises(RunError, match=r"run\.json: "):
            stand_ins.start(WORDS, begun, shard_size=2, accept_versions=True)


class TestCommand:
    """The option of `crop`, `mfcc`, `retry` and `slurm`."""

    @pytest.fixture
    def upgraded(self, lrw: Path, tmp_path: Path) -> Path:
        """An OUT that was begun with an older PyAV; one of three shards is missing."""
        out = tmp_path / "out"
        assert call("mfcc", lrw / "plan.jsonl", out, "-j", 1, "--limit", 1).exit_code == 0
        path = out / "mfcc/run.json"
        path.write_text(path.read_text().replace('"av": "', '"av": "0.'))
        for suffix in ("tar", "json"):
            (out / f"mfcc/test-000000.{suffix}").unlink()
        return out

    def test_mfcc(self, lrw: Path, upgraded: Path) -> None:
        """The run is refused with the option's name; with the option it continues and records it; --dry-run agrees."""
        command = ("mfcc", lrw / "plan.jsonl", upgraded, "-j", 1, "--limit", 1)
        for dry in ([], ["--dry-run"]):
            assert_one_line(call(*command, *dry), 1, "other versions (versions.av: there 0.", "--accept-versions")
        assert call(*command, "--dry-run", "--accept-versions").exit_code == 0
        result = call(*command, "--accept-versions")
        assert result.exit_code == 0, result.output
        assert "begun with other versions of libraries" in result.stderr
        assert head(upgraded, "test-000000")["other_versions"][0]["av"]
        assert verify.verify(upgraded) == []

    def test_retry(self, upgraded: Path, lrw: Path) -> None:
        """`retry` has the option too."""
        for name in ("train-000000", "val-000000"):  # whichever clip of the corpus is broken: both failed in this story
            path = upgraded / f"mfcc/{name}.json"
            sidecar = json.loads(path.read_text())
            clips = [
                {"key": clip["key"], "state": "failed", "reason": "missing", "message": "gone"}
                for clip in sidecar.pop("clips")
            ]
            sidecar["counts"] = shards.counts(clips)
            path.write_bytes(shards.render_sidecar(sidecar, clips))
        retry = ("retry", upgraded, "--reason", "missing", "-j", 1)
        assert_one_line(call(*retry), 1, "--accept-versions")
        result = call(*retry, "--accept-versions")
        assert result.exit_code == 0, result.output
        assert head(upgraded, "val-000000")["other_versions"][0]["av"]

    def test_slurm(self, lrw: Path, upgraded: Path) -> None:
        """A script passes the option on to every task."""
        script = call("slurm", "mfcc", lrw / "plan.jsonl", upgraded, "--limit", 1, "--accept-versions").stdout
        assert " --accept-versions " in script


def test_versions_are_told_from_digests() -> None:
    """A version begins with a number and a dot, whatever follows."""
    for version in ("1", "17.0.1", "2.4.0+cpu", "0.1.0.dev3"):
        assert fingerprint._is_version(version)
    for other in ("8f2383e4", "cuda", "", None, 3, ["1.0"]):
        assert not fingerprint._is_version(other)
