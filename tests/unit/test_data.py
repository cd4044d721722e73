"""Every kind of data source gives the same samples, and data that does not fit is refused."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgec.compiler.core.errors import DataError
from edgec.compiler.core.graph import model_from_text
from edgec.compiler.frontend.data import load_labels, open_data, synthetic

HEAD = '<ir_version: 10, opset_import: ["" : 21]> m '
DATA = np.random.default_rng(0).standard_normal((5, 3, 4, 6)).astype(np.float32)
Array = NDArray[Any]


def image_model(batch: int = 1) -> ir.Model:
    kind = f"float[{batch},3,4,6]"
    return model_from_text(f"{HEAD}({kind} X) => ({kind} Y) {{ Y = Relu (X) }}")


def two_inputs() -> ir.Model:
    return model_from_text(
        HEAD + "(float[1,4] A, int64[1,3] ids) => (float[1,3,2] Y, float[1,4] Z) "
        "{ i = Unsqueeze (ids, one) j = Squeeze (i, one) Y = Gather (table, j) Z = Relu (A) }",
        table=np.zeros((7, 2), np.float32),
        one=np.array([1], np.int64),
    )


class Reader:
    """ONNX Runtime's reader protocol."""

    def __init__(self) -> None:
        self.at = 0

    def get_next(self) -> dict[str, Array] | None:
        self.at += 1
        return {"X": DATA[self.at - 1][None]} if self.at <= len(DATA) else None


class RewindingReader(Reader):
    def rewind(self) -> None:
        self.at = 0


class BaseClassReader(Reader):
    def rewind(self) -> None:
        raise NotImplementedError


def folder_of_one(path: Path) -> Path:
    np.save(path / "X.npy", DATA)
    return path


def folder_of_many(path: Path) -> Path:
    for index, sample in enumerate(DATA):
        np.save(path / f"s{index}.npy", sample[None])
    return path


def npz(path: Path, save: Any = np.savez, **arrays: Array) -> Path:
    save(path / "d.npz", **arrays)
    return path / "d.npz"


