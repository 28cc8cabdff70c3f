"""What a workflow file means: a job for the scheduler, and for each of its tasks the command to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rlsched.model import Job

ARRAY_INDEX = "${array.index}"


class WorkflowError(ValueError):
    """One sentence about a workflow file: where in it, what was expected, what was found."""


@dataclass(frozen=True)
class Command:
    """What one task does.

    Attributes:
        run: shell command; None if the task is a Python function.
        python: "package.module:function"; None if the task is a shell command.
        args: JSON values, the keyword arguments of the function.
        env: environment variables on top of those of the parent process.
        preload: modules to have imported before the function's process is forked; None: what its module imports.
        timeout: seconds an attempt may take; None: no limit.
        preempt_signal: name of the signal that asks it to stop; None: none does, only the file.
        grace: seconds that it has then; None: the executor's own.
        inputs, outputs: absolute paths of files or folders. Those of an array's members have ${array.index} in them.
        sources: those of the inputs, of all members, that no task writes.
        line: where the task stands in the workflow file.
    """

    run: str | None
    python: str | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    preload: tuple[str, ...] | None = None
    timeout: float | None = None
    preempt_signal: str | None = "SIGTERM"
    grace: float | None = None
    inputs: tuple[Path, ...] = ()
    outputs: tuple[Path, ...] = ()
    sources: tuple[Path, ...] = ()
    line: int = 1

    def for_member(self, index: int) -> Command:
        """The command of one member of an array task: ${array.index} is `index`, counted from 0."""

        def fill(value: Any) -> Any:
            match value:
                case str():
                    return index if value == ARRAY_INDEX else value.replace(ARRAY_INDEX, str(index))
                case Path():
                    return Path(str(value).replace(ARRAY_INDEX, str(index)))
                case dict():
                    return {key: fill(inner) for key, inner in value.items()}
                case list() | tuple():
                    return type(value)(map(fill, value))
            return value

        env = {key: value.replace(ARRAY_INDEX, str(index)) for key, value in self.env.items()}
        return replace(
            self,
            run=self.run and self.run.replace(ARRAY_INDEX, str(index)),
            args=fill(self.args),
            env=env,
            inputs=fill(self.inputs),
            outputs=fill(self.outputs),
        )


@dataclass(frozen=True)
class Workflow:
    """A workflow file, read and checked.

    Attributes:
        name: as the file gives it, or the file's own name without its suffix.
        file: the workflow file, as it was given; errors cite it.
        folder: absolute path of its folder; commands run there.
        job: the tasks as the scheduler sees them, released at 0.
        commands: what each task does; same index as `job.tasks`.
    """

    name: str
    file: Path
    folder: Path
    job: Job
    commands: tuple[Command, ...]
