"""Compile, check and score the real models on every target; write docs/results.{json,md}.

    python tools/results.py [--only NAME ...] [--targets T ...] [--out docs] [--page-only]

Needs ../shared. Every model is quantised once; its metric is measured on the host artifact, and
every other target must give the same bits on the reference samples.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import workloads as w

import edgec
from edgec.compiler import pipeline
from edgec.compiler.api import run_stages
from edgec.compiler.check import check_artifact
from edgec.compiler.core.errors import EdgecError
from edgec.compiler.options import CompileOptions
from edgec.compiler.package import write_artifact
from edgec.compiler.pipeline import Clock
from edgec.compiler.rehearsal import rehearse
from edgec.compiler.report import make_report
from edgec.compiler.stages import Built, Trial
from edgec.targets import find_target

TARGETS = (
    "host", "aarch64", "aarch64-cortex-a76", "cortex-m4", "cortex-m7", "cortex-m55"
)  # fmt: skip
COMMAND = "python tools/results.py"
# TFLM + CMSIS-NN int8 on Cortex-M4 and M55 (shared/design/BENCH.md section 3): instructions per
# inference, flash and RAM in KiB.
PEERS = {
    "resnet8_int8_qdq": {"cortex-m4": (29.88e6, 154.1, 55.1), "cortex-m55": (4.70e6, 143.5, 55.2)},
    "kws_int8_qdq": {"cortex-m4": (7.85e6, 111.2, 23.7), "cortex-m55": (1.77e6, 99.7, 28.3)},
    "vww_int8_qdq": {"cortex-m4": (24.73e6, 384.0, 99.7), "cortex-m55": (6.42e6, 372.5, 100.0)},
    "ad_int8_qdq": {"cortex-m4": (0.583e6, 301.8, 4.2), "cortex-m55": (0.066e6, 293.4, 10.8)},
}
# Instructions of ONNX Runtime and LiteRT (XNNPACK) on aarch64-cortex-a76, int8, one thread.
LINUX_TARGET = "aarch64-cortex-a76"
LINUX_PEERS = {
    "resnet8_int8_qdq": (2.73e6, 1.50e6),
    "kws_int8_qdq": (1.13e6, 0.71e6),
    "vww_int8_qdq": (2.94e6, 1.93e6),
    "ad_int8_qdq": (0.196e6, 0.048e6),
}


def measure(load: w.Workload, targets: Sequence[str], folder: Path) -> dict[str, Any]:
    """Return the row of one model."""
    start = time.perf_counter()
    options = CompileOptions(target="host", states=load.states)
    clock = Clock()
    built = run_stages(load.path, load.calibration(), options, find_target("host")[0], clock)
    trial = rehearse(built.lowered, options.reference_samples)
    row: dict[str, Any] = {"model": load.name, "metric": load.metric, "bar": load.bar}
    row["targets"] = {}
    for target in targets:
        try:
            found = _on_target(built, trial, options, target, folder, clock)
        except EdgecError as problem:  # larger than the emulator's board
            if target == targets[0]:
                raise
            found = {"refused": str(problem)}
        row["targets"][target] = found
    row["value"], row["float"] = score(load, folder / f"{load.name}-host")
    row["passed"] = load.passes(row["value"])
    row["seconds"] = round(time.perf_counter() - start, 1)
    return row


def _on_target(
    built: Built, trial: Trial, options: CompileOptions, target: str, folder: Path, clock: Clock
) -> dict[str, Any]:
    """Write and check the artifact of one target."""
    spec, backend = find_target(target)
    source = built.lowered.quantised.planned.ranged.reshaped.profiled.canonical.source
    chosen = options.model_copy(update={"target": target})
    own = pipeline.build(built.lowered, spec.isa, edgec.__version__)
    report = make_report(own, trial, None, clock.seconds)
    out = folder / f"{source.name}-{target}"
    write_artifact(out, own, trial, report, chosen, spec, backend, edgec.__version__)
    verdict = check_artifact(out)
    found: dict[str, Any] = {
        "same_bits": verdict.quantised.same_bits,
        "max_steps": verdict.quantised.max_steps,
        "max_steps_double": verdict.quantised.max_steps_double,
        "share_within_1": round(verdict.quantised.share_within_1, 6),
        "instructions": verdict.instructions,
    }
    if verdict.memory is not None:
        found |= verdict.memory.model_dump()
    return found


def score(load: w.Workload, artifact: Path, quick: bool = False) -> tuple[float, float]:
    """Return the metric of the host artifact and of the model it was made from.

    `quick`: on fewer data, where the workload has a choice.
    """
    model = edgec.load(artifact)

    def run(feeds: w.Feeds) -> Mapping[str, w.Array]:
        return model.run({n: _port(v) for n, v in feeds.items()})

    float_run = w.float_runner(load.path)
    measure = load.quick if quick and load.quick is not None else load.score
    return measure(run, float_run), measure(float_run, float_run)


def _port(value: w.Array) -> w.Array:
    return value.astype(np.int32) if value.dtype == np.int64 else value


def table(rows: Sequence[Mapping[str, Any]], targets: Sequence[str]) -> str:
    """Return the tables in Markdown."""
    lines = [
        *peer_table(rows),
        "",
        *linux_peer_table(rows),
        "",
        "Accuracy of the int8 artifact on the whole test data:",
        "",
        "| model | metric | float | int8 | bar | reached | same bits on | steps from ORT (max, "
        "within 1) | in double |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ran = [t for t in targets if "refused" not in row["targets"][t]]
        same = [t for t in ran if row["targets"][t]["same_bits"]]
        on = "all" if len(same) == len(targets) else ", ".join(same) or "none"
        first = row["targets"][targets[0]]
        lines.append(
            f"| {row['model']} | {row['metric']} | {row['float']:.4g} | {row['value']:.4g} | "
            f"{row['bar']:g} | {'yes' if row['passed'] else '**no**'} | {on} | "
            f"{first['max_steps']}, {first['share_within_1']:.2%} | "
            f"{_dash(first['max_steps_double'])} |"
        )
    emulated = [t for t in targets if t != "host"]
    lines += [
        "",
        "Million instructions per inference; for Cortex-M4 also flash and RAM in KiB.",
        "",
        "| model | " + " | ".join(emulated) + " | M4 flash | M4 RAM |",
        "|---|" + "---|" * (len(emulated) + 2),
    ]
    for row in rows:
        cells = [_millions(row["targets"][t].get("instructions")) for t in emulated]
        m4 = row["targets"].get("cortex-m4", {})
        memory = [f"{m4[k] / 1024:.1f}" if k in m4 else "-" for k in ("flash_bytes", "ram_bytes")]
        lines.append(f"| {row['model']} | " + " | ".join([*cells, *memory]) + " |")
    return "\n".join(lines) + "\n"


def _dash(count: int | None) -> str:
    return "-" if count is None else str(count)


def _millions(count: float | None) -> str:
    return "-" if count is None else f"{count / 1e6:.3g}"


def peer_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return edgec / TFLM + CMSIS-NN on the very int8 models that peer ran."""
    lines = [
        "edgec / (TFLM + CMSIS-NN), the same int8 models, inputs, emulator and counting "
        "(below 1 is better):",
        "",
        "| model | core | instructions | flash | RAM |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        for target, (instructions, flash, ram) in PEERS.get(row["model"], {}).items():
            own = row["targets"].get(target)
            if own is None:
                continue
            lines.append(
                f"| {row['model']} | {target} | {own['instructions'] / instructions:.2f} | "
                f"{own['flash_bytes'] / 1024 / flash:.2f} | {own['ram_bytes'] / 1024 / ram:.2f} |"
            )
    return lines


def linux_peer_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return edgec / ONNX Runtime and edgec / LiteRT on aarch64."""
    lines = [
        f"edgec / peer on {LINUX_TARGET}, executed instructions, same int8 models, one thread:",
        "",
        "| model | ONNX Runtime 1.32 | LiteRT 2.3 (XNNPACK) |",
        "|---|---|---|",
    ]
    for row in rows:
        own = row["targets"].get(LINUX_TARGET)
        if own is not None and (peers := LINUX_PEERS.get(row["model"])) is not None:
            shares = " | ".join(f"{own['instructions'] / peer:.2f}" for peer in peers)
            lines.append(f"| {row['model']} | {shares} |")
    return lines


def main() -> int:
    """Measure the chosen models and write the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--targets", nargs="*", default=list(TARGETS))
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--page-only", action="store_true", help="rewrite results.md from the json")
    arguments = parser.parse_args()
    if arguments.page_only:
        stored = json.loads((arguments.out / "results.json").read_text())["rows"]
        (arguments.out / "results.md").write_text(page(stored, arguments.targets))
        return 0
    rows: list[dict[str, Any]] = []
    for load in w.workloads():
        if arguments.only and load.name not in arguments.only:
            continue
        with tempfile.TemporaryDirectory(prefix="edgec-results-") as folder:
            try:
                row = measure(load, arguments.targets, Path(folder))
            except EdgecError as problem:
                print(f"{load.name}: {problem}", flush=True)
                return 1
        rows.append(row)
        print(json.dumps(row), flush=True)
        _write(rows, arguments.targets, arguments.out)
    return 0


def _write(rows: Sequence[Mapping[str, Any]], targets: Sequence[str], out: Path) -> None:
    machine = {"system": platform.platform(), "python": platform.python_version()}
    data = {"command": COMMAND, "edgec": edgec.__version__, "machine": machine, "rows": rows}
    (out / "results.json").write_text(json.dumps(data, indent=1) + "\n")
    (out / "results.md").write_text(page(rows, targets))


def page(rows: Sequence[Mapping[str, Any]], targets: Sequence[str]) -> str:
    """Return docs/results.md."""
    return (
        "# Measured results\n\n"
        f"Made by `{COMMAND}` (edgec {edgec.__version__}); the raw numbers are in results.json. "
        "Models, data and bars: shared/models/MODELS.md. The metric is that of the host artifact "
        "on the whole test data; `same bits` says on which targets the reference samples gave "
        "identical integers. Instructions are executed instructions under QEMU, not cycles.\n\n"
        "<!-- results -->\n" + table(rows, targets) + "<!-- /results -->\n\n" + NOTES
    )


NOTES = """## Notes

* `steps from ORT` compares with ONNX Runtime running the quantised model with graph optimisations
  off, `in double` with ONNX Runtime computing the same graph in double precision. Where only the
  first exceeds 1, near-ties decided by float32 rounding grew through the layers that follow;
  docs/contract.md has the measurement, including how far ONNX Runtime is from itself between
  optimisation levels.
* For the four `*_int8_qdq` models the column `float` is ONNX Runtime with its default optimisations
  against ONNX Runtime in double: how far the reference is from itself.
* The inputs of `autoencoder_toycar` are seeded: log-mel frames of shared/bench/io plus normal
  noise (standard deviation 2).
* `llama_stories260k_*` have 12 bits in several kinds of activations (`--wide-activations auto`; the
  reports say which and what each gained). All in int8 they reached 1.558 and 1.555 nats/token with
  709.2 and 199.5 KiB of RAM on Cortex-M4 (results.json of commit 3167978).
* The peers' figures (shared/design/BENCH.md) are of the same int8 models and inputs. Those on
  aarch64 hold the call from Python.
* Calibrating with 1,024 samples peaks within 1 % of the memory of 16: `digits.onnx` 306 and
  307 MiB, `mnist_cnn` 309 and 311, `resnet8_cifar10` 321 and 322. The command is `python
  tools/calibration_memory.py MODEL` (target host, the compiling process alone); it took 3 to 5 s
  of CPU with 16 samples and 6 to 13 with 1,024.
"""


if __name__ == "__main__":
    raise SystemExit(main())
