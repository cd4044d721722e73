"""Loading: what is accepted, what is repaired with a note, and what every refusal says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgec.compiler.core.errors import ModelError
from edgec.compiler.core.graph import model_from_text
from edgec.compiler.frontend.data import synthetic
from edgec.compiler.frontend.load import c_identifier, load
from edgec.compiler.frontend.opset import upgrade
from edgec.compiler.frontend.reference import Reference
from edgec.compiler.frontend.support import unsupported

HEAD = '<ir_version: 10, opset_import: ["" : 21]> m '
WEIGHT = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
SHARED = Path(__file__).resolve().parents[2].parent / "shared"
REAL = [
    *sorted((SHARED / "models" / "onnx").glob("*.onnx")),
    *sorted((SHARED / "bench" / "models").glob("*.onnx")),
]


def parsed(text: str, **arrays: NDArray[Any]) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in arrays.items())
    return proto


def linear(shape: str = "2,8") -> onnx.ModelProto:
    return parsed(f"{HEAD}(float[{shape}] X) => (float Y) {{ Y = MatMul (X, W) }}", W=WEIGHT)


def problems(source: Any, **shapes: tuple[int, ...]) -> tuple[str, ...]:
    with pytest.raises(ModelError) as caught:
        load(source, shapes)
    return caught.value.problems


def shape_of(value: ir.Value) -> list[int]:
    assert value.shape is not None
    return list(value.shape.numpy())


def test_path_proto_and_ir_model_give_the_same_model(tmp_path: Path) -> None:
    proto = linear()
    path = tmp_path / "my net-2.onnx"
    onnx.save(proto, path)
    from_path, from_proto, from_ir = load(path), load(proto), load(ir.from_proto(proto))
    assert from_path.name == "my_net_2" and from_proto.name == "m"
    x = {"X": np.ones((2, 8), np.float32)}
    for loaded in (from_path, from_proto, from_ir):
        np.testing.assert_allclose(Reference(loaded.model).run(x)["Y"], x["X"] @ WEIGHT, rtol=1e-5)
        assert shape_of(loaded.model.graph.outputs[0]) == [2, 4]
    assert from_proto.source_sha256 == from_ir.source_sha256


def test_source_is_not_changed_and_its_hash_follows_the_weights() -> None:
    model = ir.from_proto(linear("N,8"))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    first = load(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    assert load(model).source_sha256 == first.source_sha256
    changed = linear("N,8")
    changed.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(WEIGHT + 1, "W"))
    assert load(changed).source_sha256 != first.source_sha256


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"hello, this is no model at all", "cut off or not an ONNX model"),
        (b"\x08\x0a", "cut off or not an ONNX model"),
        (b"PK\x03\x04" + bytes(60), "zip archive"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(60), "TensorFlow Lite"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_files_that_are_not_onnx(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    (problem,) = problems(path)
    assert reason in problem and str(path) in problem


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "does not exist" in problems(tmp_path / "none.onnx")[0]
    assert "is a folder" in problems(tmp_path)[0]


def test_no_truncation_of_a_file_loads(tmp_path: Path) -> None:
    whole, path = linear().SerializeToString(), tmp_path / "cut.onnx"
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        assert problems(path)


def save_external(folder: Path, location: str = "weights.bin") -> Path:
    path = folder / "m.onnx"
    onnx.save(linear(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    if location != "weights.bin":
        proto = onnx.load(path, load_external_data=False)
        proto.graph.initializer[0].external_data[0].value = location
        path.write_bytes(proto.SerializeToString())
    return path


def test_external_weights_are_loaded_and_hashed(tmp_path: Path) -> None:
    path = save_external(tmp_path)
    loaded = load(path)
    data = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").unlink()
    value = loaded.model.graph.initializers["W"].const_value
    assert value is not None
    np.testing.assert_array_equal(value.numpy(), WEIGHT)
    (tmp_path / "weights.bin").write_bytes(data[:-4] + b"\0\0\0\0")
    assert load(path).source_sha256 != loaded.source_sha256


def test_external_weights_missing_or_cut_off(tmp_path: Path) -> None:
    path = save_external(tmp_path)
    data = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(data[:-1])
    assert "'W'" in problems(path)[0] and "cut off" in problems(path)[0]
    (tmp_path / "weights.bin").unlink()
    assert "missing" in problems(path)[0]


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "link.bin"])
def test_external_weights_outside_the_folder_are_refused(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(4096))
    os.symlink(secret, folder / "link.bin")
    path = save_external(folder, location)
    assert "outside the model's folder" in problems(path)[0]


def test_external_weights_of_a_model_in_memory_are_refused(tmp_path: Path) -> None:
    proto = onnx.load(save_external(tmp_path), load_external_data=False)
    assert "pass the path of its file" in problems(proto)[0]


def test_nan_and_infinite_weights_are_named() -> None:
    bad, worse = WEIGHT.copy(), WEIGHT.copy()
    bad[1, 2], worse[0, 0] = np.nan, -np.inf
    text = (
        HEAD + "(float[2,8] X) => (float[2,4] A, float[2,4] B) "
        "{ A = MatMul (X, V) B = MatMul (X, W) }"
    )
    found = problems(parsed(text, V=bad, W=worse))
    assert len(found) == 2
    assert "'V' holds NaN" in found[0] and "'W' holds infinity" in found[1]


def test_an_infinite_attention_mask_is_accepted_but_not_an_infinite_bias() -> None:
    text = HEAD + "(float[4,4] X) => (float[4,4] Y) { A = Add (X, M) Y = Softmax (A) }"
    mask = np.triu(np.full((4, 4), -np.inf, np.float32), 1)
    load(parsed(text, M=mask))
    assert "'M' holds infinity" in problems(parsed(text, M=mask[0]))[0]


def test_batch_axis_without_binding_becomes_one() -> None:
    loaded = load(linear("batch_size,8"))
    assert shape_of(loaded.model.graph.inputs[0]) == [1, 8]
    assert shape_of(loaded.model.graph.outputs[0]) == [1, 4]
    (note,) = loaded.notes
    assert note.where == "X" and "batch_size" in note.text


def test_other_open_dimensions_are_all_reported_at_once() -> None:
    text = (
        HEAD + "(float[N,seq] A, float[height,8] B) => (float[a,b] Y, float[c,d] Z) "
        "{ Y = Relu (A) Z = Relu (B) }"
    )
    first, second = problems(parsed(text))
    assert "'A'" in first and "1 (seq)" in first and "--shape A=1,N" in first
    assert "'B'" in second and "0 (height)" in second


def test_a_guessed_batch_is_bound_wherever_it_occurs() -> None:
    text = HEAD + "(float[N,2] A, float[2,N] B) => (float[N,N] Y) { Y = MatMul (A, B) }"
    model = load(parsed(text)).model
    assert shape_of(model.graph.inputs[1]) == [2, 1]
    assert shape_of(model.graph.outputs[0]) == [1, 1]


def test_a_symbol_is_bound_wherever_it_occurs() -> None:
    text = HEAD + "(float[N,seq] A, float[N,seq] B) => (float[N,seq] Y) { Y = Add (A, B) }"
    model = load(parsed(text), {"A": (3, 5)}).model
    assert shape_of(model.graph.inputs[1]) == [3, 5] == shape_of(model.graph.outputs[0])


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ({"imag": (1, 8)}, "did you mean 'X'?"),
        ({"X": (2, 9)}, "the model fixes"),
        ({"X": (2, 8, 1)}, "other rank"),
        ({"X": (0, 8)}, "at least 1"),
    ],
)
def test_wrong_bindings(shapes: dict[str, tuple[int, ...]], reason: str) -> None:
    assert reason in problems(linear("N,8"), **shapes)[0]


def test_contradicting_bindings() -> None:
    text = HEAD + "(float[N] A, float[N] B) => (float[N] Y) { Y = Add (A, B) }"
    assert "'N' is already 3" in problems(parsed(text), A=(3,), B=(4,))[0]


def test_input_without_rank() -> None:
    proto = parsed(HEAD + "(float[2] X) => (float[2] Y) { Y = Relu (X) }")
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    assert "has no rank" in problems(proto)[0]
    assert shape_of(load(proto, {"X": (2,)}).model.graph.inputs[0]) == [2]


def test_control_flow_is_listed_with_other_problems() -> None:
    text = (
        HEAD + "(float[seq] X, bool c) => (float[seq] Y) { Y = If (c) <"
        "then_branch = a () => (float[seq] T) { T = Relu (X) },"
        "else_branch = b () => (float[seq] E) { E = Abs (X) }> }"
    )
    found = problems(parsed(text))
    assert len(found) == 2
    assert "If 'If_0'" in found[0] and "control flow" in found[0] and "seq" in found[1]


def test_data_dependent_shape_is_reported_with_its_node() -> None:
    found = problems(parsed(HEAD + "(float[4] X) => (int64[1,n] Y) { Y = NonZero (X) }"))
    assert "NonZero" in found[0] and "'Y'" in found[0]


def test_shape_arithmetic_is_folded_where_inference_stops() -> None:
    text = (
        HEAD + "(float[N,1] X) => (float[a,k] Y) { s = Shape (X) o = ConstantOfShape "
        "<value: tensor = int64[1] {1}> (two) "
        "m = Mul (o, minus) e = Equal (target, m) t = Where (e, o, target) u = Max (s, t) "
        "r = Relu (X) m2 = ReduceMax <keepdims=0> (r) c = ConstantOfShape (u) Y = Add (c, m2) }"
    )
    arrays = {
        "two": np.array([2], np.int64),
        "minus": np.array([-1], np.int64),
        "target": np.array([1, 6], np.int64),
    }
    proto = parsed(text, **arrays)
    model = load(proto, {"X": (3, 1)}).model
    assert shape_of(model.graph.outputs[0]) == [3, 6]
    x = {"X": np.arange(3, dtype=np.float32).reshape(3, 1)}
    want, got = Reference(ir.from_proto(proto)).run(x)["Y"], Reference(model).run(x)["Y"]
    np.testing.assert_array_equal(got, want)


def test_initializers_listed_as_inputs_are_constants() -> None:
    proto = linear()
    proto.ir_version = 3
    proto.graph.input.append(onnx.helper.make_tensor_value_info("W", 1, [8, 4]))
    loaded = load(proto)
    assert [v.name for v in loaded.model.graph.inputs] == ["X"]
    assert loaded.notes[0].where == "W" and "constant" in loaded.notes[0].text


def test_names_are_given_and_unused_things_dropped() -> None:
    text = HEAD + "(float[2,8] X) => (float Y) { Y = MatMul (X, W) dead = Relu (X) }"
    proto = parsed(text, W=WEIGHT, unused=WEIGHT)
    loaded = load(proto)
    assert [n.name for n in loaded.model.graph] == ["MatMul_0"]
    assert list(loaded.model.graph.initializers) == ["W"]
    assert [n.where for n in loaded.notes] == ["Relu 'Relu_1'", "unused"]
    proto.graph.node[1].name = proto.graph.node[0].name = "same"
    proto.graph.output.append(onnx.helper.make_tensor_value_info("dead", 1, [2, 8]))
    assert [n.name for n in load(proto).model.graph] == ["same", "same_2"]


def test_constant_nodes_become_initializers() -> None:
    text = (
        HEAD + "(float[2] X) => (float[2] Y) "
        "{ c = Constant <value_floats = [1.0, 2.0]> () Y = Mul (X, c) }"
    )
    model = load(parsed(text)).model
    assert [n.op_type for n in model.graph] == ["Mul"] and "c" in model.graph.initializers


FUNCTIONS = """<ir_version: 10, opset_import: ["" : 21, "local" : 1, "edgec" : 1]>
m (float[2] X) => (float[2] Y) { A = local.twice (X) B = local.twice (A) Y = edgec.decode (B) }
<domain: "local", opset_import: ["" : 21]> twice (x) => (y) { y = Add (x, x) }
<domain: "edgec", opset_import: ["" : 21]> decode (x) => (y) { y = Neg (x) }"""


def test_functions_are_inlined_but_ours_are_kept() -> None:
    loaded = load(onnx.parser.parse_model(FUNCTIONS))
    assert [n.op_type for n in loaded.model.graph] == ["Add", "Add", "decode"]
    assert [f.name for f in loaded.model.functions.values()] == ["decode"]
    assert loaded.notes[0].where == "twice"
    x = {"X": np.array([1, -2], np.float32)}
    np.testing.assert_array_equal(Reference(loaded.model).run(x)["Y"], [-4, 8])


def test_invalid_graph_and_old_opset() -> None:
    text = HEAD + "(float[2] X) => (float[2] Y) { Y = Relu (Z) }"
    dangling = onnx.parser.parse_model(text)
    for source in (dangling, ir.from_proto(dangling)):
        assert "reads 'Z', which nothing produces" in problems(source)[0]
    unknown = parsed(HEAD + "(float[2] X) => (float[2] Y) { A = NoSuchOp (X) Y = Rellu (A) }")
    found = problems(unknown)
    assert "ONNX has no operator NoSuchOp" in found[0] and "did you mean Relu?" in found[1]
    wrong = parsed(HEAD + "(float[2] X) => (float[2] Y) { Y = Relu <slope = 1> (X) }")
    assert "not a valid ONNX model" in problems(wrong)[0]
    old = parsed(HEAD.replace("21", "6") + "(float[2] X) => (float[2] Y) { Y = Relu (X) }")
    assert "opset 6 is too old" in problems(old)[0]


def test_shapes_that_do_not_fit_are_refused() -> None:
    assert problems(linear("2,7"))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("net", "net"),
        ("3d-net", "m_3d_net"),
        ("int", "int_"),
        ("_a", "m_a"),
        ("näh", "n_h"),
        ("", "m_"),
    ],
)
def test_c_identifier(text: str, name: str) -> None:
    assert c_identifier(text) == name


def test_weights_beyond_two_gigabytes_do_not_pass_through_protobuf(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every serialisation while loading and upgrading stays far below the weight size."""
    sizes: list[int] = []
    real = onnx.ModelProto.SerializeToString

    def counted(self: onnx.ModelProto, **options: Any) -> bytes:
        data = real(self, **options)
        sizes.append(len(data))
        return data

    weight = np.ones((512, 512), np.float32)
    text = HEAD.replace("21", "17") + "(float[2,512] X) => (float Y) { Y = MatMul (X, W) }"
    model = ir.from_proto(parsed(text, W=weight))
    monkeypatch.setattr(onnx.ModelProto, "SerializeToString", counted)
    upgrade(load(model).model)
    assert sizes and max(sizes) < weight.nbytes / 100


