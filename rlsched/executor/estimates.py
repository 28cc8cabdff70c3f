"""How long tasks take and how much memory, learned from earlier runs of the workflow, in place of the file's hints."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from pydantic_core import to_json

from rlsched.executor.calibration import Calibration
from rlsched.executor.observations import Observation
from rlsched.executor.work import Unit, Work
from rlsched.model import Cluster, Job, Mode, Task
from rlsched.textfile import writing

Observed = Mapping[str, Sequence[Observation]]  # by task
_KEPT = 20  # observations of a task in a mode
_MARGIN = 1.1  # on memory
_FORMAT = "rlsched-history"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is expected of a task in a mode.

    Attributes:
        seconds: on a warm device, its node to itself.
        spread: standard deviation of the logarithm of that; None: seen once.
        runs: how many runs it is from.
        memory: GiB of main memory, the most that was seen; None: not known.
        gpu_memory: GiB of one GPU, the most that was seen; None: not known.
    """

    seconds: float
    spread: float | None
    runs: int
    memory: float | None
    gpu_memory: float | None


def estimate(observations: Sequence[Observation], calibration: Calibration) -> Estimate:
    """The estimate from at least one run.

    The time is the `typical` one, the spread is from the median absolute deviation.
    """
    setup = calibration.setup_time or 0.0
    alone = [max(calibration.alone(o) - setup * o.cold, calibration.alone(o) / 10) for o in observations]
    seconds, spread = alone[0], None
    if len(alone) > 1:
        logs = np.log(alone)
        seconds, spread = typical(alone), 1.4826 * float(median(np.abs(logs - _middle(logs))))
    return Estimate(
        seconds=seconds,
        spread=spread,
        runs=len(alone),
        memory=max((o.usage.memory for o in observations if o.usage.memory is not None), default=None),
        gpu_memory=max((o.usage.gpu_memory for o in observations if o.usage.gpu_memory is not None), default=None),
    )


def typical(seconds: Sequence[float]) -> float:
    """What stands for several times of the same thing.

    It is e to the median of all means of two logarithms: nearly as precise as their mean, and steady as long as less
    than 29 % of them are off (Hodges & Lehmann, Ann. Math. Statist. 34(2), 1963, sec. 2).
    """
    return math.exp(_middle(np.log(seconds)))


