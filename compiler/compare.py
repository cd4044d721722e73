"""Two artifacts or models side by side: size, cost, and how far apart their answers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ..runtime.devices import device_for
from ..targets import find_target
from .bench import Bench, bench_artifact
from .check import dequantised, load_reference, of_kind
from .core.artifact import Manifest, Record, load_manifest
from .core.errors import DataError, OptionError
from .core.graph import static_shape
from .core.macs import macs_by_operator
from .frontend.carry import carried
from .frontend.data import open_data, synthetic
from .frontend.load import load
from .frontend.reference import Reference
from .lowering.program import Array
from .metrics import cosine, max_abs, sqnr_db, top1_agreement
from .ports import decode_port, encode_port

SYNTHETIC_SAMPLES, SEED = 8, 0


class Facts(Record):
    """What one side is; None where the question does not arise or nothing was measured.

    `weights_bytes`: constants in flash, or initializers of a model; `sqnr_db`: worst output
    against the artifact's own float model.
    """

    path: str
    kind: str
    target: str | None
    macs: int
    weights_bytes: int
    flash_bytes: int | None = None
    ram_bytes: int | None = None
    arena_bytes: int | None = None
    instructions: float | None = None
    time_s: float | None = None
    sqnr_db: float | None = None


class OutputDistance(Record):
    """How far output `other` of B is from output `name` of A, as real values on the same inputs."""

    name: str
    other: str
    same: bool
    sqnr_db: float
    cosine: float
    max_abs: float
    top1_agreement: float


class LayerPair(Record):
    """The cost of the layers that stand for the same ONNX nodes in both artifacts."""

    nodes: tuple[str, ...]
    first: float | None
    second: float | None


class Comparison(Record):
    """Both sides, the distance of their outputs, and their layers where both have any.

    `inputs`: where the inputs came from, in words; `unit` of the layers: instructions or seconds.
    """

    first: Facts
    second: Facts
    samples: int
    inputs: str
    outputs: tuple[OutputDistance, ...]
    layers: tuple[LayerPair, ...]
    unit: str | None


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """An artifact with what it costs, or an ONNX model; `model` says what the inputs are."""

    path: Path
    model: ir.Model
    manifest: Manifest | None
    bench: Bench | None

    def answers(self, feeds: Sequence[Mapping[str, Array]], timeout_s: float) -> dict[str, Array]:
        """Return outputs per name, [samples, *shape], for inputs as the ONNX model takes them.

        Real values, but for a model whose outputs are codes.
        """
        if self.manifest is None:
            runner = Reference(self.model)
            found = [runner.run(f) for f in feeds]
            return {name: np.stack([a[name] for a in found]) for name in found[0]}
        spec, _ = find_target(self.manifest.target)
        codes = {
            p.name: np.stack([encode_port(p, f[p.name]) for f in feeds])
            for p in self.manifest.inputs
        }
        result = device_for(spec, timeout_s).run(self.path, self.manifest, codes)
        return dequantised(self.manifest, result.outputs)


def compare(
    first: Path, second: Path, data: Path | None = None, layers: bool = True,
    samples: int | None = None, shapes: Mapping[str, tuple[int, ...]] | None = None,
    timeout_s: float = 600.0,
) -> Comparison:  # fmt: skip
    """Compare two artifacts, two models, or one of each, A being the reference.

    `data`: inputs (.npz or folder of .npy); without it the reference inputs of an artifact, or
    seeded synthetic ones; `layers`: measure the layers of artifacts, too; `samples`: most to run;
    `shapes`: of open inputs of models.
    Raises EdgecError when a side cannot be read, or when they take different inputs.
    """
    sides = [_open(path, layers, shapes or {}, timeout_s) for path in (first, second)]
    _require_same_inputs(sides)
    feeds, origin = _feeds(sides, data, samples)
    answers = _alike(sides, [side.answers(feeds, timeout_s) for side in sides])
    pairs, unit = _layers(sides)
    return Comparison(
        first=_facts(sides[0]), second=_facts(sides[1]), samples=len(feeds), inputs=origin,
        outputs=tuple(_distances(answers[0], answers[1])), layers=pairs, unit=unit,
    )  # fmt: skip


def _open(
    path: Path, layers: bool, shapes: Mapping[str, tuple[int, ...]], timeout_s: float
) -> _Side:
    if path.is_dir():
        manifest = load_manifest(path)
        bench = bench_artifact(path, layers=layers, timeout_s=timeout_s)
        stored = path / "model.float.onnx"
        model = ir.load(stored if stored.is_file() else path / "model.quant.onnx")
        return _Side(path, model, manifest, bench)
    return _Side(path, load(path, shapes).model, None, None)


def _require_same_inputs(sides: Sequence[_Side]) -> None:
    found = [[_words(value) for value in side.model.graph.inputs] for side in sides]
    if sorted(found[0]) != sorted(found[1]):
        raise OptionError(
            f"'{sides[0].path}' takes {', '.join(found[0])}, '{sides[1].path}' takes "
            f"{', '.join(found[1])}; compare what takes the same inputs."
        )


def _words(value: ir.Value) -> str:
    shape = "x".join(map(str, static_shape(value) or ())) or "scalar"
    return f"{value.name} {shape} {str(value.dtype).lower()}"


def _alike(
    sides: Sequence[_Side], answers: Sequence[dict[str, Array]]
) -> Sequence[dict[str, Array]]:
    """Turn the codes that one side's model answers into real values where the other side does."""
    for mine, other in ((0, 1), (1, 0)):
        manifest = sides[other].manifest
        if sides[mine].manifest is None and manifest is not None:
            for port in manifest.outputs:
                if (given := answers[mine].get(port.name)) is not None and given.dtype.kind != "f":
                    answers[mine][port.name] = decode_port(port, encode_port(port, given))
    return answers


