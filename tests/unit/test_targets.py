from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from edgec.compiler.core.artifact import PortInfo
from edgec.compiler.core.elf import FunctionTable, read_elf
from edgec.compiler.core.errors import EdgecError, OptionError, ToolMissingError
from edgec.compiler.core.tools import GCC, NVRTC, Tool, install_line, require_tools
from edgec.targets import TargetSpec, cores, find_target, targets
from edgec.targets.doctor import diagnose
from edgec.targets.harness import check_ports_header, empty_model
from edgec.targets.nvrtc import compile_cubin

PORT = PortInfo(name="x", c_name="x", shape=(3,), dtype="int16", elements=3)
OTHER = PortInfo(name="y", c_name="y", shape=(2,), dtype="float32", elements=2)


def test_unknown_target_suggests_the_nearest() -> None:
    with pytest.raises(OptionError, match="did you mean cortex-m4") as caught:
        find_target("cortexm4")
    assert "aarch64-neoverse-n1" in str(caught.value)
    with pytest.raises(OptionError, match=r"unknown\. Known"):
        find_target("zzzzzz")


@pytest.mark.parametrize(
    "changes",
    [
        {"family": "riscv"},
        {"isa": "avx"},
        {"optimisation": "-O9"},
        {"machine": ""},
        {"flash_bytes": 0},
        {"cc": ""},
    ],
    ids=str,
)
def test_wrong_spec_is_refused(changes: dict[str, str | int]) -> None:
    spec, _ = find_target("cortex-m4")
    with pytest.raises(ValueError, match="target 'cortex-m4'"):
        replace(spec, **changes)


