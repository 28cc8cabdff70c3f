"""`rlsched benchmark`."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from rlsched.cli.output import console, messages, print_json, progress_bar, remark
from rlsched.executor.onray.connection import require_ray
from rlsched.experiments.benchmark import BenchmarkResult
from rlsched.experiments.benchmark import benchmark as run_benchmark
from rlsched.policies.shipped import policy_file
from rlsched.policies.tuned import read_tuned
from rlsched.report.units import label, show
from rlsched.scenario import Scenario, load_scenario

_SHOWN = ("p99_jct",)  # beside the objective; everything is in the files


def benchmark(
    scenario: str,
    policies: str,
    seeds: int,
    out: Path | None,
    processes: int,
    json: bool,
    tuned: Path | None = None,
    ray: str = "",
) -> None:
    if ray:
        require_ray("--ray")
    played = load_scenario(scenario)
    names = [name.strip() for name in _split(policies)]
    if not all(names):
        raise ValueError(f"--policies: expected names separated by commas, found {policies!r}")
    if tuned is not None:
        names += _tuned(tuned, played)
    result = benchmark_with_progress(played, names, seeds, out, processes, ray)
    if json:
        print_json(result.to_json())
    else:
        print_result(result)
        if out is not None:
            console.print(f"wrote {out}/benchmark.json, benchmark.csv and report.html", soft_wrap=True)
    if tuned is None and not any(policy_file(name.partition(":")[0]).suffix in (".yaml", ".yml") for name in names):
        remark(f"no baseline is tuned: see rlsched tune-baseline {scenario} and --tuned")


def _tuned(file: Path, scenario: Scenario) -> list[str]:
    """What the file of a tuned baseline adds: the best of every order, or the linear policy that it is."""
    found = read_tuned(file)
    if found.scenario and (found.scenario, found.objective) != (scenario.name, scenario.objective):
        remark(f"{file}: tuned for {label(found.objective)} on {found.scenario}")
    return [str(file)] if found.weights is not None else found.best_of_each() or [found.policy]


def benchmark_with_progress(
    scenario: Scenario, policies: list[str], seeds: int, out: Path | None, processes: int = 0, ray: str = ""
) -> BenchmarkResult:
    """Play the scenario's first `seeds` report workloads, with a bar on standard error."""
    with progress_bar() as bar:
        task = bar.add_task(f"playing {scenario.name}", total=None)
        return run_benchmark(
            scenario,
            policies,
            scenario.seed_range("report", seeds),
            processes,
            lambda done, total: bar.update(task, completed=done, total=total),
            out,
            ray,
        )


def print_result(result: BenchmarkResult, names: dict[str, str] | None = None) -> None:
    """The table of policies, best first. `names`: what to call a policy instead of its file."""
    rows = result.table()
    title = f"{result.scenario}: {label(result.objective)} over {len(result.seeds)} workloads, the same for all"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)  # without lines it fits 80 columns
    table.add_column("policy", overflow="fold", min_width=13)
    for column in (label(result.objective), "ratio", "95 % interval", "wins", *map(label, _SHOWN), "undone"):
        table.add_column(column, justify="right", no_wrap=column == "95 % interval")
    for row in rows:
        name = (names or {}).get(row.policy, row.policy)
        interval = "-" if row.reference or math.isnan(row.low) else f"{row.low:.3f}-{row.high:.3f}"
        wins = "-" if row.reference else f"{row.wins}/{len(result.seeds)}"
        table.add_row(
            f"{name} *" if row.reference else name,
            show(result.objective, row.mean),
            f"{row.ratio:.3f}",
            interval,
            wins,
            *(show(metric, row.metrics[metric]) for metric in _SHOWN),
            str(row.unfinished),
            style="bold" if row.learned else "",
        )
    console.print(table)
    console.print("* the best baseline on these workloads; ratios are to it, below 1 is better", style="dim")
    console.print("undone: jobs that did not end", style="dim")
    for policy, cells in result.cells.items():
        for taken, times in Counter(cell.took for cell in cells if cell.took is not None).most_common():
            console.print(
                f"{policy} took {taken} on {times} of {len(cells)} workloads", style="dim", markup=False, soft_wrap=True
            )
    if not any(row.learned for row in rows):
        messages.print("compare a trained policy too: add its file or folder to --policies")


def _split(policies: str) -> list[str]:
    """Split at the commas between policies, not at those between the options of one (name:a=1,b=2)."""
    parts: list[str] = []
    for piece in policies.split(","):
        if parts and "=" in piece.partition(":")[0] and "=" in parts[-1]:
            parts[-1] += f",{piece}"
        else:
            parts.append(piece)
    return parts
