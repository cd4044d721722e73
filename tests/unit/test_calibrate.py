from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgec.compiler.core.encoding import F32
from edgec.compiler.core.errors import DataError, OptionError
from edgec.compiler.core.graph import model_from_text
from edgec.compiler.core.passbase import Feeds
from edgec.compiler.frontend.calibrate import ObservedStats, calibrate, calibrate_all, channel_axis

METHODS = ["minmax", "moving-average", "percentile", "entropy", "mse"]
HEADER = '<ir_version: 10, opset_import: ["" : 21]>\n'


def mlp() -> ir.Model:
    rng = np.random.default_rng(0)
    text = """g (float[2,8] x) => (float[2,4] y) {
        h = MatMul(x, w)
        two = Constant<value = float[1] {2.0}>()
        r = Relu(h)
        y = Mul(r, two)
    }"""
    return model_from_text(HEADER + text, w=rng.standard_normal((8, 4)).astype(np.float32))


def inputs(count: int, shape: tuple[int, ...] = (2, 8)) -> list[Feeds]:
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(count)]


def unary(op: str, shape: str = "float[2,3]") -> ir.Model:
    return model_from_text(f"{HEADER}g ({shape} x) => ({shape} y) {{ h = {op}(x) y = Relu(h) }}")


def one(*values: float) -> Feeds:
    return {"x": np.array(values, np.float32).reshape(2, 3)}


def test_every_activation_is_observed_and_no_constant() -> None:
    assert list(calibrate(mlp(), inputs(1))) == ["x", "h", "r", "y"]


def test_statistics_match_all_samples_put_together() -> None:
    model, samples = mlp(), inputs(5)
    stats = calibrate(model, samples)
    weight = model.graph.initializers["w"].const_value
    assert weight is not None
    h = np.concatenate([s["x"] for s in samples]) @ weight.numpy()
    seen = stats["h"]
    assert (seen.low, seen.high) == (seen.seen_low, seen.seen_high)
    np.testing.assert_allclose((seen.low, seen.high), (h.min(), h.max()), rtol=1e-6)
    np.testing.assert_allclose(seen.channel_low, h.min(axis=0), rtol=1e-6)
    np.testing.assert_allclose(seen.channel_high, h.max(axis=0), rtol=1e-6)
    np.testing.assert_allclose(seen.channel_mean, h.mean(axis=0), rtol=1e-5)
    assert seen.channel_low.dtype == seen.channel_mean.dtype == np.float32
    assert (stats["r"].low, stats["r"].channel_axis) == (0.0, 1)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((5,), 0), ((3, 5), 1), ((2, 3, 5), 2), ((2, 5, 3, 4), 1), ((1, 5, 2, 2, 3), 1)],
)
def test_channels_lie_where_the_rank_puts_them(shape: tuple[int, ...], axis: int) -> None:
    dims = ",".join(map(str, shape))
    model = unary("Neg", f"float[{dims}]")
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    seen = calibrate(model, [{"x": x}])["h"]
    flat = -np.moveaxis(x, axis, -1).reshape(-1, 5)
    assert seen.channel_axis == axis == channel_axis(len(shape))
    np.testing.assert_array_equal(seen.channel_low, flat.min(axis=0))
    np.testing.assert_array_equal(seen.channel_high, flat.max(axis=0))
    np.testing.assert_allclose(seen.channel_mean, flat.mean(axis=0), rtol=1e-5, atol=1e-7)


def test_a_scalar_is_one_channel() -> None:
    text = "g (float[2,8] x) => (float y) { h = ReduceMax<keepdims = 0>(x) y = Relu(h) }"
    samples = inputs(3)
    h = calibrate(model_from_text(HEADER + text), samples)["h"]
    largest = [s["x"].max() for s in samples]
    assert (h.channel_axis, h.channel_low.tolist()) == (0, [min(largest)])
    assert h.channel_mean == pytest.approx(np.mean(largest))


