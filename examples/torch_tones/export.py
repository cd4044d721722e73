"""Train a small torch network on generated signals and export what `edgec compile` needs.

Writes tones.onnx, calibration.npz and test.npz into a folder; README.md here has the commands.
Needs torch==2.13.0 and onnxscript, which torch.onnx.export uses.
"""

# torch is absent where edgec is developed and checked.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn

SEED = 20261125
CLASSES = ("sine", "square", "sawtooth", "noise")
LENGTH = 128
EPOCHS, BATCH = 4, 64


def signals(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return count noisy signals [count, 1, LENGTH] in about -1..1 and their classes [count]."""
    labels = rng.integers(0, len(CLASSES), count)
    cycles, phase = rng.uniform(2, 10, (count, 1)), rng.uniform(0, 1, (count, 1))
    turns = cycles * np.arange(LENGTH) / LENGTH + phase
    shapes = np.stack([
        np.sin(2 * np.pi * turns), np.sign(np.sin(2 * np.pi * turns)), 2 * (turns % 1) - 1,
        rng.normal(0, 0.6, turns.shape),
    ])  # fmt: skip
    clean = shapes[labels, np.arange(count)] * rng.uniform(0.4, 1.0, (count, 1))
    noisy = clean + rng.normal(0, 0.1, clean.shape)
    return noisy[:, None].astype(np.float32), labels.astype(np.int64)


class Tones(nn.Module):
    """[n, 1, LENGTH] to the logits of CLASSES."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 16, 32, 32)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [
                nn.Conv1d(inputs, outputs, 5, padding=2), nn.BatchNorm1d(outputs), nn.ReLU(),
                nn.MaxPool1d(2),
            ]  # fmt: skip
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], len(CLASSES))

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        """Classify signals."""
        return self.head(self.features(signal).mean(dim=-1))


def train(rng: np.random.Generator) -> Tones:
    """Return a trained network in evaluation mode."""
    torch.manual_seed(SEED)
    model = Tones()
    x, y = (torch.from_numpy(a) for a in signals(2000, rng))
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x)).split(BATCH):
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model.eval()


def main(folder: Path) -> None:
    """Train, export, and save data for calibration and for checking."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    model = train(rng)
    example = torch.zeros(1, 1, LENGTH)
    torch.onnx.export(
        model, (example,), folder / "tones.onnx", input_names=["signal"], output_names=["logits"],
        dynamo=True, external_data=False,
    )  # fmt: skip
    np.savez(folder / "calibration.npz", signal=signals(200, rng)[0])
    test, labels = signals(500, rng)
    np.savez(folder / "test.npz", signal=test, labels=labels)
    with torch.no_grad():
        right = model(torch.from_numpy(test)).argmax(1).numpy() == labels
    print(f"float accuracy {right.mean():.4f} on {len(test)} signals; files in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
