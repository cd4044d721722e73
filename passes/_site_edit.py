"""Write a change of a site's channels into its source and into every layer that reads them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ..compiler.core.encoding import F64
from ..compiler.core.graph import add_constant, set_constant, tensor_of
from ..compiler.core.linear import LinearView
from ._edit import graph_of, insert_before, is_op
from ._linear import NOT_FINITE, Draft, draft, editable
from ._structure import NORMS, Site


def layer_draft(node: ir.Node) -> Draft:
    """Return the draft of a layer that belongs to a site."""
    view = editable(node)
    assert isinstance(view, LinearView), view
    return draft(view)


def rescale_site(site: Site, scale: F64, shift: F64) -> str | None:
    """Let the source give (x - shift) / scale, [channels], and its layers undo it; or say why not.

    Nothing is written unless everything can be. What sums the source with other activations reads
    it through a product with scale.
    """
    layers = [layer_draft(sink.node) for sink in site.sinks]
    for sink, layer in zip(site.sinks, layers, strict=True):
        layer.absorb(sink.per_input(scale, 1.0), sink.per_input(shift, 0.0))
    source = None if is_op(site.source, *NORMS) else layer_draft(site.source)
    if source is not None:
        source.rescale(1 / scale, -shift / scale)
        layers.append(source)
    reason = write_all(layers)
    if source is None and reason is None:
        gain, offset = norm_parameters(site.source)
        write_norm_parameters(site.source, gain / scale, (offset - shift) / scale)
        _undo_on_skips(site, scale)
    return reason


def _undo_on_skips(site: Site, scale: F64) -> None:
    """Let every sum that reads the source as it is read its product with scale instead."""
    gain = tensor_of(site.source.inputs[1])
    assert gain is not None
    for node, index in site.skips:
        name = f"{site.value.name}.unscaled"
        factors = add_constant(graph_of(node), f"{name}.by", scale.astype(gain.dtype))
        product = insert_before(node, "Mul", [site.value, factors], name, site.value.shape)
        node.replace_input_with(index, product)


def write_all(layers: Sequence[Draft]) -> str | None:
    """Write all layers, or none and say why."""
    if any(not layer.finite() for layer in layers):
        return NOT_FINITE
    for layer in layers:
        layer.write()
    return None


def norm_parameters(norm: ir.Node) -> tuple[F64, F64]:
    """Return gain and offset of a norm, [channels]."""
    gain = tensor_of(norm.inputs[1])
    assert gain is not None
    offset = tensor_of(norm.inputs[2]) if len(norm.inputs) > 2 else None
    wide = gain.astype(np.float64)
    return wide, np.zeros_like(wide) if offset is None else offset.astype(np.float64)


def write_norm_parameters(norm: ir.Node, gain: F64, offset: F64) -> None:
    """Store gain and offset of a norm, giving it an offset only where it needs one."""
    old = tensor_of(norm.inputs[1])
    assert old is not None
    set_constant(norm, 1, gain.astype(old.dtype))
    if len(norm.inputs) > 2 and norm.inputs[2] is not None:
        set_constant(norm, 2, offset.astype(old.dtype))
    elif offset.any():
        assert is_op(norm, "LayerNormalization")
        norm.resize_inputs(3)
        set_constant(norm, 2, offset.astype(old.dtype))
