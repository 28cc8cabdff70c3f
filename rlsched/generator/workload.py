"""What a generated workload is made of: the fields under `workload:` in a scenario file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from rlsched.document import Location, Strict, did_you_mean, expected
from rlsched.generator.fields import AboveZero, Count, Flag, Name, NotNegative, Positive, Range, some
from rlsched.generator.kinds import KINDS, Layers, Project, Shape, Stage

HOUR = 3600.0


class WorkloadError(ValueError):
    """A workload that cannot be drawn. `location` is the field, from the workload down."""

    def __init__(self, location: Location, message: str) -> None:
        super().__init__(f"{'.'.join(map(str, location))}: {message}")
        self.location = location
        self.message = message


class Kind(Strict):
    """A share of the jobs; without `stages`, `layers` or `project`, the kind of that name that comes with rlsched."""

    weight: AboveZero
    """How often the kind is drawn, relative to the others."""
    stages: Annotated[dict[Name, Stage], some(Mapping, "a mapping of stages")] | None = None
    """A kind of your own: its stages, in an order in which they may run."""
    layers: Layers | None = None
    """A kind of your own: a random layered DAG."""
    project: Project | None = None
    """A kind of your own: activities that share custom resources."""


class Speed(Strict):
    """How fast GPUs of a type are, relative to speed 1."""

    range: Range
    """Every task draws its own speed on this type, uniformly from [least, most]."""
    nominal: AboveZero | None = None
    """What a GPU of the type counts for in the cluster's capacity; by default the middle of the range."""

    @property
    def capacity(self) -> float:
        return sum(self.range) / 2 if self.nominal is None else self.nominal


_UNIT_SPEED = Speed(range=(1.0, 1.0))


class Size(Strict):
    """The size of a job, min(LN(spread), most), a factor on the work of its tasks."""

    spread: NotNegative = 1.0
    """Sigma of the log-normal draw of mean 1: the larger, the heavier the tail."""
    most: AboveZero = 8.0
    """Largest size."""


class Bursts(Strict):
    """Arrivals in bursts: a Poisson process that alternates between calm and burst (a Markov-modulated one)."""

    intensity: Annotated[float, Field(strict=True, ge=1), expected("a number of 1 or more")] = 10.0
    """Rate of arrival in a burst, relative to the rate in the calm."""
    burst_hours: AboveZero = 1.0
    """Mean length of a burst."""
    calm_hours: AboveZero = 9.0
    """Mean length of the calm between two."""


def _weight(value: Any) -> Any:
    return {"weight": value} if isinstance(value, int | float) else _mapping(value, "a weight")


def _constant_speed(value: Any) -> Any:
    return {"range": (value, value)} if isinstance(value, int | float) else _mapping(value, "a speed")


def _mapping(value: Any, or_else: str) -> Any:
    if not isinstance(value, Mapping | Strict):
        raise PydanticCustomError("expected", "expected {what} or a mapping", {"what": or_else})
    return value


_KindOrWeight = Annotated[Kind, BeforeValidator(_weight, json_schema_input_type=float | Kind)]
_SpeedOrNumber = Annotated[Speed, BeforeValidator(_constant_speed, json_schema_input_type=float | Speed)]


_DEFAULT_KINDS = {
    "sweep": Kind(weight=0.45),
    "layered": Kind(weight=0.25),
    "pretrain_finetune": Kind(weight=0.30),
}


class Workload(Strict):
    """Jobs drawn from a seed."""

    jobs: Positive = 100
    """Jobs in an episode."""
    load: AboveZero | None = None
    """Work that arrives / capacity of the cluster; left out: all jobs are released at 0."""
    bursts: Bursts | None = None
    """Arrivals in bursts; left out: a Poisson process."""
    kinds: Annotated[Mapping[Name, _KindOrWeight], some(Mapping, "a mapping of kinds")] = _DEFAULT_KINDS
    """The kinds of job: a weight for one that comes with rlsched, or {weight, stages}, {weight, layers} or
    {weight, project}."""
    speeds: Mapping[Name, _SpeedOrNumber] = Field(default_factory=dict)
    """Speed of each GPU type: a number, or {range, nominal}; a type that is left out has speed 1."""
    size: Size = Size()
    """How the sizes of jobs are distributed."""
    overhead: Range = (0.02, 0.4)
    """A task's overhead a is log-uniform on this range: its speed on c GPUs is c / (1 + a (c - 1))."""
    arrays: Flag = False
    """Whether copies that are alike form one array task of identical members."""
    setup_time: NotNegative = 0.0
    """Seconds a device needs first when it takes a task of another job."""
    preemptible: Flag = False
    """Whether GPU tasks may be stopped and resumed."""
    checkpoint_time: NotNegative = 0.0
    """Seconds to write a checkpoint, and again to load it."""
    retries: Count = 0
    """Attempts beyond the first after a failure."""
    weights: Annotated[tuple[AboveZero, ...], Field(min_length=1), expected("a list of numbers above 0")] = (1.0,)
    """Weights of jobs, drawn uniformly from this list."""
    slack: Range | None = None
    """Deadlines: release + critical path x a factor drawn uniformly from this range; left out: none."""

    def speed(self, gpu_type: str) -> Speed:
        """Speed of a GPU type; 1 for one that is not mentioned."""
        return self.speeds.get(gpu_type, _UNIT_SPEED)

    @cached_property
    def shapes(self) -> Mapping[str, Shape]:
        """The stages or layers of every kind.

        Raises:
            WorkloadError: a kind is neither described nor one that comes with rlsched, or a stage names one that is
                not before it.
        """
        return {name: self._shape(name, kind) for name, kind in self.kinds.items()}

    def _shape(self, name: str, kind: Kind) -> Shape:
        where = ("kinds", name)
        own = [field for field in ("stages", "layers", "project") if getattr(kind, field) is not None]
        if len(own) > 1:
            raise WorkloadError((*where, own[1]), f"expected either {own[0]} or {own[1]}, found both")
        if kind.layers is not None:
            return kind.layers
        if kind.project is not None:
            return kind.project
        if kind.stages is None:
            if name not in KINDS:
                raise WorkloadError(
                    where, f"unknown kind without stages, layers or project of its own, {did_you_mean(name, KINDS)}"
                )
            return KINDS[name]
        before: list[str] = []
        for stage_name, stage in kind.stages.items():
            for field, names in (("needs", stage.needs), ("each", (stage.each,) if stage.each else ())):
                if unknown := [need for need in names if need not in before]:
                    hint = f", {did_you_mean(unknown[0], before)}" if before else "; it is the first"
                    message = f"found {unknown[0]!r}, which is not a stage before it{hint}"
                    raise WorkloadError((*where, "stages", stage_name, field), message)
            before.append(stage_name)
        if not any(stage.probability == 1 and not stage.each for stage in kind.stages.values()):
            raise WorkloadError((*where, "stages"), "expected a stage that every job has, found none of probability 1")
        return kind.stages
