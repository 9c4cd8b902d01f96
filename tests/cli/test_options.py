"""Every option and argument of every command is bounded: a value out of bounds gives one line that names it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
import pytest
from avprep_cli import kinds
from avprep_cli.main import main
from command_line import ALL, assert_one_line, call

import avprep
from avprep import layouts
from avprep.errors import ManifestError

FREE_TEXT = {
    "index --pattern": "a pattern of the user's own folders; avprep.layouts.folder checks its grammar",
    "inspect key": "a key of the manifest; who reads it says where it is not there",
    "weights fetch names": "names that avprep.faces.weights checks, which is too slow to import for --help",
    "slurm crop --partition": "the cluster knows its partitions",
    "slurm mfcc --partition": "the cluster knows its partitions",
    "slurm crop --setup": "lines of the user's own shell",
    "slurm mfcc --setup": "lines of the user's own shell",
    "slurm crop --sbatch": "options that sbatch checks",
    "slurm mfcc --sbatch": "options that sbatch checks",
    "slurm sync --partition": "the cluster knows its partitions",
    "slurm sync --setup": "lines of the user's own shell",
    "slurm sync --sbatch": "options that sbatch checks",
    "select --where": "an expression that avprep.quality.select parses, before anything is read",
    "generate --emotion": "an emotion of the model; davs_model.generation names those that there are",
    "ablate --row": "a row of a model's ablation; davs_model.ablation names those that there are",
    "train --stage": "a stage of the model, by `RunSettings.stages`",
    "train --preset": "a preset of the model, checked when its settings are read: `options.check_preset`",
    "ablate --preset": "a preset of the model, checked when its settings are read: `options.check_preset`",
    "bench --preset": "a preset of the model, checked when its settings are read: `options.check_preset`",
    "ablate --set": "settings that davs_model.settings checks, one by one",
    "train --set": "settings that davs_model.settings checks, one by one",
    "bench --set": "settings that davs_model.settings checks, one by one",
    "study --title": "words for the people who take part",
    "study --film": "the name of a method, in words, before two files",
}
"""Where any text may stand, and why. It is bounded all the same, and one line unless a file could be called so."""

OWN = (kinds.Words, kinds.FrameNumbers, kinds.Box, kinds.TimeLimit, kinds.MemorySize)
"""Kinds of text that have a grammar of their own."""

PARAMETERS = {
    " ".join((*words, param.opts[-1] if param.opts[-1].startswith("--") else param.opts[0])): param
    for words, command in [((), main), *ALL]
    for param in command.params
}


def parts(param: click.Parameter) -> tuple[click.ParamType[Any], ...]:
    """Return the types of a parameter's values: several if it takes several at once."""
    return tuple(param.type.types) if isinstance(param.type, click.Tuple) else (param.type,)


def refused(param: click.Parameter, kind: click.ParamType[Any], value: str) -> bool:
    """Return whether a value gives a usage error, which click shows as one line."""
    try:
        kind.convert(value, param, click.Context(main))
    except click.BadParameter as error:
        return "\n" not in error.format_message()
    return False


@pytest.mark.parametrize("name", PARAMETERS)
def test_everything_is_bounded(name: str, tmp_path: Path) -> None:
    """A parameter is a flag, a choice, a number between two bounds, a path of a given kind, or listed free text."""
    param = PARAMETERS[name]
    (tmp_path / "a file").touch()
    for kind in parts(param):
        if isinstance(param, click.Option) and param.is_flag:
            assert isinstance(kind, click.types.BoolParamType)
        elif isinstance(kind, click.Choice):
            assert refused(param, kind, "no such choice")
        elif isinstance(kind, (click.IntRange, kinds.Number)):
            assert kind.min is not None
            assert kind.max is not None
            assert -math.inf < kind.min < kind.max < math.inf
            for absurd in ("nan", "inf", "-inf", "1e999", "0x10", "", "9" * 30, "-" + "9" * 30):
                assert refused(param, kind, absurd), absurd
        elif isinstance(kind, click.Path):
            assert kind.exists or not (kind.file_okay and kind.dir_okay), "a file, a folder, or something that is there"
            assert not kind.dir_okay or kind.exists or refused(param, kind, str(tmp_path / "a file"))
            assert kind.dir_okay or refused(param, kind, str(tmp_path))
            if isinstance(kind, kinds.Output):
                assert refused(param, kind, str(tmp_path / "z.pdf"))
                assert refused(param, kind, str(tmp_path / "z"))
        elif isinstance(kind, OWN):
            for absurd in ("", "nan", "-1", "; rm x", "a\nb", "1" * 10_000):
                assert refused(param, kind, absurd), absurd
        else:
            assert isinstance(kind, kinds.Text), f"{name}: {kind!r} takes anything"
            assert name in FREE_TEXT, f"{name} is free text for no stated reason"
            controls = ("a\nb", "\x1b[2J") if isinstance(kind, kinds.OneLine) else ()
            for absurd in ("", "  ", "x" * 10_000, *controls):
                assert refused(param, kind, absurd), absurd


