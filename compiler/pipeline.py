"""The one place that says which passes run, in which order, and why there."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from ..passes import discover
from ..passes.apply_plan import ApplyPlan
from ..passes.bias_correction import BiasCorrection
from ..passes.cross_layer_equalisation import CrossLayerEqualisation
from ..passes.decompose_unfused import DecomposeUnfused
from ..passes.drop_transpose_pairs import DropTransposePairs
from ..passes.duquant import Duquant
from ..passes.expand_recurrent import ExpandRecurrent
from ..passes.fold_batchnorm import FoldBatchnorm
from ..passes.fold_constants import FoldConstants
from ..passes.fold_scalars import FoldScalars
from ..passes.fuse_layernorm import FuseLayernorm
from ..passes.fuse_lstm import FuseLstm
from ..passes.fuse_masks import FuseMasks
from ..passes.fuse_pad import FusePad
from ..passes.fuse_rmsnorm import FuseRmsnorm
from ..passes.gptq import Gptq
from ..passes.low_bit_weights import LowBitWeights
from ..passes.online_hadamard import OnlineHadamard
from ..passes.outlier_suppression import OutlierSuppression
from ..passes.quarot import Quarot
from ..passes.resolve_auto_pad import ResolveAutoPad
from ..passes.smooth_quant import SmoothQuant
from .calibration_lint import fingerprint
from .core.errors import ModelError, OptionError
from .core.macs import macs_by_operator
from .core.passbase import Context, Decision, Feeds, Note, Outcome, Transform, Watch, unwatched
from .core.plan import QuantPlan
from .core.states import set_states, states_of
from .core.stats import Stats
from .frontend.block_scales import round_block_scales
from .frontend.calibrate import calibrate_all
from .frontend.carry import carried
from .frontend.data import SampleSource, open_data, synthetic
from .frontend.load import c_identifier, load
from .frontend.opset import upgrade
from .frontend.qoperator import rewrite_qoperators
from .frontend.reference import evaluate
from .frontend.source import Readable
from .frontend.support import foreign, without_c_type
from .lowering.emit import emit_c
from .lowering.fusion import lower_fused
from .lowering.gpu.emit import emit_cuda
from .lowering.patches import choose, patched
from .options import CompileOptions
from .proof import (
    PROOF_SAMPLES,
    Contest,
    answers,
    pass_names,
    planned_error,
    prove,
    try_correction,
)
from .recipes import RECIPES, asked_passes
from .stages import (
    SEEN,
    Built,
    Canonical,
    Lowered,
    Planned,
    Profiled,
    Quantised,
    Ranged,
    Reshaped,
    Source,
    Step,
    Yardstick,
)
from .widening import planned

# Quantised candidates are compared on as many samples as make these multiply-accumulates, between
# these limits: with few of a small model's outputs the choice would be left to chance.
MEASURED_MACS = 2_000_000_000
MEASURED_SAMPLES = (24, 128)
# Without data: seeded synthetic samples.
SYNTHETIC_SAMPLES = 16

CANONICAL: tuple[Transform, ...] = (
    FoldConstants(),  # first: the others match on constants and static shapes
    FuseLstm(),  # before its Adds and Splits are joined with others
    ExpandRecurrent(),  # early: what it adds (Slice, Concat) is ordinary to the others
    DropTransposePairs(),  # a Transpose pair may stand between a producer and its consumer
    ResolveAutoPad(),  # the next two need explicit pads
    FusePad(),  # before batch norms: it decides whether a Conv pads
    FoldBatchnorm(),  # what cannot fold becomes Mul and Add, which FoldScalars may still take
    FuseMasks(),  # before DecomposeUnfused and FoldScalars touch their Sub and Mul
    FuseLayernorm(),  # before anything touches its Div, Mul and ReduceMean
    FuseRmsnorm(),
    DecomposeUnfused(),  # turns the Sub, Div and ReduceMean that are left into common forms
    FoldScalars(),  # sees only what is left
)
# One pass may make room for an earlier one; four rounds were enough for every model tried.
CANONICAL_ROUNDS = 4
# Optional function-preserving transforms: kept only where they lower the measured error. Those in
# one group are alternatives, of which at most one is kept.
REWRITES: tuple[tuple[Transform, ...], ...] = (
    (CrossLayerEqualisation(),),  # sees weights alone
    # before smoothing, which is exact after it but would not commute with it
    (Quarot(), Duquant()),
    # they divide what is left between activations and weights, in two ways
    (SmoothQuant(), OutlierSuppression()),
    # last: nothing can be folded across its operators
    (OnlineHadamard(),),
)
# Tried only with --pass, until what they gain on tasks and cost in compile time is measured.
ON_REQUEST = frozenset({Quarot.name, Duquant.name, OnlineHadamard.name})
RESHAPING: tuple[Transform, ...] = tuple(t for group in REWRITES for t in group)
# Optional changes of biases once the plan is known: kept on the same terms.
CORRECTIONS: tuple[Transform, ...] = (
    Gptq(),  # before the biases, which make up for what rounding loses
    BiasCorrection(),
)
# Recipe -> the choice of weights below 8 bits, once everything has int8.
LOW_BITS: Mapping[str, Decision] = {
    name: LowBitWeights() for name, recipe in RECIPES.items() if recipe.weight_bits == 4
}
# What calibration_method = "auto" chooses from.
AUTO_METHODS = ("minmax", "percentile", "mse")

# Kept for the stack when patches are to fit a limit; measured stacks are below half of it.
STACK_BYTES = 512

Progress = Callable[[str, float], None]


@dataclass
class Clock:
    """Seconds per stage, and where progress is reported."""

    progress: Progress | None = None
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def stage(self, name: str) -> Generator[None]:
        """Time one stage."""
        if self.progress:
            self.progress(name, 0.0)
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        if self.progress:
            self.progress(name, 1.0)


def load_source(model: Readable, options: CompileOptions, watch: Watch = unwatched) -> Source:
    """path -> Source."""
    start = time.perf_counter()
    loaded = load(model, options.shapes, finite=options.recipe != "float32")
    steps = [Step("load", Outcome(changed=loaded.notes), time.perf_counter() - start)]
    watch("load", loaded.model, steps[0].outcome)
    for name, action in (("upgrade", upgrade), ("rewrite_qoperators", rewrite_qoperators)):
        start = time.perf_counter()
        steps.append(Step(name, action(loaded.model), time.perf_counter() - start))
        watch(name, loaded.model, steps[-1].outcome)
    start = time.perf_counter()
    outcome = Outcome() if options.recipe == "float32" else round_block_scales(loaded.model)
    if outcome.changed:
        steps.append(Step("round_block_scales", outcome, time.perf_counter() - start))
        watch("round_block_scales", loaded.model, outcome)
    set_states(loaded.model.graph, options.states)
    quantised = any(n.op_type == "QuantizeLinear" for n in loaded.model.graph)
    name = options.name or loaded.name
    if name != c_identifier(name):
        raise OptionError(f"--name '{name}' is no C identifier; use '{c_identifier(name)}'")
    return Source(loaded.model, name, loaded.source_sha256, tuple(steps), quantised)


def require_runnable(source: Source, options: CompileOptions) -> None:
    """Raise ModelError naming every operator that comes from an unknown domain, and with recipe
    float32 every public value whose type C lacks."""
    exact = options.recipe == "float32"
    if problems := [*foreign(source.model), *(without_c_type(source.model) if exact else ())]:
        raise ModelError(problems)


def require_passes(options: CompileOptions) -> None:
    """Raise OptionError when a pass is asked for or left out that is unknown or has no choice."""
    if options.recipe == "float32" and (options.passes or options.wide):
        what = f"pass '{options.passes[0]}'" if options.passes else f"--wide {options.wide[0]}"
        raise OptionError(
            f"{what} is about quantisation, and recipe float32 quantises nothing; "
            "leave one of them out"
        )
    optional = [t.name for t in (*RESHAPING, *CORRECTIONS)]
    known = [p.name for p in discover()]
    for asked in (*options.passes, *options.no_passes):
        name = asked.replace("-", "_")
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.5)
            hint = f"; did you mean {near[0]}?" if near else ";"
            raise OptionError(f"there is no pass '{asked}'{hint} `edgec passes` lists them")
        if name not in optional:
            raise OptionError(
                f"pass '{asked}' always runs; only {', '.join(optional)} can be chosen or left out"
            )
    if both := pass_names(options.passes) & pass_names(options.no_passes):
        raise OptionError(f"pass '{min(both)}' is both asked for and left out; drop one")


def _as_given(source: Source, options: CompileOptions) -> bool:
    """Return whether there is nothing to decide: encodings are given, or none are wanted."""
    return source.already_quantised or options.recipe == "float32"


def open_samples(source: Source, data: Any, options: CompileOptions) -> SampleSource:
    """Return the calibration samples, or seeded synthetic ones when there is no data."""
    if data is None:
        fresh = synthetic(source.model, SYNTHETIC_SAMPLES, options.seed)
    else:
        fresh = open_data(data, source.model, finite=options.recipe != "float32")
    return carried(fresh, source.model)


def canonicalise(source: Source, samples: Sequence[Feeds], watch: Watch = unwatched) -> Canonical:
    """Source -> Canonical, every pass proved on samples."""
    before = answers(source.model, samples[:PROOF_SAMPLES])
    model, steps = source.model, list[Step]()
    for _ in range(CANONICAL_ROUNDS):
        start = len(steps)
        for transform in CANONICAL:
            model, step = prove(model, transform, Context(), samples, before)
            steps.append(step)
            watch(step.name, model, step.outcome)
        if not any(step.outcome.changed for step in steps[start:]):
            if start:
                del steps[start:]  # a round in which nothing happened says nothing new
            break
    return Canonical(source, model, tuple(steps))


def profile(
    canonical: Canonical, samples: SampleSource, options: CompileOptions, synthetic_data: bool
) -> Profiled:
    """Canonical -> Profiled: the first statistics, and samples spread evenly over all."""
    count = len(samples) if options.samples is None else min(len(samples), options.samples)
    most = max(_measured(canonical.model), options.reference_samples)
    spread = np.linspace(0, count - 1, min(count, most)).astype(int).tolist()
    # Samples of a model with states follow one another.
    wanted = set(range(most) if states_of(canonical.model.graph) else spread)
    kept: list[Feeds] = []
    seen: set[int] = set()

    def watched() -> Iterator[Feeds]:
        for index, feeds in enumerate(_iterate(samples, count)):
            if index in wanted:
                kept.append(feeds)
            seen.add(fingerprint(feeds))
            yield feeds

    if _as_given(canonical.source, options):
        ranges: dict[str, Stats] = {}
        for _ in watched():
            pass
    else:
        methods = tuple(dict.fromkeys((SEEN, *_methods(options))))
        found = calibrate_all(canonical.model, watched(), methods)
        ranges = dict(zip(methods, found, strict=True))
    return Profiled(canonical, ranges, tuple(kept), count, synthetic_data, count - len(seen))


def _methods(options: CompileOptions) -> tuple[str, ...]:
    """Return the calibration methods to choose from."""
    asked = options.calibration_method
    return AUTO_METHODS if asked == "auto" else (asked,)


def _measured(model: ir.Model) -> int:
    """Return on how many samples candidates are compared."""
    macs = sum(macs_by_operator(model).values())
    return int(np.clip(MEASURED_MACS // max(macs, 1), *MEASURED_SAMPLES))


def reshape(profiled: Profiled, options: CompileOptions, watch: Watch = unwatched) -> Reshaped:
    """Profiled -> Reshaped: optional transforms, kept where they lower the measured error."""
    model = profiled.canonical.model
    if _as_given(profiled.canonical.source, options):
        if asked := asked_passes(options.recipe, options.passes):
            raise OptionError(
                f"the model is already quantised, so pass '{asked[0]}' cannot change it; "
                "leave it out or compile the float model"
            )
        return Reshaped(profiled, model, ())
    exact = Yardstick(profiled.samples, answers(model, profiled.samples))
    context = Context(stats=profiled.stats, samples=profiled.samples, evaluate=evaluate)
    steps: list[Step] = []
    left_out = pass_names(options.no_passes)
    forced = pass_names(asked_passes(options.recipe, options.passes)) - left_out
    contest = Contest(model, exact, options.wide_activations != "never")
    for group in REWRITES:
        transforms = [
            t for t in group
            if t.name not in left_out and (t.name in forced or t.name not in ON_REQUEST)
        ]  # fmt: skip
        for step in contest.offer(transforms, context, forced):
            steps.append(step)
            watch(step.name, contest.model, step.outcome)
    return Reshaped(profiled, contest.model, tuple(steps), exact)


def measure_ranges(reshaped: Reshaped, samples: SampleSource, options: CompileOptions) -> Ranged:
    """Reshaped -> Ranged: the final statistics, by the method with the lowest measured error.

    A model that no transform changed has been measured before.
    """
    profiled = reshaped.profiled
    if _as_given(profiled.canonical.source, options):
        return Ranged(reshaped, {}, ())
    start = time.perf_counter()
    methods = _methods(options)
    if reshaped.model is profiled.canonical.model:
        found = {method: profiled.ranges[method] for method in methods}
    else:
        chosen = _iterate(samples, options.samples)
        measured = calibrate_all(reshaped.model, chosen, methods)
        found = dict(zip(methods, measured, strict=True))
    errors: dict[str, float] = {}
    if len(methods) > 1:
        errors = {m: planned_error(reshaped.model, s, reshaped.exact) for m, s in found.items()}
    best = min(methods, key=lambda m: errors.get(m, 0.0))
    note = ", ".join(f"{m} {e:.4g}" for m, e in errors.items())
    text = f"{best} ranges" + (f", the lowest output error of {note}" if note else " as asked")
    outcome = Outcome(changed=[Note("calibration", text)])
    step = Step("calibration_method", outcome, time.perf_counter() - start)
    return Ranged(reshaped, found[best], (step,), errors.get(best))


def decide(ranged: Ranged, options: CompileOptions) -> Planned:
    """Ranged -> Planned."""
    reshaped = ranged.reshaped
    if _as_given(reshaped.profiled.canonical.source, options):
        return Planned(ranged, QuantPlan(), ())
    # What was measured had nothing widened by name.
    known = None if options.wide else ranged.error
    plan, steps, error = planned(reshaped.model, ranged.stats, reshaped.exact, options, known)
    if (lower := LOW_BITS.get(options.recipe)) is None:
        return Planned(ranged, plan, tuple(steps), error)
    start = time.perf_counter()
    plan, outcome = lower.decide(reshaped.model, Context(stats=ranged.stats, plan=plan))
    return Planned(ranged, plan, (*steps, Step(lower.name, outcome, time.perf_counter() - start)))


def quantise(decided: Planned, options: CompileOptions, watch: Watch = unwatched) -> Quantised:
    """Planned -> Quantised: optional corrections, then QuantizeLinear and DequantizeLinear."""
    reshaped = decided.ranged.reshaped
    model = reshaped.model
    if _as_given(reshaped.profiled.canonical.source, options):
        return Quantised(decided, model, ())
    context = Context(
        stats=decided.ranged.stats, plan=decided.plan, samples=reshaped.exact.samples,
        evaluate=evaluate,
    )  # fmt: skip
    steps: list[Step] = []
    for correction in CORRECTIONS:
        if correction.name not in pass_names(options.no_passes):
            model, step = try_correction(
                model, correction, context, reshaped.exact, decided.error, options
            )
            steps.append(step)
            watch(step.name, model, step.outcome)
    start = time.perf_counter()
    model = model.clone()
    transform = ApplyPlan()
    outcome = transform.apply(model, context)
    steps.append(Step(transform.name, outcome, time.perf_counter() - start))
    watch(transform.name, model, outcome)
    return Quantised(decided, model, tuple(steps))


def lower_program(quantised: Quantised, options: CompileOptions) -> Lowered:
    """Quantised -> Lowered."""
    return Lowered(quantised, lower_fused(quantised.model, options.recipe))


def fit(lowered: Lowered, isa: str, ram_bytes: int | None, options: CompileOptions) -> Lowered:
    """Lowered -> Lowered, its first layers patch by patch if `options.patches` has it so.

    ram_bytes: what the device has, None without a limit. Raises OptionError for a GPU.
    """
    if isa == "cuda":
        if options.patches == "always":
            raise OptionError(
                "patches save the RAM of microcontrollers; leave --patches out for a GPU"
            )
        return lowered
    program = lowered.program
    limit: int | None = None
    if options.patches == "never" or (options.patches == "auto" and ram_bytes is None):
        return lowered
    if options.patches == "auto" and ram_bytes is not None:
        ports = (*program.inputs, *program.outputs)
        taken = sum(program.buffers[p.buffer].size_bytes for p in ports)
        limit = max(ram_bytes - taken - STACK_BYTES, 0)
    choice = choose(program, isa, limit)
    patched_program = None if choice.patches is None else patched(program, choice.patches)
    return replace(lowered, choice=choice, patched=patched_program)


def build(lowered: Lowered, isa: str, version: str, weights_file: bool = False) -> Built:
    """Lowered -> Built: C (or CUDA C and its host program) for the inner loops of isa.

    `weights_file`: constants go into a file of their own; not for GPUs.
    """
    name = lowered.quantised.planned.ranged.reshaped.profiled.canonical.source.name
    if isa == "cuda":
        return Built(lowered, emit_cuda(lowered.on_device, name, isa, version))
    return Built(lowered, emit_c(lowered.on_device, name, isa, version, weights_file))


def first_samples(samples: SampleSource, count: int) -> list[Feeds]:
    """Return up to count samples from the start."""
    return list(_iterate(samples, count))


def _iterate(samples: SampleSource, count: int | None) -> Iterator[Feeds]:
    for index, feeds in enumerate(samples):
        if count is not None and index >= count:
            return
        yield feeds
