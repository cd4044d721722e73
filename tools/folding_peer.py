"""Compare our folding with onnxsim 0.8.1's methods of the same names: same models, same bits.

    .venv/bin/pip install onnxsim==0.8.1
    .venv/bin/python tools/folding_peer.py [MODEL ...]

Only the operands of layers are rounded (tools/rounding.py), so what a method adds before them
costs nothing here. SmoothQuant and OS+: W8A8, one scale per tensor that a layer reads. onnxsim's
QuaRot and DuQuant come with rounding of their own, weights to 4 bits in blocks of 32 and rows to 4
bits each; ours are rounded like that. Needs ../shared.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgec.compiler.core.kronecker import is_kronecker
from edgec.compiler.core.passbase import Transform
from edgec.compiler.frontend.load import load
from edgec.compiler.pipeline import canonicalise
from edgec.compiler.stages import Source
from edgec.passes._rotate import weight_bytes
from edgec.passes.duquant import Duquant
from edgec.passes.online_hadamard import OnlineHadamard
from edgec.passes.outlier_suppression import OutlierSuppression
from edgec.passes.quarot import Quarot
from edgec.passes.smooth_quant import SmoothQuant
from tools.folding import Bench, Grid, decibel
from tools.rounding import per_tensor, per_token
from tools.workloads import Workload, workloads

MODELS = ("autoencoder_toycar", "digits_vit_prenorm", "minilm_l6_v2_trim_s64_fp16store")
BLOCK = 32
W8A8, W4A4 = Grid(8, 8), Grid(4, 4, False, BLOCK)
OURS: Mapping[str, tuple[Grid, Sequence[Transform]]] = {
    "nothing, W8A8": (W8A8, ()),
    "edgec SmoothQuant": (W8A8, (SmoothQuant(),)),
    "edgec OS+": (W8A8, (OutlierSuppression(),)),
    "nothing, W4A4": (W4A4, ()),
    "edgec QuaRot, folded": (W4A4, (Quarot(),)),
    "edgec QuaRot, full": (W4A4, (Quarot(), OnlineHadamard())),
    "edgec DuQuant": (W4A4, (Duquant(),)),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One method on one model: what it adds at run time, and what is left after rounding."""

    method: str
    grid: str
    nodes: int
    matrix_nodes: int
    size_bytes: int
    sqnr_db: float

    def cells(self) -> str:
        """The row of the table."""
        return (
            f"| {self.method} | {self.grid} | {self.nodes} | {self.matrix_nodes} | "
            f"{self.size_bytes} | {self.sqnr_db:.1f} |"
        )


def ours(bench: Bench) -> Iterator[Row]:
    """Yield our methods; the model before is the canonical one."""
    for name, (grid, transforms) in OURS.items():
        model = bench.folded(transforms)
        error = _error(bench, model, grid)
        yield Row(
            name, grid.name, len(model.graph) - len(bench.model.graph),
            sum(map(is_kronecker, model.graph)),
            weight_bytes(model) - weight_bytes(bench.model), decibel(error),
        )  # fmt: skip


def theirs(work: Workload, bench: Bench) -> Iterator[Row]:
    """Yield onnxsim's methods on the model as it is published, in the opset that they need."""
    smooth = _method("smoothquant", "apply_smoothquant")
    shifted = _method("outlier_suppression_plus", "apply_outlier_suppression_plus")
    turned, searched = _method("quarot", "apply_quarot"), _method("duquant", "apply_duquant")
    plain = onnx.version_converter.convert_version(onnx.load(work.path), 21)
    data = [dict(feeds) for feeds in bench.ranging]
    calls: Mapping[str, tuple[Grid, Callable[[], onnx.ModelProto]]] = {
        "onnxsim SmoothQuant": (W8A8, lambda: smooth(plain, data)),
        "onnxsim OS+": (W8A8, lambda: shifted(plain, data)),
        "onnxsim QuaRot": (W4A4, lambda: turned(plain)),
        "onnxsim DuQuant": (W4A4, lambda: searched(plain, data)),
    }
    for name, (grid, call) in calls.items():
        after = call()
        products = [sum(n.op_type == "MatMul" for n in m.graph.node) for m in (plain, after)]
        yield Row(
            name, grid.name, len(after.graph.node) - len(plain.graph.node),
            products[1] - products[0], _turning_bytes(plain, after),
            decibel(_peer_error(bench, after, grid)),
        )  # fmt: skip


def _method(module: str, name: str) -> Callable[..., onnx.ModelProto]:
    """Return a function of onnxsim, which need not be installed for anything else."""
    found: Callable[..., onnx.ModelProto] = getattr(import_module(f"onnxsim.{module}"), name)
    return found


def _turning_bytes(before: onnx.ModelProto, after: onnx.ModelProto) -> int:
    """Return the bytes of float constants that were not there before."""
    known = {tensor.name for tensor in before.graph.initializer}
    fresh = [t for t in after.graph.initializer if t.name not in known]
    arrays: list[Any] = [onnx.numpy_helper.to_array(t) for t in fresh if t.data_type == 1]
    return sum(a.nbytes for a in arrays if a.ndim != 2 or a.shape[0] == a.shape[1])


def _error(bench: Bench, model: ir.Model, grid: Grid) -> float:
    """Return the error of a float model with the operands of its layers rounded."""
    bits = grid.weight_bits, grid.activation_bits
    if grid.static:
        return bench.error_of(per_tensor(model, bench.ranging, *bits))
    return bench.error_of(per_token(model, *bits, grid.block))


def _peer_error(bench: Bench, after: onnx.ModelProto, grid: Grid) -> float:
    """Return the error of onnxsim's model; a float one is rounded as ours are."""
    if not grid.static:
        return bench.error_of(ir.from_proto(after))
    source = Source(load(after).model, "peer", "0" * 64, (), False)
    return _error(bench, canonicalise(source, bench.ranging[:2]).model, grid)


def main() -> int:
    """Print one Markdown table per model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--samples", type=int, default=32, help="calibration samples, half judge")
    given = parser.parse_args()
    known = {w.name: w for w in workloads()}
    for name in given.models:
        bench = Bench(known[name], given.samples)
        print(f"\n### {name}\n")
        print("| method | bits | nodes added | of these products or transforms | bytes | SQNR dB |")
        print("|---|---|---|---|---|---|")
        for row in (*ours(bench), *theirs(known[name], bench)):
            print(row.cells(), flush=True)
    return 0


if __name__ == "__main__":
    np.seterr(all="ignore")
    sys.exit(main())
