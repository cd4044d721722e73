"""Rescale channels wherever the layers that read them round better, judged site by site."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..compiler.core.encoding import F64
from ..compiler.core.graph import label
from ..compiler.core.passbase import Context, Outcome
from ._edit import Notes
from ._flow import SCALE
from ._site_edit import rescale_site
from ._site_error import Judge, judge_of, largest_read, readings
from ._structure import Site, sites

# Factors this close to one and shifts this small beside the largest value change nothing.
STILL = 1e-3
# A site is changed only if that leaves at most this share of its layers' rounding error.
WORTH = 0.98


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """A site giving (x - shift) / scale, [channels], the error of its layers then, and how."""

    text: str
    scale: F64
    shift: F64
    error: float


def rescale_sites(
    model: ir.Model, ctx: Context, best: Callable[[Site, Judge], Choice | str],
    activation_bits: int, weight_bits: int, compensated: bool = False,
) -> Outcome:  # fmt: skip
    """Change every site as `best` says where that is worth it; it may refuse with a reason.

    `compensated`: also norms with skip edges, each of which gets a product that undoes the scale.

    The last site first: then no later one changes the weights an earlier one was judged by.
    """
    notes, found = Notes(), list(sites(model, compensated))
    seen = readings(model, [s for s in found if s.refused(SCALE) is None], ctx)
    for site in reversed(found):
        where = f"{site.kind}: {label(site.source)}"
        reason = site.refused(SCALE)
        if reason is None and not seen:
            reason = "there are no calibration samples to judge by"
        if reason is not None:
            notes.add(where, "", reason)
            continue
        judge = judge_of(site, seen, activation_bits, weight_bits)
        choice = best(site, judge)
        if isinstance(choice, str):
            notes.add(where, "", choice)
            continue
        before = judge.error(np.ones(site.channels), np.zeros(site.channels))
        text = f"error of its layers {before:.3g} -> {choice.error:.3g} with {choice.text}"
        if site.skips:
            text += f", undone by a product before {', '.join(label(n) for n, _ in site.skips)}"
        if _nothing(choice, judge):
            notes.add(where, "", f"it would stay as it is: {text}")
        elif choice.error > WORTH * before:
            notes.add(where, "", f"nothing gained: {text}")
        else:
            notes.add(where, text, rescale_site(site, choice.scale, choice.shift))
    if not found:
        notes.add("graph", "", "no layer reads what a norm or another layer writes")
    return notes.outcome()


def _nothing(choice: Choice, judge: Judge) -> bool:
    largest = float(largest_read(judge, choice.scale.size)[0].max())
    scaled = float(np.abs(np.log(choice.scale)).max())
    return scaled < STILL and float(np.abs(choice.shift).max()) <= STILL * largest
