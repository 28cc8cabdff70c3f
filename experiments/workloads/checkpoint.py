"""A training frozen between two steps."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rlsched.experiments.workloads import files


class Checkpoint:
    """Saves and restores everything the next step depends on: weights, optimiser, step, each rank's random state.

    The file holds tensors, numbers and strings only, and is read with `weights_only=True`, so that a checkpoint from
    elsewhere cannot run code. The one before it is kept beside it: should the newest be damaged, that one takes its
    place.
    """

    def __init__(
        self, path: Path, fingerprint: str, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
    ) -> None:
        self.path = path
        self.previous = path.with_name(f"{path.name}.previous")
        self.fingerprint = fingerprint
        self.model = model
        self.optimizer = optimizer
        self.device = device

    def save(self, step: int, seconds: float, rank: int, world: int) -> None:
        """Write the state after `step`; all ranks call this, and it returns when the file is complete."""
        random = self._random_state()
        everyone = [torch.empty_like(random) for _ in range(world)]
        if world > 1:
            dist.all_gather(everyone, random)
        else:
            everyone = [random]
        if rank == 0:
            content = {
                "fingerprint": self.fingerprint,
                "step": step,
                "seconds": seconds,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "random": everyone,
            }
            with files.replacing(self.path) as temporary:
                torch.save(content, temporary)
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())  # before the one before it goes
                if self.path.exists():
                    self.path.replace(self.previous)
        if world > 1:
            dist.barrier()

    def load(self, rank: int, world: int) -> tuple[int, float]:
        """Restore what was saved; returns the steps done and the seconds they took, 0 and 0 to start afresh."""
        content = self._newest(rank)
        if content is None:
            return 0, 0.0
        if content["fingerprint"] != self.fingerprint:
            print(f"{self.path} is of a training with other settings or data: starting afresh")
            return 0, 0.0
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        if len(content["random"]) == world:
            self._restore_random_state(content["random"][rank])
        return content["step"], content["seconds"]

    def remove(self) -> None:
        """Delete it: the training has finished."""
        self.path.unlink(missing_ok=True)
        self.previous.unlink(missing_ok=True)

    def _newest(self, rank: int) -> dict[str, Any] | None:
        """The content of the newest file that is sound; None if there is none."""
        for path in filter(Path.exists, (self.path, self.previous)):
            if (content := read_if_sound(path)) is not None:
                return content
            if rank == 0:
                print(f"{path} is damaged, it is not used")
        return None

    def _random_state(self) -> Tensor:
        """Bytes: the generator of the CPU, followed by that of the GPU if the training is on one."""
        on_cpu = torch.get_rng_state()
        return torch.cat([on_cpu, torch.cuda.get_rng_state(self.device)]) if self.device.type == "cuda" else on_cpu

    def _restore_random_state(self, state: Tensor) -> None:
        cpu_bytes = len(torch.get_rng_state())
        torch.set_rng_state(state[:cpu_bytes])
        if self.device.type == "cuda" and len(state) > cpu_bytes:
            torch.cuda.set_rng_state(state[cpu_bytes:], self.device)


def read_if_sound(path: Path) -> dict[str, Any] | None:
    """What is in a file that `torch.save` wrote; None if it is damaged.

    It is a zip archive in which every part has its CRC-32. `torch.load` does not look at these, and takes flipped bits
    for weights.

    Raises:
        pickle.UnpicklingError: it holds something else than tensors, numbers and strings.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return None
    except Exception:  # whatever it stumbles over is damage
        return None
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except RuntimeError:  # torch reads parts of the archive's index that the zip module passes over
        return None
    return content
