"""The real models reach their budgets: accuracy on the host, cost on Cortex-M against the peer."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomllib

import edgec

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import results as r  # noqa: E402 - tools are scripts, not a package
import workloads as w  # noqa: E402

BUDGETS = tomllib.loads((Path(__file__).parent / "budgets.toml").read_text())
NAMES = list(BUDGETS)
# Instructions, flash and RAM may be these shares of those of TFLM + CMSIS-NN.
LARGEST_SHARES = {
    ("resnet8_int8_qdq", "cortex-m4"): (0.4, 0.7, 0.66),
    ("kws_int8_qdq", "cortex-m4"): (0.45, 0.7, 0.45),
    ("vww_int8_qdq", "cortex-m4"): (0.41, 0.7, 0.65),
    ("ad_int8_qdq", "cortex-m4"): (0.49, 0.95, 0.67),
    ("resnet8_int8_qdq", "cortex-m55"): (0.54, 0.7, 0.66),
    ("kws_int8_qdq", "cortex-m55"): (0.51, 0.7, 0.34),
    ("vww_int8_qdq", "cortex-m55"): (0.4, 0.7, 0.68),
    ("ad_int8_qdq", "cortex-m55"): (0.76, 0.95, 0.16),
}
# Instructions on aarch64 may be these shares of the faster of ONNX Runtime and LiteRT.
LARGEST_LINUX_SHARES = {
    "resnet8_int8_qdq": 0.99,
    "kws_int8_qdq": 0.64,
    "vww_int8_qdq": 0.68,
    "ad_int8_qdq": 0.74,
}


def by_name() -> dict[str, w.Workload]:
    return {load.name: load for load in w.workloads()}


def cpu_s() -> float:
    """CPU seconds of this process and of the compilers it ran."""
    usages = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def test_every_workload_has_a_budget_and_no_bar_is_weaker_than_its_budget(shared: Path) -> None:
    loads = by_name()
    assert sorted(loads) == sorted(NAMES)
    for name, budget in BUDGETS.items():
        assert budget.get("bar", budget["reach"]) == loads[name].bar
        assert ("quick" in budget) == (loads[name].quick is not None)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_accuracy(name: str, shared: Path, tmp_path: Path) -> None:
    load = by_name()[name]
    began_s = cpu_s()
    edgec.compile(load.path, "host", tmp_path / name, load.calibration(), states=load.states)
    # CPU time bounds the wall clock of an idle machine, and holds on a busy one.
    assert cpu_s() - began_s < BUDGETS[name].get("compile_s", 90)
    value, _ = r.score(load, tmp_path / name, quick=True)
    budget = BUDGETS[name]
    reach = budget["quick" if load.quick else "reach"]
    assert value >= reach if load.higher else value <= reach


@pytest.mark.real
@pytest.mark.qemu_cortex_m
@pytest.mark.parametrize(("name", "core"), list(LARGEST_SHARES))
def test_cost_against_tflm_and_cmsis_nn(name: str, core: str, shared: Path, tmp_path: Path) -> None:
    load = by_name()[name]
    artifact = edgec.compile(load.path, core, tmp_path / name, load.calibration())
    verdict = artifact.check()
    assert verdict.quantised.same_bits
    memory: Any = verdict.memory
    cost = (verdict.instructions, memory.flash_bytes / 1024, memory.ram_bytes / 1024)
    for own, peer, share in zip(cost, r.PEERS[name][core], LARGEST_SHARES[name, core], strict=True):
        assert own <= share * peer


@pytest.mark.real
@pytest.mark.qemu_aarch64
@pytest.mark.parametrize("name", list(LARGEST_LINUX_SHARES))
def test_instructions_against_onnx_runtime_and_xnnpack(
    name: str, shared: Path, tmp_path: Path
) -> None:
    load = by_name()[name]
    artifact = edgec.compile(load.path, r.LINUX_TARGET, tmp_path / name, load.calibration())
    verdict = artifact.check()
    assert verdict.quantised.same_bits
    assert verdict.instructions is not None
    assert verdict.instructions <= LARGEST_LINUX_SHARES[name] * min(r.LINUX_PEERS[name])


def test_every_peer_has_a_budget() -> None:
    assert set(LARGEST_SHARES) == {(name, core) for name in r.PEERS for core in r.PEERS[name]}
    assert set(LARGEST_LINUX_SHARES) == set(r.LINUX_PEERS)


@pytest.mark.real
@pytest.mark.qemu_cortex_m
def test_mobilenet_in_patches_gives_the_bits_in_the_ram_planned(
    shared: Path, tmp_path: Path
) -> None:
    load, limit = by_name()["mobilenetv2_224_int8grid"], 330 * 1024
    given = {"calibration": list(load.calibration() or [])[:16], "reference_samples": 1}
    whole = edgec.compile(load.path, "host", tmp_path / "whole", **given)
    tiles = edgec.compile(load.path, "cortex-m4", tmp_path / "tiles", **given, max_ram_bytes=limit)
    facts = tiles.report["patches"]
    assert facts["arena_bytes_before"] > 6 * facts["arena_bytes"]
    assert facts["macs"] < 1.10 * facts["macs_before"]
    stored = [np.load(a.path / "reference.npz")["expected/output"] for a in (whole, tiles)]
    np.testing.assert_array_equal(*stored)
    verdict = tiles.check()
    assert verdict.quantised.same_bits and verdict.memory is not None
    memory = verdict.memory
    assert memory.ram_bytes is not None and memory.stack_bytes is not None
    planned = tiles.manifest.memory
    assert memory.arena_bytes == planned.arena_bytes == facts["arena_bytes"]
    assert memory.ram_bytes - memory.stack_bytes == planned.ram_bytes
    assert memory.ram_bytes <= limit


@pytest.mark.real
@pytest.mark.cuda
@pytest.mark.parametrize("name", ["resnet8_int8_qdq", "kws_int8_qdq"])
def test_kernels_for_gpus_give_the_bits(name: str, shared: Path, tmp_path: Path) -> None:
    load = by_name()[name]
    artifact = edgec.compile(load.path, "cuda-sm80", tmp_path / name, load.calibration())
    assert artifact.check().quantised.same_bits


@pytest.mark.real
@pytest.mark.qemu_cortex_m
def test_compile_time_of_vww_for_cortex_m4(shared: Path, tmp_path: Path) -> None:
    load = by_name()["mobilenetv1_025_vww96"]
    feeds = list(load.calibration() or [])[:64]
    artifact = edgec.compile(load.path, "cortex-m4", tmp_path / "vww", feeds)
    assert sum(artifact.manifest.timings_s.values()) < 30
