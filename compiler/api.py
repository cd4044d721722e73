"""The Python API: compile a model, check an artifact, load one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..runtime.devices import is_remote
from ..runtime.loader import LoadedArtifact
from ..runtime.loader import load as load_artifact
from ..targets import find_target
from ..targets.backend import Backend
from ..targets.spec import TargetSpec
from . import pipeline
from .check import Verdict, check_artifact
from .core.artifact import REPORT_NAME, Manifest, load_manifest
from .core.background import Background
from .core.errors import EdgecError, GateError, OptionError, ToolMissingError
from .core.passbase import Watch, unwatched
from .core.tools import install_line
from .drop import measured_drop, require_measure
from .frontend.source import Readable
from .gates import all_pass, limits, static_gates
from .judge import refusals
from .losses import trace
from .memory_map import MemoryMap, memory_map
from .options import CompileOptions, make_options
from .package import check_output, failed_path, write_artifact
from .page import write_page
from .pipeline import Clock, Progress
from .proof import PROOF_SAMPLES
from .rehearsal import rehearse
from .report import make_report
from .stages import Built, Lowered, Trial
from .verdicts import require_writable, store_verdict
from .version import __version__


@dataclass(frozen=True, slots=True, eq=False)
class Artifact:
    """A compiled model on disk."""

    path: Path
    manifest: Manifest
    report: Mapping[str, Any]

    @staticmethod
    def open(folder: str | Path) -> Artifact:
        """Return the artifact in folder; raises OptionError when it is none."""
        path = Path(folder)
        manifest = load_manifest(path)
        return Artifact(path, manifest, json.loads((path / REPORT_NAME).read_text("utf-8")))

    def check(self, **options: Any) -> Verdict:
        """Run the artifact where it belongs and compare; see `check`."""
        return check(self.path, **options)


def compile(
    model: Readable,
    target: str,
    output: str | Path,
    calibration: Any = None,
    progress: Progress | None = None,
    overwrite: bool = True,
    watch: Watch = unwatched,
    judge: Callable[[Built, Trial], None] | None = None,
    **options: Any,
) -> Artifact:
    """Compile a model for a target into the artifact folder `output`.

    `model`: path, ModelProto or onnx_ir.Model; `calibration`: .npz, folder of .npy, iterable of
    feeds or an object with ONNX Runtime's CalibrationDataReader methods; `overwrite`: replace an
    artifact that is there already; `watch`: told of every pass; `judge`: shown the
    program and the reference runs before anything is written; `options`: fields of
    CompileOptions. Raises EdgecError with one sentence for everything a user can mend; GateError
    when a limit does not hold: `output` is left as it was, the artifact kept in OUTPUT.failed.
    """
    spec, backend = find_target(target)
    chosen = make_options(target, options)
    pipeline.require_passes(chosen)
    require_measure(chosen, has_data=calibration is not None)
    require_weights_file(chosen, spec)
    out = Path(output)
    check_output(out, overwrite)
    check_output(failed_path(out), overwrite=True)
    require_tools(spec, backend)
    clock = Clock(progress)
    built = run_stages(model, calibration, chosen, spec, clock, watch)
    with clock.stage("rehearse"):
        trial = rehearse(built.lowered, chosen.reference_samples)
        traced = trace(built, chosen.reference_samples)
        drop = None if chosen.max_drop is None else measured_drop(built.lowered.quantised, chosen)
        if judge is not None:
            judge(built, trial)
    report = make_report(built, trial, traced, clock.seconds)
    with clock.stage("package"):
        manifest = write_artifact(
            out, built, trial, report, chosen, spec, backend, __version__, drop
        )
    gates = static_gates(manifest)
    if not all_pass(gates):
        sentences = refusals(built, manifest, gates, report["layers"], chosen, spec)
        raise GateError(sentences, failed_path(out))
    return Artifact(out, manifest, report)


def plan(
    model: Readable, target: str, calibration: Any = None, progress: Progress | None = None,
    **options: Any,
) -> MemoryMap:  # fmt: skip
    """Return where a model would keep what in RAM; arguments as for `compile`, nothing is built."""
    spec, _ = find_target(target)
    chosen = make_options(target, options)
    pipeline.require_passes(chosen)
    lowered = lower_stages(model, calibration, chosen, spec, Clock(progress))
    return memory_map(lowered, spec, chosen)


def run_stages(
    model: Readable, calibration: Any, options: CompileOptions, spec: TargetSpec, clock: Clock,
    watch: Watch = unwatched,
) -> Built:  # fmt: skip
    """Run every stage from the model to its C."""
    lowered = lower_stages(model, calibration, options, spec, clock, watch)
    with clock.stage("generate"):
        return pipeline.build(lowered, spec.isa, __version__, options.weights_file)


def lower_stages(
    model: Readable, calibration: Any, options: CompileOptions, spec: TargetSpec, clock: Clock,
    watch: Watch = unwatched,
) -> Lowered:  # fmt: skip
    """Run every stage from the model to its integer program."""
    with clock.stage("load"):
        source = pipeline.load_source(model, options, watch)
        pipeline.require_runnable(source, options)
        samples = pipeline.open_samples(source, calibration, options)
    with clock.stage("canonicalise"):
        first = pipeline.first_samples(samples, PROOF_SAMPLES)
        canonical = pipeline.canonicalise(source, first, watch)
    with clock.stage("calibrate"):
        profiled = pipeline.profile(canonical, samples, options, calibration is None)
    with clock.stage("transform"):
        reshaped = pipeline.reshape(profiled, options, watch)
        ranged = pipeline.measure_ranges(reshaped, samples, options)
    with clock.stage("quantise"):
        quantised = pipeline.quantise(pipeline.decide(ranged, options), options, watch)
    with clock.stage("lower"):
        lowered = pipeline.lower_program(quantised, options)
        return pipeline.fit(lowered, spec.isa, limits(options, spec).max_ram_bytes, options)


def require_weights_file(options: CompileOptions, spec: TargetSpec) -> None:
    """Raise OptionError if options ask for a weights file where nothing could map it."""
    if options.weights_file and spec.family not in ("host", "aarch64"):
        raise OptionError(
            f"target {spec.name} has no files to map into memory; leave --weights-file out, its "
            "constants are part of the program."
        )


def require_tools(spec: TargetSpec, backend: Backend) -> None:
    """Raise ToolMissingError saying what to install when target's compiler is not there."""
    missing = backend.missing(spec)
    if missing:
        names = ", ".join(t.executable for t in missing)
        raise ToolMissingError(f"target {spec.name} needs {names}: {install_line(missing)}")


