"""States: inputs of a model that are fed with its own outputs of the previous run.

They are part of the model: a property of its graph, so that every form of it knows them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from .errors import OptionError
from .graph import shape_of
from .passbase import Feeds

_KEY = "edgec.states"


def states_of(graph: ir.Graph) -> Mapping[str, str]:
    """Return input name -> name of the output that becomes it."""
    return json.loads(graph.metadata_props.get(_KEY, "{}"))


def set_states(graph: ir.Graph, states: Mapping[str, str]) -> None:
    """Name the states of graph; raises OptionError for pairs that cannot be one."""
    inputs = {str(v.name): v for v in graph.inputs}
    outputs = {str(v.name): v for v in graph.outputs}
    for source, target in states.items():
        for name, known, kind in ((source, inputs, "input"), (target, outputs, "output")):
            if name not in known:
                raise OptionError(
                    f"state '{source}={target}': the model has no {kind} '{name}'; "
                    f"it has {', '.join(sorted(known))}"
                )
        fed, left = (f"{v.dtype} {list(shape_of(v))}" for v in (inputs[source], outputs[target]))
        if fed != left:
            raise OptionError(
                f"state '{source}={target}': the input is {fed}, the output {left}; "
                "a state is carried over as it is"
            )
    if len(set(states.values())) < len(states):
        raise OptionError("one output is named as the source of two states; name each once")
    if inputs.keys() == states.keys():
        raise OptionError("every input is named as a state; leave out what arrives anew each run")
    if states:
        graph.metadata_props[_KEY] = json.dumps(dict(states), sort_keys=True)


def zero_states(graph: ir.Graph) -> Feeds:
    """Return what a sequence starts with: zeros for every state."""
    return {
        str(v.name): np.zeros(shape_of(v), v.dtype.numpy())
        for v in graph.inputs
        if v.name in states_of(graph) and v.dtype is not None
    }


def next_states(states: Mapping[str, str], answer: Feeds) -> Feeds:
    """Return the states that follow from the outputs of a run."""
    return {source: answer[target] for source, target in states.items()}
