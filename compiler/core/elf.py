"""Sections and symbols of a little-endian ELF file, read without any external tool."""

from __future__ import annotations

import bisect
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_NOBITS = 8  # takes memory but no room in the file
_SYMTAB, _WRITE, _ALLOC = 2, 1, 2
_FUNCTION, _UNDEFINED, _ARM = 2, 0, 40


@dataclass(frozen=True, slots=True)
class Section:
    """One section: `stored` if the file holds its bytes, `loaded` if it is in memory."""

    name: str
    size_bytes: int
    stored: bool
    loaded: bool
    writable: bool


@dataclass(frozen=True, slots=True)
class Symbol:
    """One defined symbol; the Thumb bit of a function's address is cleared."""

    name: str
    address: int
    size_bytes: int
    is_function: bool


@dataclass(frozen=True, slots=True)
class Elf:
    """What an ELF file holds."""

    sections: tuple[Section, ...]
    symbols: tuple[Symbol, ...]

    @property
    def flash_bytes(self) -> int:
        """Bytes of all sections that are loaded from the file: code, constants, initial data."""
        return sum(s.size_bytes for s in self.sections if s.loaded and s.stored)

    @property
    def static_ram_bytes(self) -> int:
        """Bytes of .data and .bss."""
        return sum(s.size_bytes for s in self.sections if s.name in (".data", ".bss"))

    def address(self, name: str) -> int:
        """Return the address of a symbol; raises KeyError when there is none."""
        for symbol in self.symbols:
            if symbol.name == name:
                return symbol.address
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class FunctionTable:
    """Functions sorted by address."""

    starts: tuple[int, ...]
    functions: tuple[Symbol, ...]

    @staticmethod
    def of(elf: Elf) -> FunctionTable:
        """Return the table of the functions of elf."""
        found = sorted((s for s in elf.symbols if s.is_function), key=lambda s: s.address)
        return FunctionTable(tuple(s.address for s in found), tuple(found))

    def name_at(self, address: int) -> str | None:
        """Return the function that holds address; None outside all of them."""
        at = bisect.bisect_right(self.starts, address) - 1
        if at < 0:
            return None
        function = self.functions[at]
        inside = address < function.address + function.size_bytes
        return function.name if inside or function.size_bytes == 0 else None


def read_elf(path: Path) -> Elf:
    """Read an ELF file; raises ValueError when path is none or is big-endian."""
    data = path.read_bytes()
    if data[:4] != b"\x7fELF" or data[5] != 1:
        raise ValueError(f"'{path}' is not a little-endian ELF file")
    wide = data[4] == 2
    (machine,) = struct.unpack_from("<H", data, 18)
    headers = list(_headers(data, wide))
    names = headers[struct.unpack_from("<H", data, 62 if wide else 50)[0]]
    sections = tuple(
        Section(
            _text(data, names.offset + h.name),
            h.size,
            h.kind != _NOBITS,
            bool(h.flags & _ALLOC),
            bool(h.flags & _WRITE),
        )
        for h in headers
    )
    tables = [h for h in headers if h.kind == _SYMTAB]
    symbols = [s for h in tables for s in _symbols(data, h, headers[h.link], wide, machine)]
    return Elf(sections, tuple(symbols))


@dataclass(frozen=True, slots=True)
class _Header:
    name: int
    kind: int
    flags: int
    offset: int
    size: int
    link: int


def _headers(data: bytes, wide: bool) -> Iterator[_Header]:
    (start,) = struct.unpack_from("<Q", data, 40) if wide else struct.unpack_from("<I", data, 32)
    size, count = struct.unpack_from("<HH", data, 58 if wide else 46)
    layout = "<IIQQQQI" if wide else "<IIIIIII"
    for index in range(count):
        name, kind, flags, _, offset, length, link = struct.unpack_from(
            layout, data, start + index * size
        )
        yield _Header(name, kind, flags, offset, length, link)


def _symbols(
    data: bytes, table: _Header, strings: _Header, wide: bool, machine: int
) -> Iterator[Symbol]:
    layout = struct.Struct("<IBBHQQ" if wide else "<IIIBBH")
    for at in range(table.offset, table.offset + table.size, layout.size):
        fields = layout.unpack_from(data, at)
        name, info = fields[0], fields[1] if wide else fields[3]
        if (fields[3] if wide else fields[5]) == _UNDEFINED:
            continue
        value, size = (fields[4], fields[5]) if wide else (fields[1], fields[2])
        is_function = info & 15 == _FUNCTION
        if machine == _ARM and is_function:
            value &= ~1
        yield Symbol(_text(data, strings.offset + name), value, size, is_function)


def _text(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode("utf-8", "replace")
