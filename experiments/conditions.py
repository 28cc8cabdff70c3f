"""One trained policy under other loads, noise, machines and objectives, against heuristics tuned for each.

python -m rlsched.experiments.conditions --policy pretrained/het16 [--seeds 100] [--only het16-load0.7 ...]

For every condition the orders below are tuned by `rlsched tune-baseline` on its own training workloads and chosen on
its validation workloads, for 90 trials; then the policies, the best tuned heuristic and its runners-up play its report
workloads. Ratios are to the tuned heuristic that is best on the report workloads. What was played before by the same
version of the code is kept in `--work`: an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import rlsched
from rlsched.experiments.benchmark import BenchmarkResult, benchmark
from rlsched.experiments.cells import finite
from rlsched.experiments.tune import TuningConfig, tune
from rlsched.manifest import manifest
from rlsched.policies.tuned import read_tuned
from rlsched.report.units import duration
from rlsched.scenario import Scenario, load_scenario

ORDERS = ("srpt", "shortest-path", "fair", "tetris", "critical-path", "sjf")
UNTUNED = ("lp",)
CONDITIONS: dict[str, Callable[[], Scenario]] = {
    "het16-load0.7": lambda: load_scenario("het16").with_(load=0.7),
    "het16-load0.8": lambda: load_scenario("het16").with_(load=0.8),
    "het16-load0.95": lambda: load_scenario("het16").with_(load=0.95),
    "het16-noise0.8": lambda: load_scenario("het16").with_(noise=0.8),
    "hom16": lambda: load_scenario("hom16"),
    "makespan": lambda: load_scenario("makespan"),
    "preemptive16": lambda: load_scenario("preemptive16"),
}
_TUNING = TuningConfig(trials=90, training_workloads=24, validation_workloads=32, families=ORDERS)
_RUNNERS_UP = 2  # other tuned heuristics that play the report workloads too


def compare(name: str, policies: Sequence[str], seeds: int, work: Path, processes: int) -> BenchmarkResult:
    """Tune for a condition if that has not been done, then play it.

    Raises:
        ValueError: a policy that does not exist or fails.
    """
    scenario = CONDITIONS[name]()
    tuned = work / f"{name}.yaml"
    if not tuned.exists():
        _say(f"{name}: tuning")
        tune(scenario, tuned, _TUNING, resume=True, processes=processes)
    best = [member.policy for member in read_tuned(tuned).members[: 1 + _RUNNERS_UP]]
    _say(f"{name}: playing")
    names = [*best, *UNTUNED, *policies]
    return benchmark(scenario, names, scenario.seed_range("report", seeds), processes, out_dir=work / name)


def markdown(results: dict[str, BenchmarkResult]) -> str:
    """The table for the documentation."""
    lines = [
        "| Condition | Policy | Mean | Ratio | 95 % interval | Wins | Unfinished |",
        "| --- | --- | ---: | ---: | --- | ---: | ---: |",
    ]
    for name, result in results.items():
        count = len(result.seeds)
        for row in result.table():
            interval = "" if row.reference else f"{row.low:.3f}-{row.high:.3f}"
            wins = "" if row.reference else f"{row.wins} of {count}"
            lines.append(
                f"| {name} | `{row.policy}` | {duration(row.mean)} | {row.ratio:.3f} | {interval} | {wins} "
                f"| {row.unfinished} |"
            )
    return "\n".join(lines)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(rlsched.__file__).parents[1]
    parser.add_argument("--policy", action="append", default=[], help="name or file; may be repeated")
    parser.add_argument("--only", nargs="+", choices=CONDITIONS, default=list(CONDITIONS), metavar="CONDITION")
    parser.add_argument("--seeds", type=int, default=100, help="report workloads of each condition")
    parser.add_argument("--processes", type=int, default=0, help="in parallel; 0: one a core")
    parser.add_argument("--work", type=Path, default=here / "runs" / "conditions", help="tuned baselines and cells")
    parser.add_argument("-o", "--out", type=Path, default=here / "experiments" / "results" / "conditions.json")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    results: dict[str, BenchmarkResult] = {}
    try:
        for name in given.only:
            results[name] = compare(name, given.policy, given.seeds, given.work, given.processes)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{error}\n")
    rows = {name: [asdict(row) for row in result.table()] for name, result in results.items()}
    content: dict[str, Any] = finite({"manifest": manifest([]), "seeds": given.seeds, "conditions": rows})
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(content, indent=1) + "\n")
    print(markdown(results))


if __name__ == "__main__":
    main()
