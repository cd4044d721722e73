"""Where an artifact runs for a check: in process, on a GPU, under qemu-user, on a QEMU board."""

from __future__ import annotations

from ...compiler.core.errors import OptionError
from .base import Device, DeviceSpec, RunResult
from .cuda import Cuda
from .local import Local
from .qemu_system import QemuSystem
from .qemu_user import QemuUser

__all__ = [
    "Cuda",
    "Device",
    "DeviceSpec",
    "Local",
    "QemuSystem",
    "QemuUser",
    "RunResult",
    "device_for",
]


def device_for(spec: DeviceSpec, timeout_s: float = 600.0) -> Device:
    """Return the device that checks artifacts of a target; raises OptionError without one."""
    match spec.family:
        case "host":
            return Local()
        case "aarch64":
            return QemuUser(spec.machine, timeout_s)
        case "cortex_m":
            return QemuSystem(spec.machine, timeout_s)
        case "cuda":
            return Cuda(spec.cpu, spec.machine, timeout_s)
        case _:
            raise OptionError(f"no device checks target '{spec.name}' of family '{spec.family}'.")
