"""Checkpoints: one file that holds a model and what it takes to build it, written whole or not at all.

A torch file with a plain dictionary: `format`, `schema_version`, `dimensions` (the arguments of `DAVS`), `settings`
(where the model comes from and what it expects, as JSON text), `weights` (name -> float32 tensor) and `digest` over all
of these. Whatever file is read, no code in it can run: `weights_only=True`, after a look at every opcode.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickletools
import re
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar, TypeGuard

import torch
from torch import Tensor, nn

from avprep import untrusted
from avprep.errors import CheckpointError
from davs_model.models.base import TalkingModel
from davs_model.models.davs.networks import DAVS

FORMAT = "avprep DAVS checkpoint"
SCHEMA_VERSION = 1
NAME = "checkpoint.pt"
"""The checkpoint of a run's folder."""
AGAIN = "copy or download it again"
GLOBALS = re.compile(
    r"collections\.OrderedDict|torch(\.cuda)?\.\w+Storage|torch\.(Size|device|serialization\._get_layout)"
    r"|torch\._utils\._rebuild_(tensor(_v[23])?|parameter|qtensor|sparse_tensor|meta_tensor_no_storage)"
    r"|torch\.(b?float\d\w*|complex\d+|q?u?int\d\w*|bool|per_\w+)"
)
"""What a pickle may name: tensors of any kind, good or odd."""
DEEPEST_TUPLE = 3
MAX_WIDTH, MAX_DIMENSION = 16, 10**7
"""Largest channel multiplier, and largest number of anything else, that a model is built for."""


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
    name: ClassVar[str] = "davs"

    @classmethod
    def of(cls, model: TalkingModel, settings: dict[str, Any]) -> Checkpoint:
        """Take the weights of a model as they are now, wherever it is, however it lies in memory and however precise.

        A model in half precision becomes float32, which has every number of it; one in double precision is rounded.
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
        return cls(dict(model.dimensions), settings, weights)

    def model(self) -> DAVS:
        """Build the model, on the CPU and in eval mode; it shares memory with the weights."""
        model = skeleton(self.dimensions)
        model.load_state_dict(self.weights, assign=True)
        return model.eval()

    def digest(self) -> str:
        """Return the sha256 of everything that the checkpoint says."""
        head = {"schema_version": SCHEMA_VERSION, "dimensions": self.dimensions, "settings": self.settings}
        return digest_of(head, self.weights)


def digest_of(head: Any, tensors: dict[str, Tensor]) -> str:
    """Return the sha256 of JSON values and named tensors, which are contiguous and on the CPU."""
    digest = hashlib.sha256(json.dumps(head, sort_keys=True, allow_nan=False).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def skeleton(dimensions: dict[str, int | float]) -> DAVS:
    """Build a model without memory for its weights, to learn their names and shapes; errors as of `DAVS`."""
    with torch.device("meta"):
        return DAVS(**dimensions)  # type: ignore[arg-type]


def save(run: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint into a run's folder, made if need be, in one step: a reader sees the old or the new one.

    CheckpointError, one line, where it cannot be written or `load` would not give back the same; the old one stays.
    """
    path = run / NAME
    if wrong := problem(checkpoint):
        raise CheckpointError(f"{path}: not written: {wrong}")
    content = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "dimensions": checkpoint.dimensions,
        "settings": json.dumps(checkpoint.settings, sort_keys=True),
        "weights": checkpoint.weights,
        "digest": checkpoint.digest(),
    }
    write_whole(path, content)
    return path


