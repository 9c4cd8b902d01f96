"""The settings of a training run: defaults, then a preset, then a TOML file, then `--set section.name=value`.

A setting goes by its dotted name, `model.width`. Whatever the source, its value is checked for its kind and range, and
an error is one line with source, name and value. Nothing here needs torch: the command line reads it before anything.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from avprep.errors import SettingsError

Form = Literal["paper", "released"]  # as in davs_model.models.davs.losses, which needs torch


@dataclass(frozen=True)
class Model:
    """The networks; 1 and 256 are the released ones."""

    width: float = 1.0
    """Multiplier of all channel counts."""
    image_size: int = 256
    """Side of the frames in pixels."""
    speech_frames: int = 12
    """Frames that C_w reads at once."""
    identity_frames: int = 20
    """Frames that C_p^w reads at once."""
    sequence_frames: int = 6
    """Frames that are generated, and that D_seq reads at once; they are among the `speech_frames`."""
    shared_classifier: bool = True
    """One word classifier for sound and picture (SC of Table 3); false: one each."""


@dataclass(frozen=True)
class Data:
    """What a step sees."""

    batch_size: int = 16
    """Clips a step, over all processes."""
    workers: int = 4
    """Loader processes of each training process; 0: it loads by itself."""
    window: int = 32
    """Shards whose clips are shuffled together."""
    flip: bool = True
    """Mirror every other clip, at random."""
    shift: int = 2
    """Most that a clip is shifted each way, at random, in pixels of the 256×256 crop."""
    faces: str = ""
    """Folder with a folder of pictures per person, for the identity stage; empty: the crops' own speaker labels."""
    keep_silent: bool = False
    """Train on clips that hold silence alone, too."""


@dataclass(frozen=True)
class Optimizer:
    """Adam."""

    learning_rate: float = 2e-4
    """Step size of Adam."""
    beta1: float = 0.9
    """Decay of the mean of the gradient, per step."""
    beta2: float = 0.999
    """Decay of the mean of its square, per step."""
    schedule: str = "constant"
    """Course of the rate: constant, or cosine, which falls to 0 at the last step of a stage."""
    warmup: int = 0
    """Steps over which the rate rises linearly from 0."""


@dataclass(frozen=True)
class Steps:
    """Length of the three stages; 0 leaves one out."""

    identity: int = 100_000
    """Optimizer steps of the identity encoder on labelled faces."""
    speech: int = 300_000
    """Optimizer steps of the speech space."""
    full: int = 300_000
    """Optimizer steps of everything together."""


@dataclass(frozen=True)
class Weights:
    """Factors of the terms of the objective; 0 switches a term off."""

    person: float = 1.0
    """Factor of the cross-entropy over people of the identity stage."""
    word: float = 1.0
    """Factor of L_w."""
    contrastive: float = 1.0
    """Factor of L_C, eq. 1."""
    domain: float = 1.0
    """Factor of L_adv^D, both sides."""
    identity_word: float = 200.0
    """Factor of eq. 2 and 3; the released code has twice its factor of L_1."""
    speech_person: float = 20.0
    """Factor of eq. 4 and 5."""
    reconstruction: float = 100.0
    """Factor of L_1, eq. 6: the α of eq. 8."""
    sequence: float = 1.0
    """Factor of L_GAN, eq. 7, both sides."""
    stillness: float = 0.0
    """Factor of the L1 to the frame before, outside the mouth; only the released code has it."""


@dataclass(frozen=True)
class Loop:
    """What happens between the steps."""

    log_every: int = 50
    """Steps between lines of the log."""
    validate_every: int = 2000
    """Steps between validations."""
    sample_every: int = 2000
    """Steps between sheets of generated frames."""
    save_every: int = 2000
    """Steps between checkpoints."""
    validation_clips: int = 1000
    """Most clips of a validation."""


@dataclass(frozen=True)
class Machine:
    """Where and how it is computed."""

    device: str = "auto"
    """Device to train on: cpu, cuda, or auto, which is cuda where there is one."""
    bf16: bool = True
    """Compute in bfloat16 where that is safe; losses and weights stay float32."""
    channels_last: bool = True
    """Lay pictures out in memory as NHWC."""
    compile: bool = False
    """Compile the networks with torch.compile."""
    sync_batchnorm: bool = True
    """Take the statistics of BatchNorm over all processes."""
    threads: int = 0
    """CPU threads of each training process; 0: torch's own choice."""


