"""Gavel's traces: our implementations of Gavel's policies beside greedy policies, on 2 V100 + 2 P100 + 2 K80.

python -m rlsched.experiments.gavel_table --data DATA/gavel --policy srpt:blocking=none

Each trace is played twice. As it is ("rigid"), a job has a mode for every GPU type on which it was measured with as
many GPUs as it asks for; jobs of more GPUs than there are of any one type fit nowhere and are left out. With
`--moldable` ("moldable") all jobs take part, and the policy chooses among the GPU counts that were measured. Jobs are
preemptible, checkpoints take no time, and durations are exact: one seed is enough.

Beside each table stands a makespan that no schedule can be below: that of all jobs there from the start and divisible
at will, by the linear program of Gavel's makespan policy.

What was played before by the same version of the code is kept in `--work`: an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

import rlsched
from rlsched.experiments.benchmark import benchmark
from rlsched.experiments.cells import finite
from rlsched.manifest import manifest
from rlsched.policies.timeshares import Claim, Program, makespan
from rlsched.policies.ways import Ways, capacity
from rlsched.scenario import Scenario, load_scenario
from rlsched.state import State
from rlsched.traces.gavel import THROUGHPUTS
from rlsched.traces.importing import import_trace
from rlsched.traces.trace import Wish

TRACES = ("minimize_makespan", "max_min_fairness", "shockwave_120")
SEED = 0  # nothing is drawn
LARGEST = 2  # GPUs of one type
OTHERS = ("fifo", "las", "srpt", "sjf", "lp", "lp-horizon")
GAVEL = ("fifo", "sjf", "max-min", "ftf", "makespan", "throughput")
POLICIES = (*OTHERS, *(f"gavel-{name}{options}" for name in GAVEL for options in ("", ":aware=false")))
METRICS = ("mean_jct", "makespan", "p99_jct", "finish_time_fairness", "utilisation", "preemptions", "unfinished_jobs")
_SCALE_FACTOR = 6  # column of the trace


@dataclass(frozen=True)
class Played:
    """A table: what each policy made of a trace; times in seconds."""

    trace: str
    form: str
    jobs: int
    left_out: int
    bound: float
    rows: dict[str, dict[str, float]]


def prepared(data: Path, trace: str, moldable: bool, work: Path) -> tuple[Scenario, int]:
    """The trace as a workload, and the number of jobs that were left out.

    Raises:
        TraceError: the trace cannot be read.
    """
    source = data / f"{trace}.trace"
    form = "moldable" if moldable else "rigid"
    left_out = 0
    if not moldable:
        lines = source.read_text().splitlines(keepends=True)
        fitting = [line for line in lines if float(line.split("\t")[_SCALE_FACTOR]) <= LARGEST]
        left_out = len(lines) - len(fitting)
        source = work / f"{trace}-{form}.trace"
        source.write_text("".join(fitting))
    workload = work / f"{trace}-{form}.jsonl"
    import_trace("gavel", source, workload, Wish(companion=data / THROUGHPUTS, moldable=moldable))
    return load_scenario(workload), left_out


def fluid_bound(scenario: Scenario) -> float:
    """Seconds that all jobs take at least, were they there from the start and divisible at will."""
    state = State(scenario.cluster)
    for number, job in enumerate(scenario.jobs(0)):
        state.arrive(number, job)
    ways, limits = Ways(aware=True, threshold=0.0, stretch=1.0), capacity(state)
    claims = [Claim(1, ways(task, state, limits), 1.0, 1.0, 1.0, 0.0) for task in state.ready.values()]
    shares = iter(makespan(Program(claims, limits)).tolist())
    return 1.0 / min(float(np.dot([way.rate for way in c.ways], [next(shares) for _ in c.ways])) for c in claims)


def play(data: Path, traces: Sequence[str], policies: Sequence[str], work: Path, processes: int) -> list[Played]:
    """Every trace in both forms under every policy.

    Raises:
        ValueError: a trace that cannot be read, or a policy that does not exist or fails.
    """
    tables = []
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        for trace in traces:
            for moldable in (False, True):
                scenario, left_out = prepared(data, trace, moldable, work)
                task = bar.add_task(scenario.name, total=len(policies))
                result = benchmark(
                    scenario,
                    policies,
                    [SEED],
                    processes,
                    lambda done, _, task=task: bar.update(task, completed=done),  # type: ignore[misc]
                    work / scenario.name,
                )
                rows = {
                    policy: {name: cells[0].metrics[name] for name in METRICS} for policy, cells in result.cells.items()
                }
                jobs = int(next(iter(result.cells.values()))[0].metrics["jobs"])
                form = "moldable" if moldable else "rigid"
                tables.append(Played(trace, form, jobs, left_out, fluid_bound(scenario), rows))
    return tables


def markdown(played: Played) -> str:
    """The table for the documentation, times in hours; the best of each column in bold."""
    shown = [name for name in METRICS if name != "utilisation"]
    best = {name: min(row[name] for row in played.rows.values()) for name in shown[:4]}

    def cell(name: str, value: float) -> str:
        text = f"{value / 3600:.2f}" if name in ("mean_jct", "makespan", "p99_jct") else f"{value:.2f}"
        text = f"{value:.0f}" if name in ("preemptions", "unfinished_jobs") else text
        return f"**{text}**" if value == best.get(name) else text

    lines = [
        f"{played.trace}, {played.form}: {played.jobs} jobs, {played.left_out} left out; "
        f"no makespan is below {played.bound / 3600:.2f} h",
        "",
        "| Policy | Mean JCT, h | Makespan, h | p99 JCT, h | Finish-time fairness | Preemptions | Unfinished |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| `{policy}` | {' | '.join(cell(name, row[name]) for name in shown)} |" for policy, row in played.rows.items()
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(rlsched.__file__).parents[1]
    parser.add_argument("--data", type=Path, default=here.parent / "shared" / "data" / "gavel", help="Gavel's files")
    parser.add_argument("--traces", nargs="+", default=TRACES, metavar="TRACE", help="names without .trace")
    parser.add_argument("--policy", action="append", default=[], help="beside those in the table; may be repeated")
    parser.add_argument("--processes", type=int, default=0, help="in parallel; 0: one a core")
    parser.add_argument("--work", type=Path, default=here / "runs" / "gavel", help="folder for workloads and cells")
    parser.add_argument("-o", "--out", type=Path, default=here / "experiments" / "results" / "gavel.json")
    given = parser.parse_args(arguments)
    files = [given.data / f"{trace}.trace" for trace in given.traces] + [given.data / THROUGHPUTS]
    if missing := [file.name for file in files if not file.is_file()]:
        parser.exit(2, f"{given.data}: expected {missing[0]} of Gavel's repository there, found none; see --data\n")
    given.work.mkdir(parents=True, exist_ok=True)
    try:
        tables = play(given.data, given.traces, [*POLICIES, *given.policy], given.work, given.processes)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{error}\n")
    content: dict[str, Any] = finite({"manifest": manifest([SEED]), "tables": [asdict(table) for table in tables]})
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(content, indent=1) + "\n")
    sys.stdout.write("\n\n".join(markdown(table) for table in tables) + "\n")


if __name__ == "__main__":
    main()
