"""The C of an artifact under strict compilers, and examples/c_main built and run with it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import edgec
from edgec.runtime.devices.base import Array
from edgec.targets import find_target

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits"
MAIN = ROOT / "examples" / "c_main" / "main.c"
STRICT = (
    "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion",
    "-Wsign-conversion", "-Wshadow", "-Wundef", "-Wcast-qual", "-Wstrict-prototypes",
    "-Wmissing-prototypes",
)  # fmt: skip
# What a freestanding program has to provide: GCC's own demands, and libgcc.
ALLOWED_UNDEFINED = ("memcpy", "memset", "__aeabi_", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail")

# main() on the Cortex-M port of the check program: files of the host as stdin and stdout.
RETARGET = """
#include <stddef.h>
#include <stdio.h>
#include "edgec_port.h"
int main(void);
int check_main(void) { int status = main(); fflush(NULL); return status; }
int _read(int file, char *to, int bytes) { (void)file; return (int)port_read(to, (size_t)bytes); }
int _write(int file, const char *from, int bytes)
{
    (void)file;
    return port_write(from, (size_t)bytes) == 0 ? bytes : -1;
}
void *_sbrk(ptrdiff_t bytes)
{
    static _Alignas(8) char heap[8192];
    static ptrdiff_t used;
    if (used + bytes > (ptrdiff_t)sizeof heap)
        return (void *)-1;
    used += bytes;
    return heap + used - bytes;
}
int _close(int file) { (void)file; return 0; }
int _isatty(int file) { (void)file; return 0; }
int _lseek(int file, int to, int from) { (void)file; (void)to; (void)from; return 0; }
int _fstat(int file, void *state) { (void)file; (void)state; return -1; }
"""

Compiled = Callable[[str], Path]


def need(tool: str) -> str:
    """Return the path of a tool; skip without it unless EDGEC_REQUIRE names it."""
    path = shutil.which(tool)
    if path is None:
        if tool in os.environ.get("EDGEC_REQUIRE", "").split(","):
            pytest.fail(f"EDGEC_REQUIRE names {tool}, but it is not installed", pytrace=False)
        pytest.skip(f"not installed: {tool}")
    return path


def call(*command: str | Path, stdin: bytes = b"", cwd: Path | None = None) -> bytes:
    """Run a command that must succeed; returns stdout."""
    done = subprocess.run(
        [str(c) for c in command], input=stdin, capture_output=True, check=False, cwd=cwd
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """compiled(target) -> artifact of the digits network, made once each."""
    folder = tmp_path_factory.mktemp("c-main")

    def build(target: str) -> Path:
        out = folder / target
        if not out.exists():
            edgec.compile(
                DIGITS / "digits.onnx", target, out, calibration=DIGITS / "calibration.npz"
            )
        return out

    return build


@pytest.fixture(scope="module")
def images() -> Array:
    """Test images, [5, 1, 1, 8, 8]."""
    with np.load(DIGITS / "test.npz", allow_pickle=False) as data:
        return data["image"][:5, None]


def expected(artifact: Path, images: Array) -> tuple[Array, Array]:
    """Return input and output codes of a host artifact in this process."""
    model = edgec.load(artifact)
    (port,) = model.manifest.inputs
    assert port.encoding is not None
    codes = port.encoding.quantise(images)
    return codes, np.stack([model.run_codes({"image": c})["logits"] for c in codes])


def logits(program: Path, codes: Array) -> Array:
    """Run main.c's program on every image."""
    answers = [call(program, stdin=c.tobytes()) for c in codes]
    return np.stack([np.frombuffer(a, np.int8).reshape(1, 10) for a in answers])


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_main_runs_on_the_host(
    compiler: str, compiled: Compiled, images: Array, tmp_path: Path
) -> None:
    cc, artifact = need(compiler), compiled("host")
    include, library = artifact / "include", artifact / "lib" / "libdigits.a"
    call(cc, *STRICT, f"-I{include}", MAIN, library, "-o", tmp_path / "main")
    codes, answers = expected(artifact, images)
    np.testing.assert_array_equal(logits(tmp_path / "main", codes), answers)
    assert len({a.tobytes() for a in answers}) == len(answers)


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("standard", ["-std=c11", "-std=c17", "-std=gnu11"])
def test_sources_compile_without_a_warning(
    compiler: str, standard: str, compiled: Compiled, tmp_path: Path
) -> None:
    cc, artifact = need(compiler), compiled("host")
    sources = sorted((artifact / "src").glob("*.c"))
    assert len(sources) == 2
    for source in sources:
        flags = (*STRICT, standard, f"-I{artifact / 'include'}")
        call(cc, *flags, "-c", source, "-o", tmp_path / f"{source.stem}.o")


def test_sources_have_no_undefined_behaviour(
    compiled: Compiled, images: Array, tmp_path: Path
) -> None:
    artifact = compiled("host")
    sources = sorted((artifact / "src").glob("*.c"))
    sanitise = ("-fsanitize=undefined,address", "-fno-sanitize-recover=all")
    include = f"-I{artifact / 'include'}"
    call(need("gcc"), *STRICT, *sanitise, include, MAIN, *sources, "-o", tmp_path / "main")
    codes, answers = expected(artifact, images)
    np.testing.assert_array_equal(logits(tmp_path / "main", codes), answers)


