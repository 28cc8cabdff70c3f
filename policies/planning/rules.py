"""Priority rules of project scheduling, and lists drawn around them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from rlsched.policies.planning.project import Project

Rule = Callable[[Project, Sequence[int]], list[float]]
"""Answers a project and the modes chosen with a number for each activity; the smallest comes first."""


def latest_finish(project: Project, chosen: Sequence[int]) -> list[float]:
    """LFT: the longest path behind the activity, without its own time, first."""
    return [-tail for tail in project.tails(chosen)]


def latest_start(project: Project, chosen: Sequence[int]) -> list[float]:
    """LST: the longest path to the end of its job, with its own time, first."""
    return [-tail - own for tail, own in zip(project.tails(chosen), project.ticks(chosen), strict=True)]


def minimum_slack(project: Project, chosen: Sequence[int]) -> list[float]:
    """MSLK: the least time between its earliest and its latest start first."""
    starts = latest_start(project, chosen)
    return [start - first for start, first in zip(starts, project.earliest(chosen), strict=True)]


def greatest_rank_weight(project: Project, chosen: Sequence[int]) -> list[float]:
    """GRPW: the greatest rank positional weight first, its time and that of those which need it."""
    ticks = project.ticks(chosen)
    return [-own - sum(ticks[j] for j in after) for own, after in zip(ticks, project.successors, strict=True)]


def most_successors(project: Project, chosen: Sequence[int]) -> list[float]:
    """MTS: the most activities behind it, direct or not, first."""
    behind = [0] * len(project)  # as bits
    for i in reversed(range(len(project))):
        for j in project.successors[i]:
            behind[i] |= behind[j] | 1 << j
    return [-float(bits.bit_count()) for bits in behind]


def shortest(project: Project, chosen: Sequence[int]) -> list[float]:
    """SPT: the shortest processing time first."""
    return [float(ticks) for ticks in project.ticks(chosen)]


RULES: dict[str, Rule] = {
    "lft": latest_finish,
    "lst": latest_start,
    "mslk": minimum_slack,
    "grpw": greatest_rank_weight,
    "mts": most_successors,
    "spt": shortest,
}
"""Kolisch, EJOR 1996, table 1, where LFT and LST are the best on such instances."""


def listed(project: Project, values: Sequence[float]) -> list[int]:
    """All activities by their values, the smallest that is eligible first (then the one with the lower number)."""
    return project.repaired(sorted(range(len(values)), key=values.__getitem__))


def sampled(project: Project, values: Sequence[float], luck: random.Random, bias: float = 1.0) -> list[int]:
    """Regret-based biased random sampling: a list in which small values tend to come first.

    An eligible activity is next with probability in proportion to (regret + 1) ^ bias, where its regret is by how
    much its value is below the largest that is eligible (Drexl, Management Science 1991; Kolisch, EJOR 1996, sec. 4).
    """
    missing = [len(before) for before in project.predecessors]
    eligible = [i for i, count in enumerate(missing) if not count]
    result = []
    while eligible:
        worst = max(values[i] for i in eligible)
        chances = [(worst - values[i] + 1.0) ** bias for i in eligible]
        (number,) = luck.choices(range(len(eligible)), chances)
        chosen = eligible.pop(number)
        result.append(chosen)
        for j in project.successors[chosen]:
            missing[j] -= 1
            if not missing[j]:
                eligible.append(j)
    return result
