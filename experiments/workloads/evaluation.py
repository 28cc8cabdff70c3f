"""Measure a trained model on the examples it was not trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rlsched.experiments.workloads import files
from rlsched.experiments.workloads.training import Batch, Logits, load_examples, take_device

Score = Callable[[Tensor, Tensor], float]  # of predicted and true labels, both (n,) or both (n, length)


def evaluate(
    weights: Path, data: Path, out: Path, model: nn.Module, logits: Logits, device: str, metric: str, score: Score
) -> None:
    """Write {"model", "metric", "validation", "test", "training"}: the score of both splits, and how it was trained."""
    model.load_state_dict(load_file(weights))
    taken = take_device(device)
    model.to(taken).eval()
    scores = {}
    for split in ("validation", "test"):
        inputs = load_examples(files.split(data, split), taken)
        labels = inputs.pop("labels").cpu()
        scores[split] = score(predict(model, logits, inputs), labels)
    trained = files.read_json(weights.with_suffix(".json"))
    files.write_json(out, {"model": str(weights), "metric": metric, **scores, "training": trained})
    print(f"{weights}: {metric} {scores['validation']:.4f} on validation, {scores['test']:.4f} held out")


@torch.inference_mode()
def predict(model: nn.Module, logits: Logits, inputs: Batch, batch_size: int = 64) -> Tensor:
    """The likeliest class of every example, or of every token of it, on the CPU: (n,) or (n, length)."""
    device = next(iter(inputs.values())).device
    found = []
    for rows in torch.split(torch.arange(len(next(iter(inputs.values()))), device=device), batch_size):
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            found.append(logits(model, {name: tensor[rows] for name, tensor in inputs.items()}).argmax(-1).cpu())
    return torch.cat(found)


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Share of the examples whose predicted class is the true one."""
    return (predicted == labels).float().mean().item()
