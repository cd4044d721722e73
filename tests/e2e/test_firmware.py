"""The artifact as a package of build systems, and the firmware of examples/stm32f446 at work."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import edgec
from edgec.compiler.api import Artifact
from edgec.compiler.core.elf import read_elf
from edgec.compiler.core.errors import OptionError
from edgec.compiler.layouts import LAYOUTS, write_layouts
from edgec.runtime.devices.base import Array
from edgec.targets import find_target
from tests.e2e.test_c_main import call, need

ROOT = Path(__file__).resolve().parents[2]
DIGITS, FIRMWARE = ROOT / "examples" / "digits", ROOT / "examples" / "stm32f446"
M = pytest.mark.qemu_cortex_m
# What Zephyr's build defines for its modules, in plain CMake.
ZEPHYR = """
macro(zephyr_library_named name)
  set(ZEPHYR_LIBRARY ${name})
  add_library(${name} STATIC)
endmacro()
macro(zephyr_library_sources)
  target_sources(${ZEPHYR_LIBRARY} PRIVATE ${ARGN})
endmacro()
macro(zephyr_library_include_directories)
  target_include_directories(${ZEPHYR_LIBRARY} PRIVATE ${ARGN})
endmacro()
macro(zephyr_library_compile_options)
  target_compile_options(${ZEPHYR_LIBRARY} PRIVATE ${ARGN})
endmacro()
macro(zephyr_include_directories)
  include_directories(${ARGN})
  target_include_directories(${ZEPHYR_LIBRARY} PUBLIC ${ARGN})
endmacro()
"""


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The digits network for an STM32F446, a package of everything."""
    out = tmp_path_factory.mktemp("firmware") / "digits"
    return edgec.compile(
        DIGITS / "digits.onnx", "stm32f446", out, calibration=DIGITS / "calibration.npz",
        layouts=tuple(LAYOUTS), no_passes=("bias-correction", "cross-layer-equalisation"),
        calibration_method="minmax",
    )  # fmt: skip


