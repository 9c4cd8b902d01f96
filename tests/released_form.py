"""Files in the checkpoint format of the released code, with weights of ours.

The code ran under Python 2 and PyTorch 0.2 on a GPU, with its networks wrapped in DataParallel: `write(era="0.2")`
writes that stream byte by byte, `era="now"` writes the same contents in the oldest form that today's PyTorch supports.
"""

from __future__ import annotations

import struct
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from davs_model import checkpoint, released

Era = Literal["0.2", "now"]
Networks = Mapping[str, Mapping[str, Tensor]]

MAGIC = 0x1950A86A20F9469CFC6C
"""The number at the start of streams of PyTorch 0.1 to 1.5."""
VERSION = 1001
STORAGES = {torch.float32: "FloatStorage", torch.float16: "HalfStorage", torch.int64: "LongStorage"}


def layout(*, n_words: int = 500) -> dict[str, dict[str, list[int]]]:
    """Return released network -> tensor -> shape, without prefix, as in our own modules."""
    shapes = {
        name: list(tensor.shape)
        for name, tensor in checkpoint.skeleton(released.MODEL, {"n_words": n_words}).state_dict().items()
    }
    found: dict[str, dict[str, list[int]]] = {}
    for network, attribute in released.NETWORKS.items():
        found[network] = {}
        for ours, layers in released.layers(network).items():
            stem = f"{attribute}.{ours}."
            for name, (rows, *rest) in ((n, s) for n, s in shapes.items() if n.startswith(stem) and s):
                for layer in layers:
                    found[network][f"{layer}.{name.removeprefix(stem)}"] = [rows // len(layers), *rest]
    return found


def fill(layout: Mapping[str, Mapping[str, Iterable[int]]]) -> dict[str, dict[str, Tensor]]:
    """Return float32 tensors of a layout's shapes, filled by the recipe of the reference values."""
    return {
        network: {name: _fill(network, name, tuple(shape)) for name, shape in tensors.items()}
        for network, tensors in layout.items()
    }


def _fill(network: str, name: str, shape: tuple[int, ...]) -> Tensor:
    normal = np.random.RandomState(zlib.crc32(f"{network}.{name}".encode())).standard_normal
    numbers = normal(int(np.prod(shape))).reshape(shape)
    last = name.rpartition(".")[2]
    if last == "running_var":
        numbers = 1 + 0.1 * np.abs(numbers)
    elif last == "weight" and len(shape) == 1:
        numbers = 1 + 0.1 * numbers
    elif len(shape) == 1:
        numbers = 0.1 * numbers
    else:
        numbers = numbers / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(numbers.astype(np.float32))


def write(
    path: Path,
    networks: Networks,
    *,
    prefix: str = "module.",
    era: Era = "0.2",
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint in the released form and return its path.

    prefix: precedes every tensor's name; "" for networks that were not wrapped.
    era: "0.2" for the stream of PyTorch 0.2 under Python 2 (contiguous float32, float16 and int64 tensors only);
    "now" for today's `torch.save` in its old form.
    extra: entries in addition to the networks, such as `epoch`.
    """
    content: dict[str, Any] = {
        **{n: OrderedDict((prefix + name, t) for name, t in ts.items()) for n, ts in networks.items()},
        **(extra or {}),
    }
    if era == "now":
        torch.save(content, path, _use_new_zipfile_serialization=False)
        return path
    with path.open("wb") as file:
        sizes = {"short": 2, "int": 4, "long": 8}
        system = {"protocol_version": VERSION, "little_endian": True, "type_sizes": sizes}
        for value in (MAGIC, VERSION, system):
            file.write(_Python2().pickle(value))
        stream = _Python2()
        file.write(stream.pickle(content))
        file.write(_Python2().pickle(sorted(stream.storages)))
        for _, tensor in sorted(stream.storages.items()):
            file.write(struct.pack("<q", tensor.numel()))
            file.write(tensor.view(-1).numpy().data)
    return path


class _Python2:
    """The output of Python 2's cPickle for a value at protocol 2, written opcode by opcode."""

    def __init__(self) -> None:
        self.storages: dict[str, Tensor] = {}
        self.memo: dict[str, int] = {}

    def pickle(self, value: object) -> bytes:
        return b"\x80\x02" + self._value(value) + b"."

    def _value(self, value: Any) -> bytes:
        match value:
            case None:
                return b"N"
            case bool():
                return b"\x88" if value else b"\x89"
            case int() if -(2**31) <= value < 2**31:
                return b"J" + struct.pack("<i", value)
            case int():
                return self._long(value)
            case float():
                return b"G" + struct.pack(">d", value)
            case str():  # the string of Python 2 is bytes
                text = value.encode()
                return b"U" + struct.pack("B", len(text)) + text
            case Tensor():
                return self._tensor(value)
            case OrderedDict():
                pairs = b"".join(b"](" + self._value(k) + self._value(v) + b"e" for k, v in value.items())
                return self._global("collections", "OrderedDict") + b"](" + pairs + b"e" + b"\x85R"
            case dict():
                return b"}(" + b"".join(self._value(k) + self._value(v) for k, v in value.items()) + b"u"
            case tuple():
                return b"(" + b"".join(map(self._value, value)) + b"t"
            case list():
                return b"](" + b"".join(map(self._value, value)) + b"e"
        raise TypeError(f"a {type(value).__name__} in a file of PyTorch 0.2")

    def _global(self, module: str, name: str) -> bytes:
        line = f"c{module}\n{name}\n"
        if line in self.memo:
            return b"h" + struct.pack("B", self.memo[line])
        self.memo[line] = len(self.memo)
        return line.encode() + b"q" + struct.pack("B", self.memo[line])

    def _long(self, value: int) -> bytes:
        number = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + struct.pack("B", len(number)) + number

    def _tensor(self, tensor: Tensor) -> bytes:
        key = str(94_000_000_000_000 + 64 * len(self.storages))  # the address of the storage
        self.storages[key] = tensor
        rebuild = self._global("torch._utils", "_rebuild_tensor")
        identity = self._value("storage") + self._global("torch.cuda", STORAGES[tensor.dtype]) + self._value(key)
        identity += self._value("cuda:0") + self._long(tensor.numel()) + b"N"  # sizes are `long` in PyTorch 0.2
        size, stride = (b"(" + b"".join(map(self._long, sizes)) + b"t" for sizes in (tensor.shape, tensor.stride()))
        return rebuild + b"((" + identity + b"tQ" + self._long(0) + size + stride + b"tR"
