"""Whether a workflow can run here: are its source files present, has the cluster what its tasks ask for."""

from __future__ import annotations

from rlsched.model import Cluster, Mode
from rlsched.pool import Pool
from rlsched.workflow.workflow import Workflow, WorkflowError


def check_sources(workflow: Workflow) -> None:
    """Find inputs that no task writes and that are not there.

    Raises:
        WorkflowError: names the first such input, its task and line.
    """
    for task, command in zip(workflow.job.tasks, workflow.commands, strict=True):
        for path in command.sources:
            if not path.exists():
                message = f"expected the input '{path}', which no task writes, found nothing there"
                raise WorkflowError(f"{workflow.file}:{command.line}: tasks.{task.name}: {message}")


def check_feasible(workflow: Workflow, cluster: Cluster) -> None:
    """Find tasks that could not start even if the whole cluster were free.

    Raises:
        WorkflowError: names the first such task, its line, and what its first mode lacks.
    """
    free = Pool(cluster)
    for task, command in zip(workflow.job.tasks, workflow.commands, strict=True):
        if all(free.place(mode) is None for mode in task.modes):
            message = _lack(task.modes[0], cluster)
            raise WorkflowError(f"{workflow.file}:{command.line}: tasks.{task.name}: {message}")


def _lack(mode: Mode, cluster: Cluster) -> str:
    types = cluster.gpu_types if mode.gpu_type is None else (mode.gpu_type,)
    if mode.gpus > max((cluster.gpu_count(gpu_type) for gpu_type in types), default=0):
        wanted = f"{mode.gpus} GPUs" if mode.gpus > 1 else "1 GPU"
        wanted += f" of type {mode.gpu_type!r}" if mode.gpu_type else " of one type" if mode.gpus > 1 else ""
        found = ", ".join(f"{cluster.gpu_count(gpu_type)} of type {gpu_type!r}" for gpu_type in cluster.gpu_types)
        return f"expected {wanted}, found {found or 'none'}"
    nodes = [node for node in cluster.nodes if not mode.gpus or (node.gpus and node.gpu_type in types)]
    amounts = [
        (mode.gpu_memory, "GiB of memory on each GPU", max(node.gpu_memory for node in nodes)),
        (mode.cpus, "CPUs", max(node.cpus for node in nodes)),
        (mode.memory, "GiB of memory", max(node.memory for node in nodes)),
        *(
            (amount, repr(name), max(n.resources.get(name, 0) for n in nodes))
            for name, amount in mode.resources.items()
        ),
    ]
    for amount, what, most in amounts:
        if amount > most:
            return f"expected a node with {amount:g} {what}, found at most {most:g}"
    return f"expected {'nodes' if mode.gpus else 'a node'} with all it asks for at once, found none"
