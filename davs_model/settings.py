"""The settings of a training run: defaults, then a preset, then a TOML file, then `--set section.name=value`.

This module defines the settings of any run, and how they are read, checked and written. Each model adds its own
(`davs_model.models.davs.settings`). A setting has a dotted name, such as `model.width`. The type and range of its value
are checked for every source, and an error is one line with source, name and value. Nothing here needs torch, because
the command line imports it first.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import json
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from avprep.errors import SettingsError, explained

_MAXIMUM = 10**9
"""Maximum of a count: far beyond any use, and small enough not to overflow or take all memory."""

Count = Annotated[int, Ge(0), Le(_MAXIMUM)]
"""A count, at least 0."""
Interval = Annotated[int, Ge(1), Le(_MAXIMUM)]
"""A count, at least 1."""
Factor = Annotated[float, Ge(0), Le(1e6)]
"""Factor of a term of the objective."""
Decay = Annotated[float, Ge(0), Lt(1)]
"""Decay rate of Adam."""
Folder = Annotated[str, Field(pattern="^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$")]
"""Path of a folder, which TOML and a terminal can show."""

MIN_BATCH = 2
"""Minimum of clips per step: BatchNorm has no statistics of one clip, and L_C no unpaired one."""
ON: Any = object()
"""In `RunSettings.needs`: any value above 0."""

_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Section(BaseModel):
    """An immutable section of settings."""

    model_config = _STRICT


class Data(Section):
    """The data of a step."""

    batch_size: Annotated[int, Ge(MIN_BATCH), Le(65_536)] = 16
    """Clips per step, over all processes."""
    workers: Annotated[int, Ge(0), Le(4096)] = 4
    """Loader processes of each training process; 0: it loads the clips itself."""
    window: Annotated[int, Ge(1), Le(1_000_000)] = 32
    """Shards whose clips are shuffled together."""
    flip: bool = True
    """Mirror every other clip, at random."""
    shift: Annotated[int, Ge(0), Le(32)] = 2
    """Maximum random shift of a clip in each direction, in pixels of the 256×256 crop."""
    jitter: Annotated[float, Ge(0), Le(1)] = 0.0
    """Maximum random change of the gain of each colour channel of a clip; that of its offset is a third of this."""
    warp: Annotated[float, Ge(0), Le(0.5)] = 0.0
    """Maximum random change of the width and the height of a face; it is rotated and shifted in proportion."""
    voice_up: Annotated[float, Ge(0), Le(0.5)] = 0.0
    """Maximum random rise of the formants of a clip's audio, as of a shorter vocal tract (natural logarithm)."""
    voice_down: Annotated[float, Ge(0), Le(0.5)] = 0.0
    """Maximum random fall of the formants, as of a longer vocal tract (natural logarithm)."""
    noise: Annotated[float, Ge(0), Le(10)] = 0.0
    """Noise added to MFCC, in standard deviations of each coefficient of the clip."""
    cache_mib: Count = 0
    """Memory for decoded frames, in MiB; if above 0, clips are not shifted."""
    faces: Folder = ""
    """Folder with a folder of images per person, for stages that tell people apart; empty: the speakers."""
    keep_silent: bool = False
    """Also train on clips that hold only silence."""


class Optimizer(Section):
    """Adam."""

    learning_rate: Annotated[float, Gt(0), Le(10)] = 2e-4
    """Learning rate of Adam."""
    beta1: Decay = 0.9
    """Decay of the mean of the gradient, per step."""
    beta2: Decay = 0.999
    """Decay of the mean of the squared gradient, per step."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Schedule of the learning rate: constant, or cosine, which falls to 0 at the last step of a stage."""
    warmup: Count = 0
    """Steps over which the learning rate rises linearly from 0."""


class Loop(Section):
    """What happens between steps."""

    log_every: Interval = 50
    """Steps between lines of the log."""
    validate_every: Interval = 2000
    """Steps between validations."""
    sample_every: Interval = 2000
    """Steps between sheets of generated frames."""
    save_every: Interval = 2000
    """Steps between checkpoints."""
    validation_clips: Interval = 1000
    """Maximum number of clips in a validation."""
    talking_clips: Count = 20
    """Maximum number of clips that are generated whole in a validation, to measure whether they talk; below 2: none."""


