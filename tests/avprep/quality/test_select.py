"""Clips are selected by expressions, which are parsed and never executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import made_shards
import pytest
from avprep_cli.main import main
from click.testing import CliRunner
from made_shards import Made

from avprep import manifest, schema
from avprep.errors import AvprepError
from avprep.manifest import Clip, Manifest
from avprep.quality.select import PRESETS, Where

FIGURES: dict[str, Any] = {"jitter": 1.5, "split": "val", "word": None, "sync.confidence": 0.3, "n_frames": 29}
FIGURES |= {"intensity": "79.44", "curve": [1.0], "speaker": "1001"}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("jitter < 2", True),
        ("jitter >= 1 and jitter <= 1.5", True),
        ("1 < jitter < 1.4", False),
        ("not jitter < 2 or split == 'val'", True),
        ("abs(0 - jitter) == 1.5", True),
        ("-jitter > -2 and n_frames / 25 > 1", True),
        ("sync.confidence * 2 + 1 - 0.5 != 1", True),
        ("word == 'about'", None),
        ("slip < 2", None),
        ("split < 2", None),
        ("jitter / 0 > 1", None),
        ("word == 'about' or jitter < 2", True),
        ("jitter < 2 or word == 'about'", True),
        ("word == 'about' or jitter > 2", None),
        ("not (word == 'about' and jitter > 2)", True),
        ("word == 'about' and jitter < 2", None),
        ("intensity >= 60 and 60 <= intensity", True),
        ("speaker == 1001 and split != 1001", True),
        (" jitter < 2", True),
        (f"jitter * 1{'0' * 400} > 1", None),
        (f"{'-' * 1900}jitter > 1", None),
        ("'a' * 10000000000000 == split", None),
        ("split * 9 == 'valvalvalvalvalvalvalvalval'", None),
        ("curve * 2 == curve", None),
        ("intensity * 2 < 160 and intensity + 1 > 80 and abs(-intensity) > 79", True),
    ],
)
def test_a_condition_holds_or_not(text: str, holds: bool | None) -> None:
    """Comparisons, arithmetic and logic are Python's; a missing or incomparable value makes the result unknown.

    The order of the operands of `and` and `or` does not matter; labels, which are texts, count as numbers next to
    numbers and in arithmetic, which does not accept other texts and lists.
    """
    assert Where.parse(text).holds(FIGURES) is holds


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "abs(jitter, 2) < 1",
        "jitter.real < 2",
        "(lambda: 1)() < 2",
        "[jitter][0] < 2",
        "jitter ** 99999999 > 1",
        "open('x')",
        "jitter <",
        "",
        "x if y else z",
        "(" * 300 + "1" + ")" * 300,
        "b'x' == word",
        "1 < " * 1000 + "2",
    ],
)
def test_nothing_else_is_an_expression(text: str) -> None:
    """Calls, attributes, powers and other parts of Python are refused in one line before anything is computed."""
    with pytest.raises(AvprepError, match="--where") as caught:
        Where.parse(text)
    assert "\n" not in str(caught.value)


def test_presets_are_expressions() -> None:
    """Each of the field's presets uses figures of the column sync alone."""
    for text in PRESETS.values():
        assert {name.partition(".")[0] for name in Where.parse(text.format(sure=1)).names} == {"sync"}


