"""From a list of what comes first, and modes, to a schedule: what searches search over."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from rlsched.model import Allocation
from rlsched.policies.planning.instance import Instance, check_objective
from rlsched.policies.planning.plan import Plan, Start, is_planned, plan_of
from rlsched.policies.planning.precedence import repaired
from rlsched.policies.planning.project import Project, as_project
from rlsched.policies.planning.rules import sampled
from rlsched.schedule import Schedule
from rlsched.state import State


class Solution(NamedTuple):
    """A list of genes in an order, a choice for each gene, and what the objective makes of them (lower is better)."""

    cost: float
    order: list[int]
    choices: list[int]


class Decoder(Protocol):
    """Makes schedules from lists.

    Attributes:
        predecessors: for each gene, those that must be ahead of it in every order.
        choices: for each gene, how many values its choice has.
        effort: schedules that one list costs.
        bound: what no schedule can cost less than.
    """

    predecessors: Sequence[Sequence[int]]
    choices: Sequence[int]
    effort: int
    bound: float

    def decode(self, order: Sequence[int], choices: Sequence[int]) -> Solution:
        """What the list is worth; with the list that gives that schedule, if it has been improved on the way."""

    def plan(self, solution: Solution) -> Plan:
        """The plan that a solution stands for."""

    def encode(self, schedule: Schedule) -> Solution:
        """The list behind a schedule of the instance."""

    def near(self, solution: Solution, luck: random.Random) -> tuple[list[int], list[int]]:
        """A random list near a solution's."""


class SerialDecoder:
    """One machine: serial schedule generation, and for makespan double justification. A gene is a member."""

    def __init__(self, instance: Instance, project: Project, objective: str) -> None:
        self.project = project
        self.predecessors: Sequence[Sequence[int]] = project.predecessors
        self.choices: Sequence[int] = [len(modes) for modes in project.modes]
        self._instance, self._objective = instance, objective
        self._justified = objective == "makespan"
        self.effort = 3 if self._justified else 1
        self._base = min(job.release for job in instance.jobs)
        self._number = {origin: i for i, origin in enumerate(project.origin)}
        self._job = [job for job, _, _ in project.origin]
        self.bound = self._cost(project.earliest(project.fastest), project.fastest)

    def decode(self, order: Sequence[int], choices: Sequence[int]) -> Solution:
        starts = self.project.serial(order, choices)
        cost = self._cost(starts, choices)
        if self._justified:
            justified = self.project.justify(starts, choices)
            better = self._cost(justified, choices)
            if better <= cost:
                cost, starts = better, justified
        return Solution(cost, sorted(range(len(starts)), key=starts.__getitem__), list(choices))

    def plan(self, solution: Solution) -> Plan:
        starts = self.project.serial(solution.order, solution.choices)
        plan = []
        for i in sorted(range(len(starts)), key=starts.__getitem__):
            job, index, _ = self.project.origin[i]
            if is_planned(job, index, self._instance):
                mode = self.project.modes[i][solution.choices[i]][0]
                gpus = self._instance.jobs[job].tasks[index].modes[mode].gpus
                plan.append(Start(job, index, mode, ((0, gpus),)))
        return plan

    def encode(self, schedule: Schedule) -> Solution:
        runs = sorted(schedule.runs, key=lambda run: run.start)
        order = self.project.repaired([self._number[run.member] for run in runs])
        numbers = {self._number[run.member]: run.mode for run in runs}
        choices = [
            next(choice for choice, (mode, _, _) in enumerate(modes) if mode == numbers[i])
            for i, modes in enumerate(self.project.modes)
        ]
        return Solution(self._instance.cost_of(schedule, self._objective), order, choices)

    def near(self, solution: Solution, luck: random.Random) -> tuple[list[int], list[int]]:
        """By regret-based biased random sampling, over the places in the list."""
        values = [0.0] * len(solution.order)
        for place, i in enumerate(solution.order):
            values[i] = float(place)
        return sampled(self.project, values, luck), solution.choices

    def _cost(self, starts: Sequence[int], choices: Sequence[int]) -> float:
        latest = [0] * len(self._instance.jobs)
        for job, start, ticks in zip(self._job, starts, self.project.ticks(choices), strict=True):
            if start + ticks > latest[job]:
                latest[job] = start + ticks
        return self._instance.cost([self._base + end * self.project.tick for end in latest], self._objective)


