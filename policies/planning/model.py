"""The constraint model of an instance, for CP-SAT."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple

from ortools.sat.python import cp_model

from rlsched.model import Member
from rlsched.policies.planning.instance import Instance
from rlsched.policies.planning.parts import Option, Part, Parts
from rlsched.policies.planning.plan import Plan, Start, is_planned
from rlsched.policies.planning.ticks import in_ticks
from rlsched.schedule import Schedule, TaskRun

_PATIENCE = 0.01  # seconds between two looks at the clock
_FINEST_WEIGHT = 1_000  # weights of jobs are rounded down to parts of the least one


class Found(NamedTuple):
    """The best plan, if there is one, and what no schedule costs less than."""

    plan: Plan | None
    bound: float


class _Placed(NamedTuple):
    """Variables of a part: its start and end, and for each option whether it is taken and on which of its places."""

    start: cp_model.LinearExprT
    end: cp_model.LinearExprT
    taken: tuple[cp_model.IntVar, ...]
    on: tuple[tuple[cp_model.IntVar, ...], ...]


def search(
    instance: Instance,
    parts: Parts,
    objective: str,
    hint: Schedule,
    effort: float,
    seconds: float,
    seed: int,
    workers: int,
) -> Found:
    """Solve the model; the arguments are those of `rlsched.policies.exact.solve`."""
    model = _Model(instance, parts, objective)
    model.hint(hint)
    _complete_hint(model.model)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = workers
    solver.parameters.random_seed = seed
    solver.parameters.catch_sigint_signal = False
    if effort < math.inf:
        solver.parameters.max_deterministic_time = effort
    with _stopped_after(seconds, solver):
        status = solver.solve(model.model)
    plan = model.plan(solver) if status in (cp_model.OPTIMAL, cp_model.FEASIBLE) else None
    return Found(plan, model.bound(solver.best_objective_bound))


@contextmanager
def _stopped_after(seconds: float, solver: cp_model.CpSolver) -> Iterator[None]:
    """Stop a solver when this process has used so many CPU seconds more: CP-SAT itself knows wall-clock time only."""
    limit, done = time.process_time() + seconds, threading.Event()

    def watch() -> None:
        while time.process_time() < limit:
            if done.wait(_PATIENCE):
                return
        while not done.wait(_PATIENCE):  # it may not have begun
            solver.stop_search()

    watcher = threading.Thread(target=watch, daemon=True)
    if seconds < math.inf:
        watcher.start()
    try:
        yield
    finally:
        done.set()
        if seconds < math.inf:
            watcher.join()


def _complete_hint(model: cp_model.CpModel) -> None:
    """Hint at every variable, also those that follow from the others: of a part of them CP-SAT makes little."""
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.fix_variables_to_their_hinted_value = True
    solver.parameters.max_deterministic_time = 1.0
    if solver.solve(model) in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        model.clear_hints()  # type: ignore[no-untyped-call]
        for index, value in enumerate(solver.response_proto.solution):
            model.add_hint(model.get_int_var_from_proto_index(index), value)


class _Model:
    def __init__(self, instance: Instance, parts: Parts, objective: str) -> None:
        self.model = cp_model.CpModel()
        self._instance, self._parts, self._objective = instance, parts, objective
        self._intervals: dict[tuple[int, str], list[tuple[cp_model.IntervalVar, int]]] = defaultdict(list)
        self._place_of = {node: p for p, place in enumerate(parts.places) for node in place.nodes}
        self._placed = [self._place(part) for part in parts.parts]
        self._ends: dict[tuple[int, int], cp_model.LinearExprT] = {}
        self._order_lanes_and_tasks()
        for (place, name), used in self._intervals.items():
            capacity = parts.places[place].amounts.get(name, 0)
            if sum(amount for _, amount in used) > capacity:
                self.model.add_cumulative([i for i, _ in used], [amount for _, amount in used], capacity)
        self._minimise()

    def _place(self, part: Part) -> _Placed:
        model, horizon = self.model, self._parts.horizon
        if part.held:
            (option,) = part.options
            interval = model.new_fixed_size_interval_var(0, option.ticks, "")
            for node, gpus in part.held:
                self._use(self._place_of[node], interval, {**option.takes, "gpus": gpus})
            return _Placed(0, option.ticks, (), ())
        start = model.new_int_var(part.release, horizon, "")
        if len(part.options) == 1 and not part.options[0].spans:
            (option,) = part.options
            length = part.members * option.ticks
            self._use(option.places[0], model.new_fixed_size_interval_var(start, length, ""), option.takes)
            return _Placed(start, start + length, (), ((),))
        end = model.new_int_var(part.release, horizon, "")
        taken, on = [], []
        for option in part.options:
            chosen = model.new_bool_var("")
            length = part.members * option.ticks
            model.add(end == start + length).only_enforce_if(chosen)
            taken.append(chosen)
            if option.spans:
                on.append(self._span(option, start, length, chosen))
            else:
                interval = model.new_optional_fixed_size_interval_var(start, length, chosen, "")
                self._use(option.places[0], interval, option.takes)
                on.append(())
        model.add_exactly_one(taken)
        return _Placed(start, end, tuple(taken), tuple(on))

    def _span(
        self, option: Option, start: cp_model.IntVar, length: int, chosen: cp_model.IntVar
    ) -> tuple[cp_model.IntVar, ...]:
        """Whole nodes, with enough GPUs together."""
        on = tuple(self.model.new_bool_var("") for _ in option.places)
        sizes = [self._parts.places[place].amounts["gpus"] for place in option.places]
        for here, place, size in zip(on, option.places, sizes, strict=True):
            self.model.add_implication(here, chosen)
            interval = self.model.new_optional_fixed_size_interval_var(start, length, here, "")
            self._use(place, interval, {**option.takes, "gpus": size})
        gpus = option.takes["gpus"]
        self.model.add(sum(size * here for size, here in zip(sizes, on, strict=True)) >= gpus).only_enforce_if(chosen)
        return on

    def _use(self, place: int, interval: cp_model.IntervalVar, takes: Mapping[str, int]) -> None:
        for name, amount in takes.items():
            if amount:
                self._intervals[place, name].append((interval, amount))

    def _order_lanes_and_tasks(self) -> None:
        """What is needed ends first; of equal lanes the first starts first, as one order is as good as another."""
        model, of_task = self.model, defaultdict(list)
        for part, placed in zip(self._parts.parts, self._placed, strict=True):
            of_task[part.job, part.task].append((part, placed))
        for (job, index), lanes in of_task.items():
            for (part, before), (other, after) in itertools.pairwise(lanes):
                if part.members == other.members:
                    model.add(before.start <= after.start)
            end = lanes[0][1].end
            if len(lanes) > 1:
                end = model.new_int_var(0, self._parts.horizon, "")
                for _, placed in lanes:
                    model.add(end >= placed.end)
            self._ends[job, index] = end
        for j, of in enumerate(self._instance.jobs):
            for i, successors in enumerate(of.successors):
                for successor in successors:
                    for _, placed in of_task[j, successor]:
                        model.add(placed.start >= self._ends[j, i])

    def _minimise(self) -> None:
        model, horizon = self.model, self._parts.horizon
        ends = []
        for j, job in enumerate(self._instance.jobs):
            end = model.new_int_var(0, horizon, "")
            for i, after in enumerate(job.successors):
                if not after:
                    model.add(end >= self._ends[j, i])
            ends.append(end)
        if self._objective == "makespan":
            latest = model.new_int_var(0, horizon, "")
            model.add_max_equality(latest, ends)
            model.minimize(latest)
        elif self._objective == "mean_jct":
            model.minimize(sum(ends))
        else:
            model.minimize(sum(self._weighted_tardiness(ends)))

    def _weighted_tardiness(self, ends: Sequence[cp_model.IntVar]) -> list[cp_model.LinearExprT]:
        late: list[cp_model.LinearExprT] = []
        for end, terms in zip(ends, self._instance.terms, strict=True):
            if terms.deadline is not None:
                due = in_ticks(terms.deadline - self._parts.start, self._parts.tick)
                tardiness = self.model.new_int_var(0, self._parts.horizon + max(0, -due), "")
                self.model.add(tardiness >= end - due)
                late.append(math.floor(terms.weight * self._weight_scale) * tardiness)
        return late

    @cached_property
    def _weight_scale(self) -> float:
        return _FINEST_WEIGHT / min(terms.weight for terms in self._instance.terms)

    def hint(self, schedule: Schedule) -> None:
        """Begin with a schedule, unless members share lanes, of which it knows nothing."""
        if any(part.members > 1 for part in self._parts.parts):
            return
        runs: dict[tuple[int, int], list[tuple[int, TaskRun]]] = defaultdict(list)
        for start, run in reversed(self._in_ticks(schedule)):
            runs[run.member[:2]].append((start, run))
        for part, placed in zip(self._parts.parts, self._placed, strict=True):
            start, run = runs[part.job, part.task].pop()
            places = {self._place_of[share.node] for share in run.shares}
            if isinstance(placed.start, cp_model.IntVar):
                self.model.add_hint(placed.start, start)
            for option, chosen, on in zip(part.options, placed.taken, placed.on, strict=False):
                taken = option.mode == run.mode and places <= set(option.places)
                self.model.add_hint(chosen, taken)
                for place, here in zip(option.places, on, strict=False):
                    self.model.add_hint(here, taken and place in places)

    def _in_ticks(self, schedule: Schedule) -> list[tuple[int, TaskRun]]:
        """The runs in order of start, each starting as soon as those that had ended before it have ended in ticks."""
        by_end = sorted(schedule.runs, key=lambda run: run.end)
        result: list[tuple[int, TaskRun]] = []
        ends: dict[Member, int] = {}
        latest = ended = 0
        for run in sorted(schedule.runs, key=lambda run: (run.start, run.member)):
            while by_end[ended].end <= run.start:
                latest = max(latest, ends[by_end[ended].member])
                ended += 1
            release = self._instance.jobs[run.member.job].release - self._parts.start
            start = max(latest, in_ticks(release, self._parts.tick))
            seconds = schedule.mode_of(run).duration
            if len(run.shares) > 1:
                seconds /= schedule.cluster.span_speed
            ends[run.member] = start + in_ticks(seconds, self._parts.tick)
            result.append((start, run))
        return result

    def plan(self, solver: cp_model.CpSolver) -> Plan:
        """The solution in order of start."""
        starts: list[tuple[int, int, Start]] = []
        for number, (part, placed) in enumerate(zip(self._parts.parts, self._placed, strict=True)):
            if not is_planned(part.job, part.task, self._instance):
                continue
            which = next((n for n, chosen in enumerate(placed.taken) if solver.boolean_value(chosen)), 0)
            option = part.options[which]
            start = Start(part.job, part.task, option.mode, self._nodes(option, placed.on[which], solver))
            begin = solver.value(placed.start)
            starts += [(begin + member * option.ticks, number, start) for member in range(part.members)]
        return [start for _, _, start in sorted(starts)]

    def _nodes(
        self, option: Option, on: Sequence[cp_model.IntVar], solver: cp_model.CpSolver
    ) -> tuple[tuple[int, int], ...]:
        gpus, places = option.takes.get("gpus", 0), self._parts.places
        if not option.spans:
            nodes = places[option.places[0]].nodes
            return ((nodes[0], gpus),) if len(nodes) == 1 else ()
        shares = []
        for place, here in zip(option.places, on, strict=True):
            if solver.boolean_value(here) and gpus:
                held = min(gpus, places[place].amounts["gpus"])
                shares.append((places[place].nodes[0], held))
                gpus -= held
        return tuple(shares)

    def bound(self, best: float) -> float:
        """A bound of the model as one of the instance.

        In the model every part may have been rounded up by a tick, and no end can be later than by all of these.
        """
        if not self._parts.complete:
            return -math.inf
        slack = 0 if self._parts.whole else len(self._parts.parts)
        start, tick = self._parts.start, self._parts.tick
        if self._objective == "makespan":
            first = min(terms.release for terms in self._instance.terms)
            return start + tick * max(0.0, best - slack) - first
        if self._objective == "mean_jct":
            jobs = len(self._instance.jobs)
            waited = math.fsum(start - terms.release for terms in self._instance.terms)
            return (waited + tick * max(0.0, best - slack * jobs)) / jobs
        weights = math.fsum(terms.weight for terms in self._instance.terms if terms.deadline is not None)
        return max(0.0, tick * (best / self._weight_scale - slack * weights))
