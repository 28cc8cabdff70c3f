"""A schedule as a Chrome trace: open it in ui.perfetto.dev or chrome://tracing.

The file is the JSON object format of Chrome's "Trace Event Format". Slices of one thread must not overlap by the
smallest amount, or Perfetto drops them: start and end are rounded to whole microseconds, each by itself, so that what
touches still touches.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlsched.report.lanes import Bar, active_jobs, bars_of, lane_counts, steps
from rlsched.schedule import Outcome, Schedule


def write_trace(schedule: Schedule, path: str | os.PathLike[str]) -> None:
    """Write the schedule as a Chrome trace.

    Every node is a process and every GPU a thread of it; tasks without GPUs have threads below. A process `cluster`
    holds the counters: active jobs, ready tasks that wait (members), and GPUs in use.

    Raises:
        OSError: the file cannot be written.
    """
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        file.write('{"displayTimeUnit": "ms", "traceEvents": [')
        for number, event in enumerate(_events(schedule)):
            file.write((",\n" if number else "\n") + json.dumps(event))
        file.write("\n]}\n")


def _events(schedule: Schedule) -> Iterator[dict[str, Any]]:
    bars = bars_of(schedule)
    nodes = schedule.cluster.nodes
    counts = lane_counts(schedule, bars)
    # No thread may bear its process's number: Perfetto would take it for the main thread. Process 0 is the idle one.
    first_thread = [len(nodes) + 2 + sum(counts[:index]) for index in range(len(nodes))]
    yield from _name("process", 1, 0, "cluster", 0)
    for index, node in enumerate(nodes):
        yield from _name("process", index + 2, 0, node.name, index + 1)
        for lane in range(counts[index]):
            name = f"GPU {lane} ({node.gpu_type})" if lane < node.gpus else f"CPU {lane - node.gpus}"
            yield from _name("thread", index + 2, first_thread[index] + lane, name, lane)
    for bar in bars:
        slice_ = _slice(schedule, bar)
        for lane in bar.lanes:
            yield {**slice_, "pid": bar.node + 2, "tid": first_thread[bar.node] + lane}
    ready = [change for run in schedule.runs for change in ((run.ready_at, 1), (run.start, -1))]
    held = [(bar.run, sum(lane < nodes[bar.node].gpus for lane in bar.lanes)) for bar in bars]
    in_use = [change for run, gpus in held for change in ((run.start, gpus), (run.end, -gpus))]
    for name, changes in (("active jobs", active_jobs(schedule)), ("ready tasks", ready), ("GPUs in use", in_use)):
        for time, value in zip(*steps(changes), strict=True):
            yield {"name": name, "ph": "C", "ts": _microseconds(time), "pid": 1, "tid": 0, "args": {"value": value}}


def _name(kind: str, pid: int, tid: int, name: str, order: int) -> Iterator[dict[str, Any]]:
    yield {"name": f"{kind}_name", "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}
    yield {"name": f"{kind}_sort_index", "ph": "M", "pid": pid, "tid": tid, "args": {"sort_index": order}}


def _slice(schedule: Schedule, bar: Bar) -> dict[str, Any]:
    run = bar.run
    start, end = _microseconds(run.start), _microseconds(run.end)
    name = schedule.name_of(run)
    return {
        "name": name if run.outcome is Outcome.FINISHED else f"{name} ({run.outcome})",
        "cat": str(run.outcome),
        "ph": "X",
        "ts": start,
        "dur": end - start,
        "args": {
            "job": run.member.job,
            "mode": run.mode,
            "gpus": schedule.mode_of(run).gpus,
            "nodes": len(run.shares),
            "waited_s": run.start - run.ready_at,
            "outcome": str(run.outcome),
        },
    }


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)