def test_inner_loops_follow_the_core() -> None:
    isa = {
        name: find_target(name)[0].isa
        for name in ("host", "aarch64", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55")
    }
    assert list(isa.values()) == ["generic", "neon", "dsp", "dsp", "dsp", "mve"]


def test_missing_tool_gives_the_line_that_installs_it() -> None:
    absent = Tool("hexagon gcc", "edgec-no-such-program", "gcc-hexagon", "compiles")
    with pytest.raises(ToolMissingError, match="sudo apt-get install gcc-hexagon"):
        require_tools([GCC, absent], "target 'hexagon'")
    assert install_line([absent, GCC]) == "sudo apt-get install gcc gcc-hexagon"


def test_library_that_the_compiler_does_not_know_is_missing() -> None:
    assert replace(GCC, library="edgec_no_such.o").find() is None


def test_compile_without_tools_names_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    spec, backend = find_target("cortex-m33")
    assert {t.debian_package for t in backend.missing(spec)} == {
        "gcc-arm-none-eabi",
        "libnewlib-arm-none-eabi",
    }
    with pytest.raises(ToolMissingError, match=r"target 'cortex-m33' needs arm gcc, newlib"):
        backend.compile_library(spec, tmp_path, "m", tmp_path)


def test_without_nvrtc_gpus_are_named_with_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(distribution: str, name: str) -> None: ...

    monkeypatch.setattr("edgec.compiler.core.tools._file_of", nothing)
    spec, backend = find_target("cuda-sm90")
    assert [t.name for t in backend.missing(spec)] == ["nvrtc"]
    with pytest.raises(ToolMissingError, match=r"'cuda-sm90' needs nvrtc; .*: pip install nvidia"):
        backend.compile_library(spec, tmp_path, "m", tmp_path)
    checks = {check.tool: check for check in diagnose()}
    assert not checks["nvrtc"].found and "jetson-orin" in checks["nvrtc"].needed_for
    assert checks["nvdisasm"].needed_for == ("tests",)


def test_both_kinds_of_packages_are_installed_by_one_line() -> None:
    line = install_line([NVRTC, GCC])
    assert line == "sudo apt-get install gcc && pip install nvidia-cuda-nvrtc-cu12==12.9.86"


@pytest.mark.cuda
def test_nvrtc_says_what_it_rejects() -> None:
    with pytest.raises(EdgecError, match=r"NVRTC rejected m\.cu for sm_80: .*\berror\b.*nonsense"):
        compile_cubin("nonsense x;", "m.cu", {}, "sm_80")


@pytest.mark.cuda
def test_folder_without_kernels_is_refused(tmp_path: Path) -> None:
    spec, backend = find_target("cuda-sm80")
    with pytest.raises(EdgecError, match=r"holds no m\.cu"):
        backend.compile_library(spec, tmp_path, "m", tmp_path)


def test_rejected_source_quotes_the_compiler(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "m.c").write_text("int f(void) { int unused; return 0; }\n")
    spec, backend = find_target("host")
    with pytest.raises(EdgecError, match=r"src/m\.c:1:19: error: unused variable"):
        backend.compile_library(spec, tmp_path, "m", tmp_path)
    assert not list(tmp_path.glob("lib/*"))


def test_folder_without_source_is_refused(tmp_path: Path) -> None:
    spec, backend = find_target("host")
    with pytest.raises(EdgecError, match="holds no C file"):
        backend.compile_library(spec, tmp_path, "m", tmp_path)


def test_check_header_lists_ports_in_order() -> None:
    text = check_ports_header("net", [PORT], [OTHER])
    assert "#define CHECK_INPUTS(PORT) PORT(int16_t, x, 3)\n" in text
    assert "#define CHECK_OUTPUTS(PORT) PORT(float, y, 2)\n" in text
    assert "net_run(buffer_x.data, buffer_y.data, arena)" in text
    assert "#define CHECK_ARENA_BYTES NET_ARENA_BYTES\n" in text


def test_model_without_inputs_cannot_be_checked() -> None:
    with pytest.raises(ValueError, match="needs an input"):
        check_ports_header("net", [], [OTHER])


def test_empty_model_has_the_same_prototype() -> None:
    header, source = empty_model("net", [PORT], [OTHER])
    declared = "int32_t net_run(const int16_t *x, float *y, void *arena)"
    assert declared + ";" in header
    assert declared + " {" in source


def test_elf_reader_refuses_other_files() -> None:
    with pytest.raises(ValueError, match="ELF"):
        read_elf(Path(__file__))


def test_elf_symbols_agree_with_nm(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text(
        "int zero[100]; int data[25] = {1};\n"
        "__attribute__((noinline)) int one(int x) { return x + zero[x]; }\n"
        "int main(int n, char **v) { (void)v; return one(n) + data[n]; }\n"
    )
    command = ["gcc", "-O1", "-no-pie", "a.c", "-o", "a.elf"]
    subprocess.run(command, cwd=tmp_path, check=True)
    elf = read_elf(tmp_path / "a.elf")
    sizes = {s.name: s.size_bytes for s in elf.symbols}
    assert (sizes["zero"], sizes["data"]) == (400, 100)
    table = FunctionTable.of(elf)
    assert table.name_at(elf.address("one")) == "one"
    assert table.name_at(elf.address("main") + 1) == "main"
    assert table.name_at(0) is None
    listed = subprocess.run(
        ["nm", "a.elf"], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    expected = {line.split()[2]: int(line.split()[0], 16) for line in listed if line[0] != " "}
    assert {name: elf.address(name) for name in ("one", "main", "data")} == {
        name: expected[name] for name in ("one", "main", "data")
    }
    with pytest.raises(KeyError):
        elf.address("no_such_symbol")


def test_doctor_reports_found_and_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = {check.tool: check for check in diagnose()}
    assert checks["python"].found and checks["numpy"].found and checks["gcc"].found
    assert "gcc" in str(checks["gcc"].version)
    assert "host" in checks["gcc"].needed_for
    monkeypatch.setenv("PATH", str(tmp_path))
    bare = {check.tool: check for check in diagnose()}
    assert not bare["gcc"].found and not bare["qemu-system"].found
    assert bare["qemu-system"].needed_for == ("cortex-m33", "cortex-m4", "cortex-m55", "cortex-m7")
    assert bare["newlib"].install == "sudo apt-get install libnewlib-arm-none-eabi"


def test_spec_is_frozen_data() -> None:
    spec, _ = find_target("host")
    assert isinstance(spec, TargetSpec)
    with pytest.raises(AttributeError):
        spec.name = "other"  # pyright: ignore[reportAttributeAccessIssue]


def test_boards_are_built_as_their_cores() -> None:
    boards = [spec for spec, _ in targets().values() if spec.core]
    assert {b.name for b in boards} >= {
        "stm32f446", "stm32f746", "stm32h743", "nrf52840", "rp2350", "mps3-an547",
        "raspberry-pi-4", "raspberry-pi-5",
    }  # fmt: skip
    assert not {b.name for b in boards} & set(cores())
    for board in boards:
        core, backend = find_target(board.core)
        same = replace(
            core, name=board.name, core=core.name, description=board.description,
            flash_bytes=board.flash_bytes, ram_bytes=board.ram_bytes,
        )  # fmt: skip
        assert board == same and find_target(board.name)[1] is backend
        assert board.ram_bytes and board.description != core.description
