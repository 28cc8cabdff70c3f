"""How tasks that share a node slow one another down, in virtual time.

The more slots of a node are busy, the slower all of them are: they share cores, caches, memory bandwidth, disks and
power. A run is so many seconds of work at full speed; how far it is gets integrated piece by piece, from one change in
the number of busy slots to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import simpy

from rlsched.model import Share

_ROUNDING = 1e-9  # seconds: less than this is left of a run by the error of sums alone


@dataclass(slots=True, eq=False)
class _Entry:
    nodes: tuple[int, ...]
    left: float  # seconds of work at full speed, at `since`
    end: Callable[[], None]
    total: float
    since: float
    speed: float = 0.0  # not yet on its way
    plan: int = 0  # of the timers that were set for its end, the last one counts


class Contention:
    """Runs in virtual time that slow one another down.

    A slot is busy for every GPU (or CPU slot) that a run holds on a node, and one for a run that holds none there.
    A run on several nodes goes as fast as the slowest of them.

    Args:
        slowdown: how many times as long work takes while 1, 2, 3 ... slots are busy; with more, the last number.
        env: the clock.
    """

    def __init__(self, slowdown: Sequence[float], env: simpy.Environment) -> None:
        self._slowdown = slowdown
        self._env = env
        self._entries: dict[Hashable, _Entry] = {}
        self._on: dict[int, dict[Hashable, int]] = {}  # by node: what runs there, and the slots it keeps busy

    def enter(self, run: Hashable, shares: Sequence[Share], seconds: float, end: Callable[[], None]) -> None:
        """Begin a run of so many seconds at full speed; `end` is called when it has done them."""
        nodes = tuple(share.node for share in shares)
        self._entries[run] = _Entry(nodes, seconds, end, seconds, self._env.now)
        for share in shares:
            self._on.setdefault(share.node, {})[run] = max(1, len(share.gpus))
        self._adjust(nodes)

    def leave(self, run: Hashable) -> None:
        """A run has ended, or was stopped."""
        entry = self._entries.pop(run)
        for node in entry.nodes:
            del self._on[node][run]
        self._adjust(entry.nodes)

    def done(self, run: Hashable) -> float:
        """Seconds of work at full speed that a run has behind it."""
        entry = self._entries[run]
        return entry.total - entry.left + (self._env.now - entry.since) * entry.speed

    def _adjust(self, nodes: Sequence[int]) -> None:
        """Something has changed on these nodes: set the speed, and with it the end, of all that runs there."""
        for run in dict.fromkeys(run for node in nodes for run in self._on[node]):
            entry = self._entries[run]
            speed = 1.0 / max(self._slowdown_on(node) for node in entry.nodes)
            if speed != entry.speed:
                entry.left = max(0.0, entry.left - (self._env.now - entry.since) * entry.speed)
                entry.since = self._env.now
                entry.speed = speed
                entry.plan += 1
                self._set_timer(entry)

    def _slowdown_on(self, node: int) -> float:
        busy = sum(self._on[node].values())
        return self._slowdown[min(busy, len(self._slowdown)) - 1]

    def _set_timer(self, entry: _Entry) -> None:
        plan = entry.plan
        callbacks = self._env.timeout(entry.left / entry.speed if entry.left > _ROUNDING else 0.0).callbacks
        assert callbacks is not None
        callbacks.append(lambda _: entry.end() if entry.plan == plan else None)
