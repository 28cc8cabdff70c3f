"""TPC-H queries on Spark as DAGs of stages, as measured by the authors of Decima (Mao et al., SIGCOMM 2019, sec. 7.2).

A query is a job, a stage an array task, an executor a GPU slot. Spark runs a stage in waves: an executor's first task
of a stage takes longer than those that follow (`first_wave`, `rest_wave`), and longer still on an executor that is new
to the job (`fresh`, which `first_wave` includes). A mode has one duration: the mean over the waves that the stage takes
on all executors of the cluster, without fresh ones. What the first task takes longer on an executor that is new to the
job is set-up time, and so is the move from another job. Of the numbers of executors for which times were measured, the
one nearest to the cluster's counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from rlsched.generator.fields import AboveZero, Count, Positive
from rlsched.model import Job, Mode, Task
from rlsched.scenariofile import NodesEntry
from rlsched.traces.records import Foreign, files_in, read_json
from rlsched.traces.trace import Trace, TraceError, Wish, as_name, machines
from rlsched.workloadfile import Arrivals

MOVING_TIME = 2.0
"""Seconds to move an executor to another job (Decima, sec. 7.1)."""
_EXECUTORS = machines(NodesEntry(name="spark", gpus=10, gpu_type="executor"))


class _Sample(Foreign):
    n: Positive
    mean: AboveZero


class _Waves(Foreign):
    """Milliseconds by number of executors."""

    fresh: dict[str, _Sample] = Field(default_factory=dict)
    first_wave: dict[str, _Sample]
    rest_wave: dict[str, _Sample] = Field(default_factory=dict)


class _Stage(Foreign):
    needs: tuple[Count, ...]
    tasks: Positive
    duration_ms: _Waves


class _Query(Foreign):
    stages: tuple[_Stage, ...]


def read(path: Path, wish: Wish) -> Trace:
    """All queries of one scale or, from a folder of tpch-*.json, of all; each seed draws 50, 25 s apart on average."""
    cluster = wish.cluster or _EXECUTORS
    executors = cluster.cluster().gpu_count()
    return Trace(cluster, _jobs(files_in(path, "tpch-*.json"), executors), arrivals=Arrivals(jobs=50, mean_gap=25.0))


def _jobs(files: list[Path], executors: int) -> Iterator[Job]:
    for file in files:
        for name, query in read_json(file, dict[str, _Query]).items():
            try:
                tasks = tuple(_task(number, stage, executors) for number, stage in enumerate(query.stages))
                job = Job(as_name(f"{file.stem.removeprefix('tpch-')}-{name}"), tasks)
            except ValueError as error:
                raise TraceError(f"{file}: {name}: {error}") from None
            yield job


def _task(number: int, stage: _Stage, executors: int) -> Task:
    waves = stage.duration_ms
    if not waves.first_wave:
        raise ValueError(f"stages[{number}].duration_ms.first_wave: expected at least one, found none")
    count = _nearest(waves.first_wave, executors)
    first, fresh = waves.first_wave[count], waves.fresh.get(count)
    rest = waves.rest_wave[_nearest(waves.rest_wave, executors)].mean if waves.rest_wave else first.mean
    in_first_wave = min(stage.tasks, executors)
    mean = (in_first_wave * _without(first, fresh, rest) + (stage.tasks - in_first_wave) * rest) / stage.tasks
    extra = max(0.0, (fresh or first).mean - mean)
    return Task(
        f"stage{number}",
        (Mode(mean / 1000, gpus=1),),
        needs=tuple(f"stage{need}" for need in stage.needs),
        array=stage.tasks,
        setup_time=MOVING_TIME + extra / 1000,
    )


def _without(first: _Sample, fresh: _Sample | None, rest: float) -> float:
    """Mean milliseconds of the first wave without the fresh executors; where there were no others, as in the rest."""
    if fresh is None:
        return first.mean
    others = first.n - fresh.n
    return max(rest, (first.n * first.mean - fresh.n * fresh.mean) / others) if others > 0 else rest


def _nearest(samples: dict[str, _Sample], executors: int) -> str:
    return min(samples, key=lambda count: (abs(int(count) - executors), int(count)))
