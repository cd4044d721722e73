"""Run calibration samples one at a time and keep only statistics of every float value."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..core.encoding import F32, F64
from ..core.errors import DataError, OptionError
from ..core.passbase import Feeds
from ..core.stats import Stats, ValueStats
from .observers import CalibrationMethod, MinMax, Observers
from .reference import Reference

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True, eq=False)
class ObservedStats(ValueStats):
    """Statistics of one value, and how many infinite elements were left out of them.

    A value or channel that never held a finite element has the range (0, 0) and mean 0.
    """

    infinities: int = 0


def calibrate(
    model: ir.Model,
    samples: Iterable[Feeds],
    method: CalibrationMethod | str = "minmax",
    values: Collection[str] | None = None,
    progress: Progress | None = None,
) -> Stats:
    """Return statistics of every float32 activation of model (or only `values`) over samples.

    See `calibrate_all`.
    """
    (found,) = calibrate_all(model, samples, (method,), values, progress)
    return found


def calibrate_all(
    model: ir.Model,
    samples: Iterable[Feeds],
    methods: Sequence[CalibrationMethod | str],
    values: Collection[str] | None = None,
    progress: Progress | None = None,
) -> list[Stats]:
    """Return statistics by each method; the model runs once per sample for all of them.

    Activations are graph inputs and node outputs of the main graph, constants excepted. Memory
    is that of one sample. `progress` is told the number of samples done. Raises DataError when
    there is no sample, or a value holds NaN or changes its shape; OptionError for an unknown
    method or value.
    """
    chosen = [CalibrationMethod.parse(m) if isinstance(m, str) else m for m in methods]
    names = _observed_names(model, values)
    inputs = {str(v.name) for v in model.graph.inputs}
    reference = Reference(model, [n for n in names if n not in inputs])
    recorders: dict[str, Recorder] = {}
    done = 0
    for done, feeds in enumerate(samples, 1):
        _record({**feeds, **reference.run(feeds)}, names, recorders, chosen)
        if progress is not None:
            progress(done)
    if not done:
        raise DataError("no calibration sample was given: pass at least one")
    return [
        {name: recorder.stats(index) for name, recorder in recorders.items()}
        for index in range(len(chosen))
    ]


def _observed_names(model: ir.Model, values: Collection[str] | None) -> list[str]:
    """Return the activations to observe in graph order: float32, or of a type not yet known."""
    nodes = [n for n in model.graph if n.op_type != "Constant"]
    found = [*model.graph.inputs, *(v for n in nodes for v in n.outputs)]
    names = [str(v.name) for v in found if v.name and v.dtype in (ir.DataType.FLOAT, None)]
    names = [n for n in names if n not in model.graph.initializers]
    unknown = sorted(set(values or ()) - set(names))
    if unknown:
        raise OptionError(
            f"'{unknown[0]}' is no float32 activation of the model: "
            "name a graph input or a node output"
        )
    return names if values is None else [n for n in names if n in values]


def _record(
    arrays: Feeds, names: Sequence[str], recorders: dict[str, Recorder],
    methods: Sequence[CalibrationMethod],
) -> None:  # fmt: skip
    """Update the recorder of each name whose array is float32, creating it the first time."""
    for name in names:
        array = np.asarray(arrays[name])
        if array.dtype == np.float32:
            recorders.setdefault(name, Recorder(name, array.shape, methods)).update(array)


class Recorder:
    """Ranges by the chosen methods, seen range and channel statistics of one value."""

    def __init__(
        self, name: str, shape: tuple[int, ...], methods: Sequence[CalibrationMethod]
    ) -> None:
        self._name, self._shape = name, shape
        self._observers = Observers(methods)
        self._axis = channel_axis(len(shape))
        channels = shape[self._axis] if shape else 1
        self._low: F32 = np.full(channels, np.inf, np.float32)
        self._high: F32 = np.full(channels, -np.inf, np.float32)
        self._sum: F64 = np.zeros(channels)
        self._finite = np.zeros(channels, np.int64)
        self._infinities = 0
        self._halves, self._samples = (MinMax(), MinMax()), 0

    def update(self, array: F32) -> None:
        """Take one sample's array into account; raises DataError on NaN or another shape."""
        if array.shape != self._shape:
            raise DataError(
                f"value '{self._name}' has shape {list(array.shape)} after {list(self._shape)} "
                "in an earlier sample: bind the model's shapes and give samples of one shape"
            )
        if not array.size:
            return
        rows = _channels_in_the_middle(array, self._axis)
        with np.errstate(invalid="ignore"):
            total = rows.sum(axis=(0, 2), dtype=np.float64)
        if np.isfinite(total).all():
            self._add(rows.min(axis=(0, 2)), rows.max(axis=(0, 2)), total)
            self._finite += array.size // self._low.size
            self._observers.update(array)
        else:
            self._update_finite(rows)

    def _update_finite(self, rows: F32) -> None:
        """Take the finite elements of rows [outer, channels, inner] into account."""
        if np.isnan(rows).any():
            raise DataError(
                f"value '{self._name}' holds NaN on a calibration sample: check the sample and the "
                "model's float outputs"
            )
        finite = np.isfinite(rows)
        low = np.where(finite, rows, np.float32(np.inf)).min(axis=(0, 2))
        high = np.where(finite, rows, np.float32(-np.inf)).max(axis=(0, 2))
        self._add(low, high, np.where(finite, rows, 0).sum(axis=(0, 2), dtype=np.float64))
        self._finite += finite.sum(axis=(0, 2))
        self._infinities += rows.size - int(finite.sum())
        self._observers.update(rows[finite])

    def _add(self, low: F32, high: F32, total: F64) -> None:
        self._low = np.minimum(self._low, low)
        self._high = np.maximum(self._high, high)
        self._sum += total
        half = self._halves[self._samples % 2]
        half.low, half.high = min(half.low, float(low.min())), max(half.high, float(high.max()))
        self._samples += 1

    def stats(self, method: int) -> ObservedStats:
        """Return the statistics of everything seen so far; the range by method number `method`."""
        seen = self._finite > 0
        low, high = np.where(seen, self._low, 0), np.where(seen, self._high, 0)
        mean = (self._sum / np.maximum(self._finite, 1)).astype(np.float32)
        return ObservedStats(
            *self._observers.range(method),
            seen_low=float(low[seen].min()) if seen.any() else 0.0,
            seen_high=float(high[seen].max()) if seen.any() else 0.0,
            channel_low=low.astype(np.float32),
            channel_high=high.astype(np.float32),
            channel_mean=mean,
            channel_axis=self._axis,
            halves=(self._halves[0].range(), self._halves[1].range())
            if self._samples > 1
            else None,
            infinities=self._infinities,
        )


def channel_axis(ndim: int) -> int:
    """Return the axis that holds channels: 1 for images and volumes (4-D, 5-D), else the last."""
    return 1 if ndim in (4, 5) else max(ndim - 1, 0)


def _channels_in_the_middle(array: F32, axis: int) -> F32:
    """Return array as [outer, channels, inner]; a scalar is one channel."""
    shape = array.shape or (1,)
    return array.reshape(-1, shape[axis], math.prod(shape[axis + 1 :]))
