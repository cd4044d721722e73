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

from ..compiler.core.graph import label
from ..compiler.core.passbase import Context, Effect, Example, Outcome
from ._edit import Notes
from ._folding_examples import STREAMS, UNTURNED, VALUES_TO_OUTPUT, example
from ._orthogonal import spreading
from ._residual import residuals
from ._rotate import Rotation, growth, head_sites, stream_problem, weight_bytes


@dataclass(frozen=True, slots=True)
class Quarot:
    """Turn residual streams and attention values by Hadamard matrices inside the weights."""

    seed: int = 0

    name: ClassVar[str] = "quarot"
    effect: ClassVar[Effect] = Effect.EQUIVALENT

    def apply(self, model: ir.Model, ctx: Context) -> Outcome:
        """Rotate every stream and every head that can be, all at once in float64."""
        notes, rotation = Notes(), Rotation(self.name)
        before = weight_bytes(model)
        done: list[tuple[str, str]] = []
        for index, stream in enumerate(residuals(model)):
            reason = stream_problem(model, stream)
            if reason is None:
                rng = np.random.default_rng([self.seed, index])
                matrix, text = spreading(stream.channels, rng)
                rotation.turn_stream(stream, matrix)
                done.append((stream.name, f"turned by a {text}"))
            else:
                notes.add(stream.name, "", reason)
        for index, (site, reason) in enumerate(head_sites(model)):
            where = f"{site.kind}: {label(site.source)}"
            if reason is None:
                rng = np.random.default_rng([self.seed, index, 1])
                matrix, text = spreading(site.width, rng)
                rotation.turn_values(site, matrix)
                done.append((where, f"every head turned by a {text}"))
            else:
                notes.add(where, "", reason)
        nodes = len(model.graph)
        failed = rotation.write(model) if done else None
        for where, text in done:
            notes.add(where, text, failed)
        if done and failed is None:
            notes.add("graph", growth(len(model.graph) - nodes, weight_bytes(model) - before), None)
        if not done and not notes.declined:
            notes.add("graph", "", "no activations are added and no heads average values")
        return notes.outcome()

    @staticmethod
    def examples() -> Iterable[Example]:
        """Streams with either norm, without norms, and heads; and what must stay."""
        for body in (*STREAMS, VALUES_TO_OUTPUT):
            yield example(body, measured=False)
        for body in UNTURNED:
            yield example(body, fires=False, measured=False)
