"""Calibration and evaluation data: any source as a re-iterable stream of single samples."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..core.errors import DataError
from ..core.passbase import Note
from .columns import Array, ArrayColumn, Column, FilesColumn, npz_columns, open_npy
from .wanted import Wanted, wanted_inputs

Sample = dict[str, Array]


@runtime_checkable
class CalibrationReader(Protocol):
    """What ONNX Runtime calls a CalibrationDataReader; `rewind` is optional."""

    def get_next(self) -> Mapping[str, Array] | None:
        """Return the next feeds, None at the end."""
        ...


@dataclass(frozen=True, slots=True)
class SampleSource:
    """Samples that can be read any number of times, each with the model's shapes and types.

    `notes` says which casts were needed and what was left out.
    """

    count: int
    notes: tuple[Note, ...]
    start: Callable[[], Iterator[Sample]]

    def __iter__(self) -> Iterator[Sample]:
        return self.start()

    def __len__(self) -> int:
        return self.count


def open_data(source: Any, model: ir.Model, finite: bool = True) -> SampleSource:
    """Return the samples of source for model; raises DataError when they do not fit.

    `source` is an .npz file, a folder of .npy files, a mapping of stacked arrays, an iterable of
    feeds, or an object with ONNX Runtime's CalibrationDataReader methods. Files are streamed.
    `finite`: refuse NaN and infinity.
    """
    wanted = wanted_inputs(model, finite)
    if isinstance(source, str | os.PathLike):
        return _from_path(Path(source), wanted)
    if isinstance(source, Mapping):
        columns = {str(k): ArrayColumn(np.asarray(v)) for k, v in source.items()}
        return _from_columns(columns, wanted, "the given arrays")
    if isinstance(source, CalibrationReader):
        return _from_reader(source, wanted)
    if isinstance(source, Iterable):
        return _from_feeds(source, wanted)
    raise DataError(
        f"cannot read data from a {type(source).__name__}; give an .npz file, a folder of .npy "
        "files, an iterable of feeds or a CalibrationDataReader"
    )


def load_labels(path: str | Path, key: str = "labels") -> NDArray[np.int64]:
    """Return the integer labels [samples] stored under key of an .npz file."""
    columns = npz_columns(_existing(Path(path)))
    if key not in columns:
        raise DataError(f"'{path}' has no array '{key}'; it holds {', '.join(sorted(columns))}")
    column = columns[key]
    if len(column.shape) != 1 or column.dtype.kind not in "iu":
        raise DataError(
            f"labels '{key}' of '{path}' must be one integer per sample, "
            f"not {column.dtype} of shape {column.shape}"
        )
    return np.concatenate([*column.blocks(1), np.zeros(0, column.dtype)]).astype(np.int64)


def synthetic(model: ir.Model, count: int, seed: int) -> SampleSource:
    """Return count seeded samples: normal floats, and integers that are valid where they index."""
    wanted = wanted_inputs(model)
    if count < 1:
        raise DataError(f"synthetic data needs at least one sample, not {count}")

    def start() -> Iterator[Sample]:
        for index in range(count):
            rng = np.random.default_rng([seed, index])
            yield {name: want.random(rng) for name, want in wanted.items() if not want.optional}

    text = f"{count} seeded synthetic samples (seed {seed}); accuracy on real data is unknown"
    return SampleSource(count, (Note("data", text),), start)


def _existing(path: Path) -> Path:
    if not path.exists():
        raise DataError(
            f"data '{path}' does not exist; give an .npz file or a folder of .npy files"
        )
    return path


def _from_path(path: Path, wanted: Mapping[str, Wanted]) -> SampleSource:
    if _existing(path).is_dir():
        return _from_columns(_folder_columns(path, wanted), wanted, f"folder '{path}'")
    if path.suffix == ".npz":
        return _from_columns(dict(npz_columns(path)), wanted, f"'{path}'")
    if path.suffix == ".npy":
        return _from_columns({path.stem: ArrayColumn(open_npy(path))}, wanted, f"'{path}'")
    raise DataError(f"'{path}' is neither .npz nor .npy nor a folder of .npy files; save it as one")


def _folder_columns(folder: Path, wanted: Mapping[str, Wanted]) -> dict[str, Column]:
    """One file per input named after it, or many files with one sample each."""
    files = {path.stem: path for path in sorted(folder.glob("*.npy"))}
    if not files:
        raise DataError(f"folder '{folder}' holds no .npy files")
    fresh = [name for name, want in wanted.items() if not want.optional]
    if len(fresh) > 1 or fresh[0] in files or len(files) == 1:
        return {stem: ArrayColumn(open_npy(path)) for stem, path in files.items()}
    return {fresh[0]: FilesColumn(tuple(files.values()))}


def _from_columns(
    columns: Mapping[str, Column], wanted: Mapping[str, Wanted], what: str
) -> SampleSource:
    wanted = {n: w for n, w in wanted.items() if n in columns or not w.optional}
    matched, notes = _match(columns, wanted, what)
    rows = {name: wanted[name].rows_per_sample(matched[name].shape) for name in wanted}
    counts = {name: matched[name].shape[0] // rows[name] for name in wanted}
    if len(set(counts.values())) > 1:
        text = ", ".join(f"{name}: {n}" for name, n in counts.items())
        raise DataError(f"{what}: the inputs have different numbers of samples ({text})")
    count = next(iter(counts.values()))
    if count < 1:
        raise DataError(f"{what} holds no samples; give at least one")
    notes += [n for name in wanted if (n := wanted[name].cast_note(matched[name].dtype))]

    def start() -> Iterator[Sample]:
        streams = {name: matched[name].blocks(rows[name]) for name in wanted}
        for index in range(count):
            yield {name: wanted[name].fit(next(streams[name]), index) for name in wanted}

    return SampleSource(count, tuple(notes), start)


def _match(
    columns: Mapping[str, Column], wanted: Mapping[str, Wanted], what: str
) -> tuple[dict[str, Column], list[Note]]:
    """Return the column of each input, and a note for each that was left out."""
    if len(wanted) == 1 and len(columns) == 1:
        # One array for one input needs no name.
        return {next(iter(wanted)): next(iter(columns.values()))}, []
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise DataError(
            f"{what} has no array for input '{missing[0]}'; it holds {', '.join(sorted(columns))}"
        )
    extra = sorted(set(columns) - set(wanted))
    notes = [Note(name, "array of no input; ignored") for name in extra]
    return {name: columns[name] for name in wanted}, notes


def _from_feeds(source: Iterable[Any], wanted: Mapping[str, Wanted]) -> SampleSource:
    # A second iter() on a generator or other iterator gives the same, by then empty, object.
    once = iter(source) is source
    kept = list(source) if once else source
    notes = (Note("data", "a one-time iterator; its samples are kept in memory"),) if once else ()
    return _checked(lambda: iter(kept), wanted, notes)


def _from_reader(reader: CalibrationReader, wanted: Mapping[str, Wanted]) -> SampleSource:
    def read() -> Iterator[Mapping[str, Array]]:
        while (feeds := reader.get_next()) is not None:
            yield feeds

    rewind = getattr(reader, "rewind", None)
    if rewind is None or _raises(rewind):
        kept = list(read())
        text = "the reader has no rewind; its samples are kept in memory"
        return _checked(lambda: iter(kept), wanted, (Note("data", text),))

    def start() -> Iterator[Mapping[str, Array]]:
        rewind()
        return read()

    return _checked(start, wanted, ())


def _raises(rewind: Callable[[], Any]) -> bool:
    # ONNX Runtime's base class defines rewind only to raise NotImplementedError.
    try:
        rewind()
    except NotImplementedError:
        return True
    return False


def _checked(
    start: Callable[[], Iterator[Any]], wanted: Mapping[str, Wanted], notes: Iterable[Note]
) -> SampleSource:
    """Read everything once, so that errors come before the long work, and count it."""
    found: dict[str, Note] = {note.where: note for note in notes}
    count = 0
    for index, feeds in enumerate(start()):
        for note in _feed_notes(feeds, wanted, index):
            found.setdefault(note.where, note)
        _fit_feeds(feeds, wanted, index)
        count += 1
    if count == 0:
        raise DataError("the data holds no samples; give at least one")

    def samples() -> Iterator[Sample]:
        for index, feeds in enumerate(start()):
            yield _fit_feeds(feeds, wanted, index)

    return SampleSource(count, tuple(found.values()), samples)


def _feed_notes(feeds: Any, wanted: Mapping[str, Wanted], index: int) -> list[Note]:
    if not isinstance(feeds, Mapping):
        raise DataError(
            f"sample {index} is a {type(feeds).__name__}; give a dict of input name to array"
        )
    missing = [name for name in wanted if name not in feeds and not wanted[name].optional]
    if missing:
        names = ", ".join(map(str, feeds))
        raise DataError(f"sample {index} has no array for input '{missing[0]}'; it holds {names}")
    extra = sorted({str(k) for k in feeds} - set(wanted))
    given = [name for name in wanted if name in feeds]
    casts = [wanted[name].cast_note(np.asarray(feeds[name]).dtype) for name in given]
    return [Note(n, "array of no input; ignored") for n in extra] + [n for n in casts if n]


def _fit_feeds(feeds: Mapping[str, Any], wanted: Mapping[str, Wanted], index: int) -> Sample:
    given = {name: want for name, want in wanted.items() if name in feeds or not want.optional}
    return {name: want.fit_sample(np.asarray(feeds[name]), index) for name, want in given.items()}
