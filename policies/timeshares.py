"""Time shares by linear programming: which part of its time each task should spend on each GPU type.

The policies of Gavel (Narayanan et al., Heterogeneity-Aware Cluster Scheduling Policies for Deep Learning Workloads,
OSDI 2020, sec. 4) as functions of a `Program`. Each answers with x >= 0, the number of members of claim u that are in
way k on average over time, subject to

    sum over k of x[u, k]               <= members of u        (a member is in one place at a time)
    sum over u, k of takes[u, k] x[u, k] <= capacity           (of every GPU type, and of every custom resource)

Throughput of a claim = sum over k of rate[k] x[u, k] / members: the part of a member's work that is done in a second.
`rlsched.policies.rounds` turns the shares into a schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import csr_array, hstack, vstack

Vector = NDArray[np.float64]
Resource = tuple[str, str | None]
"""("gpus", type), ("gpus", None) for the GPUs of all types together, or ("resource", name)."""

_TOLERANCE = 1e-6  # HiGHS is exact to about 1e-7
_LEVELS = 16  # of water filling; more change little
_STEPS = 20  # of Newton's method, which takes 3 to 8


class Way(NamedTuple):
    """One way for a member to spend its time.

    Attributes:
        modes: the numbers of one or several modes, and the part of the time in each.
        rate: part of the member's work that is done in a second.
        takes: units of each resource, on average.
    """

    modes: tuple[tuple[int, float], ...]
    rate: float
    takes: Mapping[Resource, float]


@dataclass(frozen=True, slots=True)
class Claim:
    """Members that are equal and treated as one.

    Attributes:
        members: how many.
        ways: at least one; none takes more of anything than there is.
        weight: of the job.
        work: of a member, above 0; GPU-seconds in its most efficient mode.
        left: part of a member's work that is still to do, in (0, 1].
        age: seconds since it could have started.
    """

    members: int
    ways: Sequence[Way]
    weight: float
    work: float
    left: float
    age: float


def _minimise(costs: Vector, matrix: Any, limits: Vector, free: int = 0) -> Any:
    """min costs x for matrix x <= limits and x >= 0, but for the last `free` variables, which may be negative."""
    bounds = [(0.0, np.inf)] * (len(costs) - free) + [(-np.inf, np.inf)] * free
    return linprog(costs, matrix, limits, bounds=bounds)


class _Raised(NamedTuple):
    """The highest level that all open claims reach together.

    Attributes:
        shares: x, by way.
        level: the highest one.
        tight: by claim, whether it is what keeps the level from being higher.
    """

    shares: Vector
    level: float
    tight: NDArray[np.bool_]


class Program:
    """The constraints that all objectives share.

    Speeds are throughputs relative to the fastest way of the claim: 0 to 1.

    Args:
        claims: at least one, in the order in which they came.
        capacity: of everything that some way takes.

    Attributes:
        fastest: by claim, the rate of its fastest way.
        equal: by claim, throughput on an equal part of everything (X^equal of sec. 4.1): 1/n of the GPUs of each type
            if there are n members in all, though never more than all of the time.
    """

    def __init__(self, claims: Sequence[Claim], capacity: Mapping[Resource, float]) -> None:
        self.claims = claims
        self.members = np.array([claim.members for claim in claims], float)
        self.fastest = np.array([max(way.rate for way in claim.ways) for claim in claims])
        self.equal = np.array([_equal_share(claim, capacity, self.members.sum()) for claim in claims])
        ways = [(owner, way) for owner, claim in enumerate(claims) for way in claim.ways]
        owners = np.array([owner for owner, _ in ways])
        columns = np.arange(len(ways))
        speeds = np.array([way.rate for _, way in ways]) / (self.fastest * self.members)[owners]
        self._speed = csr_array((speeds, (owners, columns)), shape=(len(claims), len(ways)))
        row_of = {resource: len(claims) + row for row, resource in enumerate(capacity)}
        entries = [(1.0, owner, column) for column, (owner, _) in enumerate(ways)]
        for column, (_, way) in enumerate(ways):
            entries += [(amount, row_of[resource], column) for resource, amount in way.takes.items()]
        amounts, rows, cols = (np.array(values) for values in zip(*entries, strict=True))
        self._uses = csr_array((amounts, (rows, cols)), shape=(len(claims) + len(capacity), len(ways)))
        self._limits = np.concatenate([self.members, list(capacity.values())])

    def at_full_speed(self) -> Vector | None:
        """Everybody in the fastest way all the time; None if there is not enough for that."""
        shares = np.zeros(self._speed.shape[1])
        column = 0
        for claim in self.claims:
            best = max(range(len(claim.ways)), key=lambda way: claim.ways[way].rate)
            shares[column + best] = claim.members
            column += len(claim.ways)
        return shares if (self._uses @ shares <= self._limits + _TOLERANCE).all() else None

    def best(self, gains: Vector, floors: Vector | None = None) -> Vector | None:
        """Shares that maximise the sum over claims of gain x speed, with every speed at its floor or above."""
        matrix, limits = self._uses, self._limits
        if floors is not None:
            matrix, limits = vstack([matrix, -self._speed]), np.concatenate([limits, -_relaxed(floors)])
        result = _minimise(-(self._speed.T @ (gains / gains.max())), matrix, limits)
        return None if result.x is None else np.asarray(result.x)

    def raised(self, needs: Vector, slopes: Vector, floors: Vector, still: NDArray[np.bool_]) -> _Raised | None:
        """The highest level v at which every claim that is `still` open has speed >= need + slope x v.

        The others have speeds at their floors or above. None: numerical trouble.
        """
        open_rows, held_rows = np.flatnonzero(still), np.flatnonzero(~still)
        matrix = vstack(
            [
                hstack([self._uses, csr_array((len(self._limits), 1))]),
                hstack([-self._speed[held_rows], csr_array((len(held_rows), 1))]),
                hstack([-self._speed[open_rows], csr_array(slopes[open_rows, None])]),
            ]
        )
        limits = np.concatenate([self._limits, -_relaxed(floors[held_rows]), -needs[open_rows]])
        costs = np.zeros(matrix.shape[1])
        costs[-1] = -1.0
        result = _minimise(costs, matrix, limits, free=1)
        if result.x is None:
            return None
        tight = np.zeros(len(self.claims), bool)
        tight[open_rows] = -result.ineqlin.marginals[-len(open_rows) :] * slopes[open_rows] > 1e-9
        return _Raised(np.asarray(result.x[:-1]), float(result.x[-1]), tight)


Objective = Callable[[Program], Vector]
"""Answers with x by way, in the order of the claims and of their ways."""


def max_min_fairness(program: Program) -> Vector:
    """Gavel sec. 4.1: the largest smallest throughput relative to that on an equal part of everything and to weight.

    Gavel multiplies a throughput by the size of the gang; here that is in the throughput on an equal part, which is
    one of the GPU time.
    """
    weights = np.array([claim.weight for claim in program.claims])
    return _max_min(program, weights * program.equal)


def makespan(program: Program) -> Vector:
    """Gavel sec. 4.2: the last member ends as early as possible; then the next to last, and so on.

    A member ends at left / throughput. With the inverse of the makespan as a variable that is a single linear program,
    where Gavel's bisects.
    """
    return _max_min(program, np.array([claim.left for claim in program.claims]))


def total_throughput(program: Program) -> Vector:
    """Gavel sec. 4.2: as much weighted work a second as possible; work is GPU time in a task's most efficient mode."""
    rates = program.fastest * program.members
    return _best(program, np.array([claim.weight * claim.work for claim in program.claims]) * rates)


