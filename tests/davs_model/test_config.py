"""The settings of training: sources override each other, every value is checked, every error is one helpful line."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from avprep.errors import SettingsError
from davs_model.models import settings as settings_of
from davs_model.models.davs.settings import Model, Settings, Steps, Weights
from davs_model.settings import Data, Loop, Machine, Optimizer

resolve = Settings.resolve
PRESETS = Settings.presets


def write(folder: Path, text: str | bytes) -> Path:
    """Make a settings file."""
    file = folder / "train.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def refusal(*overrides: str, preset: str | None = None, file: Path | None = None) -> str:
    """Return the error of resolving: one line, whatever was given."""
    with pytest.raises(SettingsError) as caught:
        resolve(preset, file, overrides)
    assert str(caught.value).isprintable()
    assert len(str(caught.value).removeprefix(f"{file}")) < 250
    return str(caught.value)


def numbers(least: float, below: float | None = None) -> st.SearchStrategy[float]:
    """Draw finite numbers."""
    return st.floats(least, below, allow_nan=False, allow_infinity=False, exclude_max=below is not None)


@st.composite
def models(draw: st.DrawFn) -> Model:
    """Draw models whose sequence is no longer than the speech."""
    speech = draw(st.integers(1, 99))
    return Model(
        width=draw(numbers(1e-9, 16)),
        image_size=draw(st.sampled_from([64, 128, 256])),
        speech_frames=speech,
        identity_frames=draw(st.integers(1, 1000)),
        sequence_frames=draw(st.integers(1, speech)),
    )


def wholes(kind: type[Any], least: int) -> st.SearchStrategy[Any]:
    """Draw a section of whole numbers."""
    return st.builds(kind, **dict.fromkeys(kind.model_fields, st.integers(least, 10**9)))


def decays() -> st.SearchStrategy[float]:
    """Draw betas of Adam."""
    return numbers(0, 1)


paths = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\u2028\u2029"))
any_settings = st.builds(
    Settings,
    preset=st.sampled_from(list(PRESETS)),
    seed=st.integers(0, 2**31 - 1),
    form=st.sampled_from(["paper", "released"]),
    model=models(),
    data=st.builds(
        Data,
        batch_size=st.integers(2, 65_536),
        workers=st.integers(0, 4096),
        window=st.integers(1, 1_000_000),
        flip=st.booleans(),
        shift=st.integers(0, 32),
        faces=paths,
    ),
    optimizer=st.builds(
        Optimizer,
        learning_rate=numbers(1e-300, 10),
        beta1=decays(),
        beta2=decays(),
        schedule=st.sampled_from(["constant", "cosine"]),
        warmup=st.integers(0, 10**9),
    ),
    steps=wholes(Steps, 0),
    # Stillness excludes most of the other settings.
    weights=st.builds(Weights, **dict.fromkeys(Weights.model_fields, numbers(0, 1e6)) | {"stillness": st.just(0.0)}),
    loop=wholes(Loop, 1),
    machine=st.builds(
        Machine,
        device=st.sampled_from(["auto", "cpu", "cuda"]),
        bf16=st.booleans(),
        channels_last=st.booleans(),
        compile=st.booleans(),
        sync_batchnorm=st.booleans(),
        threads=st.integers(0, 4096),
    ),
)


# ---------------------------------------------------------------- where settings come from


def test_without_anything_the_settings_are_the_papers() -> None:
    """Without any input the settings are the paper's preset: 256 pixels, batches of 16, Adam at 2e-4 with β₁ .9."""
    settings = resolve()
    assert settings == Settings() == resolve("paper")
    assert (settings.model.width, settings.model.image_size, settings.data.batch_size) == (1.0, 256, 16)
    assert (settings.optimizer.learning_rate, settings.optimizer.beta1) == (2e-4, 0.9)


