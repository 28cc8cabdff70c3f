"""Compare policies on the same workloads, in parallel processes, and go on where an interrupted benchmark stopped.

Protocol. Every policy plays every report seed: same jobs, same true durations. A cell is one (policy, seed). Its score
is the scenario's objective (`Schedule.score`). The reference is the baseline (any policy that is not
learned) with the lowest mean score *on these very seeds*, which if anything favours the baselines. Ratios are of means
over seeds; their 95 % intervals come from a percentile bootstrap that resamples seeds, keeping the pairs together
(Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13). Wins, losses and unfinished jobs are counted.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlsched.experiments.cells import BenchmarkError, Cell, CellFile, finite
from rlsched.experiments.playing import Workers, load, play, simulate
from rlsched.manifest import manifest
from rlsched.policies.registry import load_policy, policy_names
from rlsched.policies.shipped import policy_file
from rlsched.scenario import Scenario
from rlsched.schedule import Schedule

RESAMPLES = 10_000
Progress = Callable[[int, int], None]
"""Called with the number of cells that are done, and of all."""


@dataclass(frozen=True, slots=True)
class Row:
    """A policy's line in the table.

    Attributes:
        learned: it is a trained policy, not a baseline.
        reference: it is what the others are compared with.
        mean: of the score over all seeds.
        ratio, low, high: mean score / the reference's, and its 95 % interval (not a number with a single seed).
        wins, losses: seeds on which its score is below or above the reference's.
        unfinished: jobs that did not complete, over all seeds.
        metrics: means over all seeds, leaving out those where a metric is not a number.
    """

    policy: str
    learned: bool
    reference: bool
    mean: float
    ratio: float
    low: float
    high: float
    wins: int
    losses: int
    unfinished: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class BenchmarkResult:
    """All cells of a benchmark, by policy in the order asked for and seed in ascending order."""

    scenario: str
    objective: str
    seeds: tuple[int, ...]
    cells: dict[str, list[Cell]]
    manifest: dict[str, Any]

    @property
    def reference(self) -> str:
        """The baseline with the lowest mean score; of learned policies alone, the best of these."""
        baselines = [policy for policy in self.cells if not is_learned(policy)]
        return min(baselines or self.cells, key=lambda policy: float(np.mean(self.scores(policy))))

    def scores(self, policy: str) -> list[float]:
        """A policy's score on each seed."""
        return [cell.score for cell in self.cells[policy]]

    def table(self) -> list[Row]:
        """One row a policy, best first."""
        reference = self.reference
        base = np.array(self.scores(reference))
        rows = []
        for policy, cells in self.cells.items():
            scores = np.array(self.scores(policy))
            ratio, low, high = paired_ratio(scores, base)
            row = Row(
                policy=policy,
                learned=is_learned(policy),
                reference=policy == reference,
                mean=float(scores.mean()),
                ratio=ratio,
                low=low,
                high=high,
                wins=int((scores < base).sum()),
                losses=int((scores > base).sum()),
                unfinished=int(sum(cell.metrics["unfinished_jobs"] for cell in cells)),
                metrics={name: _mean(cell.metrics[name] for cell in cells) for name in cells[0].metrics},
            )
            rows.append(row)
        return sorted(rows, key=lambda row: row.mean)

    def to_json(self) -> dict[str, Any]:
        """Plain data: `rows` as in `table`, every cell, and the manifest. What is not a number is None."""
        cells = [asdict(cell) for of_policy in self.cells.values() for cell in of_policy]
        plain: dict[str, Any] = finite({**self._summary(), "cells": cells})
        return plain

    def write(self, folder: Path, schedules: dict[str, Schedule]) -> None:
        """Write benchmark.json, benchmark.csv (one line a cell) and report.html.

        Args:
            folder: exists.
            schedules: by policy, what it made of the first seed; for the report.

        Raises:
            OSError: a file cannot be written.
        """
        from rlsched.report.comparison import write_comparison  # plotly takes half a second to import

        (folder / "benchmark.json").write_text(json.dumps(self.to_json(), indent=1) + "\n")
        with (folder / "benchmark.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            names = list(next(iter(self.cells.values()))[0].metrics)
            writer.writerow(["policy", "seed", "score", *names])
            for cells in self.cells.values():
                writer.writerows([c.policy, c.seed, c.score, *(c.metrics[name] for name in names)] for c in cells)
        scores = {policy: self.scores(policy) for policy in self.cells}
        write_comparison(folder / "report.html", self._summary(), scores, schedules)

    def _summary(self) -> dict[str, Any]:
        return {
            "scenario": self.scenario,
            "objective": self.objective,
            "reference": self.reference,
            "seeds": list(self.seeds),
            "rows": [asdict(row) for row in self.table()],
            "manifest": self.manifest,
        }


def benchmark(
    scenario: Scenario,
    policies: Sequence[str],
    seeds: Sequence[int],
    processes: int = 0,
    progress: Progress | None = None,
    out_dir: Path | None = None,
    ray: str = "",
) -> BenchmarkResult:
    """Play every seed with every policy.

    Args:
        scenario: what is played; its objective is the score.
        policies: names and files, as for `load_policy`.
        seeds: of the workloads; use `scenario.seed_range("report", n)`.
        processes: how many work in parallel; 0: one a core; 1: this one.
        progress: called after every cell.
        out_dir: holds cells.jsonl, to which every finished cell is appended and from which a second call continues
            (with more policies or seeds, too), and in the end benchmark.json, benchmark.csv and report.html.
        ray: address of a Ray cluster to play on; empty: this machine.

    Raises:
        BenchmarkError: nothing to play, a policy that fails on a workload, or an `out_dir` with results of another
            scenario, another version of the code, or other contents of a policy's file.
        ValueError: a policy that cannot be loaded, or no such cluster.
    """
    policies, seeds = list(dict.fromkeys(policies)), sorted(set(seeds))
    if not policies or not seeds:
        raise BenchmarkError("expected at least one policy and one seed")
    for policy in policies:
        load_policy(policy, seed=seeds[0])
    store = None
    if out_dir is not None:
        out_dir.mkdir(parents=True, exist_ok=True)
        store = CellFile(out_dir / "cells.jsonl", scenario, policies)
    cells = {} if store is None else store.cells
    wanted = [(policy, seed) for seed in seeds for policy in policies]
    missing = [key for key in wanted if key not in cells]
    schedules: dict[str, Schedule] = {}
    with Workers(scenario, processes, len(missing), ray) as workers:
        for done, cell in enumerate(workers.map(play, missing), len(wanted) - len(missing) + 1):
            cells[cell.policy, cell.seed] = cell
            if store is not None:
                store.add(cell)
            if progress is not None:
                progress(done, len(wanted))
        if out_dir is not None:
            schedules = dict(workers.map(_first_schedule, [(policy, seeds[0]) for policy in policies]))
    result = BenchmarkResult(
        scenario.name,
        scenario.objective,
        tuple(seeds),
        {policy: [cells[policy, seed] for seed in seeds] for policy in policies},
        manifest(seeds),
    )
    if out_dir is not None:
        result.write(out_dir, {policy: schedules[policy] for policy in policies})
    return result


def paired_ratio(scores: np.ndarray, reference: np.ndarray) -> tuple[float, float, float]:
    """Ratio of the means of two paired samples, and its 95 % interval by a percentile bootstrap of the pairs.

    Equal input gives equal output. The interval of a single pair is (nan, nan), and so is everything if the
    reference is 0.
    """
    count = len(scores)
    picks = np.random.default_rng(0).integers(count, size=(RESAMPLES if count > 1 else 0, count))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = float(np.float64(scores.mean()) / reference.mean())
        ratios = scores[picks].mean(axis=1) / reference[picks].mean(axis=1)
    if not len(ratios) or not np.isfinite(ratios).all():
        return (ratio if math.isfinite(ratio) else math.nan, math.nan, math.nan)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return ratio, float(low), float(high)


def is_learned(policy: str) -> bool:
    """True for the file or folder of a trained policy, and for `auto` and `switch`, which may take one.

    All others are baselines: names, and the files of tuned ones.
    """
    name = policy.partition(":")[0]
    if name in policy_names():
        return name in ("auto", "switch")
    return policy_file(name).suffix not in (".yaml", ".yml")


def _first_schedule(policy: str, seed: int) -> tuple[str, Schedule]:
    return policy, simulate(policy, load(policy, seed), seed)


def _mean(values: Iterable[float]) -> float:
    numbers = [value for value in values if math.isfinite(value)]
    return math.fsum(numbers) / len(numbers) if numbers else math.nan
