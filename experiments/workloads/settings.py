"""What one training is told on its command line."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    """One training.

    Attributes:
        data: safetensors file of the training examples.
        out: where the weights go (safetensors); the metrics go beside them.
        lr: Adam's learning rate.
        epochs: passes over the data.
        batch_size: examples a step, over all ranks together.
        seed: of the initial weights, the order of examples and dropout.
        device: "auto" (CUDA where there is one), "cuda" or "cpu".
        compile: run the model through torch.compile.
        checkpoint_every: seconds between periodic checkpoints.

    Raises:
        ValueError: a number out of range, an unknown device.
    """

    data: Path
    out: Path
    lr: float
    epochs: int
    batch_size: int
    seed: int = 0
    device: str = "auto"
    compile: bool = False
    checkpoint_every: float = 60.0

    def __post_init__(self) -> None:
        for name in ("lr", "epochs", "batch_size", "checkpoint_every"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected above 0")
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device is {self.device!r}, expected auto, cpu or cuda")

    @property
    def metrics(self) -> Path:
        """Where the training writes how it went (JSON)."""
        return self.out.with_suffix(".json")

    @property
    def checkpoint(self) -> Path:
        """Where an interrupted training is kept: in the executor's folder for that, or beside `out`."""
        folder = Path(os.environ.get("RLSCHED_CHECKPOINT_DIR", self.out.parent))
        return folder / f"{self.out.stem}.checkpoint"

    def fingerprint(self) -> str:
        """A digest of everything that decides the result: a checkpoint continues only the training it came from."""
        deciding = {k: v for k, v in asdict(self).items() if k not in ("data", "out", "checkpoint_every", "device")}
        digest = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode())
        digest.update(self.data.read_bytes())
        return digest.hexdigest()
