"""Which kinds of activations get more than 8 bits: those whose measured gain is worth their RAM."""

from __future__ import annotations

import difflib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from ..passes.assign_encodings import AssignEncodings
from .core.encoding import WIDE_BITS
from .core.errors import OptionError
from .core.graph import matches
from .core.operators import WIDE
from .core.passbase import Context, Note, Outcome
from .core.plan import QuantPlan
from .core.stats import Stats
from .options import CompileOptions
from .proof import ENOUGH, coded_error
from .stages import Step, Yardstick

# A kind is widened if that leaves at most this share of the error.
WORTH = 0.75

NAME = "wide_activations"


@dataclass(frozen=True, slots=True, eq=False)
class _Judge:
    """Plans for a model and their measured error."""

    model: ir.Model
    stats: Stats
    exact: Yardstick
    named: tuple[str, ...]

    def error(self, kinds: tuple[str, ...]) -> float:
        plan, _ = _plan(self.model, self.stats, kinds, self.named)
        return coded_error(self.model, plan, self.exact)


def _plan(
    model: ir.Model, stats: Stats, kinds: tuple[str, ...], named: tuple[str, ...]
) -> tuple[QuantPlan, Outcome]:
    return AssignEncodings(wide=kinds, wide_named=named).decide(model, Context(stats=stats))


def planned(
    model: ir.Model, stats: Stats, exact: Yardstick, options: CompileOptions,
    narrow_error: float | None = None,
) -> tuple[QuantPlan, Sequence[Step], float | None]:  # fmt: skip
    """Return the plan of a model by what options ask for, what was decided, and its error.

    `narrow_error`: of the plan without any kind. Errors are None where nobody measured them.
    Raises OptionError if wide activations were asked for and the model has no use for them, or a
    pattern matches nothing that could be wide.
    """
    start = time.perf_counter()
    named = options.wide
    plan, outcome = _plan(model, stats, (), named)
    _require_effect(model, plan, named)
    narrow = Step(AssignEncodings.name, outcome, time.perf_counter() - start)
    if options.wide_activations == "never":
        return plan, [narrow], narrow_error
    sites = [
        kind for kind in AssignEncodings.kinds() if _plan(model, stats, (kind,), named)[0] != plan
    ]
    error = None
    if options.wide_activations == "always":
        kinds, chosen = tuple(sites), _forced(sites)
    elif sites:
        judge = _Judge(model, stats, exact, named)
        error = judge.error(()) if narrow_error is None else narrow_error
        kinds, chosen, error = _worthwhile(judge, error, sites)
    else:
        return plan, [narrow], narrow_error
    plan, outcome = _plan(model, stats, kinds, named)
    seconds = time.perf_counter() - start - narrow.seconds
    return plan, [Step(NAME, chosen, seconds), replace(narrow, outcome=outcome)], error


def _require_effect(model: ir.Model, plan: QuantPlan, patterns: Sequence[str]) -> None:
    """Raise OptionError for a pattern that names no stored activation, or none that can be wide."""
    values = [*model.graph.inputs, *(v for node in model.graph for v in node.outputs)]
    for pattern in patterns:
        found = [str(v.name) for v in values if matches(v, (pattern,))]
        stored = [name for name in found if name in plan.encodings]
        if not stored:
            what = f"only {found[0]}, which is not stored" if found else "no layer and no tensor"
            near = difflib.get_close_matches(pattern, plan.encodings, 1, 0.5)
            hint = f"did you mean '{near[0]}'?" if near else "plan.json lists the stored tensors."
            raise OptionError(f"--wide '{pattern}' matches {what}; {hint}")
        if not any(plan.encodings[name].bits == WIDE_BITS for name in stored):
            raise OptionError(
                f"--wide '{pattern}' matches {', '.join(stored[:3])}, which not all kernels there "
                f"can hold in more than 8 bits ({', '.join(sorted(WIDE))} can); leave it out."
            )


def _forced(sites: Sequence[str]) -> Outcome:
    if not sites:
        raise OptionError(
            "wide activations were asked for but the model has no attention operands, gated "
            "products or sums before norms that could be widened; leave the option out"
        )
    return Outcome(changed=[Note(kind, "12 bits in int16, as asked") for kind in sites])


def _worthwhile(
    judge: _Judge, narrow: float, sites: Sequence[str]
) -> tuple[tuple[str, ...], Outcome, float]:
    """Start from all kinds, for their gains overlap; give up those that are not worth it."""
    if narrow <= ENOUGH:
        text = f"8 bits: the outputs' {_decibel(narrow)} are enough"
        return (), Outcome(declined=[Note(kind, text) for kind in sites]), narrow
    kinds, error = tuple(sites), judge.error(tuple(sites))
    kept: list[Note] = []
    declined: list[Note] = []
    while kinds:
        rests = {kind: tuple(k for k in kinds if k != kind) for kind in kinds}
        errors = {k: judge.error(r) if r else narrow for k, r in rests.items()}
        least = min(kinds, key=lambda kind: errors[kind])
        if errors[least] > ENOUGH and error <= WORTH * errors[least]:
            kept = [Note(k, f"12 bits in int16: {_gain(e, error)}") for k, e in errors.items()]
            break
        declined.append(Note(least, f"8 bits: {_gain(errors[least], error)} is not worth it"))
        kinds, error = rests[least], errors[least]
    return kinds, Outcome(kept, declined), error


def _gain(before: float, after: float) -> str:
    return f"{_decibel(before)} -> {_decibel(after)} of the outputs"


def _decibel(error: float) -> str:
    return f"{-10 * math.log10(max(error, 1e-20)):.1f} dB"
