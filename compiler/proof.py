"""What a pass must show to be kept: equal outputs, or a lower measured error."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Sequence

import numpy as np
import onnx_ir as ir

from ..passes.apply_plan import ApplyPlan
from ..passes.assign_encodings import AssignEncodings
from .core.errors import ModelError, OptionError
from .core.passbase import Context, Effect, Feeds, Note, Outcome, Transform
from .core.plan import QuantPlan
from .core.stats import Stats
from .frontend.calibrate import calibrate
from .frontend.reference import Reference
from .lowering.program import Array
from .options import CompileOptions
from .stages import SEEN, Step, Yardstick

# A transform must not move any output further than this, relative to the largest output.
PROOF_LIMIT = 1e-5
# 8 bits are enough where the outputs' error is below this share of their mean square (30 dB).
ENOUGH = 1e-3
# Samples on which transforms are proved and measured.
PROOF_SAMPLES = 4


def answers(model: ir.Model, samples: Sequence[Feeds]) -> list[dict[str, Array]]:
    """Return what model answers to samples."""
    runner = Reference(model)
    return [dict(runner.run(f)) for f in samples]


def prove(
    model: ir.Model,
    transform: Transform,
    context: Context,
    samples: Sequence[Feeds],
    before: list[dict[str, Array]],
) -> tuple[ir.Model, Step]:
    """Apply transform to a copy; keep the copy only if the outputs did not move.

    `before`: outputs of the untransformed model on the first samples.
    """
    assert transform.effect is Effect.EQUIVALENT
    start = time.perf_counter()
    candidate = model.clone()
    outcome = transform.apply(candidate, context)
    if not outcome.changed:
        return model, Step(transform.name, outcome, time.perf_counter() - start)
    try:
        error = largest_move(before, answers(candidate, samples[: len(before)]))
    except ModelError as problem:
        error, reason = float("inf"), str(problem)
    else:
        reason = f"outputs moved by {error:.1e} of the largest, more than {PROOF_LIMIT:.0e}"
    seconds = time.perf_counter() - start
    if error > PROOF_LIMIT:
        declined = [_rolled_back(transform, reason), *outcome.declined]
        return model, Step(transform.name, Outcome(declined=declined), seconds, error)
    return candidate, Step(transform.name, outcome, seconds, error)


def _rolled_back(transform: Transform, reason: str) -> Note:
    return Note(transform.name, f"rolled back: {reason}")


def largest_move(before: list[dict[str, Array]], after: list[dict[str, Array]]) -> float:
    """Return the largest move of any output, relative to the largest value of that output."""
    moves = [
        _move(value, np.asarray(new[name]))
        for old, new in zip(before, after, strict=True)
        for name, value in old.items()
    ]
    return max(moves, default=0.0)


def _move(old: Array, new: Array) -> float:
    """Return the largest difference relative to the largest finite value of old.

    Infinite when anything else differs: type, shape, integers, what is infinite or no number.
    """
    if old.dtype.kind != "f":
        return 0.0 if np.array_equal(old, new) else float("inf")
    finite = np.isfinite(old)
    if old.shape != new.shape or not np.array_equal(old[~finite], new[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    wanted, got = old[finite].astype(np.float64), new[finite].astype(np.float64)
    if not np.isfinite(got).all():
        return float("inf")
    return float(np.abs(wanted - got).max()) / max(float(np.abs(wanted).max()), 1e-30)


class Contest:
    """Forms of one model: the one whose quantised answers are closest to the float ones is kept."""

    def __init__(self, model: ir.Model, exact: Yardstick, widening: bool = False) -> None:
        """Begin with model as it is; nothing is measured before there is something to compare.

        `widening`: sensitive activations will get more than 8 bits where 8 are not ENOUGH, so
        forms are compared with what is left of their errors then.
        """
        self.model = model
        self._exact = exact
        self._widening = widening
        self._wide: tuple[str, ...] = ()
        self._before = answers(model, exact.samples[:PROOF_SAMPLES])
        self.error: float | None = None  # of model, once it was measured

    def offer(
        self, transforms: Sequence[Transform], context: Context, forced: Collection[str]
    ) -> list[Step]:
        """Try transforms as alternatives to each other; keep the best, if it is better than none.

        One that is forced is kept whatever it costs. Raises OptionError if it does nothing.
        """
        tried = [
            prove(self.model, t, context, self._exact.samples, self._before) for t in transforms
        ]
        for transform, (_, step) in zip(transforms, tried, strict=True):
            _require_sites(transform.name, step.outcome, transform.name in forced)
        changed = [i for i, (candidate, _) in enumerate(tried) if candidate is not self.model]
        imposed = [i for i in changed if transforms[i].name in forced]
        if imposed:
            best, errors, self.error = imposed[0], dict[int, float](), None
        else:
            errors = {i: self._measured(tried[i][0]) for i in changed}
            best = min(errors, key=lambda i: errors[i], default=None)
        plain = self.error if errors else None
        if best is not None and (plain is None or errors[best] < plain):
            self.model, self.error = tried[best][0], errors.get(best)
        else:
            best = None
        return [
            step if i == best or i not in changed else _unkept(step, plain, errors.get(i))
            for i, (_, step) in enumerate(tried)
        ]

    def _measured(self, candidate: ir.Model) -> float:
        """Return the error of candidate, once that of the model kept so far is known too."""
        if self.error is None:
            self.error = quantisation_error(self.model, self._exact, self._wide)
            if self._widening and not self._wide and self.error > ENOUGH:
                self._wide = AssignEncodings.kinds()
                self.error = quantisation_error(self.model, self._exact, self._wide)
        return quantisation_error(candidate, self._exact, self._wide)


def _unkept(step: Step, plain: float | None, error: float | None) -> Step:
    """Return a step that says that its changes were given up for another form of the model."""
    note = Note(step.name, "not kept: another pass was asked for in its place")
    if plain is not None and error is not None:
        note = _not_kept(step.name, plain, error)
    declined = [note, *step.outcome.declined]
    return Step(step.name, Outcome(declined=declined), step.seconds, step.error)


def try_correction(
    model: ir.Model, correction: Transform, context: Context, exact: Yardstick,
    plain: float | None, options: CompileOptions,
) -> tuple[ir.Model, Step]:  # fmt: skip
    """Keep a lossy correction only if the quantised model comes closer to the float one.

    `plain`: the error without it, if it is known.
    """
    start = time.perf_counter()
    candidate = model.clone()
    outcome = correction.apply(candidate, context)
    forced = correction.name in pass_names(options.passes)
    if not outcome.changed:
        _require_sites(correction.name, outcome, forced)
        return model, Step(correction.name, outcome, time.perf_counter() - start)
    if plain is None:
        plain = coded_error(model, context.plan, exact)
    better = coded_error(candidate, context.plan, exact)
    seconds = time.perf_counter() - start
    if better < plain or forced:
        return candidate, Step(correction.name, outcome, seconds)
    declined = [_not_kept(correction.name, plain, better), *outcome.declined]
    return model, Step(correction.name, Outcome(declined=declined), seconds)


def _require_sites(name: str, outcome: Outcome, forced: bool) -> None:
    """Raise OptionError if a pass asked for by name found nothing to do."""
    if forced and not outcome.changed:
        reasons = "; ".join(f"{n.where}: {n.text}" for n in outcome.declined[:3])
        raise OptionError(f"pass '{name}' was asked for but did nothing: {reasons}")


def _not_kept(name: str, plain: float, better: float) -> Note:
    return Note(name, f"not kept: error {plain:.4g} -> {better:.4g} of the outputs' mean square")


def pass_names(asked: Sequence[str]) -> set[str]:
    """Return pass names as users write them (with dashes) as they are called here."""
    return {name.replace("-", "_") for name in asked}


def quantisation_error(model: ir.Model, exact: Yardstick, wide: tuple[str, ...] = ()) -> float:
    """Return the W8A8 error of model by the ranges it has on the samples; `wide`: kinds."""
    return planned_error(model, calibrate(model, exact.samples, SEEN), exact, wide)


def planned_error(
    model: ir.Model, stats: Stats, exact: Yardstick, wide: tuple[str, ...] = ()
) -> float:
    """Return the error of model quantised by the ranges in stats; `wide`: kinds of more bits."""
    plan, _ = AssignEncodings(wide=wide).decide(model, Context(stats=stats))
    return coded_error(model, plan, exact)


def coded_error(model: ir.Model, plan: QuantPlan, exact: Yardstick) -> float:
    """Return the error of model under plan against the exact answers, on the worst output.

    Of an output: mean square of the error over that of the output. Outputs that are always zero
    do not count.
    """
    coded = model.clone()
    ApplyPlan().apply(coded, Context(plan=plan))
    runner = Reference(coded)
    noise, power = defaultdict[str, float](float), defaultdict[str, float](float)
    for feeds, real in zip(exact.samples, exact.answers, strict=True):
        answer = runner.run(feeds)
        for name, value in real.items():
            if value.dtype.kind == "f":
                wanted = value.astype(np.float64)
                noise[name] += float(np.square(wanted - answer[name]).sum())
                power[name] += float(np.square(wanted).sum())
    return max((noise[name] / power[name] for name in power if power[name] > 0), default=0.0)
