"""A random project: activities that share custom resources, drawn as ProGen does.

Kolisch, Sprecher & Drexl, "Characterization and generation of a general class of resource-constrained project
scheduling problems", Management Science 41(10), 1995: network complexity (sec. 3.1), resource factor and resource
strength (sec. 3.2). Those of PSPLIB have the same characteristics, but are not made by this code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from rlsched.generator.kinds import Project
from rlsched.model import Mode, Task


def draw_project(rng: np.random.Generator, project: Project, resources: Mapping[str, int]) -> tuple[Task, ...]:
    """The activities, in an order that respects their needs.

    Args:
        resources: units of each custom resource; not empty.
    """
    count = _between(rng, project.activities)
    needs = _network(rng, count, _uniform(rng, project.complexity), project.neighbours)
    seconds = [_between(rng, project.seconds) for _ in range(count)]
    demands = _demands(rng, project, count, len(resources))
    strength = _uniform(rng, project.strength)
    peaks = _peaks(seconds, needs, demands, len(resources))
    scales = []
    for number, units in enumerate(resources.values()):
        least = max((demand.get(number, 0) for demand in demands), default=0)
        scales.append(units / max(1, round(least + strength * (peaks[number] - least))))
    names = list(resources)
    return tuple(
        Task(
            str(i + 1),
            (Mode(seconds[i], resources={names[k]: max(1, math.floor(d * scales[k])) for k, d in demands[i].items()}),),
            tuple(str(j + 1) for j in needs[i]),
        )
        for i in range(count)
    )


def _network(rng: np.random.Generator, count: int, complexity: float, most: int) -> list[list[int]]:
    """For each activity those that it needs, all before it: first one for each that lacks one, then more.

    No arc is redundant, that is, implied by others. Activities without predecessors or successors have an arc with a
    dummy, which counts.
    """
    before: list[list[int]] = [[] for _ in range(count)]
    after: list[list[int]] = [[] for _ in range(count)]
    ancestors = [0] * count  # as bits
    beginnings = min(most, count)

    def add(i: int, j: int) -> bool:
        """The arc from i to j, if it may be."""
        if len(after[i]) == most or len(before[j]) == most or not _is_new(i, j, before, ancestors):
            return False
        after[i].append(j)
        before[j].append(i)
        for k in range(j, count):  # what comes behind j, and j itself
            if k == j or ancestors[k] >> j & 1:
                ancestors[k] |= ancestors[i] | 1 << i
        return True

    for j in range(beginnings, count):
        open_ones = [i for i in range(j) if len(after[i]) < most]
        add(int(rng.choice(open_ones)), j)
    for i in range(max(beginnings, count - most) - 1, -1, -1):
        if not after[i]:
            for j in rng.permutation(np.arange(max(i + 1, beginnings), count)).tolist():
                if add(i, j):
                    break
    wanted = round(complexity * (count + 2))
    pairs = [(i, j) for j in range(beginnings, count) for i in range(j)]
    for number in rng.permutation(len(pairs)).tolist():  # once each: what may not be now never may be later
        if _arcs(before, after) >= wanted:
            break
        add(*pairs[number])
    return [sorted(needed) for needed in before]


def _is_new(i: int, j: int, before: Sequence[Sequence[int]], ancestors: Sequence[int]) -> bool:
    """False if the arc from i to j follows from others, or others would follow from it."""
    if ancestors[j] >> i & 1:
        return False
    count = len(before)
    reached = [j, *(k for k in range(j + 1, count) if ancestors[k] >> j & 1)]
    sources = ancestors[i] | 1 << i
    return not any(sources >> p & 1 for k in reached for p in before[k])


def _arcs(before: Sequence[Sequence[int]], after: Sequence[Sequence[int]]) -> int:
    """Arcs, with those of the two dummies."""
    return sum(map(len, before)) + sum(not b for b in before) + sum(not a for a in after)


def _demands(rng: np.random.Generator, project: Project, count: int, resources: int) -> list[dict[int, int]]:
    """For each activity units by number of the resource; every activity takes some of at least one."""
    used = max(count, round(_uniform(rng, project.factor) * count * resources))
    takes = {(i, int(rng.integers(resources))) for i in range(count)}
    others = [(i, k) for i in range(count) for k in range(resources) if (i, k) not in takes]
    chosen = rng.permutation(len(others))[: used - count].tolist()
    demands: list[dict[int, int]] = [{} for _ in range(count)]
    for i, k in sorted(takes | {others[number] for number in chosen}):
        demands[i][k] = _between(rng, project.demand)
    return demands


def _peaks(
    seconds: Sequence[int], needs: Sequence[Sequence[int]], demands: Sequence[Mapping[int, int]], resources: int
) -> list[int]:
    """The most units of each resource in use at a time if every activity starts as early as its needs allow."""
    ends: list[int] = []
    for i, needed in enumerate(needs):
        ends.append(max((ends[j] for j in needed), default=0) + seconds[i])
    used = np.zeros((resources, max(ends)), dtype=int)
    for end, length, demand in zip(ends, seconds, demands, strict=True):
        for k, units in demand.items():
            used[k, end - length : end] += units
    return [int(row.max()) for row in used]


def _between(rng: np.random.Generator, ends: tuple[int, int]) -> int:
    return int(rng.integers(ends[0], ends[1] + 1))


def _uniform(rng: np.random.Generator, ends: tuple[float, float]) -> float:
    return float(rng.uniform(*ends))