def first_come_first_served(program: Program) -> Vector:
    """Gavel sec. 4.2, FIFO: speeds weighted by (number of claims - place in the queue)."""
    count = len(program.claims)
    return _best(program, (count - np.arange(count)) * program.members)


def shortest_first(program: Program) -> Vector:
    """Gavel sec. 4.2, shortest job first: as first come, first served, in order of the time left in the fastest way.

    The formula there places the shortest job alone.
    """
    times = np.array([claim.left for claim in program.claims]) / program.fastest
    places = np.empty(len(times))
    places[np.argsort(times, kind="stable")] = np.arange(len(times))
    return _best(program, (len(times) - places) * program.members)


def finish_time_fairness(program: Program) -> Vector:
    """Gavel sec. 4.2, after Themis (Mahajan et al., NSDI 2020): the smallest largest rho = time / time on equal parts.

    The time of a member is its age + left / throughput, on equal parts (as they are now) 1 / `equal`. So rho can be
    had if throughput >= left / (rho / equal - age), which is convex in rho: Newton's method, a linear program each
    step, finds the smallest from below. The next largest rho are made small in turn.
    """
    left = np.array([claim.left for claim in program.claims])
    age = np.array([claim.age for claim in program.claims])
    least = (age + left / program.fastest) * program.equal  # rho at full speed

    def level(floors: Vector, still: NDArray[np.bool_]) -> tuple[_Raised, Vector] | None:
        rho = float(least[still].max())
        found = None
        for _ in range(_STEPS):
            time = np.maximum(rho / program.equal - age, left / program.fastest)
            needs = left / time / program.fastest
            slopes = needs / time / program.equal  # of the tangent: what a smaller rho needs more
            raised = program.raised(needs + slopes * rho, slopes, floors, still)
            if raised is None:
                break
            before, rho = rho, max(rho, -raised.level)
            found = raised, needs - slopes * (rho - before)
            if rho <= before * (1 + 1e-4):
                break
        return found

    return _filled(program, level)


