"""What quantisation loses, as one fraction: what --max-drop limits, and how tasks are scored."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from .core.errors import DataError, OptionError
from .core.passbase import Feeds
from .frontend.carry import carried
from .frontend.columns import npz_columns
from .frontend.data import load_labels, open_data
from .frontend.reference import Reference
from .lowering.program import Array
from .metrics import LOWER_IS_BETTER, TASK_METRICS, noise_share, top1_agreement
from .options import CompileOptions
from .stages import Quantised

# Measures that need no labels: they compare with the float model.
LABEL_FREE = ("agreement", "noise")


def require_measure(options: CompileOptions, has_data: bool) -> None:
    """Raise OptionError when the limit on quality cannot be judged; `has_data`: calibration."""
    measure, known = options.drop_measure, (*LABEL_FREE, *TASK_METRICS)
    if measure not in known:
        near = difflib.get_close_matches(measure, known, 1, 0.5)
        hint = f"; did you mean {near[0]}?" if near else f"; choose one of {', '.join(known)}."
        raise OptionError(f"there is no measure of quality '{measure}'{hint}")
    if options.max_drop is None:
        if options.evaluation is not None:
            raise OptionError(
                f"evaluation data '{options.evaluation}' is of no use without a limit; "
                "add --max-drop."
            )
        return
    if measure in LABEL_FREE:
        if not has_data and options.evaluation is None:
            raise OptionError(
                "a limit on quality means nothing on random data; pass --calibration with real "
                "inputs or leave --max-drop out."
            )
    elif options.evaluation is None:
        raise OptionError(
            f"measure {measure} needs labelled data; pass --evaluation FILE.npz with an array "
            "'labels', or choose --drop-measure agreement."
        )


def measured_drop(quantised: Quantised, options: CompileOptions) -> float:
    """Return what the quantised model loses against the float one, as a fraction.

    On `options.evaluation`, else on the calibration samples that were kept. Raises OptionError
    when the measure says nothing about this model.
    """
    reshaped = quantised.planned.ranged.reshaped
    if reshaped.profiled.canonical.source.already_quantised:
        raise OptionError(
            "the model is already quantised, so there is no float model it could fall behind; "
            "leave --max-drop out."
        )
    feeds: Sequence[Feeds] = reshaped.profiled.samples
    if options.evaluation is not None:
        feeds = list(carried(open_data(options.evaluation, reshaped.model), reshaped.model))
    real, got = (answers_to(model, feeds) for model in (reshaped.model, quantised.model))
    if options.drop_measure in LABEL_FREE:
        return _against_float(options.drop_measure, real, got)
    assert options.evaluation is not None
    first = str(reshaped.model.graph.outputs[0].name)
    data, metric = options.evaluation, options.drop_measure
    labels = labels_of(data, "labels", metric)
    scores = [task_score(metric, a[first], labels, f"output '{first}'", data) for a in (got, real)]
    return task_drop(metric, *scores)


def answers_to(model: ir.Model, feeds: Sequence[Feeds]) -> dict[str, Array]:
    """Return what a model answers in ONNX Runtime, [samples, *shape] per output."""
    runner = Reference(model)
    answers = [runner.run(f) for f in feeds]
    return {name: np.stack([np.asarray(a[name]) for a in answers]) for name in answers[0]}


def _against_float(measure: str, real: Mapping[str, Array], got: Mapping[str, Array]) -> float:
    """Return the loss of the worst output."""
    names = [n for n in real if real[n].dtype.kind == "f"]
    if measure == "noise":
        return max((noise_share(real[n], got[n]) for n in names), default=0.0)
    ranked = [n for n in names if real[n].ndim and real[n].shape[-1] > 1]
    if not ranked:
        raise OptionError(
            "no output has more than one value in its last axis, so agreement of the top 1 says "
            "nothing; choose --drop-measure noise or a task metric."
        )
    return max(1.0 - top1_agreement(real[n], got[n]) for n in ranked)


def task_drop(metric: str, value: float, float_value: float) -> float:
    """Return by how much a metric got worse."""
    loss = value - float_value if metric in LOWER_IS_BETTER else float_value - value
    return loss + 0.0


def labels_of(data: Path, key: str, metric: str) -> Array:
    """Return the labels of data: classes for accuracy, else whatever the metric compares with."""
    if metric == "accuracy":
        return load_labels(data, key)
    columns = npz_columns(data)
    if key not in columns:
        raise DataError(f"'{data}' has no array '{key}'; it holds {', '.join(sorted(columns))}")
    column = columns[key]
    return np.concatenate([*column.blocks(1), np.zeros((0, *column.shape[1:]), column.dtype)])


def task_score(metric: str, outputs: Array, labels: Array, what: str, data: Path) -> float:
    """Return a task metric of outputs; raises DataError naming `what` of `data` if they differ."""
    if len(labels) != len(outputs):
        raise DataError(f"'{data}' has {len(outputs)} samples but {len(labels)} labels.")
    try:
        return float(TASK_METRICS[metric](_flat(outputs), labels))
    except ValueError as error:
        raise DataError(
            f"metric {metric} cannot compare {what} with the labels of '{data}': {error}"
        ) from error


def _flat(outputs: Array) -> Array:
    """Drop the model's own batch axis of one."""
    return outputs[:, 0] if outputs.ndim > 2 and outputs.shape[1] == 1 else outputs
