"""The C files of a model: names, comments, constants, headers that compile as C and C++."""

from __future__ import annotations

import re
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from edgec.compiler.core.encoding import TensorEncoding
from edgec.compiler.lowering.builder import c_identifier
from edgec.compiler.lowering.emit import (
    CModel,
    Constants,
    c_comment,
    c_float,
    c_ports,
    emit_c,
    function_names,
)
from edgec.compiler.lowering.kernels._access import dense
from edgec.compiler.lowering.kernels.copy import Copy, Part
from edgec.compiler.lowering.kernels.table import Table
from edgec.compiler.lowering.program import Buffer, Call, Port, Program
from tests.pairs import Array, Op, normal, pipeline_pair

INCLUDE = Path(__file__).resolve().parents[2] / "runtime" / "c" / "include"
NETWORK = Op(
    "(float[1,3,6,6] X) => (float[1,4] Y, float[1,4,6,6] Z)",
    """Z = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (X, W, B) P = GlobalAveragePool (Z)
    F = Flatten (P) G = MatMul (F, V) Y = Softmax (G)""",
    {"W": normal(4, 3, 3, 3), "B": normal(4), "V": normal(4, 4)},
)


@pytest.fixture(scope="module")
def model() -> CModel:
    return emit_c(pipeline_pair(NETWORK.model).program, "net", "generic", "1.2.3")


def tables(names: list[str], constants: dict[str, Array] | None = None) -> Program:
    """Return a program of table look-ups from port to port."""
    table, calls = np.arange(-128, 128).astype(np.int8), list[Call]()
    for source, target in pairwise(names):
        calls.append(Call(Table.of((4,), dense((4,))), (source,), (table,), (target,), (target,)))
    buffers = {f"{n}": Buffer(n, 4, "int8") for n in names}
    ports = [Port(n, (4,), n, "int8", None) for n in names]
    return Program((ports[0],), tuple(ports[1:]), buffers, constants or {}, calls, {})


def compile_all(model: CModel, folder: Path, *command: str) -> None:
    for path, text in model.files.items():
        (folder / Path(path).name).write_text(text)
    sources = [str(folder / Path(p).name) for p in model.files if p.endswith(".c")]
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{INCLUDE}", f"-I{folder}", "-c"]
    for source in sources:
        subprocess.run([*command, *flags, source, "-o", "/dev/null"], check=True)


def test_files_and_public_interface(model: CModel) -> None:
    assert sorted(model.files) == [
        "include/net.h", "src/net.c", "src/net_weights.c", "src/net_weights.h",
    ]  # fmt: skip
    header = model.files["include/net.h"]
    assert "int32_t net_run(const int8_t *x, int8_t *y, int8_t *z, void *arena);" in header
    assert f"#define NET_ARENA_BYTES {model.arena.size_bytes}\n" in header
    assert "#define NET_X_ELEMENTS 108\n" in header


def test_header_scales_read_back_exactly(model: CModel) -> None:
    header = model.files["include/net.h"]
    for port in (*model.inputs, *model.outputs):
        assert port.encoding is not None
        found = re.search(rf"NET_{port.c_name.upper()}_SCALE (\S+)F\n", header)
        assert found and np.float32(found.group(1)) == np.float32(port.encoding.scale[0])
        assert f"NET_{port.c_name.upper()}_ZERO_POINT ({port.encoding.zero_point[0]})\n" in header


def test_weights_are_counted_once_and_by_call(model: CModel) -> None:
    declared = re.findall(
        r"const (\w+)_t \w+\[(\d+)\] = ", model.files["src/net_weights.c"]
    )  # fmt: skip
    total = sum(np.dtype(kind).itemsize * int(size) for kind, size in declared)
    assert total == model.weights_bytes == sum(model.weights_bytes_by_call)


def test_equal_constants_are_stored_once() -> None:
    text = emit_c(tables(["x", "a", "b"]), "m", "generic", "1").files["src/m_weights.c"]
    assert text.count("[256] =") == 1


def test_equal_kernels_are_one_function() -> None:
    names, called = function_names(tables(["x", "a", "b"]))
    assert list(names.values()) == ["table_1"]
    assert called == ("table_1", "table_1")


def test_the_text_is_the_same_every_time() -> None:
    program = pipeline_pair(NETWORK.model).program
    first, second = (emit_c(program, "net", "dsp", "1").files for _ in range(2))
    assert first == second


AWKWARD = ["int", "Table_1", "arena", "class", "x:0", "X-0", "1st", "m_run", "größe", "", "memory"]


