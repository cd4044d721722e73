"""A compiled model in this process: lib/libNAME.so through ctypes, with guarded buffers."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compiler.core.artifact import Manifest
from ..compiler.core.errors import DeviceError, OptionError

Array = NDArray[Any]

_GUARD_BYTES = 64
_GUARD = 0xC5
_ALIGNMENT = 64


class GuardedBuffer:
    """Zeroed bytes at an aligned address with a known pattern before and after."""

    def __init__(self, name: str, size_bytes: int) -> None:
        self.name = name
        self._block = np.full(size_bytes + 2 * _GUARD_BYTES + _ALIGNMENT, _GUARD, np.uint8)
        start = _GUARD_BYTES + -(self._block.ctypes.data + _GUARD_BYTES) % _ALIGNMENT
        self._before = self._block[:start]
        self._after = self._block[start + size_bytes :]
        self.bytes = self._block[start : start + size_bytes]
        self.bytes.fill(0)

    @property
    def address(self) -> ctypes.c_void_p:
        """Where the bytes start."""
        return ctypes.c_void_p(self.bytes.ctypes.data)

    def check(self) -> None:
        """Raise DeviceError when something was written outside the bytes."""
        if np.any(self._before != _GUARD) or np.any(self._after != _GUARD):
            raise DeviceError(
                f"the model wrote outside '{self.name}'; this is a fault of the compiled code, "
                "report it."
            )


class NativeModel:
    """The function NAME_run of a loaded library with its own buffers; calls are serialised."""

    def __init__(self, artifact: Path, manifest: Manifest) -> None:
        self.manifest = manifest
        self._lock = threading.Lock()
        self._library, self._run = _function(artifact, manifest)
        self._inputs = [GuardedBuffer(p.name, p.size_bytes) for p in manifest.inputs]
        self._outputs = [GuardedBuffer(p.name, p.size_bytes) for p in manifest.outputs]
        self._arena = GuardedBuffer("arena", manifest.memory.arena_bytes)
        self._weights = _mapped(artifact, manifest)

    def call(self, inputs: Sequence[Array], poison: int | None = None) -> list[Array]:
        """Run one sample: stored integers in order, each [*shape], to outputs in order.

        With `poison`, arena and outputs are filled with that byte before: a model that reads
        what it did not write then answers differently. Raises DeviceError on a status other
        than 0 or a write outside a buffer.
        """
        with self._lock:
            for buffer, array in zip(self._inputs, inputs, strict=True):
                buffer.bytes[:] = array.reshape(-1).view(np.uint8)
            if poison is not None:
                for buffer in (*self._outputs, self._arena):
                    buffer.bytes.fill(poison)
            status = self._run(*self._addresses)
            for buffer in self._buffers:
                buffer.check()
            if status != 0:
                raise DeviceError(self._failure(status))
            pairs = zip(self._outputs, self.manifest.outputs, strict=True)
            return [b.bytes.copy().view(p.dtype).reshape(p.shape) for b, p in pairs]

    def times(self, inputs: Sequence[Array], repeat: int) -> list[float]:
        """Return the seconds of each of `repeat` calls of the C function alone."""
        self.call(inputs)  # warms caches, and leaves the buffers filled
        times_s: list[float] = []
        with self._lock:
            addresses = self._addresses
            for _ in range(repeat):
                start = time.perf_counter()
                self._run(*addresses)
                times_s.append(time.perf_counter() - start)
        return times_s

    def _failure(self, status: int) -> str:
        """Return what the library says of a run that failed, where it says anything."""
        explain = getattr(self._library, f"{self.manifest.name}_error", None)
        if explain is None:
            return f"model '{self.manifest.name}' returned status {status}."
        explain.restype = ctypes.c_char_p
        return f"model '{self.manifest.name}' ({self.manifest.target}): {explain().decode()}."

    @property
    def _addresses(self) -> list[ctypes.c_void_p]:
        constants = [] if self._weights is None else [ctypes.c_void_p(self._weights.ctypes.data)]
        return [*(b.address for b in self._buffers), *constants]

    @property
    def _buffers(self) -> tuple[GuardedBuffer, ...]:
        return (*self._inputs, *self._outputs, self._arena)


def _mapped(artifact: Path, manifest: Manifest) -> Array | None:
    """Return the file of constants mapped into memory, where the artifact has one."""
    if manifest.weights_file is None:
        return None
    path = artifact / manifest.weights_file
    if not path.is_file() or path.stat().st_size != manifest.weights_file_bytes:
        raise OptionError(
            f"'{path}' is missing or not the file of constants that was compiled; compile the "
            "model again."
        )
    return np.memmap(path, np.uint8, "r")


def _function(artifact: Path, manifest: Manifest) -> tuple[Any, Any]:
    path = artifact.resolve() / "lib" / f"lib{manifest.name}.so"
    if not path.is_file():
        raise OptionError(
            f"'{artifact}' was built for {manifest.target} and has no library that loads here; "
            "compile the model with --target host."
        )
    try:
        library = ctypes.CDLL(str(path))
        function = getattr(library, f"{manifest.name}_run")
    except (OSError, AttributeError) as error:
        raise OptionError(
            f"'{path}' (target {manifest.target}) does not load on this machine: {error}; "
            "compile the model with --target host."
        ) from None
    function.restype = ctypes.c_int32
    return library, function
