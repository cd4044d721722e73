"""One kernel per file: a file without a leading underscore holds one Kernel."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from ..program import Kernel


def discover() -> Iterator[type[Kernel]]:
    """Yield every kernel class of this folder, in file-name order."""
    for info in pkgutil.iter_modules(__path__):
        if not info.name.startswith("_"):
            module = importlib.import_module(f".{info.name}", __name__)
            (cls,) = (
                c
                for c in vars(module).values()
                if isinstance(c, type) and getattr(c, "name", None) == info.name
            )
            yield cls
