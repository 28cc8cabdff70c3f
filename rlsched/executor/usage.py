"""What tasks take of the machine: CPU time and memory of whole process trees, without control groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import psutil

GIB = 2.0**30


@dataclass(frozen=True, slots=True)
class Usage:
    """What an attempt has taken; None: not known.

    Attributes:
        cpu: CPU seconds of all its processes.
        rss: resident GiB of all its processes together, the most that was sampled; what they share counts for each.
        memory: the same, but what several processes share counts once (PSS).
        gpu_memory: GiB on any one of its GPUs, the most that was sampled.
        gpu_utilisation: part of the time in which its GPUs did something, mean over samples, 0 to 1.
    """

    cpu: float | None = None
    rss: float | None = None
    memory: float | None = None
    gpu_memory: float | None = None
    gpu_utilisation: float | None = None

    def as_record(self) -> dict[str, float]:
        """What is known of it, for a journal."""
        return {name: round(value, 4) for name in self.__slots__ if (value := getattr(self, name)) is not None}

    @classmethod
    def of_record(cls, record: Mapping[str, Any] | None) -> Usage | None:
        """The inverse of `as_record`; None if there is nothing."""
        return cls(**{name: record[name] for name in cls.__slots__ if name in record}) if record else None


class TreeUsage(NamedTuple):
    """A process tree at an instant: CPU seconds up to now, of what has ended as well; GiB as in `Usage`; processes."""

    cpu: float
    rss: float
    memory: float
    processes: int


def tree_usage(roots: Mapping[str, int]) -> dict[str, TreeUsage]:
    """What comes of each of these processes (by any name) takes now; the root's own memory does not count.

    A root that reaps whatever its descendants leave behind, as a launcher does, loses no CPU time. Roots that have
    ended are left out.
    """
    if not roots:
        return {}
    children: dict[int, list[psutil.Process]] = {}
    processes: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            children.setdefault(process.ppid(), []).append(process)
        except psutil.Error:  # it has ended in the meantime
            continue
        processes[process.pid] = process
    found: dict[str, TreeUsage] = {}
    for name, root in roots.items():
        try:
            reaped = processes[root].cpu_times()
        except (KeyError, psutil.Error):
            continue
        tree = list(_descendants(root, children))
        parts = [part for process in tree if (part := _taken(process, shares=len(tree) > 1)) is not None]
        cpu, rss, memory = (sum(part[amount] for part in parts) for amount in range(3))
        cpu += reaped.children_user + reaped.children_system
        found[name] = TreeUsage(cpu, rss / GIB, memory / GIB, len(parts))
    return found


def _descendants(root: int, children: Mapping[int, list[psutil.Process]]) -> Iterator[psutil.Process]:
    unseen = [root]
    while unseen:
        for process in children.get(unseen.pop(), ()):
            unseen.append(process.pid)
            yield process


def _taken(process: psutil.Process, shares: bool) -> tuple[float, int, int] | None:
    """CPU seconds, resident bytes, and bytes without what is others'; None if it has ended in the meantime."""
    try:
        times, rss = process.cpu_times(), process.memory_info().rss
        memory = process.memory_full_info().pss if shares else rss  # which the kernel has to add up page by page
    except psutil.AccessDenied:
        memory = rss
    except psutil.Error:
        return None
    return times.user + times.system + times.children_user + times.children_system, rss, memory
