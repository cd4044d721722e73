"""NVIDIA Jetson: a GPU beside a 64-bit Arm processor, checked under QEMU's user mode."""

from __future__ import annotations

from ..compiler.core.tools import QEMU_USER
from .aarch64 import TOOLCHAIN
from .backend import Backend
from .cuda import Cuda, cuda_spec

SPECS = (
    cuda_spec(
        "jetson-orin",
        "sm_87",
        "NVIDIA Jetson Orin (sm_87), 64-bit Arm Linux host",
        TOOLCHAIN,
        cflags=("-march=armv8.2-a",),
        # The Cortex-A78AE of the board is not in QEMU 7.2.
        machine="cortex-a76",
    ),
)

BACKEND: Backend = Cuda(TOOLCHAIN, check_tools=(QEMU_USER,))
