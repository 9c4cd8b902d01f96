"""The checkpoint of the released code, `101_DAVS_checkpoint.pth.tar`: the mapping of its tensors to our networks.

Despite its name, the file is a torch file: a dictionary with one state dict per network, whose names all have the
prefix of DataParallel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avprep.errors import CheckpointError
from davs_model import models, torch_file
from davs_model.checkpoint import Checkpoint, is_ours, is_plain, one_line, skeleton
from davs_model.models.davs.networks.decoder import BLOCKS
from davs_model.models.davs.networks.speech import DEPTH

NETWORKS = {
    "ID_encoder": "identity_encoder",
    "lip_feature_encoder": "visual_speech_encoder",
    "mfcc_encoder": "audio_speech_encoder",
    "Decoder": "decoder",
    "netD_mul": "sequence_discriminator",
    "model_fusion": "word_classifier",
    "discriminator_audio": "domain_discriminator",
    "ID_lip_discriminator": "identity_word_classifier",
}
"""Key of the released checkpoint -> attribute of `DAVS`."""
MODEL = "davs"
PREFIX = "module."
"""The prefix that DataParallel adds to every name."""
MFCC_PRESET = "davs"
"""MFCC preset on which the released weights were trained."""
N_WORDS = 500
"""Number of words of LRW, the default if the file does not determine it."""
COUNTER = "num_batches_tracked"
"""The buffer of BatchNorm that newer versions of PyTorch have."""


@dataclass
class FileContent:
    """Loaded, missing and additional tensors of a released file; they are named `network.name`, without the prefix."""

    loaded: dict[str, int] = field(default_factory=dict)
    """Released network -> number of parameters loaded from the file."""
    missing: list[str] = field(default_factory=list)
    """Networks and tensors that the file lacks."""
    odd: list[str] = field(default_factory=list)
    """Tensors that cannot be loaded, each with the reason."""
    aside: list[str] = field(default_factory=list)
    """Contents that belong to no network, and are not loaded."""

    @property
    def whole(self) -> bool:
        """Whether every tensor was found and loaded."""
        return not self.missing and not self.odd


def read(path: Path, *, seed: int | None = None) -> tuple[Checkpoint, FileContent]:
    """Read a checkpoint of the released code, for any number of words.

    seed: of the initial values that replace missing or odd tensors. Without a seed the weights lack these, and `save`
    refuses them unless the findings are whole.
    CheckpointError, one line, if the file cannot be read or holds none of the networks.
    """
    if is_ours(path):
        raise CheckpointError(f"{path}: a checkpoint of avprep already, not a released one: nothing to import")
    content = torch_file.record(torch_file.read(path)) or {}
    networks = {network: _without_prefix(content.get(network)) for network in NETWORKS}
    if not any(networks.values()):
        raise CheckpointError(f"{path}: not a DAVS checkpoint: it holds none of {', '.join(NETWORKS)}")
    findings = FileContent(aside=[one_line(name) for name in content if name not in NETWORKS])
    model = skeleton(MODEL, {"n_words": _n_words(networks)})
    weights = model.state_dict()
    for network, tensors in networks.items():
        if tensors:
            _take(network, tensors, weights, findings)
        else:
            findings.missing.append(network)
    fresh = _initial(model.dimensions, seed) if seed is not None and not findings.whole else {}
    for name in [name for name, tensor in weights.items() if tensor.is_meta]:
        if name in fresh:
            weights[name] = fresh[name]
        elif name.endswith(COUNTER):
            weights[name] = torch.tensor(0)  # PyTorch 0.2 had no counters
        else:
            del weights[name]
    with path.open("rb") as file:
        source = {"form": "released", "file": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    settings = {"source": source, "mfcc_preset": MFCC_PRESET, "not_imported": findings.missing + findings.odd}
    return Checkpoint(MODEL, model.dimensions, settings, weights), findings


def _initial(dimensions: dict[str, int | float], seed: int) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return models.build(MODEL, dimensions).state_dict()


def _without_prefix(tensors: Any) -> dict[str, Any]:
    return {name.removeprefix(PREFIX): tensor for name, tensor in (torch_file.record(tensors) or {}).items()}


def _n_words(networks: dict[str, dict[str, Any]]) -> int:
    for network, features in (("model_fusion", 512), ("ID_lip_discriminator", 20 * 128)):
        tensor = networks[network].get("fc_2.weight")
        # The whole shape is checked: a file that claims 10¹² words without values would get a model of that size.
        if is_plain(tensor) and tensor.dim() == 2 and len(tensor) and tensor.shape[1] == features:
            return len(tensor)
    return N_WORDS


def _take(network: str, tensors: dict[str, Any], weights: dict[str, Tensor], findings: FileContent) -> None:
    """Move the tensors of one released network to their places in `weights`."""
    taken = set()
    loaded = 0
    for ours, released in layers(network).items():
        stem = f"{NETWORKS[network]}.{ours}."
        for name in [name for name in weights if name.startswith(stem) and not name.endswith(COUNTER)]:
            sources = [f"{layer}.{name.removeprefix(stem)}" for layer in released]
            shape = (len(weights[name]) // len(sources), *weights[name].shape[1:])
            problems = {source: _problem(tensors, source, shape) for source in sources}
            findings.missing += [f"{network}.{source}" for source in sources if problems[source] == "missing"]
            findings.odd += [f"{network}.{s}: {p}" for s, p in problems.items() if p not in (None, "missing")]
            taken |= set(sources)
            if not any(problems.values()):
                weights[name] = torch.cat([tensors[source].detach().float() for source in sources])
                loaded += 0 if "running_" in name else weights[name].numel()
    findings.loaded[network] = loaded
    left = (name for name in tensors if name not in taken and not name.endswith(COUNTER))
    findings.aside += [f"{network}.{one_line(name)}" for name in left]


def _problem(tensors: dict[str, Any], name: str, shape: tuple[int, ...]) -> str | None:
    """Return why a tensor cannot be loaded, `missing` if it is not in the file."""
    if name not in tensors:
        return "missing"
    tensor = tensors[name]
    if not is_plain(tensor):
        return f"not a dense tensor with all its numbers but {_kind(tensor)}"
    if tuple(tensor.shape) != shape:
        return f"shape {list(tensor.shape)}, expected {list(shape)}"
    if not tensor.is_floating_point():
        return f"dtype {tensor.dtype}, expected floating point"
    if not all(end.isfinite() for end in tensor.float().aminmax()):  # NaN is both ends; faster than to ask each number
        return "holds NaN or infinity"
    return None


def _kind(value: Any) -> str:
    """Name the kind of a value that is in the place of a tensor."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    if value.is_quantized or value.layout != torch.strided or value.device.type != "cpu":
        return f"{'quantized ' * value.is_quantized}{value.layout} on {value.device}"
    return "the same ones repeated"


