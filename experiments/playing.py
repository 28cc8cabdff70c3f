"""Playing workloads of a scenario, in parallel processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any, TypeVar

from rlsched.experiments.cells import BenchmarkError, Cell
from rlsched.policies.auto import AutoPolicy, Choice
from rlsched.policies.linear import LinearPolicy
from rlsched.policies.registry import load_policy
from rlsched.scenario import Scenario
from rlsched.schedule import Schedule
from rlsched.scheduler import Policy, Scheduler, StallError
from rlsched.workers import available_cores, submit_all, worker_pool

if TYPE_CHECKING:
    from rlsched.experiments.fanout import RayPlayers

_Result = TypeVar("_Result")

_scenario: Scenario  # of a worker process; set once, so that it does not travel with every call
_choices: dict[str, Choice] = {}  # of `auto`, where it holds for all workloads of the scenario


class Workers:
    """Processes that play one scenario; results come as they are ready.

    Args:
        processes: 0: one a core; 1: this one.
        most: there is no work for more processes than this.
        ray: address of a Ray cluster whose CPUs are to be used; empty: those of this machine.

    Raises:
        ValueError: there is no such cluster, or it has no CPU to spare.
    """

    def __init__(self, scenario: Scenario, processes: int = 0, most: int | None = None, ray: str = "") -> None:
        self._players: RayPlayers | None = None
        self._pool: ProcessPoolExecutor | None = None
        if ray:
            from rlsched.experiments.fanout import RayPlayers  # Ray is an extra, and takes a second to import

            self._players = RayPlayers(ray, min(filter(None, (processes, most)), default=0), _begin, scenario)
            return
        processes = processes or available_cores()
        if most is not None:
            processes = min(processes, most)
        if processes > 1:
            self._pool = worker_pool(processes, _begin, scenario)
        else:
            _begin(scenario)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        if self._players is not None:
            self._players.close()

    def map(self, function: Callable[..., _Result], calls: Sequence[Sequence[Any]]) -> Iterator[_Result]:
        """The function, one of those below or one that calls them, with each of these arguments."""
        if self._players is not None:
            yield from self._players.map(function, calls)
            return
        if self._pool is None:
            yield from (function(*call) for call in calls)
            return
        futures = submit_all(self._pool, function, calls)
        yield from (future.result() for future in as_completed(futures))


def play(policy: str, seed: int) -> Cell:
    """The score and the metrics of a policy, by name or file as for `load_policy`, on a workload.

    Raises:
        BenchmarkError: see `simulate`.
    """
    loaded = load(policy, seed)
    schedule = simulate(policy, loaded, seed)
    took = loaded.choice.policy if isinstance(loaded, AutoPolicy) and loaded.choice is not None else None
    return Cell(policy, seed, schedule.score(_scenario.objective), schedule.metrics(), took)


def load(policy: str, seed: int) -> Policy:
    """A policy for a workload; `auto` is told what it is going to schedule."""
    loaded = load_policy(policy, seed=seed)
    if isinstance(loaded, AutoPolicy):
        if policy in _choices:
            loaded.settle(_choices[policy])
        else:
            loaded.prepare(_scenario, seed)
            if loaded.settled and loaded.choice is not None:
                _choices[policy] = loaded.choice
    return loaded


def score_of(name: str, policy: Policy, seed: int) -> float:
    """The score alone.

    Raises:
        BenchmarkError: see `simulate`.
    """
    return simulate(name, policy, seed).score(_scenario.objective)


def linear(weights: Mapping[str, float], seed: int) -> LinearPolicy:
    """A linear policy for a workload."""
    return LinearPolicy(weights, _scenario.episode(seed).objective)


def simulate(name: str, policy: Policy, seed: int) -> Schedule:
    """What a policy makes of a workload of the scenario that this process plays.

    Raises:
        BenchmarkError: the policy fails; says on which workload.
    """
    try:
        return Scheduler(_scenario.simulator(seed)).run(policy)
    except (ValueError, StallError) as error:
        raise BenchmarkError(f"policy {name!r} fails on workload {seed} of {_scenario.name}: {error}") from None


def _begin(scenario: Scenario) -> None:
    global _scenario
    _scenario = scenario
    _choices.clear()