SOURCES: dict[str, Callable[[Path], Any]] = {
    "npz": lambda path: npz(path, X=DATA),
    "npz-compressed": lambda path: npz(path, np.savez_compressed, X=DATA),
    "npz-unnamed": lambda path: npz(path, whatever=DATA),
    "npz-with-batch-axis": lambda path: npz(path, X=DATA[:, None]),
    "npz-fortran": lambda path: npz(path, X=np.asfortranarray(DATA)),
    "folder-by-input": folder_of_one,
    "folder-by-sample": folder_of_many,
    "list": lambda _: [{"X": sample[None]} for sample in DATA],
    "list-without-batch": lambda _: [{"X": sample} for sample in DATA],
    "generator": lambda _: ({"X": sample[None]} for sample in DATA),
    "mapping": lambda _: {"X": DATA},
    "reader": lambda _: Reader(),
    "reader-rewind": lambda _: RewindingReader(),
    "reader-base-class": lambda _: BaseClassReader(),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_gives_the_same_samples_twice(kind: str, tmp_path: Path) -> None:
    source = open_data(SOURCES[kind](tmp_path), image_model())
    assert len(source) == 5
    for _ in range(2):
        samples = [sample["X"] for sample in source]
        assert all(s.shape == (1, 3, 4, 6) and s.dtype == np.float32 for s in samples)
        np.testing.assert_array_equal(np.concatenate(samples), DATA)
    once = kind in ("generator", "reader", "reader-base-class")
    assert [n for n in source.notes if "kept in memory" in n.text] == list(source.notes)
    assert bool(source.notes) == once


def test_two_interleaved_iterations_do_not_disturb_each_other(tmp_path: Path) -> None:
    source = open_data(npz(tmp_path, X=DATA), image_model())
    for index, (a, b) in enumerate(zip(source, source, strict=True)):
        np.testing.assert_array_equal(a["X"], b["X"])
        np.testing.assert_array_equal(a["X"][0], DATA[index])


def test_batched_models(tmp_path: Path) -> None:
    two = np.stack([DATA[:2], DATA[2:4]])
    source = open_data(npz(tmp_path, X=two), image_model(batch=2))
    np.testing.assert_array_equal(np.stack([s["X"] for s in source]), two)
    assert len(open_data({"X": DATA[:2]}, image_model(batch=2))) == 1
    flat = open_data({"X": DATA[:4]}, image_model(batch=2))
    np.testing.assert_array_equal(np.stack([s["X"] for s in flat]), two)
    with pytest.raises(DataError, match="3 is no multiple of the batch of 2; cut the rest"):
        open_data({"X": DATA[:3]}, image_model(batch=2))


def test_several_inputs_extra_keys_and_missing_keys(tmp_path: Path) -> None:
    a, ids = np.ones((3, 4), np.float32), np.array([[0, 1, 6], [2, 3, 4], [-7, 5, 5]])
    source = open_data(npz(tmp_path, A=a, ids=ids, labels=np.arange(3)), two_inputs())
    assert [sorted(s) for s in source] == [["A", "ids"]] * 3
    assert [n.where for n in source.notes] == ["labels"]
    with pytest.raises(DataError, match="no array for input 'ids'; it holds A, other"):
        open_data({"A": a, "other": ids}, two_inputs())
    with pytest.raises(DataError, match="different numbers of samples"):
        open_data({"A": a[:2], "ids": ids}, two_inputs())
    with pytest.raises(DataError, match="no array for input 'ids'"):
        open_data([{"A": a[:1]}], two_inputs())


def test_indices_outside_their_table_are_refused() -> None:
    data = {"A": np.ones((1, 4), np.float32), "ids": np.array([[0, 7, 1]])}
    with pytest.raises(DataError, match="indexes row 7 of a table with 7 rows"):
        list(open_data(data, two_inputs()))


@pytest.mark.parametrize(
    ("dtype", "allowed"),
    [
        (np.float16, True),
        (np.float64, True),
        (np.uint8, True),
        (np.int64, True),
        (np.complex64, False),
        (np.str_, False),
    ],
)
def test_casts_to_float(dtype: Any, allowed: bool) -> None:
    data = np.abs(DATA * 10).astype(np.uint8).astype(dtype)
    if not allowed:
        with pytest.raises(DataError, match="input 'X' takes float32"):
            open_data({"X": data}, image_model())
        return
    source = open_data({"X": data}, image_model())
    assert str(np.dtype(dtype)) in source.notes[0].text
    for sample, original in zip(source, data, strict=True):
        assert sample["X"].dtype == np.float32
        np.testing.assert_array_equal(sample["X"][0], original)


def test_casts_to_integers_go_by_value() -> None:
    model = model_from_text(HEAD + "(int8[1,2] X) => (int8[1,2] Y) { Y = Identity (X) }")
    (sample,) = open_data({"X": np.array([[-128, 127]], np.int64)}, model)
    assert sample["X"].dtype == np.int8
    with pytest.raises(DataError, match="outside int8"):
        list(open_data({"X": np.array([[0, 128]], np.int64)}, model))
    with pytest.raises(DataError, match="takes int8 but the data is float32"):
        open_data({"X": np.zeros((1, 2), np.float32)}, model)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_name_the_sample(bad: float, tmp_path: Path) -> None:
    data = DATA.copy()
    data[3, 0, 0, 0] = bad
    with pytest.raises(DataError, match="sample 3 of input 'X' holds NaN"):
        list(open_data(npz(tmp_path, X=data), image_model()))
    with pytest.raises(DataError, match="sample 3"):
        open_data([{"X": sample} for sample in data], image_model())


def test_wrong_shapes_say_both_and_suggest_a_transpose() -> None:
    with pytest.raises(
        DataError, match=r"needs \[N, 1, 3, 4, 6\] or \[N, 3, 4, 6\].*\[5, 3, 4, 5\]"
    ):
        open_data({"X": DATA[..., :5]}, image_model())
    last = DATA.transpose(0, 2, 3, 1)
    with pytest.raises(DataError, match=r"transpose with \(0, 3, 1, 2\)") as caught:
        open_data({"X": last}, image_model())
    assert "[5, 4, 6, 3]" in str(caught.value)
    np.testing.assert_array_equal(last.transpose(0, 3, 1, 2), DATA)
    with pytest.raises(DataError, match=r"sample 0 .*\[4, 6, 3\].*\[1, 3, 4, 6\]"):
        open_data([{"X": last[0]}], image_model())


def test_empty_sources(tmp_path: Path) -> None:
    for empty in (npz(tmp_path, X=DATA[:0]), [], {"X": DATA[:0]}):
        with pytest.raises(DataError, match="no samples"):
            open_data(empty, image_model())
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(DataError, match=r"no \.npy files"):
        open_data(folder, image_model())
    np.savez(tmp_path / "none.npz")
    with pytest.raises(DataError, match="no arrays"):
        open_data(tmp_path / "none.npz", image_model())


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    objects = np.array([{"a": 1}, None], dtype=object)
    np.save(tmp_path / "X.npy", objects, allow_pickle=True)
    for source in (npz(tmp_path, X=objects), tmp_path):
        with pytest.raises(DataError, match="pickled Python objects"):
            open_data(source, image_model())


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(b"not a zip")
    (tmp_path / "data.csv").write_text("1,2")
    with pytest.raises(DataError, match="not a NumPy file"):
        open_data(tmp_path / "bad.npz", image_model())
    with pytest.raises(DataError, match="does not exist"):
        open_data(tmp_path / "none.npz", image_model())
    with pytest.raises(DataError, match=r"neither \.npz nor \.npy"):
        open_data(tmp_path / "data.csv", image_model())
    with pytest.raises(DataError, match="cannot read data from a int"):
        open_data(3, image_model())
    with pytest.raises(DataError, match="sample 0 is a ndarray"):
        open_data([DATA[0]], image_model())


def test_files_of_different_shapes_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", DATA[0])
    np.save(tmp_path / "b.npy", DATA[0, :, :, :5])
    with pytest.raises(DataError, match="need one shape"):
        open_data(tmp_path, image_model())


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_memory_does_not_grow_with_the_number_of_samples(save: Any, tmp_path: Path) -> None:
    path = npz(tmp_path, save, X=np.zeros((400, 3, 4, 6 * 256), np.float32))
    model = model_from_text(
        HEAD + "(float[1,3,4,1536] X) => (float[1,3,4,1536] Y) { Y = Relu (X) }"
    )
    sample_bytes = 3 * 4 * 1536 * 4
    tracemalloc.start()
    for _ in open_data(path, model):
        pass
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 20 * sample_bytes


def test_samples_can_be_kept_and_written_to(tmp_path: Path) -> None:
    first, *_ = open_data(folder_of_one(tmp_path), image_model())
    first["X"][:] = 0
    again, *_ = open_data(tmp_path, image_model())
    np.testing.assert_array_equal(again["X"][0], DATA[0])


def test_labels(tmp_path: Path) -> None:
    path = npz(tmp_path, X=DATA, labels=np.arange(5, dtype=np.uint8), soft=DATA[:, 0, 0])
    labels = load_labels(path)
    assert labels.dtype == np.int64 and labels.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match="no array 'y'; it holds X, labels, soft"):
        load_labels(path, "y")
    with pytest.raises(DataError, match="one integer per sample"):
        load_labels(path, "soft")


