"""How far from the optimum: priority rules, searches and a learned policy on the instances of PSPLIB's j30.

python -m rlsched.experiments.psplib_table --data DATA/psplib/j30 --policy runs/rcpsp

Each instance is a project of 30 activities on four renewable resources; what counts is the makespan. The optimum of
each is found and proved by CP-SAT first, without a limit unless `--optimum-seconds` sets one, and kept in the results
file. Then every method has its turn:

- `lft`, `lst`, ...: one list by a priority rule, serial schedule generation;
- `lft sampled`: regret-based biased random sampling around LFT until the time is up, without justification;
- `ga`: the genetic algorithm, from lists sampled around LFT; `cp-sat`: CP-SAT, with the plan known so far;
- for each `--policy`: as it is, one schedule in the simulator; and `+ search`: that schedule, three samples from the
  policy if it can be sampled from, then the genetic algorithm from there.

Limits are CPU seconds of one core (`--seconds`, 1 by default), and so are the times in the table; imports do not count.
What is there of an earlier run by the same version of the code, with the same limit, is kept: a run that was
interrupted goes on. The optima are kept from any version. All schedules are checked.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import random
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

import rlsched
from rlsched.experiments.cells import digest_of
from rlsched.manifest import commit, manifest
from rlsched.policies.exact import solve
from rlsched.policies.genetic import evolve, improve
from rlsched.policies.planning.budget import Budget
from rlsched.policies.planning.decoding import SerialDecoder, Solution
from rlsched.policies.planning.instance import Instance, all_known
from rlsched.policies.planning.plan import PlayedPlan
from rlsched.policies.planning.project import as_project
from rlsched.policies.planning.rollouts import sampled_rollouts
from rlsched.policies.planning.rules import RULES, latest_finish, listed, sampled
from rlsched.policies.registry import load_policy
from rlsched.schedule import Schedule
from rlsched.traces.importing import read_trace
from rlsched.workers import available_cores, submit_all, worker_pool

RESAMPLES = 10_000
OPTIMUM = "optimum"
SEED = 0
FIRST_LISTS = 40  # of the genetic algorithm, drawn around LFT
_LAZY = (
    "rlsched.policies.planning.model",
    "pymoo.algorithms.soo.nonconvex.ga",
    "pymoo.core.mating",
    "pymoo.operators.selection.tournament",
)
WRITE_EVERY = 10.0  # seconds
ROLLOUTS = 4  # of a policy: as it is, and three samples


@dataclass(frozen=True, slots=True)
class Cell:
    """What a method made of an instance: the makespan, CPU seconds, and for the optimum a lower bound."""

    instance: str
    method: str
    makespan: float
    seconds: float
    bound: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A method's line in the table: gaps to the optimum in per cent, CPU seconds an instance."""

    method: str
    instances: int
    mean_gap: float
    low: float
    high: float
    max_gap: float
    optimal: int
    seconds: float


class Problem:
    """An instance, read and made ready for every method."""

    def __init__(self, file: Path) -> None:
        trace = read_trace("psplib", file)
        self.name = file.stem
        self.instance: Instance = all_known(trace.cluster.cluster(), trace.jobs)
        project = as_project(self.instance)
        assert project is not None, "one machine, no set-up times"
        self.project = project
        self.chosen = project.fastest

    def played(self, order: Sequence[int]) -> float:
        """The makespan of a list, in the simulator; the schedule is checked."""
        decoder = SerialDecoder(self.instance, self.project, "makespan")
        plan = decoder.plan(Solution(math.inf, list(order), list(self.chosen)))
        schedule = self.instance.play(PlayedPlan(plan))
        schedule.check()
        return self.instance.cost_of(schedule, "makespan")


def optimum(problem: Problem, seconds: float) -> Cell:
    """CP-SAT until it has proved the optimum, or the limit."""
    began = time.process_time()
    found = solve(problem.instance, "makespan", seconds=seconds, seed=SEED, known=[_by_search(problem, Budget(3_000))])
    found.schedule.check()
    return Cell(problem.name, OPTIMUM, found.cost, time.process_time() - began, found.bound)


def by_rule(problem: Problem, rule: str) -> float:
    """One list."""
    return problem.played(listed(problem.project, RULES[rule](problem.project, problem.chosen)))


def by_sampling(problem: Problem, seconds: float) -> float:
    """The best of the lists drawn around LFT."""
    budget, luck, project = Budget(seconds=seconds), random.Random(SEED), problem.project
    values = latest_finish(project, problem.chosen)
    ticks = project.ticks(problem.chosen)
    order, best = listed(project, values), math.inf
    drawn = order
    while budget.left:
        starts = project.serial(drawn, problem.chosen)
        end = max(start + own for start, own in zip(starts, ticks, strict=True))
        if end < best:
            order, best = drawn, end
        drawn = sampled(project, values, luck)
    return problem.played(order)


