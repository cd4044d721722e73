"""int4 weights: storage, encodings in blocks, models that arrive with them, the w4a8 recipe."""

from __future__ import annotations

import re
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from edgec.compiler.core.encoding import (
    Blocks,
    TensorEncoding,
    bilevel,
    symmetric_encoding,
    whole_multiples,
)
from edgec.compiler.core.errors import ModelError
from edgec.compiler.core.graph import model_from_text
from edgec.compiler.core.linear import linear_view
from edgec.compiler.core.passbase import Context
from edgec.compiler.core.plan import QuantPlan
from edgec.compiler.frontend.block_scales import round_block_scales
from edgec.compiler.frontend.reference import Reference
from edgec.compiler.lowering.kernels._int4 import PARTS, DspInt4Layout, Int4, random_int4
from edgec.compiler.lowering.lower import lower
from edgec.passes.apply_plan import ApplyPlan
from edgec.passes.low_bit_weights import LowBitWeights, int4_encoding
from tests.pairs import Array, Op, normal, pair, random_feeds, single

HEAD = '<ir_version: 10, opset_import: ["" : 21]>'
S8 = TensorEncoding(8, (0.03,), (-3,))


# ---------------------------------------------------------------- storage


@pytest.mark.parametrize("k", [1, 2, 15, 16, 31, 32, 33, 48, 63, 64, 100])
def test_every_byte_comes_back_from_every_place(k: int) -> None:
    form, width = Int4(), Int4.row_bytes(k)
    stored = np.repeat(np.arange(256, dtype=np.uint8)[:, None], width, axis=1)
    if k % 2:  # nothing is kept in the upper half of the last byte
        stored[:, -1] &= 15
    flat = stored.reshape(-1).view(np.int8)
    codes, multiplier = form.unpack(flat, 256, k)
    assert multiplier.size == 0
    assert codes.min() == -8 and codes.max() == 7
    np.testing.assert_array_equal(form.pack(codes), flat)