class Machine(Section):
    """Where and how training is computed."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on: cpu, cuda, or auto, which is cuda if available."""
    bf16: bool = True
    """Compute in bfloat16 where that is safe; losses and weights stay float32."""
    channels_last: bool = True
    """Store images in memory as NHWC."""
    compile: bool = False
    """Compile the networks with torch.compile."""
    sync_batchnorm: bool = True
    """Compute the statistics of BatchNorm over all processes."""
    threads: Annotated[int, Ge(0), Le(4096)] = 0
    """CPU threads of each training process; 0: torch's own choice."""


@dataclass(frozen=True)
class Ablation:
    """The rows of a paper's ablation: runs that differ in the settings of one stage.

    stage: that stage. before: stages that are trained once for all rows. rows: the settings of each row, `name=value`,
    which override those of the run. paper: the paper's results of each row, by the names of its columns.
    """

    stage: str
    rows: Mapping[str, tuple[str, ...]]
    before: tuple[str, ...] = ()
    paper: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


class RunSettings(Section):
    """The settings of any run. Each model's class defines its own `preset`, `model`, `steps` and `weights`."""

    of_model: ClassVar[str] = ""
    """Name of the model that these settings train, as in `davs_model.models`."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"": {}}
    """What each preset changes; the first one is the default."""
    bounds: ClassVar[Mapping[str, str]] = {}
    """Settings, each with another one that it must not exceed."""
    needs: ClassVar[Mapping[str, Sequence[Mapping[str, Any]]]] = {}
    """Settings that, if not at their default, have no effect unless one of each group of others has this value."""
    ablation: ClassVar[Ablation | None] = None
    """The ablation of the model's paper."""

    preset: str = ""
    """Name of the preset that the others started from."""
    seed: Annotated[int, Ge(0), Le(2**31 - 1)] = 0
    """Random seed."""
    model: Section = Section()
    """The networks."""
    data: Data = Data()
    optimizer: Optimizer = Optimizer()
    steps: Section = Section()
    """Optimizer steps of each stage, by its name and in the order of training; 0 leaves one out."""
    weights: Section = Section()
    """Factors of the terms of the objective."""
    loop: Loop = Loop()
    machine: Machine = Machine()

    @classmethod
    def resolve(cls, preset: str | None = None, file: Path | None = None, overrides: Sequence[str] = ()) -> Self:
        """Combine the settings: defaults, preset, file, overrides; each overrides the ones before.

        preset: None: the one that the overrides or the file name, else the default one.
        overrides: `section.name=value`, the value as in TOML; text needs no quotes, and .5 is accepted for 0.5.
        SettingsError, one line, for a setting or file that does not exist, cannot be read, or is out of range.
        """
        given = cls._checked(str(file), dotted(_read(file), cls.sections())) if file is not None else {}
        given |= cls._checked("--set", dict(_override(text, cls.defaults()) for text in overrides))
        given |= cls._checked("--preset", {} if preset is None else {"preset": preset})
        chosen = given["preset"][0] if "preset" in given else next(iter(cls.presets))
        changes = dotted(dict(cls.presets[chosen]), cls.sections())
        return cls._built(cls._checked(f"preset {chosen}", changes) | given)

    @classmethod
    def from_json(cls, value: dict[str, Any], *, source: str = "settings") -> Self:
        """Return the settings of a `to_json`; SettingsError that names `source` if one is unknown, wrong or missing."""
        if not isinstance(value, dict):
            raise _error(source, f"{_toml(value)[:60]} must be a table of settings")
        given = cls._checked(source, dotted(value, cls.sections()))
        for name in cls.defaults():
            if name not in given:
                raise _error(source, f"{name} is missing")
        return cls._built(given)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values, a dictionary for each section; the sections come last."""
        values = self.model_dump()
        return {name: values[name] for name in sorted(values, key=lambda name: isinstance(values[name], dict))}

    def to_toml(self) -> str:
        """Return the settings as TOML text, from which `resolve` reads the same settings."""
        lines = []
        for name, value in self.to_json().items():
            if isinstance(value, dict):
                lines += ["", f"[{name}]", *(f"{key} = {_toml(inner)}" for key, inner in value.items())]
            else:
                lines.append(f"{name} = {_toml(value)}")
        return "\n".join(lines) + "\n"

    def difference(self, here: RunSettings) -> list[str]:
        """Return a line for each setting that differs, such as `model.width: 0.25 there, 0.5 here`; `self` is there."""
        there, other = (dotted(settings.to_json(), self.sections()) for settings in (self, here))
        return [
            f"{name}: {_toml(there[name])} there, {_toml(value)} here"
            for name, value in other.items()
            if there[name] != value
        ]

    @classmethod
    def free(cls) -> frozenset[str]:
        """Return the settings that may change when a run is resumed; `steps.*` only of stages that are not `paced`."""
        free = {name for name in cls.defaults() if name.partition(".")[0] in ("loop", "steps")}
        return frozenset({"preset", "data.workers", *free})

    def paced(self) -> frozenset[str]:
        """Return the stages in which every step depends on the number of steps, by the learning rate or the terms."""
        return frozenset(self.stages() if self.optimizer.schedule == "cosine" else ())

    @classmethod
    def stages(cls) -> tuple[str, ...]:
        """Return the names of the model's stages, in the order of training."""
        return tuple(cls.sections()["steps"].model_fields)

    @classmethod
    @functools.cache
    def sections(cls) -> dict[str, type[Section]]:
        """Return the class of each section."""
        kinds = {name: field.annotation for name, field in cls.model_fields.items()}
        return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Section)}

    @classmethod
    @functools.cache
    def defaults(cls) -> dict[str, Any]:
        """Return every setting by its dotted name."""
        return dotted(cls().to_json(), cls.sections())

    @classmethod
    @functools.cache
    def _kind(cls, name: str) -> tuple[Any, TypeAdapter[Any]]:
        """Return the annotated type of a setting, and the adapter that checks its values."""
        section, _, key = name.rpartition(".")
        field = (cls.sections()[section] if section else cls).model_fields[key]
        annotated: Any = Annotated
        kind = annotated[field.annotation, *field.metadata, None]  # None: Annotated needs at least one annotation
        return kind, TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False))

    @classmethod
    def _checked(cls, source: str, values: dict[str, Any]) -> dict[str, tuple[Any, str]]:
        """Return each value, converted to its type, with its source."""
        return {name: (cls._value(source, name, value), source) for name, value in values.items()}

    @classmethod
    def _value(cls, source: str, name: str, value: Any) -> Any:
        if name in cls.sections():
            raise _error(source, f"{name} = {_toml(value)[:60]} must be a section of settings")
        if name not in cls.defaults():
            near = _nearest(name, cls.defaults())
            hint = f"; did you mean {near}?" if near else " (settings are listed by --dry-run)"
            raise _error(source, f"no setting {name[:60]}{hint}")
        kind, adapter = cls._kind(name)
        with contextlib.suppress(ValidationError, OverflowError):
            found = adapter.validate_python(value)
            if type(found) in (type(value), float):  # a Literal accepts 64.0 as 64; here it is an error
                return found
        raise _error(source, f"{name} = {_toml(value)[:60]} must be {_wording(kind)}")

    @classmethod
    def _built(cls, given: dict[str, tuple[Any, str]]) -> Self:
        values = cls.defaults() | {name: value for name, (value, _) in given.items()}
        for part, whole in cls.bounds.items():
            if values[part] > values[whole]:
                rule = f"must be at most {whole}, which is {values[whole]}"
                raise _error(_sources(given, whole, part), f"{part} = {values[part]} {rule}")
        for name, groups in cls.needs.items():
            lacking = [group for group in groups if not any(_has(values[other], need) for other, need in group.items())]
            if values[name] != cls.defaults()[name] and lacking:
                lacks = " and ".join(" or ".join(_needed(*need) for need in group.items()) for group in lacking)
                problem = f"{name} = {_toml(values[name])} does nothing without {lacks}"
                raise _error(_sources(given, name, *(other for group in lacking for other in group)), problem)
        tables: dict[str, Any] = {section: {} for section in cls.sections()}
        for name, value in values.items():
            section, _, key = name.rpartition(".")
            (tables[section] if section else tables)[key] = value
        return cls.model_validate(tables)


