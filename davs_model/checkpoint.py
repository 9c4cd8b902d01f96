"""Checkpoints: one file with a model and everything that is needed to build it, written atomically.

It is a safetensors file whose tensors are the weights, float32. Its metadata has one JSON entry, `avprep`: `format` and
`schema_version`; `model`, the name of the model, and `dimensions`, the arguments that build it; `settings`, the origin
of the weights and the inputs that they expect; and a `digest` of all of these and the weights. A run's training state
is a file of the same format (`davs_model.training.state`).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeGuard

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from avprep import files, untrusted
from avprep.errors import CheckpointError
from davs_model import models
from davs_model.models.base import TalkingModel

KIND = "checkpoint"
SCHEMA_VERSION = 1
NAME = "checkpoint.safetensors"
"""File name of the checkpoint in a run's folder."""
ENTRY = "avprep"
"""The entry of a file's metadata that describes it."""
MAX_HEADER = 8 << 20
"""Maximum header of a file in bytes; reading it takes fifteen times its size in memory."""
AGAIN = "copy or download it again"
MAX_WIDTH, MAX_DIMENSION = 16, 10**7
"""Maximum channel multiplier, and maximum of all other dimensions, for which a model is built."""


@dataclass(frozen=True)
class Checkpoint:
    """A saved model.

    name: of the model, as in `davs_model.models`.
    dimensions: the arguments that build it.
    settings: JSON values: the source of the weights, the MFCC preset that they were trained on.
    weights: the model's state, float32 except for the integer counters of BatchNorm, on the CPU.
    """

    name: str
    dimensions: dict[str, int | float]
    settings: dict[str, Any]
    weights: dict[str, Tensor]

    @classmethod
    def of(cls, model: TalkingModel, settings: dict[str, Any]) -> Checkpoint:
        """Copy the current weights of a model on any device, in any memory layout and precision.

        Half precision is converted to float32 exactly; double precision is rounded.
        """
        weights = {
            name: tensor.detach().to(
                "cpu",
                torch.float32 if tensor.is_floating_point() else tensor.dtype,
                copy=True,
                memory_format=torch.contiguous_format,
            )
            for name, tensor in model.state_dict().items()
        }
        return cls(model.name, dict(model.dimensions), settings, weights)

    def model(self) -> TalkingModel:
        """Build the model, on the CPU and in eval mode; it shares memory with the weights."""
        model = skeleton(self.name, self.dimensions)
        model.load_state_dict(self.weights, assign=True)
        return model.eval()

    def header(self) -> dict[str, Any]:
        """Return everything but the weights, as JSON values."""
        return {"model": self.name, "dimensions": self.dimensions, "settings": self.settings}

    @classmethod
    def from_header(cls, header: dict[str, Any], weights: dict[str, Tensor]) -> Checkpoint | None:
        """Return the checkpoint that a file describes, None if a part is missing; `problem` checks the rest."""
        name, dimensions, settings = (header.get(part) for part in ("model", "dimensions", "settings"))
        if isinstance(name, str) and isinstance(dimensions, dict) and isinstance(settings, dict):
            return cls(name, dimensions, settings, weights)
        return None

    def digest(self) -> str:
        """Return the SHA-256 of everything in the checkpoint."""
        return _digest(_described(KIND, self.header()), self.weights)


def skeleton(name: str, dimensions: dict[str, int | float]) -> TalkingModel:
    """Build a model without memory for its weights, to get their names and shapes; errors as in `models.build`."""
    with torch.device("meta"):
        return models.build(name, dimensions)


def outline(name: str, dimensions: dict[str, int | float]) -> TalkingModel:
    """Return a skeleton that must not be changed: each is built once, because that takes longer than a step."""
    return _outline(models.find(name), tuple((key, type(size), size) for key, size in sorted(dimensions.items())))


@functools.lru_cache(4)
def _outline(kind: type[TalkingModel], dimensions: tuple[tuple[str, type, int | float], ...]) -> TalkingModel:
    return skeleton(kind.name, {key: size for key, _, size in dimensions})


