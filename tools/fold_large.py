"""Time and peak memory of folding: a Llama-shaped model of any size, and MiniLM.

    .venv/bin/python tools/fold_large.py [--layers 22 --width 2048 --hidden 5632] [--check]
    .venv/bin/python tools/fold_large.py --minilm

The defaults are TinyLlama's shape, 1.1 B parameters of seeded noise. Weights are a file that is
mapped into memory; what is folded is written to another one. `--check`: ONNX Runtime runs both.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgec.compiler.core.passbase import Context, Transform
from edgec.compiler.frontend.reference import evaluate
from edgec.passes.duquant import Duquant
from edgec.passes.online_hadamard import OnlineHadamard
from edgec.passes.outlier_suppression import OutlierSuppression
from edgec.passes.quarot import Quarot
from edgec.passes.smooth_quant import SmoothQuant

TOKENS, HEAD, GROUP = 8, 64, 8  # channels of a head, query heads per key-value head
OPSET, SEED = 23, 20261125
MINILM = "minilm_l6_v2_trim_s64_fp16store"


def weights(layers: int, width: int, hidden: int, words: int) -> Iterator[tuple[str, list[int]]]:
    """Yield the name and shape of every constant of the model."""
    yield "table", [words, width]
    for p in (f"l{index}_" for index in range(layers)):
        yield f"{p}n1", [width]
        yield f"{p}q", [width, width]
        for name in ("k", "v"):
            yield f"{p}{name}", [width, width // GROUP]
        yield f"{p}o", [width, width]
        yield f"{p}n2", [width]
        for name in ("gate", "up"):
            yield f"{p}{name}", [width, hidden]
        yield f"{p}down", [hidden, width]
    yield "norm", [width]
    yield "head", [width, words]


def body(layers: int, width: int) -> str:
    """Return the nodes of the model as ONNX text: RMSNorm, GQA, SwiGLU, tables apart."""
    lines, x = ["x = Gather (table, ids)"], "x"
    heads = width // HEAD
    for p in (f"l{index}_" for index in range(layers)):
        lines += [
            f"{p}a = RMSNormalization <epsilon = 1e-5> ({x}, {p}n1)",
            *(f"{p}{n}x = MatMul ({p}a, {p}{n})" for n in "qkv"),
            f"{p}y = Attention <is_causal = 1, q_num_heads = {heads}, "
            f"kv_num_heads = {heads // GROUP}> ({p}qx, {p}kx, {p}vx)",
            f"{p}ox = MatMul ({p}y, {p}o)", f"{p}r = Add ({x}, {p}ox)",
            f"{p}b = RMSNormalization <epsilon = 1e-5> ({p}r, {p}n2)",
            f"{p}g = MatMul ({p}b, {p}gate)", f"{p}u = MatMul ({p}b, {p}up)",
            f"{p}s = Sigmoid ({p}g)", f"{p}w = Mul ({p}g, {p}s)", f"{p}h = Mul ({p}w, {p}u)",
            f"{p}d = MatMul ({p}h, {p}down)", f"{p}z = Add ({p}r, {p}d)",
        ]  # fmt: skip
        x = f"{p}z"
    return "  ".join([*lines, f"f = RMSNormalization ({x}, norm)", "logits = MatMul (f, head)"])


def write_model(path: Path, layers: int, width: int, hidden: int, words: int) -> None:
    """Write a model of seeded noise, one tensor in memory at a time."""
    rng, offset, data = np.random.default_rng(SEED), 0, path.with_suffix(".bin")
    tensors: list[onnx.TensorProto] = []
    with data.open("wb") as file:
        for name, shape in weights(layers, width, hidden, words):
            held = rng.standard_normal(shape, np.float32)
            held = 1 + held / 10 if len(shape) == 1 else held / np.float32(np.sqrt(shape[0]))
            file.write(held.tobytes())
            tensors.append(_external(name, shape, data.name, offset, held.nbytes))
            offset += held.nbytes
    inputs = f"int64[1,{TOKENS}] ids"
    declared = ", ".join(
        f"float[{','.join(map(str, shape))}] {name}"
        for name, shape in weights(layers, width, hidden, words)
    )
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : {OPSET}]> llama ({inputs}, {declared}) '
        f"=> (float[1,{TOKENS},{words}] logits) {{ {body(layers, width)} }}"
    )
    proto = onnx.shape_inference.infer_shapes(proto)
    del proto.graph.input[1:]
    proto.graph.initializer.extend(tensors)
    path.write_bytes(proto.SerializeToString())


def _external(
    name: str, shape: Sequence[int], file: str, offset: int, size_bytes: int
) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, dims=shape, data_type=onnx.TensorProto.FLOAT)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", file), ("offset", offset), ("length", size_bytes)):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
    return tensor


def peak_gib() -> float:
    """Return the most memory this process ever held, files mapped into it included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


