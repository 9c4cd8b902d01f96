"""Small checkpoints of ours, valid and invalid, and the expected outcome for a file that is not a checkpoint."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from click.testing import Result
from safetensors.torch import save_file
from torch import Tensor

from avprep.errors import CheckpointError
from davs_model import checkpoint
from davs_model.checkpoint import Checkpoint
from davs_model.models.davs.networks import DAVS

T = TypeVar("T")

SMALL: dict[str, int | float] = {
    "n_words": 3,
    "n_people": 2,
    "n_speakers": 2,
    "width": 0.01,
    "image_size": 64,
    "speech_frames": 1,
    "identity_frames": 1,
    "sequence_frames": 1,
    "n_word_classifiers": 1,
}
DOMAIN = "discriminator_audio"
"""The smallest of the released networks: 66,049 parameters."""


def assert_refused(result: Result, status: int, *parts: str) -> None:
    """Assert that a command ended as documented: one error line, no traceback, and nothing else except usage."""
    assert result.exit_code == status, result.output
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    *usage, line = result.stderr.splitlines()
    assert line.startswith("Error: "), result.stderr
    assert not usage or status == 2, result.stderr
    for part in parts:
        assert part in line, line


def refusal(read: Callable[[Path], object], path: Path) -> str:
    """Return the message with which a file is refused, after checking that it is one line that names the file."""
    with pytest.raises(CheckpointError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: "), message
    assert message.isprintable(), message
    assert len(message) < len(str(path)) + 500, message
    return message


def outcome(read: Callable[[Path], T], path: Path) -> T | str:
    """Return the content of a file, or the one line with which it is refused."""
    try:
        return read(path)
    except CheckpointError as error:
        return str(error)


def same(one: Checkpoint, other: Checkpoint) -> bool:
    """Return whether two checkpoints are equal bit for bit."""
    return (
        one.header() == other.header()
        and one.weights.keys() == other.weights.keys()
        and all(
            (tensor.dtype, tensor.shape) == (other.weights[name].dtype, other.weights[name].shape)
            and tensor.reshape(-1).view(torch.uint8).equal(other.weights[name].reshape(-1).view(torch.uint8))
            for name, tensor in one.weights.items()
        )
    )


def lived_in(dimensions: dict[str, int | float], seed: int = 0) -> DAVS:
    """Return a model in eval mode whose BatchNorm statistics are not the initial ones."""
    generator = torch.Generator().manual_seed(seed)
    model = DAVS(**dimensions).eval()  # type: ignore[arg-type]
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(seed + 7)
        else:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.1 + (0.9 if "running_" in name else -0.05))
    return model


def spoilt(content: bytes, chance: random.Random, span: int) -> bytes:
    """Flip one to three bits in the first or last `span` bytes; pickles and directories may be in either."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(span)
        changed[place if chance.random() < 0.5 else -1 - place] ^= 1 << chance.randrange(8)
    return bytes(changed)


def described(path: Path, header: dict[str, Any], weights: dict[str, Tensor]) -> Path:
    """Write a checkpoint with any header and the right digest; header entries that are None are left out."""
    kept = {name: value for name, value in header.items() if value is not None}
    checkpoint.write(path, checkpoint.KIND, kept, weights)
    return path


def raw(path: Path, header: object, tensors: dict[str, Tensor]) -> Path:
    """Write a safetensors file with any JSON, or any text, as the entry that describes it."""
    save_file(tensors, path, {checkpoint.ENTRY: header if isinstance(header, str) else json.dumps(header)})
    return path


def head(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return the JSON at the start of a safetensors file, and the bytes after it."""
    content = path.read_bytes()
    (size,) = struct.unpack_from("<Q", content)
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def beheaded(path: Path, header: bytes, numbers: bytes = b"", *, size: int | None = None) -> Path:
    """Write a safetensors file from raw bytes. size: the header size to write; None: the true one."""
    path.write_bytes(struct.pack("<Q", len(header) if size is None else size) + header + numbers)
    return path