def _has(value: Any, need: Any) -> bool:
    return bool(value > 0 if need is ON else value == need)


def _needed(name: str, need: Any) -> str:
    return f"{name} above 0" if need is ON else f"{name} = {_toml(need)}"


def _sources(given: Mapping[str, tuple[Any, str]], *names: str) -> str:
    """Return the sources of some settings, each source once."""
    return " and ".join(dict.fromkeys(given[name][1] for name in names if name in given))


def ablation_of(settings: RunSettings, rows: Sequence[str] = ()) -> Ablation:
    """Return the ablation of a model's paper; SettingsError if the model has none, or not these rows."""
    plan = settings.ablation
    if plan is None:
        raise SettingsError(f"the model {settings.of_model} has no ablation")
    if unknown := [row for row in rows if row not in plan.rows]:
        raise SettingsError(f"no row {unknown[0][:60]}: there is {', '.join(plan.rows)}")
    return plan


def _wording(kind: Any) -> str:
    """Return what a value of a type must be, in words."""
    base, *constraints = get_args(kind)
    if get_origin(base) is Literal:
        return f"one of {', '.join(map(str, get_args(base)))}"
    if base is bool:
        return "true or false"
    if base is str:
        return "the path of a folder, in UTF-8, on one line"
    bounds = {type(bound): getattr(bound, type(bound).__name__.lower()) for bound in constraints if bound is not None}
    if base is int:
        return f"a whole number from {bounds[Ge]} to {bounds[Le]}"
    if Lt in bounds:
        return f"a number from {bounds[Ge]} to below {bounds[Lt]}"
    if Gt in bounds:
        return f"a number above {bounds[Gt]}, at most {bounds[Le]}"
    return f"a number from {bounds[Ge]} to {bounds[Le]:.0f}"


