"""Recognise RMSNormalization: x / sqrt(mean(x^2) + eps) * gamma, also with the sum (x / |x|)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..compiler.core.graph import label, model_from_text
from ..compiler.core.passbase import Context, Effect, Example, Outcome
from ._edit import Notes
from ._norm import RMS_OPSET, norm_sites, rms_problem, write_norm


@dataclass(frozen=True, slots=True)
class FuseRmsnorm:
    """Replace written-out root-mean-square norms by the standard operator of opset 23."""

    name: ClassVar[str] = "fuse_rmsnorm"
    effect: ClassVar[Effect] = Effect.EQUIVALENT

    def apply(self, model: ir.Model, ctx: Context) -> Outcome:
        """Fuse every match, raising the opset of the model to 23 if there is one."""
        notes = Notes()
        for root, match in norm_sites(model, centred=False):
            where, reason = label(root), match if isinstance(match, str) else None
            reason = reason or rms_problem(model)
            if not isinstance(match, str) and reason is None:
                write_norm(match, "RMSNormalization", self.name)
                model.opset_imports[""] = max(model.opset_imports[""], RMS_OPSET)
            notes.add(where, "fused into RMSNormalization", reason)
        return notes.outcome()

    @staticmethod
    def examples() -> Iterable[Example]:
        """The usual spellings, with and without gamma; and three near misses."""
        mean = "S = Mul (X, X)  V = ReduceMean (S, last)  E = Add (V, eps)"
        root = f"{mean} R = Sqrt (E)"
        for body in (
            f"{root} N = Div (X, R)  Y = Mul (N, g)",
            f"{root} I = Div (one, R)  N = Mul (X, I)  Y = Mul (g, N)",
            "S = Pow (X, two)  V = ReduceMean (S, last)  R = Sqrt (V) "
            "I = Reciprocal (R)  Y = Mul (I, X)",
            "S = Mul (X, X)  V = ReduceSum (S, last)  R = Sqrt (V)  Y = Div (X, R)",
            f"{mean} R = Pow (E, minus_half)  N = Mul (R, X)  G = Mul (N, g)  Y = Add (G, X)",
        ):
            yield _example(body)
        for body in (
            "S = Mul (X, X)  V = ReduceMean (S, both)  R = Sqrt (V)  Y = Div (X, R)",
            f"{root} N = Div (X, R)  Y = Add (N, R)",
            f"{root} A = Abs (X)  Y = Div (A, R)",
        ):
            yield _example(body, fires=False)


def _example(body: str, fires: bool = True) -> Example:
    rng = np.random.default_rng(0)
    model = model_from_text(
        f'<ir_version: 10, opset_import: ["" : 21]> '
        f"m (float[2,3,8] X) => (float[2,3,8] Y) {{ {body} }}",
        g=rng.standard_normal(8).astype(np.float32),
        eps=np.full((), 1e-3, np.float32),
        one=np.ones((), np.float32),
        two=np.full((), 2, np.float32),
        minus_half=np.full((), -0.5, np.float32),
        last=np.array([2]),
        both=np.array([1, 2]),
    )
    return Example(model, {"X": rng.standard_normal((2, 3, 8)).astype(np.float32)}, fires=fires)
