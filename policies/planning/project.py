"""A problem on one machine as whole numbers, and the fast way to make schedules of it from lists.

This is the resource-constrained project scheduling problem (RCPSP) with modes, releases and several projects: every
GPU, core and custom resource of the machine is a renewable resource, and time comes in ticks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from rlsched.model import Cluster, Mode
from rlsched.policies.planning.instance import Instance
from rlsched.policies.planning.precedence import repaired
from rlsched.policies.planning.ticks import in_ticks, longest_tick
from rlsched.pool import GIB, Pool

MOST_ACTIVITIES = 2_000
MOST_TICKS = 4_000  # beyond that durations are rounded up to a coarser tick


@dataclass(frozen=True)
class Project:
    """Activities on one machine; lists are by activity.

    Units of all resources are packed into one integer, each resource in a field of its own whose highest bit is the
    guard: `free - demand` keeps every guard bit if there is enough of everything.

    Attributes: activities are numbered so that none comes before one that it needs.
        tick: seconds.
        origin: job, task and member of the instance.
        modes: of each mode that fits the machine its number in the task, ticks, and units taken.
        predecessors, successors: activities that it needs, and that need it.
        release: ticks from the start of the instance.
        held: activities that run already: they start first.
        capacity: units there are, with the guard bits.
        guards: the guard bits.
    """

    tick: float
    origin: tuple[tuple[int, int, int], ...]
    modes: tuple[tuple[tuple[int, int, int], ...], ...]
    predecessors: tuple[tuple[int, ...], ...]
    successors: tuple[tuple[int, ...], ...]
    release: tuple[int, ...]
    held: tuple[int, ...]
    capacity: int
    guards: int

    def __len__(self) -> int:
        return len(self.origin)

    @cached_property
    def horizon(self) -> int:
        """Ticks within which any list ends."""
        return max(self.release) + sum(max(ticks for _, ticks, _ in modes) for modes in self.modes)

    @cached_property
    def fastest(self) -> tuple[int, ...]:
        """The fastest mode of each activity, as an index into `modes`."""
        return tuple(min(range(len(modes)), key=lambda m: modes[m][1]) for modes in self.modes)

    def ticks(self, chosen: Sequence[int]) -> list[int]:
        """Duration of each activity in the modes chosen."""
        return [modes[mode][1] for modes, mode in zip(self.modes, chosen, strict=True)]

    def serial(self, order: Sequence[int], chosen: Sequence[int]) -> list[int]:
        """Serial schedule generation: each activity in turn starts as early as what is placed before allows.

        Kolisch, EJOR 1996, sec. 2.1. Some order gives an optimal schedule for every regular objective.

        Args:
            order: all activities, each one behind its predecessors.
            chosen: mode of each activity, as an index into `modes`.

        Returns:
            The start of each activity, ticks, (activities,).
        """
        if self.held:
            first = set(self.held)
            order = [*self.held, *(i for i in order if i not in first)]
        return self._place(order, chosen, self.predecessors, self.release)

    def justify(self, starts: Sequence[int], chosen: Sequence[int]) -> list[int]:
        """Forward-backward improvement by double justification: everything as late as possible, then as early.

        The makespan never gets longer unless activities have releases (Valls, Ballestin & Quintanilla, EJOR 2005,
        sec. 3).
        """
        ticks = self.ticks(chosen)
        ends = [start + length for start, length in zip(starts, ticks, strict=True)]
        last_first = sorted(range(len(ends)), key=ends.__getitem__, reverse=True)
        mirrored = self._place(last_first, chosen, self.successors, None)
        return self.serial(sorted(range(len(ends)), key=lambda i: -mirrored[i] - ticks[i]), chosen)

    def _place(
        self,
        order: Sequence[int],
        chosen: Sequence[int],
        predecessors: Sequence[Sequence[int]],
        release: Sequence[int] | None,
    ) -> list[int]:
        # The innermost loop of every search on one machine: plain integers and lists are the fastest that Python has.
        free, guards, modes = self._empty[:], self.guards, self.modes
        starts = [0] * len(modes)
        ends = starts[:]
        for i in order:
            _, length, units = modes[i][chosen[i]]
            start = release[i] if release is not None else 0
            for j in predecessors[i]:
                if ends[j] > start:
                    start = ends[j]
            end = start + length
            last = end - 1
            while last >= start:
                if (free[last] - units) & guards == guards:
                    last -= 1
                else:  # not before this tick is over
                    start = last + 1
                    end = start + length
                    last = end - 1
            if units:
                free[start:end] = [left - units for left in free[start:end]]
            starts[i], ends[i] = start, end
        return starts

    @cached_property
    def _empty(self) -> list[int]:
        return [self.capacity] * self.horizon

    def earliest(self, chosen: Sequence[int]) -> list[int]:
        """The earliest start of each activity if resources were unlimited, ticks."""
        ticks, found = self.ticks(chosen), list(self.release)
        for i in range(len(self)):
            found[i] = max([found[i], *(found[j] + ticks[j] for j in self.predecessors[i])])
        return found

    def tails(self, chosen: Sequence[int]) -> list[int]:
        """Ticks from the end of each activity to that of its job on the longest path."""
        ticks, found = self.ticks(chosen), [0] * len(self)
        for i in reversed(range(len(self))):
            found[i] = max((found[j] + ticks[j] for j in self.successors[i]), default=0)
        return found

    def repaired(self, order: Sequence[int]) -> list[int]:
        """All activities as near to the given order as precedence allows."""
        return repaired(order, self.predecessors)


def as_project(instance: Instance) -> Project | None:
    """The instance as a project; None if it is none: several machines, set-up times, or too many activities.

    Durations that are no multiples of a tick are rounded up, so that what is feasible here can be played.
    """
    cluster = instance.cluster
    members = sum(task.array for job in instance.jobs for task in job.tasks)
    if len(cluster.nodes) > 1 or members > MOST_ACTIVITIES:
        return None
    if any(task.setup_time for job in instance.jobs for task in job.tasks):
        return None
    tick, _ = longest_tick(instance, MOST_TICKS)
    fields = _Fields(cluster)
    empty = Pool(cluster)
    fits: dict[tuple[object, ...], bool] = {}

    def usable(mode: Mode) -> bool:
        if mode.needs not in fits:
            fits[mode.needs] = empty.place(mode) is not None
        return fits[mode.needs]

    base = min(job.release for job in instance.jobs)
    origin: list[tuple[int, int, int]] = []
    modes: list[tuple[tuple[int, int, int], ...]] = []
    predecessors: list[tuple[int, ...]] = []
    release: list[int] = []
    held: list[int] = []
    for number, job in enumerate(instance.jobs):
        activities: dict[str, list[int]] = {}
        for index in job.topological:
            task = job.tasks[index]
            activities[task.name] = list(range(len(origin), len(origin) + task.array))
            before = tuple(i for need in task.needs for i in activities[need])
            choices = tuple(
                (m, in_ticks(mode.duration, tick), fields.packed(mode))
                for m, mode in enumerate(task.modes)
                if usable(mode)
            )
            for member in range(task.array):
                if (number, index) in instance.held:
                    held.append(len(origin))
                origin.append((number, index, member))
                modes.append(choices)
                predecessors.append(before)
                release.append(in_ticks(job.release - base, tick))
    successors: list[list[int]] = [[] for _ in origin]
    for i, before in enumerate(predecessors):
        for j in before:
            successors[j].append(i)
    return Project(
        tick,
        tuple(origin),
        tuple(modes),
        tuple(predecessors),
        tuple(map(tuple, successors)),
        tuple(release),
        tuple(held),
        fields.capacity,
        fields.guards,
    )


class _Fields:
    """How the units of all resources of a machine are packed into one integer."""

    def __init__(self, cluster: Cluster) -> None:
        (node,) = cluster.nodes
        amounts = {"gpus": node.gpus, "cpus": node.cpus, "memory": int(node.memory * GIB), **node.resources}
        self._offsets: dict[str, int] = {}
        self.capacity = self.guards = offset = 0
        for name, amount in amounts.items():
            width = amount.bit_length()
            self._offsets[name] = offset
            self.guards |= 1 << offset + width
            self.capacity |= (amount | 1 << width) << offset
            offset += width + 1

    def packed(self, mode: Mode) -> int:
        takes = {"gpus": mode.gpus, "cpus": mode.cpus, "memory": int(mode.memory * GIB), **mode.resources}
        return sum(amount << self._offsets[name] for name, amount in takes.items() if amount)
