"""The weights with which a linear policy decides most like another policy: where a search for better ones begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from rlsched.envs.rows import Candidate
from rlsched.model import Allocation, Preemption
from rlsched.policies.linear import CANDIDATE_COLUMNS, NAMES, View
from rlsched.policies.registry import load_policy
from rlsched.scenario import Scenario
from rlsched.scheduler import Decision, Policy, Scheduler
from rlsched.state import State

_PENALTY = 1e-5  # on the squared weights: without one they grow for ever where a rule can be imitated exactly

Floats = NDArray[np.float64]
Seen = TypeVar("Seen")


@dataclass(frozen=True)
class Imitation:
    """Of a teacher, in units of the columns' spread.

    Attributes:
        columns: W names of columns, those that differ among candidates or from decision to decision.
        spread: (W,) standard deviation of each.
        weights: (W,) of the columns divided by their spread; of length 1.
        agreement: share of the teacher's decisions that the linear policy takes as well.
    """

    columns: tuple[str, ...]
    spread: Floats
    weights: Floats
    agreement: float

    def by_name(self, weights: Floats) -> dict[str, float]:
        """Weights in these units as those of a `LinearPolicy`, to the six digits that a file keeps."""
        own = (weights / self.spread).tolist()
        return {name: float(f"{weight:.6g}") for name, weight in zip(self.columns, own, strict=True)}


def imitate(scenario: Scenario, teacher: str, seeds: Sequence[int]) -> Imitation:
    """Fit a softmax over the candidates to a policy's decisions on some workloads (conditional logit: McFadden 1974).

    Decisions that a linear policy cannot take, such as a candidate that is not on the encoder's list, are left out.

    Raises:
        ValueError: no such policy, or one that never decided anything that could be imitated.
    """
    watched = watch(scenario, load_policy(teacher), seeds)
    rows = np.concatenate(watched.seen)
    sizes = np.array([len(of_one) for of_one in watched.seen])
    first = np.cumsum(sizes) - sizes
    chosen = first + np.array(watched.chosen)
    spread = np.where(np.arange(len(NAMES)) < len(CANDIDATE_COLUMNS), rows.std(axis=0), rows[first].std(axis=0))
    used = spread > 1e-9
    scaled = rows[:, used] / spread[used]
    weights = _fit(scaled, sizes, first, chosen)
    scores = scaled @ weights
    best = np.maximum.reduceat(scores, first)
    columns = tuple(name for name, use in zip(NAMES, used, strict=True) if use)
    length = float(np.linalg.norm(weights)) or 1.0
    return Imitation(columns, spread[used], weights / length, float((scores[chosen] == best).mean()))


def watch(scenario: Scenario, policy: Policy, seeds: Sequence[int]) -> Watched[Floats]:
    """What a policy decides on some workloads, and what a linear policy sees then, (1 + candidates, len(NAMES)) each.

    Raises:
        ValueError: it never decided anything that a linear policy could decide.
    """
    view = View(scenario.preemption, scenario.objective)
    watched = Watched(policy, view.candidates, view.rows)
    for seed in seeds:
        Scheduler(scenario.simulator(seed)).run(watched)
    if not watched.seen:
        raise ValueError("expected a policy whose decisions can be imitated, found one that takes none")
    return watched


class Watched(Generic[Seen]):
    """A policy, with what could be seen each time that it decided, and the number of the candidate that it chose.

    Decisions that are none of the candidates are left out.

    Attributes:
        seen: of each decision what `see` makes of it.
        chosen: the number of the candidate; 0: it waited.

    Args:
        candidates: what may be decided in a state.
        see: answers a state with its candidates, if there are any.
    """

    def __init__(
        self,
        policy: Policy,
        candidates: Callable[[State], list[Candidate]],
        see: Callable[[State, list[Candidate]], Seen],
    ) -> None:
        self._policy, self._candidates, self._see = policy, candidates, see
        self.seen: list[Seen] = []
        self.chosen: list[int] = []

    def __call__(self, state: State) -> Sequence[Decision]:
        candidates = self._candidates(state)
        seen = self._see(state, candidates) if candidates else None
        decisions = self._policy(state)
        decided = next((d for d in decisions if isinstance(d, Allocation | Preemption)), None)
        if seen is not None and (decided is not None or state.running):
            chosen = 0 if decided is None else _number(decided, candidates)
            if chosen is not None:
                self.seen.append(seen)
                self.chosen.append(chosen)
        return decisions


def _number(decision: Allocation | Preemption, candidates: Sequence[Candidate]) -> int | None:
    """Which candidate a decision is, counted from 1; None if it is none of them."""
    for number, (task, mode, _, run) in enumerate(candidates, 1):
        if isinstance(decision, Preemption):
            if run is not None and run.allocation.member == decision.member:
                return number
        elif run is None and task.key == decision.member[:2] and mode == decision.mode:
            return number
    return None


def _fit(rows: Floats, sizes: NDArray[np.int64], first: NDArray[np.int64], chosen: NDArray[np.int64]) -> Floats:
    decision = np.repeat(np.arange(len(sizes)), sizes)

    def loss(weights: Floats) -> tuple[float, Floats]:
        scores = rows @ weights
        highest = np.maximum.reduceat(scores, first)
        parts = np.exp(scores - highest[decision])
        sums = np.add.reduceat(parts, first)
        likelihood = (scores[chosen] - highest - np.log(sums)).mean() - _PENALTY * (weights @ weights) / 2
        gradient = (rows[chosen].sum(axis=0) - rows.T @ (parts / sums[decision])) / len(sizes) - _PENALTY * weights
        return -float(likelihood), -gradient

    start = np.zeros(rows.shape[1])
    weights: Floats = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    return weights
