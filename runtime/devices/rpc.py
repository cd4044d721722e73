"""A device that runs a TVM RPC server: the artifact's library is sent there and run."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from ...compiler.core.artifact import Manifest
from ...compiler.core.elf import Elf
from ...compiler.core.errors import DeviceError, OptionError
from .base import Array, DeviceSpec, RunResult, pack_samples, stored_samples, unpack_samples
from .faults import exit_reason
from .rpc_link import Address, RpcLink, Tracker, connect

_FAMILIES = ("host", "aarch64", "cuda")
# How much one call carries: more would only need more memory there.
_CALL_BYTES = 16 << 20
_LOG_BYTES = 512
# What edgec_rpc.c returns besides the exit codes of a check program.
_TIMEOUT, _SYSTEM, _LOAD, _ARGUMENTS = 100, 101, 102, 103


@dataclass(frozen=True, slots=True, eq=False)
class RpcBoard:
    """One session on a server; implements `Device`. `close` it to let others in."""

    link: RpcLink
    timeout_s: float = 600.0

    flashed: ClassVar[bool] = False

    @property
    def description(self) -> str:
        """What people call it."""
        return self.link.where

    def close(self) -> None:
        """End the session."""
        self.link.close()

    def run(
        self,
        artifact: Path,
        manifest: Manifest,
        inputs: Mapping[str, Array],
        profile: bool = False,
        repeat: int = 1,
    ) -> RunResult:
        """Run every sample over there; see `Device.run`. Counts and profiles nothing.

        A time is the mean of as many calls as last 0.1 ms on the device's own clock.
        """
        arrays = stored_samples(manifest, inputs)
        return self.link.within(
            self.timeout_s, lambda: self._run(artifact, manifest, arrays, repeat)
        )

    def _run(
        self, artifact: Path, manifest: Manifest, arrays: list[Array], repeat: int
    ) -> RunResult:
        deadline = time.monotonic() + self.timeout_s
        end = self.link.upload(_file(artifact, "firmware/rpc.so"))
        self.link.load(end, manifest.target)
        files = [f"lib/lib{manifest.name}.so", manifest.weights_file]
        paths = ["" if f is None else self.link.upload(_file(artifact, f)) for f in files]
        samples = len(arrays[0])
        packed = np.frombuffer(pack_samples(arrays), np.uint8).reshape(samples, -1)
        answer_bytes = sum(port.size_bytes for port in manifest.outputs)
        per_call = max(1, _CALL_BYTES // (packed.shape[1] + answer_bytes + 8 * repeat))
        outputs: list[Array] = []
        times_s: list[Array] = []
        for first in range(0, samples, per_call):
            part = packed[first : first + per_call]
            answer = np.zeros((len(part), answer_bytes), np.uint8)
            times = np.zeros((len(part), repeat))
            rest = [np.zeros(_LOG_BYTES, np.uint8), *map(_text, paths)]
            left_ms = math.ceil(max(deadline - time.monotonic(), 0.0) * 1e3)
            numbers = (first, repeat, min(left_ms, 2**31 - 1))
            status, back = self.link.call(end, [part, answer, times, *rest], numbers)
            self._require_good(manifest, status, bytes(back[3]).split(b"\0")[0].decode())
            outputs.append(back[1])
            times_s.append(back[2])
        return RunResult(
            outputs=unpack_samples(np.concatenate(outputs).tobytes(), manifest.outputs, samples),
            log="",
            times_s=tuple(np.concatenate(times_s).reshape(-1).tolist()),
        )

    def _require_good(self, manifest: Manifest, status: int, log: str) -> None:
        """Raise DeviceError with what a status and the lines of the log mean."""
        if status == 0:
            return
        found = re.match(r"reason (.*)", log, re.S)
        reason = found[1].strip().rstrip(".") if found else ""
        where, name = self.description, manifest.name
        match status:
            case _ if status == _TIMEOUT:
                raise DeviceError(
                    f"{where} gave no answer within {self.timeout_s:g} s; check fewer samples, or "
                    "the model hangs."
                )
            case _ if status == _LOAD:
                raise DeviceError(f"{where} cannot load '{name}' ({manifest.target}): {reason}.")
            case _ if status == _SYSTEM:
                raise DeviceError(f"{where} could not run '{name}': {reason}.")
            case _ if status == _ARGUMENTS:
                raise DeviceError(
                    f"'{name}' was compiled by another edgec than this; compile the model again."
                )
            case _ if reason:
                raise DeviceError(f"model '{name}' ({manifest.target}) on {where}: {reason}.")
            case _:
                raise DeviceError(
                    f"the check of '{name}' failed on {where}: "
                    f"{exit_reason(status, log, Elf((), ()))}; this is a fault of the compiled "
                    "code, report it."
                )


def _file(artifact: Path, name: str) -> Path:
    path = artifact / name
    if not path.is_file():
        raise OptionError(f"'{artifact}' has no {name}; compile the model again.")
    return path


def _text(value: str) -> Array:
    """Return text as the bytes of a C string."""
    return np.frombuffer(value.encode() + b"\0", np.uint8)


def rpc_board(spec: DeviceSpec, text: str, timeout_s: float) -> RpcBoard:
    """Return the server that HOST:PORT[:KEY] names; OptionError when nothing answers there."""
    at, key = _address(f"rpc:{text}", text)
    _require_family(spec)
    where = f"{key} at {at}" if key else f"RPC server {at}"
    return RpcBoard(connect(at, key, where, timeout_s), timeout_s)


def tracked_board(spec: DeviceSpec, text: str, timeout_s: float) -> RpcBoard:
    """Return a free server of the tracker and key that HOST:PORT:KEY names."""
    at, key = _address(f"rpc-tracker:{text}", text)
    if not key:
        raise OptionError(
            f"'rpc-tracker:{text}' names no key; write for example rpc-tracker:10.0.0.2:9190:rpi4."
        )
    _require_family(spec)
    with Tracker(at, timeout_s) as tracker:
        server, word = tracker.request(key)
    return RpcBoard(connect(server, word, f"{key} at {server}", timeout_s), timeout_s)


def _address(whole: str, text: str) -> tuple[Address, str]:
    found = re.fullmatch(r"(\[[^\]\s]+\]|[^:\s\[\]]+):(\d{1,5})(?::(\S+))?", text)
    if found is None or not 0 < int(found[2]) < 1 << 16:
        raise OptionError(
            f"'{whole}' is no address; write for example rpc:10.0.0.7:9090 or "
            "rpc-tracker:10.0.0.2:9190:rpi4."
        )
    return Address(found[1].strip("[]"), int(found[2])), found[3] or ""


def _require_family(spec: DeviceSpec) -> None:
    if spec.family not in _FAMILIES:
        raise OptionError(
            f"target '{spec.name}' is not checked by RPC, which needs Linux on the device; a "
            "board is reached over a serial line (docs/serial.md)."
        )