@pytest.mark.parametrize("method", [*METHODS, "percentile:80", "mse:16"])
def test_calibration_is_deterministic_and_method_touches_the_range_only(method: str) -> None:
    first, second, plain = (calibrate(mlp(), inputs(4), m) for m in (method, method, "minmax"))
    for name, seen in first.items():
        assert (seen.low, seen.high) == (second[name].low, second[name].high)
        assert (seen.seen_low, seen.seen_high) == (plain[name].low, plain[name].seen_high)
        np.testing.assert_array_equal(seen.channel_mean, second[name].channel_mean)
        np.testing.assert_array_equal(seen.channel_high, plain[name].channel_high)
    if method in ("moving-average", "percentile:80"):
        assert first["h"].low > plain["h"].low


def test_only_the_named_values_are_observed() -> None:
    assert list(calibrate(mlp(), inputs(1), values={"r", "x"})) == ["x", "r"]
    assert not calibrate(mlp(), inputs(1), values=())


@pytest.mark.parametrize("name", ["w", "two", "nowhere"])
def test_a_name_that_is_no_activation_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match=f"'{name}' is no float32 activation"):
        calibrate(mlp(), inputs(1), values=[name])


def test_integer_values_are_left_out() -> None:
    text = """g (int64[3] i, float[4,2] x) => (float[3,2] y) {
        j = Neg(i)
        k = Neg(j)
        t = Neg(x)
        y = Gather(t, k)
    }"""
    feeds = {"i": np.array([0, 1, 3]), "x": np.ones((4, 2), np.float32)}
    assert list(calibrate(model_from_text(HEADER + text), [feeds])) == ["x", "t", "y"]


def test_values_without_a_recorded_type_are_typed_by_running() -> None:
    text = "g (float[2,8] x) => (float[2,8] y) { s = Shape(x) h = Neg(x) y = Reshape(h, s) }"
    model = model_from_text(HEADER + text)
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.type = value.shape = None
    assert list(calibrate(model, inputs(1))) == ["x", "h", "y"]


def test_no_sample_is_an_error() -> None:
    with pytest.raises(DataError, match="no calibration sample"):
        calibrate(mlp(), [])


def test_a_missing_input_is_an_error() -> None:
    with pytest.raises(DataError, match="'x'"):
        calibrate(mlp(), [{"z": np.zeros(1, np.float32)}])


def test_an_unknown_method_is_an_error() -> None:
    with pytest.raises(OptionError, match="median"):
        calibrate(mlp(), inputs(1), "median")


def test_progress_counts_samples() -> None:
    told: list[int] = []
    calibrate(mlp(), iter(inputs(3)), progress=told.append)
    assert told == [1, 2, 3]


def test_nan_is_an_error_that_names_the_value() -> None:
    with pytest.raises(DataError, match="value 'h' holds NaN"):
        calibrate(unary("Log"), [one(1, 1, 1, 1, 1, 1), one(1, 2, 3, -1, 0, 1)])


@pytest.mark.parametrize("method", METHODS)
def test_infinities_are_left_out_and_counted(method: str) -> None:
    h = calibrate(unary("Log"), [one(1, 0, 1, 0.5, 0, 4), one(1, 0, 1, 1, 1, 1)], method)["h"]
    assert isinstance(h, ObservedStats)
    assert h.infinities == 3
    assert h.seen_low == pytest.approx(np.log(0.5))
    assert h.seen_high == pytest.approx(np.log(4))
    assert h.seen_low <= h.low < 0 < h.high <= h.seen_high
    np.testing.assert_allclose(h.channel_mean, [np.log(0.5) / 4, 0, np.log(4) / 4], atol=1e-7)
    np.testing.assert_allclose(h.channel_low, [np.log(0.5), 0, 0], atol=1e-7)


def test_a_value_with_nothing_finite_has_an_empty_range() -> None:
    h = calibrate(unary("Log"), [one(0, 0, 0, 0, 0, 0)])["h"]
    assert isinstance(h, ObservedStats)
    assert (h.low, h.high, h.seen_low, h.seen_high, h.infinities) == (0, 0, 0, 0, 6)
    assert not h.channel_low.any()
    assert not h.channel_high.any()


