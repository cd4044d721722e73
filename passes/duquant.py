"""DuQuant (arXiv 2406.01721), folded: rotations that follow the outliers, at no run-time cost.

The paper turns what every layer reads by R1 P R2 while the model runs: two rotations of blocks of
channels, each a greedy search for the smallest range, and a permutation between them that deals
the large channels evenly to the blocks. Here the same product is searched on the residual stream
as its norms leave it and folded into the weights around the stream as QuaRot's matrix is; and one
rotation per attention layer is folded between its values and its output. The matrix is searched
on rows of the calibration samples, not on their mean. The paper's smoothing comes before the
rotation and does not commute with it: `smooth_quant` smooths afterwards instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..compiler.core.encoding import F32, F64
from ..compiler.core.passbase import Context, Effect, Example, Outcome
from ._edit import is_op
from ._flow import MIX
from ._folding_examples import STREAMS, UNTURNED, VALUES_TO_OUTPUT, example
from ._greedy import duquant_turn
from ._residual import Residual, residuals
from ._rotate import head_sites
from ._site_error import ROWS, chosen_samples, places
from ._structure import Site
from ._turn import Chosen, turn

UNSEEN = "there are no calibration samples to search by"
EPSILON = 1e-12


@dataclass(frozen=True, slots=True)
class Duquant:
    """Turn residual streams and attention values by greedy rotations inside the weights.

    `block`: most channels that one rotation mixes; `steps`: of the greedy search (paper: 256).
    """

    block: int = 128
    steps: int = 256
    seed: int = 0

    name: ClassVar[str] = "duquant"
    effect: ClassVar[Effect] = Effect.EQUIVALENT

    def apply(self, model: ir.Model, ctx: Context) -> Outcome:
        """Rotate every stream and every head that can be, all at once in float64."""
        wanted = {name for stream in residuals(model) for name in _stream_values(stream)}
        wanted |= {str(site.value.name) for site, _ in head_sites(model)}
        seen = _seen(model, ctx, sorted(wanted))

        def of_stream(index: int, stream: Residual) -> Chosen:
            return self._search(_stream_rows(stream, seen), index) if seen else UNSEEN

        def of_heads(index: int, site: Site) -> Chosen:
            return self._search(_head_rows(site, seen), index) if seen else UNSEEN

        return turn(model, self.name, of_stream, of_heads)

    def _search(self, rows: F64, index: int) -> Chosen:
        """Return the best rotation for rows [n, channels]."""
        channels = rows.shape[1]
        block = min(channels & -channels, self.block)
        rng = np.random.default_rng([self.seed, index, channels])
        found = duquant_turn(rows, block, self.steps, rng)
        if found.range_after >= found.range_before:
            return f"no rotation of blocks of {block} makes its range smaller"
        before, after = found.range_before, found.range_after
        text = f"greedy rotations of blocks of {block}: range {before:.3g} -> {after:.3g}"
        return found.matrix, text

    @staticmethod
    def examples() -> Iterable[Example]:
        """Streams with either norm, without norms, and heads; and what must stay."""
        for body in (*STREAMS, VALUES_TO_OUTPUT):
            yield example(body)
        for body in UNTURNED:
            yield example(body, fires=False)
        yield example(STREAMS[0], fires=False, measured=False)


def _stream_values(stream: Residual) -> dict[str, int]:
    """Return the names of what norms and layers read of a stream, and the axis of its channels."""
    found = {str(_first(site.source).name): -1 for site in stream.norms}
    for node in stream.readers:
        found[str(_first(node).name)] = 1 if is_op(node, "Conv") else -1
    return found


def _first(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


def _seen(model: ir.Model, ctx: Context, names: Sequence[str]) -> Mapping[str, Sequence[F32]]:
    """Return what values with these names held on calibration samples; nothing without any."""
    if ctx.evaluate is None or not ctx.samples or not names:
        return {}
    held = list(ctx.evaluate(model, chosen_samples(ctx), names))
    return {name: [values[name] for values in held] for name in names}


def _stream_rows(stream: Residual, seen: Mapping[str, Sequence[F32]]) -> F64:
    """Return rows [n, channels] of a stream as its norms leave it, gains apart."""
    rows = np.concatenate([_rows(seen[n], axis) for n, axis in _stream_values(stream).items()])
    if stream.centred:
        rows = rows - rows.mean(axis=1, keepdims=True)
    if not stream.norms:
        return rows
    return rows / np.sqrt(np.square(rows).mean(axis=1, keepdims=True) + EPSILON)


def _head_rows(site: Site, seen: Mapping[str, Sequence[F32]]) -> F64:
    """Return rows [n, width] of the values of all heads."""
    axis = 1 if is_op(site.source, "Conv") else -1
    rows = _rows(seen[str(site.value.name)], axis)[:, site.free[MIX]]
    return rows.reshape(-1, site.width)


def _rows(held: Sequence[F32], axis: int) -> F64:
    """Return up to ROWS rows [n, channels] of these arrays, spread evenly."""
    flat = np.concatenate([np.moveaxis(a, axis, -1).reshape(-1, a.shape[axis]) for a in held])
    return flat[places(len(flat), ROWS)].astype(np.float64)