def test_figures_of_sidecars_and_samples(tmp_path: Path) -> None:
    """Figures that no sidecar has are read from the samples of their column; clips that failed in one are left out.

    `seconds` is never the processing time.
    """
    rows = [Made(f"train/c{n}", word="about" if n % 2 else None, mfcc="no_audio" if n == 3 else "") for n in range(6)]
    clips = tuple(
        Clip(row.key, "c.mp4", "train", word=row.word, labels={"emotion": "sad" if row.word else "calm"})
        for row in rows
    )
    plan = Manifest("made", tmp_path, clips, seed=7)
    (tmp_path / "manifest.jsonl").write_text(manifest.render(plan))
    for column in schema.COLUMNS:
        stretches = []
        for n, row in enumerate(rows):
            members = getattr(made_shards, f"{column}_members")(row.key)
            if column == "crop":
                facts = schema.decode_json(members["clip.json"]) | {"source_frames": 10 * n}
                members["clip.json"] = schema.encode_json(facts)
            else:
                facts = schema.decode_json(members["audio.json"]) | {"seconds": 2.0 + n, "source_frames": 10 * n}
                members["audio.json"] = schema.encode_json(facts)
            stretches.append((row, made_shards.stretch(tmp_path, row.key, members)))
        made_shards.write_shard(tmp_path, column, "train-000000", stretches)
        run = {"avprep_run": 1, "column": column, "shard_size": 500, "settings": {}, "versions": {}}
        (tmp_path / column / "run.json").write_bytes(schema.encode_json(run))
    command = ["select", str(tmp_path), "-o", str(tmp_path / "some.jsonl"), "--where"]
    done = CliRunner().invoke(main, [*command, "source_frames >= 20", "--where", "crop.seconds > 0 or word == 'about'"])
    assert done.exit_code == 0, done.output
    found = manifest.read(tmp_path / "some.jsonl")
    assert [clip.key for clip in found.clips] == ["train/c2", "train/c4", "train/c5"]
    assert (found.dataset, found.seed) == ("made", 7)
    assert "left out: 1: not ok in mfcc" in done.stderr
    labelled = CliRunner().invoke(main, [*command, "emotion == 'calm'", "--force"])
    assert labelled.exit_code == 0, labelled.output
    assert [clip.key for clip in manifest.read(tmp_path / "some.jsonl").clips] == ["train/c0", "train/c2", "train/c4"]
    for tar in tmp_path.glob("*/*.tar"):  # labels are the manifest's, so no sample is read for them
        tar.rename(f"{tar}.away")
    labelled = CliRunner().invoke(main, [*command, "emotion == 'sad'", "--force"])
    assert [clip.key for clip in manifest.read(tmp_path / "some.jsonl").clips] == ["train/c1", "train/c5"]
    sidecar = tmp_path / "mfcc" / "train-000000.json"  # nor for what another column's sidecar has
    text = sidecar.read_text()
    sidecar.write_text(text.replace('"n_frames"', '"n_valid": 7, "n_frames"'))
    assert CliRunner().invoke(main, [*command, "n_valid == 7", "--force"]).exit_code == 0
    sidecar.write_text(text)
    for tar in tmp_path.glob("*/*.tar.away"):
        tar.rename(tar.with_suffix(""))
    assert "some.jsonl is there already" in CliRunner().invoke(main, [*command, "seconds > 0"]).stderr
    wrong = CliRunner().invoke(main, [*command, "jiter > 0", "--force"])
    assert wrong.exit_code == 1
    assert "no clip has 'jiter': its columns are crop, mfcc" in wrong.stderr
    invalid = CliRunner().invoke(main, [*command, "jitter >", "--force"])
    assert (invalid.exit_code, "--where 'jitter >': " in invalid.stderr) == (2, True)
    for more in (
        "",
        " and mfcc.n_frames > 0 and crop.seconds == seconds",
        " and crop.source_frames == mfcc.source_frames",
    ):
        timed = CliRunner().invoke(main, [*command, f"mfcc.seconds >= 6{more}", "--force"])
        assert timed.exit_code == 0, timed.output
        assert [clip.key for clip in manifest.read(tmp_path / "some.jsonl").clips] == ["train/c4", "train/c5"], more


def test_a_damaged_sample_is_named(tmp_path: Path) -> None:
    """Unreadable JSON of a sample gives one line with its shard and clip, not only the error."""
    plan = Manifest("made", tmp_path, (Clip("train/c0", "c.mp4", "train"),), seed=7)
    (tmp_path / "manifest.jsonl").write_text(manifest.render(plan))
    row = Made("train/c0")
    for column in schema.COLUMNS:
        members = getattr(made_shards, f"{column}_members")(row.key)
        if column == "crop":
            members["clip.json"] = b"{" + members["clip.json"]
        made_shards.write_shard(
            tmp_path, column, "train-000000", [(row, made_shards.stretch(tmp_path, row.key, members))]
        )
        run = {"avprep_run": 1, "column": column, "shard_size": 500, "settings": {}, "versions": {}}
        (tmp_path / column / "run.json").write_bytes(schema.encode_json(run))
    command = ["select", str(tmp_path), "-o", str(tmp_path / "some.jsonl"), "--where", "source_frames > 0"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"Error: {tmp_path / 'crop/train-000000.tar'}: train/c0: clip.json: not JSON")
