"""Checkpoints: one file that holds a model and what it takes to build it, written whole or not at all.

A torch file with a plain dictionary: `format`, `schema_version`, `dimensions` (the arguments of `DAVS`), `settings`
(where the model comes from and what it expects), `weights` (name -> float32 tensor) and `digest` over all of these. It
is read with `weights_only=True`: no code in it can run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from avprep.errors import CheckpointError
from davs_model.networks import DAVS

FORMAT = "avprep DAVS checkpoint"
SCHEMA_VERSION = 1
NAME = "checkpoint.pt"
"""The checkpoint of a run's folder."""


@dataclass(frozen=True)
class Checkpoint:
    """A model at rest.

    dimensions: the arguments of `DAVS`.
    settings: JSON values: the source of the weights, the MFCC preset that they were trained on.
    weights: the model's state, float32 but for the integer counters of BatchNorm, on the CPU.
    """

    dimensions: dict[str, int | float]
    settings: dict[str, Any]
    weights: dict[str, Tensor]

    @classmethod
    def of(cls, model: DAVS, settings: dict[str, Any]) -> Checkpoint:
        """Take the weights of a model as they are now, wherever it is and however it lies in memory."""
        weights = {
            name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, tensor in model.state_dict().items()
        }
        return cls(dict(model.dimensions), settings, weights)

    def model(self) -> DAVS:
        """Build the model, on the CPU and in eval mode; it shares memory with the weights."""
        model = skeleton(self.dimensions)
        model.load_state_dict(self.weights, assign=True)
        return model.eval()

    def digest(self) -> str:
        """Return the sha256 of everything that the checkpoint says."""
        head = {"schema_version": SCHEMA_VERSION, "dimensions": self.dimensions, "settings": self.settings}
        digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
        for name, tensor in sorted(self.weights.items()):
            digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def skeleton(dimensions: dict[str, int | float]) -> DAVS:
    """Build a model without memory for its weights, to learn their names and shapes; errors as of `DAVS`."""
    with torch.device("meta"):
        return DAVS(**dimensions)  # type: ignore[arg-type]


def save(run: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint into a run's folder, made if need be, in one step: a reader sees the old or the new one."""
    path = run / NAME
    part = path.with_name(f".{NAME}.{os.getpid()}.part")
    content = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "dimensions": checkpoint.dimensions,
        "settings": checkpoint.settings,
        "weights": checkpoint.weights,
        "digest": checkpoint.digest(),
    }
    try:
        run.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync_folder(run)
    except (OSError, RuntimeError) as error:  # torch turns a full disk into a RuntimeError
        raise CheckpointError(f"{path}: cannot be written: {_first_line(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return path


def load(path: Path) -> Checkpoint:
    """Read a checkpoint, `path` being the file or its run's folder, and prove that nothing in it has changed.

    CheckpointError, one line, for anything that isn't a whole checkpoint of a version that this program knows.
    """
    path = path / NAME if path.is_dir() else path
    content = read_torch_file(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of avprep (import-checkpoint reads the released one)")
    if (version := content.get("schema_version")) != SCHEMA_VERSION:
        raise CheckpointError(
            f"{path}: checkpoint schema {version!r}, this program reads {SCHEMA_VERSION}: update avprep"
        )
    dimensions, settings, weights = content.get("dimensions"), content.get("settings"), content.get("weights")
    if not (_is_record(dimensions) and _is_record(settings) and _is_record(weights)):
        raise CheckpointError(f"{path}: damaged: dimensions, settings or weights are missing")
    try:
        expected = skeleton(dimensions).state_dict()
    except Exception as error:  # whatever strange dimensions lead to
        raise CheckpointError(f"{path}: no model has the dimensions {dimensions}: {_first_line(error)}") from error
    if problem := _compare(weights, expected):
        raise CheckpointError(f"{path}: the weights do not fit the dimensions: {problem}")
    checkpoint = Checkpoint(dimensions, settings, weights)
    if content.get("digest") != checkpoint.digest():
        raise CheckpointError(f"{path}: damaged: the weights do not have the digest that the file gives")
    return checkpoint


def read_torch_file(path: Path) -> Any:
    """Read a torch file from anyone: tensors and plain values only, nothing executed, no more memory than its size.

    CheckpointError, one line, for a file that is damaged, is none, or asks for more.
    """
    try:
        if zipfile.is_zipfile(path):
            _check_sizes(path)
        elif tarfile.is_tarfile(path):
            raise CheckpointError(f"{path}: a tar archive, not a torch file: give the file as it was downloaded")
        return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: not there") from error
    except Exception as error:  # torch raises nearly anything on a damaged file
        raise CheckpointError(f"{path}: {_why_unreadable(error)}") from error


def is_plain(tensor: Any) -> TypeGuard[Tensor]:
    """Whether a value from a file is a dense tensor that has all its numbers in memory."""
    return (
        isinstance(tensor, Tensor)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and tensor.is_contiguous()
    )


def _check_sizes(path: Path) -> None:
    """Refuse an archive that holds more than its own size: torch compresses nothing."""
    with zipfile.ZipFile(path) as archive:
        held = sum(entry.file_size for entry in archive.infolist())
    if held > path.stat().st_size:
        raise CheckpointError(f"{path}: not a torch file: an archive that unpacks to {held} bytes")


def _compare(weights: dict[str, Any], expected: dict[str, Tensor]) -> str | None:
    """Return what is wrong with the first tensor that does not have the expected name, dtype and shape."""
    for name in sorted(weights.keys() ^ expected.keys()):
        return f"{name} is {'missing' if name in expected else 'unknown'}"
    for name, wanted in expected.items():
        tensor = weights[name]
        if not is_plain(tensor) or tensor.dtype != wanted.dtype or tensor.shape != wanted.shape:
            return f"{name} is not a {wanted.dtype} tensor of shape {list(wanted.shape)}"
    return None


def _is_record(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict) and all(isinstance(name, str) for name in value)


def _why_unreadable(error: Exception) -> str:
    text = str(error)
    if "weights_only" in text or "Unsupported global" in text or "Weights only" in text:
        wanted = text.rpartition("WeightsUnpickler error:")[2].strip().splitlines()
        return f"refused: it holds more than weights ({wanted[0] if wanted else type(error).__name__})"
    return f"not a torch file, or a damaged one ({_first_line(error)})"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}"[:200] if lines else type(error).__name__


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
