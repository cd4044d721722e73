"""Every storage decision of one compilation: immutable, JSON-able, editable by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

from .encoding import Blocks, TensorEncoding


def _frozen(items: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(items))


@dataclass(frozen=True, slots=True)
class QuantPlan:
    """Encodings keyed by ONNX value name, and values that stay float with the reason."""

    encodings: Mapping[str, TensorEncoding] = field(default_factory=lambda: _frozen({}))
    kept_float: Mapping[str, str] = field(default_factory=lambda: _frozen({}))

    def with_encodings(self, more: Mapping[str, TensorEncoding]) -> QuantPlan:
        """Return a plan that also holds `more`; the old plan is untouched."""
        return replace(self, encodings=_frozen({**self.encodings, **more}))

    def with_float(self, more: Mapping[str, str]) -> QuantPlan:
        """Return a plan that also keeps `more` (value name -> reason) in float."""
        return replace(self, kept_float=_frozen({**self.kept_float, **more}))

    def to_json(self) -> str:
        """Return the plan as JSON text with sorted keys."""
        data = {
            "encodings": {name: asdict(e) for name, e in self.encodings.items()},
            "kept_float": dict(self.kept_float),
        }
        return json.dumps(data, indent=1, sort_keys=True) + "\n"

    @staticmethod
    def from_json(text: str) -> QuantPlan:
        """Return the plan that `to_json` wrote; raises ValueError on any other text."""
        data = json.loads(text)
        encodings = {name: _encoding(item) for name, item in data["encodings"].items()}
        return QuantPlan(_frozen(encodings), _frozen(data["kept_float"]))


def _encoding(item: Mapping[str, Any]) -> TensorEncoding:
    blocks = item.get("blocks")
    return TensorEncoding(
        bits=int(item["bits"]),
        scale=tuple(map(float, item["scale"])),
        zero_point=tuple(map(int, item["zero_point"])),
        axis=item["axis"],
        signed=bool(item["signed"]),
        blocks=None if blocks is None else _blocks(blocks),
    )


def _blocks(item: Mapping[str, Any]) -> Blocks:
    return Blocks(
        axis=int(item["axis"]),
        size=int(item["size"]),
        shape=tuple(map(int, item["shape"])),
        multiplier=tuple(map(int, item["multiplier"])),
    )
