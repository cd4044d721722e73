"""Train the example network on scikit-learn's digits and write the files beside this script.

Needs torch==2.13.0 and scikit-learn==1.7.2, which edgec itself does not; README.md here has the
command. Same versions and machine type, same files: every seed is fixed.
"""

# torch and scikit-learn are absent where edgec is developed and checked.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits
from torch import nn

HERE = Path(__file__).resolve().parent
SEED = 20261125
EPOCHS = 60
BATCH = 32
TEST_SAMPLES = 500
CALIBRATION_SAMPLES = 128


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution and batch norm."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


class Separable(nn.Module):
    """Depthwise then pointwise convolution, with the input added where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.depthwise = conv(inputs, inputs, 3, stride, groups=inputs)
        self.pointwise = conv(inputs, outputs, 1)
        self.residual = stride == 1 and inputs == outputs
        self.act = nn.ReLU6()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, inputs, h, w] to [n, outputs, h / stride, w / stride]."""
        y = self.pointwise(self.act(self.depthwise(x)))
        return x + y if self.residual else self.act(y)


class Digits(nn.Module):
    """[n, 1, 8, 8] in 0..1 to the logits of ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(1, 16, 3), nn.ReLU6())
        self.blocks = nn.Sequential(
            Separable(16, 32, 1), Separable(32, 32, 1), Separable(32, 64, 2), Separable(64, 64, 1)
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(64, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits of a batch of images."""
        return self.head(self.pool(self.blocks(self.stem(image))).flatten(1))


def split() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return train images, train labels, test images, test labels; images [n, 1, 8, 8] in 0..1."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(SEED).permutation(len(labels))
    images = torch.from_numpy((pixels[order] / 16.0).astype(np.float32).reshape(-1, 1, 8, 8))
    answers = torch.from_numpy(labels[order].astype(np.int64))
    cut = len(labels) - TEST_SAMPLES
    return images[:cut], answers[:cut], images[cut:], answers[cut:]


def shift(images: torch.Tensor) -> torch.Tensor:
    """Move every image by up to one pixel: 1297 training images are few."""
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    down, right = torch.randint(0, 3, (2, len(images)))
    rows = down[:, None] + torch.arange(8)
    columns = right[:, None] + torch.arange(8)
    each = torch.arange(len(images))[:, None, None]
    return padded[each, 0, rows[:, :, None], columns[:, None, :]][:, None]


def train(images: torch.Tensor, labels: torch.Tensor) -> Digits:
    """Train with Adam and a one-cycle learning rate."""
    model = Digits()
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    batches = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.01, total_steps=EPOCHS * batches)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images))[: batches * BATCH].split(BATCH):
            optimiser.zero_grad()
            logits = model(shift(images[batch]))
            nn.functional.cross_entropy(logits, labels[batch], label_smoothing=0.05).backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def export(model: Digits) -> None:
    """Write digits.onnx, batch norms not folded: that is edgec's work."""
    path = HERE / "digits.onnx"
    torch.onnx.export(
        model, (torch.zeros(1, 1, 8, 8),), path, input_names=["image"], output_names=["logits"],
        opset_version=17, dynamo=False, do_constant_folding=False,
        training=torch.onnx.TrainingMode.PRESERVE,
    )  # fmt: skip
    onnx.checker.check_model(onnx.load(path), full_check=True)


def main() -> None:
    """Train, export, write calibration and test data, print the accuracy."""
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    images, labels, test_images, test_labels = split()
    model = train(images, labels)
    export(model)
    np.savez_compressed(HERE / "calibration.npz", image=images[:CALIBRATION_SAMPLES].numpy())
    np.savez_compressed(HERE / "test.npz", image=test_images.numpy(), labels=test_labels.numpy())
    with torch.no_grad():
        right = (model(test_images).argmax(1) == test_labels).double().mean()
    weights = sum(p.numel() for p in model.parameters())
    print(f"{weights} parameters, {100 * right:.1f} % of {TEST_SAMPLES} test images right")


if __name__ == "__main__":
    main()