def test_unsupported_operators_are_one_sentence_each() -> None:
    nodes = " ".join(f"a{i + 1} = Erf (a{i})" for i in range(7))
    text = (
        '<ir_version: 10, opset_import: ["" : 21, "com.acme" : 1]> m (float[2] a0) => (float[2] Y) '
        f"{{ {nodes} b = com.acme.Fancy (a7) Y = com.acme.Relu (b) }}"
    )
    model = load(parsed(text)).model
    erf, fancy, relu = unsupported(model, {"Relu", "Add"})
    assert "'Erf_0'" in erf and "'Erf_4'" in erf and "'Erf_5'" not in erf and "and 2 more" in erf
    assert "Fancy of domain 'com.acme' (node 'Fancy_7')" in fancy and "model-local" in fancy
    assert "standard ONNX operator Relu" in relu
    assert unsupported(model, {"Erf", "com.acme::Fancy", "com.acme::Relu"}) == []
    assert unsupported(load(onnx.parser.parse_model(FUNCTIONS)).model, {"Add"}) == []


def test_every_refusal_is_one_line() -> None:
    for problem in problems(linear("seq,8")):
        assert "\n" not in problem


@pytest.mark.real
@pytest.mark.parametrize("path", REAL or [None], ids=lambda p: p.stem if p else "none")
def test_real_models_keep_their_function(path: Path | None) -> None:
    if path is None:
        assert "real" not in os.environ.get("EDGEC_REQUIRE", ""), f"no models under {SHARED}"
        pytest.skip(f"no models under {SHARED}")
    loaded = load(path)
    outcome = upgrade(loaded.model)
    assert loaded.model.opset_imports[""] == 21 and not outcome.declined
    before, after = Reference(path), Reference(loaded.model)
    for feeds in synthetic(loaded.model, 2, seed=0):
        want, got = before.run(feeds), after.run(feeds)
        assert list(want) == list(got)
        for name, value in want.items():
            scale = float(np.abs(value.astype(np.float64)).max())
            np.testing.assert_allclose(got[name], value, rtol=0, atol=1e-5 * scale)


def test_model_from_text_helper_matches_load() -> None:
    model = model_from_text(HEAD + "(float[2] X) => (float[2] Y) { Y = Relu (X) }")
    assert load(model).notes == ()