def test_each_source_goes_over_the_one_before(tmp_path: Path) -> None:
    """Defaults, preset, file, overrides: the later one wins, and values that it does not name stay."""
    file = write(tmp_path, "seed = 3\n[model]\nimage_size = 128\n[steps]\nfull = 7\n")
    small = resolve("small")
    model = small.model.model_copy(update={"image_size": 128})
    steps = small.steps.model_copy(update={"full": 8})
    expected = small.model_copy(update={"seed": 3, "model": model, "steps": steps})
    assert small != Settings(preset="small")
    assert resolve("small", file, ["steps.full=9", "steps.full=8"]) == expected


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_holds_allowed_values(preset: str) -> None:
    """A preset resolves, stores its name, and passes the checks of a user's values."""
    settings = resolve(preset)
    assert settings.preset == preset
    assert Settings.from_json(settings.to_json()) == settings


def test_a_file_names_its_preset_and_the_argument_wins(tmp_path: Path) -> None:
    """The preset at the top of a file is used unless another one is requested."""
    file = write(tmp_path, 'preset = "small"\n')
    assert resolve(file=file) == resolve("small")
    assert resolve("paper", file) == resolve("paper")


def test_an_override_names_the_preset_with_all_that_it_holds(tmp_path: Path) -> None:
    """`--set preset=small` is the small preset, not just its name, and overrides the file's."""
    assert resolve(None, write(tmp_path, 'preset = "paper"\n'), ["preset=small"]) == resolve("small")


def test_an_empty_section_changes_nothing(tmp_path: Path) -> None:
    """A section of the file may be left empty, as may the file."""
    assert resolve(file=write(tmp_path, "[model]\n")) == resolve(file=write(tmp_path, "")) == Settings()


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("model.width=0.5", 0.5),
        ("model.width=.5", 0.5),
        ("model.width = 2", 2.0),
        ("optimizer.learning_rate=1e-3", 1e-3),
        ("data.batch_size=1_000", 1000),
        ("data.flip=false", False),
        ("optimizer.schedule=cosine", "cosine"),
        ('optimizer.schedule="cosine"', "cosine"),
        ("data.faces=/faces/a=b #1", "/faces/a=b #1"),
        (r"data.faces='C:\faces'", r"C:\faces"),
        ("data.faces=2024", "2024"),
        ("data.faces=true", "true"),
        ("data.faces=", ""),
        ("seed=5", 5),
    ],
)
def test_overrides_are_toml_or_bare_text(override: str, value: object) -> None:
    """A value is read as in TOML; text needs no quotes, whatever it resembles, and .5 is a number."""
    found = attrgetter(override.partition("=")[0].strip())(resolve(overrides=[override]))
    assert found == value
    assert type(found) is type(value)


# ---------------------------------------------------------------- what is refused


def test_unknown_names_are_answered_with_the_nearest(tmp_path: Path) -> None:
    """For a typing error, a name without its section and a wrong section the error gives the right name."""
    file = write(tmp_path, "[model]\nwidht = 1\n")
    assert refusal(file=file) == f"{file}: no setting model.widht; did you mean model.width?"
    assert refusal("width=0.5") == "--set: no setting width; did you mean model.width?"
    assert refusal("widht=0.5") == "--set: no setting widht; did you mean model.width?"
    assert refusal("optimizer.batch_size=3") == "--set: no setting optimizer.batch_size; did you mean data.batch_size?"
    assert refusal("sead=3") == "--set: no setting sead; did you mean seed?"
    assert refusal("qqq=3") == "--set: no setting qqq (settings are listed by --dry-run)"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[modle]\nwidth = 1", "no setting modle.width; did you mean model.width?"),
        ("[qqq]", "no setting qqq (settings are listed by --dry-run)"),
        ("[model.width]\na = 1", "model.width = {'a': 1} must be a number above 0, at most 16"),
        ("[seed]", "seed = {} must be a whole number from 0 to 2147483647"),
        ("model = 3", "model = 3 must be a section of settings"),
        ("[[model]]\nwidth = 1", "model = [{'width': 1}] must be a section of settings"),
        ('"a\\nb" = 1', "no setting a?b (settings are listed by --dry-run)"),
    ],
)
def test_a_file_of_another_shape_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """Unknown sections, also empty ones, settings in place of sections and sections in place of settings are errors."""
    file = write(tmp_path, text)
    assert refusal(file=file) == f"{file}: {said}"