@pytest.fixture(scope="module")
def firmware(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """examples/stm32f446 built with the artifact by CMake."""
    build = tmp_path_factory.mktemp("build")
    cmake = need("cmake")
    call(
        cmake, "-S", FIRMWARE, "-B", build, "--toolchain", FIRMWARE / "arm-none-eabi.cmake",
        "-DCMAKE_BUILD_TYPE=Release", f"-Ddigits_DIR={artifact.path}",
    )  # fmt: skip
    call(cmake, "--build", build)
    return build / "firmware.elf"


@M
def test_firmware_lies_in_the_memory_of_the_part(artifact: Artifact, firmware: Path) -> None:
    elf, spec = read_elf(firmware), find_target("stm32f446")[0]
    assert spec.flash_bytes and spec.ram_bytes and artifact.manifest.memory.flash_bytes
    assert artifact.manifest.memory.flash_bytes < elf.flash_bytes < spec.flash_bytes
    assert artifact.manifest.memory.arena_bytes < elf.static_ram_bytes < spec.ram_bytes
    assert elf.address("stack_top") == 0x20000000 + spec.ram_bytes
    assert elf.address("vectors") == 0x08000000
    script = (FIRMWARE / "stm32f446.ld").read_text()
    assert f"0x08000000, LENGTH = {spec.flash_bytes >> 10}K" in script
    assert f"0x20000000, LENGTH = {spec.ram_bytes >> 10}K" in script


def digits(artifact: Artifact, count: int) -> Iterator[tuple[Array, int]]:
    """Yield input codes of test images, and the digit that ONNX Runtime sees in the codes."""
    from edgec.compiler.frontend.reference import Reference

    (port,) = artifact.manifest.inputs
    assert port.encoding is not None
    runner = Reference(artifact.path / "model.quant.onnx")
    with np.load(DIGITS / "test.npz", allow_pickle=False) as data:
        for image in data["image"][:count]:
            answer = runner.run({"image": image[None]})["logits"]
            yield port.encoding.quantise(image), int(answer.argmax())


@M
def test_firmware_answers_on_its_serial_port(artifact: Artifact, firmware: Path) -> None:
    # The STM32F405 of this board has the core, the RAM and the serial port of the F446.
    command = [
        "qemu-system-arm", "-M", "netduinoplus2", "-nographic", "-monitor", "none",
        "-serial", "null", "-serial", "stdio", "-kernel", str(firmware),
    ]  # fmt: skip
    board = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert board.stdin is not None and board.stdout is not None
    try:
        assert board.stdout.readline() == b"ready\n"
        for codes, digit in digits(artifact, 3):
            board.stdin.write(codes.tobytes())
            board.stdin.flush()
            assert board.stdout.readline() == f"{digit}\n".encode()
    finally:
        board.kill()
        board.communicate()


@M
def test_zephyr_module_compiles_when_it_is_chosen(artifact: Artifact, tmp_path: Path) -> None:
    module = artifact.path / "zephyr"
    lines = (module / "module.yml").read_text().splitlines()
    assert lines[1:] == [
        "name: edgec_digits", "build:", "  cmake: zephyr", "  kconfig: zephyr/Kconfig",
    ]  # fmt: skip
    assert "config EDGEC_DIGITS\n\tbool" in (module / "Kconfig").read_text()
    (tmp_path / "app.c").write_text(
        '#include "digits.h"\nchar arena[DIGITS_ARENA_BYTES];\n'
        "int app(int8_t *x, int8_t *y) { return (int)digits_run(x, y, arena); }\n"
    )
    (tmp_path / "CMakeLists.txt").write_text(
        f"cmake_minimum_required(VERSION 3.20)\nproject(app C)\n{ZEPHYR}"
        f"add_subdirectory({module} module)\nadd_library(app STATIC app.c)\n"
        "if(CONFIG_EDGEC_DIGITS)\ntarget_link_libraries(app edgec_digits)\nendif()\n"
    )
    toolchain = FIRMWARE / "arm-none-eabi.cmake"
    configure = (need("cmake"), "-S", tmp_path, "--toolchain", toolchain)
    call(*configure, "-B", tmp_path / "on", "-DCONFIG_EDGEC_DIGITS=y")
    call("cmake", "--build", tmp_path / "on")
    assert list((tmp_path / "on").rglob("libedgec_digits.a"))
    call(*configure, "-B", tmp_path / "off")
    with pytest.raises(AssertionError, match=r"digits\.h"):
        call("cmake", "--build", tmp_path / "off")


@M
@pytest.mark.parametrize("level", ["-O0", "-O1", "-Og", "-Os"])
@pytest.mark.parametrize("layout", ["arduino", "platformio"])
def test_library_compiles_as_the_tool_does(
    artifact: Artifact, layout: str, level: str, tmp_path: Path
) -> None:
    """Arduino compiles src with src alone on the path; PlatformIO with what library.json says."""
    root = artifact.path
    if layout == "arduino":
        text = (root / "library.properties").read_text()
        found = dict(line.split("=", 1) for line in text.splitlines())
        assert found["name"] == "digits" and found["includes"] == "digits.h"
        assert {"version", "author", "maintainer", "sentence", "category"} <= set(found)
        include, flags, header = root / "src", list[str](), found["includes"]
    else:
        found = json.loads((root / "library.json").read_text())
        assert found["name"] == "digits" and found["version"] == edgec.__version__
        build = found["build"]
        include, flags, header = root / build["includeDir"], build["flags"], found["headers"]
        assert (root / build["srcDir"]).is_dir()
    spec, _ = find_target("stm32f446")
    for source in (root / "src").glob("*.c"):
        call(
            spec.cc, level, *spec.cflags, *flags, "-Wall", "-Wextra", "-Werror", f"-I{include}",
            "-c", source, "-o", tmp_path / f"{source.stem}.o",
        )  # fmt: skip
    (tmp_path / "sketch.cpp").write_text(
        f"#include <{header}>\nalignas(16) static uint8_t arena[DIGITS_ARENA_BYTES];\n"
        "int8_t x[DIGITS_IMAGE_ELEMENTS], y[DIGITS_LOGITS_ELEMENTS];\n"
        'extern "C" int main() { return (int)digits_run(x, y, arena); }\n'
    )
    call(
        need("arm-none-eabi-g++"), *spec.cflags, f"-I{include}", tmp_path / "sketch.cpp",
        *tmp_path.glob("*.o"), "-nostartfiles", "-Wl,--entry=main", "--specs=nano.specs",
        "--specs=nosys.specs", "-o", tmp_path / "sketch.elf",
    )  # fmt: skip
    assert read_elf(tmp_path / "sketch.elf").address("digits_run")


def test_layouts_are_written_when_asked_for_only(tmp_path: Path) -> None:
    for folder in ("include", "src"):
        (tmp_path / folder).mkdir()
    write_layouts(tmp_path, "net", ())
    assert {p.name for p in tmp_path.iterdir()} == {
        "include", "src", "CMakeLists.txt", "net-config.cmake",
    }  # fmt: skip
    assert "@" not in (tmp_path / "net-config.cmake").read_text()
    (tmp_path / "src" / "net.cu").touch()
    with pytest.raises(OptionError, match="layout zephyr is for microcontrollers"):
        write_layouts(tmp_path, "net", ("zephyr",))


def test_no_template_is_left_over() -> None:
    used = {template for files in LAYOUTS.values() for template in files.values()}
    folder = ROOT / "compiler" / "templates"
    assert used == {p.relative_to(folder).as_posix() for p in (folder / "layouts").iterdir()}
