"""What every form of a model answers on the kept samples, before any device is asked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .core.errors import ModelError
from .core.passbase import Feeds
from .frontend.double import in_double
from .frontend.reference import Reference
from .lowering.program import Array
from .ports import encode_port
from .sequence import as_fed, float_sequence, one_sequence, program_sequence
from .stages import Lowered, Trial


def rehearse(lowered: Lowered, count: int) -> Trial:
    """Run the float model, the quantised model and the program on the kept samples.

    Float model and program carry states of their own through the samples; the quantised model is
    asked about every step of the program.
    """
    quantised = lowered.quantised
    reshaped = quantised.planned.ranged.reshaped
    profiled = reshaped.profiled
    program = lowered.program
    feeds = one_sequence(quantised.model, profiled.samples[:count])
    reference = Reference(quantised.model)
    float_model = None if profiled.canonical.source.already_quantised else reshaped.model
    real = [] if float_model is None else float_sequence(float_model, feeds)
    codes, expected = program_sequence(program, feeds)
    feeds = [as_fed(program, f, c, quantised.model) for f, c in zip(feeds, codes, strict=True)]
    answers = [reference.run(f) for f in feeds]
    coded = [{p.name: encode_port(p, a[p.name]) for p in program.outputs} for a in answers]
    double, refusal = _answers_in_double(lowered, feeds)
    return Trial(
        codes=_stacked(codes), expected=_stacked(expected), quantised=_stacked(coded),
        double=_stacked(double), not_in_double=refusal, real=_stacked(real),
        engine=reference.engine,
    )  # fmt: skip


def _answers_in_double(
    lowered: Lowered, feeds: Sequence[Feeds]
) -> tuple[list[dict[str, Array]], str]:
    """Return the integer outputs of the quantised model in double, or none and the reason."""
    outputs = lowered.program.outputs
    try:
        reference = Reference(in_double(lowered.quantised.model), fallback=False)
        answers = [reference.run(f) for f in feeds]
    except ModelError as error:
        return [], str(error)
    return [{p.name: encode_port(p, a[p.name]) for p in outputs} for a in answers], ""


def _stacked(items: Sequence[dict[str, Array]]) -> dict[str, Array]:
    if not items:
        return {}
    return {name: np.stack([item[name] for item in items]) for name in items[0]}
