"""Seeds, tool markers and the hand-written C model that the target and device tests build.

A test marked qemu_cortex_m, qemu_aarch64, cuda, rpc, chromium or real is skipped where what it
needs is missing; EDGEC_REQUIRE (a comma list of markers) turns that skip into a failure.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import hypothesis
import numpy as np
import pytest

from edgec.compiler.core.artifact import (
    SCHEMA_VERSION,
    Manifest,
    MemoryInfo,
    PortInfo,
    hash_files,
)
from edgec.compiler.core.tools import missing_tools
from edgec.targets import find_target
from tools.browser import chromium

SEED = int(os.environ.get("EDGEC_SEED", "20261125"))
SHARED = Path(__file__).resolve().parents[1].parent / "shared"
_EXAMPLE_TARGET = {"qemu_cortex_m": "cortex-m4", "qemu_aarch64": "aarch64", "cuda": "cuda-sm80"}

# A busy machine is no reason to fail.
hypothesis.settings.register_profile("edgec", deadline=None)
hypothesis.settings.load_profile("edgec")

BuildTiny = Callable[..., tuple[Path, Manifest]]


def pytest_report_header() -> str:
    required = os.environ.get("EDGEC_REQUIRE", "")
    return f"edgec: EDGEC_SEED={SEED} EDGEC_REQUIRE={required}"


def _unmet(marker: str) -> str | None:
    if marker == "chromium":
        absent = {"chromium": chromium(), "pdftoppm": shutil.which("pdftoppm")}
        names = [name for name, path in absent.items() if path is None]
        return f"not installed: {', '.join(names)}" if names else None
    if marker == "rpc":
        modules = ("cloudpickle", "psutil", "tornado")
        names = [name for name in modules if importlib.util.find_spec(name) is None]
        return f"not installed: {', '.join(names)}" if names else None
    if marker == "real":
        return None if SHARED.is_dir() else f"no trained models in '{SHARED}'"
    _, backend = find_target(_EXAMPLE_TARGET[marker])
    absent = missing_tools((*backend.build_tools, *backend.check_tools))
    return f"not installed: {', '.join(t.name for t in absent)}" if absent else None


def pytest_runtest_setup(item: pytest.Item) -> None:
    required = os.environ.get("EDGEC_REQUIRE", "").split(",")
    for marker in ("qemu_cortex_m", "qemu_aarch64", "cuda", "rpc", "chromium", "real"):
        if item.get_closest_marker(marker) is None or (reason := _unmet(marker)) is None:
            continue
        if marker in required:
            pytest.fail(f"EDGEC_REQUIRE names {marker}, but {reason}", pytrace=False)
        pytest.skip(reason)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A generator seeded by EDGEC_SEED and the test's own id."""
    return np.random.default_rng([SEED, zlib.crc32(request.node.nodeid.encode())])


@pytest.fixture
def shared() -> Path:
    """The folder of trained models; use with the marker `real`."""
    return SHARED


TINY_INPUTS = (
    PortInfo(
        name="x:0", c_name="x", shape=(4, 5), dtype="int8", elements=20,
        scale=0.5, zero_point=-3, bits=8,
    ),
)  # fmt: skip
TINY_OUTPUTS = (
    PortInfo(
        name="y", c_name="y", shape=(4, 5), dtype="int8", elements=20,
        scale=0.25, zero_point=1, bits=8,
    ),
    PortInfo(name="sum", c_name="sum", shape=(1,), dtype="int32", elements=1),
)  # fmt: skip