def test_header_serves_cpp(compiled: Compiled, tmp_path: Path) -> None:
    cc = need("clang")
    source = tmp_path / "use.cpp"
    source.write_text('#include "digits.h"\nint main() { return digits_run(0, 0, 0); }\n')
    # No C++ library is needed, so neither is g++.
    include = f"-I{compiled('host') / 'include'}"
    call(cc, "-x", "c++", "-std=c++17", "-Wall", "-Wextra", "-Werror", include, "-c", source,
         "-o", tmp_path / "use.o")  # fmt: skip


def symbols(nm: str, library: Path) -> dict[str, set[str]]:
    """Return the names in a library by nm's letter."""
    found: dict[str, set[str]] = {}
    for line in call(nm, library).decode().splitlines():
        parts = line.split()
        if len(parts) >= 2 and not line.endswith(":"):
            found.setdefault(parts[-2], set()).add(parts[-1])
    return found


def check_library(nm: str, library: Path) -> None:
    """Only constants and code; nothing needed but memcpy, memset and libgcc."""
    found = symbols(nm, library)
    assert "digits_run" in found["T"]
    assert not set(found) & set("BbDdCGgSs"), "writable data"
    defined = set().union(*(names for letter, names in found.items() if letter != "U"))
    foreign = found["U"] - defined
    assert not [n for n in foreign if not n.startswith(ALLOWED_UNDEFINED)]


def test_host_library_is_code_and_constants(compiled: Compiled) -> None:
    check_library("nm", compiled("host") / "lib" / "libdigits.a")


@pytest.mark.qemu_cortex_m
def test_cortex_m_library_is_code_and_constants(compiled: Compiled) -> None:
    check_library("arm-none-eabi-nm", compiled("cortex-m4") / "lib" / "libdigits.a")


@pytest.mark.qemu_aarch64
def test_aarch64_library_is_code_and_constants(compiled: Compiled) -> None:
    check_library("aarch64-linux-gnu-nm", compiled("aarch64") / "lib" / "libdigits.a")


@pytest.mark.qemu_aarch64
def test_main_runs_on_aarch64(compiled: Compiled, images: Array, tmp_path: Path) -> None:
    artifact, program = compiled("aarch64"), tmp_path / "main"
    include, library = f"-I{artifact / 'include'}", artifact / "lib" / "libdigits.a"
    call("aarch64-linux-gnu-gcc", *STRICT, "-static", include, MAIN, library, "-o", program)
    codes, answers = expected(compiled("host"), images)
    for code, answer in zip(codes, answers, strict=True):
        assert call("qemu-aarch64", program, stdin=code.tobytes()) == answer.tobytes()


@pytest.mark.qemu_cortex_m
def test_main_runs_on_cortex_m(compiled: Compiled, images: Array, tmp_path: Path) -> None:
    artifact = compiled("cortex-m4")
    spec, _ = find_target("cortex-m4")
    cpu: Sequence[str] = (*spec.cflags, "-ffunction-sections")
    include, library = f"-I{artifact / 'include'}", artifact / "lib" / "libdigits.a"
    port = ROOT / "runtime" / "c" / "port"
    (tmp_path / "retarget.c").write_text(RETARGET)
    call(spec.cc, *STRICT, *cpu, include, "-c", MAIN, "-o", tmp_path / "main.o")
    call(
        spec.cc, "-O2", *cpu, f"-I{port}", tmp_path / "retarget.c", port / "port_cortex_m.c",
        tmp_path / "main.o", library, "-nostartfiles", "--specs=nano.specs", f"-L{port}",
        f"-T{port / f'{spec.machine}.ld'}", "-o", tmp_path / "main.elf",
    )  # fmt: skip
    codes, answers = expected(compiled("host"), images)
    for code, answer in zip(codes, answers, strict=True):
        (tmp_path / "in.bin").write_bytes(code.tobytes())
        call(
            "qemu-system-arm", "-M", spec.machine, "-nographic", "-monitor", "none",
            "-serial", "none", "-semihosting-config", "enable=on,target=native",
            "-kernel", "main.elf", cwd=tmp_path,
        )  # fmt: skip
        assert (tmp_path / "out.bin").read_bytes() == answer.tobytes()


def test_artifact_builds_with_cmake(compiled: Compiled, images: Array, tmp_path: Path) -> None:
    cmake, artifact = need("cmake"), compiled("host")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.13)\nproject(demo C)\n"
        f"add_subdirectory({artifact} digits)\nadd_executable(demo {MAIN})\n"
        "target_link_libraries(demo edgec::digits)\n"
    )
    call(cmake, "-S", tmp_path, "-B", tmp_path / "build", "-DCMAKE_BUILD_TYPE=Release")
    call(cmake, "--build", tmp_path / "build")
    codes, answers = expected(artifact, images)
    np.testing.assert_array_equal(logits(tmp_path / "build" / "demo", codes), answers)
