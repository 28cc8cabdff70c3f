"""When gangs of each size are expected to fit, if nothing else starts."""

from __future__ import annotations

import math

from rlsched.envs.facts import ModeFacts
from rlsched.state import State


class Availability:
    """Expected times from which on a gang fits: what `wait` is worth.

    Only GPUs count, not cores and memory; a running task that is overdue is expected to end at once.

    Attributes:
        delays: what `delay` has answered, by the shape of the mode.
    """

    def __init__(self, state: State) -> None:
        now, nodes, pool = state.now, state.cluster.nodes, state.pool
        ends: dict[int, list[tuple[float, int]]] = {}
        for run in state.running.values():
            if run.mode.gpus:
                end = run.expected_end if run.expected_end > now else now
                for node, gpus in run.allocation.shares:
                    if node in ends:
                        ends[node].append((end, len(gpus)))
                    else:
                        ends[node] = [(end, len(gpus))]
        self._now = now
        # of a type: index k is when k GPUs of one node are free; and (time, GPUs) of when each node is all free
        self._on_one: dict[str, list[float]] = {t: [now] for t in state.cluster.gpu_types}
        self._whole: dict[str, list[tuple[float, int]]] = {t: [] for t in state.cluster.gpu_types}
        self.delays: dict[int, float] = {}
        for index, spec in enumerate(nodes):
            if not spec.gpus or not pool.up[index]:
                continue
            table = self._on_one[spec.gpu_type]
            table += [math.inf] * (spec.gpus + 1 - len(table))
            free, last = pool.free_on(index), now
            table[1 : free + 1] = [now] * free
            for last, count in sorted(ends.get(index, ())):
                for k in range(free + 1, free + count + 1):
                    if last < table[k]:
                        table[k] = last
                free += count
            self._whole[spec.gpu_type].append((last, spec.gpus))

    def delay(self, mode: ModeFacts) -> float:
        """Seconds until the mode's gang fits; infinite if it never does while the nodes are as they are."""
        known = self.delays.get(mode.shape)
        if known is None:
            types = self._on_one if mode.gpu_type is None else (mode.gpu_type,)
            known = min(self._start(mode.gpus, t) for t in types) - self._now if mode.gpus else 0.0
            self.delays[mode.shape] = known
        return known

    def _start(self, gpus: int, gpu_type: str) -> float:
        table = self._on_one.get(gpu_type, ())
        if gpus < len(table):
            return table[gpus]
        missing = gpus
        for time, count in sorted(self._whole.get(gpu_type, ())):
            missing -= count
            if missing <= 0:
                return time
        return math.inf