_HEADER = """
#ifndef TINY_H
#define TINY_H
#include <stdint.h>
#define TINY_ARENA_BYTES 64
int32_t tiny_run(const int8_t *x, int8_t *y, int32_t *sum, void *arena);
#endif
"""
# y = x + 1 (saturated), sum = sum of tiny_weights * x; by way of the arena.
_SOURCE = """
#include "tiny.h"
#include "tiny_weights.h"
#ifdef __aarch64__
#define LOOP(n) __asm__ volatile("mov x9, " #n "\\n1: subs x9, x9, 1\\n b.ne 1b" ::: "x9", "cc")
#else
#define LOOP(n) __asm__ volatile("movw r3, " #n "\\n1: subs r3, r3, 1\\n bne 1b" ::: "r3", "cc")
#endif
#define FILL_STACK(n) char big[n]; for (volatile char *p = big; p < big + n;) *p++ = 1
int32_t tiny_run(const int8_t *x, int8_t *y, int32_t *sum, void *arena)
{
    int8_t *copy = arena;
    int32_t total = 0;
    for (int i = 0; i < 20; i++)
        copy[i] = x[i] < 127 ? x[i] + 1 : 127;
    for (int i = 0; i < 20; i++) {
        y[i] = copy[i];
        total += tiny_weights[i] * x[i];
    }
    *sum = total;
    BEHAVIOUR
    return 0;
}
"""
TINY_BEHAVIOURS = {
    "good": "",
    "overruns": "((volatile int8_t *)y)[20] = 0;",
    "overruns_arena": "((volatile int8_t *)arena)[64] = 0;",
    "faults": "*(volatile uint32_t *)0xF0000000u = 1;",
    "undefined": "__builtin_trap();",
    "fails": "return 7;",
    "hangs": "for (;;) __asm__ volatile(\"\");",
    "loops_1000": "LOOP(1000);",
    "loops_3000": "LOOP(3000);",
    "eats_stack": "FILL_STACK(60000);",
    "overflows": "FILL_STACK(400000);",
}  # fmt: skip


def write_tiny(folder: Path, behaviour: str = "good") -> None:
    """Write include/ and src/ of the tiny model as the compiler would."""
    (folder / "include").mkdir(parents=True)
    (folder / "src").mkdir()
    (folder / "include" / "tiny.h").write_text(_HEADER)
    (folder / "src" / "tiny_weights.h").write_text("extern const signed char tiny_weights[20];\n")
    weights = ", ".join(str(i - 10) for i in range(20))
    (folder / "src" / "tiny_weights.c").write_text(
        f'#include "tiny_weights.h"\nconst signed char tiny_weights[20] = {{{weights}}};\n'
    )
    source = _SOURCE.replace("BEHAVIOUR", TINY_BEHAVIOURS[behaviour])
    (folder / "src" / "tiny.c").write_text(source)


def tiny_manifest(target: str, files: dict[str, str]) -> Manifest:
    """Return the manifest of a tiny artifact."""
    return Manifest(
        schema_version=SCHEMA_VERSION, edgec_version="0.1.0", versions={"numpy": "2"},
        command="tests", seed=SEED, name="tiny", target=target, source_sha256="0" * 64,
        files=files, inputs=TINY_INPUTS, outputs=TINY_OUTPUTS,
        memory=MemoryInfo(arena_bytes=64, weights_bytes=20), macs=20, timings_s={},
    )  # fmt: skip


@pytest.fixture(scope="session")
def build_tiny(tmp_path_factory: pytest.TempPathFactory) -> BuildTiny:
    """build_tiny(target, behaviour="good") -> (artifact folder, manifest), built once each."""
    built: dict[tuple[str, str], tuple[Path, Manifest]] = {}

    def build(target: str, behaviour: str = "good") -> tuple[Path, Manifest]:
        key = (target, behaviour)
        if key not in built:
            folder = tmp_path_factory.mktemp(f"tiny-{target}-{behaviour}")
            write_tiny(folder, behaviour)
            spec, backend = find_target(target)
            backend.compile_library(spec, folder, "tiny", folder)
            backend.link_check(spec, folder, "tiny", TINY_INPUTS, TINY_OUTPUTS)
            manifest = tiny_manifest(target, hash_files(folder))
            (folder / "manifest.json").write_text(manifest.to_json())
            built[key] = folder, manifest
        return built[key]

    return build
