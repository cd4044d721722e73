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
from ..compiler.core.passbase import Context, Effect, Example, Outcome
from ._flow import SCALE
from ._folding_examples import CHAINS, DECLINED, example
from ._rescale import Choice, rescale_sites
from ._site_error import Judge, largest_read
from ._structure import Site

GRID = tuple(np.linspace(0, 1, 11))
# Factors outside these would cost float32 its precision.
SMALLEST, LARGEST = 1e-2, 1e4


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
        """Smooth every site where that helps."""
        return rescale_sites(model, ctx, self._best, self.activation_bits, self.weight_bits)

    def _best(self, site: Site, judge: Judge) -> Choice:
        """Return the best of all exponents."""
        x, w = largest_read(judge, site.channels)
        still = np.zeros(site.channels)
        choices = {a: factors(site, x, w, a) for a in self.alpha}
        errors = {a: judge.error(s, still) for a, s in choices.items()}
        alpha = min(errors, key=lambda a: errors[a])
        return Choice(f"alpha {alpha:.1f}", choices[alpha], still, errors[alpha])

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
