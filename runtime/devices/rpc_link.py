"""Sessions on devices by TVM's RPC: straight to a server, or to one that a tracker lends."""

from __future__ import annotations

import hashlib
import json
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ...compiler.core.background import Background
from ...compiler.core.errors import DeviceError, OptionError
from .base import Array

T = TypeVar("T")

# What runtime/c/port/edgec_rpc.c exports.
_FUNCTION = "edgec_check"
# How much longer than the device, which keeps the time itself, its answer is waited for.
_GRACE_S = 5.0
# glibc says so of a file that is there but not for its processor.
_OTHER_PROCESSOR = ("cannot open shared object file", "wrong ELF class", "Exec format error")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server or tracker listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class RpcLink:
    """A session on one TVM RPC server, which is this session's alone until `close`."""

    def __init__(self, session: Any, where: str) -> None:
        self.where = where
        self._session: Any = session
        self._uploaded: set[str] = set()
        self._functions: dict[str, Any] = {}

    def close(self) -> None:
        """End the session: what refers to it goes, and the server takes the next client."""
        self._functions.clear()
        self._session = None

    def within(self, timeout_s: float, work: Callable[[], T]) -> T:
        """Return what work on this session returns.

        Raises DeviceError when the connection breaks or says nothing for too long; the session
        is of no use then.
        """
        try:
            return Background(work).result(timeout_s + _GRACE_S)
        except TimeoutError:
            raise DeviceError(
                f"{self.where} said nothing for {timeout_s + _GRACE_S:g} s; the connection or the "
                "device is gone, or --timeout is too short to send the model."
            ) from None
        except RuntimeError as error:  # every error of TVM is one
            if type(error).__name__ == "RPCError":  # what the server itself raised
                raise DeviceError(f"{self.where} refused: {last_line(error)}.") from None
            raise DeviceError(
                f"the connection to {self.where} was lost: {last_line(error)}; is the device still "
                "on, and its RPC server running?"
            ) from None

    def upload(self, path: Path) -> str:
        """Send a file unless this session has it already; return its path on the device."""
        content = path.read_bytes()
        # Never the same name for other content: the device may have the older file mapped.
        name = f"{hashlib.sha256(content).hexdigest()[:16]}-{path.name}"
        if name not in self._uploaded:
            self._session.upload(bytearray(content), name)
            self._uploaded.add(name)
        return str(self._session.get_function("tvm.rpc.server.workpath")(name))

    def load(self, path: str, target: str) -> None:
        """Load an uploaded firmware/rpc.so; DeviceError when it is for another machine.

        path: as `upload` returned it.
        """
        from tvm.error import RPCError

        if path not in self._functions:
            try:
                module = self._session.load_module(Path(path).name)
            except RPCError as error:
                raise DeviceError(self._foreign(target, last_line(error))) from None
            self._functions[path] = module.get_function(_FUNCTION)

    def _foreign(self, target: str, reason: str) -> str:
        machine = self._machine()
        what = f"{self.where} is {machine} and" if machine else self.where
        if any(text in reason for text in _OTHER_PROCESSOR):
            return (
                f"{what} cannot load code for target '{target}', which is for another processor; "
                "compile the model for that machine."
            )
        return f"{what} cannot load code for target '{target}': {reason}."

    def _machine(self) -> str | None:
        """Return what the server was built for, where it can say so."""
        try:
            return str(self._session.get_function("target.llvm_get_system_triple")())
        except (AttributeError, RuntimeError):
            return None

    def call(
        self, path: str, arrays: Sequence[Array], numbers: Sequence[int]
    ) -> tuple[int, list[Array]]:
        """Call the loaded library with copies of arrays on the device, and with numbers.

        Returns its status and the arrays as it left them.
        """
        import tvm

        device = self._session.cpu(0)
        held = [tvm.runtime.tensor(np.ascontiguousarray(a), device) for a in arrays]
        status = int(self._functions[path](*held, *numbers))
        return status, [tensor.numpy() for tensor in held]


