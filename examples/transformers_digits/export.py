"""Train a small ViT of transformers on scikit-learn's digits; export, compile and check it.

Writes vit.onnx, calibration.npz, test.npz and an artifact per target into a folder, and prints
every verdict; README.md here has the commands. Needs the packages of `pip install 'edgec[torch]'`.
"""

# torch and transformers are absent where edgec is developed and checked.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

import edgec

SEED = 20261125
EPOCHS, BATCH, TEST = 20, 64, 300
TARGETS = ("host", "cortex-m4")


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Return scikit-learn's images [n, 1, 8, 8] in 0..1 and their classes [n], shuffled."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(SEED).permutation(len(labels))
    pixels = (images[order] / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    return torch.from_numpy(pixels), torch.from_numpy(labels[order].astype(np.int64))


def vit() -> ViTForImageClassification:
    """Return an untrained ViT of 2 layers with 16 patches of 2 x 2 pixels."""
    torch.manual_seed(SEED)
    return ViTForImageClassification(
        ViTConfig(
            image_size=8,
            patch_size=2,
            num_channels=1,
            num_labels=10,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            attn_implementation="eager",
        )
    )


class Logits(nn.Module):
    """The network as a function of one array, which is what a device calls."""

    def __init__(self, network: ViTForImageClassification) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """[n, 1, 8, 8] to logits [n, 10]."""
        return self.network(pixel_values=image).logits


def train(images: torch.Tensor, labels: torch.Tensor) -> Logits:
    """Return a trained network in evaluation mode."""
    model = Logits(vit())
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH):
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model.eval()


def main(folder: Path) -> int:
    """Train, export, compile and check; returns 0 when every check passed."""
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = digits()
    model = train(images[TEST:], labels[TEST:])
    torch.onnx.export(
        model, (images[:1],), folder / "vit.onnx", input_names=["image"],
        output_names=["logits"], dynamo=True, external_data=False,
    )  # fmt: skip
    np.savez(folder / "calibration.npz", image=images[TEST : TEST + 128].numpy())
    np.savez(folder / "test.npz", image=images[:TEST].numpy(), labels=labels[:TEST].numpy())
    passed = [passes(folder, target) for target in TARGETS]  # every one, also after a failure
    return 0 if all(passed) else 1


def passes(folder: Path, target: str) -> bool:
    """Compile for target, check on its device with the test images, print what was found."""
    artifact = edgec.compile(
        folder / "vit.onnx", target, folder / target, folder / "calibration.npz", overwrite=True
    )
    found = artifact.check(data=folder / "test.npz")
    assert found.task is not None
    print(
        f"{target}: {'passed' if found.passed else 'FAILED'}, accuracy {found.task.value:.3f} "
        f"(float {found.task.float_value:.3f}), "
        f"same bits: {'yes' if found.quantised.same_bits else 'no'}"
    )
    return found.passed


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