def test_synthetic_is_seeded_and_valid() -> None:
    model = two_inputs()
    source = synthetic(model, 50, seed=3)
    first, second = list(source), list(source)
    assert len(source) == len(first) == 50 and "synthetic" in source.notes[0].text
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a["A"], b["A"])
    ids = np.concatenate([sample["ids"] for sample in first])
    assert ids.min() == 0 and ids.max() == 6, "all rows of the table are indexed, and no other"
    other = next(iter(synthetic(model, 1, seed=4)))
    assert not np.array_equal(other["A"], first[0]["A"])
    assert not np.array_equal(first[0]["A"], first[1]["A"])
    with pytest.raises(DataError, match="at least one"):
        synthetic(model, 0, seed=0)


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [("int8", -128, 127), ("uint8", 0, 255), ("int32", 0, 1), ("bool", 0, 1)],
)
def test_synthetic_integers_that_index_nothing(kind: str, low: int, high: int) -> None:
    text = HEAD + f"({kind}[1,4096] X) => ({kind}[1,4096] Y) {{ Y = Identity (X) }}"
    (sample,) = synthetic(model_from_text(text), 1, seed=0)
    assert (sample["X"].min(), sample["X"].max()) == (low, high)


def test_iterables_may_be_lazy_and_re_iterable() -> None:
    class Lazy:
        passes = 0

        def __iter__(self) -> Iterator[dict[str, Array]]:
            type(self).passes += 1
            return ({"X": sample} for sample in DATA)

    source = open_data(Lazy(), image_model())
    assert len(list(source)) == len(list(source)) == 5
    assert Lazy.passes >= 3 and not source.notes, "read again each time, not kept"
