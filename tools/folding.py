"""Measure what folding methods are worth on real models: SQNR and task metric, fake-quantised.

    .venv/bin/python tools/folding.py [MODEL ...] [--samples N]

Every method folds into the canonical float model; then activations are rounded per tensor (static,
by min-max or MSE, whichever loses less) and weights per output channel, sensitive activations
(passes/_sensitive.py) to 12 bits, and ONNX Runtime runs the result. Needs ../shared.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgec.compiler import pipeline
from edgec.compiler.core.passbase import Context, Feeds, Transform
from edgec.compiler.frontend.calibrate import calibrate_all
from edgec.compiler.frontend.reference import Reference, evaluate
from edgec.compiler.options import CompileOptions
from edgec.compiler.proof import coded_error
from edgec.compiler.stages import Yardstick
from edgec.passes.apply_plan import ApplyPlan
from edgec.passes.assign_encodings import AssignEncodings
from edgec.passes.duquant import Duquant
from edgec.passes.outlier_suppression import OutlierSuppression
from edgec.passes.quarot import Quarot
from edgec.passes.smooth_quant import SmoothQuant
from tools.workloads import Workload, workloads

MODELS = (
    "digits_vit_prenorm",
    "kwt1_kws",
    "llama_stories260k_prefill",
    "minilm_l6_v2_trim_s64_fp16store",
)
# (bits of weights, bits of activations)
BITS = ((8, 8), (4, 8), (6, 6), (4, 4))
NOTHING, BEST = "nothing", "best"


def methods(weight_bits: int, activation_bits: int) -> Mapping[str, Sequence[Transform]]:
    """Return what is compared; searches judge at the bits that are measured."""
    smooth = SmoothQuant(weight_bits=weight_bits, activation_bits=activation_bits)
    shifted = OutlierSuppression(weight_bits=weight_bits, activation_bits=activation_bits)
    return {
        NOTHING: (), "SmoothQuant": (smooth,), "OS+": (shifted,), "QuaRot": (Quarot(),),
        "QuaRot + SmoothQuant": (Quarot(), smooth), "QuaRot + OS+": (Quarot(), shifted),
        "DuQuant": (Duquant(),), "DuQuant + SmoothQuant": (Duquant(), smooth),
    }  # fmt: skip


def canonical(work: Workload, samples: int) -> tuple[ir.Model, Sequence[Feeds]]:
    """Return the canonical float model and calibration samples."""
    options = CompileOptions(target="host", samples=samples)
    source = pipeline.load_source(work.path, options)
    data = pipeline.open_samples(source, work.calibration(), options)
    chosen = pipeline.first_samples(data, samples)
    return pipeline.canonicalise(source, chosen[:2]).model, chosen


def measure(work: Workload, samples: int) -> Iterator[tuple[str, str, float, float]]:
    """Yield (bits, method, SQNR in dB on held-out samples, task metric)."""
    model, chosen = canonical(work, samples)
    # Ranges come from the first half; the other half judges what is kept.
    ranging, judging = chosen[: samples // 2], chosen[samples // 2 :]
    runner = Reference(model)
    exact = Yardstick(tuple(judging), tuple(dict(runner.run(f)) for f in judging))
    for weight_bits, activation_bits in BITS:
        errors: dict[str, float] = {}
        plans: dict[str, Reference] = {}
        for name, transforms in methods(weight_bits, activation_bits).items():
            folded = model.clone()
            context = Context(samples=ranging, evaluate=evaluate)
            for transform in transforms:
                transform.apply(folded, context)
            assign = AssignEncodings(weight_bits, activation_bits, AssignEncodings.kinds())
            coded = [
                assign.decide(folded, Context(stats=stats))[0]
                for stats in calibrate_all(folded, ranging, ("minmax", "mse"))
            ]
            plan, errors[name] = min(
                ((p, coded_error(folded, p, exact)) for p in coded), key=lambda pair: pair[1]
            )
            ApplyPlan().apply(folded, Context(plan=plan))
            plans[name] = Reference(folded)
        bits = f"W{weight_bits}A{activation_bits}"
        score = work.quick or work.score
        scores = {n: score(p.run, runner.run) for n, p in plans.items()}
        kept = min(errors, key=lambda n: errors[n])
        for name in errors:
            yield bits, name, decibel(errors[name]), scores[name]
        yield bits, f"{BEST}: {kept}", decibel(errors[kept]), scores[kept]


def decibel(error: float) -> float:
    """Return an error relative to the mean square as a signal-to-noise ratio."""
    return float(-10 * np.log10(max(error, 1e-20)))


def main() -> int:
    """Print one Markdown table per model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--samples", type=int, default=32, help="calibration samples, half judge")
    given = parser.parse_args()
    known = {w.name: w for w in workloads()}
    for name in given.models:
        work, start = known[name], time.perf_counter()
        rows = list(measure(work, given.samples))
        names = [row[1] for row in rows if not row[1].startswith(BEST)][: len(rows) // len(BITS)]
        print(f"\n### {name} (SQNR dB, {work.metric})\n")
        print("| method | " + " | ".join(dict.fromkeys(r[0] for r in rows)) + " |")
        print("|---" * (1 + len(BITS)) + "|")
        for method in [*dict.fromkeys(names), BEST]:
            cells = [r for r in rows if r[1] == method or (method == BEST and BEST in r[1])]
            print(f"| {method} | " + " | ".join(_cell(r, method) for r in cells) + " |")
        print(f"\n{time.perf_counter() - start:.0f} s", file=sys.stderr)
    return 0


def _cell(row: tuple[str, str, float, float], method: str) -> str:
    kept = f" ({row[1].split(': ')[1]})" if method == BEST else ""
    return f"{row[2]:.1f}, {row[3]:.4g}{kept}"


if __name__ == "__main__":
    sys.exit(main())
