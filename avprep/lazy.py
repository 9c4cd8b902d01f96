"""Packages whose names are loaded on first use (PEP 562)."""

from __future__ import annotations

import sys
from importlib import import_module

TYPE_CHECKING = False  # as typing.TYPE_CHECKING; importing typing takes ten times as long as all else here
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any


def on_first_use(
    package: str, modules: Mapping[str, Sequence[str]], extra: str | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package.

    modules: the package's modules by name, with the names in each that the package exports.
    extra: the extra of avprep that installs their dependencies, if the base install does not.
    """
    places = {name: module for module, names in modules.items() for name in names}

    def load(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            return getattr(import_module(f"{package}.{places[name]}"), name)
        except ModuleNotFoundError as error:
            missing = (error.name or package).partition(".")[0]
            if extra is None or missing in (package, "avprep"):
                raise
            from avprep.errors import missing_package

            raise ModuleNotFoundError(missing_package(package, missing, extra), name=missing) from error

    return load, lambda: sorted({*vars(sys.modules[package]), *places})
