"""Run GPU artifacts on the NVIDIA GPU of this machine: the bits of every sample, and the time.

    edgec compile MODEL --target cuda-sm90 --calibration DATA -o build/cuda/MODEL
    python tools/bench_cuda.py build/cuda/* --out docs/results_cuda.json

The second where the GPU is: it needs Python, numpy, pydantic and the NVIDIA driver, no TVM.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgec.compiler.core.artifact import load_manifest, verify_files
from edgec.runtime.devices.cuda import find_gpu
from edgec.runtime.native import NativeModel

WARM_UPS = 20


def measure(artifact: Path, runs: int) -> dict[str, Any]:
    """Return bits and times of one artifact; times include copies to and from the GPU."""
    manifest = load_manifest(artifact)
    verify_files(artifact, manifest)
    with np.load(artifact / "reference.npz", allow_pickle=False) as stored:
        given = [stored[f"codes/{port.name}"] for port in manifest.inputs]
        wanted = [stored[f"expected/{port.name}"] for port in manifest.outputs]
    model = NativeModel(artifact, manifest)
    samples = [[array[i] for array in given] for i in range(len(given[0]))]
    answers = [model.call(sample) for sample in samples]
    same = [
        np.array_equal(got, want[i])
        for i, answer in enumerate(answers)
        for got, want in zip(answer, wanted, strict=True)
    ]
    times_us: list[float] = []
    for index in range(runs + WARM_UPS):
        start = time.perf_counter()
        model.call(samples[index % len(samples)])
        times_us.append((time.perf_counter() - start) * 1e6)
    return {
        "model": manifest.name,
        "target": manifest.target,
        "samples": len(samples),
        "same_bits": all(same),
        "macs": manifest.macs,
        "median_us": round(statistics.median(times_us[WARM_UPS:]), 1),
        "least_us": round(min(times_us[WARM_UPS:]), 1),
    }


def main(arguments: Sequence[str]) -> int:
    """Measure every artifact named; exit code 1 when a bit differs, 3 without a GPU."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("artifacts", nargs="+", type=Path)
    parser.add_argument("--runs", type=int, default=200, help="timed runs of each")
    parser.add_argument("--out", type=Path, help="also write the rows as JSON")
    options = parser.parse_args(arguments)
    gpu = find_gpu()
    if gpu is None:
        print("bench_cuda: there is no NVIDIA GPU (libcuda.so.1) here; run it where one is.")
        return 3
    rows = [measure(path, options.runs) for path in options.artifacts]
    for row in rows:
        print(json.dumps(row))
    if options.out is not None:
        options.out.write_text(json.dumps({"gpu": gpu.name, "rows": rows}, indent=1) + "\n")
    return 0 if all(row["same_bits"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