@dataclass(frozen=True)
class Settings:
    """Every setting of `avprep train`."""

    preset: str = "paper"
    """Name of the preset that the others started from, of `PRESETS`."""
    seed: int = 0
    """Start of all random numbers."""
    form: Form = "paper"
    """Form of the losses: as the paper writes them, or as the released code has them."""
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    optimizer: Optimizer = field(default_factory=Optimizer)
    steps: Steps = field(default_factory=Steps)
    weights: Weights = field(default_factory=Weights)
    loop: Loop = field(default_factory=Loop)
    machine: Machine = field(default_factory=Machine)


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "small": {
        "model": {"width": 0.25, "image_size": 64},
        "data": {"workers": 1},
        "optimizer": {"learning_rate": 1e-3, "schedule": "cosine", "warmup": 50},
        "steps": {"identity": 200, "speech": 1000, "full": 400},
        "weights": {"contrastive": 0.1},
        "loop": {
            "log_every": 20,
            "validate_every": 200,
            "sample_every": 200,
            "save_every": 100,
            "validation_clips": 400,
        },
    },
}
"""What each preset changes: paper nothing, small as much as a CPU needs."""


def _names(section: str, kind: type[Any]) -> list[str]:
    return [f"{section}.{setting.name}" for setting in fields(kind)]


FREE = frozenset(["preset", "data.workers", *_names("loop", Loop), *_names("steps", Steps)])
"""What may change when a run is resumed; `steps.*` only with the constant schedule, which the caller must see to."""

_Check = tuple[Callable[[Any], bool], str]

_MOST = 10**9
"""Bound of what is only counted: far beyond any use, so that no such number overflows or takes all memory."""


def _whole(low: int, high: int = _MOST) -> _Check:
    return lambda value: low <= value <= high, f"a whole number from {low} to {high}"


def _one_of(*choices: str | int) -> _Check:
    return lambda value: value in choices, f"one of {', '.join(map(str, choices))}"


_RATE: _Check = (lambda value: 0 < value <= 10, "a number above 0, at most 10")
_FACTOR: _Check = (lambda value: 0 <= value <= 1e6, "a number from 0 to 1000000")
_DECAY: _Check = (lambda value: 0 <= value < 1, "a number from 0 to below 1")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

CHECKS: dict[str, _Check] = {
    "preset": _one_of(*PRESETS),
    "seed": _whole(0, 2**31 - 1),
    "form": _one_of(*get_args(Form)),
    "model.width": (lambda value: 0 < value <= 16, "a number above 0, at most 16"),
    "model.image_size": _one_of(64, 128, 256),
    "model.speech_frames": _whole(1, 1000),
    "model.identity_frames": _whole(1, 1000),
    "model.sequence_frames": _whole(1, 1000),
    "data.batch_size": _whole(2, 65_536),  # BatchNorm has no statistics of one clip, L_C no unpaired one
    "data.workers": _whole(0, 4096),
    "data.window": _whole(1, 1_000_000),
    "data.shift": _whole(0, 32),
    "data.faces": (lambda value: not _UNPRINTABLE.search(value), "the path of a folder, in UTF-8, on one line"),
    "optimizer.learning_rate": _RATE,
    "optimizer.beta1": _DECAY,
    "optimizer.beta2": _DECAY,
    "optimizer.schedule": _one_of("constant", "cosine"),
    "optimizer.warmup": _whole(0),
    "machine.device": _one_of("auto", "cpu", "cuda"),
    "machine.threads": _whole(0, 4096),
    **dict.fromkeys(_names("steps", Steps), _whole(0)),
    **dict.fromkeys(_names("weights", Weights), _FACTOR),
    **dict.fromkeys(_names("loop", Loop), _whole(1)),
}
"""What a setting that isn't a boolean may be, besides of the kind of its default, and how to say so."""