def by_ga(problem: Problem, seconds: float) -> float:
    """The genetic algorithm."""
    schedule = _by_search(problem, Budget(seconds=seconds))
    return problem.instance.cost_of(schedule, "makespan")


def by_cp_sat(problem: Problem, seconds: float) -> float:
    """CP-SAT with a limit; it starts from the schedules of greedy policies."""
    found = solve(problem.instance, "makespan", seconds=seconds, seed=SEED)
    found.schedule.check()
    return found.cost


def by_policy(problem: Problem, policy: str) -> float:
    """The policy as it is."""
    schedule = problem.instance.play(load_policy(policy, seed=SEED))
    schedule.check()
    return problem.instance.cost_of(schedule, "makespan")


def by_policy_and_search(problem: Problem, policy: str, seconds: float) -> float:
    """The policy, samples from it, and the genetic algorithm from there."""
    budget = Budget(seconds=seconds)
    known = sampled_rollouts(problem.instance, policy, ROLLOUTS, seed=SEED)
    found = improve(problem.instance, "makespan", known, budget, SEED)
    found.schedule.check()
    return found.cost


def _by_search(problem: Problem, budget: Budget) -> Schedule:
    project, luck = problem.project, random.Random(SEED)
    decoder = SerialDecoder(problem.instance, project, "makespan")
    values = latest_finish(project, problem.chosen)
    first = [listed(project, values), *(sampled(project, values, luck) for _ in range(FIRST_LISTS - 1))]
    best = evolve(decoder, ((order, problem.chosen) for order in first), budget, SEED)
    schedule = problem.instance.play(PlayedPlan(decoder.plan(best)))
    schedule.check()
    return schedule


def methods(policies: Iterable[str], seconds: float) -> dict[str, Callable[[Problem], float]]:
    """Every method by its name in the table."""
    of: dict[str, Callable[[Problem], float]] = {rule: partial(by_rule, rule=rule) for rule in RULES}
    of["lft sampled"] = partial(by_sampling, seconds=seconds)
    of["ga"] = partial(by_ga, seconds=seconds)
    of["cp-sat"] = partial(by_cp_sat, seconds=seconds)
    for policy in policies:
        of[policy] = partial(by_policy, policy=policy)
        of[f"{policy} + search"] = partial(by_policy_and_search, policy=policy, seconds=seconds)
    return of


def table(cells: Iterable[Cell]) -> list[Row]:
    """One row a method; gaps are to the best makespan known, which is the optimum where that is proved."""
    by_method: dict[str, dict[str, Cell]] = {}
    for cell in cells:
        by_method.setdefault(cell.method, {})[cell.instance] = cell
    best = {name: cell.makespan for name, cell in by_method.pop(OPTIMUM, {}).items()}
    rows = []
    for method, of in by_method.items():
        done = [cell for name, cell in of.items() if name in best]
        if not done:
            continue
        gaps = np.array([100.0 * (cell.makespan / best[cell.instance] - 1.0) for cell in done])
        picks = np.random.default_rng(0).integers(len(gaps), size=(RESAMPLES, len(gaps)))
        low, high = np.quantile(gaps[picks].mean(axis=1), [0.025, 0.975])
        optimal = int((gaps < 1e-6).sum())
        seconds = float(np.mean([cell.seconds for cell in done]))
        rows.append(
            Row(method, len(done), float(gaps.mean()), float(low), float(high), float(gaps.max()), optimal, seconds)
        )
    return rows


def markdown(rows: Iterable[Row]) -> str:
    """The table for the documentation."""
    lines = [
        "| Method | Mean gap | 95 % interval | Largest gap | Optimal | CPU seconds |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row.method} | {row.mean_gap:.2f} % | {row.low:.2f}-{row.high:.2f} % | {row.max_gap:.1f} % "
        f"| {row.optimal}/{row.instances} | {row.seconds:.3f} |"
        for row in rows
    ]
    return "\n".join(lines)


