"""From a workflow file to a `Workflow`; whatever can be wrong in the file is found here, before anything runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NoReturn

from rlsched.document import Document, Location, did_you_mean
from rlsched.model import Cause, Job, Mode, Task
from rlsched.textfile import for_people
from rlsched.workflow.expansion import Expansion
from rlsched.workflow.files import Writers
from rlsched.workflow.schema import RetryBudgets, TaskSpec, WorkflowFile
from rlsched.workflow.workflow import ARRAY_INDEX, Command, Workflow, WorkflowError


def load_workflow(file: str | Path) -> Workflow:
    """Read and check a workflow file; nothing is run, and no other file is opened.

    Raises:
        WorkflowError: the file cannot be read, or something in it is wrong; says what, in which line and field.
    """
    return _Loader(Path(file)).workflow()


def is_workflow_file(file: str | Path) -> bool:
    """True if the file is YAML with tasks at its top; whether they are right is up to `load_workflow`."""
    try:
        data = Document(Path(file), WorkflowError).data
    except WorkflowError:
        return False
    return isinstance(data, dict) and "tasks" in data


def assumed_speed(gpus: int) -> float:
    """Speed on c GPUs relative to one, c / (1 + 0.1 (c - 1)), where a file estimates the smallest count only.

    Amdahl's law (AFIPS 1967) with a serial part of a tenth of the time on one GPU. No GPU counts as one.
    """
    return max(gpus, 1) / (1 + 0.1 * max(gpus - 1, 0))


class _Loader:
    def __init__(self, file: Path) -> None:
        self._document = Document(file, WorkflowError)
        self._expansion = Expansion(self._document)
        data = dict(self._expansion.top)
        if "tasks" in self._document.data:
            data["tasks"] = {name: task.data for name, task in self._expansion.tasks.items()}
        self._spec = self._document.validate(WorkflowFile, data, self._expansion.locate)
        self._tasks = self._spec.tasks
        self._folder = file.parent.resolve()
        self._writers = Writers()

    def workflow(self) -> Workflow:
        for name, spec in self._tasks.items():
            self._check_command(name, spec)
            self._note_outputs(name, spec)
        needs = {
            name: tuple(dict.fromkeys((*self._needs(name, spec), *self._writers_of_inputs(name, spec))))
            for name, spec in self._tasks.items()
        }
        self._check_cycle(needs)
        name = self._spec.name or for_people(self._document.file.stem)
        tasks = tuple(self._task(task, spec, needs[task]) for task, spec in self._tasks.items())
        return Workflow(
            name=name,
            file=self._document.file,
            folder=self._folder,
            job=Job(name, tasks, weight=self._spec.weight, deadline=self._spec.deadline),
            commands=tuple(self._command(task, spec) for task, spec in self._tasks.items()),
        )

    def _fail(self, task: str, field: Location, message: str) -> NoReturn:
        self._document.fail(self._expansion.locate(("tasks", task, *field)), message)

    def _check_command(self, name: str, spec: TaskSpec) -> None:
        if spec.run is None and spec.python is None:
            self._fail(name, (), "expected either run or python, found neither")
        if spec.run is not None and spec.python is not None:
            self._fail(name, ("python",), "expected either run or python, found both")
        if spec.args and spec.python is None:
            self._fail(name, ("args",), "expected args beside python only, found them beside run")
        if spec.preload is not None and spec.python is None and self._is_own(name, spec, "preload"):
            self._fail(name, ("preload",), "expected preload beside python only, found it beside run")
        if not spec.preemptible and self._is_own(name, spec, "preempt_signal"):
            self._fail(name, ("preempt_signal",), "expected a task with preemptible: true, found one without")

    def _note_outputs(self, name: str, spec: TaskSpec) -> None:
        for field, text in _texts("outputs", spec.outputs):
            for path in self._paths(text, spec.array):
                for other in self._writers.find(path):
                    if other != name:
                        self._fail(name, field, f"expected one writer of {text!r}, found {other!r} as well")
                    hint = f" (add {ARRAY_INDEX})" if spec.array > 1 and ARRAY_INDEX not in text else ""
                    self._fail(name, field, f"expected separate outputs, found {text!r} more than once{hint}")
                self._writers.add(path, name)

    def _needs(self, name: str, spec: TaskSpec) -> Iterator[str]:
        combinations = self._expansion.combinations
        for field, need in _texts("needs", spec.needs):
            if need not in self._tasks and need not in combinations:
                hint = did_you_mean(need, dict.fromkeys((*combinations, *self._tasks)))
                self._fail(name, field, f"unknown task {need!r}, {hint}")
            yield from combinations.get(need, [need])

    def _writers_of_inputs(self, name: str, spec: TaskSpec) -> Iterator[str]:
        for field, text in _texts("inputs", spec.inputs):
            for path in self._paths(text, spec.array):
                for writer in self._writers.find(path):
                    if writer == name:
                        self._fail(name, field, f"expected an input from elsewhere, found {text!r}, its own output")
                    yield writer

    def _check_cycle(self, needs: Mapping[str, tuple[str, ...]]) -> None:
        try:
            TopologicalSorter(needs).prepare()
        except CycleError as error:
            cycle: list[str] = error.args[1][1:]
            order = list(needs)
            start = cycle.index(min(cycle, key=order.index))
            path = " -> ".join((*cycle[start:], *cycle[: start + 1]))
            self._fail(cycle[start], (), f"expected no cycle, found {path} (each before the next)")

    def _task(self, name: str, spec: TaskSpec, needs: tuple[str, ...]) -> Task:
        return Task(
            name=name,
            modes=tuple(
                Mode(
                    duration=duration,
                    gpus=gpus,
                    gpu_type=gpu_type,
                    gpu_memory=spec.gpu_memory if gpus else 0.0,
                    cpus=spec.cpus,
                    memory=spec.memory,
                    resources=spec.resources,
                )
                for gpus, gpu_type, duration in self._modes(name, spec)
            ),
            needs=needs,
            array=spec.array,
            preemptible=spec.preemptible,
            priority=spec.priority,
            retries=spec.retries if isinstance(spec.retries, int) else _by_cause(spec.retries),
            setup_time=self._spec.setup_time,
            checkpoint_time=spec.checkpoint_time,
        )

    def _modes(self, name: str, spec: TaskSpec) -> list[tuple[int, str | None, float]]:
        """GPU count, GPU type and estimated seconds of every mode."""
        if isinstance(spec.duration, list):
            for field in ("gpus", "gpu_type"):
                if field in spec.model_fields_set:
                    self._fail(name, (field,), "expected it in the list under duration only, found it beside that list")
            modes = [(hint.gpus, hint.gpu_type if hint.gpus else None, hint.duration) for hint in spec.duration]
        else:
            counts = sorted(set(spec.gpus)) if isinstance(spec.gpus, list) else [spec.gpus]
            if isinstance(spec.duration, dict):
                if (hints := sorted(spec.duration)) != counts:
                    self._fail(name, ("duration",), f"expected the counts in gpus, {counts}, found {hints}")
                durations = spec.duration
            else:
                work = spec.duration * assumed_speed(counts[0])
                durations = {count: work / assumed_speed(count) for count in counts}
            types = [spec.gpu_type] if isinstance(spec.gpu_type, str | None) else spec.gpu_type
            modes = [(n, gpu_type, durations[n]) for n in counts for gpu_type in (types if n else [None])]
        if not any(gpus for gpus, _, _ in modes):
            for field in ("gpu_type", "gpu_memory"):
                if self._is_own(name, spec, field):
                    self._fail(name, (field,), "expected a task with gpus, found one without")
        return modes

    def _is_own(self, name: str, spec: TaskSpec, field: str) -> bool:
        """True if the task itself sets the field, not the defaults for all tasks."""
        return field in spec.model_fields_set and self._expansion.locate(("tasks", name, field))[0] == "tasks"

    def _command(self, name: str, spec: TaskSpec) -> Command:
        return Command(
            run=spec.run,
            python=spec.python,
            args=spec.args,
            env=spec.env,
            preload=None if spec.preload is None else tuple(spec.preload),
            timeout=spec.timeout,
            preempt_signal=_signal_of(spec),
            grace=spec.grace,
            inputs=tuple(self._path(text) for _, text in _texts("inputs", spec.inputs)),
            outputs=tuple(self._path(text) for _, text in _texts("outputs", spec.outputs)),
            sources=tuple(self._sources(spec)),
            line=self._document.line(self._expansion.locate(("tasks", name))),
        )

    def _sources(self, spec: TaskSpec) -> Iterator[Path]:
        paths = (path for _, text in _texts("inputs", spec.inputs) for path in self._paths(text, spec.array))
        return (path for path in dict.fromkeys(paths) if not self._writers.find(path))

    def _paths(self, text: str, array: int) -> Iterator[Path]:
        """The path in every member of an array."""
        return (self._path(text.replace(ARRAY_INDEX, str(member))) for member in range(array))

    def _path(self, text: str) -> Path:
        return Path(os.path.normpath(self._folder / text))


def _by_cause(budgets: RetryBudgets) -> dict[Cause, int]:
    return {cause: getattr(budgets, cause) for cause in Cause}


def _signal_of(spec: TaskSpec) -> str | None:
    """Name of the signal that asks a task to stop: one that is not preemptible can only be stopped like any process."""
    if not spec.preemptible:
        return "SIGTERM"
    return None if spec.preempt_signal == "none" else spec.preempt_signal


def _texts(field: str, value: str | list[str]) -> list[tuple[Location, str]]:
    """The texts of a field that holds one or a list, each with its location."""
    return [((field,), value)] if isinstance(value, str) else [((field, i), text) for i, text in enumerate(value)]