@pytest.mark.parametrize("group", [16, 32, 64, 128])
@pytest.mark.parametrize("k", [16, 40, 128, 200])
def test_groups_come_back_with_their_multipliers(group: int, k: int) -> None:
    form = Int4(group)
    codes, scales = random_int4(np.random.default_rng(k), 5, k, group)
    stored = form.pack(codes, scales)
    assert stored.nbytes == form.size(5, k) == 5 * (-(-k // 2) + -(-k // group))
    for got, want in zip(form.unpack(stored, 5, k), (codes, scales), strict=True):
        np.testing.assert_array_equal(got, want)
    whole = codes * scales[:, np.arange(k) // group]
    np.testing.assert_array_equal(form.whole(stored, 5, k), whole)


@pytest.mark.parametrize("group", [8, 24, 40])
def test_groups_that_no_kernel_reads_have_no_form(group: int) -> None:
    with pytest.raises(ValueError, match="16 or whole 32s"):
        Int4(group)


@pytest.mark.parametrize(("dtype", "reach"), [("int8", 128), ("int16", 2048)])
@pytest.mark.parametrize("group", [0, 16, 32, 64, 96, 128, 512])
def test_parts_on_dsp_leave_room_for_four_sums(dtype: str, reach: int, group: int) -> None:
    layout = DspInt4Layout(1, 4, 2048, Int4(group), dtype)
    part = layout._part  # pyright: ignore[reportPrivateUsage]
    assert part % 4 == 0 and part <= PARTS[dtype] and (not group or group % part == 0)
    assert part * 8 * reach < 2**19
    assert part * 15 * reach < 2**23


# ---------------------------------------------------------------- encodings


def random_scales(seed: int, spread: float = 1.0) -> Array:
    rng = np.random.default_rng(seed)
    return np.exp(rng.normal(-4, spread, (40, 12)))


@pytest.mark.parametrize("largest", [1, 15, 63, 255])
@pytest.mark.parametrize("seed", range(4))
def test_scales_of_two_levels_are_exact_floats_and_near(seed: int, largest: int) -> None:
    wanted = random_scales(seed)
    base, multiplier = bilevel(wanted, largest)
    product = base[:, None] * multiplier.astype(np.float32)
    exact = base.astype(np.float64)[:, None] * multiplier
    np.testing.assert_array_equal(product.astype(np.float64), exact)
    assert multiplier.min() >= 1 and multiplier.max() <= largest
    step = wanted.max(axis=1, keepdims=True) / largest * (1 + 2.0**-14)
    limit = np.where(multiplier == 1, step, step / 2 + wanted * 2.0**-14)
    assert (np.abs(exact - wanted) <= limit).all()
    found = whole_multiples(product)
    assert found is not None
    np.testing.assert_array_equal(found[0][:, None] * found[1].astype(np.float32), product)


def test_scales_that_share_no_step_are_no_whole_multiples() -> None:
    assert whole_multiples(random_scales(0).astype(np.float32)) is None
    zero_range = whole_multiples(np.full((3, 2), 0.25, np.float32))
    assert zero_range is not None and (zero_range[1] == 1).all()


@pytest.mark.parametrize("blocks", [
    lambda: Blocks(1, 1, (2, 2), (1, 2, 3, 4)), lambda: Blocks(1, 4, (2, 2), (1, 2, 3)),
    lambda: Blocks(1, 4, (2, 2), (0, 2, 3, 4)), lambda: Blocks(1, 4, (2, 2), (256, 2, 3, 4)),
    lambda: TensorEncoding(4, (1.0,), (0,), blocks=Blocks(1, 4, (1,), (3,))),
    lambda: TensorEncoding(4, (1.0,), (1,), 0, blocks=Blocks(1, 4, (1,), (3,))),
])  # fmt: skip
def test_impossible_blocks_are_refused(blocks: Any) -> None:
    with pytest.raises(ValueError, match=r"block|multiplier"):
        blocks()


def view_of(op_type: str, weight: Array, bias: Array | None = None) -> Any:
    """Return the linear view of one layer over a weight [out, in, ...]."""
    shape = weight.shape
    given = {"W": weight if op_type != "MatMul" else np.ascontiguousarray(weight.T)}
    if bias is not None:
        given["B"] = bias
    b = "" if bias is None else ", B"
    size = f"1,{shape[1]},9,9" if op_type == "Conv" else f"2,{shape[1]}"
    result = "1,k,l,m" if op_type == "Conv" else f"2,{shape[0]}"
    attribute = {"Gemm": "<transB = 1>", "Conv": "", "MatMul": ""}[op_type]
    body = f"Y = {op_type} {attribute} (X, W{b})"
    model = model_from_text(
        f"{HEAD} m (float[{size}] X) => (float[{result}] Y) {{ {body} }}", **given
    )
    (node,) = model.graph
    return linear_view(node), model


LAYERS = [("Gemm", (6, 80)), ("Gemm", (5, 20)), ("MatMul", (6, 96)), ("Conv", (5, 64, 1, 1)),
          ("Conv", (4, 32, 3, 3)), ("Conv", (3, 16, 2, 2)), ("Conv", (4, 5, 3, 3))]  # fmt: skip


@pytest.mark.parametrize("group", [0, 16, 32])
@pytest.mark.parametrize(("op_type", "shape"), LAYERS)
def test_codes_and_values_are_those_of_onnx_runtime(
    op_type: str, shape: tuple[int, ...], group: int
) -> None:
    weight = normal(*shape, seed=3)
    view, model = view_of(op_type, weight)
    encoding = int4_encoding(view, S8, group)
    plan = QuantPlan().with_encodings({"W": encoding})
    assert QuantPlan.from_json(plan.to_json()) == plan
    ApplyPlan().apply(model, Context(plan=plan))
    codes = next(v for v in model.graph.initializers.values() if v.dtype == ir.DataType.INT4)
    stored = weight if op_type != "MatMul" else weight.T
    np.testing.assert_array_equal(
        np.asarray(codes.const_value, ml_dtypes.int4).astype(np.int8), encoding.quantise(stored)
    )
    real = Reference(model, ["W.dq"]).run(random_feeds(model, 0))["W.dq"]
    np.testing.assert_array_equal(real, encoding.roundtrip(stored))


def test_smaller_groups_lose_less_and_searching_never_more_than_the_largest_weight() -> None:
    weight = (normal(16, 128) * np.exp(normal(16, 128, seed=1))).astype(np.float32)
    view, _ = view_of("Gemm", weight)
    errors = [
        np.square(int4_encoding(view, S8, g).roundtrip(weight) - weight).sum()
        for g in (0, 128, 64, 32, 16)
    ]
    plain = symmetric_encoding(np.abs(weight).max(axis=1), 4, 0).roundtrip(weight) - weight
    assert errors[0] <= np.square(plain).sum()
    assert errors[1] >= errors[2] >= errors[3] >= errors[4]


@pytest.mark.parametrize("bits", [8, 12])
def test_sums_fit_the_accumulator_whatever_the_input_holds(bits: int) -> None:
    weight = np.sign(normal(3, 40_000))  # every code is the largest: the worst for the sums
    source = TensorEncoding(bits, (1e-3,), (0,))
    view, _ = view_of("Gemm", weight, np.array([0, 300, -300], np.float32))
    encoding = int4_encoding(view, source, 32)
    assert encoding.blocks is not None
    codes = encoding.quantise(weight).astype(np.int64) * encoding.blocks.spread(weight.shape[1])
    bias = np.abs(view.bias) / (1e-3 * np.asarray(encoding.scale))
    reach = np.abs(codes).sum(axis=1) * (1 << (bits - 1)) + bias
    assert reach.max() < 2**31
    assert reach.max() > 2**29  # no finer multipliers than fit, but no much coarser ones


# ---------------------------------------------------------------- models that arrive with int4


def arriving(codes: Array, scale: Array, attributes: str, zero: Array | None = None) -> ir.Model:
    """Return a QDQ MatMul [2, k] by dequantised 4-bit codes [k, n]."""
    k, n = codes.shape
    z = "" if zero is None else ", wz"
    given = {"W": codes, "ws": scale, "xs": single(0.03), "ys": single(0.2),
             "z": np.array(-3, np.int8)}  # fmt: skip
    if zero is not None:
        given["wz"] = zero
    return model_from_text(
        f"""{HEAD} m (float[2,{k}] X) => (float[2,{n}] Y) {{
        Q = QuantizeLinear (X, xs, z) D = DequantizeLinear (Q, xs, z)
        V = DequantizeLinear <{attributes}> (W, ws{z}) M = MatMul (D, V)
        O = QuantizeLinear (M, ys, z) Y = DequantizeLinear (O, ys, z) }}""",
        **given,
    )


def four_bits(kind: Any, *shape: int) -> Array:
    low = 0 if kind is ml_dtypes.uint4 else -8
    return np.random.default_rng(5).integers(low, low + 16, shape).astype(kind)


SCALES = (0.01 * np.arange(1, 7)).astype(np.float32)
BLOCKED = SCALES * np.array([[3], [200], [17]], np.float32)


@pytest.mark.parametrize("model", [
    arriving(four_bits(ml_dtypes.int4, 70, 6), SCALES, "axis = 1"),
    arriving(four_bits(ml_dtypes.int4, 70, 6), single(0.02), "axis = 1"),
    arriving(four_bits(ml_dtypes.int4, 70, 6), BLOCKED / 64, "axis = 0, block_size = 32"),
    arriving(four_bits(ml_dtypes.int4, 40, 6), BLOCKED / 64, "axis = 0, block_size = 16"),
    arriving(four_bits(ml_dtypes.int4, 9, 6), BLOCKED[:1] / 8, "axis = 0, block_size = 16"),
    arriving(four_bits(ml_dtypes.uint4, 70, 6), SCALES, "axis = 1",
             np.full(6, 8, ml_dtypes.uint4)),
], ids=["channel", "tensor", "blocks", "blocks_of_16", "one_block", "unsigned"])  # fmt: skip
def test_models_with_int4_weights_lower_to_int4_kernels(model: ir.Model) -> None:
    found = pair(model, [random_feeds(model, seed) for seed in range(8)])
    assert found.worst <= 1 and found.share_equal >= 0.99
    (call,) = found.program.calls
    assert call.kernel.int4 is not None  # pyright: ignore
    assert call.constants[0].nbytes <= call.kernel.n * (call.kernel.k // 2 + 6)  # pyright: ignore


@pytest.mark.parametrize(("model", "wanted"), [
    (arriving(four_bits(ml_dtypes.int4, 64, 6), random_scales(0)[:2, :6].astype(np.float32),
              "axis = 0, block_size = 32"), "'V': its blocks' scales are no whole multiples"),
    (arriving(four_bits(ml_dtypes.int4, 120, 6), BLOCKED / 64, "axis = 0, block_size = 40"),
     "blocks of 40; use 16 or whole 32s"),
    (arriving(four_bits(ml_dtypes.int4, 40, 6), np.ones((40, 1), np.float32),
              "axis = 1, block_size = 16"), "not encoded per output channel"),
    (arriving(four_bits(ml_dtypes.uint4, 70, 6), SCALES, "axis = 1",
              np.full(6, 3, ml_dtypes.uint4)), None),
], ids=["uneven", "block_size", "output_channels", "zero_point"])  # fmt: skip
def test_int4_weights_without_a_kernel_are_no_int4_kernel_and_say_so(
    model: ir.Model, wanted: str | None
) -> None:
    if wanted is None:  # codes around their zero point need more than 4 bits: int8 holds them
        found = pair(model, [random_feeds(model, 0)])
        assert found.worst <= 1 and found.kernels == ["gemm"]
        assert found.program.calls[0].kernel.int4 is None  # pyright: ignore
        return
    try:
        said = lower(model).notes  # a float island in its place
    except ModelError as refused:
        said = refused.problems
    assert any(wanted in line for line in said), said


def test_scales_of_other_quantisers_are_rounded_and_the_model_runs_on_integers() -> None:
    scale = np.random.default_rng(3).uniform(0.004, 0.02, (3, 6)).astype(np.float32)
    model = arriving(four_bits(ml_dtypes.int4, 70, 6), scale, "axis = 0, block_size = 32")
    outcome = round_block_scales(model)
    (note,) = outcome.changed
    assert re.search(r"moved by at most (0\.\d\d|1\.\d\d)%", note.text), note
    assert not round_block_scales(model).changed
    new = next(n for n in model.graph if n.outputs[0].name == "V")
    rounded = new.inputs[1]
    assert rounded is not None and rounded.const_value is not None
    np.testing.assert_allclose(rounded.const_value.numpy(), scale, rtol=0.02)
    found = pair(model, [random_feeds(model, seed) for seed in range(4)])
    assert found.worst <= 1 and found.kernels == ["gemm"]
    assert found.program.calls[0].kernel.int4 is not None  # pyright: ignore


# ---------------------------------------------------------------- the decision

NETWORK = Op(
    "(float[1,16,8,8] X) => (float[1,10] Y)",
    """A = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (X, W1, B1) R = Relu (A)
    D = Conv <group=32, kernel_shape=[3,3]> (R, W2) P = Conv (D, W3) G = GlobalAveragePool (P)
    F = Flatten (G) Y = Gemm <transB=1> (F, W4, B4)""",
    {"W1": normal(32, 16, 3, 3, scale=0.1), "B1": normal(32), "W2": normal(32, 1, 3, 3),
     "W3": normal(48, 32, 1, 1, scale=0.2), "W4": normal(10, 48), "B4": normal(10)},
)  # fmt: skip


def test_the_pass_takes_what_kernels_read_and_says_what_it_leaves() -> None:
    model = NETWORK.model
    names = ("X", "A", "R", "D", "P", "F", "G")
    channels = {"W1": 32, "W2": 32, "W3": 48, "W4": 10}
    plan = QuantPlan().with_encodings(
        dict.fromkeys(names, S8)
        | {w: TensorEncoding(8, (0.02,) * n, (0,) * n, 0) for w, n in channels.items()}
    )
    new, outcome = LowBitWeights().decide(model, Context(plan=plan))
    assert {w: new.encodings[w].bits for w in channels} == {"W1": 4, "W2": 8, "W3": 4, "W4": 4}
    blocks = {w: e.blocks and e.blocks.size for w, e in new.encodings.items() if e.bits == 4}
    assert blocks == {"W1": 16, "W3": None, "W4": 32}
    assert [(n.where, n.text) for n in outcome.declined] == [
        ("W2", "stays int8: depthwise kernels read int8")
    ]
    assert "in groups of 32, 4.33 bits a weight" in outcome.changed[2].text


def test_w4a8_gives_onnx_runtimes_answers_and_half_the_constants(tmp_path: Any) -> None:
    import edgec

    samples = [random_feeds(NETWORK.model, seed) for seed in range(8)]
    path = tmp_path / "model.onnx"
    ir.save(NETWORK.model, path)
    sizes: dict[str, int] = {}
    for recipe in ("int8", "w4a8"):
        artifact = edgec.compile(
            path, "host", tmp_path / recipe, calibration=samples, recipe=recipe
        )
        sizes[recipe] = artifact.manifest.memory.weights_bytes
        checked = edgec.check(tmp_path / recipe)
        assert checked.passed, checked
    assert sizes["w4a8"] < 0.65 * sizes["int8"]