def _middle(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    i, j = np.triu_indices(len(values))
    return float(median((values[i] + values[j]) / 2))


def with_estimates(
    work: Work, observed: Observed, calibration: Calibration, cluster: Cluster, memory: bool = True
) -> tuple[Work, frozenset[str]]:
    """The work with what was learned in place of what its file says; and the tasks for which something was.

    Modes that have not been seen keep their relation to those of the same task that have. Memory counts where the file
    says nothing of it.

    Args:
        memory: take over memory as well as time.
    """
    tasks, learned = [], set()
    for task, units in zip(work.job.tasks, work.units, strict=True):
        better = _better_task(task, units, observed, calibration, cluster if memory else None)
        if better is not task:
            learned.add(task.name)
        if calibration.setup_time is not None and not task.cpu_only:
            better = replace(better, setup_time=calibration.setup_time)
        tasks.append(better)
    job = work.job
    better_job = Job(job.name, tuple(tasks), release=job.release, weight=job.weight, deadline=job.deadline)
    return replace(work, job=better_job), frozenset(learned)


def read_observed(file: Path) -> dict[str, list[Observation]]:
    """What a history file holds, by task; nothing if there is none. One that is damaged is a warning."""
    try:
        content = json.loads(file.read_text())
        return {
            task: [Observation.of_record(record) for record in entry["runs"]]
            for task, entry in content["tasks"].items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("%s: what was learned from earlier runs cannot be read, and is not used: %s", file, error)
        return {}


def write_observed(file: Path, workflow: str, observed: Observed, calibration: Calibration) -> None:
    """Write a history file for `read_observed`, and for people: with the estimates that follow.

    Raises:
        OSError: it cannot be written.
    """
    tasks = {
        task: {
            "estimates": [_as_record(of_mode, calibration) for of_mode in _by_mode(runs)],
            "runs": [observation.as_record() for observation in runs],
        }
        for task, runs in sorted(observed.items())
    }
    content = {"format": _FORMAT, "version": 1, "workflow": workflow, "tasks": tasks}
    with writing(file) as text:
        text.write(to_json(content, indent=1).decode() + "\n")  # the standard library's takes ten times as long


def merged(old: Observed, new: Observed) -> dict[str, list[Observation]]:
    """All observations, each once, the latest of every task and mode."""
    result: dict[str, list[Observation]] = {}
    for task in {**old, **new}:
        by_run = {(o.start, o.unit, o.digest): o for o in (*old.get(task, ()), *new.get(task, ()))}
        runs = [by_run[run] for run in sorted(by_run)]
        kept = {id(o) for of_mode in _by_mode(runs) for o in of_mode[-_KEPT:]}
        result[task] = [o for o in runs if id(o) in kept]
    return result


def groups(observed: Observed) -> Iterable[list[Observation]]:
    """Runs of the same thing in the same mode: what calibration compares."""
    for runs in observed.values():
        for of_mode in _by_mode(runs):
            by_digest: dict[str, list[Observation]] = {}
            for observation in of_mode:
                by_digest.setdefault(observation.digest, []).append(observation)
            yield from by_digest.values()


def _by_mode(runs: Iterable[Observation]) -> list[list[Observation]]:
    modes: dict[tuple[int, str | None], list[Observation]] = {}
    for observation in runs:
        modes.setdefault((observation.gpus, observation.gpu_type), []).append(observation)
    return list(modes.values())


def _as_record(of_mode: Sequence[Observation], calibration: Calibration) -> dict[str, Any]:
    found = estimate(of_mode, calibration)
    numbers = {name: getattr(found, name) for name in ("seconds", "spread", "runs", "memory", "gpu_memory")}
    rounded = {name: round(value, 3) if isinstance(value, float) else value for name, value in numbers.items()}
    return {"gpus": of_mode[0].gpus, "gpu_type": of_mode[0].gpu_type, **rounded}


def _better_task(
    task: Task, units: Sequence[Unit], observed: Observed, calibration: Calibration, cluster: Cluster | None
) -> Task:
    digests = {unit.digest for unit in units}
    runs = observed.get(task.name, ())
    runs = [o for o in runs if o.digest in digests] or runs  # of the very same command and sources, if there are any
    estimates = [
        estimate(matching, calibration) if (matching := [o for o in runs if _is_of(o, mode)]) else None
        for mode in task.modes
    ]
    ratios = [math.log(e.seconds / m.duration) for e, m in zip(estimates, task.modes, strict=True) if e is not None]
    if not ratios:
        return task
    ratio = math.exp(sum(ratios) / len(ratios))
    modes = tuple(
        replace(mode, duration=mode.duration * ratio) if found is None else _better_mode(mode, found, cluster)
        for mode, found in zip(task.modes, estimates, strict=True)
    )
    return replace(task, modes=modes)


def _is_of(observation: Observation, mode: Mode) -> bool:
    return observation.gpus == mode.gpus and (not mode.gpus or mode.gpu_type in (None, observation.gpu_type))


def _better_mode(mode: Mode, found: Estimate, cluster: Cluster | None) -> Mode:
    """Memory at most as much as the largest node has: it did run, after all."""
    better = replace(mode, duration=found.seconds)
    if cluster is None:
        return better
    nodes = [node for node in cluster.nodes if not mode.gpus or mode.gpu_type in (None, node.gpu_type)]
    if not nodes:
        return better
    if not mode.memory and found.memory is not None:
        better = replace(better, memory=min(found.memory * _MARGIN, max(node.memory for node in nodes)))
    if mode.gpus and not mode.gpu_memory and found.gpu_memory is not None:
        best = max(node.gpu_memory for node in nodes)
        better = replace(better, gpu_memory=min(found.gpu_memory * _MARGIN, best))
    return better
