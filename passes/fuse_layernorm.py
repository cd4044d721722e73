"""Recognise LayerNormalization: (x - mean) / sqrt(mean((x - mean)^2) + eps) * gamma + beta."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..compiler.core.graph import label, model_from_text
from ..compiler.core.passbase import Context, Effect, Example, Outcome
from ._edit import Notes
from ._norm import norm_sites, write_norm


@dataclass(frozen=True, slots=True)
class FuseLayernorm:
    """Replace written-out normalisations of the last axis by the standard operator."""

    name: ClassVar[str] = "fuse_layernorm"
    effect: ClassVar[Effect] = Effect.EQUIVALENT

    def apply(self, model: ir.Model, ctx: Context) -> Outcome:
        """Fuse every match."""
        notes = Notes()
        for root, match in norm_sites(model, centred=True):
            where, reason = label(root), match if isinstance(match, str) else None
            if not isinstance(match, str):
                write_norm(match, "LayerNormalization", self.name)
            notes.add(where, "fused into LayerNormalization", reason)
        return notes.outcome()

    @staticmethod
    def examples() -> Iterable[Example]:
        """The usual spellings, with and without gamma and beta; and three near misses."""
        mean = "M = ReduceMean (X, last)  D = Sub (X, M)"
        variance = "S = Mul (D, D)  V = ReduceMean (S, last)  E = Add (eps, V)"
        root = "R = Sqrt (E)"
        for body in (
            f"{mean} {variance} {root} N = Div (D, R)  G = Mul (N, g)  Y = Add (G, b)",
            f"{mean} S = Pow (D, two)  V = ReduceMean (S, last)  E = Add (V, eps) {root} "
            "I = Reciprocal (R)  N = Mul (I, D)  G = Mul (g, N)  Y = Add (b, G)",
            f"{mean} {variance} {root} D2 = Sub (X, M)  I = Div (one, R)  Y = Mul (D2, I)",
            f"{mean} {variance} R = Pow (E, minus_half)  N = Mul (D, R)  Y = Mul (N, g)",
        ):
            yield _example(body)
        for body in (
            "M = ReduceMean (X, first)  D = Sub (X, M)  S = Mul (D, D)  V = ReduceMean (S, first)"
            f" E = Add (V, eps) {root} Y = Div (D, R)",
            f"{mean} {variance} {root} N = Div (D, R)  Y = Mul (N, R)",
            f"{mean} {variance} {root} Y = Div (X, R)",
        ):
            yield _example(body, fires=False)


def _example(body: str, fires: bool = True) -> Example:
    rng = np.random.default_rng(0)
    model = model_from_text(
        f'<ir_version: 10, opset_import: ["" : 21]> '
        f"m (float[2,3,8] X) => (float[2,3,8] Y) {{ {body} }}",
        g=rng.standard_normal(8).astype(np.float32),
        b=rng.standard_normal(8).astype(np.float32),
        eps=np.full((), 1e-3, np.float32),
        one=np.ones((), np.float32),
        two=np.full((), 2, np.float32),
        minus_half=np.full((), -0.5, np.float32),
        last=np.array([-1]),
        first=np.array([1]),
    )
    return Example(model, {"X": rng.standard_normal((2, 3, 8)).astype(np.float32)}, fires=fires)
