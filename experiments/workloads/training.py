"""The training loop that every workload shares: one process per device, resumable to the last digit.

A batch is a dict of tensors on the device whose first axis is the example; `labels` holds class indices, either one
an example (n,) or one a token (n, length), where -100 marks positions that do not count.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from rlsched import progress
from rlsched.experiments.workloads import files
from rlsched.experiments.workloads.checkpoint import Checkpoint
from rlsched.experiments.workloads.settings import Settings

Batch = dict[str, Tensor]
Logits = Callable[[nn.Module, Batch], Tensor]  # (..., classes) for a batch without its labels

STOPPED = 143  # 128 + SIGTERM: "stopped as asked, run me again to go on"
REPORT_EVERY = 0.5  # seconds; reading the loss makes a GPU wait, so not every step
GO_ON, SAVE, STOP = 0, 1, 2


def fit(settings: Settings, build: Callable[[], nn.Module], logits: Logits) -> None:
    """Train with Adam and cross-entropy; write weights and metrics. The body of one rank.

    On SIGTERM all ranks agree on a step to stop after, rank 0 saves a checkpoint, and every rank exits with 143. The
    same call then goes on from there, and at an equal number of ranks ends with bit-for-bit the weights of a run that
    was never stopped. With another number of ranks it goes on too, but dropout draws other numbers. Each rank's mean
    loss counts equally, as is usual in data-parallel training.

    Raises:
        ValueError: the ranks cannot share a batch equally.
        SystemExit: 143 after a SIGTERM.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if settings.batch_size % world:
        raise ValueError(f"a batch of {settings.batch_size} examples cannot be shared equally by {world} ranks")
    device = take_device(settings.device)
    if world > 1:  # gloo carries what the ranks agree on, so that agreeing never waits for a GPU
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")

    data = load_examples(settings.data, device)
    examples = len(data["labels"])
    batch_size = min(settings.batch_size, examples // world * world)
    steps_per_epoch = examples // batch_size
    total = settings.epochs * steps_per_epoch

    torch.manual_seed(settings.seed)
    model = build().to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr, fused=True)
    forward: nn.Module = model
    if world > 1:
        forward = DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)
    if settings.compile:
        forward = torch.compile(forward)  # type: ignore[assignment]

    def loss_of(rows: Tensor) -> Tensor:
        """The mean loss of this rank's share of a batch."""
        batch = {name: tensor[rows[rank::world].to(device)] for name, tensor in data.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            scores = logits(forward, batch)
            return cross_entropy(scores.flatten(0, -2).float(), batch["labels"].flatten())

    if world > 1:
        # After its first backward pass DDP regroups the gradients it sums, and another grouping rounds differently:
        # a resumed run would differ in the last digit. So that pass is none of the training's.
        loss_of(torch.arange(batch_size)).backward()  # type: ignore[no-untyped-call]
    torch.manual_seed(settings.seed + 1 + rank)  # ranks draw different dropout
    checkpoint = Checkpoint(settings.checkpoint, settings.fingerprint(), model, optimizer, device)
    first, seconds = checkpoint.load(rank, world)

    asked_to_stop: list[int] = []  # a handler may interrupt itself: appending is safe, taking a lock is not
    signal.signal(signal.SIGTERM, lambda signum, frame: asked_to_stop.append(signum))
    started = reported = saved = time.monotonic()
    reported_step = first
    for step, rows in enumerate(_batches(examples, batch_size, settings, first), start=first + 1):
        loss = loss_of(rows)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

        now = time.monotonic()
        if step in (first + 1, total) or now - reported >= REPORT_EVERY:
            rate = (step - reported_step) * batch_size / (now - reported)
            progress.report(step, total, loss=loss.item(), samples_per_s=rate)
            reported, reported_step = now, step
        if step == total:
            break
        wish = STOP if asked_to_stop else SAVE if now - saved >= settings.checkpoint_every else GO_ON
        if wish := _strongest(wish, world):
            checkpoint.save(step, seconds + now - started, rank, world)
            saved = time.monotonic()
        if wish == STOP:
            if rank == 0:
                print(f"stopped after step {step} of {total}; run again to go on from {settings.checkpoint}")
            if world > 1:
                dist.destroy_process_group()
            raise SystemExit(STOPPED)

    if rank == 0:
        seconds += time.monotonic() - started
        with files.replacing(settings.out) as temporary:
            save_file(model.state_dict(), temporary)
        metrics = {"loss": loss.item(), "steps": total, "examples": examples, "lr": settings.lr}
        ran = {"seconds": round(seconds, 2), "ranks": world, "device": device.type}
        files.write_json(settings.metrics, metrics | ran)
        checkpoint.remove()
        print(f"{total} steps of {batch_size} in {seconds:.1f} s on {world} x {device.type}, loss {loss.item():.4f}")
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


def load_examples(path: Path, device: torch.device) -> Batch:
    """All examples of a file, on the device: the largest workload here is a few megabytes."""
    return {name: tensor.to(device) for name, tensor in load_file(path).items()}


def take_device(device: str) -> torch.device:
    """The device of this rank, with kernels and threads that give equal results for equal inputs."""
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is only deterministic with this
        torch.use_deterministic_algorithms(True, warn_only=True)
        taken = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(taken)
        return taken
    torch.set_num_threads(1)  # the task was given one slot a rank, and two busy threads on one core collapse
    return torch.device("cpu")


def _batches(examples: int, batch_size: int, settings: Settings, first: int) -> Iterator[Tensor]:
    """The rows of every batch after step `first`: a fresh order each epoch, decided by seed and epoch alone.

    What does not fill the last batch of an epoch is left out of it; the next order brings other leftovers.
    """
    per_epoch = examples // batch_size
    for epoch in range(first // per_epoch, settings.epochs):
        order = torch.randperm(examples, generator=torch.Generator().manual_seed(settings.seed * 100_003 + epoch))
        skipped = first % per_epoch if epoch == first // per_epoch else 0
        yield from torch.split(order[skipped * batch_size : per_epoch * batch_size], batch_size)


def _strongest(wish: int, world: int) -> int:
    """The strongest wish of any rank, so that all stop after the same step."""
    if world == 1:
        return wish
    strongest = torch.tensor(wish)
    dist.all_reduce(strongest, dist.ReduceOp.MAX)
    return int(strongest)
