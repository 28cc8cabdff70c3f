"""What may stand in a scenario file: the pydantic models, and the JSON Schema for editors that follows from them.

python -m rlsched.scenariofile > rlsched/schemas/scenario.schema.json
"""

from __future__ import annotations

import json
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from rlsched.document import Strict, expected
from rlsched.generator.fields import (
    AboveZero,
    Count,
    Flag,
    Name,
    Names,
    NotNegative,
    Number,
    Positive,
    Resources,
    Text,
    some,
)
from rlsched.generator.workload import Workload
from rlsched.model import Cluster, Mode, Node, Task
from rlsched.simulator import HOUR, Uncertainty

Objective = Literal["mean_jct", "makespan", "weighted_tardiness", "finish_time_fairness"]


class NodesEntry(Strict):
    """One machine, or several of the same sort."""

    name: Name
    """Name of the machine; with a count above 1, its beginning."""
    count: Positive = 1
    """How many machines like this there are."""
    gpus: Count = 0
    """GPUs of each machine."""
    gpu_type: Name = "gpu"
    """Type of its GPUs."""
    gpu_memory: NotNegative = 0.0
    """GiB of each GPU."""
    cpus: Count = 0
    """CPU cores."""
    memory: NotNegative = 0.0
    """GiB of main memory."""
    resources: Resources = Field(default_factory=dict)
    """Named custom resources: licences, slots, bandwidth, ..."""

    def nodes(self) -> list[Node]:
        """The machines, numbered from 1 where there are several."""
        names = [self.name] if self.count == 1 else [f"{self.name}-{i}" for i in range(1, self.count + 1)]
        fields = {name: getattr(self, name) for name in type(self).model_fields if name not in ("name", "count")}
        return [Node(name, **fields) for name in names]


class ClusterEntry(Strict):
    """The machines."""

    nodes: Annotated[tuple[NodesEntry, ...], some(list, "a list of machines")]
    """Machines, or groups of machines."""
    span_speed: Annotated[float, Field(strict=True, gt=0, le=1), expected("a number above 0, at most 1")] = 1.0
    """Speed of a gang that spans several machines, relative to the same gang on one."""

    def cluster(self) -> Cluster:
        """The cluster.

        Raises:
            ValueError: two machines have the same name.
        """
        return Cluster(tuple(node for entry in self.nodes for node in entry.nodes()), self.span_speed)


class Takes(Strict):
    """What a task takes while it runs."""

    gpus: Count = 0
    """GPUs, all of one type, that start together."""
    gpu_type: Name | None = None
    """GPU type; left out: any."""
    gpu_memory: NotNegative = 0.0
    """GiB that each GPU must have."""
    cpus: Count = 0
    """CPU cores on each machine."""
    memory: NotNegative = 0.0
    """GiB of main memory on each machine."""
    resources: Resources = Field(default_factory=dict)
    """Named custom resources on each machine."""

    def mode(self, duration: float) -> Mode:
        """A way to run a task: with these, in so many seconds."""
        return Mode(duration, **{name: getattr(self, name) for name in Takes.model_fields})


class ModeEntry(Takes):
    """One way to run a task."""

    duration: AboveZero
    """Estimated seconds."""


class TaskEntry(Takes):
    """A task with one way to run it; or with several, of which the scheduler chooses, under `modes`."""

    duration: AboveZero | None = None
    """Estimated seconds."""
    modes: Annotated[tuple[ModeEntry, ...], some(list, "a list of modes")] | None = None
    """The ways to run it, instead of a duration and what it takes."""
    needs: Names = ()
    """Tasks that must have finished first."""
    array: Positive = 1
    """Number of identical members."""
    preemptible: Flag = False
    """Whether it may be stopped and resumed from a checkpoint."""
    priority: Number = 0.0
    """Larger is more urgent."""
    retries: Count = 0
    """Attempts beyond the first after a failure."""
    setup_time: NotNegative = 0.0
    """Seconds a device needs first when it takes the task after one of another job."""
    checkpoint_time: NotNegative = 0.0
    """Seconds to write a checkpoint when stopped, and again to load it."""

    def task(self, name: str) -> Task:
        """The task.

        Raises:
            ValueError: it has neither a duration nor modes, or both.
        """
        if self.modes is None:
            if self.duration is None:
                raise ValueError("expected a duration or modes, found neither")
            modes: tuple[Mode, ...] = (self.mode(self.duration),)
        else:
            if beside := self.model_fields_set & {"duration", *Takes.model_fields}:
                raise ValueError(f"expected either modes or {min(beside)}, found both")
            modes = tuple(entry.mode(entry.duration) for entry in self.modes)
        own = ("needs", "array", "preemptible", "priority", "retries", "setup_time", "checkpoint_time")
        return Task(name, modes, **{field: getattr(self, field) for field in own})


class JobEntry(Strict):
    """A job written by hand."""

    name: Name
    """Name of the job."""
    release: NotNegative = 0.0
    """Time of arrival in seconds."""
    weight: AboveZero = 1.0
    """Relative importance."""
    deadline: NotNegative | None = None
    """Deadline in seconds, on the same clock as `release`."""
    tasks: Annotated[dict[Name, TaskEntry], some(dict, "a mapping of tasks")]
    """The tasks by name."""


class UncertaintyEntry(Strict):
    """How reality departs from the estimates."""

    duration_noise: NotNegative = 0.0
    """Sigma of the log-normal factor (mean 1) between estimated and true duration of a task."""
    failures_per_hour: NotNegative = 0.0
    """Rate at which a running task fails."""
    node_losses_per_hour: NotNegative = 0.0
    """Rate at which each machine is lost, and with it what runs there."""
    device_losses_per_hour: NotNegative = 0.0
    """Rate at which each GPU is lost, and with it what runs on it."""
    repair_time: NotNegative = HOUR
    """Seconds until a lost machine or GPU is back."""

    def uncertainty(self) -> Uncertainty:
        return Uncertainty(**dict(self))


class Seeds(Strict):
    """Where the seeds for each purpose start. Those for training go on until those for validation start, and so on."""

    train: Count = 0
    """First seed to learn and to tune on."""
    validation: Count = 100_000_000
    """First seed to choose among what was learned on."""
    report: Count = 200_000_000
    """First seed to report results on; the range has no end."""

    @model_validator(mode="after")
    def _ascend(self) -> Self:
        if not self.train < self.validation < self.report:
            raise PydanticCustomError("order", "expected train, validation and report in ascending order")
        return self


class ScenarioFile(Strict):
    """A cluster, what is to run on it, what counts, and the seeds to train and to report on."""

    description: Text | None = None
    """One sentence for people."""
    objective: Annotated[Objective, expected("mean_jct, makespan, weighted_tardiness or finish_time_fairness")] = (
        "mean_jct"
    )
    """What a schedule should make small."""
    cluster: ClusterEntry
    """The machines."""
    workload: Workload | None = None
    """Jobs drawn anew for every seed; either this or `jobs`."""
    jobs: Annotated[tuple[JobEntry, ...], some(list, "a list of jobs")] | None = None
    """Jobs written by hand, the same for every seed; either this or `workload`."""
    preemption: Flag = False
    """Whether a learning policy may stop what runs, where tasks are preemptible."""
    uncertainty: UncertaintyEntry = UncertaintyEntry()
    """How reality departs from the estimates."""
    seeds: Seeds = Seeds()
    """Seeds for training, validation and report, so that nothing is reported on what it was trained on."""


def json_schema() -> str:
    """The JSON Schema of a scenario file, as text."""
    return json.dumps(ScenarioFile.model_json_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(json_schema(), end="")
