"""Kinds of machine-learning workflow, as data: which stages a job has, and how much work they are."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field

from rlsched.document import Strict, expected
from rlsched.generator.fields import (
    AboveZero,
    Counts,
    Flag,
    Name,
    Names,
    NotNegative,
    Parts,
    Positive,
    Probability,
    Range,
)

GpuCounts = Annotated[tuple[Positive, ...], Field(min_length=1)]


class CountSet(Strict):
    """One of several sets of GPU counts that a task may allow."""

    counts: GpuCounts
    """The counts that are allowed."""
    weight: AboveZero
    """How often this set is drawn, relative to the others."""


RANDOM_COUNTS = (
    CountSet(counts=(1, 2, 4, 8), weight=0.70),
    CountSet(counts=(2, 4, 8), weight=0.15),
    CountSet(counts=(4, 8), weight=0.07),
    CountSet(counts=(1, 2), weight=0.08),
)


class Work(Strict):
    """How much work a task is, and what it may run on: hours x LN(spread), times the job's size if `sized`.

    LN(s) is a log-normal factor of mean 1 with sigma s.
    """

    hours: AboveZero
    """Mean work in hours on one GPU of speed 1, or on one core."""
    spread: NotNegative = 0.0
    """Sigma of the task's own log-normal factor."""
    sized: Flag = True
    """Whether the job's size multiplies the work."""
    gpus: Annotated[
        Literal["random"] | GpuCounts | Annotated[tuple[CountSet, ...], Field(min_length=1)] | None,
        expected("random, a list of counts such as [1, 2, 4], or a list of {counts, weight}"),
    ] = None
    """GPU counts the scheduler may choose from; left out: the task takes one core and no GPU."""
    overhead: NotNegative = 1.0
    """Factor on the drawn overhead of parallelism: 0 is perfect speed-up."""

    @cached_property
    def count_sets(self) -> tuple[CountSet, ...]:
        """The sets of GPU counts to draw from; empty for a task without GPUs."""
        if self.gpus is None:
            return ()
        if self.gpus == "random":
            return RANDOM_COUNTS
        sets = tuple(entry for entry in self.gpus if isinstance(entry, CountSet))
        return sets or (CountSet(counts=tuple(c for c in self.gpus if isinstance(c, int)), weight=1.0),)


class Stage(Work):
    """One stage of a kind of job: one task, or several alike in parallel."""

    needs: Names = ()
    """Stages before it whose tasks must all have finished; for one that a job lacks, those that it needs."""
    probability: Probability = 1.0
    """Part of the jobs that have the stage."""
    copies: Counts = (1, 1)
    """Number of tasks: a count, or [least, most] for a uniform draw."""
    each: Name | None = None
    """A stage: then there is one task for each of its tasks, which needs that one alone."""
    alike: Flag = False
    """Whether the copies share one draw of GPU counts and (within 10 %) of overhead, as the trials of a sweep do."""


class Layers(Strict):
    """A random layered DAG: each task needs some of the layer before its own."""

    layers: Counts = (2, 5)
    """Number of layers: a count, or [least, most]."""
    width: Counts = (1, 5)
    """Tasks in a layer."""
    most: Positive = 20
    """Most tasks in all."""
    needs: Counts = (1, 3)
    """Tasks of the layer before that a task needs (all of them where there are fewer)."""
    gpu_share: Probability = 0.85
    """Part of the tasks that are `gpu` tasks; the others are `cpu` tasks."""
    gpu: Work = Work(hours=1.0, spread=0.7, gpus="random")
    """A task of the first sort."""
    cpu: Work = Work(hours=0.15, spread=0.5, sized=False)
    """A task of the second sort."""


class Project(Strict):
    """A project of activities that take units of the custom resources of one machine (RCPSP), drawn as ProGen does.

    Kolisch, Sprecher & Drexl, Management Science 1995. The cluster says how many units of each resource there are, and
    it is the demands that are scaled: so one cluster serves projects of every strength.
    """

    activities: Counts = (30, 30)
    """Number of activities: a count, or [least, most]."""
    seconds: Counts = (1, 10)
    """Duration of an activity, whole seconds."""
    complexity: Range = (1.5, 2.1)
    """Network complexity NC: arcs per activity, with a dummy at the start and at the end, none of them redundant;
    fewer where there is no room for so many."""
    neighbours: Positive = 3
    """Most direct predecessors, and successors, of an activity."""
    factor: Parts = (0.25, 1.0)
    """Resource factor RF: part of the resources that an activity takes units of."""
    strength: Parts = (0.2, 1.0)
    """Resource strength RS: 0 if there are just enough units for the largest demand, 1 if for the earliest start of
    every activity."""
    demand: Counts = (1, 10)
    """Units that an activity takes of a resource, before they are scaled."""


