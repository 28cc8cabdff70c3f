"""What there is to run: a job for the scheduler, and the process behind each of its members."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from rlsched.executor.preload import heavy_imports
from rlsched.model import Job, Task
from rlsched.workflow import Command, Workflow


@dataclass(frozen=True, slots=True)
class Unit:
    """What one member of a task runs.

    Attributes:
        name: the task's, and the member's number for an array task; unique in a run.
        argv: the command.
        env: environment variables on top of the driver's.
        timeout: seconds an attempt may take; None: no limit.
        outputs: files or folders that must exist when it has succeeded.
        digest: identity: equal digests mean that the same is run on the same sources.
        needs: names of all units that must have finished before.
        preload: modules worth having imported before it starts; empty: it is a command, or imports nothing heavy.
        is_function: it is a Python function.
        request: number of the signal that asks it to stop; 0: none, its preempt file alone does.
        grace: seconds that it has then; None: as long as any.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    timeout: float | None = None
    outputs: tuple[Path, ...] = ()
    digest: str = ""
    needs: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    is_function: bool = False
    request: int = signal.SIGTERM
    grace: float | None = None


@dataclass(frozen=True)
class Work:
    """A job that can be run.

    Attributes:
        units: for each task of the job, its members.
        folder: where commands run.
        environment: variables that commands inherit; None: those of the driver.
    """

    job: Job
    units: tuple[tuple[Unit, ...], ...]
    folder: Path
    environment: Mapping[str, str] | None = None

    @cached_property
    def inherited(self) -> Mapping[str, str]:
        """The variables that commands and forkservers inherit; one thread if nobody says otherwise."""
        return {"OMP_NUM_THREADS": "1", **(os.environ if self.environment is None else self.environment)}


def unit_name(task: Task, member: int) -> str:
    """Name of a member: task, or task[3] for an array task."""
    return f"{task.name}[{member}]" if task.array > 1 else task.name


def work_of(workflow: Workflow, *, stamped: bool = True) -> Work:
    """What a workflow means on this machine, now.

    Args:
        stamped: the digests depend on the present state of its source files; otherwise on what the workflow says alone.
    """
    names = {task.name: tuple(unit_name(task, m) for m in range(task.array)) for task in workflow.job.tasks}
    imports = cache(lambda module: heavy_imports(module, workflow.folder))
    units = []
    for task, command in zip(workflow.job.tasks, workflow.commands, strict=True):
        needs = tuple(name for need in task.needs for name in names[need])
        stamps = list(_stamps(command.sources, workflow.folder)) if stamped else []
        preload: tuple[str, ...] = ()
        if command.python is not None:
            named = command.preload
            preload = imports(command.python.partition(":")[0]) if named is None else named
        units.append(
            tuple(
                _unit(name, command.for_member(member), workflow.folder, stamps, needs, preload)
                for member, name in enumerate(names[task.name])
            )
        )
    return Work(workflow.job, tuple(units), workflow.folder)


def _unit(
    name: str,
    command: Command,
    folder: Path,
    stamps: list[object],
    needs: tuple[str, ...],
    preload: tuple[str, ...],
) -> Unit:
    if command.run is not None:
        argv: tuple[str, ...] = ("bash", "-eo", "pipefail", "-c", command.run)
    else:
        assert command.python is not None
        arguments = json.dumps(command.args)
        argv = (sys.executable, "-m", "rlsched.executor.call", command.python, arguments)
    paths = [[os.path.relpath(path, folder) for path in paths] for paths in (command.inputs, command.outputs)]
    what = [command.run, command.python, command.args, command.env, paths, stamps]
    return Unit(
        name,
        argv,
        command.env,
        command.timeout,
        command.outputs,
        digest=hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16],
        needs=needs,
        preload=preload,
        is_function=command.python is not None,
        request=0 if command.preempt_signal is None else signal.Signals[command.preempt_signal],
        grace=command.grace,
    )


def _stamps(sources: Sequence[Path], folder: Path) -> Iterator[object]:
    """Name, size and time of last change of every source file; what a folder holds counts file by file."""
    for source in sources:
        for path in sorted(p for p in source.rglob("*") if p.is_file()) if source.is_dir() else [source]:
            if path.exists():
                stat = path.stat()
                yield os.path.relpath(path, folder), stat.st_size, stat.st_mtime_ns