def _max_min(program: Program, targets: Vector) -> Vector:
    """The smallest throughput / target as large as possible, then the second smallest, and so on."""
    needed = targets / program.fastest

    def level(floors: Vector, still: NDArray[np.bool_]) -> tuple[_Raised, Vector] | None:
        slopes = needed / needed[still].max()
        raised = program.raised(np.zeros(len(slopes)), slopes, floors, still)
        return None if raised is None else (raised, slopes * raised.level)

    return _filled(program, level)


def _filled(program: Program, level: Callable[[Vector, NDArray[np.bool_]], tuple[_Raised, Vector] | None]) -> Vector:
    """Water filling (sec. 4.3): raise all together; who holds the others back stays there, and the rest goes on.

    Who has a positive dual value is held back in every optimal solution. What is left after some levels goes where it
    adds most speed.

    Args:
        level: answers with the highest level of the claims that are still open, and the speeds needed for it.
    """
    if (shares := program.at_full_speed()) is not None:
        return shares
    floors = np.zeros(len(program.claims))
    still = np.ones(len(program.claims), bool)
    for _ in range(_LEVELS):
        if (found := level(floors, still)) is None:
            break
        raised, needs = found
        shares = raised.shares
        floors = np.where(still, np.minimum(needs, 1.0), floors)
        held = still & (raised.tight | (floors >= 1 - _TOLERANCE))
        still = still & ~held
        if not held.any() or not still.any():
            break
    if still.any() and (spread := program.best(np.where(still, 1.0, 1e-3), floors)) is not None:
        shares = spread
    assert shares is not None  # the first level is feasible with no share at all
    return shares


def _best(program: Program, gains: Vector) -> Vector:
    if (shares := program.at_full_speed()) is not None:
        return shares
    shares = program.best(gains)
    assert shares is not None  # no share at all is feasible, and capacities bound them
    return shares


def _relaxed(floors: Vector) -> Vector:
    """Floors that stay feasible although solutions are not exact."""
    return np.maximum(floors - 1e-7 - 1e-6 * floors, 0.0)


def _equal_share(claim: Claim, capacity: Mapping[Resource, float], members: float) -> float:
    """Throughput of a member on 1/members of everything; of the ways on one resource the best one counts."""
    parts: dict[Resource, tuple[float, float]] = {}
    for way in claim.ways:
        most = {resource: capacity[resource] / (members * amount) for resource, amount in way.takes.items()}
        resource = min(most, key=most.__getitem__, default=("nothing", None))
        part = most.get(resource, 1.0)
        if part * way.rate > parts.get(resource, (0.0, 0.0))[0]:
            parts[resource] = (part * way.rate, part)
    throughput = sum(rate for rate, _ in parts.values())
    return throughput / max(1.0, sum(part for _, part in parts.values()))
