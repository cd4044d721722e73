"""Small networks of the families that passes fold into, in the spellings of different exporters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.compiler.core.graph import model_from_text

WIDTH, TOKENS, VOCABULARY = 8, 6, 11


@dataclass(frozen=True)
class Spelling:
    """How a block of a transformer is written down."""

    norm: str = "RMSNormalization"
    grouped: bool = False
    fused: bool = False
    rope: bool = False
    gated: bool = True
    biased: bool = True
    post_norm: bool = False
    tied: bool = False
    layers: int = 1
    width: int = WIDTH
    heads: int = 2


def transformer(spelling: Spelling, seed: int = 0, outliers: bool = True) -> ir.Model:
    """Return token numbers -> logits through residual blocks with outlier channels."""
    rng = np.random.default_rng(seed)
    d = spelling.width
    arrays: dict[str, NDArray[Any]] = {
        "table": rng.standard_normal((VOCABULARY, d)), "pos": rng.standard_normal((1, TOKENS, d)),
        "rows": np.array([1, TOKENS, d]), "half": np.array(0.5),
    }  # fmt: skip
    lines = ["X0 = Gather (table, ids)", "X = Add (pos, X0)"]
    value = "X"
    for index in range(spelling.layers):
        value = _block(spelling, f"l{index}_", value, rng, arrays, lines)
    lines.append(_norm(spelling, "final", value, rng, arrays, outliers))
    if spelling.tied:
        lines.append("Y = Gemm <transB = 1> (flat, table)")
        lines.insert(-1, "flat = Reshape (final, flatrows)")
        arrays["flatrows"] = np.array([TOKENS, d])
        shape = f"{TOKENS},{VOCABULARY}"
    else:
        arrays["head"] = rng.standard_normal((d, VOCABULARY))
        lines.append("Y = MatMul (final, head)")
        shape = f"1,{TOKENS},{VOCABULARY}"
    body = "  ".join(lines)
    return model_from_text(
        f'<ir_version: 10, opset_import: ["" : 23]> m (int64[1,{TOKENS}] ids) '
        f"=> (float[{shape}] Y) {{ {body} }}",
        **{n: a if a.dtype.kind == "i" else a.astype(np.float32) for n, a in arrays.items()
           if n in body.replace("(", " ").replace(")", " ").replace(",", " ").split()},
    )  # fmt: skip


def token_feeds(seed: int = 0) -> dict[str, NDArray[Any]]:
    """Return one sample of tokens."""
    return {"ids": np.random.default_rng(seed).integers(0, VOCABULARY, (1, TOKENS))}


def _norm(
    spelling: Spelling, name: str, value: str, rng: np.random.Generator,
    arrays: dict[str, NDArray[Any]], outliers: bool = True,
) -> str:  # fmt: skip
    gain = 1 + 0.1 * rng.standard_normal(spelling.width)
    gain[[1, -2]] *= 40 if outliers else 1
    arrays[f"{name}_g"] = gain
    inputs = f"{value}, {name}_g"
    if spelling.norm == "LayerNormalization":
        arrays[f"{name}_b"] = rng.standard_normal(spelling.width)
        inputs += f", {name}_b"
    return f"{name} = {spelling.norm} <epsilon = 1e-2> ({inputs})"


def _block(
    spelling: Spelling, p: str, value: str, rng: np.random.Generator,
    arrays: dict[str, NDArray[Any]], lines: list[str],
) -> str:  # fmt: skip
    source = value
    if not spelling.post_norm:
        lines.append(_norm(spelling, f"{p}n1", value, rng, arrays))
        source = f"{p}n1"
    lines += _attention(spelling, p, source, rng, arrays)
    lines.append(f"{p}r1 = Add ({value}, {p}o)")
    value = f"{p}r1"
    if spelling.post_norm:
        lines.append(_norm(spelling, f"{p}n1", value, rng, arrays))
        value = source = f"{p}n1"
    else:
        lines.append(_norm(spelling, f"{p}n2", value, rng, arrays))
        source = f"{p}n2"
    lines += _mlp(spelling, p, source, rng, arrays)
    lines.append(f"{p}r2 = Add ({p}down, {value})")
    if spelling.post_norm:
        lines.append(_norm(spelling, f"{p}n2", f"{p}r2", rng, arrays))
        return f"{p}n2"
    return f"{p}r2"


def _layer(
    spelling: Spelling, name: str, value: str, sizes: tuple[int, int],
    rng: np.random.Generator, arrays: dict[str, NDArray[Any]],
) -> list[str]:  # fmt: skip
    arrays[f"{name}_w"] = rng.standard_normal(sizes) / np.sqrt(sizes[0])
    if not spelling.biased:
        return [f"{name} = MatMul ({value}, {name}_w)"]
    arrays[f"{name}_c"] = rng.standard_normal(sizes[1])
    first = rng.random() < 0.5
    inputs = f"{name}_c, {name}_m" if first else f"{name}_m, {name}_c"
    return [f"{name}_m = MatMul ({value}, {name}_w)", f"{name} = Add ({inputs})"]


def _attention(
    spelling: Spelling, p: str, source: str, rng: np.random.Generator,
    arrays: dict[str, NDArray[Any]],
) -> list[str]:  # fmt: skip
    d, heads = spelling.width, spelling.heads
    size, kv = d // heads, 1 if spelling.grouped else heads
    lines: list[str] = []
    if spelling.fused:
        arrays[f"{p}sizes"] = np.array([d, kv * size, kv * size])
        lines += _layer(spelling, f"{p}qkv", source, (d, d + 2 * kv * size), rng, arrays)
        lines.append(f"{p}q, {p}k, {p}v = Split <axis = 2> ({p}qkv, {p}sizes)")
    else:
        for name, out in (("q", d), ("k", kv * size), ("v", kv * size)):
            lines += _layer(spelling, f"{p}{name}", source, (d, out), rng, arrays)
    for name, count in (("q", heads), ("k", kv), ("v", kv)):
        arrays[f"{p}{name}s"] = np.array([1, TOKENS, count, size])
        lines.append(f"{p}{name}r = Reshape ({p}{name}, {p}{name}s)")
        lines.append(f"{p}{name}h = Transpose <perm = [0, 2, 1, 3]> ({p}{name}r)")
        if kv != heads and name != "q":
            lines += _repeated(f"{p}{name}h", heads // kv, (1, kv, TOKENS, size), arrays)
    for name in ("q", "k") if spelling.rope else ():
        lines += _turned(f"{p}{name}h", size, arrays)
    lines += [
        f"{p}kt = Transpose <perm = [0, 1, 3, 2]> ({p}kh)" if kv == heads and not spelling.rope
        else f"{p}kt = Transpose <perm = [0, 1, 3, 2]> ({p}kh{_last(spelling, kv)})",
        f"{p}s = MatMul ({p}qh{'t' if spelling.rope else ''}, {p}kt)",
        f"{p}sc = Mul ({p}s, half)", f"{p}p = Softmax ({p}sc)",
        f"{p}a = MatMul ({p}p, {p}vh{'e' if kv != heads else ''})",
        f"{p}at = Transpose <perm = [0, 2, 1, 3]> ({p}a)", f"{p}ar = Reshape ({p}at, rows)",
        *_layer(spelling, f"{p}o", f"{p}ar", (d, d), rng, arrays),
    ]  # fmt: skip
    return lines


def _last(spelling: Spelling, kv: int) -> str:
    return ("e" if kv != spelling.heads else "") + ("t" if spelling.rope else "")


def _repeated(
    value: str, times: int, shape: tuple[int, ...], arrays: dict[str, NDArray[Any]]
) -> list[str]:
    b, kv, t, size = shape
    arrays["two"] = np.array([2])
    arrays[f"{value}x"], arrays[f"{value}y"] = (
        np.array([b, kv, times, t, size]),
        np.array([b, kv * times, t, size]),
    )
    return [
        f"{value}u = Unsqueeze ({value}, two)", f"{value}w = Expand ({value}u, {value}x)",
        f"{value}e = Reshape ({value}w, {value}y)",
    ]  # fmt: skip


def _turned(value: str, size: int, arrays: dict[str, NDArray[Any]]) -> list[str]:
    angle = np.arange(TOKENS)[:, None] * np.tile(0.5 ** np.arange(size // 2), 2)
    arrays["cos"], arrays["sin"] = np.cos(angle), np.sin(angle)
    arrays["halves"] = np.array([size // 2, size // 2])
    source = value + "e" if f"{value}x" in arrays else value
    return [
        f"{source}lo, {source}hi = Split <axis = 3> ({source}, halves)",
        f"{source}ng = Neg ({source}hi)", f"{source}c = Concat <axis = 3> ({source}ng, {source}lo)",
        f"{source}m1 = Mul ({source}, cos)", f"{source}m2 = Mul ({source}c, sin)",
        f"{source}t = Add ({source}m1, {source}m2)",
    ]  # fmt: skip


def _mlp(
    spelling: Spelling, p: str, source: str, rng: np.random.Generator,
    arrays: dict[str, NDArray[Any]],
) -> list[str]:  # fmt: skip
    d = spelling.width
    lines = _layer(spelling, f"{p}up", source, (d, 2 * d), rng, arrays)
    if spelling.gated:
        lines += _layer(spelling, f"{p}gate", source, (d, 2 * d), rng, arrays)
        lines += [f"{p}sg = Sigmoid ({p}gate)", f"{p}ac = Mul ({p}gate, {p}sg)",
                  f"{p}h = Mul ({p}ac, {p}up)"]  # fmt: skip
    else:
        lines.append(f"{p}h = Relu ({p}up)" if spelling.biased else f"{p}h = Gelu ({p}up)")
    return [*lines, *_layer(spelling, f"{p}down", f"{p}h", (2 * d, d), rng, arrays)]