def save(run: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint into a run's folder, created if needed, atomically: a reader sees the old or the new one.

    CheckpointError, one line, if it cannot be written or `load` would not return the same; the old one then stays.
    """
    path = run / NAME
    if wrong := problem(checkpoint):
        raise CheckpointError(f"{path}: not written: {wrong}")
    write(path, KIND, checkpoint.header(), checkpoint.weights)
    return path


def load(path: Path) -> Checkpoint:
    """Read a checkpoint, where `path` is the file or its run's folder, and verify that nothing in it has changed.

    CheckpointError, one line, for anything that is not a complete checkpoint of a supported version.
    """
    if os.path.isdir(path):  # False, and no error, without permission
        run, path = path, path / NAME
        if not os.path.lexists(path):
            raise CheckpointError(
                f"{path}: not there, so there is no model in this folder yet: `avprep train OUT {run}` or "
                f"`avprep import-checkpoint FILE {run}` makes one"
            )
    checkpoint = Checkpoint.from_header(*read(path, KIND))
    if checkpoint is None:
        raise CheckpointError(f"{path}: damaged: model, dimensions or settings are missing: {AGAIN}")
    if wrong := problem(checkpoint):
        raise CheckpointError(f"{path}: {wrong}")
    return checkpoint


def write(
    path: Path, kind: str, header: dict[str, Any], tensors: dict[str, Tensor], *, keep: Path | None = None
) -> None:
    """Write a file with a header atomically, in a folder created if needed; CheckpointError, one line, on failure.

    kind: what the file is. header: JSON values. tensors: contiguous, on the CPU, without shared memory.
    keep: the previous file is kept under this name, so that one of the two is complete at any moment.
    """
    described = _described(kind, header)
    part = files.own_aside(path)
    try:
        text = json.dumps({**described, "digest": _digest(described, tensors)}, sort_keys=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{path.name}.*.part"):  # left by a killed process: a run has one writer
            left.unlink(missing_ok=True)
        part.touch()
        mode = part.stat().st_mode & 0o777  # of any new file here; only the owner could read those of safetensors
        save_file(tensors, part, {ENTRY: text})  # one entry, because safetensors writes several in arbitrary order
        part.chmod(mode)
        with part.open("rb") as file:
            if (size := _header_size(file)) > MAX_HEADER:
                raise CheckpointError(f"{path}: not written: its header would have {size} bytes: too many names")
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        part.replace(path)
        files.sync_folder(path.parent)
    except CheckpointError:
        raise
    except Exception as error:  # OSError, and the errors of safetensors
        raise CheckpointError(f"{path}: cannot be written: {said(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def read(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return header and tensors of a file that `write` wrote, verified by their digest; nothing else is checked.

    CheckpointError, one line, for any other file, with memory in proportion to its size.
    """
    with reading(path, f"{kind} of avprep"):
        with files.open_file(path) as file:
            _check_header(file, kind)
        # Not memory-mapped: if the file were truncated meanwhile, the process would end.
        with safe_open(path, framework="pt", backend="pread") as opened:
            header = _parse(opened.metadata(), kind)
            tensors = opened.get_tensors()
        digest = header.pop("digest", None)
        if digest != _digest(header, tensors):
            raise CheckpointError(f"damaged: its contents do not have the digest that it gives: {AGAIN}")
    return header, tensors


def is_ours(path: Path) -> bool:
    """Whether a file has the format of `write`."""
    try:
        with files.open_file(path) as file:
            if _header_size(file) > MAX_HEADER:
                return False
        with safe_open(path, framework="pt", backend="pread") as opened:
            return ENTRY in (opened.metadata() or {})
    except Exception:  # whatever it is
        return False


@contextlib.contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn any error of reading a file into CheckpointError, one line; `what`: what the file should be."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: not there") from error
    except IsADirectoryError as error:
        raise CheckpointError(f"{path}: a folder, not a {what}: give the file itself") from error
    except PermissionError as error:
        raise CheckpointError(f"{path}: may not be read: change its permissions") from error
    except Exception as error:  # torch and safetensors raise almost any error on a damaged file
        raise CheckpointError(f"{path}: not a {what}, or damaged ({said(error)}): {AGAIN}") from error


def _described(kind: str, header: dict[str, Any]) -> dict[str, Any]:
    return {"format": f"avprep {kind}", "schema_version": SCHEMA_VERSION, **header}


