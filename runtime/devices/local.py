"""This machine, in process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from ...compiler.core.artifact import Manifest
from ..native import NativeModel
from .base import Array, RunResult, stored_samples


@dataclass(frozen=True, slots=True)
class Local:
    """Calls libNAME.so with guarded buffers and a differently filled arena each time."""

    flashed: ClassVar[bool] = False

    @property
    def description(self) -> str:
        """What people call it."""
        return "this machine"

    def run(
        self,
        artifact: Path,
        manifest: Manifest,
        inputs: Mapping[str, Array],
        profile: bool = False,
        repeat: int = 1,
    ) -> RunResult:
        """Run every sample in process; see `Device.run`. Counts and profiles nothing."""
        arrays = stored_samples(manifest, inputs)
        model = NativeModel(artifact, manifest)
        rows: list[list[Array]] = []
        times_s: list[float] = []
        for index in range(len(arrays[0])):
            sample = [array[index] for array in arrays]
            rows.append(model.call(sample, poison=(0x5A + 0x35 * index) % 256))
            times_s += model.times(sample, repeat)
        outputs = {
            port.name: np.stack([row[at] for row in rows])
            for at, port in enumerate(manifest.outputs)
        }
        return RunResult(outputs=outputs, log="", times_s=tuple(times_s))
