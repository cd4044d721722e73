"""What every kernel has unless it says otherwise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ..program import Array, Param
from ._tir import prim_func


class KernelBase(ABC):
    """Defaults of the Kernel protocol; a kernel is a frozen dataclass derived from it."""

    __slots__ = ()

    name: ClassVar[str]

    @abstractmethod
    def params(self, isa: str) -> tuple[Param, ...]:
        """Return the pointer parameters."""

    def pack(self, isa: str, constants: Sequence[Array]) -> tuple[Array, ...]:
        """Return the constants as they are."""
        return tuple(constants)

    def build(self, isa: str) -> Any:
        """Return the PrimFunc that `write` writes."""
        return prim_func(self.name, self.params(isa), self.write, isa)

    def write(self, *args: Any, **kwargs: Any) -> None:
        """Emit the TIR of the kernel over its buffers, in parameter order."""
        raise NotImplementedError(f"kernel {self.name} overrides neither build nor write")

    def in_place(self, isa: str) -> Mapping[int, int]:
        """No output may share memory with an input."""
        return {}

    def behind(self, isa: str) -> Mapping[int, tuple[int, int]]:
        """No output may overlap an input."""
        return {}

    def macs(self) -> int:
        """No multiply-accumulates."""
        return 0
