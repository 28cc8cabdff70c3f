"""Logs of parallel machines in the Standard Workload Format 2.2 (Feitelson, Tsafrir & Krakov, JPDC 2014).

A job is one rigid gang of processors, which are slots that policies share out like GPUs, for the time it ran. Jobs that
did not run, or whose size is not known, are left out.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rlsched.model import Job, Mode, Task
from rlsched.scenariofile import ClusterEntry, NodesEntry
from rlsched.traces.records import Record, read_lines
from rlsched.traces.trace import Trace, TraceError, Wish, machines

_FIELDS = (
    *("job number", "submit time", "wait time", "run time", "allocated processors", "average CPU time"),
    *("used memory", "requested processors", "requested time", "requested memory", "status", "user", "group"),
    *("executable", "queue", "partition", "preceding job", "think time"),
)


def read(path: Path, wish: Wish) -> Trace:
    """The jobs of a log, on one machine with as many processors as the log's header says."""
    left_out: Counter[str] = Counter()
    return Trace(wish.cluster or _machine(path), _jobs(path, left_out), left_out=left_out)


def _machine(path: Path) -> ClusterEntry:
    comments = itertools.takewhile(lambda text: text.startswith(";"), (text for _, text in read_lines(path)))
    found = (re.fullmatch(r";\s*MaxProcs:\s*([1-9][0-9]*)", text) for text in comments)
    processors = next((int(match[1]) for match in found if match), None)
    if processors is None:
        raise TraceError(f"{path}: expected '; MaxProcs: NUMBER' in the header, found none; use --cluster")
    return machines(NodesEntry(name="machine", gpus=processors, gpu_type="cpu"))


def _jobs(path: Path, left_out: Counter[str]) -> Iterator[Job]:
    for line, text in read_lines(path):
        if text.startswith(";"):
            continue
        values = text.split()
        if len(values) != len(_FIELDS):
            raise TraceError(f"{path}:{line}: expected {len(_FIELDS)} fields, found {len(values)}")
        record = Record(path, line, dict(zip(_FIELDS, values, strict=True)))
        seconds = record.number("run time")
        processors = record.count("allocated processors", -1)
        if processors <= 0:
            processors = record.count("requested processors", -1)
        if seconds <= 0 or processors <= 0:
            left_out["did not run" if seconds <= 0 else "size not known"] += 1
            continue
        task = Task("run", (Mode(seconds, gpus=processors),))
        yield Job(f"job-{record.count('job number')}", (task,), record.number("submit time"))
