"""Samples what devices and tasks are doing, into the run directory.

In a thread that nobody waits for: whatever goes wrong in it is said once, and the run goes on.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from rlsched.executor.claim import boot_id, pid_space, read_claim
from rlsched.executor.devices import CPU, Machine
from rlsched.executor.nvml import GIB, Nvml, NvmlError, Reading
from rlsched.executor.paths import AttemptPaths
from rlsched.executor.usage import TreeUsage, Usage, tree_usage

SAMPLES = "samples.jsonl"
SAMPLE_INTERVAL = 2.0
_SHARE = 0.02  # of a core that sampling may take
_THINNED_AFTER = 10_000  # samples: from then on every second one is written, after as many again every fourth ...
_CLOSING_TIME = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TaskSample:
    """A task at an instant: cores it has kept busy since the sample before, GiB as in `Usage`, processes."""

    attempt: int
    cpu: float
    rss: float
    memory: float
    processes: int


@dataclass(frozen=True, slots=True)
class Sample:
    """All that is sampled at an instant.

    Attributes:
        time: seconds since the epoch.
        host_cpu: cores that are busy, whoever keeps them so.
        host_memory: GiB in use.
        devices: by id; GPUs alone.
        tasks: by the unit's name; those that were sampled before.
    """

    time: float
    host_cpu: float
    host_memory: float
    devices: Mapping[str, Reading] = field(default_factory=dict)
    tasks: Mapping[str, TaskSample] = field(default_factory=dict)


@dataclass(slots=True)
class _Watched:
    attempt: int
    paths: AttemptPaths
    devices: Sequence[str]
    unread: bool  # what an earlier driver has sampled of it
    pid: int | None = None
    last: tuple[float, TreeUsage] | None = None
    peak: Usage = field(default_factory=Usage)
    utilisation: float = 0.0  # summed over samples and GPUs
    readings: int = 0


class Monitor:
    """Samples into a run directory, from its creation until `close`.

    Args:
        folder: the run directory.
        machine: whose GPUs are sampled.
        interval: seconds between two samples; more if sampling takes more than a fiftieth of a core.

    Attributes:
        latest: the last sample; None: none yet.
    """

    def __init__(self, folder: Path, machine: Machine, interval: float = SAMPLE_INTERVAL) -> None:
        self.latest: Sample | None = None
        self._file = folder / SAMPLES
        self._gpus = [
            device
            for node, devices in zip(machine.cluster.nodes, machine.devices, strict=True)
            if node.gpu_type != CPU
            for device in devices
        ]
        self._interval = interval
        self._watched: dict[str, _Watched] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._warned = False
        self._samples = 0
        self._nvml: Nvml | None = None
        self._thread = threading.Thread(target=self._work, name="rlsched-monitor", daemon=True)
        self._thread.start()

    def started(
        self, unit: str, attempt: int, paths: AttemptPaths, devices: Sequence[str], adopted: bool = False
    ) -> None:
        """Watch an attempt.

        Args:
            paths: its claim says which process is its launcher.
            devices: ids.
            adopted: an earlier driver has started it, and may have sampled it.
        """
        with self._lock:
            self._watched[unit] = _Watched(attempt, paths, devices, unread=adopted)

    def ended(self, unit: str) -> Usage:
        """What was sampled of an attempt that has ended."""
        with self._lock:
            return self._watched.pop(unit).peak

    def close(self) -> None:
        """Stop sampling. Should it hang in the driver of a GPU, it is left to itself."""
        self._stop.set()
        self._thread.join(_CLOSING_TIME)

    def _work(self) -> None:
        psutil.cpu_percent()  # the next call tells what has happened since
        took = 0.0
        while not self._stop.wait(max(self._interval, took / _SHARE)):
            began = time.thread_time()
            try:
                self._sample()
            except Exception as error:  # nothing in here is worth a run
                self._warn(error)
            took = time.thread_time() - began
        if self._nvml is not None:
            self._nvml.close()

    def _sample(self) -> None:
        with self._lock:
            watched = dict(self._watched)
        now = time.time()
        trees = tree_usage({name: pid for name, task in watched.items() if (pid := _pid_of(task)) is not None})
        readings = dict(self._readings())
        tasks: dict[str, TaskSample] = {}
        for name, task in watched.items():
            if task.unread:
                _recall(task, name, self._file)
            if (tree := trees.get(name)) is not None:
                if task.last is not None and now > task.last[0]:
                    cores = max(0.0, tree.cpu - task.last[1].cpu) / (now - task.last[0])
                    tasks[name] = TaskSample(task.attempt, cores, tree.rss, tree.memory, tree.processes)
                task.last = now, tree
            _take_in(task, tree, [readings[device] for device in task.devices if device in readings])
        busy = psutil.cpu_percent() / 100 * (psutil.cpu_count() or 1)
        self.latest = Sample(now, busy, psutil.virtual_memory().used / GIB, readings, tasks)
        if self._samples % 2 ** (self._samples // _THINNED_AFTER) == 0:
            self._write(self.latest)
        self._samples += 1

    def _readings(self) -> Iterator[tuple[str, Reading]]:
        if not self._gpus:
            return
        if self._nvml is None:
            self._nvml = Nvml()
            here = {gpu.uuid for units in self._nvml.gpus() for gpu in units}
            self._gpus = [device for device in self._gpus if device in here]  # others are of another node
        for device in self._gpus:
            try:
                yield device, self._nvml.reading(device)
            except (NvmlError, KeyError) as error:
                self._warn(error)

    def _write(self, sample: Sample) -> None:
        line = json.dumps(
            {
                "time": round(sample.time, 3),
                "host": {"cpu": round(sample.host_cpu, 3), "memory": round(sample.host_memory, 3)},
                "devices": {name: _rounded(asdict(reading)) for name, reading in sample.devices.items()},
                "tasks": {name: _rounded(asdict(task)) for name, task in sample.tasks.items()},
            },
            separators=(",", ":"),
        )
        with self._file.open("a") as file:
            file.write(line + "\n")

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            _log.warning("something cannot be sampled, the run goes on: %s: %s", type(error).__name__, error)


def _pid_of(task: _Watched) -> int | None:
    """Number of its launcher; None: it has not claimed its attempt yet, or is of another machine or PID namespace."""
    if task.pid is None:
        try:
            claim = read_claim(task.paths.claim)
        except ValueError:
            return None
        if claim is not None and claim.boot == boot_id() and claim.space == pid_space():
            task.pid = claim.pid
    return task.pid


def _take_in(task: _Watched, tree: TreeUsage | None, readings: Sequence[Reading]) -> None:
    memory = [reading.memory for reading in readings if reading.memory is not None]
    utilisations = [reading.utilisation for reading in readings if reading.utilisation is not None]
    task.utilisation += sum(utilisations)
    task.readings += len(utilisations)
    peak = task.peak
    task.peak = replace(
        peak,
        rss=_largest([peak.rss, None if tree is None else tree.rss]),
        memory=_largest([peak.memory, None if tree is None else tree.memory]),
        gpu_memory=_largest([peak.gpu_memory, *memory]),
        gpu_utilisation=task.utilisation / task.readings if task.readings else None,
    )


def _recall(task: _Watched, name: str, file: Path) -> None:
    """What an earlier driver has sampled of a task that was adopted."""
    task.unread = False
    if not file.exists():
        return
    with file.open() as lines:
        for line in lines:
            try:
                content = json.loads(line)
                tasks, devices = content["tasks"], content["devices"]
            except (ValueError, KeyError):  # what was written when its driver was killed
                continue
            if name in tasks and tasks[name]["attempt"] == task.attempt:
                tree = TreeUsage(0.0, tasks[name]["rss"], tasks[name]["memory"], tasks[name]["processes"])
                _take_in(task, tree, [Reading(**devices[device]) for device in task.devices if device in devices])


def _largest(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _rounded(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in record.items()}