def layers(network: str) -> dict[str, tuple[str, ...]]:
    """Return, for a released network, our layer -> the released layers that are stacked along axis 0 for it."""
    return dict(_LAYERS[network]())


def _identity() -> Iterator[tuple[str, tuple[str, ...]]]:
    names = {"stem": "block1.conv01"}
    for digit, (stage, count) in enumerate((("quarter", 4), ("eighth", 6), ("sixteenth", 4), ("thirty_second", 2)), 1):
        names |= {f"{stage}.{i}": f"block{digit}{i + 1}.conv{digit}{i + 1}" for i in range(count)}
    for ours, released in names.items():
        yield f"{ours}.conv", (f"{released}_a", f"{released}_b")
        yield f"{ours}.bn", (f"{released}_a_bn", f"{released}_b_bn")


def _block(ours: str, released: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    for number in (1, 2, 3):
        yield f"{ours}.conv{number}.0", (f"{released}.bn{number}",)
        yield f"{ours}.conv{number}.2", (f"{released}.conv{number}",)


def _shortcut(ours: str, released: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield f"{ours}.shortcut.0", (f"{released}.downsample.0",)
    yield f"{ours}.shortcut.2", (f"{released}.downsample.2",)


def _visual_speech() -> Iterator[tuple[str, tuple[str, ...]]]:
    for ours, released in {"0": "conv2", "2": "conv3", "3": "conv4"}.items():
        yield from _block(f"blocks.{ours}", f"model.{released}")
        if released != "conv3":
            yield from _shortcut(f"blocks.{ours}", f"model.{released}")
    path = "hourglass"
    for level in range(DEPTH, 0, -1):
        yield from _block(f"{path}.upper", f"model.m0.b1_{level}")
        yield from _block(f"{path}.before", f"model.m0.b2_{level}")
        yield from _block(f"{path}.after", f"model.m0.b3_{level}")
        path += ".inner"
    yield from _block(path, "model.m0.b2_plus_1")
    yield from _block("landmarks.0", "model.top_m_0")
    for ours, released in {
        "stem.0": "model.conv1",
        "stem.1": "model.bn1",
        "landmarks.1": "model.conv_last0",
        "landmarks.2": "model.bn_end0",
        "landmarks.4": "model.l0",
        "to_map.0": "bn1",
        "to_map.2": "conv6",
        "fc": "fc",
        "unused.conv5": "model.conv5",
        "unused.conv6": "model.conv6",
        "unused.fc": "model.fc",
    }.items():
        yield ours, (released,)


def _audio_speech() -> Iterator[tuple[str, tuple[str, ...]]]:
    for number in range(3):
        yield f"square.{number}.0", (f"model1.conv{number + 1}",)
        yield f"square.{number}.1", (f"model1.bn{number + 1}",)
    for number, ours in enumerate(("temporal.0", "temporal.2"), 1):
        yield f"{ours}.0", (f"model2.conv{number}",)
        yield f"{ours}.1", (f"model2.bn{number}",)
    yield "square.3", ("model1.conv4",)
    yield "temporal.4", ("model2.conv3",)
    yield "unused.bn", ("model1.bn5",)
    yield "fc", ("fc",)


def _decoder() -> Iterator[tuple[str, tuple[str, ...]]]:
    yield "first.0", ("deconv1_1_new",)
    yield "first.1", ("deconv1_1_bn",)
    for number, (count, _) in enumerate(BLOCKS):
        for i in range(count):
            released = f"convblock{number + 1}.conv{number + 1}_{i}"
            yield f"blocks.{number}.{i}.0", (released,)
            yield f"blocks.{number}.{i}.1", (f"{released}_bn",)
    yield "last.0", ("conv7_1",)
    yield "last.1", ("conv7_1_bn",)
    yield "last.3", ("conv7_2",)


def _sequence() -> Iterator[tuple[str, tuple[str, ...]]]:
    for number in range(4):
        yield f"sound.{number}.0", (f"mfcc_conv{number + 1}",)
        yield f"sound.{number}.1", (f"mfcc_bn{number + 1}",)
    for ours, released in {
        "trunk.0": "conv1",
        "trunk.2.0": "conv2_1",
        "trunk.2.1": "norm_1",
        "trunk.3.0": "conv2_2",
        "trunk.3.1": "norm_2",
        "trunk.4.0": "conv3",
        "trunk.4.1": "norm3",
        "patch": "conv4",
        "mouth.0.0": "conv6",
        "mouth.0.1": "bn6",
        "mouth.1": "conv9",
        "in_step.0": "fc",
        "in_step.1": "fc2",
        "unused.bn7": "bn7",
        "unused.conv8": "conv8",
        "unused.bn8": "bn8",
        "unused.bn9": "bn9",
    }.items():
        yield ours, (released,)


def _words() -> Iterator[tuple[str, tuple[str, ...]]]:
    yield from {"fc1": ("fc_1",), "fc2": ("fc_2",), "unused.real": ("dis",)}.items()


def _domain() -> Iterator[tuple[str, tuple[str, ...]]]:
    yield from {"layers.0": ("fc1",), "layers.2": ("fc2",)}.items()


def _identity_words() -> Iterator[tuple[str, tuple[str, ...]]]:
    yield from {"frame.0": ("conv6",), "frame.3": ("fc",), "fc": ("fc_2",)}.items()


_LAYERS = {
    "ID_encoder": _identity,
    "lip_feature_encoder": _visual_speech,
    "mfcc_encoder": _audio_speech,
    "Decoder": _decoder,
    "netD_mul": _sequence,
    "model_fusion": _words,
    "discriminator_audio": _domain,
    "ID_lip_discriminator": _identity_words,
}
