"""The two things a pass can be: a Transform changes the graph, a Decision changes the plan."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .plan import QuantPlan
from .stats import Stats

Feeds = Mapping[str, NDArray[Any]]
# (model, samples, names of values) -> those values in float per sample; the reference runner,
# injected so that passes may measure without importing ONNX Runtime.
Evaluate = Callable[
    [ir.Model, Sequence[Feeds], Sequence[str]], Iterable[Mapping[str, NDArray[np.float32]]]
]


class Effect(enum.Enum):
    """What a Transform promises about the function the graph computes."""

    EQUIVALENT = "same function up to float rounding"
    LOSSY = "same function up to the plan's encodings"


@dataclass(frozen=True, slots=True)
class Note:
    """One line of the report: where, and what was done or why not."""

    where: str
    text: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a pass did, and which candidates it declined and why."""

    changed: Sequence[Note] = ()
    declined: Sequence[Note] = ()


# Told of every pass that ran: its name, the model as it is now, what it did.
Watch = Callable[[str, ir.Model, Outcome], None]


def unwatched(name: str, model: ir.Model, outcome: Outcome) -> None:
    """Take no note of a pass."""


@dataclass(frozen=True, slots=True)
class Context:
    """Everything a pass may read besides the graph.

    `samples`: a few calibration feeds kept for measuring; `evaluate` runs a model on them.
    """

    stats: Stats = field(default_factory=dict)
    plan: QuantPlan = field(default_factory=QuantPlan)
    samples: Sequence[Feeds] = ()
    evaluate: Evaluate | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """A small model on which a pass must fire, or must decline and say why."""

    model: ir.Model
    feeds: dict[str, NDArray[Any]]
    ctx: Context = field(default_factory=Context)
    fires: bool = True


@runtime_checkable
class Transform(Protocol):
    """Rewrites model in place."""

    name: ClassVar[str]
    effect: ClassVar[Effect]

    def apply(self, model: ir.Model, ctx: Context) -> Outcome:
        """Rewrite model in place and say what changed."""
        ...

    @staticmethod
    def examples() -> Iterable[Example]:
        """Yield models on which this pass must fire, and at least one it must decline."""
        ...


@runtime_checkable
class Decision(Protocol):
    """Adds to the plan; never touches the graph."""

    name: ClassVar[str]

    def decide(self, model: ir.Model, ctx: Context) -> tuple[QuantPlan, Outcome]:
        """Return the plan with this pass's decisions added."""
        ...

    @staticmethod
    def examples() -> Iterable[Example]:
        """Yield models on which this pass must fire, and at least one it must decline."""
        ...
