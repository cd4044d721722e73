"""Where an artifact runs for a check: here, on a GPU, under QEMU, on a board by a serial line."""

from __future__ import annotations

from ...compiler.core.errors import OptionError
from .base import Device, DeviceSpec, RunResult
from .cuda import Cuda
from .local import Local
from .qemu_system import QemuSystem
from .qemu_user import QemuUser
from .serial_board import SerialBoard, serial_board

__all__ = [
    "DEVICE_HELP",
    "Cuda",
    "Device",
    "DeviceSpec",
    "Local",
    "QemuSystem",
    "QemuUser",
    "RunResult",
    "SerialBoard",
    "device_for",
]

DEVICE_HELP = "auto, local, qemu or serial:PORT[@BAUD]"


def device_for(spec: DeviceSpec, timeout_s: float = 600.0, where: str = "auto") -> Device:
    """Return the device that checks artifacts of a target.

    `where`: "auto", this machine or the emulator of the target; "local"; "qemu";
    "serial:PORT[@BAUD]". Raises OptionError when there is no such device for the target.
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
