"""What the compiler must know about a device, as data."""

from __future__ import annotations

from dataclasses import dataclass

FAMILIES = ("host", "aarch64", "cortex_m", "cuda")
INNER_LOOPS = ("generic", "dsp", "mve", "neon", "dot", "cuda")


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """One deployable device.

    `isa`: which inner loops suit it; `cc`: the C compiler; `cflags`: ABI and tuning flags;
    `machine`: the QEMU board (cortex_m) or QEMU processor (aarch64, cuda), empty where the program
    runs on this machine's processor;
    `flash_bytes`, `ram_bytes`: what the board has for code and constants, and in the one contiguous
    region that holds the arena; None for a bare core. `core`: the target whose core and flags a
    board has, empty for a core.
    """

    name: str
    family: str
    cpu: str
    isa: str
    cc: str
    cflags: tuple[str, ...]
    machine: str
    description: str
    flash_bytes: int | None = None
    ram_bytes: int | None = None
    optimisation: str = "-O2"
    core: str = ""

    def __post_init__(self) -> None:
        for field in ("name", "cpu", "cc", "description"):
            if not getattr(self, field):
                raise ValueError(f"target '{self.name}' has no {field}")
        if self.family not in FAMILIES:
            raise ValueError(f"target '{self.name}': family '{self.family}' is not in {FAMILIES}")
        if self.isa not in INNER_LOOPS:
            raise ValueError(f"target '{self.name}': isa '{self.isa}' is not in {INNER_LOOPS}")
        if self.optimisation not in ("-O1", "-O2", "-O3", "-Os"):
            raise ValueError(f"target '{self.name}': unknown optimisation '{self.optimisation}'")
        native = self.family == "host" or (self.family == "cuda" and self.cc == "gcc")
        if (self.machine == "") != native:
            raise ValueError(f"target '{self.name}': every target but the host names a machine")
        for bytes_ in (self.flash_bytes, self.ram_bytes):
            if bytes_ is not None and bytes_ <= 0:
                raise ValueError(f"target '{self.name}': {bytes_} bytes of memory")
