"""Tasks that take no time, which some formats have as start, end or milestone and the model has not."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from graphlib import CycleError, TopologicalSorter


def needs_without(instant: Collection[str], needs: Mapping[str, Collection[str]]) -> dict[str, tuple[str, ...]]:
    """The needs of all other tasks if these take no time: who needs one of them needs what that one needs.

    Raises:
        ValueError: the needs form a cycle.
    """
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        raise ValueError(f"the needs form a cycle: {' -> '.join(error.args[1])}") from None
    real: dict[str, tuple[str, ...]] = {}
    for task in order:
        found = (real[need] if need in instant else (need,) for need in needs[task])
        real[task] = tuple(dict.fromkeys(name for names in found for name in names))
    return {task: real[task] for task in needs if task not in instant}
