"""The hand-over gap: from the end of one task on a device to the first statement of the next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from rlsched.executor.process import Exit
from rlsched.executor.work import Unit


class Beginning(StrEnum):
    """How a task was begun, and so what counts as its first statement.

    COMMAND: it was executed; what it imports then is its own affair. COLD: a Python process was executed, and has
    imported the module and called the function. WARM: the same, in a process forked from one that had the heavy imports
    done.
    """

    COMMAND = "command"
    COLD = "cold"
    WARM = "warm"


def beginning_of(unit: Unit, end: Exit) -> Beginning:
    """How an attempt was begun that has ended."""
    if not unit.is_function:
        return Beginning.COMMAND
    return Beginning.WARM if end.warm else Beginning.COLD


@dataclass(frozen=True, slots=True)
class Handovers:
    """The gaps of one kind in a session, seconds."""

    count: int
    median: float
    longest: float


def summarise(gaps: Sequence[float]) -> Handovers:
    """Of at least one gap."""
    return Handovers(len(gaps), median(gaps), max(gaps))


class Devices:
    """When each device was given back last, seconds since the epoch."""

    def __init__(self) -> None:
        self._freed: dict[str, float] = {}

    def give_back(self, devices: Iterable[str], time: float) -> None:
        """Note that a task on these devices has ended."""
        self._freed.update(dict.fromkeys(devices, time))

    def free_since(self, devices: Iterable[str], ready: float) -> float | None:
        """Since when a task that became `ready` then could have run on all of them; None if it is the first there."""
        freed = [self._freed[device] for device in devices if device in self._freed]
        return max(*freed, ready) if freed else None