@pytest.mark.parametrize(
    ("override", "must_be"),
    [
        ("model.width=true", "a number above 0, at most 16"),
        ("model.width=wide", "a number above 0, at most 16"),
        ("model.width=0", "a number above 0, at most 16"),
        ("model.width=nan", "a number above 0, at most 16"),
        ("model.width=1000000000.0", "a number above 0, at most 16"),
        ("model.width=inf", "a number above 0, at most 16"),
        ("model.image_size=100", "one of 64, 128, 256"),
        ("model.image_size=64.0", "one of 64, 128, 256"),
        ("model.speech_frames=0", "a whole number from 1 to 1000"),
        ("model.identity_frames=0", "a whole number from 1 to 1000"),
        ("model.sequence_frames=0", "a whole number from 1 to 1000"),
        ("data.batch_size=1", "a whole number from 2 to 65536"),
        ("data.batch_size=16.0", "a whole number from 2 to 65536"),
        ("data.batch_size=true", "a whole number from 2 to 65536"),
        ("data.workers=-1", "a whole number from 0 to 4096"),
        ("data.window=0", "a whole number from 1 to 1000000"),
        ("data.flip=1", "true or false"),
        ("data.flip=True", "true or false"),
        ("data.shift=33", "a whole number from 0 to 32"),
        ("data.shift=-1", "a whole number from 0 to 32"),
        ("optimizer.learning_rate=-1.0", "a number above 0, at most 10"),
        ("optimizer.beta1=1.0", "a number from 0 to below 1"),
        ("optimizer.beta2=-0.1", "a number from 0 to below 1"),
        ("optimizer.schedule=linear", "one of constant, cosine"),
        ("optimizer.warmup=-1", "a whole number from 0 to 1000000000"),
        ("steps.full=-1", "a whole number from 0 to 1000000000"),
        ("weights.word=-0.5", "a number from 0 to 1000000"),
        ("loop.save_every=0", "a whole number from 1 to 1000000000"),
        ("loop.validation_clips=0", "a whole number from 1 to 1000000000"),
        ("machine.device=tpu", "one of auto, cpu, cuda"),
        ("machine.threads=-1", "a whole number from 0 to 4096"),
        ("form=mine", "one of paper, released"),
        ("data.batch_size=1000000000", "a whole number from 2 to 65536"),
        ("steps.speech=10000000000", "a whole number from 0 to 1000000000"),
        ("weights.domain=2000000.0", "a number from 0 to 1000000"),
        ("seed=-1", "a whole number from 0 to 2147483647"),
        ("seed=2147483648", "a whole number from 0 to 2147483647"),
    ],
)
def test_values_out_of_range_or_of_another_kind_are_refused(override: str, must_be: str) -> None:
    """The error names the source, the setting, the value and the requirement; no type passes for another."""
    name = override.partition("=")[0]
    said = refusal(override)
    assert said.startswith(f"--set: {name} = ")
    assert override.partition("=")[2] in said
    assert said.endswith(f" must be {must_be}")


def test_an_unknown_preset_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    """An unknown preset is an error wherever it is named, even if another one would win."""
    known = f"must be one of {', '.join(PRESETS)}"
    file = write(tmp_path, 'preset = "smal"\n')
    assert refusal(preset="smal") == f'--preset: preset = "smal" {known}'
    assert refusal(file=file, preset="small") == f'{file}: preset = "smal" {known}'


def test_a_sequence_longer_than_the_speech_is_refused(tmp_path: Path) -> None:
    """A sequence longer than the speech is refused; the error names every source that contributed."""
    file = write(tmp_path, "[model]\nsequence_frames = 8\n")
    assert resolve(file=file).model.sequence_frames == 8
    rule = "must be at most model.speech_frames, which is"
    assert refusal("model.sequence_frames=13") == f"--set: model.sequence_frames = 13 {rule} 12"
    assert refusal("model.speech_frames=7", file=file) == f"--set and {file}: model.sequence_frames = 8 {rule} 7"
    assert resolve(None, file, ["model.speech_frames=7", "model.sequence_frames=7"]).model.sequence_frames == 7


