"""One pass per file: a file without a leading underscore holds one Transform or Decision."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from ..compiler.core.passbase import Decision, Transform


def discover() -> Iterator[Transform | Decision]:
    """Yield every pass in this folder with its default options, in file-name order."""
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
        if not info.name.startswith("_"):
            module = importlib.import_module(f".{info.name}", __name__)
            (cls,) = (
                c
                for c in vars(module).values()
                if isinstance(c, type) and c.__module__ == module.__name__ and hasattr(c, "name")
            )
            yield cls()
