"""Load a host artifact and run it from Python; needs numpy and ctypes only."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..compiler.core.artifact import Manifest, PortInfo, load_manifest
from ..compiler.core.errors import DataError
from .devices.base import stored
from .native import NativeModel

Array = NDArray[Any]


class LoadedArtifact:
    """A compiled model, ready to run; `manifest` describes its inputs and outputs."""

    def __init__(self, folder: Path) -> None:
        self.manifest: Manifest = load_manifest(folder)
        self._model = NativeModel(folder, self.manifest)

    def run(
        self, inputs: Mapping[str, ArrayLike] | None = None, /, **named: ArrayLike
    ) -> dict[str, Array]:
        """Run one sample, one array of the model's shape per input name.

        A float array is quantised by the input's encoding and makes the outputs real values; when
        every encoded input comes as integer codes the outputs are codes too. Raises DataError
        when an input is missing, unknown, of another shape, or holds values that do not fit.
        """
        arrays = self._arrays({**(inputs or {}), **named})
        encoded = [
            array.dtype.kind
            for port, array in zip(self.manifest.inputs, arrays, strict=True)
            if port.encoding is not None
        ]
        codes = self._run(arrays)
        if encoded and "f" not in encoded:
            return codes
        return {port.name: _real(port, codes[port.name]) for port in self.manifest.outputs}

    def run_codes(self, inputs: Mapping[str, ArrayLike]) -> dict[str, Array]:
        """Run one sample and return the outputs as stored, whatever the inputs are."""
        return self._run(self._arrays(inputs))

    def _arrays(self, given: Mapping[str, ArrayLike]) -> list[Array]:
        expected = [port.name for port in self.manifest.inputs]
        if sorted(given) != sorted(expected):
            raise DataError(
                f"inputs {sorted(given)} were given, model '{self.manifest.name}' takes {expected}."
            )
        return [np.asarray(given[name]) for name in expected]

    def _run(self, arrays: list[Array]) -> dict[str, Array]:
        sample: list[Array] = []
        for port, array in zip(self.manifest.inputs, arrays, strict=True):
            if port.encoding is not None and array.dtype.kind == "f":
                array = port.encoding.quantise(array)
            sample.append(stored(port, array))
        outputs = self._model.call(sample)
        return {p.name: a for p, a in zip(self.manifest.outputs, outputs, strict=True)}


def _real(port: PortInfo, codes: Array) -> Array:
    return codes if port.encoding is None else port.encoding.dequantise(codes)


def load(folder: str | PathLike[str]) -> LoadedArtifact:
    """Load an artifact compiled for this machine; raises OptionError when it does not load."""
    return LoadedArtifact(Path(folder))
