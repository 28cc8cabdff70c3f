"""Whether a job could ever run on a cluster."""

from __future__ import annotations

from rlsched.model import Job, Mode
from rlsched.pool import Pool


def misfit(job: Job, empty: Pool) -> tuple[str, str] | None:
    """The first task that does not fit the cluster even when that is empty, and what is wrong with it."""
    for task in job.tasks:
        if all(empty.place(mode) is None for mode in task.modes):
            return task.name, f"expected what fits the empty cluster, found {_takes(task.modes[0])}"
    return None


def _takes(mode: Mode) -> str:
    amounts = {
        f"GPUs{f' of type {mode.gpu_type}' if mode.gpu_type else ''}": mode.gpus,
        "GiB of GPU memory": mode.gpu_memory,
        "CPUs": mode.cpus,
        "GiB of memory": mode.memory,
        **mode.resources,
    }
    return ", ".join(f"{amount:g} {what}" for what, amount in amounts.items() if amount)