class ResultFile:
    """The results so far."""

    def __init__(self, path: Path, seconds: float, policies: Sequence[str]) -> None:
        self._path = path
        self._written = time.monotonic()
        checkout = commit()
        self._code = rlsched.__version__ if checkout is None else checkout["hash"]
        self._seconds = seconds
        self._files = {policy: digest_of(policy) for policy in policies}
        self.cells: dict[tuple[str, str], Cell] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        try:
            found = json.loads(self._path.read_text())
            cells = [Cell(**cell) for cell in found["cells"]]
            same = (found["code"], found["seconds"]) == (self._code, self._seconds)
            files = found["policies"] if same else {}
        except (OSError, ValueError, KeyError, TypeError):
            raise ValueError(f"{self._path}: expected the results of this script, found something else") from None
        for cell in cells:
            policy = cell.method.removesuffix(" + search")
            current = policy not in self._files or self._files[policy] == files.get(policy)
            if cell.method == OPTIMUM or (same and current):
                self.cells[cell.instance, cell.method] = cell
        self._files = files | self._files

    def add(self, cell: Cell) -> None:
        """Enter a cell that is done; the file follows within a few seconds."""
        self.cells[cell.instance, cell.method] = cell
        if time.monotonic() > self._written + WRITE_EVERY:
            self.write()

    def write(self) -> None:
        """Replace the file."""
        rows = [asdict(row) for row in table(self.cells.values())]
        cells = [asdict(cell) for cell in self.cells.values()]
        settings = {"code": self._code, "seconds": self._seconds, "policies": self._files}
        content = {**settings, "manifest": manifest([SEED]), "rows": rows, "cells": cells}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        temporary.replace(self._path)
        self._written = time.monotonic()


class _Player:
    """Plays methods in a worker process."""

    def __init__(self, policies: Sequence[str], seconds: float, optimum_seconds: float) -> None:
        # First of all, so that imports and the reading of policies count for no instance.
        for module in _LAZY:
            importlib.import_module(module)
        for policy in policies:
            load_policy(policy)
        self._methods, self._optimum_seconds = methods(policies, seconds), optimum_seconds

    def __call__(self, file: Path, method: str) -> Cell:
        problem = Problem(file)
        if method == OPTIMUM:
            return optimum(problem, self._optimum_seconds)
        began = time.process_time()
        makespan = self._methods[method](problem)
        return Cell(problem.name, method, makespan, time.process_time() - began)


_player: _Player  # of a worker process


def _begin(policies: Sequence[str], seconds: float, optimum_seconds: float) -> None:
    global _player
    _player = _Player(policies, seconds, optimum_seconds)


def _play(file: Path, method: str) -> Cell:
    return _player(file, method)


def run(
    files: Sequence[Path],
    policies: Sequence[str],
    seconds: float,
    out: Path,
    optimum_seconds: float = math.inf,
    processes: int = 0,
) -> list[Row]:
    """Play what is missing, and return the table.

    Raises:
        ValueError: `out` is there and not of this script, a policy that cannot be loaded, or a broken instance.
    """
    for policy in policies:
        load_policy(policy)
    results = ResultFile(out, seconds, policies)
    wanted = [(file, method) for method in (OPTIMUM, *methods(policies, seconds)) for file in files]
    missing = [(file, method) for file, method in wanted if (file.stem, method) not in results.cells]
    console = Console(stderr=True)
    with (
        worker_pool(processes or available_cores(), _begin, policies, seconds, optimum_seconds) as pool,
        Progress(console=console, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task("playing", total=len(wanted), completed=len(wanted) - len(missing))
        futures = submit_all(pool, _play, missing)
        try:
            for future in as_completed(futures):
                results.add(future.result())
                bar.advance(task)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            results.write()
    names = {file.stem for file in files}
    order = {method: number for number, method in enumerate(methods(policies, seconds))}
    rows = table(cell for cell in results.cells.values() if cell.instance in names)
    return sorted((row for row in rows if row.method in order), key=lambda row: order[row.method])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(rlsched.__file__).parents[1]
    data = Path(os.environ.get("RLSCHED_DATA") or here.parent / "shared" / "data") / "psplib" / "j30"
    parser.add_argument("--data", type=Path, default=data, help="folder of the .rcp files")
    parser.add_argument("--policy", action="append", default=[], help="a name or a trained policy; may be repeated")
    parser.add_argument("--seconds", type=float, default=1.0, help="CPU seconds an instance for each search")
    parser.add_argument("--optimum-seconds", type=float, default=math.inf, help="CPU seconds to prove an optimum")
    parser.add_argument("--instances", type=int, help="only so many, evenly spread over the folder")
    parser.add_argument("--processes", type=int, default=0, help="in parallel; 0: one a core")
    parser.add_argument("-o", "--out", type=Path, default=here / "experiments" / "results" / "psplib.json")
    given = parser.parse_args()
    files = sorted(given.data.glob("*.rcp"))
    if not files:
        parser.exit(2, f"{given.data}: expected a folder of PSPLIB's j30 as .rcp files, found none; see --data\n")
    if given.instances:
        files = files[:: max(1, len(files) // given.instances)][: given.instances]
    try:
        rows = run(files, given.policy, given.seconds, given.out, given.optimum_seconds, given.processes)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{error}\n")
    print(markdown(rows))


if __name__ == "__main__":
    main()
