"""Start one process per device that this task was given, and end them together.

The direct start of torch.distributed (`env://`): every process finds RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and
MASTER_PORT in its environment. The ranks are forked from a parent that has imported torch, which saves each of them
that import; the parent makes no CUDA call, because CUDA does not survive a fork.

A task on several nodes runs once on each of them, and is told where they meet (NNODES, NODE_RANK, MASTER_ADDR,
MASTER_PORT), how many ranks there are on all nodes (WORLD_SIZE), and which are its own (from RLSCHED_FIRST_RANK on).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from types import FrameType
from typing import TypeVar

GRACE = 30.0  # seconds that the other ranks have to end by themselves after the first has failed

Argument = TypeVar("Argument")


def run(work: Callable[[Argument], None], argument: Argument, device: str = "auto") -> None:
    """Call `work(argument)` in one process per device; in this process if there is one device only.

    Under a launcher that has set RANK already (torchrun, say) this process is one of the ranks.

    Raises:
        SystemExit: with the status of the first rank that failed, 128 + n if signal n ended it.
    """
    local, at = devices_given(device), os.environ
    spans_nodes = int(at.get("NNODES", "1")) > 1
    if "RANK" in at or (local == 1 and not spans_nodes):
        work(argument)
        return
    meeting = {"WORLD_SIZE": str(local), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    if spans_nodes:
        meeting = {name: at[name] for name in meeting}
    first = int(at.get("RLSCHED_FIRST_RANK", "0"))
    if local == 1:
        at.update(RANK=str(first), LOCAL_RANK="0")
        work(argument)
        return
    import torch._dynamo  # noqa: F401  what Adam would import, as slow as torch itself

    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_rank, args=(work, argument, first, rank, meeting)) for rank in range(local)]

    def pass_on(signum: int, frame: FrameType | None) -> None:
        _terminate(ranks)

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # until every rank exists to pass it on to
    for rank in ranks:
        rank.start()
    signal.signal(signal.SIGTERM, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    status = _first_failure(ranks)
    if status:
        sys.exit(status)


def devices_given(device: str = "auto") -> int:
    """How many ranks to start: RLSCHED_GPUS, else the entries of CUDA_VISIBLE_DEVICES, else the GPUs NVML counts."""
    given = os.environ.get("RLSCHED_GPUS")
    if given is not None:
        return max(1, int(given))
    if device == "cpu":
        return 1
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return max(1, len([entry for entry in visible.split(",") if entry.strip()]))
    import pynvml

    try:
        pynvml.nvmlInit()
        return max(1, int(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:
        return 1


def _rank(
    work: Callable[[Argument], None], argument: Argument, first: int, local_rank: int, meeting: dict[str, str]
) -> None:
    """The life of one rank."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    os.environ.update(meeting, RANK=str(first + local_rank), LOCAL_RANK=str(local_rank))
    work(argument)


def _first_failure(ranks: Sequence[ForkProcess]) -> int:
    """Wait for all ranks; 0 if all went well, else the first failure's exit status, with no rank left running."""
    running = list(ranks)
    while running:
        wait([rank.sentinel for rank in running])
        ended = [rank for rank in running if rank.exitcode is not None]
        running = [rank for rank in running if rank not in ended]
        for rank in ended:
            if rank.exitcode:
                _terminate(ranks)
                deadline = time.monotonic() + GRACE
                for other in ranks:
                    other.join(max(0.0, deadline - time.monotonic()))
                    other.kill()
                    other.join()
                return rank.exitcode if rank.exitcode > 0 else 128 - rank.exitcode
    return 0


def _terminate(ranks: Sequence[ForkProcess]) -> None:
    for rank in ranks:
        rank.terminate()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
