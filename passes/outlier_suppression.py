"""Outlier Suppression+ (arXiv 2304.09145): centre the channels behind norms, shrink the outliers.

Channel j behind a norm is shifted by the middle z_j of its range and divided by
s_j = max(1, max|x_j - z_j| / t), so that only channels beyond the threshold t shrink and all end
within [-t, t]. Gain and offset of the norm take both in, the layers behind it undo them in weights
and biases. The threshold is searched on the layers' own rounding error. An RMSNorm has no offset,
so its channels are scaled alone.

In post-norm networks (BERT) the residual stream reads the norm too. There the scale is undone by
one product per skip edge, as the paper does, and no channel is shifted. The factors are powers of
two: gain, weights and the product's int8 codes then hold them exactly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..compiler.core.encoding import F64
from ..compiler.core.passbase import Context, Effect, Example, Outcome
from ._edit import is_op
from ._flow import SCALE, SHIFT
from ._folding_examples import DECLINED, NORM_TO_LAYERS, POST_NORM, RMS_TO_GATED, example
from ._rescale import Choice, rescale_sites
from ._site_error import Judge
from ._structure import NORM, Site

# Thresholds tried: each this share of the one before, down to a hundredth of the range.
STEP, STEPS = 0.93, 64
# The largest power of two that is an int8 code beside 1.
LARGEST = 64.0


@dataclass(frozen=True, slots=True)
class OutlierSuppression:
    """Shift and shrink outlier channels behind norms where the layers' own error falls.

    Errors are measured at `activation_bits` per tensor and `weight_bits` per output on samples
    that did not set the ranges.
    """

    activation_bits: int = 8
    weight_bits: int = 8

    name: ClassVar[str] = "outlier_suppression"
    effect: ClassVar[Effect] = Effect.EQUIVALENT

    def apply(self, model: ir.Model, ctx: Context) -> Outcome:
        """Treat every norm where that helps."""
        return rescale_sites(
            model, ctx, self._best, self.activation_bits, self.weight_bits, compensated=True
        )

    def _best(self, site: Site, judge: Judge) -> Choice | str:
        """Return the best of all thresholds, the range itself (a shift alone) among them."""
        if site.kind != NORM:
            return "only channels behind norms are shifted and shrunk"
        low, high = _range(site, judge)
        shift = np.zeros(site.channels)
        if is_op(site.source, "LayerNormalization"):
            shift = np.where(site.free[SHIFT], (low + high) / 2, 0.0)
        reach = np.maximum(high - shift, shift - low)
        widest = float(reach.max())
        if widest <= 0:
            return "its channels are always zero"

        def choice(index: int) -> Choice:
            t = widest * STEP**index
            scale = np.where(site.free[SCALE], _factors(reach / t, bool(site.skips)), 1.0)
            text = f"threshold {t:.3g} of {widest:.3g}"
            return Choice(text, scale, shift, judge.error(scale, shift))

        return min(map(choice, range(STEPS)), key=lambda c: c.error)

    @staticmethod
    def examples() -> Iterable[Example]:
        """Both norms with outlier channels, a post-norm block; and what must stay."""
        for body in (NORM_TO_LAYERS, RMS_TO_GATED, POST_NORM):
            yield example(body)
        for body in DECLINED:
            yield example(body, fires=False)
        yield example(NORM_TO_LAYERS, fires=False, measured=False)


def _factors(ratios: F64, undone: bool) -> F64:
    """Return s [channels]: at least 1; powers of two where a product on a skip edge undoes it."""
    factors = np.maximum(1.0, ratios)
    return np.minimum(2.0 ** np.rint(np.log2(factors)), LARGEST) if undone else factors


def _range(site: Site, judge: Judge) -> tuple[F64, F64]:
    """Return [channels] the smallest and largest value that any layer reads."""
    low, high = np.full(site.channels, np.inf), np.full(site.channels, -np.inf)
    for reading in judge.readings:
        labels = reading.sink.channels
        known = labels >= 0
        np.minimum.at(low, labels[known], reading.low[known])
        np.maximum.at(high, labels[known], reading.high[known])
    read = np.isfinite(low)
    return np.where(read, low, 0.0), np.where(read, high, 0.0)
