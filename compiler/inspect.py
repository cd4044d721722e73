"""What is in a model and what edgec would make of it; needs no calibration data and no compiler."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ..passes._flow import MIX, SCALE, SHIFT
from ..passes._structure import Site, mixable, sites
from ..passes.apply_plan import ApplyPlan
from ..passes.assign_encodings import AssignEncodings
from . import pipeline
from .core.errors import ModelError
from .core.graph import label, static_shape
from .core.macs import macs_by_operator
from .core.passbase import Outcome
from .frontend.load import load
from .frontend.source import Readable
from .frontend.support import foreign
from .lowering.matchers.unary import UNARY_OPS
from .lowering.movement import MOVEMENT
from .lowering.program import Program
from .options import CompileOptions
from .proof import PROOF_SAMPLES
from .report import operator_counts as kernel_counts
from .stages import SEEN, Canonical, Ranged, Reshaped, Source, Step

# Operators whose result shares memory with their first input, where nobody else reads that.
IN_PLACE = UNARY_OPS | {"QuantizeLinear", "DequantizeLinear"}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A public input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Foldable:
    """Channels between a norm or layer and the layers that read them.

    `may`: what passes may do to them inside the weights (scale, shift, mix); `reasons`: kind ->
    why not.
    """

    kind: str
    source: str
    channels: int
    layers: tuple[str, ...]
    may: tuple[str, ...]
    reasons: Mapping[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Inspection:
    """Facts about a model; `operators` counts the model as given, `steps` says what changed.

    `macs`: multiply-accumulates per operator of the canonical form; `peak_activation_bytes`: an
    estimate, most bytes alive at once if every activation were int8; `kernels`: how often each
    kernel would be called; `float_islands`: what would not run on integers, and why; `foldable`:
    where passes may fold something into the weights; `problems`: why it would not compile.
    """

    name: str
    opset: int
    already_quantised: bool
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    operators: Mapping[str, int]
    parameters: int
    parameter_bytes: int
    steps: Sequence[Step]
    canonical_operators: Mapping[str, int]
    macs: Mapping[str, int]
    peak_activation_bytes: int | None
    kernels: Mapping[str, int]
    float_islands: Sequence[str]
    foldable: Sequence[Foldable]
    problems: Sequence[str]


def inspect_model(model: Readable, shapes: Mapping[str, tuple[int, ...]]) -> Inspection:
    """Return what is in a model; raises ModelError when it cannot be read or has open shapes."""
    loaded = load(model, shapes)
    options = CompileOptions(
        target="host", name=loaded.name, samples=PROOF_SAMPLES,
        no_passes=tuple(t.name for t in pipeline.CORRECTIONS),
    )  # fmt: skip
    source = pipeline.load_source(loaded.model, options)
    trial = _try_to_compile(source, options)
    canonical = source.model if trial.canonical is None else trial.canonical.model
    steps = () if trial.canonical is None else trial.canonical.steps
    graph = source.model.graph
    weights = [v.const_value for v in graph.initializers.values() if v.const_value is not None]
    return Inspection(
        name=source.name,
        opset=loaded.model.opset_imports.get("", 0),
        already_quantised=source.already_quantised,
        inputs=[_tensor(v) for v in graph.inputs],
        outputs=[_tensor(v) for v in graph.outputs],
        operators=operator_counts(loaded.model),
        parameters=sum(t.size for t in weights),
        parameter_bytes=sum(t.nbytes for t in weights),
        steps=(Step("load", Outcome(changed=loaded.notes), 0.0), *source.steps, *steps),
        canonical_operators=operator_counts(canonical),
        macs=macs_by_operator(canonical),
        peak_activation_bytes=peak_activation_bytes(canonical),
        kernels={} if trial.program is None else kernel_counts(trial.program),
        float_islands=() if trial.program is None else trial.program.notes,
        foldable=() if source.already_quantised else [_foldable(s) for s in sites(canonical)],
        problems=trial.problems,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Attempt:
    """How far a compilation without real data came, and what stopped it."""

    canonical: Canonical | None = None
    program: Program | None = None
    problems: Sequence[str] = ()


def _try_to_compile(source: Source, options: CompileOptions) -> _Attempt:
    """Canonicalise, quantise by synthetic data and lower, without any optional pass."""
    if problems := foreign(source.model):
        return _Attempt(problems=problems)
    canonical = None
    try:
        samples = pipeline.open_samples(source, None, options)
        first = pipeline.first_samples(samples, PROOF_SAMPLES)
        canonical = pipeline.canonicalise(source, first)
        quick = {"wide_activations": "never", "calibration_method": SEEN}
        narrow = options.model_copy(update=quick)
        profiled = pipeline.profile(canonical, samples, narrow, synthetic_data=True)
        reshaped = Reshaped(profiled, canonical.model, ())
        planned = pipeline.decide(Ranged(reshaped, profiled.stats, ()), narrow)
        lowered = pipeline.lower_program(pipeline.quantise(planned, options), options)
    except ModelError as error:
        return _Attempt(canonical, problems=error.problems)
    return _Attempt(canonical, lowered.program)


def _foldable(site: Site) -> Foldable:
    reasons = {kind: site.refused(kind) for kind in (SCALE, SHIFT)} | {MIX: mixable(site)}
    return Foldable(
        site.kind, label(site.source), site.channels,
        tuple(label(sink.node) for sink in site.sinks),
        tuple(kind for kind, reason in reasons.items() if reason is None),
        {kind: reason for kind, reason in reasons.items() if reason is not None},
    )  # fmt: skip


def _tensor(value: ir.Value) -> Tensor:
    dtype = "unknown" if value.dtype is None else value.dtype.name.lower()
    return Tensor(str(value.name), static_shape(value) or (), dtype)


def operator_counts(model: ir.Model) -> dict[str, int]:
    """Return how often each operator occurs, most frequent first."""
    names = (n.op_type if not n.domain else f"{n.domain}::{n.op_type}" for n in model.graph)
    return dict(Counter(names).most_common())


def peak_activation_bytes(model: ir.Model) -> int | None:
    """Return the most bytes of activations alive at once, in graph order; None for open shapes.

    One byte per float activation. Values that only re-view another, or may overwrite it, share
    its bytes. An estimate from above of what the arena planner finds.
    """
    nodes = list(model.graph)
    homes: dict[ir.Value, ir.Value] = {value: value for value in model.graph.inputs}
    for node in nodes:
        for value in node.outputs:
            source = node.inputs[0] if node.inputs else None
            homes[value] = homes[source] if source in homes and _shares(node, source) else value
    sizes = {home: _size_bytes(home) for home in homes.values()}
    if any(size is None for size in sizes.values()):
        return None
    last = _last_reads(nodes, homes, model.graph.outputs)
    alive = set(model.graph.inputs)
    peak = 0
    for index, node in enumerate(nodes):
        alive |= {homes[value] for value in node.outputs}
        peak = max(peak, sum(sizes[home] or 0 for home in alive))
        alive = {home for home in alive if last.get(home, -1) > index}
    return peak


def _shares(node: ir.Node, source: ir.Value | None) -> bool:
    if node.op_type in MOVEMENT:
        return True
    return node.op_type in IN_PLACE and source is not None and len(source.uses()) == 1


def _last_reads(
    nodes: Sequence[ir.Node], homes: Mapping[ir.Value, ir.Value], outputs: Iterable[ir.Value]
) -> dict[ir.Value, int]:
    """Return, per value that owns memory, the index of the last node that reads it."""
    last: dict[ir.Value, int] = {}
    for index, node in enumerate(nodes):
        last |= {homes[v]: index for v in node.inputs if v is not None and v in homes}
    for value in outputs:
        if value in homes:
            last[homes[value]] = len(nodes)
    return last


def _size_bytes(value: ir.Value) -> int | None:
    dims = static_shape(value)
    if dims is None:
        return None
    wide = value.dtype in (ir.DataType.INT64, ir.DataType.INT32)
    return math.prod(dims) * (4 if wide else 1)


@dataclass(frozen=True)
class PassInfo:
    """A pass for people: `kind` is its effect or "decision".

    `runs`: always, optional, with recipes; `summary`: the first line of its docstring.
    """

    name: str
    kind: str
    runs: str
    summary: str


def list_passes() -> list[PassInfo]:
    """Return every pass, in the order of the pipeline."""
    choices = (*pipeline.RESHAPING, *pipeline.CORRECTIONS)
    planning = (AssignEncodings(), *pipeline.LOW_BITS.values())
    fixed = (*pipeline.CANONICAL, *pipeline.RESHAPING, *planning, *pipeline.CORRECTIONS)
    order = [t.name for t in (*fixed, ApplyPlan())]
    low = {p.name for p in pipeline.LOW_BITS.values()}
    when = dict.fromkeys(low, f"recipes {', '.join(pipeline.LOW_BITS)}")
    when |= {t.name: "optional" for t in choices}
    found: list[PassInfo] = []
    for item in pipeline.discover():
        effect = getattr(item, "effect", None)
        kind = "decision" if effect is None else effect.name.lower()
        runs = when.get(item.name, "always")
        summary = (type(item).__doc__ or "").strip().split("\n")[0]
        found.append(PassInfo(item.name, kind, runs, summary))
    return sorted(found, key=lambda p: order.index(p.name))
