"""What policies make of an instance: lists to begin a search with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rlsched.policies.planning.instance import Instance
from rlsched.policies.registry import load_policy
from rlsched.schedule import Schedule

GREEDY = (
    "critical-path",
    "critical-path:blocking=none",
    "srpt",
    "srpt:blocking=none,count=minimum",
    "srpt:count=maximum,stretch=100",
    "fifo",
    "sjf:blocking=none",
    "edf",
)
"""Greedy policies that differ in order, GPU counts and blocking."""


def rollouts(instance: Instance, policies: Iterable[str]) -> Iterator[Schedule]:
    """What each policy makes of the instance, by names as for `load_policy`.

    Raises:
        ValueError: a policy that cannot be loaded.
    """
    return (instance.play(load_policy(policy)) for policy in policies)


def sampled_rollouts(
    instance: Instance, policy: str, count: int, temperature: float = 1.0, seed: int = 0
) -> Iterator[Schedule]:
    """What one policy makes of the instance: first as it is, then, if it can be sampled from, `count` - 1 samples.

    Args:
        policy: a name or file, as for `load_policy`. A trained policy can be sampled from.
        temperature: of the samples.
        seed: of the samples.

    Raises:
        ValueError: a policy that cannot be loaded.
    """
    for number in range(count):
        player = load_policy(policy, seed=seed + number)
        if number:
            if not hasattr(player, "temperature"):
                return
            player.temperature = temperature
        yield instance.play(player)