def test_free_text_is_rare() -> None:
    """The list of free text has only existing parameters."""
    assert {name for name in FREE_TEXT if name not in PARAMETERS} == set()


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["crop", "P", "O", "--min-face", "-5"], "--min-face"),
        (["crop", "P", "O", "--min-face", "nan"], "--min-face"),
        (["crop", "P", "O", "--clip-timeout", "inf"], "--clip-timeout"),
        (["crop", "P", "O", "--jobs", "100000"], "--jobs"),
        (["mfcc", "P", "O", "--audio-shift-ms", "nan"], "--audio-shift-ms"),
        (["index", "folder", ".", "-o", "m.jsonl", "--val-fraction", "7"], "--val-fraction"),
        (["index", "grid", ".", "-o", "m.jsonl", "--split-by", "speakers"], "--split-by"),
        (["index", "grid", ".", "-o", "m.csv"], "--output"),
        (["report", ".", "-o", "z.pdf"], "--output"),
        (["slurm", "crop", "P", "O", "--time", "soon"], "--time"),
        (["slurm", "crop", "P", "O", "--mem", "much"], "--mem"),
        (["generate", ".", "--face", ".", "--audio", ".", "-o", "g.mp4", "--face-box", "0,0,nan,9"], "--face-box"),
        (["demo", "D", "--words", "0"], "--words"),
    ],
)
def test_absurd_values_are_wrong_usage(
    words: list[str], option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exit status is 2, one line names the option, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    assert_one_line(call(*words), 2, option)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("limit", ["30", "30:00", "04:00:00", "1-12", "2-00:30:00", "UNLIMITED"])
def test_time_limits_of_slurm_are_taken(limit: str) -> None:
    """Each form that Slurm documents is accepted unchanged."""
    assert kinds.TimeLimit().convert(limit, None, None) == limit


class TestSplitBy:
    """A typing error never puts one speaker into several splits."""

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        """A tree valid for the layouts grid and folder: forty sentences of one speaker."""
        (tmp_path / "s1").mkdir()
        for number in range(40):
            (tmp_path / "s1" / f"{number}.mpg").touch()
        return tmp_path

    @pytest.mark.parametrize(("layout", "wrong"), [("grid", "clip"), ("folder", "sentence")])
    def test_another_layouts_word(self, root: Path, layout: str, wrong: str) -> None:
        """A value of another layout is refused with the values of this one; no manifest is written."""
        result = call("index", layout, root, "-o", root / "m.jsonl", "--split-by", wrong)
        assert_one_line(result, 1, f"--split-by '{wrong}'", "speaker")
        assert not (root / "m.jsonl").exists()

    @pytest.mark.parametrize("layout", ["grid", "folder"])
    @pytest.mark.parametrize("wrong", ["speakers", "Speaker", "", None, 1])
    def test_the_library_refuses_too(self, root: Path, layout: str, wrong: Any) -> None:
        """A library call gives the same error."""
        with pytest.raises(ManifestError, match=r"--split-by .* is none of this layout's: .*speaker"):
            layouts.index(layout, root, split_by=wrong, **({"sentences": True} if layout == "grid" else {}))

    @pytest.mark.parametrize(
        ("layout", "given", "message"),
        [
            ("lrw", {"split_by": "speaker"}, "split_by is not an option of the layout lrw, which takes none"),
            (
                "grid",
                {"sentence": True},
                "sentence is not an option of the layout grid, which takes sentences, split_by",
            ),
            ("lrw", {"audio_root": "audio"}, "audio_root is not an option of the layout lrw, which takes none"),
            ("grid", {"sentences": "no"}, "--sentences 'no' must be True or False"),
            ("cremad", {"labels": "Rated"}, "--labels 'Rated' is none of this layout's: acted, rated"),
            ("folder", {"pattern": 5}, "--pattern 5 must be a text"),
            ("folder", {"val_fraction": "0.1"}, "--val-fraction '0.1' must be a number from 0 to below 1"),
            ("lrs3", {"val_fraction": 1.5}, "--val-fraction 1.5 must be a number from 0 to below 1"),
            ("folder", {"audio_root": 0}, "--audio-root 0 must be a path"),
        ],
    )
    def test_what_a_layout_does_not_take(self, root: Path, layout: str, given: dict[str, Any], message: str) -> None:
        """An option that the layout lacks, or an invalid value, gives one line in a library call."""
        with pytest.raises(ManifestError) as refused:
            avprep.index(layout, root, **given)
        assert str(refused.value) == message

    @pytest.mark.parametrize(("val", "test"), [(0.5, 0.5), (0.9, 0.2)])
    def test_nothing_left_to_train_on(self, root: Path, val: float, test: float) -> None:
        """Fractions for validation and testing that leave nothing to train on are refused."""
        result = call("index", "folder", root, "-o", root / "m.jsonl", "--val-fraction", val, "--test-fraction", test)
        assert_one_line(result, 1, "--val-fraction", "--test-fraction", "below 1")


@pytest.mark.parametrize("name", [name for name, param in PARAMETERS.items() if isinstance(param.type, click.Path)])
def test_no_path_is_empty(name: str) -> None:
    """Empty text, as the shell gives it for a variable that is not set, does not stand for the current folder."""
    with pytest.raises(click.BadParameter):
        PARAMETERS[name].type.convert("", PARAMETERS[name], None)
