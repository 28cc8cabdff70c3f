"""The rows of a timeline: one for every GPU, and as many more on a node as it ran tasks without GPUs at a time."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from rlsched.schedule import Schedule, TaskRun


@dataclass(frozen=True, slots=True)
class Bar:
    """What a run occupies on one node. Lanes 0 to gpus - 1 are the node's GPUs, those above hold tasks without."""

    run: TaskRun
    node: int
    lanes: tuple[int, ...]


def bars_of(schedule: Schedule) -> list[Bar]:
    """The bars of every run, in order of start. No two bars overlap on a lane."""
    bars: list[Bar] = []
    free: defaultdict[int, list[int]] = defaultdict(list)  # by node: lanes that have been used and are free again
    busy: defaultdict[int, list[tuple[float, int]]] = defaultdict(list)  # by node: (end, lane)
    for run in sorted(schedule.runs, key=lambda run: (run.start, run.end)):
        for node, gpus in run.shares:
            if gpus:
                bars.append(Bar(run, node, gpus))
                continue
            while busy[node] and busy[node][0][0] <= run.start:
                heapq.heappush(free[node], heapq.heappop(busy[node])[1])
            new = schedule.cluster.nodes[node].gpus + len(busy[node])
            lane = heapq.heappop(free[node]) if free[node] else new
            heapq.heappush(busy[node], (run.end, lane))
            bars.append(Bar(run, node, (lane,)))
    return bars


def lane_counts(schedule: Schedule, bars: Sequence[Bar]) -> list[int]:
    """Number of lanes of each node: its GPUs, and what the bars use beyond them."""
    counts = [node.gpus for node in schedule.cluster.nodes]
    for bar in bars:
        counts[bar.node] = max(counts[bar.node], max(bar.lanes) + 1)
    return counts


def steps(changes: Sequence[tuple[float, int]]) -> tuple[list[float], list[int]]:
    """Times and values of a count that changes by (time, amount); one value for each instant."""
    times: list[float] = []
    values: list[int] = []
    value = 0
    for time, change in sorted(changes):
        value += change
        if times and times[-1] == time:
            values[-1] = value
        else:
            times.append(time)
            values.append(value)
    return times, values


def active_jobs(schedule: Schedule) -> list[tuple[float, int]]:
    """(time, change) of the number of jobs in the system. A failed job leaves with its last run."""
    last_end: defaultdict[int, float] = defaultdict(lambda: schedule.end)
    for run in schedule.runs:  # in order of end
        last_end[run.member.job] = run.end
    changes = []
    for record in schedule.jobs.values():
        left = record.completion
        if left is None:
            left = last_end[record.id] if record.failed else schedule.end
        changes += [(record.job.release, 1), (left, -1)]
    return changes
