"""Runs of a model with states, one after the other, each fed with what the one before left.

A sample that brings its states is taken as it is; what it lacks is carried, from zeros at first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ..runtime.devices.base import Device, RunResult
from .core.artifact import Manifest
from .core.passbase import Feeds
from .core.states import next_states, states_of, zero_states
from .frontend.reference import Reference
from .lowering.program import Array, Program
from .ports import decode_port, encode_port


def one_sequence(model: ir.Model, samples: Sequence[Feeds]) -> list[Feeds]:
    """Return samples of which only the first brings its states."""
    states = states_of(model.graph)
    later = [{n: a for n, a in feeds.items() if n not in states} for feeds in samples[1:]]
    return [*samples[:1], *later]


def float_sequence(model: ir.Model, samples: Sequence[Feeds]) -> list[dict[str, Array]]:
    """Return the answers of ONNX Runtime to samples."""
    run, states = Reference(model).run, states_of(model.graph)
    carried, found = zero_states(model.graph), list[dict[str, Array]]()
    for feeds in samples:
        found.append(dict(run({**carried, **feeds})))
        carried = next_states(states, found[-1])
    return found


def program_sequence(
    program: Program, samples: Sequence[Feeds]
) -> tuple[list[dict[str, Array]], list[dict[str, Array]]]:
    """Return what the program is fed with on samples, and its answers.

    The first sample brings the states.
    """
    fed: list[dict[str, Array]] = []
    found: list[dict[str, Array]] = []
    for feeds in samples:
        codes = {p.name: encode_port(p, feeds[p.name]) for p in program.inputs if p.name in feeds}
        carried = next_states(program.states, found[-1]) if found else {}
        fed.append({**carried, **codes})
        found.append(program.interpret(fed[-1]))
    return fed, found


def device_sequence(
    device: Device, artifact: Path, manifest: Manifest, samples: Sequence[Feeds]
) -> RunResult:
    """Run samples on the device; with states to carry, one run of the device per sample."""
    if all(port.name in feeds for port in manifest.inputs for feeds in samples):
        return device.run(artifact, manifest, _encoded(manifest, samples))
    zeros = {p.name: encode_port(p, np.zeros(p.shape, np.float32)) for p in manifest.inputs}
    carried: dict[str, Array] = {n: zeros[n][None] for n in manifest.states}
    results: list[RunResult] = []
    for feeds in samples:
        codes = {**carried, **_encoded(manifest, [feeds])}
        results.append(device.run(artifact, manifest, codes))
        carried = dict(next_states(manifest.states, results[-1].outputs))
    names = results[0].outputs
    counts = [n for r in results for n in r.instructions or ()]
    return replace(
        results[0],
        outputs={name: np.concatenate([r.outputs[name] for r in results]) for name in names},
        instructions=tuple(counts) or None,
    )


def _encoded(manifest: Manifest, samples: Sequence[Feeds]) -> dict[str, Array]:
    """Return the codes of what all samples bring, [samples, *shape] per input."""
    given = [p for p in manifest.inputs if all(p.name in feeds for feeds in samples)]
    return {p.name: np.stack([encode_port(p, f[p.name]) for f in samples]) for p in given}


def as_fed(
    program: Program, feeds: Feeds, codes: Mapping[str, Array], model: ir.Model
) -> dict[str, Array]:
    """Return feeds of model with the states that codes hold."""
    floats = {str(v.name) for v in model.graph.inputs if v.dtype == ir.DataType.FLOAT}
    held = {
        p.name: decode_port(p, codes[p.name]) if p.name in floats else codes[p.name]
        for p in program.inputs
        if p.name in program.states
    }
    return {**feeds, **held}
