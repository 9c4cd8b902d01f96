"""The models. Each is a module or package of this folder, which defines its networks, inputs and objective.

Such a module has a `Model`, a subclass of `davs_model.models.base.TalkingModel`, and its `Settings`. A new model is a
new file here; no other file names it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from davs_model.models.base import TalkingModel
    from davs_model.settings import RunSettings


def names() -> list[str]:
    """Return the names of all models, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def find(name: str) -> type[TalkingModel]:
    """Return the class of a model; ValueError for an unknown name."""
    found: type[TalkingModel] = _module(name).Model
    return found


def settings(name: str) -> type[RunSettings]:
    """Return the settings class of a model, without importing torch; ValueError for an unknown name."""
    found: type[RunSettings] = _module(name).Settings
    return found


def build(name: str, dimensions: Mapping[str, int | float]) -> TalkingModel:
    """Build a randomly initialised model; ValueError for an unknown name, TypeError for unknown dimensions."""
    return find(name)(**dimensions)


def _module(name: str) -> ModuleType:
    if name not in (known := names()):  # the name may come from a file, which must not import any other module
        raise ValueError(f"no model {name}: there is {', '.join(known)}")
    return importlib.import_module(f"{__name__}.{name}")
