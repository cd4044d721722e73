"""Run an artifact where it belongs and say what was lost, measured."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ..runtime.devices import open_device
from ..runtime.devices.base import Device, RunResult
from ..targets import find_target
from ..targets.memory import measure_static
from ..targets.spec import TargetSpec
from .core.artifact import Manifest, Record, load_manifest, verify_files
from .core.errors import OptionError
from .drop import LABEL_FREE, labels_of, task_drop, task_score
from .frontend.data import open_data
from .gates import GateVerdict, flash_bytes, gate, memory_gates, ram_bytes
from .layer_check import LayersVerdict, check_layers
from .lowering.program import Array
from .metrics import (
    TASK_METRICS,
    cosine,
    max_abs,
    sqnr_db,
    steps,
    top1_agreement,
)
from .ports import decode_port
from .sequence import device_sequence, float_sequence

# Largest difference of a float output, relative to its largest value.
FLOAT_OUTPUT_TOLERANCE = 1e-5


class QuantisedVerdict(Record):
    """Distance from the quantised model in ONNX Runtime, over all outputs.

    `max_steps_double`: from ONNX Runtime computing in double precision, so without the near-ties
    that float32 rounding decides; None where it cannot.
    `same_bits`: equal to the integer program in NumPy, bit for bit; None where it was not run.
    """

    max_steps: int
    share_within_1: float
    max_steps_double: int | None = None
    same_bits: bool | None = None


class FloatVerdict(Record):
    """Distance from the float model, worst output first."""

    sqnr_db: float
    cosine: float
    max_abs: float
    top1_agreement: float


class TaskVerdict(Record):
    """A task metric on labelled data, of the device and of the float model."""

    metric: str
    value: float
    float_value: float


class MemoryVerdict(Record):
    """Measured bytes; `ram_bytes` is everything: arena, inputs, outputs, statics, stack."""

    flash_bytes: int
    ram_bytes: int
    arena_bytes: int
    stack_bytes: int


class Verdict(Record):
    """What a check found."""

    passed: bool
    target: str
    device: str
    samples: int
    quantised: QuantisedVerdict
    float: FloatVerdict | None
    task: TaskVerdict | None
    memory: MemoryVerdict | None
    instructions: float | None
    time_s: float | None
    gates: tuple[GateVerdict, ...]
    profile: Mapping[str, float] | None = None
    layers: LayersVerdict | None = None


def check_artifact(
    artifact: Path,
    data: str | Path | None = None,
    metric: str = "accuracy",
    labels: str = "labels",
    samples: int | None = None,
    profile: bool = False,
    layers: bool = False,
    keep: Path | None = None,
    timeout_s: float = 600.0,
    device: str = "auto",
) -> Verdict:
    """Run the reference samples (and `data`) on the artifact's device and compare.

    `data`: labelled .npz; `labels`: its key for labels; `samples`: most samples of data to run;
    `layers`: compare what every layer writes, too; `keep`: where the build for that stays;
    `device`: where to run, as `device_for` takes it.
    Raises OptionError for a damaged artifact, DeviceError when the device fails.
    """
    _require_metric(metric)
    manifest = load_manifest(artifact)
    verify_files(artifact, manifest)
    spec, _ = find_target(manifest.target)
    reference = load_reference(artifact)
    codes = of_kind(reference, "codes")
    by_layer = result = task = None
    with open_device(spec, timeout_s, device) as runner:
        if layers and runner.flashed and (data is not None or keep is None):
            raise OptionError(
                f"{runner.description} runs what is flashed: --layers needs --keep DIR, from where "
                "to flash the build that notes every layer, and cannot go with --data."
            )
        if layers:
            by_layer, result = check_layers(artifact, manifest, runner, codes, keep)
        if result is None or not runner.flashed:
            result = runner.run(artifact, manifest, codes, profile=profile)
        if data is not None:
            task = _task(artifact, manifest, runner, Path(data), metric, labels, samples)
    quantised = _quantised(result, reference)
    real = _float(manifest, result.outputs, of_kind(reference, "real"))
    memory = _memory(artifact, spec, manifest, result)
    gates = _gates(manifest, quantised, real, memory, task)
    if by_layer is not None:
        gates += (gate("layers_differ_from_reference", 0.0, by_layer.differing),)
    return Verdict(
        passed=all(g.passed for g in gates), target=manifest.target,
        device=runner.description, samples=len(next(iter(result.outputs.values()))),
        quantised=quantised, float=real, task=task, memory=memory,
        instructions=result.instructions_per_inference, time_s=result.time_s, gates=gates,
        profile=result.profile, layers=by_layer,
    )  # fmt: skip


def load_reference(artifact: Path) -> dict[str, Array]:
    """Return the arrays of reference.npz: "codes/NAME", "expected/", "quantised/", "real/"."""
    with np.load(artifact / "reference.npz", allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _require_metric(metric: str) -> None:
    if metric not in TASK_METRICS:
        near = difflib.get_close_matches(metric, TASK_METRICS, 1, 0.5)
        hint = f"; did you mean {near[0]}?" if near else ";"
        raise OptionError(
            f"there is no metric '{metric}'{hint} choose one of {', '.join(sorted(TASK_METRICS))}"
        )


def of_kind(reference: Mapping[str, Array], kind: str) -> dict[str, Array]:
    """Return the arrays of one kind of reference.npz by port."""
    prefix = f"{kind}/"
    return {n.removeprefix(prefix): a for n, a in reference.items() if n.startswith(prefix)}


def _quantised(result: RunResult, reference: Mapping[str, Array]) -> QuantisedVerdict:
    expected = of_kind(reference, "expected")
    coded, double = _coded(reference, "quantised"), _coded(reference, "double")
    reports = [steps(result.outputs[name], array) for name, array in coded.items()]
    sizes = [array.size for array in coded.values()]
    within = sum(r.share_within_1 * s for r, s in zip(reports, sizes, strict=True))
    return QuantisedVerdict(
        max_steps=max((r.max_steps for r in reports), default=0),
        share_within_1=within / sum(sizes) if sizes else 1.0,
        max_steps_double=max(
            (steps(result.outputs[n], a).max_steps for n, a in double.items()), default=None
        ),
        same_bits=all(_same(result.outputs[n], a) for n, a in expected.items()),
    )


def _coded(reference: Mapping[str, Array], kind: str) -> dict[str, Array]:
    return {n: a for n, a in of_kind(reference, kind).items() if a.dtype.kind != "f"}


def _same(got: Array, expected: Array) -> bool:
    """Equal integers; real outputs of a float island agree up to the rounding of math libraries."""
    if expected.dtype.kind != "f":
        return np.array_equal(got, expected)
    tolerance = FLOAT_OUTPUT_TOLERANCE * float(np.abs(expected).max(initial=0.0))
    return bool(np.all(np.abs(got - expected) <= tolerance))


def dequantised(manifest: Manifest, codes: Mapping[str, Array]) -> dict[str, Array]:
    """Return outputs as real values; plain numbers stay as they are."""
    return {port.name: decode_port(port, codes[port.name]) for port in manifest.outputs}


def _float(
    manifest: Manifest, codes: Mapping[str, Array], real: Mapping[str, Array]
) -> FloatVerdict | None:
    if not real:
        return None
    got = dequantised(manifest, codes)
    names = [n for n in real if real[n].dtype.kind == "f"]
    if not names:
        return None
    return FloatVerdict(
        sqnr_db=min(sqnr_db(real[n], got[n]) for n in names),
        cosine=min(cosine(real[n], got[n]) for n in names),
        max_abs=max(max_abs(real[n], got[n]) for n in names),
        top1_agreement=min(top1_agreement(real[n], got[n]) for n in names),
    )


def _task(
    artifact: Path, manifest: Manifest, device: Device, data: Path, metric: str, key: str,
    count: int | None,
) -> TaskVerdict:  # fmt: skip
    """Run labelled data on the device and in the float model."""
    path = artifact / "model.float.onnx"
    model = ir.load(path if path.is_file() else artifact / "model.quant.onnx")
    feeds = list(itertools.islice(open_data(data, model), count))
    answers = labels_of(data, key, metric)[: len(feeds)]
    result = device_sequence(device, artifact, manifest, feeds)
    first = manifest.outputs[0].name
    got = dequantised(manifest, result.outputs)[first]
    real = np.stack([np.asarray(answer[first]) for answer in float_sequence(model, feeds)])
    where = f"output '{first}'"
    return TaskVerdict(
        metric=metric,
        value=task_score(metric, got, answers, where, data),
        float_value=task_score(metric, real, answers, where, data),
    )


def _memory(
    artifact: Path, spec: TargetSpec, manifest: Manifest, result: RunResult
) -> MemoryVerdict | None:
    if result.stack_bytes is None:
        return None
    weighed = measure_static(artifact, spec, manifest)
    return MemoryVerdict(
        flash_bytes=weighed.flash_bytes, ram_bytes=weighed.ram_bytes(result.stack_bytes),
        arena_bytes=manifest.memory.arena_bytes, stack_bytes=result.stack_bytes,
    )  # fmt: skip


def _gates(
    manifest: Manifest, quantised: QuantisedVerdict, real: FloatVerdict | None,
    memory: MemoryVerdict | None, task: TaskVerdict | None,
) -> tuple[GateVerdict, ...]:  # fmt: skip
    limits = manifest.gates
    found = [gate("bits_differ_from_reference", 0.0, 0.0 if quantised.same_bits else 1.0)]
    if memory is None:
        found += memory_gates(limits, flash_bytes(manifest), ram_bytes(manifest))
    else:
        found += memory_gates(limits, memory.flash_bytes, memory.ram_bytes)
    if limits.max_drop is not None and (drop := _drop(limits.drop_measure, real, task)) is not None:
        found.append(gate("drop", limits.max_drop, drop))
    return tuple(found)


def _drop(measure: str, real: FloatVerdict | None, task: TaskVerdict | None) -> float | None:
    """Return what was lost: of the task if there is data for it, else against the float model."""
    if task is not None and measure != "noise":
        return task_drop(task.metric, task.value, task.float_value)
    if real is None or measure not in LABEL_FREE:
        return None
    return 10 ** (-real.sqnr_db / 10) if measure == "noise" else 1.0 - real.top1_agreement