def dotted(table: Mapping[str, Any], sections: Collection[str] = ()) -> dict[str, Any]:
    """Return nested tables as dotted names; a section that is no table, and an empty table that is no section, stay."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict) and (value or name in sections):
            found |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            found[name] = value
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise _error(str(file), f"cannot be read: {explained(error)}") from error
    except UnicodeDecodeError as error:
        raise _error(str(file), f"not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except (ValueError, RecursionError) as error:  # a plain ValueError: a number of thousands of digits
        raise _error(str(file), f"not TOML: {error}") from error


def _override(text: str, defaults: Mapping[str, Any]) -> tuple[str, Any]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        raise _error("--set", f"{text[:60]} must be written section.name=value")
    parsed: dict[str, Any] = {}
    with contextlib.suppress(ValueError, RecursionError):
        parsed = tomllib.loads(f"value = {value}")
    kind = type(defaults.get(name))
    if list(parsed) == ["value"] and (kind is not str or isinstance(parsed["value"], str)):
        return name, parsed["value"]  # otherwise text: a folder may be called 2024
    if kind is float:
        with contextlib.suppress(ValueError):
            return name, float(value)  # TOML has no .5
    return name, value


def _nearest(name: str, defaults: Mapping[str, Any]) -> str | None:
    """Return the setting that was probably meant: the same name in another section, or a similar spelling."""
    last = {full.rpartition(".")[2]: full for full in defaults}
    if same := last.get(name.rpartition(".")[2]):
        return same
    near = difflib.get_close_matches(name[:100], [*defaults, *last], 1)
    return last.get(near[0], near[0]) if near else None


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    # TOML has the escapes of JSON, except for surrogate pairs: non-ASCII characters are therefore not escaped.
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _error(source: str, text: str) -> SettingsError:
    return SettingsError("".join(letter if letter.isprintable() else "?" for letter in f"{source}: {text}"))