def test_a_setting_that_would_do_nothing_is_refused(tmp_path: Path) -> None:
    """A flow without a frame to move, which the decoder keeps or joins, is refused; the error names what is missing."""
    rule = "model.flow = true does nothing without model.blend = true or model.identity_scales = 4"
    assert refusal("model.flow=true") == f"--set: {rule}"
    file = write(tmp_path, "[model]\nidentity_scales = 3\n")
    assert refusal("model.flow=true", file=file) == f"--set and {file}: {rule}"
    for joined in ("model.blend=true", "model.identity_scales=4"):
        assert resolve(None, None, ["model.flow=true", joined]).model.flow
    assert resolve("small", None, ["model.flow=true"]).model.flow


@pytest.mark.parametrize(
    ("preset", "setting", "lacks", "more"),
    [
        ("paper", "weights.stillness = 1.0", 'form = "released"', ["form=released"]),
        (
            "small",
            "weights.stillness = 1.0",
            'form = "released" and generation.targets = 0',
            ["form=released", "generation.targets=0"],
        ),
        ("small", "adversaries.wrong_sound = true", "weights.sequence above 0", ["weights.sequence=0.05"]),
        ("small", 'adversaries.gan_loss = "hinge"', "weights.sequence above 0", ["weights.sequence=0.05"]),
        ("small", "adversaries.identity_stage = true", "weights.identity_word above 0", ["weights.identity_word=1"]),
    ],
)
def test_what_lacks_its_term_is_refused(preset: str, setting: str, lacks: str, more: list[str]) -> None:
    """A setting of a term that its preset does not have is refused in one line that names all that it needs."""
    problem = refusal(setting, preset=preset).removeprefix("--set").removeprefix(f" and preset {preset}")
    assert problem == f": {setting} does nothing without {lacks}"
    resolve(preset, None, [setting, *more])


def test_words_are_not_taken_out_of_faces_that_say_none() -> None:
    """Settings for words in the identity stage are refused for a folder of faces, which has no words."""
    rule = 'adversaries.identity_stage = true does nothing without data.faces = ""'
    assert refusal("adversaries.identity_stage=true", "data.faces=faces") == f"--set: {rule}"


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    """A missing file, a folder, bytes that are not UTF-8 and text that is not TOML are reported differently."""
    missing = tmp_path / "none.toml"
    assert refusal(file=missing) == f"{missing}: cannot be read: No such file or directory"
    assert refusal(file=tmp_path) == f"{tmp_path}: cannot be read: Is a directory"
    file = write(tmp_path, b'form = "\xff"')
    assert refusal(file=file) == f"{file}: not UTF-8 text (byte 8): save it as UTF-8"
    for text in ("seed 3", "seed = 1\nseed = 2", "seed = " + "9" * 5000, "seed = " + "[" * 5000):
        assert refusal(file=write(tmp_path, text)).startswith(f"{file}: not TOML: ")


@pytest.mark.parametrize(
    "override",
    [
        "model.width",
        "",
        "=3",
        "seed=1\nform=2",
        "seed=" + "9" * 5000,
        "seed=" + "[" * 5000,
        "model.width=1" + "0" * 400,
        "data.faces=a\x7fb",
        "data.faces=/faces/\udcff",  # Python's form of a path that is not UTF-8
        "x" * 10_000 + "=1",
        "model=3",
    ],
)
def test_odd_overrides_are_refused_in_one_short_line(override: str) -> None:
    """Whatever follows --set, the result is an error that a terminal can show."""
    assert refusal(override).startswith("--set: ")


# ---------------------------------------------------------------- written and read back


