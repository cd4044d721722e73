"""64-bit Arm Linux boards, checked under QEMU's user mode."""

from __future__ import annotations

from ..compiler.core.tools import AARCH64_GCC, AARCH64_LIBC, GCC, QEMU_USER
from .backend import Backend
from .spec import TargetSpec
from .toolchain import Toolchain


def _spec(cpu: str, flag: str, machine: str, description: str, isa: str = "neon") -> TargetSpec:
    return TargetSpec(
        name=f"aarch64-{cpu}" if cpu != "generic" else "aarch64",
        family="aarch64",
        cpu=cpu,
        isa=isa,
        cc="aarch64-linux-gnu-gcc",
        cflags=(flag,),
        machine=machine,
        description=description,
        optimisation="-O3",
    )


SPECS = (
    _spec("generic", "-march=armv8-a", "cortex-a53", "any 64-bit Arm Linux (Armv8.0)"),
    _spec("cortex-a53", "-mcpu=cortex-a53", "cortex-a53", "Cortex-A53 (Raspberry Pi 3, Zero 2)"),
    _spec("cortex-a72", "-mcpu=cortex-a72", "cortex-a72", "Cortex-A72 (Raspberry Pi 4)"),
    _spec(
        "cortex-a76", "-mcpu=cortex-a76", "cortex-a76", "Cortex-A76 (Raspberry Pi 5), sdot", "dot"
    ),
    _spec("neoverse-n1", "-mcpu=neoverse-n1", "neoverse-n1", "Neoverse N1 servers, sdot", "dot"),
)

TOOLCHAIN = Toolchain(
    family="aarch64",
    prefix="aarch64-linux-gnu-",
    port="port_linux.c",
    shared=True,
    build_tools=(AARCH64_GCC, AARCH64_LIBC),
    # The host's gcc builds the instruction counter.
    check_tools=(QEMU_USER, GCC),
    clang_flags=("--target=aarch64-linux-gnu",),
    # Static: needs no aarch64 libraries here. Not PIE: the counter watches fixed addresses.
    libc=AARCH64_LIBC,
    check_link=("-static", "-no-pie"),
)

BACKEND: Backend = TOOLCHAIN
