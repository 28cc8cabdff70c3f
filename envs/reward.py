"""What an objective costs per second, as the reward's source."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rlsched.active import JobState
from rlsched.model import Cluster, Job

Reward = Callable[[Sequence[JobState], float, float], float]
"""(active jobs, from, to) -> cost of that stretch of time, in units of the workload's mean critical path."""


def make_reward(objective: str, jobs: Sequence[Job], cluster: Cluster) -> Reward:
    """The cost rate of an objective on one workload.

    Summed over an episode: for mean_jct the mean job completion time (by Little's law the integral of the number of
    jobs in the system, divided by the number of jobs); for weighted_tardiness the mean over jobs of weight x time past
    the deadline; for makespan the time until the end; for finish-time fairness, of which the metric is the worst job's,
    the mean of job completion time / critical path, which has a rate. The first two in units of the workload's mean
    critical path, the makespan in units of the larger of that and the total work / GPUs.

    Raises:
        ValueError: an unknown objective.
    """
    critical_path = sum(job.critical_path for job in jobs) / len(jobs)
    per_job = 1.0 / (critical_path * len(jobs))
    if objective == "mean_jct":
        return lambda active, start, end: (end - start) * len(active) * per_job
    if objective == "makespan":
        ideal = max(critical_path, sum(job.least_work for job in jobs) / max(1, cluster.gpu_count()))
        return lambda active, start, end: (end - start) / ideal
    if objective == "weighted_tardiness":
        return lambda active, start, end: (
            per_job
            * sum(
                job.job.weight * max(0.0, end - max(start, job.job.deadline))
                for job in active
                if job.job.deadline is not None
            )
        )
    if objective == "finish_time_fairness":
        return lambda active, start, end: (end - start) * sum(1.0 / job.job.critical_path for job in active) / len(jobs)
    raise ValueError(f"unknown objective {objective!r}")