def check(artifact: str | Path, store: bool = True, **options: Any) -> Verdict:
    """Check an artifact on its device or emulator; see `check_artifact`.

    `store`: keep the verdict in the artifact and show it in its report.html. Raises OptionError
    when that folder is not writable.
    """
    path = Path(artifact)
    if store:
        require_writable(path)
    verdict = check_artifact(path, **options)
    if store:
        store_verdict(path, verdict.model_dump(mode="json"))
        write_page(path)
    return verdict


@dataclass(frozen=True, slots=True, eq=False)
class Checked:
    """What came of a check on one of several devices: a verdict, or the error that stopped it."""

    device: str
    verdict: Verdict | None = None
    error: EdgecError | None = None


def check_each(
    artifact: str | Path, devices: Sequence[str], store: bool = True, **options: Any
) -> list[Checked]:
    """Check an artifact on several devices, as `check` does, and return what came of each.

    Those of another machine (rpc, rpc-tracker) work at the same time, after the others, whose
    times they would disturb. `keep` goes with one device only: raises OptionError.
    """
    if options.get("keep") is not None:
        raise OptionError("keep names one folder: give it with one device only.")
    path = Path(artifact)
    if store:
        require_writable(path)

    def check_one(device: str) -> Checked:
        try:
            return Checked(device, check_artifact(path, device=device, **options))
        except EdgecError as error:
            return Checked(device, error=error)

    here = {at: check_one(d) for at, d in enumerate(devices) if not is_remote(d)}
    apart = {at: Background(partial(check_one, d)) for at, d in enumerate(devices) if is_remote(d)}
    found = [here[at] if at in here else apart[at].result() for at in range(len(devices))]
    verdicts = [c.verdict for c in found if c.verdict is not None]
    if store and verdicts:
        for verdict in verdicts:
            store_verdict(path, verdict.model_dump(mode="json"))
        write_page(path)
    return found


def report(artifact: str | Path, *others: str | Path, output: str | Path | None = None) -> Path:
    """Write the page about an artifact anew and return where it is; see `write_page`."""
    out = None if output is None else Path(output)
    return write_page(Path(artifact), [Path(o) for o in others], out)


def load(artifact: str | Path) -> LoadedArtifact:
    """Load a host artifact to run it in this process."""
    return load_artifact(artifact)
