"""Boards people have: a core, its flags, and how much memory the part leaves to a program.

Sizes are those of the vendors' data sheets. RAM in several banks counts only as far as its banks
are neighbours in the memory map, for the arena must lie in one piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from . import aarch64, cortex_m
from .spec import TargetSpec

_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30


def _board(
    name: str, core: str, flash_bytes: int | None, ram_bytes: int, description: str
) -> TargetSpec:
    known: Sequence[TargetSpec] = (*cortex_m.SPECS, *aarch64.SPECS)
    (spec,) = (s for s in known if s.name == core)
    return replace(
        spec, name=name, core=core, flash_bytes=flash_bytes, ram_bytes=ram_bytes,
        description=description,
    )  # fmt: skip


SPECS = (
    # SRAM1 112K and SRAM2 16K are neighbours.
    _board("stm32f446", "cortex-m4", 512 * _KIB, 128 * _KIB, "ST STM32F446xE (Nucleo-F446RE)"),
    # DTCM 64K, SRAM1 240K and SRAM2 16K are neighbours; the 16K of ITCM lie apart.
    _board("stm32f746", "cortex-m7", 1 * _MIB, 320 * _KIB, "ST STM32F746xG (F746G-DISCO)"),
    # Apart from the AXI SRAM: DTCM 128K, SRAM1 to 3 288K, SRAM4 64K, ITCM 64K.
    _board(
        "stm32h743", "cortex-m7", 2 * _MIB, 512 * _KIB, "ST STM32H743xI (Nucleo-H743ZI), AXI SRAM"
    ),
    # 1 MiB and 256K less whatever a SoftDevice takes.
    _board("nrf52840", "cortex-m4", 1 * _MIB, 256 * _KIB, "Nordic nRF52840 (nRF52840-DK)"),
    # Flash is a chip of its own, up to 16 MiB: the Pico 2 has 4. Ten banks of SRAM, all neighbours.
    _board("rp2350", "cortex-m33", 4 * _MIB, 520 * _KIB, "Raspberry Pi RP2350 (Pico 2), one core"),
    # Code runs from the 2 MiB of FPGA SRAM; 4 MiB of SRAM hold the data.
    _board("mps3-an547", "cortex-m55", 2 * _MIB, 4 * _MIB, "Arm MPS3 with AN547 (Corstone-300)"),
    # The least of its variants; Linux lives in the same memory, programs on the card.
    _board(
        "raspberry-pi-4", "aarch64-cortex-a72", None, 1 * _GIB, "Raspberry Pi 4 with 1 GiB or more"
    ),
    _board(
        "raspberry-pi-5", "aarch64-cortex-a76", None, 1 * _GIB, "Raspberry Pi 5 with 1 GiB or more"
    ),
)