def test_a_channel_without_finite_values_does_not_touch_the_seen_range() -> None:
    h = calibrate(unary("Log"), [one(0, 9, 9, 0, 9, 9)])["h"]
    assert h.seen_low == pytest.approx(np.log(9))


def test_finite_masks_are_ordinary_values() -> None:
    h = calibrate(unary("Neg"), [one(0, 0, 1e9, 0, 1e9, 0)])["h"]
    assert isinstance(h, ObservedStats)
    assert (h.low, h.high, h.infinities) == (-1e9, 0, 0)


def test_a_shape_that_changes_between_samples_is_an_error() -> None:
    model = unary("Neg", "float[n,3]")
    samples = [{"x": np.ones((n, 3), np.float32)} for n in (2, 4)]
    with pytest.raises(DataError, match=r"value 'x' has shape \[4, 3\] after \[2, 3\]"):
        calibrate(model, samples)


def test_a_data_dependent_shape_is_an_error() -> None:
    text = """g (float[4] x) => (float[n] y) {
        keep = Greater(x, zero)
        y = Compress(x, keep)
    }"""
    model = model_from_text(HEADER + text, zero=np.zeros(1, np.float32))
    samples = [{"x": np.array(v, np.float32)} for v in ([1, 1, 1, 1], [1, 1, 1, -1])]
    with pytest.raises(DataError, match="value 'y' has shape"):
        calibrate(model, samples)


def test_an_empty_value_is_not_an_error() -> None:
    seen = calibrate(unary("Neg", "float[0,3]"), [{"x": np.zeros((0, 3), np.float32)}])["h"]
    assert (seen.low, seen.high, seen.channel_low.shape) == (0, 0, (3,))


def test_several_methods_in_one_run_find_what_each_finds_alone() -> None:
    runs: list[int] = []
    methods = (*METHODS, "percentile:99")
    together = calibrate_all(mlp(), inputs(5), methods, progress=runs.append)
    assert runs == [1, 2, 3, 4, 5]
    for method, stats in zip(methods, together, strict=True):
        alone = calibrate(mlp(), inputs(5), method)
        assert {n: (s.low, s.high) for n, s in stats.items()} == {
            n: (s.low, s.high) for n, s in alone.items()
        }


@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_memory_does_not_grow_with_the_samples(method: str) -> None:
    model = unary("Neg", "float[1,4,200,200]")

    def stream(count: int) -> Iterator[Feeds]:
        rng = np.random.default_rng(0)
        for _ in range(count):
            yield {"x": rng.standard_normal((1, 4, 200, 200)).astype(np.float32)}

    def peak_bytes(count: int) -> int:
        tracemalloc.start()
        calibrate(model, stream(count), method)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_bytes(1)  # imports
    few, many = peak_bytes(5), peak_bytes(200)
    assert many < 1.5 * few  # 195 samples more would be 125 MB
    assert few < 12 * 640_000


def vww_samples(shared: Path, count: int) -> list[Feeds]:
    with np.load(shared / "models/data/natural_crops.npz") as data:
        crops: F32 = data["rgb96"][:count].astype(np.float32) / np.float32(255)
    name = ir.load(shared / "models/onnx/mobilenetv1_025_vww96.onnx").graph.inputs[0].name
    return [{str(name): crop[None]} for crop in crops.transpose(0, 3, 1, 2)]


@pytest.mark.real
@pytest.mark.parametrize("method", METHODS)
def test_a_mobilenet_is_calibrated_in_seconds(method: str, shared: Path) -> None:
    model = ir.load(shared / "models/onnx/mobilenetv1_025_vww96.onnx")
    samples = vww_samples(shared, 64)
    begin = time.process_time()  # of this process: the machine may be busy
    stats = calibrate(model, samples, method)
    taken_s = time.process_time() - begin
    assert taken_s < (5 if method == "minmax" else 10)
    assert len(stats) == 1 + len(list(model.graph))
    for seen in stats.values():
        assert min(seen.seen_low, 0) <= seen.low <= 0 <= seen.high <= max(seen.seen_high, 0)