def _feeds(
    sides: Sequence[_Side], data: Path | None, samples: int | None
) -> tuple[list[dict[str, Array]], str]:
    """Return the inputs both sides run on, and where they came from."""
    if data is not None:
        found = [dict(f) for f in carried(open_data(data, sides[0].model), sides[0].model)][
            :samples
        ]
        if not found:
            raise DataError(f"'{data}' holds no sample; give at least one.")
        return found, str(data)
    for side in sides:
        if side.manifest is not None:
            return _stored(side, side.manifest)[:samples], f"the reference inputs of {side.path}"
    count = SYNTHETIC_SAMPLES if samples is None else samples
    made = [dict(f) for f in carried(synthetic(sides[0].model, count, SEED), sides[0].model)]
    return made, f"{len(made)} seeded synthetic samples"


def _stored(side: _Side, manifest: Manifest) -> list[dict[str, Array]]:
    """Return the reference inputs of an artifact as its ONNX model takes them."""
    codes = of_kind(load_reference(side.path), "codes")
    types = {str(v.name): v.dtype for v in side.model.graph.inputs}
    given: dict[str, Array] = {}
    for port in manifest.inputs:
        dtype = types[port.name]
        array = codes[port.name]
        if dtype == ir.DataType.FLOAT:
            array = decode_port(port, array)
        elif dtype == ir.DataType.UINT8:
            array = (array.astype(np.int16) + 128).astype(np.uint8)
        elif dtype is not None:
            array = array.astype(dtype.numpy())
        given[port.name] = array
    return [{n: a[i] for n, a in given.items()} for i in range(len(next(iter(given.values()))))]


def _facts(side: _Side) -> Facts:
    if side.manifest is None or side.bench is None:
        weights = sum(
            v.const_value.nbytes
            for v in side.model.graph.initializers.values()
            if v.const_value is not None
        )
        return Facts(
            path=str(side.path), kind="model", target=None, weights_bytes=weights,
            macs=sum(macs_by_operator(side.model).values()),
        )  # fmt: skip
    memory, bench = side.manifest.memory, side.bench
    return Facts(
        path=str(side.path), kind="artifact", target=side.manifest.target,
        macs=side.manifest.macs, weights_bytes=memory.weights_bytes,
        flash_bytes=bench.flash_bytes, ram_bytes=bench.ram_bytes, arena_bytes=memory.arena_bytes,
        instructions=bench.instructions, time_s=bench.time.median_s if bench.time else None,
        sqnr_db=_own_error(side),
    )  # fmt: skip


def _own_error(side: _Side) -> float | None:
    """Return the worst SQNR of the expected outputs against the artifact's float model."""
    assert side.manifest is not None
    reference = load_reference(side.path)
    real = {n: a for n, a in of_kind(reference, "real").items() if a.dtype.kind == "f"}
    got = dequantised(side.manifest, of_kind(reference, "expected"))
    return min((sqnr_db(real[n], got[n]) for n in real), default=None)


def _distances(first: Mapping[str, Array], second: Mapping[str, Array]) -> list[OutputDistance]:
    """Compare outputs of the same name, or by position where names differ and shapes agree."""
    by_name = set(first) & set(second)
    pairs = [(n, n) for n in first if n in by_name] or list(zip(first, second, strict=False))
    found: list[OutputDistance] = []
    for name, other in pairs:
        a, b = np.asarray(first[name]), np.asarray(second[other])
        if a.shape != b.shape:
            raise OptionError(
                f"output '{name}' has shape {list(a.shape[1:])} in A and '{other}' "
                f"{list(b.shape[1:])} in B; compare models with the same outputs."
            )
        found.append(
            OutputDistance(
                name=name, other=other, same=np.array_equal(a, b), sqnr_db=sqnr_db(a, b),
                cosine=cosine(a, b), max_abs=max_abs(a, b), top1_agreement=top1_agreement(a, b),
            )
        )  # fmt: skip
    return found


def _layers(sides: Sequence[_Side]) -> tuple[tuple[LayerPair, ...], str | None]:
    """Return the cost of layers by the ONNX nodes they stand for, where both count alike."""
    costs: list[dict[tuple[str, ...], float]] = []
    counted: list[bool] = []
    for side in sides:
        layers = side.bench.layers if side.bench else ()
        counted.append(any(layer.instructions is not None for layer in layers))
        found: dict[tuple[str, ...], float] = {}
        for layer in layers:
            key = layer.nodes or (layer.function,)
            cost = layer.instructions if counted[-1] else layer.time_s
            found[key] = found.get(key, 0.0) + (cost or 0.0)
        costs.append(found)
    if not costs[0] or not costs[1] or counted[0] != counted[1]:
        return (), None
    keys = list(dict.fromkeys([*costs[0], *costs[1]]))
    pairs = [LayerPair(nodes=k, first=costs[0].get(k), second=costs[1].get(k)) for k in keys]
    return tuple(pairs), "instructions" if counted[0] else "seconds"
