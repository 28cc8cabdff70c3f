"""A training frozen between two steps."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rlsched.experiments.workloads import files


class Checkpoint:
    """Saves and restores everything the next step depends on: weights, optimiser, step, each rank's random state.

    The file holds tensors, numbers and strings only, and is read with `weights_only=True`, so that a checkpoint from
    elsewhere cannot run code.
    """

    def __init__(
        self, path: Path, fingerprint: str, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
    ) -> None:
        self.path = path
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
        if world > 1:
            dist.barrier()

    def load(self, rank: int, world: int) -> tuple[int, float]:
        """Restore what was saved; returns the steps done and the seconds they took, 0 and 0 to start afresh."""
        if not self.path.exists():
            return 0, 0.0
        content = torch.load(self.path, map_location="cpu", weights_only=True)
        if content["fingerprint"] != self.fingerprint:
            print(f"{self.path} is of a training with other settings or data: starting afresh")
            return 0, 0.0
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        if len(content["random"]) == world:
            self._restore_random_state(content["random"][rank])
        return content["step"], content["seconds"]

    def _random_state(self) -> Tensor:
        """Bytes: the generator of the CPU, followed by that of the GPU if the training is on one."""
        on_cpu = torch.get_rng_state()
        return torch.cat([on_cpu, torch.cuda.get_rng_state(self.device)]) if self.device.type == "cuda" else on_cpu

    def _restore_random_state(self, state: Tensor) -> None:
        cpu_bytes = len(torch.get_rng_state())
        torch.set_rng_state(state[:cpu_bytes])
        if self.device.type == "cuda" and len(state) > cpu_bytes:
            torch.cuda.set_rng_state(state[cpu_bytes:], self.device)