def fold(model: ir.Model, transforms: Sequence[Transform], context: Context) -> None:
    """Apply transforms to model, printing the time and the peak of memory of each."""
    for transform in transforms:
        start = time.perf_counter()
        outcome = transform.apply(model, context)
        seconds, sites = time.perf_counter() - start, len(outcome.changed)
        print(f"{transform.name}: {sites} notes, {seconds:.1f} s, peak {peak_gib():.2f} GiB")


def fold_large(given: argparse.Namespace, folder: Path) -> None:
    """Build, fold and write a model; compare both where that was asked for."""
    path, folded = folder / "model.onnx", folder / "folded.onnx"
    shape = given.layers, given.width, given.hidden, given.words
    write_model(path, *shape)
    count = sum(int(np.prod(s)) for _, s in weights(*shape))
    print(f"{count / 1e9:.3f} B parameters, {path.with_suffix('.bin').stat().st_size >> 20} MiB")
    start = time.perf_counter()
    model = ir.load(path)
    fold(model, (Quarot(), OnlineHadamard()), Context())
    ir.save(model, folded, external_data="folded.bin")
    seconds = time.perf_counter() - start
    print(f"loaded, folded and written in {seconds:.1f} s, peak {peak_gib():.2f} GiB")
    del model
    if given.check:
        before, after = (answer(p, given.words) for p in (path, folded))
        print(f"outputs moved by {np.abs(before - after).max() / np.abs(before).max():.1e}")


def answer(path: Path, words: int) -> Any:
    """Return what ONNX Runtime answers to seeded tokens."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    tokens = np.random.default_rng(SEED).integers(0, words, (1, TOKENS))
    return session.run(None, {"ids": tokens})[0]


def fold_minilm() -> None:
    """Fold MiniLM of ../shared by every method in turn, with 32 samples to search on."""
    from tools.folding import Bench
    from tools.workloads import workloads

    (work,) = (w for w in workloads() if w.name == MINILM)
    bench = Bench(work, 32)
    context = Context(samples=bench.ranging, evaluate=evaluate)
    for transforms in ((Quarot(), OnlineHadamard()), (Duquant(),), (SmoothQuant(),),
                       (OutlierSuppression(),)):  # fmt: skip
        fold(bench.model.clone(), transforms, context)


def main() -> int:
    """Print times and memory."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    for name, default in (("layers", 22), ("width", 2048), ("hidden", 5632), ("words", 32000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--check", action="store_true", help="run both models in ONNX Runtime")
    parser.add_argument("--minilm", action="store_true", help="fold MiniLM of ../shared instead")
    parser.add_argument("--folder", type=Path, help="where files go; else a temporary folder")
    given = parser.parse_args()
    if given.minilm:
        fold_minilm()
        return 0
    with tempfile.TemporaryDirectory(prefix="edgec-fold-", dir=given.folder) as folder:
        fold_large(given, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
