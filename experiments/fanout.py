"""Players of workloads on the CPUs of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import RayTaskError
from ray.util import ActorPool

from rlsched.executor.onray.connection import connect

_Result = TypeVar("_Result")


class RayPlayers:
    """One process for each CPU that is free, or for so many of them; see `playing.Workers`.

    Args:
        address: of the cluster, see `connect`.
        processes: 0: as many as there are free CPUs.
        begin: called in each of them first, with `argument`.

    Raises:
        ValueError: there is no cluster, or no CPU of it is free.
    """

    def __init__(self, address: str, processes: int, begin: Callable[[Any], None], argument: Any) -> None:
        self._ours = connect(address)
        free = int(ray.available_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
        if not free:
            self.close()
            raise ValueError(f"--ray {address}: no CPU of the cluster is free")
        player: Any = ray.remote(_Player)
        shared = ray.put(argument)
        players = [player.options(num_cpus=1).remote(begin, shared) for _ in range(min(free, processes or free))]
        self._pool: Any = ActorPool(players)

    def map(self, function: Callable[..., _Result], calls: Sequence[Sequence[Any]]) -> Iterator[_Result]:
        """The function with each of these arguments; results come as they are ready."""
        try:
            yield from self._pool.map_unordered(lambda actor, call: actor.play.remote(function, call), calls)
        except RayTaskError as error:
            raise error.cause from None

    def close(self) -> None:
        """End the processes."""
        if self._ours:
            ray.shutdown()


class _Player:
    def __init__(self, begin: Callable[[Any], None], argument: Any) -> None:
        begin(argument)

    def play(self, function: Callable[..., Any], call: Sequence[Any]) -> Any:
        return function(*call)
