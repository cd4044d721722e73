"""The devices edgec builds for: one file per family, found by discovery."""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType

from ..compiler.core.errors import OptionError
from .backend import Backend
from .spec import TargetSpec

__all__ = ["Backend", "TargetSpec", "cores", "find_target", "targets"]


@functools.cache
def targets() -> Mapping[str, tuple[TargetSpec, Backend]]:
    """Return every target by name: the SPECS of each file here, with its BACKEND.

    A file without one takes its family's, that of the first file. Cores come first, then boards.
    """
    names = [info.name for info in pkgutil.iter_modules(__path__)]
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    backends: dict[str, Backend] = {}
    for module in modules:
        if hasattr(module, "BACKEND"):
            backends.setdefault(module.BACKEND.family, module.BACKEND)
    pairs: list[tuple[TargetSpec, Backend]] = [
        (spec, getattr(module, "BACKEND", None) or backends[spec.family])
        for module in modules
        for spec in getattr(module, "SPECS", ())
    ]
    found: dict[str, tuple[TargetSpec, Backend]] = {}
    for spec, backend in sorted(pairs, key=lambda pair: (pair[0].core != "", pair[0].name)):
        if spec.name in found:
            raise ValueError(f"two targets are called '{spec.name}'")
        found[spec.name] = (spec, backend)
    return MappingProxyType(found)


def cores() -> Mapping[str, tuple[TargetSpec, Backend]]:
    """Return the targets that are no boards."""
    return {name: pair for name, pair in targets().items() if not pair[0].core}


def find_target(name: str) -> tuple[TargetSpec, Backend]:
    """Return the target called name and its backend; raises OptionError suggesting the nearest."""
    known = targets()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    guess = f"; did you mean {' or '.join(near)}?" if near else "."
    raise OptionError(f"target '{name}' is unknown{guess} Known targets: {', '.join(known)}.")
