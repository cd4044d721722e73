"""One array of many samples, read from front to back without holding more than a sample."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..core.errors import DataError

Array = NDArray[Any]


class Column(Protocol):
    """An array [rows, ...] whose rows can be read in order, any number of times."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole array."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored values."""
        ...

    def blocks(self, rows: int) -> Iterator[Array]:
        """Yield consecutive arrays of `rows` rows."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ArrayColumn:
    """An array in memory or mapped from a file."""

    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole array."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored values."""
        return self.array.dtype

    def blocks(self, rows: int) -> Iterator[Array]:
        """Yield consecutive arrays of `rows` rows."""
        for first in range(0, len(self.array), rows):
            yield self.array[first : first + rows]


@dataclass(frozen=True, slots=True)
class FilesColumn:
    """Many .npy files of one shape, one sample each, in name order."""

    paths: tuple[Path, ...]

    def __post_init__(self) -> None:
        first = open_npy(self.paths[0])
        for path in self.paths[1:]:
            other = open_npy(path)
            if other.shape != first.shape or other.dtype != first.dtype:
                raise DataError(
                    f"'{path}' holds {other.dtype} {list(other.shape)} but '{self.paths[0]}' holds "
                    f"{first.dtype} {list(first.shape)}; all samples need one shape and type"
                )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all files stacked."""
        return (len(self.paths), *open_npy(self.paths[0]).shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored values."""
        return open_npy(self.paths[0]).dtype

    def blocks(self, rows: int) -> Iterator[Array]:
        """Yield the files stacked in groups of `rows`."""
        for first in range(0, len(self.paths), rows):
            yield np.stack([open_npy(path) for path in self.paths[first : first + rows]])


@dataclass(frozen=True, slots=True)
class _ZipColumn:
    """A member of an .npz file, decompressed while it is read: np.load would take it whole."""

    path: Path
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool

    def blocks(self, rows: int) -> Iterator[Array]:
        """Yield consecutive arrays of `rows` rows."""
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
            if self.fortran:  # the first axis is scattered over the file
                yield from ArrayColumn(np.lib.format.read_array(stream)).blocks(rows)
                return
            _read_header(stream)
            block = (rows, *self.shape[1:])
            size_bytes = int(np.prod(block)) * self.dtype.itemsize
            for _ in range(self.shape[0] // rows):
                data = stream.read(size_bytes)
                if len(data) != size_bytes:
                    raise DataError(f"'{self.path}' is cut off in '{self.member}'; save it again")
                yield np.frombuffer(data, self.dtype).reshape(block)


def open_npy(path: Path) -> Array:
    """Return the array of an .npy file mapped into memory, never unpickled."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(_unreadable(path, path.name, error)) from error


def npz_columns(path: Path) -> Mapping[str, Column]:
    """Return the arrays of an .npz file by name, read only up to their headers."""
    columns: dict[str, Column] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                if member.endswith(".npy"):
                    with archive.open(member) as stream:
                        shape, fortran, dtype = _read_header(stream)
                    column = _ZipColumn(path, member, shape, dtype, fortran)
                    columns[member.removesuffix(".npy")] = column
    except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        raise DataError(_unreadable(path, path.name, error)) from error
    pickled = [name for name, column in columns.items() if column.dtype.hasobject]
    if pickled:
        raise DataError(_unreadable(path, pickled[0], ValueError("Object arrays")))
    if not columns:
        raise DataError(f"'{path}' holds no arrays; save at least one")
    return columns


def _unreadable(path: Path, name: str, error: Exception) -> str:
    if any(word in str(error) for word in ("pickle", "Object arrays", "Python objects")):
        return (
            f"'{path}' holds pickled Python objects ('{name}'), which are never loaded because "
            "they can run code; save plain arrays"
        )
    return f"'{path}' is cut off or not a NumPy file; save it again"


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    form = np.lib.format
    major, _ = form.read_magic(stream)
    return (form.read_array_header_1_0 if major == 1 else form.read_array_header_2_0)(stream)
