"""Verdicts kept in an artifact: OUT/verdicts/, one JSON file per device that ran it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .core.artifact import VERDICTS
from .core.errors import OptionError

# What only some checks measure stays until it is measured again: the artifact is the same.
_LASTING = ("task", "profile", "layers")


def require_writable(artifact: Path) -> None:
    """Raise OptionError if no verdict could be kept in an artifact."""
    if artifact.is_dir() and not os.access(artifact, os.W_OK):
        raise OptionError(
            f"'{artifact}' is not writable, so its verdict could not be kept; make it writable or "
            "pass --no-store."
        )


def store_verdict(artifact: Path, verdict: Mapping[str, Any]) -> Path:
    """Keep a verdict (as JSON data) in the artifact and return its file.

    The same device's older one is replaced, but for what it alone measured (the task, the profile,
    the layers). Raises OptionError when the folder cannot be written.
    """
    words = re.findall(r"[A-Za-z0-9.]+", f"{verdict['target']} {verdict['device']}")
    path = artifact / VERDICTS / f"{'-'.join(words)}.json"
    older = _read(path) if path.is_file() else {}
    kept = {key: older[key] for key in _LASTING if older.get(key) and not verdict.get(key)}
    try:
        path.parent.mkdir(exist_ok=True)
        text = json.dumps({**verdict, **kept}, indent=1)
        path.write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise OptionError(
            f"cannot keep the verdict in '{path}': {error.strerror or error}; make the folder "
            "writable or pass --no-store."
        ) from error
    return path


def stored_verdicts(artifact: Path) -> list[dict[str, Any]]:
    """Return the verdicts kept in an artifact by file name; OptionError for a damaged one."""
    return [_read(path) for path in sorted((artifact / VERDICTS).glob("*.json"))]


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or not {"target", "device", "passed"} <= found.keys():
        raise OptionError(f"'{path}' is not a verdict of edgec check; delete it and check again.")
    return found
