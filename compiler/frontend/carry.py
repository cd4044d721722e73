"""Samples of a model with states: what the data leaves out is carried from sample to sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import onnx_ir as ir

from ..core.passbase import Note
from ..core.states import next_states, states_of, zero_states
from .data import Sample, SampleSource
from .reference import Reference


def carried(samples: SampleSource, model: ir.Model) -> SampleSource:
    """Return samples with the states that they lack.

    The samples are one sequence in their order: it starts with zeros, and what follows is what
    model answers. A sample that brings its states is taken as it is.
    """
    states = states_of(model.graph)
    if not states or all(name in next(iter(samples)) for name in states):
        return samples

    def start() -> Iterator[Sample]:
        run, state = Reference(model).run, zero_states(model.graph)
        for sample in samples:
            feeds = {**state, **sample}
            yield feeds
            state = next_states(states, run(feeds))

    note = Note("states", f"carried through the samples in order: {', '.join(states)}")
    return replace(samples, notes=(*samples.notes, note), start=start)
