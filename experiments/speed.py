"""How fast it all is: simulation, environment, training, and single decisions.

    make bench
    python -m rlsched.experiments.speed [--quick] [--only simulation latency] [--philly philly.csv]
    python -m rlsched.experiments.speed --table experiments/results/speed.json    # Markdown, for docs/performance.md

Every row is measured in a process of its own, one after the other, in seconds of CPU time, so that other work on the
machine disturbs it as little as possible (it still does: caches and memory are shared). Writes speed.json with a
manifest, and prints tables.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from rlsched.generator.generator import Generator
from rlsched.generator.workload import Workload
from rlsched.manifest import manifest
from rlsched.model import Cluster, Job, Mode, Node, Task
from rlsched.policies.registry import load_policy
from rlsched.scenario import load_scenario
from rlsched.scheduler import Policy, Scheduler
from rlsched.simulator import Simulator
from rlsched.state import State
from rlsched.traces.importing import read_trace
from rlsched.workers import submit_all, worker_pool

SEED = 900
SCENARIO = "het16"
LOAD = 0.8  # of the gangs
HOUR = 3600.0

Row = dict[str, Any]
Measurement = tuple[Callable[..., Row], tuple[Any, ...]]


# Simulation: whole schedules with a greedy policy.


def simulate_gangs(tasks: int, gpus: int, policy: str, at_once: bool) -> Row:
    """Jobs of one rigid task each, made one by one as they arrive."""

    def jobs() -> Iterator[Job]:
        return gangs(tasks, gpus, at_once)

    row = {"workload": "gangs, all at once" if at_once else "gangs"}
    return row | _simulate(machines(gpus), jobs, policy) | {"gpus": gpus}


def simulate_scenario(jobs: int, policy: str) -> Row:
    """DAGs of moldable tasks, made before the clock starts."""
    scenario = load_scenario(SCENARIO).with_(jobs=jobs)
    drawn = scenario.jobs(SEED)
    return {"workload": SCENARIO} | _simulate(scenario.cluster, lambda: iter(drawn), policy) | {"gpus": 16}


def simulate_philly(file: str, policy: str) -> Row:
    """A trace, read as it is played."""
    trace = read_trace("philly", Path(file))
    cluster = trace.cluster.cluster()
    row = _simulate(cluster, lambda: iter(read_trace("philly", Path(file)).jobs), policy)
    return {"workload": "philly"} | row | {"gpus": cluster.gpu_count()}


def _simulate(cluster: Cluster, jobs: Callable[[], Iterator[Job]], name: str) -> Row:
    before = psutil.Process().memory_info().rss
    policy, asked = load_policy(name), itertools.count()

    def counted(state: State) -> Any:
        next(asked)
        return policy(state)

    begun = time.process_time()
    schedule = Scheduler(Simulator(cluster, jobs(), SEED)).run(counted)
    whole = time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    begun = time.process_time()
    for _ in jobs():
        pass
    making = time.process_time() - begun
    tasks, seconds = len(schedule.runs), whole - making
    return {
        "policy": name,
        "tasks": tasks,
        "making_jobs_s": round(making, 3),
        "simulating_s": round(seconds, 3),
        "tasks_per_s": round(tasks / seconds),
        "decisions_per_s": round(next(asked) / seconds),
        "peak_mib": round(peak / 2**20),
        "bytes_per_task": round((peak - before) / tasks),
    }


def machines(gpus: int) -> Cluster:
    """Nodes of 8 GPUs."""
    return Cluster(tuple(Node(f"n{i}", gpus=8, cpus=64) for i in range(gpus // 8)))


def gangs(tasks: int, gpus: int, at_once: bool = False) -> Iterator[Job]:
    """Rigid jobs of 1, 2, 4 or 8 GPUs, log-normal durations of mean 1 h; Poisson arrivals, or all at time 0."""
    rng, sizes, weights = random.Random(SEED), (1, 2, 4, 8), (70, 10, 10, 10)
    mean_size = sum(s * w for s, w in zip(sizes, weights, strict=True)) / sum(weights)
    rate = LOAD * gpus / (mean_size * HOUR)
    release, sigma = 0.0, 1.0
    for number in range(tasks):
        duration = HOUR * rng.lognormvariate(-sigma * sigma / 2, sigma)
        task = Task("train", (Mode(duration, gpus=rng.choices(sizes, weights)[0]),))
        yield Job(f"job-{number}", (task,), release)
        release += 0.0 if at_once else rng.expovariate(rate)


# Environment: steps with actions that cost nothing to choose.


def step_environment(actions: str, steps: int) -> Row:
    """Whole episodes of the scenario until so many steps are done; the resets between them are counted apart."""
    from rlsched.envs.scheduling import WAIT, SchedulingEnv

    env, rng = SchedulingEnv(SCENARIO, first_seed=SEED), np.random.default_rng(SEED)
    stepping = resetting = 0.0
    done = episodes = 0
    ended = True
    while done < steps or not ended:
        if ended:
            begun = time.process_time()
            env.reset()
            resetting += time.process_time() - begun
            episodes += 1
        legal = np.flatnonzero(env.action_masks())
        action = int(rng.choice(legal)) if actions == "random" else int(legal[legal != WAIT][0])
        begun = time.process_time()
        _, _, ended, _, _ = env.step(action)
        stepping += time.process_time() - begun
        done += 1
    return {
        "actions": actions,
        "steps": done,
        "steps_per_s": round(done / stepping),
        "with_resets_per_s": round(done / (stepping + resetting)),
        "episodes": episodes,
    }


# Training: one iteration of PPO in one process.


def train(sequences: int, rollouts: int) -> Row:
    """Decisions a second of playing the episodes, and of playing them and updating the network."""
    import torch
    from stable_baselines3.common.callbacks import BaseCallback

    from rlsched.policies.ppo import GroupPPO

    torch.set_num_threads(1)

    class Clock(BaseCallback):
        begun = played = 0.0

        def _on_rollout_start(self) -> None:
            self.begun = time.process_time()

        def _on_rollout_end(self) -> None:
            self.played = time.process_time()

        def _on_step(self) -> bool:
            return True

    clock = Clock()
    model = GroupPPO(
        load_scenario(SCENARIO),
        sequences=sequences,
        rollouts=rollouts,
        processes=1,
        batch_size=1024,
        n_epochs=4,
        seed=SEED,
    )
    with model.players:
        model.learn(1, callback=clock)
    updated = time.process_time()
    return {
        "decisions": model.num_timesteps,
        "without_updates_per_s": round(model.num_timesteps / (clock.played - clock.begun)),
        "with_updates_per_s": round(model.num_timesteps / (updated - clock.begun)),
        "episodes": sequences * rollouts,
    }


# Decisions: how long a policy takes for one answer while so many tasks are ready.


def decide(policy: str, ready: int, answers: int) -> Row:
    """Times of single answers while 80 % to 100 % of that number are ready; ends early if it takes a minute."""
    cluster = load_scenario(SCENARIO).cluster
    times: list[float] = []
    begun = time.process_time()
    for seed in itertools.count(SEED):
        decider = _untrained() if policy == "learned" else load_policy(policy)
        jobs = Generator(_waiting(ready + cluster.gpu_count()), cluster).jobs(seed)
        times += _answers(Scheduler(Simulator(cluster, jobs, seed)), decider, ready, answers - len(times))
        if len(times) >= answers or time.process_time() - begun > 60:
            break
    p50, p99 = np.percentile(times, (50, 99)) * 1e3
    return {
        "policy": policy,
        "ready": ready,
        "p50_ms": round(float(p50), 3),
        "p99_ms": round(float(p99), 3),
        "answers": len(times),
    }


def _waiting(jobs: int) -> Workload:
    """Jobs of one moldable task, all there at the start."""
    return Workload.model_validate({"jobs": jobs, "kinds": {"single": 1}, "speeds": {"slow": {"range": [0.3, 0.65]}}})


def _answers(scheduler: Scheduler, policy: Policy, ready: int, most: int) -> list[float]:
    """Seconds of each answer, once the cluster is full and the queue is down to `ready`."""
    times: list[float] = []
    state = scheduler.state
    scheduler.advance()
    while len(times) < most and len(state.ready) >= 0.8 * ready:
        begun = time.process_time()
        decisions = policy(state)
        if len(state.ready) <= ready:
            times.append(time.process_time() - begun)
        scheduler.apply(decisions)
        if not decisions:
            scheduler.advance()
    return times


def _untrained() -> Policy:
    import torch

    from rlsched.policies.learned import LearnedPolicy
    from rlsched.policies.network import NetworkConfig, SchedulingNetwork

    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    return LearnedPolicy(SchedulingNetwork(NetworkConfig()))


# What is measured, and how it is shown.


def measurements(quick: bool, philly: Path | None) -> dict[str, list[Measurement]]:
    """Function and arguments of every row, by table."""
    longest = 4 if quick else 6
    simulation: list[Measurement] = [
        (simulate_gangs, (10**power, gpus, "srpt", False)) for gpus in (16, 10_000) for power in range(3, longest + 1)
    ]
    simulation += [(simulate_gangs, (10 ** min(5, longest), gpus, "srpt", False)) for gpus in (128, 1_024)]
    simulation += [(simulate_gangs, (10**power, 256, "srpt:blocking=none", True)) for power in range(3, longest)]
    simulation += [
        (simulate_scenario, (jobs, policy))
        for policy in ("fifo", "srpt", "srpt:blocking=none")
        for jobs in ((112,) if quick else (112, 1_120, 11_200))
    ]
    if philly is not None:
        simulation += [(simulate_philly, (str(philly), policy)) for policy in ("fifo", "srpt", "srpt:blocking=none")]
    return {
        "simulation": simulation,
        "environment": [(step_environment, (actions, 1_000 if quick else 20_000)) for actions in ("random", "first")],
        "training": [(train, (1, 2) if quick else (2, 8))],
        "latency": [
            (decide, (policy, ready, 50 if quick else 500))
            for policy in ("srpt", "srpt:blocking=none", "lp", "learned")
            for ready in ((10, 100, 1_000) if quick else (10, 100, 1_000, 10_000))
        ],
    }


def measure(function: Callable[..., Row], arguments: Sequence[Any]) -> Row:
    """One row, from a new process."""
    with worker_pool(1, _nothing) as pool:
        (future,) = submit_all(pool, function, [arguments])
        return future.result()


def _nothing() -> None:
    """What a worker has to do before its one measurement."""


def show(table: str, rows: Sequence[Row]) -> None:
    """Print a table, columns as wide as they need."""
    cells = [[str(name) for name in rows[0]], *([_text(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    print(f"\n{table}")
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def markdown(results: dict[str, Any]) -> str:
    """The tables of a speed.json for a page."""
    parts = []
    for name, rows in results.items():
        if isinstance(rows, list):
            cells = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
            numbers = ["---:" if isinstance(value, int | float) else "---" for value in rows[0].values()]
            lines = [f"| {' | '.join(line)} |" for line in (cells[0], numbers, *cells[1:])]
            parts.append("\n".join([f"### {name.capitalize()}", "", *lines]))
    return "\n\n".join(parts)


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def main() -> None:
    tables = list(measurements(quick=True, philly=None))
    parser = argparse.ArgumentParser(
        prog="python -m rlsched.experiments.speed",
        description="Measure how fast simulation, environment, training and single decisions are.",
        epilog="example: python -m rlsched.experiments.speed --quick --only simulation -o speed.json",
    )
    parser.add_argument("--quick", action="store_true", help="small sizes only, about a minute: to see that it works")
    parser.add_argument("--only", nargs="+", choices=tables, default=tables, metavar="TABLE", help=", ".join(tables))
    parser.add_argument("--philly", type=Path, metavar="CSV", help="also replay this trace of Philly")
    parser.add_argument("-o", "--out", type=Path, default=Path("experiments/results/speed.json"), metavar="FILE")
    parser.add_argument("--table", type=Path, metavar="FILE", help="measure nothing, print what is in FILE as Markdown")
    options = parser.parse_args()
    if options.table is not None:
        try:
            print(markdown(json.loads(options.table.read_text())))
        except (OSError, ValueError) as error:
            parser.error(f"{options.table}: not a result of a measurement: {error}")
        return
    if options.philly is not None and not options.philly.is_file():
        parser.error(f"{options.philly}: no such file")
    results: dict[str, list[Row]] = {}
    for table, planned in measurements(options.quick, options.philly).items():
        if table in options.only:
            results[table] = []
            for number, (function, arguments) in enumerate(planned, 1):
                said = " ".join(map(str, arguments))
                print(f"{table} {number}/{len(planned)}: {said}", file=sys.stderr, flush=True)
                results[table].append(measure(function, arguments))
            show(table, results[table])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"manifest": manifest(seeds=[SEED]), "quick": options.quick, **results}
    options.out.write_text(json.dumps(content, indent=2) + "\n")
    print(f"\n{options.out}", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
