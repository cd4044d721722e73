"""Turn every stream and every head that can be turned, by matrices that a method chooses."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from ..compiler.core.encoding import F64
from ..compiler.core.graph import label
from ..compiler.core.passbase import Outcome
from ._edit import Notes
from ._residual import Residual, residuals
from ._rotate import Rotation, head_sites, stream_problem, write_and_note
from ._structure import Site

# An orthogonal matrix [n, n] and what it is, or why there is none.
Chosen = tuple[F64, str] | str


def turn(
    model: ir.Model,
    name: str,
    of_stream: Callable[[int, Residual], Chosen],
    of_heads: Callable[[int, Site], Chosen],
) -> Outcome:
    """Rotate streams by matrices [channels, channels] and heads by [width, width], in float64.

    Everything is written at once, or nothing.
    """
    notes, rotation = Notes(), Rotation(name)
    done: list[tuple[str, str]] = []
    for index, stream in enumerate(residuals(model)):
        chosen = stream_problem(model, stream) or of_stream(index, stream)
        if isinstance(chosen, str):
            notes.add(stream.name, "", chosen)
            continue
        rotation.turn_stream(stream, chosen[0])
        done.append((stream.name, f"turned by {chosen[1]}"))
    for index, (site, reason) in enumerate(head_sites(model)):
        where = f"{site.kind}: {label(site.source)}"
        chosen = reason or of_heads(index, site)
        if isinstance(chosen, str):
            notes.add(where, "", chosen)
            continue
        rotation.turn_values(site, chosen[0])
        done.append((where, f"every head turned by {chosen[1]}"))
    write_and_note(rotation, model, done, notes)
    if not done and not notes.declined:
        notes.add("graph", "", "no activations are added and no heads average values")
    return notes.outcome()
