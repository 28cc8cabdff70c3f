"""From a trace in somebody's format to a workload file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import islice
from pathlib import Path

from rlsched.document import did_you_mean
from rlsched.model import Job
from rlsched.traces.trace import Trace, TraceError, Wish
from rlsched.workloadfile import Arrivals, Contents, Header, write_workload

FORMATS = {
    "tpch": "TPC-H stage DAGs measured on Spark: a tpch-*.json file, or a folder of them",
    "gavel": "a .trace file of Gavel, with simulation_throughputs.json beside it",
    "philly": "jobs of Microsoft's Philly cluster: a CSV file",
    "openb": "pods of Alibaba's openb: a CSV file, with the list of machines beside it",
    "wfformat": "a scientific workflow in WfFormat 1.5 or 1.6: a JSON file, or a folder of them",
    "psplib": "an instance of PSPLIB: a .rcp or .sm file",
    "swf": "a log in the Standard Workload Format",
}
"""What can be imported; a format's module in this package bears its name."""


@dataclass(frozen=True)
class Imported:
    """What became of a trace."""

    header: Header
    contents: Contents
    left_out: dict[str, int]


def read_trace(kind: str, path: Path, wish: Wish | None = None) -> Trace:
    """A trace in one of `FORMATS`.

    Raises:
        TraceError: no such format, or the first thing that is wrong with the file; with its jobs, once they are read.
    """
    if kind not in FORMATS:
        raise TraceError(f"unknown format {kind!r}, {did_you_mean(kind, FORMATS)}")
    trace: Trace = import_module(f"rlsched.traces.{kind}").read(path, wish or Wish())
    return trace


def import_trace(
    kind: str,
    path: Path,
    workload: Path,
    wish: Wish | None = None,
    *,
    skip: int = 0,
    jobs: int | None = None,
    mean_gap: float | None = None,
    watch: Callable[[Iterable[Job]], Iterable[Job]] = iter,
) -> Imported:
    """Write a workload file.

    Args:
        kind: one of `FORMATS`.
        workload: the file to write.
        skip: leave out so many of the first jobs; time 0 is when the first of the rest is released.
        jobs: take so many; where jobs are drawn: draw so many.
        mean_gap: draw jobs anew for each seed, so many seconds apart on average; None: as is usual for the format.
        watch: is handed the jobs and hands them on, for showing progress.

    Raises:
        TraceError: what is wrong with the trace, or with what was asked for.
        WorkloadFileError: the workload cannot be written under that name, or a job does not fit the cluster.
    """
    trace = read_trace(kind, path, wish)
    arrivals = trace.arrivals
    if mean_gap is not None:
        if mean_gap <= 0:
            raise TraceError(f"expected a mean gap above 0, found {mean_gap:g}")
        arrivals = Arrivals(jobs=arrivals.jobs if arrivals else 100, mean_gap=mean_gap)
    if arrivals is not None and jobs is not None:
        arrivals = arrivals.model_copy(update={"jobs": jobs})
    header = Header(source=f"{kind} {path.name}", objective=trace.objective, cluster=trace.cluster, arrivals=arrivals)
    kept = islice(trace.jobs, skip, None if jobs is None or arrivals is not None else skip + jobs)
    contents = write_workload(workload, header, watch(_from_zero(kept)))
    return Imported(header, contents, {why: count for why, count in trace.left_out.items() if count})


def _from_zero(jobs: Iterable[Job]) -> Iterator[Job]:
    """The same jobs on a clock on which the first is released at 0."""
    start: float | None = None
    for job in jobs:
        start = job.release if start is None else start
        if start:
            deadline = None if job.deadline is None else job.deadline - start
            job = replace(job, release=job.release - start, deadline=deadline)
        yield job