class SimulatedDecoder:
    """Any cluster: a list policy in the simulator. A gene is a task that a policy has to start.

    A choice is a mode and whether the task, where it is the first that cannot start, holds up all behind it: with
    that in the genes, both strict and back-filling schedules, and everything between, can be found.
    """

    effort = 1
    bound = -math.inf

    def __init__(self, instance: Instance, objective: str) -> None:
        self._instance, self._objective = instance, objective
        self.keys = [
            (job, task)
            for job, of in enumerate(instance.jobs)
            for task in of.topological
            if is_planned(job, task, instance)
        ]
        self._gene = {key: gene for gene, key in enumerate(self.keys)}
        self.predecessors: Sequence[Sequence[int]] = [self._before(*key) for key in self.keys]
        empty = State(instance.cluster)
        self._modes = []
        for job, index in self.keys:
            modes = instance.jobs[job].tasks[index].modes
            self._modes.append([number for number, mode in enumerate(modes) if empty.fits_when_empty(mode)])
        self.choices: Sequence[int] = [2 * len(modes) for modes in self._modes]

    def _before(self, job: int, index: int) -> list[int]:
        names = {self._instance.jobs[job].tasks[i].name: i for i in self._instance.jobs[job].topological}
        needs = (names[need] for need in self._instance.jobs[job].tasks[index].needs)
        return [self._gene[job, need] for need in needs if (job, need) in self._gene]

    def decode(self, order: Sequence[int], choices: Sequence[int]) -> Solution:
        cost = self._instance.cost_of(self._play(order, choices), self._objective)
        return Solution(cost, list(order), list(choices))

    def plan(self, solution: Solution) -> Plan:
        return plan_of(self._play(solution.order, solution.choices), self._instance)

    def encode(self, schedule: Schedule) -> Solution:
        first = {run.member[:2]: run for run in sorted(schedule.runs, key=lambda run: run.start, reverse=True)}
        runs = [first[key] for key in self.keys]
        order = sorted(range(len(runs)), key=lambda gene: (runs[gene].start, gene))
        choices = [2 * modes.index(run.mode) + 1 for modes, run in zip(self._modes, runs, strict=True)]
        return Solution(self._instance.cost_of(schedule, self._objective), order, choices)

    def near(self, solution: Solution, luck: random.Random) -> tuple[list[int], list[int]]:
        """Every task moves by about a tenth of the list at most, and a tenth of the choices is drawn anew."""
        reach = max(1.0, len(solution.order) / 10)
        place = {gene: number + luck.uniform(-reach, reach) for number, gene in enumerate(solution.order)}
        choices = [
            luck.randrange(self.choices[gene]) if luck.random() < 0.1 else choice
            for gene, choice in enumerate(solution.choices)
        ]
        return repaired(sorted(place, key=place.__getitem__), self.predecessors), choices

    def _play(self, order: Sequence[int], choices: Sequence[int]) -> Schedule:
        place = {self.keys[gene]: number for number, gene in enumerate(order)}
        chosen = {
            key: (modes[choice // 2], bool(choice % 2))
            for key, modes, choice in zip(self.keys, self._modes, choices, strict=True)
        }
        return self._instance.play(_ListPolicy(place, chosen))


class _ListPolicy:
    """Starts the first task in a list that fits in its mode; a task that holds others up lets none overtake."""

    def __init__(
        self, place: Mapping[tuple[int, int], int], chosen: Mapping[tuple[int, int], tuple[int, bool]]
    ) -> None:
        self._place, self._chosen = place, chosen

    def __call__(self, state: State) -> Sequence[Allocation]:
        for key in sorted(state.ready, key=self._place.__getitem__):
            mode, holds_up = self._chosen[key]
            if allocation := state.allocate(state.ready[key], mode):
                return (allocation,)
            if holds_up:
                break
        return ()


def decoder_for(instance: Instance, objective: str) -> SerialDecoder | SimulatedDecoder:
    """The fast one where the instance allows it.

    Raises:
        ValueError: there is no such objective.
    """
    check_objective(objective)
    project = as_project(instance)
    return SimulatedDecoder(instance, objective) if project is None else SerialDecoder(instance, project, objective)
