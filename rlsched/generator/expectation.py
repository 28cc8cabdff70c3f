"""The mean work of a generated job, in closed form: the rate of arrivals at a given load follows from it.

The draws enter the work of a task as independent factors, so the mean is the product of their means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist

import numpy as np

from rlsched.generator.kinds import Layers, Project, Stage, Work
from rlsched.generator.workload import Size, Workload


def mean_job_hours(workload: Workload, most_gpus: int) -> float:
    """Mean GPU-hours of a job at its least GPU counts, on GPUs of speed 1.

    Args:
        workload: what jobs are drawn from.
        most_gpus: what GPU counts are cut to.
    """
    mean = _Mean(workload, most_gpus)
    total = sum(kind.weight for kind in workload.kinds.values())
    return sum(kind.weight / total * mean.job(name) for name, kind in workload.kinds.items())


class _Mean:
    def __init__(self, workload: Workload, most_gpus: int) -> None:
        self._workload = workload
        self._most_gpus = most_gpus
        self._size = _size(workload.size)
        least, most = workload.overhead
        self._overhead = (most - least) / math.log(most / least) if most > least else least

    def job(self, kind: str) -> float:
        shape = self._workload.shapes[kind]
        if isinstance(shape, Project):
            return 0.0  # it takes no GPU
        return self._layered(shape) if isinstance(shape, Layers) else self._staged(shape)

    def _staged(self, stages: Mapping[str, Stage]) -> float:
        copies: dict[str, float] = {}
        for name, stage in stages.items():
            copies[name] = stage.probability * (copies[stage.each] if stage.each else sum(stage.copies) / 2)
        return sum(copies[name] * self._task(stage) for name, stage in stages.items())

    def _layered(self, layers: Layers) -> float:
        task = layers.gpu_share * self._task(layers.gpu) + (1 - layers.gpu_share) * self._task(layers.cpu)
        return _layered_tasks(layers) * task

    def _task(self, work: Work) -> float:
        """GPU-hours on c GPUs are hours x (1 + a (c - 1)); c is the least count allowed."""
        total = sum(entry.weight for entry in work.count_sets)
        factor = sum(
            entry.weight / total * (1 + work.overhead * self._overhead * (min(*entry.counts, self._most_gpus) - 1))
            for entry in work.count_sets
        )
        return work.hours * factor * (self._size if work.sized else 1.0)


def _size(size: Size) -> float:
    """E[min(X, most)] for a log-normal X of mean 1."""
    if size.spread == 0:
        return min(1.0, size.most)
    normal, middle = NormalDist(), math.log(size.most) / size.spread
    return normal.cdf(middle - size.spread / 2) + size.most * normal.cdf(-middle - size.spread / 2)


def _layered_tasks(layers: Layers) -> float:
    """E[min(tasks of all layers, most)], by convolving the distribution of a layer's width."""
    least, most = layers.width
    width = np.zeros(most + 1)
    width[least:] = 1 / (most + 1 - least)
    tasks, means = np.ones(1), []
    for count in range(1, layers.layers[1] + 1):
        tasks = np.convolve(tasks, width)
        if count >= layers.layers[0]:
            means.append(float(np.minimum(np.arange(len(tasks)), layers.most) @ tasks))
    return sum(means) / len(means)
