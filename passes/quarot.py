"""QuaRot (arXiv 2404.00456), the part that costs nothing at run time.

Norm gains are folded into the layers behind them, LayerNorm becomes RMSNorm where everything that
writes the stream can be centred, and then the stream is turned by a randomised Hadamard matrix
inside the weights around it; so are the values of attention heads. An outlier channel of size A
becomes A / sqrt(channels) on every channel. What needs an operator at run time (mixing heads, the
input of down projections, rotated keys) is not done here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..compiler.core.passbase import Context, Effect, Example, Outcome
from ._folding_examples import STREAMS, UNTURNED, VALUES_TO_OUTPUT, example
from ._orthogonal import spreading
from ._residual import Residual
from ._structure import Site
from ._turn import Chosen, turn


@dataclass(frozen=True, slots=True)
class Quarot:
    """Turn residual streams and attention values by Hadamard matrices inside the weights."""

    seed: int = 0

    name: ClassVar[str] = "quarot"
    effect: ClassVar[Effect] = Effect.EQUIVALENT

    def apply(self, model: ir.Model, ctx: Context) -> Outcome:
        """Rotate every stream and every head that can be, all at once in float64."""

        def of_stream(index: int, stream: Residual) -> Chosen:
            matrix, text = spreading(stream.channels, np.random.default_rng([self.seed, index]))
            return matrix, f"a {text}"

        def of_heads(index: int, site: Site) -> Chosen:
            matrix, text = spreading(site.width, np.random.default_rng([self.seed, index, 1]))
            return matrix, f"a {text}"

        return turn(model, self.name, of_stream, of_heads)

    @staticmethod
    def examples() -> Iterable[Example]:
        """Streams with either norm, without norms, and heads; and what must stay."""
        for body in (*STREAMS, VALUES_TO_OUTPUT):
            yield example(body, measured=False)
        for body in UNTURNED:
            yield example(body, fires=False, measured=False)
