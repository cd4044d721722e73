"""Measure what folding methods are worth on real models: SQNR and task metric, fake-quantised.

    .venv/bin/python tools/folding.py [MODEL ...] [--samples N] [--columns ..] [--without ..]

Every method folds into the canonical float model, then ONNX Runtime runs it rounded in two ways.
Static: activations per tensor (by min-max or MSE, whichever loses less), weights per output
channel, sensitive activations (passes/_sensitive.py) to 12 bits. Per token: what layers read, a
scale per row, as the papers do it (tools/rounding.py). Needs ../shared.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgec.compiler import pipeline
from edgec.compiler.core.passbase import Context, Transform
from edgec.compiler.frontend.calibrate import calibrate_all
from edgec.compiler.frontend.reference import Reference, evaluate
from edgec.compiler.options import CompileOptions
from edgec.compiler.proof import coded_error
from edgec.compiler.stages import Yardstick
from edgec.passes.apply_plan import ApplyPlan
from edgec.passes.assign_encodings import AssignEncodings
from edgec.passes.duquant import Duquant
from edgec.passes.online_hadamard import OnlineHadamard
from edgec.passes.outlier_suppression import OutlierSuppression
from edgec.passes.quarot import Quarot
from edgec.passes.smooth_quant import SmoothQuant
from tools.rounding import per_token
from tools.workloads import Runner, Workload, workloads

MODELS = (
    "digits_vit_prenorm",
    "kwt1_kws",
    "llama_stories260k_prefill",
    "minilm_l6_v2_trim_s64_fp16store",
)
NOTHING, BEST = "nothing", "best"


@dataclass(frozen=True, slots=True)
class Grid:
    """How a column of the table rounds; `static`: per tensor by calibrated ranges.

    `block`: inputs of a weight that share a scale, 0: all (per token only).
    """

    weight_bits: int
    activation_bits: int
    static: bool = True
    block: int = 0

    @property
    def name(self) -> str:
        """Heading of the column."""
        how = "" if self.static else " per token"
        return f"W{self.weight_bits}A{self.activation_bits}{how}"


GRIDS = (Grid(8, 8), Grid(4, 8), Grid(6, 6), Grid(4, 4), Grid(6, 6, False), Grid(4, 4, False))


def methods(grid: Grid) -> Mapping[str, Sequence[Transform]]:
    """Return what is compared; searches judge at the bits that are measured."""
    weights, activations = grid.weight_bits, grid.activation_bits
    smooth = SmoothQuant(weight_bits=weights, activation_bits=activations)
    shifted = OutlierSuppression(weight_bits=weights, activation_bits=activations)
    return {
        NOTHING: (), "SmoothQuant": (smooth,), "OS+": (shifted,), "QuaRot, folded": (Quarot(),),
        "QuaRot, folded + SmoothQuant": (Quarot(), smooth),
        "QuaRot, full": (Quarot(), OnlineHadamard()),
        "QuaRot, full + SmoothQuant": (Quarot(), smooth, OnlineHadamard()),
        "DuQuant": (Duquant(),), "DuQuant + SmoothQuant": (Duquant(), smooth),
        "DuQuant + Hadamard operators": (Duquant(), OnlineHadamard()),
    }  # fmt: skip


class Bench:
    """A workload's canonical model, its samples, and what was folded already.

    Ranges come from the first half of the samples; the other half judges what is kept.
    """

    def __init__(self, work: Workload, samples: int) -> None:
        options = CompileOptions(target="host", samples=samples)
        source = pipeline.load_source(work.path, options)
        data = pipeline.open_samples(source, work.calibration(), options)
        chosen = pipeline.first_samples(data, samples)
        self.model = pipeline.canonicalise(source, chosen[:2]).model
        self.ranging, judging = chosen[: samples // 2], chosen[samples // 2 :]
        self.runner = Reference(self.model)
        self.exact = Yardstick(tuple(judging), tuple(dict(self.runner.run(f)) for f in judging))
        self._folded: dict[str, ir.Model] = {}

    def folded(self, transforms: Sequence[Transform]) -> ir.Model:
        """Return the model after transforms; equal ones are applied once."""
        key = repr(transforms)
        if key not in self._folded:
            model = self.model.clone()
            context = Context(samples=self.ranging, evaluate=evaluate)
            for transform in transforms:
                transform.apply(model, context)
            self._folded[key] = model
        return self._folded[key]

    def rounded(self, model: ir.Model, grid: Grid) -> tuple[Runner, float]:
        """Return what runs model on a grid, and its error on the judging samples."""
        if not grid.static:
            bits = grid.weight_bits, grid.activation_bits
            runner = Reference(per_token(model, *bits, grid.block))
            return runner.run, self._error(runner)
        assign = AssignEncodings(grid.weight_bits, grid.activation_bits, AssignEncodings.kinds())
        stats = calibrate_all(model, self.ranging, ("minmax", "mse"))
        plans = [assign.decide(model, Context(stats=found))[0] for found in stats]
        errors = [coded_error(model, plan, self.exact) for plan in plans]
        coded, best = model.clone(), int(np.argmin(errors))
        ApplyPlan().apply(coded, Context(plan=plans[best]))
        return Reference(coded).run, errors[best]

    def error_of(self, model: ir.Model) -> float:
        """Return the error of a model that rounds by itself."""
        return self._error(Reference(model))

    def _error(self, runner: Reference) -> float:
        """Return the error relative to the mean square of the worst output."""
        answers = [runner.run(f) for f in self.exact.samples]
        errors: list[float] = []
        for name in self.exact.answers[0]:
            wanted = np.stack([a[name] for a in self.exact.answers]).astype(np.float64)
            got = np.stack([a[name] for a in answers])
            errors.append(float(np.square(wanted - got).mean() / np.square(wanted).mean()))
        return max(errors)


def measure(
    work: Workload, samples: int, grids: Sequence[Grid], left_out: Sequence[str]
) -> Iterator[tuple[str, str, float, float]]:
    """Yield (column, method, SQNR in dB on held-out samples, task metric)."""
    bench = Bench(work, samples)
    score = work.quick or work.score
    for grid in grids:
        errors: dict[str, float] = {}
        scores: dict[str, float] = {}
        for name, transforms in methods(grid).items():
            if any(word in name for word in left_out):
                continue
            start = time.perf_counter()
            run, errors[name] = bench.rounded(bench.folded(transforms), grid)
            scores[name] = score(run, bench.runner.run)
            seconds = time.perf_counter() - start
            text = f"{grid.name}, {name}: {decibel(errors[name]):.1f} dB, {scores[name]:.4g}"
            print(f"{text} ({seconds:.0f} s)", file=sys.stderr, flush=True)
            yield grid.name, name, decibel(errors[name]), scores[name]
        kept = min(errors, key=lambda n: errors[n])
        yield grid.name, f"{BEST}: {kept}", decibel(errors[kept]), scores[kept]


def decibel(error: float) -> float:
    """Return an error relative to the mean square as a signal-to-noise ratio."""
    return float(-10 * np.log10(max(error, 1e-20)))


def main() -> int:
    """Print one Markdown table per model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--samples", type=int, default=32, help="calibration samples, half judge")
    names = [grid.name for grid in GRIDS]
    parser.add_argument("--columns", nargs="*", choices=names, default=names)
    parser.add_argument("--without", nargs="*", default=(), help="words in names of methods")
    given = parser.parse_args()
    grids = [grid for grid in GRIDS if grid.name in given.columns]
    known = {w.name: w for w in workloads()}
    for name in given.models:
        work, start = known[name], time.perf_counter()
        rows = list(measure(work, given.samples, grids, given.without))
        names = list(dict.fromkeys(row[1] for row in rows if not row[1].startswith(BEST)))
        print(f"\n### {name} (SQNR dB, {work.metric})\n")
        print("| method | " + " | ".join(grid.name for grid in grids) + " |")
        print("|---" * (1 + len(grids)) + "|")
        for method in [*names, BEST]:
            cells = [r for r in rows if r[1] == method or (method == BEST and BEST in r[1])]
            print(f"| {method} | " + " | ".join(_cell(r, method) for r in cells) + " |", flush=True)
        print(f"\n{time.perf_counter() - start:.0f} s", file=sys.stderr)
    return 0


def _cell(row: tuple[str, str, float, float], method: str) -> str:
    kept = f" ({row[1].split(': ')[1]})" if method == BEST else ""
    return f"{row[2]:.1f}, {row[3]:.4g}{kept}"


if __name__ == "__main__":
    sys.exit(main())
