from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgec.compiler.core.artifact import Manifest, PortInfo
from edgec.compiler.core.elf import Elf, Symbol
from edgec.compiler.core.errors import DataError, DeviceError, OptionError
from edgec.runtime.devices import Local, QemuSystem, QemuUser, device_for
from edgec.runtime.devices.base import pack_samples, stored_samples, unpack_samples
from edgec.runtime.devices.counter import plugin
from edgec.runtime.devices.faults import decode_fault, exit_reason
from edgec.runtime.loader import load
from edgec.targets import find_target

X = np.arange(60, dtype=np.int8).reshape(3, 4, 5)
ELF = Elf((), (Symbol("conv", 0x100, 0x40, True), Symbol("table", 0x200, 8, False)))
EMULATED = [
    pytest.param("cortex-m4", marks=pytest.mark.qemu_cortex_m),
    pytest.param("cortex-m33", marks=pytest.mark.qemu_cortex_m),
    pytest.param("cortex-m55", marks=pytest.mark.qemu_cortex_m),
    pytest.param("aarch64", marks=pytest.mark.qemu_aarch64),
]


def _run(build_tiny: Any, target: str, behaviour: str, **options: Any) -> Any:
    spec, _ = find_target(target)
    folder, manifest = build_tiny(target, behaviour)
    return device_for(spec, timeout_s=60).run(folder, manifest, {"x:0": X}, **options)


def test_each_family_has_its_device() -> None:
    devices = [device_for(find_target(t)[0]) for t in ("host", "aarch64-cortex-a72", "cortex-m7")]
    assert devices == [Local(), QemuUser("cortex-a72"), QemuSystem("mps2-an500")]


@pytest.mark.parametrize("target", ["host", *EMULATED])
@pytest.mark.parametrize(
    ("behaviour", "said"),
    [("overruns", "'y'"), ("overruns_arena", "'arena'"), ("fails", "status 7")],
)
def test_misbehaviour_is_reported(build_tiny: Any, target: str, behaviour: str, said: str) -> None:
    with pytest.raises(DeviceError, match=said):
        _run(build_tiny, target, behaviour)


@pytest.mark.qemu_cortex_m
@pytest.mark.parametrize("target", ["cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55"])
def test_bus_fault_names_address_and_function(build_tiny: Any, target: str) -> None:
    with pytest.raises(DeviceError, match=r"data bus error at address 0xf0000000, in tiny_run"):
        _run(build_tiny, target, "faults")


@pytest.mark.parametrize("target", EMULATED)
def test_trap_is_reported(build_tiny: Any, target: str) -> None:
    with pytest.raises(DeviceError, match=r"undefined instruction, in tiny_run|signal 5"):
        _run(build_tiny, target, "undefined")


@pytest.mark.parametrize("target", EMULATED)
def test_stack_is_measured_and_its_overflow_found(build_tiny: Any, target: str) -> None:
    small = _run(build_tiny, target, "good").stack_bytes
    large = _run(build_tiny, target, "eats_stack").stack_bytes
    assert 0 <= small <= 64
    assert 60000 <= large <= 60064
    with pytest.raises(DeviceError, match=r"more stack|stack overflow"):
        _run(build_tiny, target, "overflows")


@pytest.mark.parametrize("target", EMULATED)
def test_two_instructions_per_turn_are_counted_exactly(build_tiny: Any, target: str) -> None:
    few = _run(build_tiny, target, "loops_1000").instructions
    many = _run(build_tiny, target, "loops_3000").instructions
    assert [b - a for a, b in zip(few, many, strict=True)] == [4000] * 3


@pytest.mark.parametrize("target", EMULATED)
def test_profile_names_the_functions(build_tiny: Any, target: str) -> None:
    result = _run(build_tiny, target, "good", profile=True)
    assert list(result.profile) == ["tiny_run"]
    harness = result.instructions_per_inference - sum(result.profile.values())
    assert 0 <= harness <= 10
    assert _run(build_tiny, target, "good").profile is None


@pytest.mark.qemu_cortex_m
def test_hang_ends_at_the_time_limit(build_tiny: Any) -> None:
    folder, manifest = build_tiny("cortex-m4", "hangs")
    with pytest.raises(DeviceError, match="no answer within 2 s"):
        QemuSystem("mps2-an386", timeout_s=2).run(folder, manifest, {"x:0": X})


@pytest.mark.qemu_aarch64
def test_artifact_without_firmware_is_refused(build_tiny: Any, tmp_path: Path) -> None:
    _, manifest = build_tiny("host")
    with pytest.raises(DeviceError, match=r"no firmware/check\.elf; compile the model"):
        QemuUser("cortex-a53").run(tmp_path, manifest, {"x:0": X})


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, "takes"),
        ({"x:0": X, "more": X}, "takes"),
        ({"x:0": X[0]}, "shape"),
        ({"x:0": X[:0]}, "no sample"),
        ({"x:0": X.astype(np.float32)}, "float32 values that int8"),
        ({"x:0": X.astype(np.int32) + 100}, "int32 values that int8"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    build_tiny: Any, inputs: dict[str, NDArray[Any]], said: str
) -> None:
    folder, manifest = build_tiny("host")
    with pytest.raises(DataError, match=said):
        Local().run(folder, manifest, inputs)


