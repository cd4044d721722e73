"""The stages of a compilation: each arrow of the pipeline turns one frozen type into the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from .core.passbase import Feeds, Outcome
from .core.plan import QuantPlan
from .core.stats import Stats
from .lowering.emit import CModel
from .lowering.patches import Choice
from .lowering.program import Array, Program

# The calibration method whose ranges hold all that was seen.
SEEN = "minmax"


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What one pass did: its name, outcome and seconds; `error` is the proof of a transform.

    `error`: largest output difference it caused, relative to the largest output; None where
    nothing had to be proved.
    """

    name: str
    outcome: Outcome
    seconds: float
    error: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A loaded, checked, upgraded model."""

    model: ir.Model
    name: str
    sha256: str
    steps: tuple[Step, ...]
    already_quantised: bool


@dataclass(frozen=True, slots=True, eq=False)
class Canonical:
    """The model in canonical form."""

    source: Source
    model: ir.Model
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Profiled:
    """A canonical model and what calibration saw of it; `samples` are kept for proofs.

    `ranges`: statistics by calibration method; empty for a model that arrived quantised.
    `repeated`: how many samples equal an earlier one.
    """

    canonical: Canonical
    ranges: Mapping[str, Stats]
    samples: tuple[Feeds, ...]
    sample_count: int
    synthetic: bool
    repeated: int = 0

    @property
    def stats(self) -> Stats:
        """The statistics with the ranges that were seen."""
        return self.ranges.get(SEEN, {})


@dataclass(frozen=True, slots=True, eq=False)
class Yardstick:
    """Samples, and what the float model answers to each: arrays per output name."""

    samples: Sequence[Feeds] = ()
    answers: Sequence[Mapping[str, Array]] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Reshaped:
    """The float model after function-preserving transforms; `exact`: what it should answer."""

    profiled: Profiled
    model: ir.Model
    steps: tuple[Step, ...]
    exact: Yardstick = Yardstick()


@dataclass(frozen=True, slots=True, eq=False)
class Ranged:
    """The reshaped model with statistics of its own, by the calibration method that was chosen.

    `error`: of the 8-bit plan these give, where it was measured.
    """

    reshaped: Reshaped
    stats: Stats
    steps: tuple[Step, ...]
    error: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """Every storage decision; `error`: of the plan, where it was measured."""

    ranged: Ranged
    plan: QuantPlan
    steps: tuple[Step, ...]
    error: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Quantised:
    """The reference: standard ONNX with QuantizeLinear and DequantizeLinear."""

    planned: Planned
    model: ir.Model
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Lowered:
    """The integer program; `choice`: whether its first layers run patch by patch on the device.

    `patched`: the program that does, with the same bits.
    """

    quantised: Quantised
    program: Program
    choice: Choice | None = None
    patched: Program | None = None

    @property
    def on_device(self) -> Program:
        """The program that the device runs."""
        return self.patched or self.program


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """The C of the program for one target."""

    lowered: Lowered
    c_model: CModel


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """Reference runs: feeds of the float model and what every form of the model answers.

    `codes`: integer inputs per port; `expected`: integer outputs of the program in NumPy;
    `quantised`, `real`: outputs of the quantised and the float model in ONNX Runtime;
    `engine`: who computed `quantised`, for ONNX Runtime lacks some operators;
    `double`: those of the quantised model computed in double precision, empty where ONNX Runtime
    cannot, `not_in_double` saying why.
    Arrays are [samples, *shape] per name.
    """

    codes: Mapping[str, Array]
    expected: Mapping[str, Array]
    quantised: Mapping[str, Array]
    double: Mapping[str, Array]
    not_in_double: str
    real: Mapping[str, Array]
    engine: str


def all_steps(quantised: Quantised) -> Sequence[Step]:
    """Return every pass that ran, in order."""
    planned = quantised.planned
    reshaped = planned.ranged.reshaped
    canonical = reshaped.profiled.canonical
    return (
        *canonical.source.steps, *canonical.steps, *reshaped.steps, *planned.ranged.steps,
        *planned.steps,
        *quantised.steps,
    )  # fmt: skip
