"""Generator: jobs from a workload, a cluster and a seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rlsched.document import did_you_mean
from rlsched.generator.arrivals import release_times
from rlsched.generator.drawing import JobDraw, pick
from rlsched.generator.expectation import mean_job_hours
from rlsched.generator.kinds import Project, works
from rlsched.generator.workload import HOUR, Workload, WorkloadError
from rlsched.model import Cluster, Job


class Generator:
    """Draws the jobs of an episode.

    Tasks, arrivals, deadlines and weights come from random streams of their own: at another load the same jobs arrive
    closer together, and an episode of fewer jobs is the beginning of the longer one.

    Attributes:
        capacity: GPUs of the cluster, each counted with the nominal speed of its type.
        job_hours: mean GPU-hours of a job at its least GPU counts, on GPUs of speed 1.
        mean_gap: mean seconds between two arrivals, job_hours / (load x capacity); 0 where all jobs are released at 0.

    Args:
        workload: what to draw.
        cluster: which GPU types the modes of tasks are for. GPU counts beyond what it has of a type are cut to that.

    Raises:
        WorkloadError: the workload contradicts itself, or does not suit the cluster.
    """

    def __init__(self, workload: Workload, cluster: Cluster) -> None:
        self.workload = workload
        self.cluster = cluster
        self._gpus = {gpu_type: cluster.gpu_count(gpu_type) for gpu_type in cluster.gpu_types}
        self._resources = _largest_resources(cluster)
        self._check()
        self.capacity = sum(count * workload.speed(gpu_type).capacity for gpu_type, count in self._gpus.items())
        self.job_hours = mean_job_hours(workload, max(self._gpus.values(), default=0))
        if workload.load is not None and not self.job_hours:
            raise WorkloadError(("load",), "expected a workload with GPU tasks, found none")
        self.mean_gap = HOUR * self.job_hours / (workload.load * self.capacity) if workload.load else 0.0
        self._latest: tuple[int, list[Job]] | None = None

    def jobs(self, seed: int) -> list[Job]:
        """The jobs of one episode, in order of release; equal seeds give equal jobs."""
        if self._latest is None or self._latest[0] != seed:
            self._latest = seed, self._draw(seed)
        return list(self._latest[1])

    def _draw(self, seed: int) -> list[Job]:
        workload = self.workload
        arrivals = release_times(_stream(seed, "arrivals"), workload.jobs, self.mean_gap, workload.bursts)
        rng, terms = _stream(seed, "tasks"), _stream(seed, "terms")
        names, weights = list(workload.kinds), [kind.weight for kind in workload.kinds.values()]
        jobs = []
        for number, release in enumerate(arrivals.tolist(), 1):
            kind = names[pick(rng, weights)]
            tasks = JobDraw(rng, workload, self._gpus, self._resources).tasks(workload.shapes[kind])
            weight = workload.weights[terms.integers(len(workload.weights))]
            job = Job(f"{kind}-{number}", tasks, release, weight)
            if workload.slack is not None:
                job = replace(job, deadline=release + job.critical_path * terms.uniform(*workload.slack))
            jobs.append(job)
        return jobs

    def _check(self) -> None:
        for gpu_type in self.workload.speeds:
            if gpu_type not in self._gpus:
                hint = did_you_mean(gpu_type, self._gpus) if self._gpus else "the cluster has no GPU"
                raise WorkloadError(("speeds", gpu_type), f"unknown GPU type, {hint}")
        if self.workload.bursts is not None and self.workload.load is None:
            raise WorkloadError(("bursts",), "expected a load beside it, found none")
        for name, shape in self.workload.shapes.items():
            if isinstance(shape, Project) and not self._resources:
                message = "expected a node with custom resources for its activities, found none"
                raise WorkloadError(("kinds", name), message)
            takes_gpus = [bool(work.count_sets) for work in works(shape)]
            if any(takes_gpus) and not self._gpus:
                raise WorkloadError(("kinds", name), "expected a cluster with GPUs for its tasks, found none")
            if not all(takes_gpus) and not any(node.cpus for node in self.cluster.nodes):
                raise WorkloadError(("kinds", name), "expected a node with cpus for its tasks without GPUs, found none")


def _largest_resources(cluster: Cluster) -> dict[str, int]:
    """Units of each custom resource on the node that has most of it."""
    largest: dict[str, int] = {}
    for node in cluster.nodes:
        for name, amount in node.resources.items():
            largest[name] = max(amount, largest.get(name, 0))
    return {name: amount for name, amount in largest.items() if amount}


def _stream(seed: int, purpose: str) -> np.random.Generator:
    """A random stream for one purpose, independent of those of the simulator and of all other seeds."""
    return np.random.default_rng([seed, *purpose.encode()])