def write_whole(path: Path, content: dict[str, Any], *, keep: Path | None = None) -> None:
    """Write a torch file in one step, its folder made if need be; CheckpointError, one line, where that fails.

    keep: what was at `path` stays there under this name, so that one of the two is whole at any moment.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{path.name}.*.part"):  # by a process that was killed: a run has one writer
            left.unlink(missing_ok=True)
        with part.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        part.replace(path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        cause: BaseException = error
        while cause.__context__ and not isinstance(cause, OSError):  # torch puts its own error on top of a full disk
            cause = cause.__context__
        raise CheckpointError(f"{path}: cannot be written: {_said(cause)}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint, `path` being the file or its run's folder, and prove that nothing in it has changed.

    CheckpointError, one line, for anything that isn't a whole checkpoint of a version that this program knows.
    """
    if os.path.isdir(path):  # False, not an error, where one may not look
        run, path = path, path / NAME
        if not os.path.lexists(path):
            raise CheckpointError(
                f"{path}: not there, so there is no model in this folder yet: `avprep train OUT {run}` or "
                f"`avprep import-checkpoint FILE {run}` makes one"
            )
    content = record(read_torch_file(path)) or {}
    if not is_ours(content):
        raise CheckpointError(f"{path}: not a checkpoint of avprep (import-checkpoint reads the released one)")
    version = content.get("schema_version")
    if type(version) is int and version != SCHEMA_VERSION:
        raise CheckpointError(
            f"{path}: checkpoint schema {one_line(version)}, this program reads {SCHEMA_VERSION}: update avprep"
        )
    checkpoint = parse(content)
    if type(version) is not int or checkpoint is None:
        raise CheckpointError(f"{path}: damaged: version, dimensions, settings or weights are missing: {AGAIN}")
    if wrong := problem(checkpoint):
        raise CheckpointError(f"{path}: {wrong}")
    digest = content.get("digest")
    if not isinstance(digest, str) or digest != checkpoint.digest():
        raise CheckpointError(f"{path}: damaged: its contents do not have the digest that it gives: {AGAIN}")
    return checkpoint


def parse(content: dict[str, Any]) -> Checkpoint | None:
    """Return what a torch file says of a model, None where a part is missing; `problem` tells if it is a whole one."""
    dimensions, settings, weights = content.get("dimensions"), content.get("settings"), content.get("weights")
    with contextlib.suppress(ValueError):
        settings = untrusted.parse_json(settings) if isinstance(settings, str) else None
    dimensions, settings, weights = record(dimensions), record(settings), record(weights)
    if dimensions is None or settings is None or weights is None:
        return None
    return Checkpoint(
        dimensions, settings, {name: value.detach() if is_plain(value) else value for name, value in weights.items()}
    )


