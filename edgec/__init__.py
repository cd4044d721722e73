"""edgec: an on-device edge deployment compiler (import root; the code lives in the top-level folders)."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["compile", "load"]


def __getattr__(name: str) -> Any:
    """Import the public API on first use, so that `import edgec` costs nothing."""
    if name in __all__:
        from .compiler import api

        return getattr(api, name)
    raise AttributeError(f"module 'edgec' has no attribute {name!r}")