def test_ports_get_names_that_are_free() -> None:
    inputs, outputs = c_ports(tables(AWKWARD), "m")
    names = [p.c_name for p in (*inputs, *outputs)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", n) for n in names), names
    assert not {"int", "class", "arena", "memory", "table_1", "m_run"} & set(names)
    assert [p.name for p in (*inputs, *outputs)] == AWKWARD


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_awkward_names_compile(tmp_path: Path, compiler: str) -> None:
    compile_all(emit_c(tables(AWKWARD), "m", "generic", "1"), tmp_path, compiler)


def test_a_constant_cannot_take_the_name_of_a_function(tmp_path: Path) -> None:
    program = tables(["run", "y"], {"run": np.arange(4, dtype=np.int8)})
    start = Port("x", (4,), "x", "int8", None)
    buffers = {**program.buffers, "x": Buffer("x", 4, "int8")}
    program = Program((start,), program.outputs, buffers, program.constants, program.calls, {})
    compile_all(emit_c(program, "m", "generic", "1"), tmp_path, "gcc")


def test_the_header_is_good_cpp(model: CModel, tmp_path: Path) -> None:
    (tmp_path / "net.h").write_text(model.files["include/net.h"])
    (tmp_path / "use.cpp").write_text(
        '#include "net.h"\nint main() { return NET_X_ELEMENTS - 108; }\n'
    )
    command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "use.cpp"]
    subprocess.run(command, cwd=tmp_path, check=True)


def test_the_helper_of_the_header_codes_as_the_encoding_does(model: CModel, tmp_path: Path) -> None:
    port = model.inputs[0]
    values = np.array([-1e30, -3.3, -0.01, 0, 0.004, 0.7, 2.9, 1e30], np.float32)
    literals = ", ".join(c_float(float(v)) for v in values)
    (tmp_path / "net.h").write_text(model.files["include/net.h"])
    (tmp_path / "main.c").write_text(
        f"""#include <stdio.h>
#include "net.h"
int main(void) {{
    const float v[] = {{{literals}}};
    for (int i = 0; i < {len(values)}; i++)
        printf("%d ", net_code(v[i], NET_X_SCALE, NET_X_ZERO_POINT));
    return 0;
}}"""
    )
    subprocess.run(["gcc", "-std=c11", "-Wall", "-Werror", "main.c", "-o", "main"], cwd=tmp_path,
                   check=True)  # fmt: skip
    done = subprocess.run([str(tmp_path / "main")], check=True, capture_output=True, text=True)
    assert port.encoding is not None
    scale, zero_point = np.float32(port.encoding.scale[0]), port.encoding.zero_point[0]
    want = np.clip(np.rint(values / scale) + zero_point, -128, 127)
    assert [int(t) for t in done.stdout.split()] == want.astype(int).tolist()


def test_the_helper_for_wide_ports_keeps_to_their_limits(tmp_path: Path) -> None:
    encoding = TensorEncoding(12, (0.5,), (0,))
    ports = [Port(name, (3,), name, "int16", encoding) for name in ("x", "y")]
    part = Part.of((3,), dense((3,)), dense((3,)))
    buffers = {name: Buffer(name, 3, "int16") for name in ("x", "y")}
    call = Call(Copy((part,), 3, "int16"), ("x",), (), ("y",))
    program = Program((ports[0],), (ports[1],), buffers, {}, (call,))
    (tmp_path / "net.h").write_text(emit_c(program, "net", "generic", "1").files["include/net.h"])
    (tmp_path / "main.c").write_text(
        """#include <stdio.h>
#include "net.h"
int main(void) {
    const float v[] = {-1e9F, -1.6F, 0.0F, 700.3F, 1e9F};
    for (int i = 0; i < 5; i++)
        printf("%d ", net_code16(v[i], NET_X_SCALE, NET_X_ZERO_POINT, NET_X_LOW, NET_X_HIGH));
    return 0;
}"""
    )
    subprocess.run(["gcc", "-std=c11", "-Wall", "-Werror", "main.c", "-o", "main"], cwd=tmp_path,
                   check=True)  # fmt: skip
    done = subprocess.run([str(tmp_path / "main")], check=True, capture_output=True, text=True)
    assert [int(t) for t in done.stdout.split()] == [-2048, -3, 0, 1401, 2047]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("a*/b", "a_b"), ("/* x", "_ x"), ("two\nlines", "two lines"), ("plain", "plain"),
     ("*//*", "__"), ("**//", "*_/")],
)  # fmt: skip
def test_comments_cannot_be_ended_from_inside(text: str, wanted: str) -> None:
    assert c_comment(text) == wanted
    assert "*/" not in c_comment(text)


@pytest.mark.parametrize("value", [1.0, 0.1, 1e-8, 3.4e38, 123456.0, 2.0**-126])
def test_float_literals(value: float) -> None:
    text = c_float(value)
    assert text.endswith("F") and re.search(r"[.e]", text)
    assert np.float32(text[:-1]) == np.float32(value)


@pytest.mark.parametrize(
    ("text", "name"), [("A/b:0", "a_b_0"), ("0x", "v0x"), ("::", "value"), ("é", "value")]
)
def test_c_identifier(text: str, name: str) -> None:
    assert c_identifier(text) == name


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("count", [1, 17, 18, 19, 36, 256])
def test_bytes_are_written_as_they_are(dtype: str, count: int) -> None:
    data = np.arange(count).astype(dtype)[::-1].copy()
    constants = Constants("m")
    constants.symbol("w", data)
    (constant,) = constants.items
    assert [int(v) for v in constant.values.split(",")] == data.tolist()
    assert max(map(len, constant.values.splitlines())) <= 100
    assert constant.content == data.tobytes()