@given(settings=any_settings)
def test_toml_is_read_back_as_the_same(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> None:
    """The output of `to_toml` resolves to equal settings, and has all of them."""
    text = settings.to_toml()
    assert tomllib.loads(text) == settings.to_json()
    assert resolve(file=write(tmp_path_factory.getbasetemp(), text)) == settings


@given(settings=any_settings)
def test_json_is_read_back_as_the_same(settings: Settings) -> None:
    """The output of `to_json` survives JSON text and gives equal settings."""
    assert Settings.from_json(json.loads(json.dumps(settings.to_json(), allow_nan=False))) == settings


def test_whole_numbers_become_what_the_setting_is(tmp_path: Path) -> None:
    """A width of 1 in a file or in JSON is 1.0, so that equal settings are written alike."""
    value = Settings().to_json()
    value["model"]["width"] = 1
    assert Settings.from_json(value).to_toml() == Settings().to_toml()
    assert resolve(file=write(tmp_path, "[model]\nwidth = 1\n")).to_toml() == Settings().to_toml()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"widht": 1.0}, "no setting model.widht; did you mean model.width?"),
        ({"width": None}, "model.width = None must be a number above 0, at most 16"),
        ({"width": "1"}, 'model.width = "1" must be a number above 0, at most 16'),
        ({"sequence_frames": 13}, "model.sequence_frames = 13 must be at most model.speech_frames, which is 12"),
    ],
)
def test_json_of_other_settings_is_refused(change: dict[str, object], said: str) -> None:
    """JSON passes the same checks, and the error names its source."""
    value = Settings().to_json()
    value["model"] |= change
    with pytest.raises(SettingsError) as caught:
        Settings.from_json(value, source="run/state.pt")
    assert str(caught.value) == f"run/state.pt: {said}"


def test_json_without_a_setting_is_refused() -> None:
    """A missing setting does not get its default: the resumed run may have had another value."""
    value = Settings().to_json()
    del value["model"]["width"]
    with pytest.raises(SettingsError, match=r"^settings: model\.width is missing$"):
        Settings.from_json(value)
    with pytest.raises(SettingsError, match=r"^settings: \[\] must be a table of settings$"):
        Settings.from_json([])  # type: ignore[arg-type]


def test_differences_are_told_setting_by_setting() -> None:
    """Each setting that differs gives a line with both values; equal settings give none."""
    there = resolve(overrides=["model.width=0.25", "data.faces=a", "machine.compile=true"])
    here = resolve(overrides=["model.width=0.5"])
    assert there.difference(here) == [
        "model.width: 0.25 there, 0.5 here",
        'data.faces: "a" there, "" here',
        "machine.compile: true there, false here",
    ]
    assert here.difference(here) == []


def test_what_may_change_in_a_resumed_run_does_not_shape_its_steps() -> None:
    """Only the loop, the length of the stages, the loaders and the name of the preset may change in a resumed run."""
    sections = {"loop": Loop, "steps": Steps}
    found = {f"{section}.{name}" for section, kind in sections.items() for name in kind.model_fields}
    assert found | {"data.workers", "preset"} == Settings.free()


@pytest.mark.parametrize(
    ("model", "overrides", "paced"),
    [
        ("davs", ["adversaries.gan_from=0.5"], {"full"}),
        ("davs", ["adversaries.domain_from=0.5"], {"speech", "full"}),
        ("davs", ["adversaries.domain_from=0.5", "weights.domain=0"], set()),
        ("davs", ["optimizer.schedule=cosine"], {"identity", "speech", "full"}),
        ("amie", [], {"talk"}),
        ("etgan", [], {"full"}),
        ("etgan", ["adversaries.frame_from=0", "adversaries.clip_from=0", "adversaries.read_from=0"], set()),
        ("sync", [], {"contrast", "refine"}),
        ("sync", ["optimizer.schedule=constant"], {"contrast"}),
        ("sync", ["optimizer.schedule=constant", "contrast.far=2"], set()),
    ],
)
def test_stages_that_go_by_their_length(model: str, overrides: list[str], paced: set[str]) -> None:
    """The length of a stage whose rate or terms depend on the completed fraction must not change."""
    assert settings_of(model).resolve(None, None, overrides).paced() == paced


def test_every_setting_that_is_no_boolean_is_bounded() -> None:
    """Every setting except booleans has a range or choices."""
    for name, value in Settings.defaults().items():
        kind, _ = Settings._kind(name)
        base, *constraints = get_args(kind)
        assert isinstance(value, bool) or get_origin(base) is Literal or any(constraints), name


def test_settings_do_not_change() -> None:
    """Settings cannot be changed once they are resolved."""
    with pytest.raises(ValidationError):
        resolve().data.batch_size = 3  # type: ignore[misc]


def test_settings_need_no_torch() -> None:
    """The command line shows and checks settings without waiting seconds for torch."""
    program = "import sys, davs_model.models.davs.settings; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
