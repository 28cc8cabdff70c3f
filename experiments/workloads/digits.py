"""Handwritten digits: a small convolutional network on scikit-learn's 1,797 images of 8 x 8 pixels, in seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlsched.experiments.workloads import files, steps
from rlsched.experiments.workloads.settings import Settings

if TYPE_CHECKING:  # torch and scikit-learn take seconds to import: only the steps that use them do
    from torch import Tensor, nn

    from rlsched.experiments.workloads.training import Batch


def fit(settings: Settings) -> None:
    """One rank of the training."""
    from rlsched.experiments.workloads import training

    training.fit(settings, network, logits)


app = steps.app("Recognise handwritten digits.", fit, epochs=15, batch_size=32)


@app.command()
def load(out: steps.Examples, validation: int = 270, test: int = 360, seed: int = 0) -> None:
    """Read the images and split them, classes in proportion: pixels (n, 1, 8, 8) from 0 to 1, labels (n,)."""
    import numpy as np
    from sklearn.datasets import load_digits

    from rlsched.experiments.workloads import splits

    digits = load_digits()
    pixels = (digits.images[:, None] / 16).astype(np.float32)
    classes = [str(digit) for digit in digits.target_names]
    for name, rows in splits.stratified(digits.target, validation, test, seed).items():
        files.write_examples(files.split(out, name), {"pixels": pixels[rows], "labels": digits.target[rows]}, classes)
        print(f"{name}: {len(rows)} images")


@app.command()
def evaluate(model: steps.Source, data: steps.Examples, out: steps.Target, device: steps.Device = "auto") -> None:
    """Measure accuracy on the validation and the test split."""
    from rlsched.experiments.workloads import evaluation

    evaluation.evaluate(model, data, out, network(), logits, device, "accuracy", evaluation.accuracy)


def network() -> nn.Module:
    """Two convolutions and a linear layer: pixels (n, 1, 8, 8) -> logits (n, 10)."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(32 * 4 * 4, 10),
    )


def logits(model: nn.Module, batch: Batch) -> Tensor:
    """Logits (n, 10) of a batch."""
    scores: Tensor = model(batch["pixels"])
    return scores


if __name__ == "__main__":
    app()