def test_samples_must_agree() -> None:
    port = PortInfo(name="a", c_name="a", shape=(2,), dtype="int16", elements=2)
    other = port.model_copy(update={"name": "b", "c_name": "b"})
    manifest = Manifest.model_construct(name="m", inputs=(port, other))
    zeros = np.zeros((3, 2), np.int16)
    with pytest.raises(DataError, match="differ in their samples"):
        stored_samples(manifest, {"a": zeros, "b": zeros[:2]})


def test_packing_interleaves_samples(rng: np.random.Generator) -> None:
    ports = (
        PortInfo(name="a", c_name="a", shape=(3,), dtype="int8", elements=3),
        PortInfo(name="b", c_name="b", shape=(2, 2), dtype="int32", elements=4),
    )
    arrays = [
        rng.integers(-128, 128, (5, 3)).astype(np.int8),
        rng.integers(-(2**31), 2**31, (5, 2, 2)).astype(np.int32),
    ]
    data = pack_samples(arrays)
    assert data[:19] == arrays[0][0].tobytes() + arrays[1][0].tobytes()
    back = unpack_samples(data, ports, 5)
    assert np.array_equal(back["a"], arrays[0]) and np.array_equal(back["b"], arrays[1])
    with pytest.raises(DeviceError, match="expected 5 x 19"):
        unpack_samples(data[:-1], ports, 5)


@pytest.mark.parametrize(
    ("code", "log", "said"),
    [
        (3, "stack 8\nstatus 7\n", "returned status 7"),
        (4, "overrun arena\n", "past the end of 'arena'"),
        (6, "", "more stack"),
        (-11, "qemu: uncaught signal\n", r"signal 11 ended it \(qemu: uncaught signal\)"),
        (42, "odd\n", r"exit code 42 \(odd\)"),
        (1, "Lockup: can't escalate", "locked up"),
        (99, "fault\npc 0x12a\ncfsr 0x1000000\n", r"unaligned access, in conv \(pc 0x12a\)"),
        (99, "fault\ncfsr 0x0\n", "no cause recorded, program counter lost"),
    ],
)
def test_exit_codes_in_words(code: int, log: str, said: str) -> None:
    assert re.search(said, exit_reason(code, log, ELF))


def test_fault_address_only_when_valid() -> None:
    assert "at address" not in decode_fault("cfsr 0x200\nbfar 0x5\n", ELF)
    assert "at address 0x5" in decode_fault("cfsr 0x8200\nbfar 0x5\n", ELF)


def test_counter_builds_once_even_in_parallel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code = "from edgec.runtime.devices.counter import plugin; print(plugin())"
    root = Path(__file__).resolve().parents[2]
    running = [
        subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = {process.communicate()[0].strip() for process in running}
    assert answers == {str(plugin())}
    assert [p.name for p in (tmp_path / "edgec").iterdir()] == [plugin().name]


def test_loader_takes_floats_and_codes(build_tiny: Any) -> None:
    folder, _ = build_tiny("host")
    model = load(folder)
    codes = model.run({"x:0": X[0]})
    assert codes["y"].dtype == np.int8 and np.array_equal(codes["y"], X[0] + 1)
    real_input = (X[0].astype(np.float32) + 3) * np.float32(0.5)
    real = model.run({"x:0": real_input})
    assert np.array_equal(real["y"], X[0].astype(np.float32) * np.float32(0.25))
    assert real["sum"].dtype == np.int32 and np.array_equal(real["sum"], codes["sum"])
    assert np.array_equal(model.run_codes({"x:0": real_input})["y"], codes["y"])


def test_loader_refuses_what_does_not_fit(build_tiny: Any) -> None:
    model = load(build_tiny("host")[0])
    with pytest.raises(DataError, match="takes"):
        model.run(y=X[0])
    with pytest.raises(DataError, match="shape"):
        model.run({"x:0": X})
    with pytest.raises(DataError, match="int64 values that int8"):
        model.run({"x:0": np.full((4, 5), 128)})


@pytest.mark.qemu_aarch64
def test_loader_says_when_the_artifact_is_foreign(build_tiny: Any) -> None:
    folder, _ = build_tiny("aarch64")
    with pytest.raises(OptionError, match=r"target aarch64\) does not load"):
        load(folder)


@pytest.mark.qemu_cortex_m
def test_loader_says_when_there_is_nothing_to_load(build_tiny: Any) -> None:
    folder, _ = build_tiny("cortex-m4")
    with pytest.raises(OptionError, match="built for cortex-m4 and has no library"):
        load(folder)
