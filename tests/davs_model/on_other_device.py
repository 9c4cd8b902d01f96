"""Train, resume, evaluate and generate on a device that is not the CPU, for machines without a GPU. MODEL FOLDER

Run as a program of its own, because it replaces parts of torch. The device is called `meta`, of which torch asks for no
driver; its tensors compute on the CPU, but mixing them with the CPU's ends the program, as it does on a GPU.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils import _python_dispatch, _pytree

DEVICE = torch.device("meta")
plain_tensor = torch.tensor


class OtherTensor(torch.Tensor):
    """A tensor of the device; `inner` has its values, on the CPU."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor, requires_grad: bool = False) -> OtherTensor:
        """Make a tensor of the layout of `inner`."""
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), **layout, device=DEVICE, requires_grad=requires_grad
        )

    def __init__(self, inner: torch.Tensor, requires_grad: bool = False) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})

    def __getitem__(self, at: Any) -> torch.Tensor:
        """Index with lists and arrays, too, of which torch would make tensors of the real `meta`."""
        parts = at if isinstance(at, tuple) else (at,)
        return super().__getitem__(tuple(torch.as_tensor(x) if isinstance(x, list | np.ndarray) else x for x in parts))

    def new_tensor(self, data: Any, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Make a tensor of the device."""
        return OtherTensor(plain_tensor(data, dtype=dtype or self.dtype))

    def tolist(self) -> Any:
        """Return the values, which is allowed on every device."""
        return self.inner.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        """Raise TypeError, as on a GPU."""
        raise TypeError("a tensor of the device has no numpy array: copy it to the CPU first")

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("a tensor of the device is saved: copy it to the CPU first")

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        copied: torch.Tensor = OtherTensor(self.inner.clone())
        if getattr(self, "_is_param", False):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        return memo.setdefault(id(self), copied)


class OtherDevice(_python_dispatch.TorchDispatchMode):
    """Within it, tensors are made on the device and copied to it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Do an operation of torch on the CPU; TypeError if it mixes tensors of the device with those of the CPU."""
    name = str(func)
    tensors = [x for x in _pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    ours = [x for x in tensors if isinstance(x, OtherTensor)]
    if ours and "copy" not in name:
        indexes = "index" in name  # indices may be on the CPU if what they index is not
        mixed = [x for x in (tensors[:1] if indexes else tensors) if not isinstance(x, OtherTensor) and x.dim()]
        if mixed:
            raise TypeError(
                f"{name} mixes tensors of the device with those of the CPU: {[list(x.shape) for x in mixed]}"
            )
    wanted = kwargs.get("device")
    here = bool(ours) if wanted is None else torch.device(wanted) == DEVICE
    if here and kwargs.get("generator") is not None:
        raise TypeError(f"{name}: a generator of the CPU for a tensor of the device")
    changes = ({"device": torch.device("cpu")} if here and wanted else {}) | {"pin_memory": False}
    plain, named = _pytree.tree_map(
        lambda x: x.inner if isinstance(x, OtherTensor) else x,
        (args, kwargs | {name: value for name, value in changes.items() if name in kwargs}),
    )
    known = {id(x.inner): x for x in ours}
    with _python_dispatch._disable_current_modes():
        found = func(*plain, **named)
    if "copy_" in name and not isinstance(args[0], OtherTensor):
        return args[0]

    def wrapped(x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        if id(x) in known:
            return known[id(x)] if here else x.clone()
        return OtherTensor(x) if here else x

    found = _pytree.tree_map(wrapped, found)
    if ours and here and wanted is None:
        return _python_dispatch.return_and_correct_aliasing(func, args, kwargs, found)
    return found


def made(make: Any) -> Any:
    """Return `torch.tensor` or `torch.as_tensor` that also makes tensors of the device."""

    def replaced(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        if device is None or torch.device(device) != DEVICE or isinstance(data, OtherTensor):
            return make(data, *args, **kwargs, **({} if device is None else {"device": device}))
        return OtherTensor(make(data, *args, **kwargs))

    return replaced


def prepare() -> None:
    """Replace what the real `meta` lacks: autocast, tensors from data, Adam's check, and views in inference mode."""
    torch.set_num_threads(1)
    torch.inference_mode = torch.no_grad  # type: ignore[assignment,misc]
    torch.autocast = lambda *args, **kwargs: contextlib.nullcontext()  # type: ignore[assignment,misc]
    torch.tensor, torch.as_tensor = made(torch.tensor), made(torch.as_tensor)
    from torch.optim import adam

    adam._device_dtype_check_for_fused = lambda *args, **kwargs: None
    move = torch.nn.Module.to

    def moved(self: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
        torch.__future__.set_swap_module_params_on_conversion(True)  # their class changes
        try:
            return move(self, *args, **kwargs)
        finally:
            torch.__future__.set_swap_module_params_on_conversion(False)

    torch.nn.Module.to = moved  # type: ignore[method-assign]


SIZES = ("model.width=0.05", "model.speech_frames=8", "data.batch_size=3", "data.cache_mib=0", "loop.log_every=1")
LOOP = (*SIZES, "loop.talking_clips=2", "loop.save_every=1")
WITHOUT = ("model.audio_width=0", "model.mouth_size=0", "weights.domain=1")
MODELS: dict[str, tuple[str, ...]] = {
    "davs": (
        *LOOP,
        "model.audio_width=0.05",
        "model.identity_frames=9",
        "steps.identity=1",
        "steps.speech=1",
        "steps.full=2",
    ),
    "amie": (*LOOP, *WITHOUT, "steps.identity=1", "steps.speech=1", "steps.coherence=1", "steps.talk=2"),
    "etgan": (
        *(*LOOP, *WITHOUT, "generation.views=2", "corruption.probability=0.9"),
        *(f"adversaries.{name}_from=0" for name in ("frame", "clip", "read")),
        *("steps.identity=1", "steps.speech=1", "steps.judge=1", "steps.expression=1", "steps.full=2"),
    ),
    "sync": (
        *("model.width=0.25", "model.mouth_size=32", "contrast.frames=24", "data.batch_size=8", "data.workers=0"),
        *("steps.contrast=2", "steps.refine=0", "optimizer.warmup=1", "loop.save_every=1"),
    ),
}
"""The settings of each model: all stages, of a step or two."""


def train(name: str, out: Path, run: Path) -> None:
    """Train all stages; and resume the last one, in `killed` beside the run, after its first step."""
    import interrupted

    from davs_model import models
    from davs_model.training import loop

    loop.device_of = lambda settings: DEVICE
    kind = models.find(name)
    settings = kind.Settings.resolve("small", None, MODELS[name])
    last = [stage for stage in kind.stages if getattr(settings.steps, stage)][-1]
    killed = run.parent / "killed"
    with interrupted.kept({(last, 1): killed}):
        loop.train([out], run, settings, stages=tuple(kind.stages), say=lambda line: None)
    loop.train([out], killed, settings, stages=tuple(kind.stages), say=lambda line: None)
    files = [folder / "checkpoint.safetensors" for folder in (run, killed)]
    assert files[0].read_bytes() == files[1].read_bytes()


def generate(run: Path) -> None:
    """Generate frames in every way: of one and of two people, tuned to a photo and to a video, with an expression."""
    from davs_model.generation import Talker

    rng = np.random.default_rng(0)
    video = rng.integers(0, 255, (12, 256, 256, 3), dtype=np.uint8)
    windows = rng.normal(size=(12, 12, 20)).astype(np.float32)
    talker = Talker.load(run, device=DEVICE)
    look = talker.expression(video[:8]) if talker.model.expression_length else None
    for tuned in (talker, talker.adapted(video[0], [windows], 1), talker.adapted(video[0], [windows], 1, video=video)):
        for faces, speech in ((video[0], windows), (video[:2], video if "video" in talker.model.drivers else windows)):
            frames = np.stack(list(tuned.talk(faces, [speech[:7], speech[7:]], expression=look)))
            assert frames.shape == (12, *faces.shape), frames.shape


def main(name: str, folder: Path) -> None:
    """Make shards, train a model on them, and use it."""
    prepare()
    from talking_shards import make_talking_shards
    from tiny_shards import make_shards

    from davs_model.evaluation.evaluate import EvaluationSettings, evaluate

    out, run = folder / "out", folder / "run"
    if name == "sync":
        make_talking_shards(out, {"train": 16, "val": 2})
    else:
        make_shards(out, clips=18, people=3, emotions=("happy", "neutral", "sad") if name == "etgan" else ())
    with OtherDevice():
        train(name, out, run)
        if name == "sync":
            return
        generate(run)
        settings = EvaluationSettings("val", batch_size=3, workers=0, talking_clips=2, device="meta", identity=str(run))
        evaluate(run, out, folder / "results", settings, say=lambda line: None)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