def resolve(preset: str | None = None, file: Path | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Put the settings together: defaults, preset, file, overrides, each over the one before.

    preset: None: the one that the overrides or the file name, else paper.
    overrides: `section.name=value`, the value as in TOML; text needs no quotes, nor a number below 1 its 0.
    SettingsError, one line, for what does not exist, cannot be read, or is out of range.
    """
    given = _checked(str(file), _flat(_read(file))) if file is not None else {}
    given |= _checked("--set", dict(map(_override, overrides)))
    given |= _checked("--preset", {} if preset is None else {"preset": preset})
    chosen = given["preset"][0] if "preset" in given else "paper"
    return _built(_checked(f"preset {chosen}", _flat(PRESETS[chosen])) | given)


def to_toml(settings: Settings) -> str:
    """Return the settings as the TOML text that `resolve` reads back as the same."""
    lines = []
    for name, value in asdict(settings).items():  # the sections come last, as TOML wants it
        if isinstance(value, dict):
            lines += ["", f"[{name}]", *(f"{key} = {_toml(inner)}" for key, inner in value.items())]
        else:
            lines.append(f"{name} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def to_json(settings: Settings) -> dict[str, Any]:
    """Return the settings as JSON values, a dictionary a section."""
    return asdict(settings)


def from_json(value: dict[str, Any], *, source: str = "settings") -> Settings:
    """Return the settings that `to_json` gave; SettingsError from `source` where one is unknown, wrong or missing."""
    if not isinstance(value, dict):
        raise _error(source, f"{_toml(value)[:60]} must be a table of settings")
    given = _checked(source, _flat(value))
    for name in DEFAULTS:
        if name not in given:
            raise _error(source, f"{name} is missing")
    return _built(given)


def difference(a: Settings, b: Settings) -> list[str]:
    """Return a line for each setting that differs, such as `model.width: 0.25 there, 0.5 here`; a is there, b here."""
    there, here = _flat(asdict(a)), _flat(asdict(b))
    return [
        f"{name}: {_toml(there[name])} there, {_toml(here[name])} here" for name in here if there[name] != here[name]
    ]


def _flat(table: dict[str, Any]) -> dict[str, Any]:
    """Return nested tables as dotted names; a section that isn't a table, and no section that is, keep their name."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict) and (value or name in SECTIONS):
            found |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            found[name] = value
    return found


SECTIONS: dict[str, type[Any]] = {name: type(value) for name, value in vars(Settings()).items() if is_dataclass(value)}
DEFAULTS: dict[str, Any] = _flat(asdict(Settings()))
"""Every setting by its dotted name."""


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise _error(str(file), f"cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise _error(str(file), f"not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except (ValueError, RecursionError) as error:  # ValueError alone: a number of thousands of digits
        raise _error(str(file), f"not TOML: {error}") from error


def _override(text: str) -> tuple[str, Any]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        raise _error("--set", f"{text[:60]} must be written section.name=value")
    parsed: dict[str, Any] = {}
    with contextlib.suppress(ValueError, RecursionError):
        parsed = tomllib.loads(f"value = {value}")
    kind = type(DEFAULTS.get(name))
    if list(parsed) == ["value"] and (kind is not str or isinstance(parsed["value"], str)):
        return name, parsed["value"]  # but a folder may be called 2024
    if kind is float:
        with contextlib.suppress(ValueError):
            return name, float(value)  # .5 is no number in TOML
    return name, value


def _checked(source: str, values: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    """Return each value, as the kind that it has to be, with its source."""
    return {name: (_value(source, name, value), source) for name, value in values.items()}


def _value(source: str, name: str, value: Any) -> Any:
    if name in SECTIONS:
        raise _error(source, f"{name} = {_toml(value)[:60]} must be a section of settings")
    if name not in DEFAULTS:
        near = _nearest(name)
        hint = f"; did you mean {near}?" if near else " (settings are listed by --dry-run)"
        raise _error(source, f"no setting {name[:60]}{hint}")
    kind = type(DEFAULTS[name])
    number = value
    if kind is float and type(value) is int:
        with contextlib.suppress(OverflowError):
            number = float(value)
    allowed, wording = CHECKS.get(name, (lambda _: True, "true or false"))
    if type(number) is not kind or (kind is float and not math.isfinite(number)) or not allowed(number):
        raise _error(source, f"{name} = {_toml(value)[:60]} must be {wording}")
    return number


def _nearest(name: str) -> str | None:
    """Return the setting that was probably meant: the same one elsewhere, or one spelled alike."""
    last = {full.rpartition(".")[2]: full for full in DEFAULTS}
    if same := last.get(name.rpartition(".")[2]):
        return same
    near = difflib.get_close_matches(name[:100], [*DEFAULTS, *last], 1)
    return last.get(near[0], near[0]) if near else None


def _built(given: dict[str, tuple[Any, str]]) -> Settings:
    values = DEFAULTS | {name: value for name, (value, _) in given.items()}
    part, whole = "model.sequence_frames", "model.speech_frames"
    if values[part] > values[whole]:
        sources = dict.fromkeys(given[name][1] for name in (whole, part) if name in given)
        rule = f"must be at most {whole}, which is {values[whole]}"
        raise _error(" and ".join(sources), f"{part} = {values[part]} {rule}")
    sections = {
        section: kind(**{setting.name: values[f"{section}.{setting.name}"] for setting in fields(kind)})
        for section, kind in SECTIONS.items()
    }
    return Settings(**{name: value for name, value in values.items() if "." not in name}, **sections)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    # What JSON escapes TOML escapes alike, except for a pair of surrogates: hence no escapes beyond ASCII.
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _error(source: str, text: str) -> SettingsError:
    return SettingsError("".join(letter if letter.isprintable() else "?" for letter in f"{source}: {text}"))
