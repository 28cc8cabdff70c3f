"""Lists that respect precedence."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def repaired(order: Sequence[int], predecessors: Sequence[Sequence[int]]) -> list[int]:
    """Everything as near to an order as precedence allows: always what comes first in it of what may come next.

    Args:
        order: all of 0 .. n - 1.
        predecessors: for each, those that must be ahead of it.
    """
    place = {item: number for number, item in enumerate(order)}
    missing = [len(set(before)) for before in predecessors]
    successors: list[list[int]] = [[] for _ in predecessors]
    for item, before in enumerate(predecessors):
        for other in set(before):
            successors[other].append(item)
    eligible = [place[item] for item, count in enumerate(missing) if not count]
    heapq.heapify(eligible)
    result = []
    while eligible:
        item = order[heapq.heappop(eligible)]
        result.append(item)
        for other in successors[item]:
            missing[other] -= 1
            if not missing[other]:
                heapq.heappush(eligible, place[other])
    return result