def read_torch_file(path: Path) -> Any:
    """Read a torch file from anyone: tensors and plain values only, nothing executed, memory as its size demands.

    CheckpointError, one line, for a file that is damaged, is none, or asks for more.
    """
    try:
        if not path.is_file():
            raise CheckpointError("not a file" if path.exists() else "not there")
        with path.open("rb") as file:
            _inspect(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the form of the file: whatever matters here is an error
            return torch.load(path, map_location=_Budget(path.stat().st_size), weights_only=True)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except PermissionError as error:
        raise CheckpointError(f"{path}: may not be read: change its permissions") from error
    except Exception as error:  # torch raises nearly anything on a damaged file
        raise CheckpointError(f"{path}: not a torch file of weights, or damaged ({_said(error)}): {AGAIN}") from error


def is_ours(content: dict[str, Any]) -> bool:
    """Whether the dictionary of a torch file says that it is a checkpoint of ours."""
    return isinstance(content.get("format"), str) and content["format"] == FORMAT


def is_plain(value: Any) -> TypeGuard[Tensor]:
    """Whether a value from a file is a dense tensor on the CPU that has each of its numbers in memory."""
    return (
        type(value) in (Tensor, nn.Parameter)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and not value.is_neg()
        and not value.is_conj()
        and value.untyped_storage().nbytes() >= value.numel() * value.element_size()
    )


def record(value: Any) -> dict[str, Any] | None:
    """Return a dictionary from a file as a plain one, None where it is none or has names that are no text."""
    # The methods of dict itself: a file may give its OrderedDict attributes that hide them.
    if isinstance(value, dict) and all(type(name) is str for name in dict.keys(value)):
        return dict(dict.items(value))
    return None


def one_line(text: object) -> str:
    """Return what a file or a library says as one line that a terminal can show, at most 200 characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(str(text).split())[:200])


class _Budget:
    """A `map_location` that keeps everything on the CPU and ends a file that claims more numbers than it can hold."""

    def __init__(self, size: int) -> None:
        self.left = size

    def __call__(self, storage: Any, location: str) -> Any:
        self.left -= storage.nbytes()
        if self.left < 0:
            raise CheckpointError(f"damaged: it claims more numbers than it holds: {AGAIN}")
        return storage


def _inspect(file: IO[bytes]) -> None:
    """Look through a torch file without building anything of it.

    torch lets nothing be executed, but does build what costs a small file any amount of memory or the process its life.
    """
    head = file.read(512)
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if head.startswith(b"PK\3\4"):  # as torch tells it; zipfile.is_zipfile goes by the end of the file
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if len(names) > len(set(names)) or not any(name.endswith("/data.pkl") for name in names):
                raise CheckpointError("a zip archive, not a torch file: give the file as it was downloaded")
            if (held := sum(entry.file_size for entry in archive.infolist())) > size:  # torch compresses nothing
                raise CheckpointError(f"not a torch file but an archive that unpacks to {held} bytes")
            for name in names:
                if name.endswith(".pkl"):
                    with archive.open(name) as pickle:
                        _inspect_pickle(pickle)
    elif head[257:262] == b"ustar":
        raise CheckpointError("a tar archive, not a torch file: give the file as it was downloaded")
    else:
        for _ in ("magic number", "version", "system", "content", "storages"):
            _inspect_pickle(file)


def _inspect_pickle(file: IO[bytes]) -> None:
    """Walk over one pickle, opcode by opcode, and refuse what weights have no use for.

    That is every global but those of tensors, and tuples in tuples in tuples, which as keys take ages or the stack.
    """
    stack: list[int] = []  # of each value how deep it is a tuple of tuples
    marks: list[int] = []
    memo: dict[Any, int] = {}
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL" and not GLOBALS.fullmatch(name := str(argument).replace(" ", ".")):
            raise CheckpointError(f"refused, and nothing of it run: it holds more than weights ({one_line(name)})")
        if opcode.name == "MARK":
            marks.append(len(stack))
        elif opcode.name.endswith("PUT"):
            memo[argument] = stack[-1]
        elif opcode.name.endswith("GET"):
            stack.append(memo[argument])
        else:
            needs = opcode.stack_before
            has_mark = pickletools.markobject in needs
            start = marks.pop() - needs.index(pickletools.markobject) if has_mark else len(stack) - len(needs)
            depth = 1 + max(stack[start:], default=0) if opcode.name.startswith("TUPLE") else 0
            if depth > DEEPEST_TUPLE:
                raise CheckpointError("refused, and nothing of it run: it holds more than weights (nested tuples)")
            stack[start:] = [depth] * len(opcode.stack_after)


def problem(checkpoint: Checkpoint) -> str | None:
    """Return, in one line, what keeps a checkpoint from being a whole model."""
    dimensions, weights = checkpoint.dimensions, checkpoint.weights
    if not all(type(size) in (int, float) and size >= 0 for size in dimensions.values()):
        return "no model has such dimensions: each is a number, 0 or more"
    for name, size in dimensions.items():
        if not size <= (most := MAX_WIDTH if name == "width" else MAX_DIMENSION):
            return f"no model has {one_line(name)} {one_line(size)}: it is at most {most}"
    try:
        if json.loads(json.dumps(checkpoint.settings, allow_nan=False)) != checkpoint.settings:
            return "its settings are not the same as JSON"
    except (TypeError, ValueError, RecursionError) as error:
        return f"its settings are no JSON: {_said(error)}"
    if odd := _odd_setting(checkpoint.settings):
        return f"its setting {odd}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of layers that have no weights at such dimensions
            expected = skeleton(dimensions).state_dict()
    except Exception as error:  # whatever strange dimensions lead to
        return f"no model has the dimensions {one_line(dimensions)}: {_said(error)}"
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
    """Return what is wrong with a setting that readers of checkpoints use; None where each is absent or sound."""
    words, steps = settings.get("words"), settings.get("steps")
    if words is not None and not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
        return "words is not a list of words"
    if steps is not None and not (isinstance(steps, dict) and all(type(count) is int for count in steps.values())):
        return "steps is not a number for each stage"
    if not isinstance(settings.get("mfcc_preset") or "", str):
        return "mfcc_preset is not the name of one"
    return None


def _said(error: BaseException) -> str:
    """Return what matters in the text of an error, in one line."""
    text = str(error)
    if found := re.search(r"(Unsupported|Trying to|Can only|Only persistent).*", text):  # torch wraps it in advice
        return one_line(found[0])
    return one_line(f"{type(error).__name__}: {text.strip().partition(chr(10))[0]}".rstrip(": "))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
