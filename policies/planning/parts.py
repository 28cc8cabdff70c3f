"""An instance as whole numbers for a solver: what is to be placed, and the places there are for it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from rlsched.model import Mode, Node, Task
from rlsched.policies.planning.instance import Instance
from rlsched.policies.planning.ticks import in_ticks, longest_tick
from rlsched.pool import GIB
from rlsched.state import State

MOST_OPTIONS = 20_000  # beyond that equal nodes are one place: which of them is decided when the plan is played
MOST_PARTS = 600  # beyond that members of array tasks share lanes
MOST_TICKS = 40_000  # of all members one after the other; beyond that durations are rounded up to coarser ticks


@dataclass(frozen=True)
class Place:
    """One node, or several equal ones that are filled as one.

    Attributes:
        nodes: their indices.
        node: what each of them is.
        amounts: whole units of everything on all of them together.
    """

    nodes: tuple[int, ...]
    node: Node
    amounts: Mapping[str, int]


class Option(NamedTuple):
    """A way to run a member: a mode, and where.

    Attributes:
        mode: its number in the task.
        ticks: how long a member takes.
        places: the place; of a gang that spans nodes, all places among which it takes whole nodes.
        takes: whole units of everything, on one node.
        spans: it takes several nodes.
    """

    mode: int
    ticks: int
    places: tuple[int, ...]
    takes: Mapping[str, int]
    spans: bool


@dataclass(frozen=True)
class Part:
    """What is placed as one: a member, or a lane of members of an array task that run one after the other.

    Attributes:
        job, task: in the instance.
        members: how many.
        release: ticks.
        options: one of them is taken; of what is held there is just one.
        held: nodes and GPUs on each, of what runs already.
    """

    job: int
    task: int
    members: int
    release: int
    options: tuple[Option, ...]
    held: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Parts:
    """The whole instance.

    Attributes:
        tick: seconds.
        whole: all times are multiples of the tick; else they are rounded up.
        complete: every schedule of the instance can be said in parts: no member shares a lane, no gang spans nodes.
        start: when the first tick begins, seconds.
        horizon: ticks within which everything fits, one part after the other.
    """

    tick: float
    whole: bool
    complete: bool
    start: float
    horizon: int
    places: tuple[Place, ...]
    parts: tuple[Part, ...]


def parts_of(instance: Instance) -> Parts:
    """The instance cut into parts, finely where that does not make too many of them."""
    start = min(job.release for job in instance.jobs)
    tick, whole = longest_tick(instance, MOST_TICKS)
    tasks = [(j, i, job.tasks[i]) for j, job in enumerate(instance.jobs) for i in job.topological]
    lanes = _lanes([task.array for _, _, task in tasks])
    places = [_place(instance, (node,)) for node in range(len(instance.cluster.nodes))]
    options = _Options(instance, places, tick)
    merged = sum(min(task.array, lanes) * len(options(task)) for _, _, task in tasks) > MOST_OPTIONS
    if merged:
        alike: dict[str, list[int]] = {}
        for index, node in enumerate(instance.cluster.nodes):
            alike.setdefault(repr(replace(node, name="any")), []).append(index)
        places = [_place(instance, tuple(nodes)) for nodes in alike.values()]
        options = _Options(instance, places, tick)
    parts = []
    for j, i, task in tasks:
        release = in_ticks(instance.jobs[j].release - start, tick)
        if (shares := instance.held.get((j, i))) is not None:
            held = tuple((share.node, len(share.gpus)) for share in shares)
            takes = _takes(task.modes[0])
            spans = len(held) > 1
            speed = instance.cluster.span_speed if spans else 1.0
            option = Option(0, in_ticks(task.modes[0].duration / speed, tick), (), takes, spans)
            parts.append(Part(j, i, 1, release, (option,), held))
        else:
            count = min(task.array, lanes)
            sizes = (task.array // count + (lane < task.array % count) for lane in range(count))
            parts += [Part(j, i, size, release, options(task)) for size in sizes]
    complete = all(p.members == 1 and (p.held or not any(_spans(o, places) for o in p.options)) for p in parts)
    horizon = max(p.release for p in parts) + sum(p.members * max(o.ticks for o in p.options) for p in parts)
    return Parts(tick, whole, complete, start, horizon, tuple(places), tuple(parts))


def _spans(option: Option, places: Sequence[Place]) -> bool:
    return option.spans or option.takes.get("gpus", 0) > places[option.places[0]].node.gpus


def _lanes(arrays: Sequence[int]) -> int:
    """The most lanes that an array task may have so that there are not too many in all."""
    lanes = max(arrays)
    while lanes > 1 and sum(min(array, lanes) for array in arrays) > MOST_PARTS:
        lanes -= max(1, lanes // 8)
    return lanes


def _place(instance: Instance, nodes: tuple[int, ...]) -> Place:
    node = instance.cluster.nodes[nodes[0]]
    return Place(nodes, node, {name: len(nodes) * amount for name, amount in _has(node).items()})


def _has(node: Node) -> dict[str, int]:
    return {"gpus": node.gpus, "cpus": node.cpus, "memory": int(node.memory * GIB), **node.resources}


def _takes(mode: Mode) -> dict[str, int]:
    takes = {"gpus": mode.gpus, "cpus": mode.cpus, "memory": int(mode.memory * GIB), **mode.resources}
    return {name: amount for name, amount in takes.items() if amount}


class _Options:
    """The options of tasks."""

    def __init__(self, instance: Instance, places: Sequence[Place], tick: float) -> None:
        self._places, self._tick, self._cluster = places, tick, instance.cluster
        self._empty = State(instance.cluster)
        nodes = instance.cluster.nodes
        self._largest = {t: max(n.gpus for n in nodes if n.gpu_type == t) for t in instance.cluster.gpu_types}

    def __call__(self, task: Task) -> tuple[Option, ...]:
        return tuple(option for number, mode in enumerate(task.modes) for option in self._of(number, mode))

    def _of(self, number: int, mode: Mode) -> Iterator[Option]:
        if not self._empty.fits_when_empty(mode):
            return
        takes, ticks = _takes(mode), in_ticks(mode.duration, self._tick)
        for index, place in enumerate(self._places):
            if _fits(mode, takes, place.node):
                yield Option(number, ticks, (index,), takes, False)
        slower = in_ticks(mode.duration / self._cluster.span_speed, self._tick)
        rest = {name: amount for name, amount in takes.items() if name != "gpus"}
        for gpu_type in self._cluster.gpu_types if mode.gpu_type is None else (mode.gpu_type,):
            if mode.gpus <= self._largest.get(gpu_type, mode.gpus):
                continue
            nodes = [
                index
                for index, place in enumerate(self._places)
                if place.node.gpus and place.node.gpu_type == gpu_type and _fits(mode, rest, place.node)
            ]
            if all(len(self._places[index].nodes) == 1 for index in nodes):
                yield Option(number, slower, tuple(nodes), takes, True)
                continue
            for index in nodes:
                place = self._places[index]
                count = math.ceil(mode.gpus / place.node.gpus)
                if count <= len(place.nodes):
                    many = {name: count * amount for name, amount in rest.items()}
                    yield Option(number, slower, (index,), {**many, "gpus": mode.gpus}, False)


def _fits(mode: Mode, takes: Mapping[str, int], node: Node) -> bool:
    has = _has(node)
    suits = not mode.gpus or (mode.gpu_type in (None, node.gpu_type) and node.gpu_memory >= mode.gpu_memory)
    return suits and all(has.get(name, 0) >= amount for name, amount in takes.items())
