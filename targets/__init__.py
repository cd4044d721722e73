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

__all__ = ["Backend", "TargetSpec", "find_target", "targets"]


@functools.cache
def targets() -> Mapping[str, tuple[TargetSpec, Backend]]:
    """Return every target by name: the SPECS of each file here, with its BACKEND."""
    found: dict[str, tuple[TargetSpec, Backend]] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for spec in getattr(module, "SPECS", ()):
            if spec.name in found:
                raise ValueError(f"two targets are called '{spec.name}'")
            found[spec.name] = (spec, module.BACKEND)
    return MappingProxyType(dict(sorted(found.items())))


def find_target(name: str) -> tuple[TargetSpec, Backend]:
    """Return the target called name and its backend; raises OptionError suggesting the nearest."""
    known = targets()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    guess = f"; did you mean {' or '.join(near)}?" if near else "."
    raise OptionError(f"target '{name}' is unknown{guess} Known targets: {', '.join(known)}.")
