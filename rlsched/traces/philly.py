"""Jobs of Microsoft's Philly cluster (Jeon et al., USENIX ATC 2019) as a table: one line a job, in order of time.

A job is one rigid gang: `num_gpus` GPUs for `duration` seconds, released at `timestamp`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from rlsched.model import Job, Mode, Task
from rlsched.scenariofile import NodesEntry
from rlsched.traces.records import Record, read_csv
from rlsched.traces.trace import Trace, Wish, as_name, machines

_NODES = machines(NodesEntry(name="node", count=32, gpus=8))


def read(path: Path, wish: Wish) -> Trace:
    """The jobs of the table, on 32 machines of 8 GPUs."""
    return Trace(wish.cluster or _NODES, _jobs(path))


def _jobs(path: Path) -> Iterator[Job]:
    for number, record in enumerate(read_csv(path, ("timestamp", "duration", "num_gpus", "cluster")), 1):
        if (duration := record.number("duration")) <= 0:
            record.fail("duration", f"expected seconds above 0, found {record['duration']!r}")
        task = Task("train", (Mode(duration, gpus=record.count("num_gpus", 1)),))
        yield Job(as_name(f"{record['cluster']}-{number}"), (task,), _seconds(record))


def _seconds(record: Record) -> float:
    try:
        return datetime.fromisoformat(record["timestamp"]).replace(tzinfo=UTC).timestamp()
    except ValueError:
        record.fail("timestamp", f"expected a date and time like 2017-10-03 12:30:00, found {record['timestamp']!r}")
