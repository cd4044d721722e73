"""Arm microcontrollers, checked on QEMU's boards."""

from __future__ import annotations

from ..compiler.core.tools import ARM_GCC, GCC, NEWLIB, QEMU_SYSTEM
from .backend import Backend
from .spec import TargetSpec
from .toolchain import Toolchain


def _spec(core: str, isa: str, fpu: tuple[str, ...], machine: str, description: str) -> TargetSpec:
    return TargetSpec(
        name=core,
        family="cortex_m",
        cpu=core,
        isa=isa,
        cc="arm-none-eabi-gcc",
        cflags=(f"-mcpu={core}", *fpu, "-mfloat-abi=hard", "-mthumb"),
        machine=machine,
        description=description,
    )


SPECS = (
    _spec("cortex-m4", "dsp", ("-mfpu=fpv4-sp-d16",), "mps2-an386", "Cortex-M4F, DSP"),
    _spec("cortex-m7", "dsp", ("-mfpu=fpv5-d16",), "mps2-an500", "Cortex-M7, DSP, double FPU"),
    _spec("cortex-m33", "dsp", ("-mfpu=fpv5-sp-d16",), "mps2-an505", "Cortex-M33, DSP"),
    # GCC 12 turns constant MVE predicates on 16- and 32-bit lanes into all-ones: C for this core
    # must make its predicates with vctp, or be compiled by clang.
    _spec("cortex-m55", "mve", (), "mps3-an547", "Cortex-M55, Helium (MVE)"),
)

BACKEND: Backend = Toolchain(
    family="cortex_m",
    prefix="arm-none-eabi-",
    port="port_cortex_m.c",
    shared=False,
    build_tools=(ARM_GCC, NEWLIB),
    # The host's gcc builds the instruction counter.
    check_tools=(QEMU_SYSTEM, GCC),
    # clang assumes strict alignment on bare metal: four byte loads where gcc emits one ldr.
    clang_flags=("--target=arm-none-eabi", "-munaligned-access"),
    libc=NEWLIB,
    check_link=("-nostartfiles", "--specs=nano.specs"),
    scripts={s.machine: f"{s.machine}.ld" for s in SPECS},
)
