"""The model after every pass, on disk, and which pass first moved its outputs."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from .core.errors import OptionError
from .core.passbase import Feeds, Outcome
from .frontend.reference import Reference
from .lowering.program import Array
from .package import save_model
from .ports import decode_port
from .stages import Built, Trial

# Outputs that moved by more than this share of the largest have drifted, unless told otherwise.
TOLERANCE = 0.05
# Samples on which models are compared.
SAMPLES = 4


@dataclass(frozen=True, slots=True)
class Dumped:
    """One pass that changed the model, and the file that holds what it made."""

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class Drift:
    """How far the outputs are from those of the model as loaded, relative to the largest.

    `name`: the pass after which; `what`: the file of the model, or the integer program.
    """

    name: str
    what: str
    error: float


@dataclass
class Trace:
    """Follows one compilation; does nothing when `folder` is None.

    `watch` writes the model after every pass that changed it into `folder`, and every pass into
    its passes.txt; with `bisect`, `judge` compares all of them.
    """

    folder: Path | None = None
    bisect: bool = False
    kept: bool = True
    dumped: list[Dumped] = field(default_factory=list[Dumped])
    drifts: list[Drift] = field(default_factory=list[Drift])
    _count: int = 0

    def watch(self, name: str, model: ir.Model, outcome: Outcome) -> None:
        """Take note of a pass that ran."""
        if self.folder is None:
            return
        file = f"{self._count:02}-{name}.onnx"
        # The first is what all others are compared with.
        if outcome.changed or not self.dumped:
            save_model(model, self.folder / file)
            self.dumped.append(Dumped(name, self.folder / file))
        made = f"{len(outcome.changed)} changes, {file}" if outcome.changed else "no change"
        with (self.folder / "passes.txt").open("a", encoding="utf-8") as log:
            log.write(f"{self._count:02} {name}: {made}\n")
        self._count += 1

    def judge(self, built: Built, trial: Trial) -> None:
        """Compare every model, and the integer program, with the model as loaded."""
        if not self.bisect:
            return
        samples = built.lowered.quantised.planned.ranged.reshaped.profiled.samples[:SAMPLES]
        first = _answers(self.dumped[0].path, samples)
        for item in self.dumped[1:]:
            self.drifts.append(Drift(item.name, item.path.name, _move(first, item.path, samples)))
        ports = {p.name: p for p in built.lowered.program.outputs}
        program = {n: decode_port(ports[n], a)[: len(samples)] for n, a in trial.expected.items()}
        self.drifts.append(Drift("lower", "the integer program", _largest(first, program)))

    def rows(self, tolerance: float | None) -> Iterator[Sequence[str]]:
        """Yield what people are told: where the models are, and which pass moved the outputs."""
        if self.folder is not None and self.kept:
            yield ("models", f"{self.folder}: {len(self.dumped)}, listed in passes.txt")
        if self.bisect:
            yield ("bisect", self.verdict(TOLERANCE if tolerance is None else tolerance))
            for drift in self.drifts:
                yield ("", f"{drift.error:9.4%} after {drift.name} ({drift.what})")

    def verdict(self, tolerance: float) -> str:
        """Return which pass first moved the outputs by more than tolerance, in one sentence."""
        first = self.first(tolerance)
        if first is not None:
            return (
                f"{first.name} first moved the outputs by more than {tolerance:.4g} of the largest"
            )
        return f"nothing moved the outputs by more than {tolerance:.4g} of the largest"

    def first(self, tolerance: float) -> Drift | None:
        """Return the first that moved the outputs by more than tolerance."""
        return next((d for d in self.drifts if d.error > tolerance), None)

    def as_json(self, tolerance: float | None) -> dict[str, object]:
        """Return the same as JSON; empty when nobody asked."""
        found: dict[str, object] = {}
        if self.folder is not None and self.kept:
            found["dump"] = [str(item.path) for item in self.dumped]
        if self.bisect:
            limit = TOLERANCE if tolerance is None else tolerance
            first = self.first(limit)
            found["bisect"] = {
                "tolerance": limit,
                "first": None if first is None else first.name,
                "drifts": [asdict(d) for d in self.drifts],
            }
        return found


@contextmanager
def tracing(dump: Path | None, bisect: bool) -> Generator[Trace]:
    """Yield what follows a compilation; models are kept if `dump` says where.

    Raises OptionError if something is in that folder already.
    """
    if dump is None and not bisect:
        yield Trace()
    elif dump is None:
        with tempfile.TemporaryDirectory(prefix="edgec-bisect-") as folder:
            yield Trace(Path(folder), bisect, kept=False)
    else:
        if dump.exists() and (not dump.is_dir() or any(dump.iterdir())):
            raise OptionError(f"'{dump}' is not an empty folder; choose another for --dump.")
        dump.mkdir(parents=True, exist_ok=True)
        yield Trace(dump, bisect)


def _answers(path: Path, samples: Sequence[Feeds]) -> dict[str, Array]:
    runner = Reference(path)
    answers = [runner.run(f) for f in samples]
    return {name: np.stack([np.asarray(a[name]) for a in answers]) for name in answers[0]}


def _move(first: Mapping[str, Array], path: Path, samples: Sequence[Feeds]) -> float:
    return _largest(first, _answers(path, samples))


def _largest(old: Mapping[str, Array], new: Mapping[str, Array]) -> float:
    return max((_distance(old[n], new[n]) for n in old if old[n].size), default=0.0)


def _distance(old: Array, new: Array) -> float:
    """Return the largest difference relative to the largest value."""
    a, b = old.astype(np.float64), new.astype(np.float64)
    return float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30))
