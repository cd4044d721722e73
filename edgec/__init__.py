"""edgec, an on-device edge deployment compiler; the code lives in the top-level folders."""

from __future__ import annotations

from typing import Any

from .compiler.version import __version__

__all__ = ["Artifact", "GateError", "__version__", "check", "compile", "load", "report"]


def __getattr__(name: str) -> Any:
    """Import the public API on first use, so that `import edgec` costs nothing."""
    if name in __all__:  # __version__ exists already and never gets here
        from .compiler import api

        return getattr(api, name)
    raise AttributeError(f"module 'edgec' has no attribute {name!r}")
