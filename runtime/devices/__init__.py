"""Where an artifact runs for a check: here, on a GPU, under QEMU, on a board by a line or RPC."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from ...compiler.core.errors import OptionError
from .base import Device, DeviceSpec, RunResult
from .cuda import Cuda
from .local import Local
from .qemu_system import QemuSystem
from .qemu_user import QemuUser
from .rpc import RpcBoard, rpc_board, tracked_board
from .serial_board import SerialBoard, serial_board

__all__ = [
    "DEVICE_HELP",
    "Cuda",
    "Device",
    "DeviceSpec",
    "Local",
    "QemuSystem",
    "QemuUser",
    "RpcBoard",
    "RunResult",
    "SerialBoard",
    "device_for",
    "is_remote",
    "open_device",
]

DEVICE_HELP = (
    "auto, local, qemu, serial:PORT[@BAUD], rpc:HOST:PORT[:KEY] or rpc-tracker:HOST:PORT:KEY"
)


def is_remote(where: str) -> bool:
    """Return whether a device is another machine, so that several do not disturb each other."""
    return where.partition(":")[0] in ("rpc", "rpc-tracker")


@contextmanager
def open_device(
    spec: DeviceSpec, timeout_s: float = 600.0, where: str = "auto"
) -> Generator[Device]:
    """Yield the device of `device_for`; a session on it ends with the block."""
    device = device_for(spec, timeout_s, where)
    try:
        yield device
    finally:
        if isinstance(device, RpcBoard):
            device.close()


def device_for(spec: DeviceSpec, timeout_s: float = 600.0, where: str = "auto") -> Device:
    """Return the device that checks artifacts of a target.

    `where`: "auto", this machine or the emulator of the target; "local"; "qemu";
    "serial:PORT[@BAUD]"; "rpc:HOST:PORT[:KEY]", a TVM RPC server; "rpc-tracker:HOST:PORT:KEY", a
    free server of a tracker. Raises OptionError when there is no such device for the target.
    """
    kind, _, rest = where.partition(":")
    match kind:
        case "auto" if not rest:
            return Local() if spec.family == "host" else _emulator(spec, timeout_s)
        case "local" if not rest:
            return Local()
        case "qemu" if not rest:
            return _emulator(spec, timeout_s)
        case "serial" if rest:
            return serial_board(spec, rest, timeout_s)
        case "rpc":
            return rpc_board(spec, rest, timeout_s)
        case "rpc-tracker":
            return tracked_board(spec, rest, timeout_s)
        case _:
            raise OptionError(f"there is no device '{where}'; write {DEVICE_HELP}.")


def _emulator(spec: DeviceSpec, timeout_s: float) -> Device:
    match spec.family:
        case "aarch64":
            return QemuUser(spec.machine, timeout_s)
        case "cortex_m":
            return QemuSystem(spec.machine, timeout_s)
        case "cuda":
            return Cuda(spec.cpu, spec.machine, timeout_s)
        case _:
            raise OptionError(f"no emulator checks target '{spec.name}' of family '{spec.family}'.")
