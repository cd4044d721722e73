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
    """Return every target by name: the SPECS of each file here, with their family's BACKEND.

    Cores come first, then boards.
    """
    names = [info.name for info in pkgutil.iter_modules(__path__)]
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    backends: dict[str, Backend] = {
        m.BACKEND.family: m.BACKEND for m in modules if hasattr(m, "BACKEND")
    }
    specs: list[TargetSpec] = [spec for m in modules for spec in getattr(m, "SPECS", ())]
    found: dict[str, tuple[TargetSpec, Backend]] = {}
    for spec in sorted(specs, key=lambda s: (s.core != "", s.name)):
        if spec.name in found:
            raise ValueError(f"two targets are called '{spec.name}'")
        found[spec.name] = (spec, backends[spec.family])
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