Shape = Mapping[str, Stage] | Layers | Project


def works(shape: Shape) -> list[Work]:
    """The work of every sort of task that jobs of a shape may have, but for those of projects."""
    if isinstance(shape, Project):
        return []
    if not isinstance(shape, Layers):
        return list(shape.values())
    return [work for share, work in ((shape.gpu_share, shape.gpu), (1 - shape.gpu_share, shape.cpu)) if share]


_SWEEP: Shape = {
    "prepare": Stage(hours=0.15, spread=0.5, sized=False),
    "features": Stage(hours=0.4, spread=0.5, gpus=(1, 2), needs=("prepare",), probability=0.5),
    "train": Stage(hours=1.5, spread=0.5, gpus="random", needs=("features",), copies=(2, 8), alike=True),
    "evaluate": Stage(hours=0.3, spread=0.4, gpus=(1, 2), needs=("train",)),
    "package": Stage(hours=0.1, spread=0.4, sized=False, needs=("evaluate",)),
}

_LARGE_COUNTS = (
    CountSet(counts=(1, 2, 4, 8), weight=0.5),
    CountSet(counts=(2, 4, 8), weight=0.3),
    CountSet(counts=(4, 8), weight=0.2),
)

_PRETRAIN_FINETUNE: Shape = {
    "prepare": Stage(hours=0.2, spread=0.5, sized=False),
    "pretrain": Stage(hours=5.0, spread=0.5, gpus=_LARGE_COUNTS, overhead=0.6, needs=("prepare",)),
    "finetune": Stage(hours=1.0, spread=0.5, gpus="random", needs=("pretrain",), copies=(1, 4)),
    "evaluate": Stage(hours=0.25, spread=0.4, gpus=(1,), each="finetune"),
    "package": Stage(hours=0.1, spread=0.4, sized=False, needs=("evaluate",)),
}

_TRAIN: Shape = {
    "prepare": Stage(hours=0.15, spread=0.5, sized=False),
    "features": Stage(hours=0.3, spread=0.5, gpus=(1, 2), needs=("prepare",)),
    "train": Stage(hours=2.0, spread=0.7, gpus="random", needs=("features",)),
    "evaluate": Stage(hours=0.25, spread=0.4, gpus=(1,), needs=("train",)),
    "package": Stage(hours=0.1, spread=0.4, sized=False, needs=("evaluate",)),
}

_TUNE: Shape = {
    "prepare": Stage(hours=0.15, spread=0.5, sized=False),
    "features": Stage(hours=0.3, spread=0.5, gpus=(1, 2), needs=("prepare",)),
    "trial": Stage(hours=0.5, spread=0.3, gpus=(1, 2), needs=("features",), copies=(4, 12), alike=True),
    "select": Stage(hours=0.02, sized=False, needs=("trial",)),
    "train": Stage(hours=3.0, spread=0.5, gpus="random", needs=("select",)),
    "evaluate": Stage(hours=0.25, spread=0.4, gpus=(1,), needs=("train",)),
    "package": Stage(hours=0.1, spread=0.4, sized=False, needs=("evaluate",)),
}

KINDS: Mapping[str, Shape] = {
    "sweep": _SWEEP,
    "layered": Layers(),
    "pretrain_finetune": _PRETRAIN_FINETUNE,
    "train": _TRAIN,
    "tune": _TUNE,
    "project": Project(),
    "single": {"train": Stage(hours=2.0, spread=1.0, gpus="random")},
}
"""The kinds that a scenario can name: a sweep of parallel trainings; a random layered DAG; pre-training followed by
fine-tunings; one training from data to package; a search that selects its best trial and trains it at length; a
project of activities that share custom resources; and a training on its own."""
