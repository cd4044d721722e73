"""SmoothQuant (arXiv 2211.10438): move the range of outlier channels from activations to weights.

Channel j of what a layer reads is divided by s_j = max|x_j|^a / max|w_j|^(1-a), and its weights are
multiplied by it. The division is folded into whatever wrote the channel: the gain of a norm, the
value projection, the up projection of a gated MLP, the layer before in a chain. Nothing is added
to the graph. The exponent a is searched per site; leaving the site alone is always a candidate.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..compiler.core.encoding import F64
from ..compiler.core.graph import label
from ..compiler.core.passbase import Context, Effect, Example, Outcome
from ._edit import Notes
from ._flow import SCALE
from ._folding_examples import CHAINS, DECLINED, example
from ._site_edit import rescale_site
from ._site_error import Judge, judge_of, largest_read, readings
from ._structure import Site, sites

GRID = tuple(np.linspace(0, 1, 11))
# Factors outside these would cost float32 its precision.
SMALLEST, LARGEST = 1e-2, 1e4
# A site is changed only if that leaves at most this share of its layers' rounding error.
WORTH = 0.98


@dataclass(frozen=True, slots=True)
class SmoothQuant:
    """Even out activation channels inside norms and layers where the layers' own error falls.

    `alpha`: exponents tried per site. Errors are measured at `activation_bits` per tensor and
    `weight_bits` per output on samples that did not set the ranges.
    """

    alpha: tuple[float, ...] = GRID
    activation_bits: int = 8
    weight_bits: int = 8

    name: ClassVar[str] = "smooth_quant"
    effect: ClassVar[Effect] = Effect.EQUIVALENT

    def apply(self, model: ir.Model, ctx: Context) -> Outcome:
        """Smooth every site, the last first: then no later site changes what one was judged by."""
        notes, found = Notes(), list(sites(model))
        seen = readings(model, [s for s in found if s.refused(SCALE) is None], ctx)
        for site in reversed(found):
            where = f"{site.kind}: {label(site.source)}"
            reason = site.refused(SCALE)
            if reason is None and not seen:
                reason = "there are no calibration samples to judge by"
            if reason is None:
                judge = judge_of(site, seen, self.activation_bits, self.weight_bits)
                text, scale = self._best(site, judge)
                if scale is None:
                    reason = text
                else:
                    reason = rescale_site(site, scale, np.zeros_like(scale))
                    notes.add(where, text, reason)
                    continue
            notes.add(where, "", reason)
        if not found:
            notes.add("graph", "", "no layer reads what a norm or another layer writes")
        return notes.outcome()

    def _best(self, site: Site, judge: Judge) -> tuple[str, F64 | None]:
        """Return what was found, and the factors [channels] worth dividing by, if there are any."""
        x, w = largest_read(judge, site.channels)
        still = np.zeros(site.channels)
        before = judge.error(np.ones(site.channels), still)
        errors = {a: judge.error(factors(site, x, w, a), still) for a in self.alpha}
        alpha = min(errors, key=lambda a: errors[a])
        text = f"error of its layers {before:.3g} -> {errors[alpha]:.3g} with alpha {alpha:.1f}"
        if errors[alpha] > WORTH * before:
            return f"nothing gained: {text}", None
        return text, factors(site, x, w, alpha)

    @staticmethod
    def examples() -> Iterable[Example]:
        """Outlier channels behind norms, in chains, values and gates; and what must stay."""
        for body in CHAINS:
            yield example(body)
        for body in DECLINED:
            yield example(body, fires=False)
        yield example(CHAINS[0], fires=False, measured=False)


def factors(site: Site, x: F64, w: F64, alpha: float) -> F64:
    """Return s [channels] from the largest activations and weights; 1 where nothing may be done."""
    alive = site.free[SCALE] & (x > 0) & (w > 0)
    s = np.ones(site.channels)
    s[alive] = x[alive] ** alpha / w[alive] ** (1 - alpha)
    return np.where(alive, np.clip(s, SMALLEST, LARGEST), 1.0)
