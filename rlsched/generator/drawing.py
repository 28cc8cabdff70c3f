"""The tasks of one job, drawn at random from its kind."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlsched.generator.kinds import Layers, Project, Shape, Stage, Work
from rlsched.generator.projects import draw_project
from rlsched.generator.workload import HOUR, Workload
from rlsched.model import Mode, Task


def pick(rng: np.random.Generator, weights: Sequence[float]) -> int:
    """An index, drawn in proportion to the weights."""
    left = rng.random() * math.fsum(weights)
    for index, weight in enumerate(weights):
        left -= weight
        if left < 0:
            return index
    return len(weights) - 1


class _Scaling(NamedTuple):
    """How a task scales: the GPU counts it allows and its overhead of parallelism."""

    counts: tuple[int, ...]
    overhead: float


class JobDraw:
    """Draws the tasks of one job.

    Args:
        rng: where the randomness comes from.
        workload: what to draw from.
        gpus: number of GPUs of each type in the cluster.
        resources: units of each custom resource on one node.
    """

    def __init__(
        self, rng: np.random.Generator, workload: Workload, gpus: Mapping[str, int], resources: Mapping[str, int]
    ) -> None:
        self._rng = rng
        self._workload = workload
        self._gpus = gpus
        self._resources = resources
        self._size = min(self._lognormal(workload.size.spread), workload.size.most)
        self._speeds = {gpu_type: workload.speed(gpu_type).range for gpu_type in gpus}
        self._gpu_options: dict[str, Any] = {
            "setup_time": workload.setup_time,
            "preemptible": workload.preemptible,
            "checkpoint_time": workload.checkpoint_time,
        }

    def tasks(self, shape: Shape) -> tuple[Task, ...]:
        """The tasks of a job of this shape, in an order that respects their needs."""
        if isinstance(shape, Project):
            return draw_project(self._rng, shape, self._resources)
        return tuple(self._layered(shape) if isinstance(shape, Layers) else self._staged(shape))

    def _staged(self, stages: Mapping[str, Stage]) -> list[Task]:
        tasks: list[Task] = []
        drawn: dict[str, list[Task]] = {}
        ends: dict[str, tuple[str, ...]] = {}  # what has to be done before the stage counts as done
        for name, stage in stages.items():
            needs = tuple(dict.fromkeys(task for need in stage.needs for task in ends[need]))
            drawn[name] = self._stage(name, stage, needs, drawn.get(stage.each or "", []))
            tasks += drawn[name]
            inherited = (*needs, *ends[stage.each]) if stage.each else needs
            ends[name] = tuple(task.name for task in drawn[name]) or inherited
        return tasks

    def _stage(self, name: str, stage: Stage, needs: tuple[str, ...], parents: Sequence[Task]) -> list[Task]:
        if stage.probability < 1 and self._rng.random() >= stage.probability:
            return []
        scaling = self._scaling(stage) if stage.alike else None
        if stage.each:
            return [
                self._task(f"{name}:{i}", stage, (*needs, parent.name), scaling) for i, parent in enumerate(parents, 1)
            ]
        if stage.copies == (1, 1):
            return [self._task(name, stage, needs, scaling)]
        copies = self._between(stage.copies)
        if stage.alike and self._workload.arrays:
            return [self._task(name, stage, needs, scaling, copies)]
        return [self._task(f"{name}:{i}", stage, needs, scaling) for i in range(1, copies + 1)]

    def _layered(self, layers: Layers) -> list[Task]:
        tasks: list[Task] = []
        before: list[Task] = []
        for number in range(1, self._between(layers.layers) + 1):
            width = min(self._between(layers.width), layers.most - len(tasks))
            layer = [self._layered_task(f"layer{number}:{i}", layers, before) for i in range(1, width + 1)]
            tasks += layer
            before = layer or before
        return tasks

    def _layered_task(self, name: str, layers: Layers, before: Sequence[Task]) -> Task:
        needs: tuple[str, ...] = ()
        if before:
            chosen = self._rng.permutation(len(before))[: self._between(layers.needs)]
            needs = tuple(before[i].name for i in sorted(chosen.tolist()))
        return self._task(name, layers.gpu if self._rng.random() < layers.gpu_share else layers.cpu, needs)

    def _task(
        self, name: str, work: Work, needs: tuple[str, ...], alike: _Scaling | None = None, array: int = 1
    ) -> Task:
        seconds = HOUR * work.hours * self._lognormal(work.spread) * (self._size if work.sized else 1.0)
        retries = self._workload.retries
        if not work.count_sets:
            return Task(name, (Mode(seconds, cpus=1),), needs, array, retries=retries)
        if alike is None:
            scaling = self._scaling(work)
        else:
            scaling = _Scaling(alike.counts, alike.overhead * (0.9 + 0.2 * self._rng.random()))
        modes = [
            Mode(seconds / (speed * count) * (1 + scaling.overhead * (count - 1)), count, gpu_type)
            for gpu_type, total in self._gpus.items()
            for speed in [self._uniform(self._speeds[gpu_type])]
            for count in sorted({min(count, total) for count in scaling.counts})
        ]
        return Task(name, tuple(modes), needs, array, retries=retries, **self._gpu_options)

    def _scaling(self, work: Work) -> _Scaling:
        sets = work.count_sets
        if not sets:
            return _Scaling((), 0.0)
        chosen = sets[pick(self._rng, [entry.weight for entry in sets])] if len(sets) > 1 else sets[0]
        least, most = self._workload.overhead
        return _Scaling(chosen.counts, work.overhead * least * (most / least) ** self._rng.random())

    def _lognormal(self, sigma: float) -> float:
        """A factor of mean 1."""
        return math.exp(sigma * self._rng.standard_normal() - sigma * sigma / 2) if sigma else 1.0

    def _uniform(self, ends: tuple[float, float]) -> float:
        least, most = ends
        return least + (most - least) * self._rng.random() if most > least else least

    def _between(self, ends: tuple[int, int]) -> int:
        least, most = ends
        return least + int((most - least + 1) * self._rng.random())