def last_line(error: BaseException) -> str:
    """Return the last line of a message without its full stop: TVM puts a stack before it."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip().rstrip(".") if lines else type(error).__name__


def connect(at: Address, key: str, where: str, timeout_s: float) -> RpcLink:
    """Return a session on a server, waiting while it serves others; OptionError without one."""
    from tvm import rpc

    try:
        session = Background(lambda: rpc.connect(at.host, at.port, key)).result(timeout_s)
    except TimeoutError:
        raise DeviceError(
            f"{where} took the connection but did not serve it within {timeout_s:g} s; it is busy "
            "with another client, or no TVM RPC server."
        ) from None
    except RuntimeError as error:
        raise OptionError(_unreachable(where, key, str(error))) from None
    return RpcLink(session, where)


def _unreachable(where: str, key: str, reason: str) -> str:
    if "matches key" in reason:
        named = f"'{key}'" if key else "none"
        return f"{where} has another key than {named}; write the key its server was started with."
    if "cannot obtain address" in reason:
        return f"{where} has no address; is the name of the host right?"
    if "Connect to " in reason:
        return (
            f"nobody listens at {where}; start a server there: python -m tvm.exec.rpc_server "
            "(docs/rpc.md)."
        )
    # It answered something else, or hung up while being sent to or read from.
    return f"{where} is no TVM RPC server; is the port right?"


class Tracker:
    """A connection to a TVM RPC tracker; use as a context manager."""

    def __init__(self, at: Address, timeout_s: float) -> None:
        self._at = at
        self._deadline = time.monotonic() + timeout_s
        try:
            self._line = socket.create_connection((at.host, at.port), timeout_s)
        except OSError as error:
            raise OptionError(
                f"no RPC tracker listens at {at} ({error.strerror or error}); start one there: "
                "python -m tvm.exec.rpc_tracker (docs/rpc.md)."
            ) from None

    def __enter__(self) -> Tracker:
        try:
            self._greet()
        except BaseException:
            self._line.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._line.close()

    def _greet(self) -> None:
        from tvm.rpc import base

        magic = base.RPC_TRACKER_MAGIC.to_bytes(4, "little")
        try:
            self._line.sendall(magic)
            same = base.recvall(self._line, 4) == magic
        except OSError:
            same = False
        if not same:
            raise OptionError(f"what listens at {self._at} is no RPC tracker; is the port right?")

    def keys(self) -> Mapping[str, int]:
        """Return how many servers there are of every key."""
        from tvm.rpc.base import TrackerCode

        late = f"the RPC tracker at {self._at} did not answer in time; is it overloaded?"
        _, summary = self._ask([TrackerCode.SUMMARY], late)
        found: dict[str, int] = {}
        for server in summary["server_info"]:
            key = str(server["key"]).removeprefix("server:")
            found[key] = found.get(key, 0) + 1
        return found

    def request(self, key: str) -> tuple[Address, str]:
        """Return a free server of a key and the word that opens it.

        Raises OptionError when there is no such key, DeviceError when all of them stay busy.
        """
        from tvm.rpc.base import TrackerCode

        keys = self.keys()
        if key not in keys:
            has = ", ".join(f"{k} ({n})" for k, n in sorted(keys.items())) or "none"
            raise OptionError(
                f"the RPC tracker at {self._at} has no server with key '{key}'; its keys are: "
                f"{has}."
            )
        late = (
            f"no server with key '{key}' of the RPC tracker at {self._at} became free in time (it "
            f"has {keys[key]}); wait for the others or give a longer --timeout."
        )
        _, (host, port, word) = self._ask([TrackerCode.REQUEST, key, "", 1], late)
        return Address(host, int(port)), str(word)

    def _ask(self, request: Sequence[Any], late: str) -> Any:
        from tvm.rpc import base

        self._line.settimeout(max(self._deadline - time.monotonic(), 0.01))
        try:
            base.sendjson(self._line, request)
            return base.recvjson(self._line)
        except TimeoutError:
            raise DeviceError(late) from None
        except (OSError, json.JSONDecodeError) as error:
            raise DeviceError(
                f"the connection to the RPC tracker at {self._at} was lost: {error}; is it running?"
            ) from None
