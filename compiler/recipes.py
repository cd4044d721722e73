"""Recipes: how a model is quantised, by a name. Every one of them runs on integer kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

RecipeName = Literal["int8", "w8a8", "w4a8", "w8a8-rotated", "w4a8-rotated", "float32"]

ROTATIONS = ("quarot", "online_hadamard")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Bits of weights and activations, None for float, and passes that it asks for.

    Where such a pass finds nothing to do, compiling fails as with --pass.
    """

    text: str
    weight_bits: int | None
    activation_bits: int | None
    passes: tuple[str, ...] = ()


_INT8 = Recipe("int8 weights per channel, int8 activations, some 12 bits where that pays", 8, 8)
RECIPES: Mapping[RecipeName, Recipe] = {
    "int8": _INT8,
    "w8a8": _INT8,
    "w4a8": Recipe("int4 weights in groups where kernels read them, the rest as int8", 4, 8),
    "w8a8-rotated": Recipe(
        "int8 behind QuaRot: streams and heads turned, Hadamard operators", 8, 8, ROTATIONS
    ),
    "w4a8-rotated": Recipe(
        "w4a8 behind QuaRot: streams and heads turned, Hadamard operators", 4, 8, ROTATIONS
    ),
    "float32": Recipe("nothing is quantised, no calibration data needed", None, None),
}


def asked_passes(recipe: RecipeName, passes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the optional passes that a recipe and --pass ask for."""
    return (*passes, *RECIPES[recipe].passes)
