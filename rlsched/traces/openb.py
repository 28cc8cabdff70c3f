"""Alibaba's heterogeneous GPU cluster `openb` (Weng et al., USENIX ATC 2023): machines by GPU model, and pods.

A pod is a job of one task, released at its creation, that takes `deletion - scheduled` seconds. Where it asks for a
part of a GPU (`gpu_milli`) it gets a whole one, and part of a core counts as a core. Pods that never ran are left out.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path

from rlsched.model import Job, Mode, Task
from rlsched.scenariofile import ClusterEntry, NodesEntry
from rlsched.traces.records import Record, read_csv
from rlsched.traces.trace import Trace, TraceError, Wish, as_name, machines

NODES = "openb_node_list_gpu_node.csv"
_NODE_COLUMNS = ("model", "gpu", "cpu_milli", "memory_mib")
_POD_COLUMNS = ("name", "cpu_milli", "memory_mib", "num_gpu", "gpu_spec", "creation_time", "deletion_time")


def read(path: Path, wish: Wish) -> Trace:
    """The pods of a list, in order of creation, on the machines of the list beside it."""
    left_out: Counter[str] = Counter()
    pods = (_job(record, left_out) for record in read_csv(path, (*_POD_COLUMNS, "scheduled_time")))
    jobs = sorted((job for job in pods if job is not None), key=lambda job: job.release)  # the list is not in order
    return Trace(wish.cluster or _machines(wish.companion or path.with_name(NODES)), jobs, left_out=left_out)


def _machines(file: Path) -> ClusterEntry:
    """The machines, those that are alike together."""
    if not file.is_file():
        raise TraceError(f"{file}: expected the list of machines, found none; name it with --with, or use --cluster")
    alike = Counter(
        (row["model"], row.count("gpu"), row.count("cpu_milli"), row.count("memory_mib"))
        for row in read_csv(file, _NODE_COLUMNS)
    )
    number = itertools.count(1)
    return machines(
        *(
            NodesEntry(
                name=as_name(f"{model}-{next(number)}"),
                count=count,
                gpus=gpus,
                gpu_type=as_name(model) if gpus else "gpu",
                cpus=milli // 1000,
                memory=mib / 1024,
            )
            for (model, gpus, milli, mib), count in alike.items()
        )
    )


def _job(record: Record, left_out: Counter[str]) -> Job | None:
    created, deleted = record.number("creation_time"), record.number("deletion_time")
    if not record["scheduled_time"]:
        left_out["never scheduled"] += 1
        return None
    if (duration := deleted - record.number("scheduled_time")) <= 0:
        left_out["deleted at once"] += 1
        return None
    gpus = record.count("num_gpu")
    models = record["gpu_spec"].split("|") if gpus and record["gpu_spec"] else [None]
    cpus, memory = math.ceil(record.number("cpu_milli", 0) / 1000), record.number("memory_mib", 0) / 1024
    modes = tuple(
        Mode(duration, gpus=gpus, gpu_type=model and as_name(model), cpus=cpus, memory=memory) for model in models
    )
    return Job(as_name(record["name"]), (Task("pod", modes),), created)
