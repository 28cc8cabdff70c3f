"""A genetic algorithm over lists: the order of all tasks and a mode for each, evaluated as schedules.

Hartmann, Naval Research Logistics 1998 and 2002 (activity lists, two-point crossover, mutation by neighbours), with
the double justification of Valls, Ballestin & Quintanilla, EJOR 2008, where the list is decoded on one machine for
makespan. Selection, survival and the removal of duplicates are pymoo's: `pip install 'rlsched[genetic]'`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlsched.policies.options import need
from rlsched.policies.planning.budget import Budget
from rlsched.policies.planning.decoding import Decoder, Solution, decoder_for
from rlsched.policies.planning.instance import Instance, check_objective
from rlsched.policies.planning.plan import Plan, PlanningPolicy, PlayedPlan, plan_of
from rlsched.policies.planning.rollouts import GREEDY, rollouts, sampled_rollouts
from rlsched.policies.registry import load_policy
from rlsched.schedule import Schedule

Lists = tuple[Sequence[int], Sequence[int]]  # an order of the genes, and a choice for each
SWAP = 0.05  # probability of each mutation: Hartmann 1998, sec. 5
PATIENCE = 25  # generations without a better list, after which the population is made anew


def evolve(decoder: Decoder, first: Iterable[Lists], budget: Budget, seed: int = 0, population: int = 40) -> Solution:
    """The best list that a genetic algorithm finds.

    Args:
        decoder: makes schedules from lists; a list that it improves takes the place of the original.
        first: lists to begin with, at least one; if there are fewer than it takes, lists near them are added.
        budget: with seconds in it, equal seeds need not give equal results.
        seed: of all randomness.
        population: lists that survive a generation, at least 4.

    Raises:
        ImportError: pymoo is not installed.
    """
    if not decoder.predecessors:
        return decoder.decode((), ())
    search = _Search(decoder, _endless(decoder, first, random.Random(seed)), budget, population)
    rng = np.random.default_rng(seed)
    while search.goes_on:
        search.populate()
        while search.goes_on and search.stale < PATIENCE:
            search.breed(rng)
    assert search.best is not None, "a budget allows for one list at least"
    return search.best


def _endless(decoder: Decoder, first: Iterable[Lists], luck: random.Random) -> Iterator[Lists]:
    """The lists to begin with, then lists near them."""
    known = []
    for order, choices in first:
        known.append(Solution(0.0, list(order), list(choices)))
        yield order, choices
    while True:
        yield decoder.near(luck.choice(known), luck)


class _Search:
    """The population and the best list so far."""

    def __init__(self, decoder: Decoder, lists: Iterator[Lists], budget: Budget, population: int) -> None:
        from pymoo.algorithms.soo.nonconvex.ga import FitnessSurvival, comp_by_cv_and_fitness
        from pymoo.core.duplicate import DefaultDuplicateElimination
        from pymoo.core.mating import Mating
        from pymoo.core.problem import Problem
        from pymoo.operators.selection.tournament import TournamentSelection

        self.best: Solution | None = None
        self.stale = 0
        self._decoder, self._lists, self._budget, self._size = decoder, lists, budget, population
        genes = len(decoder.predecessors)
        self._problem = Problem(n_var=2 * genes, n_obj=1)
        self._unique = DefaultDuplicateElimination()
        crossover, mutation = _operators(decoder)
        parents = TournamentSelection(func_comp=comp_by_cv_and_fitness)
        self._mating = Mating(parents, crossover, mutation, eliminate_duplicates=self._unique, n_max_iterations=3)
        self._survival = FitnessSurvival()
        self._population: Any = None

    @property
    def goes_on(self) -> bool:
        """True until the budget is used up or the best list is as good as any can be."""
        return self.best is None or (self._budget.left and self.best.cost > self._decoder.bound)

    def populate(self) -> None:
        """A new population from the lists that come next."""
        from pymoo.core.population import Population

        solutions: list[Solution] = []
        while len(solutions) < self._size and self.goes_on:
            solutions.append(self._decode(*next(self._lists)))
        self.stale = 0
        self._population = Population.new(
            "X", np.array([(*s.order, *s.choices) for s in solutions]), "F", np.array([[s.cost] for s in solutions])
        )

    def breed(self, rng: np.random.Generator) -> None:
        """One generation."""
        from pymoo.core.population import Population

        before = self.best
        offspring = self._mating.do(self._problem, self._population, self._size, random_state=rng)
        genes = len(self._decoder.predecessors)
        for child in offspring:
            lists = child.X.tolist()
            solution = self._decode(lists[:genes], lists[genes:])
            child.X = np.array((*solution.order, *solution.choices))
            child.F = np.array([solution.cost])
            if not self.goes_on:
                return
        everybody = self._unique.do(Population.merge(self._population, offspring))
        self._population = self._survival.do(self._problem, everybody, n_survive=self._size, random_state=rng)
        self.stale = 0 if self.best is not before else self.stale + 1
        if not len(offspring):
            self.stale = PATIENCE

    def _decode(self, order: Sequence[int], choices: Sequence[int]) -> Solution:
        solution = self._decoder.decode(order, choices)
        self._budget.spend(self._decoder.effort)
        if self.best is None or solution.cost < self.best.cost:
            self.best = solution
        return solution


def crossed(mother: Lists, father: Lists, cuts: Sequence[int]) -> tuple[list[int], list[int]]:
    """Two-point crossover of lists: the mother's up to the first cut, then up to the second what comes first in the
    father's, then the rest as in the mother's. Every gene keeps the choice it has where it is taken from.

    If both parents respect precedence, so does the child (Hartmann 1998, sec. 4.2).
    """
    low, high = cuts
    order, choices = list(mother[0][:low]), list(mother[1])
    taken = set(order)
    for gene in father[0]:
        if len(order) == high:
            break
        if gene not in taken:
            order.append(gene)
            taken.add(gene)
            choices[gene] = father[1][gene]
    order += [gene for gene in mother[0] if gene not in taken]
    return order, choices


def mutated(
    lists: Lists, predecessors: Sequence[frozenset[int]], options: Sequence[int], luck: random.Random
) -> tuple[list[int], list[int]]:
    """Each neighbours in the list change places, and each choice changes, with a small probability."""
    order, choices = list(lists[0]), list(lists[1])
    for place in range(len(order) - 1):
        if luck.random() < SWAP and order[place] not in predecessors[order[place + 1]]:
            order[place], order[place + 1] = order[place + 1], order[place]
    for gene, count in enumerate(options):
        if count > 1 and luck.random() < SWAP:
            choices[gene] = luck.randrange(count)
    return order, choices


def _operators(decoder: Decoder) -> tuple[Any, Any]:
    """The two as pymoo has them: arrays of (parents, matings, 2 x genes), orders first, then choices."""
    from pymoo.core.crossover import Crossover
    from pymoo.core.mutation import Mutation

    genes, options = len(decoder.predecessors), decoder.choices
    predecessors = [frozenset(before) for before in decoder.predecessors]

    class TwoPoint(Crossover):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(n_parents=2, n_offsprings=2, prob=1.0)

        def _do(self, problem: Any, X: Any, *args: Any, random_state: Any = None, **kwargs: Any) -> Any:  # noqa: N803
            children = np.empty_like(X)
            cuts = np.sort(random_state.integers(0, genes + 1, size=(X.shape[1], 2)), axis=1).tolist()
            for mating, (mother, father) in enumerate(X.swapaxes(0, 1).tolist()):
                a, b = (mother[:genes], mother[genes:]), (father[:genes], father[genes:])
                for child, parents in enumerate(((a, b), (b, a))):
                    order, choices = crossed(*parents, cuts[mating])
                    children[child, mating] = order + choices
            return children

    class Neighbours(Mutation):  # type: ignore[misc]
        def _do(self, problem: Any, X: Any, *args: Any, random_state: Any = None, **kwargs: Any) -> Any:  # noqa: N803
            luck = random.Random(int(random_state.integers(2**63)))
            rows = [mutated((row[:genes], row[genes:]), predecessors, options, luck) for row in X.tolist()]
            return np.array([order + choices for order, choices in rows])

    return TwoPoint(), Neighbours()


@dataclass(frozen=True)
class Improved:
    """What a search has found.

    Attributes:
        cost: of the schedule, by the objective.
        plan, schedule: the best plan, and what came of it in the simulator.
    """

    cost: float
    plan: Plan
    schedule: Schedule


def improve(
    instance: Instance,
    objective: str,
    known: Iterable[Schedule],
    budget: Budget,
    seed: int = 0,
    population: int = 40,
) -> Improved:
    """Begin with schedules that policies have made, and search on from the lists behind them.

    This is how a learned policy is used where there is time to think: as it is, sampled, and improved.

    Args:
        objective: `mean_jct`, `makespan` or `weighted_tardiness`.
        known: schedules of the instance, at least one, the best first; made as they are asked for, within the budget.
        budget, seed, population: see `evolve`.

    Returns:
        What has come of the best list in the simulator, or the best of the known schedules if that is better.

    Raises:
        ValueError: there is no such objective.
        ImportError: pymoo is not installed.
    """
    decoder = decoder_for(instance, objective)
    schedules: list[Schedule] = []

    def lists() -> Iterator[Lists]:
        for schedule in known:
            schedules.append(schedule)
            solution = decoder.encode(schedule)
            yield solution.order, solution.choices

    plan = decoder.plan(evolve(decoder, lists(), budget, seed, population))
    schedules.append(instance.play(PlayedPlan(plan)))
    best = min(reversed(schedules), key=lambda schedule: instance.cost_of(schedule, objective))
    return Improved(instance.cost_of(best, objective), plan_of(best, instance), best)


class GeneticPolicy(PlanningPolicy):
    """Genetic algorithm: order and modes of all tasks in the system, made anew at every arrival; needs pymoo.

    Args:
        objective: `mean_jct`, `makespan` or `weighted_tardiness`.
        schedules: that are tried for a plan.
        seconds: CPU seconds for a plan; 0: no limit. With it runs cannot be repeated exactly.
        population: lists that survive a generation.
        start: the name or file of a policy, whose lists the search begins with; by default a few greedy ones.
        seed: of all randomness.

    Raises:
        ValueError: there is no such objective or policy, a number is out of range, or pymoo is not installed.
    """

    def __init__(
        self,
        *,
        objective: str = "mean_jct",
        schedules: int = 200,
        seconds: float = 0.0,
        population: int = 20,
        start: str = "",
        seed: int = 0,
    ) -> None:
        need("pymoo", "genetic")
        check_objective(objective)
        if not (schedules >= 1 and seconds >= 0 and population >= 4):
            raise ValueError("expected schedules of 1 or more, seconds of 0 or more, a population of 4 or more")
        if start:
            load_policy(start)

        def plan(instance: Instance) -> Plan:
            budget = Budget(schedules, seconds or math.inf)
            known = sampled_rollouts(instance, start, 4, seed=seed) if start else rollouts(instance, GREEDY)
            return improve(instance, objective, known, budget, seed, population).plan

        super().__init__(plan)
