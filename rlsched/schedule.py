"""Schedule: who ran where and when. It can check itself, and knows every metric."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from rlsched.model import Cluster, Job, Member, Mode, Share


class Outcome(StrEnum):
    """How a run of a member ended."""

    FINISHED = "finished"
    FAILED = "failed"
    PREEMPTED = "preempted"
    LOST = "lost"


class TaskRun(NamedTuple):
    """One stay of a member on its devices; all times in seconds."""

    member: Member
    mode: int
    shares: tuple[Share, ...]
    ready_at: float
    start: float
    end: float
    outcome: Outcome


@dataclass(slots=True)
class JobRecord:
    """What became of a job; `completion` is None while it is unfinished, and for a job that failed."""

    id: int
    job: Job
    first_start: float | None = None
    completion: float | None = None
    failed: bool = False

    @property
    def jct(self) -> float:
        """Job completion time (flow time), seconds; infinite if it did not complete."""
        return math.inf if self.completion is None else self.completion - self.job.release


@dataclass
class Schedule:
    """A record of what happened, from a simulation or a real run.

    Attributes:
        runs: in the order in which they ended.
        jobs: by id, in order of arrival.
        end: time of the last event, seconds.
    """

    cluster: Cluster
    jobs: dict[int, JobRecord] = field(default_factory=dict)
    runs: list[TaskRun] = field(default_factory=list)
    end: float = 0.0

    def mode_of(self, run: TaskRun) -> Mode:
        """The mode a run used."""
        return self.jobs[run.member.job].job.tasks[run.member.task].modes[run.mode]

    def name_of(self, run: TaskRun) -> str:
        """job/task, and the member's number for an array task."""
        job = self.jobs[run.member.job].job
        task = job.tasks[run.member.task]
        return f"{job.name}/{task.name}" + (f"[{run.member.member}]" if task.array > 1 else "")

    def check(self) -> None:
        """Verify that the schedule could have happened.

        Raises:
            ValueError: a device is held twice, a node gives more cores, memory or custom resources than it has, a
                gang is not whole, a task starts before its job's release or before what it needs has finished.
        """
        self._check_gangs_and_precedence()
        self._check_devices()
        self._check_shared_resources()

    def metrics(self) -> dict[str, float]:
        """Every metric by name, seconds unless it is a ratio or a count.

        Means and percentiles are over completed jobs; `unfinished_jobs` says how many are missing there.

        - makespan: latest completion - earliest release.
        - mean/p50/p99_jct; weighted_jct: weighted by job weight.
        - bounded_slowdown: mean of max(1, JCT / max(critical path, 10 s)) (Feitelson & Rudolph, JSSPP 1998, sec. 3.1,
          with the job's critical path as its run time).
        - queueing_delay: mean seconds from ready to start, over runs.
        - finish_time_fairness: worst rho = JCT / JCT alone on a 1/N share of the cluster, N the mean number of active
          jobs in the job's lifetime (Mahajan et al., Themis, NSDI 2020, sec. 3.1). The time alone is bounded below by
          max(critical path, least work x N / GPUs).
        - utilisation, utilisation.TYPE: GPU-seconds held / GPU-seconds there are, between first release and end.
        - deadline_misses, weighted_tardiness: of jobs with a deadline.
        """
        done = [r for r in self.jobs.values() if r.completion is not None]
        result: dict[str, float] = {
            "jobs": len(self.jobs),
            "unfinished_jobs": len(self.jobs) - len(done),
            "failed_runs": sum(run.outcome in (Outcome.FAILED, Outcome.LOST) for run in self.runs),
            "preemptions": sum(run.outcome is Outcome.PREEMPTED for run in self.runs),
        }
        first = min((r.job.release for r in self.jobs.values()), default=0.0)
        jct = np.array([r.jct for r in done]) if done else np.array([math.nan])
        weights = np.array([r.job.weight for r in done]) if done else np.ones(1)
        result["makespan"] = max((r.completion for r in done if r.completion is not None), default=math.nan) - first
        result["mean_jct"] = float(jct.mean())
        result["p50_jct"], result["p99_jct"] = (float(q) for q in np.percentile(jct, [50, 99]))
        result["weighted_jct"] = float(np.average(jct, weights=weights))
        result["bounded_slowdown"] = _mean(max(1.0, r.jct / max(r.job.critical_path, 10.0)) for r in done)
        result["queueing_delay"] = _mean(run.start - run.ready_at for run in self.runs)
        result["finish_time_fairness"] = self._worst_fairness(done)
        result |= self._utilisation(first)
        tardiness = [(r.job.weight, self._tardiness(r)) for r in self.jobs.values() if r.job.deadline is not None]
        result["deadline_misses"] = sum(t > 0 for _, t in tardiness)
        result["weighted_tardiness"] = sum(w * t for w, t in tardiness)
        return result

    def score(self, objective: str) -> float:
        """A metric that is to be small, with unfinished jobs counted as what they took until the end at least.

        A job that failed has no completion and would otherwise make mean JCT and makespan look better.
        """
        records = self.jobs.values()
        ends = [self.end if record.completion is None else record.completion for record in records]
        match objective:
            case "mean_jct":
                return _mean(end - record.job.release for end, record in zip(ends, records, strict=True))
            case "makespan":
                return max(ends) - min(record.job.release for record in records)
            case _:
                return self.metrics()[objective]

    def _tardiness(self, record: JobRecord) -> float:
        """Seconds past the deadline; an unfinished job is late until the end of the schedule at least."""
        assert record.job.deadline is not None
        completion = self.end if record.completion is None else record.completion
        late = max(0.0, completion - record.job.deadline)
        return late if record.completion is not None else max(late, 1e-9)

    def _worst_fairness(self, done: list[JobRecord]) -> float:
        if not done:
            return math.nan
        gpus = self.cluster.gpu_count()
        ends = {r.id: self.end if r.completion is None else r.completion for r in self.jobs.values()}
        changes = sorted([(r.job.release, 1) for r in self.jobs.values()] + [(end, -1) for end in ends.values()])
        times = np.array([time for time, _ in changes])
        active = np.cumsum([change for _, change in changes])
        integral = np.concatenate([[0.0], np.cumsum(active[:-1] * np.diff(times))])  # of active jobs over time
        worst = 0.0
        for record in done:
            job, end = record.job, ends[record.id]
            if end <= job.release:
                continue
            inside = np.interp([job.release, end], times, integral)
            mean_active = max(1.0, float(inside[1] - inside[0]) / (end - job.release))
            alone = max(job.critical_path, job.least_work * mean_active / gpus if gpus else 0.0)
            worst = max(worst, record.jct / alone)
        return worst

    def _utilisation(self, first: float) -> dict[str, float]:
        held: dict[str, float] = defaultdict(float)
        for run in self.runs:
            for share in run.shares:
                held[self.cluster.nodes[share.node].gpu_type] += len(share.gpus) * (run.end - run.start)
        span = max(self.end - first, 1e-9)
        result = {f"utilisation.{t}": held[t] / (span * self.cluster.gpu_count(t)) for t in self.cluster.gpu_types}
        result["utilisation"] = sum(held.values()) / (span * max(1, self.cluster.gpu_count()))
        return result

    def _check_gangs_and_precedence(self) -> None:
        finished: dict[tuple[int, int], list[float]] = defaultdict(list)
        for run in self.runs:
            mode, node_types = self.mode_of(run), {self.cluster.nodes[s.node].gpu_type for s in run.shares if s.gpus}
            if sum(len(share.gpus) for share in run.shares) != mode.gpus:
                raise ValueError(f"{self.name_of(run)}: the gang is not whole")
            if len(node_types) > 1 or (mode.gpu_type is not None and node_types - {mode.gpu_type}):
                raise ValueError(f"{self.name_of(run)}: GPUs of the wrong type")
            if run.start < self.jobs[run.member.job].job.release or run.end < run.start:
                raise ValueError(f"{self.name_of(run)}: time runs backwards")
            if run.outcome is Outcome.FINISHED:
                finished[run.member[:2]].append(run.end)
        for run in self.runs:
            job = self.jobs[run.member.job].job
            for need in job.tasks[run.member.task].needs:
                index = next(i for i, task in enumerate(job.tasks) if task.name == need)
                ends = finished[run.member.job, index]
                if len(ends) < job.tasks[index].array or max(ends) > run.start:
                    raise ValueError(f"{self.name_of(run)}: started before {need!r} had finished")

    def _check_devices(self) -> None:
        held: dict[tuple[int, int], list[TaskRun]] = defaultdict(list)
        for run in self.runs:
            for share in run.shares:
                for gpu in share.gpus:
                    held[share.node, gpu].append(run)
        for (node, gpu), runs in held.items():
            if not 0 <= gpu < self.cluster.nodes[node].gpus:
                raise ValueError(f"node {self.cluster.nodes[node].name!r} has no GPU {gpu}")
            runs.sort(key=lambda run: (run.start, run.end))
            for before, after in itertools.pairwise(runs):
                if after.start < before.end:
                    raise ValueError(
                        f"node {self.cluster.nodes[node].name!r}: GPU {gpu} is held by {self.name_of(before)} "
                        f"and {self.name_of(after)} at {after.start:g} s"
                    )

    def _check_shared_resources(self) -> None:
        changes: dict[tuple[int, str], list[tuple[float, float]]] = defaultdict(list)
        for run in self.runs:
            for share in run.shares:
                for name, amount in _amounts(self.mode_of(run)):
                    changes[share.node, name] += [(run.start, amount), (run.end, -amount)]
        for (index, name), entries in changes.items():
            node = self.cluster.nodes[index]
            limit = {"CPU": float(node.cpus), "memory": node.memory}.get(name, float(node.resources.get(name, 0)))
            held = 0.0
            for time, change in sorted(entries):  # at equal times what is given back (negative) comes first
                held += change
                if held > limit * (1 + 1e-9):
                    raise ValueError(f"node {node.name!r}: {held:g} of {limit:g} {name} taken at {time:g} s")


def _amounts(mode: Mode) -> Iterator[tuple[str, float]]:
    if mode.cpus:
        yield "CPU", float(mode.cpus)
    if mode.memory:
        yield "memory", mode.memory
    for name, amount in mode.resources.items():
        yield name, float(amount)


def _mean(values: Iterable[float]) -> float:
    collected = list(values)
    return math.fsum(collected) / len(collected) if collected else math.nan
