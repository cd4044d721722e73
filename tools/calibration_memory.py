"""Show that the memory of a compilation does not grow with the number of calibration samples.

    python tools/calibration_memory.py MODEL [--samples 16 1024] [--target host]

Compiles MODEL for seeded samples in a file, in a process of its own for each number of samples,
and prints CPU time and peak memory of that process (the C compiler it starts not included).
Exits with 1 when the peaks differ by more than 10 %.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from edgec.compiler.frontend.data import synthetic
from edgec.compiler.frontend.load import load

LARGEST_GROWTH = 1.1
# What runs in the process that is measured.
COMPILE = """
import json, resource, sys
import edgec
edgec.compile(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4])
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"cpu_s": usage.ru_utime + usage.ru_stime, "peak_kib": usage.ru_maxrss}))
"""


def write_samples(model: Path, count: int, path: Path) -> None:
    """Write count seeded samples for model to an .npz file, one at a time."""
    loaded = load(model, {}).model
    inputs = [str(v.name) for v in loaded.graph.inputs]
    with zipfile.ZipFile(path, "w") as archive:
        for name in inputs:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                for index, feeds in enumerate(synthetic(loaded, count, seed=0)):
                    array = feeds[name]
                    if not index:
                        shape = (count * array.shape[0], *array.shape[1:])
                        header = {"descr": array.dtype.str, "fortran_order": False, "shape": shape}
                        np.lib.format.write_array_header_2_0(file, header)
                    file.write(np.ascontiguousarray(array).tobytes())


def measure(model: Path, target: str, count: int) -> dict[str, float]:
    """Return CPU seconds and peak KiB of compiling model with count samples."""
    with tempfile.TemporaryDirectory(prefix="edgec-memory-") as name:
        folder = Path(name)
        data = folder / "samples.npz"
        write_samples(model, count, data)
        command = [
            sys.executable,
            "-c",
            COMPILE,
            str(model),
            target,
            str(folder / "out"),
            str(data),
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> int:
    """Measure and compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--samples", nargs="+", type=int, default=[16, 1024])
    parser.add_argument("--target", default="host")
    arguments = parser.parse_args()
    peaks: list[float] = []
    for count in arguments.samples:
        found = measure(arguments.model, arguments.target, count)
        peaks.append(found["peak_kib"])
        print(
            f"{arguments.model.name}: {count} samples, {found['cpu_s']:.0f} s of CPU, "
            f"peak {found['peak_kib'] / 1024:.0f} MiB",
            flush=True,
        )
    return int(max(peaks) > LARGEST_GROWTH * min(peaks))


if __name__ == "__main__":
    raise SystemExit(main())