def _digest(header: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of JSON values and named tensors, which must be contiguous and on the CPU."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True, allow_nan=False).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _header_size(file: IO[bytes]) -> int:
    """Return the size of the JSON at the start of a safetensors file."""
    return int.from_bytes(file.read(8), "little")


def _check_header(file: IO[bytes], kind: str) -> None:
    """Refuse a file whose header is invalid, too large, or has a duplicate name, of which safetensors uses the last."""
    if (size := _header_size(file)) > MAX_HEADER:
        file.seek(0)
        is_torch = file.read(2) in (b"PK", b"\x80\x02")
        raise CheckpointError(f"not a {kind} of avprep" + " (import-checkpoint reads the released one)" * is_torch)

    def distinct(pairs: list[tuple[str, Any]]) -> None:
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError("a name stands there twice")

    json.loads(file.read(size), object_pairs_hook=distinct)


def _parse(metadata: dict[str, str] | None, kind: str) -> dict[str, Any]:
    """Return the header in a file's metadata; CheckpointError, without the path, or ValueError for any other one."""
    header = untrusted.parse_json((metadata or {}).get(ENTRY, "{}"))
    if header.get("format") != f"avprep {kind}":
        raise CheckpointError(f"not a {kind} of avprep")
    if (version := header.get("schema_version")) != SCHEMA_VERSION or type(version) is not int:
        raise CheckpointError(f"{kind} schema {one_line(version)}, this program reads {SCHEMA_VERSION}: update avprep")
    return header


def is_plain(value: Any) -> TypeGuard[Tensor]:
    """Whether a value from a file is a dense tensor on the CPU with all of its elements in memory."""
    return (
        type(value) in (Tensor, nn.Parameter)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and not value.is_neg()
        and not value.is_conj()
        and value.untyped_storage().nbytes() >= value.numel() * value.element_size()
    )


def one_line(text: object) -> str:
    """Return text from a file or a library as one line that a terminal can show, at most 200 characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(str(text).split())[:200])


def problem(checkpoint: Checkpoint) -> str | None:
    """Return, in one line, why a checkpoint is not a complete model; None if it is."""
    dimensions, weights = checkpoint.dimensions, checkpoint.weights
    if not checkpoint.name.isidentifier():  # it becomes the name of a module
        return f"no model has the name {one_line(checkpoint.name)}"
    if not all(type(size) in (int, float) and size >= 0 for size in dimensions.values()):
        return "no model has such dimensions: each is a number, 0 or more"
    for name, size in dimensions.items():
        if not size <= (most := MAX_WIDTH if name.endswith("width") else MAX_DIMENSION):
            return f"no model has {one_line(name)} {one_line(size)}: it is at most {most}"
    try:
        if json.loads(json.dumps(checkpoint.settings, allow_nan=False)) != checkpoint.settings:
            return "its settings are not the same as JSON"
    except (TypeError, ValueError, RecursionError) as error:
        return f"its settings are no JSON: {said(error)}"
    if odd := _odd_setting(checkpoint.settings):
        return f"its setting {odd}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of layers without weights at such dimensions
            expected = outline(checkpoint.name, dimensions).state_dict()
    except Exception as error:  # any error that strange dimensions cause
        return f"no model has the name {checkpoint.name} and dimensions {one_line(dimensions)}: {said(error)}"
    for name in sorted(weights.keys() ^ expected.keys()):
        missing = "missing" if name in expected else "unknown"
        return f"the weights do not fit the dimensions: {one_line(name)} is {missing}"
    for name, wanted in expected.items():
        tensor = weights[name]
        if not is_plain(tensor) or tensor.dtype != wanted.dtype or tensor.shape != wanted.shape:
            wanted_form = f"{wanted.dtype} tensor of shape {list(wanted.shape)}"
            return f"the weights do not fit the dimensions: {name} is not a {wanted_form}"
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            return f"the weights hold numbers that are not finite ({name}): take the checkpoint of another run"
    return None


def _odd_setting(settings: dict[str, Any]) -> str | None:
    """Return the problem of a setting that readers of checkpoints use; None if each is absent or valid."""
    steps = settings.get("steps")
    for name in ("words", "emotions"):
        names = settings.get(name)
        if names is not None and not (isinstance(names, list) and all(isinstance(one, str) for one in names)):
            return f"{name} is not a list of words"
    if steps is not None and not (isinstance(steps, dict) and all(type(count) is int for count in steps.values())):
        return "steps is not a number for each stage"
    if not isinstance(settings.get("mfcc_preset") or "", str):
        return "mfcc_preset is not the name of one"
    return None


def said(error: BaseException) -> str:
    """Return the relevant part of an error message, in one line."""
    text = str(error)
    if found := re.search(r"(Unsupported|Trying to|Can only|Only persistent).*", text):  # torch wraps it in advice
        return one_line(found[0])
    return one_line(f"{type(error).__name__}: {text.strip().partition(chr(10))[0]}".rstrip(": "))
