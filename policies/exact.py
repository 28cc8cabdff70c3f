"""Constraint programming: the best plan for a known set of jobs, and a bound on what is possible, by CP-SAT.

Needs ortools: `pip install 'rlsched[exact]'`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rlsched.policies.options import need
from rlsched.policies.planning.instance import Instance, check_objective
from rlsched.policies.planning.parts import parts_of
from rlsched.policies.planning.plan import Plan, PlanningPolicy, PlayedPlan, plan_of
from rlsched.policies.planning.rollouts import GREEDY, rollouts
from rlsched.schedule import Schedule


@dataclass(frozen=True)
class Exact:
    """What CP-SAT has found.

    Attributes:
        status: `optimal`, proved; `feasible`; or `unknown`: nothing better than the greedy policies' plan was found.
        cost: of the schedule, by the objective.
        bound: no schedule costs less; minus infinity where the model cannot say.
        plan, schedule: the best plan, and what came of it in the simulator.
    """

    status: str
    cost: float
    bound: float
    plan: Plan
    schedule: Schedule


def solve(
    instance: Instance,
    objective: str,
    *,
    effort: float = math.inf,
    seconds: float = math.inf,
    seed: int = 0,
    workers: int = 1,
    known: Sequence[Schedule] | None = None,
) -> Exact:
    """The best plan for an instance, and a lower bound.

    The model has an optional interval for every part (a member; or, where there are more than 600, a lane of members
    of an array task one after the other) in every mode on every node, of which one is present, and for every
    resource of every node a cumulative constraint (Laborie et al., Constraints 2018, sec. 2; Pritsker et al.,
    Management Science 1969, for the problem). Where that would be more than 20,000 intervals, equal nodes are one
    place, and what goes where is decided when the plan is played. A gang that spans nodes takes whole nodes. Left
    out are set-up times. Times are whole ticks, rounded up if they are no multiples of one.

    The solution is played in the simulator, in order of start and in its modes, and what is returned is what came of
    it there. If a greedy policy does better, that is returned.

    Args:
        effort: limit in CP-SAT's deterministic time, roughly seconds; the result is the same each time.
        seconds: limit in CPU seconds of this process; the result depends on the machine.
        seed: of the search.
        workers: threads; with more than one the result is not the same each time.
        known: schedules of the instance to begin with; by default those of a few greedy policies.

    Raises:
        ValueError: there is no such objective.
        ImportError: ortools is not installed.
    """
    from rlsched.policies.planning.model import search

    began = time.process_time()
    check_objective(objective)
    schedules = list(rollouts(instance, GREEDY) if known is None else known)
    best = min(schedules, key=lambda schedule: instance.cost_of(schedule, objective))
    cost, plan = instance.cost_of(best, objective), plan_of(best, instance)
    limit = max(0.0, seconds - (time.process_time() - began))
    found = search(instance, parts_of(instance), objective, best, effort, limit, seed, workers)
    status = "unknown"
    if found.plan is not None:
        played = instance.play(PlayedPlan(found.plan))
        played_cost = instance.cost_of(played, objective)
        status = "feasible"
        if played_cost <= cost:
            cost, plan, best = played_cost, found.plan, played
    if cost <= found.bound + 1e-6 * abs(found.bound):
        status = "optimal"
    return Exact(status, cost, found.bound, plan, best)


class ExactPolicy(PlanningPolicy):
    """CP-SAT: the best plan for the jobs in the system, made anew at every arrival; needs ortools.

    Args:
        objective: `mean_jct`, `makespan` or `weighted_tardiness`.
        effort: of a plan, in CP-SAT's deterministic time, roughly seconds.
        seconds: of a plan, CPU seconds; 0: no limit. With it runs cannot be repeated exactly.
        seed: of the search.

    Raises:
        ValueError: there is no such objective, a limit is out of range, or ortools is not installed.
    """

    def __init__(
        self, *, objective: str = "mean_jct", effort: float = 1.0, seconds: float = 0.0, seed: int = 0
    ) -> None:
        need("ortools", "exact")
        check_objective(objective)
        if not (effort > 0 and seconds >= 0):
            raise ValueError(f"effort is {effort}, expected above 0; seconds is {seconds}, expected 0 or more")
        limit = seconds or math.inf
        super().__init__(lambda instance: solve(instance, objective, effort=effort, seconds=limit, seed=seed).plan)
