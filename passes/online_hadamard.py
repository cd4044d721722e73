"""The part of QuaRot (arXiv 2404.00456) that runs: Hadamard operators before some layers.

What an activation function or a product of two activations makes cannot be turned inside weights:
the layer behind it (a down projection) reads it through a Hadamard matrix, which its weights undo.
The heads of attention are mixed the same way before their output projection, which completes the
rotation of every head that `quarot` folds. Each costs n log2 n additions per row on the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..compiler.core.passbase import Context, Effect, Example, Outcome
from ._edit import Notes
from ._folding_examples import ACTIVATED, RMS_TO_GATED, VALUES_TO_OUTPUT, example
from ._online import OnlineSite, OnlineTurn, activation_sites, activation_turn, head_turn, stored
from ._rotate import Rotation, online_heads, write_and_note


@dataclass(frozen=True, slots=True)
class OnlineHadamard:
    """Let layers behind activations and attention read what a Hadamard operator has mixed."""

    seed: int = 0

    name: ClassVar[str] = "online_hadamard"
    effect: ClassVar[Effect] = Effect.EQUIVALENT

    def apply(self, model: ir.Model, ctx: Context) -> Outcome:
        """Insert every operator and fold its inverse, all at once in float64."""
        notes, rotation = Notes(), Rotation(self.name)
        done: list[tuple[str, str]] = []
        for where, found in self._turns(model):
            if isinstance(found, str):
                notes.add(where, "", found)
                continue
            rotation.turn_online(*found)
            done.append((where, f"{found[1].text}, at run time"))
        write_and_note(rotation, model, done, notes)
        if not done and not notes.declined:
            notes.add("graph", "", "no layer reads what an activation function or heads make")
        return notes.outcome()

    def _turns(self, model: ir.Model) -> Iterator[tuple[str, tuple[OnlineSite, OnlineTurn] | str]]:
        """Yield what is to be turned by what, or why not."""
        for where, site in online_heads(model):
            if isinstance(site, str):
                yield where, site
                continue
            turn = head_turn(site.heads, site.channels // site.heads)
            yield where, turn if isinstance(turn, str) else (site, stored(turn, site))
        for index, site in enumerate(activation_sites(model)):
            rng = np.random.default_rng([self.seed, index, site.channels])
            turn = activation_turn(site.channels, rng)
            yield site.name, (site, stored(turn, site))

    @staticmethod
    def examples() -> Iterable[Example]:
        """A gated product, heads and plain activations; and a model without any."""
        for body in (RMS_TO_GATED, VALUES_TO_OUTPUT, ACTIVATED):
            yield example(body, measured=False)
        yield example("Y = Softmax (X)", fires=False, measured=False)
