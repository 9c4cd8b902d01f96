"""Models, each a module or package of this folder: what it is, reads and minimises.

Such a module has a `Model`, a subclass of `davs_model.models.base.TalkingModel`, and its `Settings`. A new model is a
new file here; nothing else names it.
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
    """Return the names of the models that there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def find(name: str) -> type[TalkingModel]:
    """Return the class of a model; ValueError for a name that no model has."""
    found: type[TalkingModel] = _module(name).Model
    return found


def settings(name: str) -> type[RunSettings]:
    """Return the settings of a model, without torch; ValueError for a name that no model has."""
    found: type[RunSettings] = _module(name).Settings
    return found


def build(name: str, dimensions: Mapping[str, int | float]) -> TalkingModel:
    """Build a model, its weights drawn at random; ValueError for a name that no model has, TypeError as its class."""
    return find(name)(**dimensions)


def _module(name: str) -> ModuleType:
    if name not in (known := names()):  # the name may come from a file: nothing else is imported by it
        raise ValueError(f"no model {name}: there is {', '.join(known)}")
    return importlib.import_module(f"{__name__}.{name}")
