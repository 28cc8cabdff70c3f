"""A job as a journal keeps it, so that the run can be played again when its workflow file has changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from rlsched.model import Cause, Cluster, Job, Mode, Node, Task

_USUAL: dict[type, dict[str, Any]] = {
    kind: {field.name: field.default for field in fields(kind) if field.init} for kind in (Job, Task, Mode)
}


def job_as_record(job: Job) -> dict[str, Any]:
    """Plain data; what has its usual value is left out."""
    tasks = [{**_plain(task), "modes": [_plain(mode) for mode in task.modes]} for task in job.tasks]
    return {**_plain(job), "tasks": tasks}


def job_of_record(record: Mapping[str, Any]) -> Job:
    """The inverse of `job_as_record`.

    Raises:
        ValueError, KeyError, TypeError: it is none.
    """
    tasks = []
    for entry in record["tasks"]:
        retries = entry.get("retries", 0)
        if not isinstance(retries, int):
            retries = {Cause(cause): count for cause, count in retries.items()}
        modes = tuple(Mode(**mode) for mode in entry["modes"])
        tasks.append(Task(**{**entry, "modes": modes, "retries": retries, "needs": tuple(entry.get("needs", ()))}))
    return Job(**{**record, "tasks": tuple(tasks)})


def cluster_of_record(nodes: list[Mapping[str, Any]]) -> Cluster:
    """The cluster of a session, from the `nodes` of its `begin` record.

    Raises:
        ValueError, KeyError, TypeError: it is none.
    """
    names = ("name", "gpu_type", "gpu_memory", "cpus", "memory")
    return Cluster(tuple(Node(gpus=len(node["devices"]), **{name: node[name] for name in names}) for node in nodes))


def _plain(value: Job | Task | Mode) -> dict[str, Any]:
    usual = _USUAL[type(value)]
    plain = {name: getattr(value, name) for name in usual if name not in ("tasks", "modes")}
    return {name: found for name, found in plain.items() if found != usual[name] and found != {}}
