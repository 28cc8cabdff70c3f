"""Executions of scientific workflows in WfFormat 1.5 and 1.6 (Coleman et al., WfCommons, FGCS 2022).

A workflow is a job, its tasks are tasks, and a CPU core is a slot that policies share out like a GPU. A task takes its
cores (1 where the file is silent) for the time it ran. Tasks that took no time are left out; what waited for them
waits for what they waited for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import Field

from rlsched.generator.fields import NotNegative, Positive, Text
from rlsched.model import Job, Mode, Task
from rlsched.scenariofile import ClusterEntry, NodesEntry
from rlsched.traces.dag import needs_without
from rlsched.traces.records import Foreign, files_in, read_json
from rlsched.traces.trace import Trace, TraceError, Wish, as_name, machines

_VERSIONS = ("1.5", "1.6")


class _Link(Foreign):
    id: Text
    parents: tuple[Text, ...] = ()
    children: tuple[Text, ...] = ()


class _Specification(Foreign):
    tasks: tuple[_Link, ...]


class _Ran(Foreign):
    id: Text
    seconds: NotNegative = Field(alias="runtimeInSeconds")
    cores: float = Field(default=1, alias="coreCount", gt=0)


class _Cpu(Foreign):
    cores: Positive = Field(default=1, alias="coreCount")


class _Machine(Foreign):
    name: Text = Field(alias="nodeName")
    cpu: _Cpu = _Cpu()


class _Execution(Foreign):
    tasks: tuple[_Ran, ...]
    machines: tuple[_Machine, ...] = ()


class _Workflow(Foreign):
    specification: _Specification
    execution: _Execution


class _Instance(Foreign):
    version: Text = Field(alias="schemaVersion")
    workflow: _Workflow


def read(path: Path, wish: Wish) -> Trace:
    """The workflow of a file on the machines it ran on; or those of all *.json in a folder, all there at the start."""
    files = files_in(path, "*.json")
    instances = [_instance(file) for file in files]
    left_out: Counter[str] = Counter()
    jobs = _jobs(files, instances, left_out)
    return Trace(wish.cluster or _machines(path, instances), jobs, left_out=left_out)


def _instance(file: Path) -> _Instance:
    instance = read_json(file, _Instance)
    if instance.version not in _VERSIONS:
        raise TraceError(f"{file}: schemaVersion: expected {' or '.join(_VERSIONS)}, found {instance.version!r}")
    return instance


def _machines(path: Path, instances: Sequence[_Instance]) -> ClusterEntry:
    """All machines that are named, each once, with the most cores that any file says it has."""
    cores: dict[str, int] = {}
    for machine in (machine for instance in instances for machine in instance.workflow.execution.machines):
        name = as_name(machine.name)
        cores[name] = max(cores.get(name, 0), machine.cpu.cores)
    if not cores:
        raise TraceError(f"{path}: workflow.execution.machines: expected machines, found none; use --cluster")
    return machines(*(NodesEntry(name=name, gpus=count, gpu_type="cpu") for name, count in cores.items()))


def _jobs(files: Sequence[Path], instances: Sequence[_Instance], left_out: Counter[str]) -> Iterator[Job]:
    for file, instance in zip(files, instances, strict=True):
        try:
            yield Job(as_name(file.name.partition(".json")[0]), _tasks(instance.workflow, left_out))
        except ValueError as error:
            raise TraceError(f"{file}: {error}") from None


def _tasks(workflow: _Workflow, left_out: Counter[str]) -> tuple[Task, ...]:
    ran = {task.id: task for task in workflow.execution.tasks}
    needs = {task.id: dict.fromkeys(task.parents) for task in workflow.specification.tasks}
    for link in workflow.specification.tasks:
        for child in link.children:
            needs.setdefault(child, {})[link.id] = None
    known = {link.id for link in workflow.specification.tasks}
    for task, parents in needs.items():
        if unknown := ({task, *parents} - known):
            raise ValueError(f"workflow.specification.tasks: {min(unknown)!r} is a parent or child, but no task")
        if task not in ran:
            raise ValueError(f"workflow.execution.tasks: expected the run of {task!r}, found none")
    instant = {task for task in needs if ran[task].seconds == 0}
    left_out["task took no time"] += len(instant)
    return tuple(
        Task(
            as_name(task),
            (Mode(ran[task].seconds, gpus=max(1, round(ran[task].cores)), gpu_type="cpu"),),
            needs=tuple(map(as_name, parents)),
        )
        for task, parents in needs_without(instant, needs).items()
    )
