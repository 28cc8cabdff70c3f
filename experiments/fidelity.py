"""How near the simulator comes to real runs: predicted and measured makespans of workflows under several policies.

python -m rlsched.experiments.fidelity [--quick] [--news] [-o experiments/results/fidelity.json]

Protocol. Every workflow is first run twice, under `fifo` and `random`, from which durations, contention and launch
overhead are learned; these runs are not counted. Then the makespan under every policy is predicted, with what is known
by then, and every policy runs, on two CPU slots. Errors are predicted / measured - 1, with the prediction that the run
itself has made just before it began. Ranking: Kendall's tau-b between predicted and measured makespans of a workflow's
policies (Kendall, Biometrika 33(3), 1945), and how many pairs of policies that the simulator tells apart by at least
3 % come out in that order. Each run is also replayed with what its tasks have taken: the error of the simulator itself.

The tasks of the small workflows add up numbers: a fixed amount of work, not of time. Others who use the machine spoil
the result; the load before each run is recorded. Exit code 1 if the median error is above 5 % or the worst above 15 %.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml
from scipy.stats import kendalltau

from rlsched.executor.devices import local_machine
from rlsched.executor.experience import recall
from rlsched.executor.prediction import predict
from rlsched.executor.replay import replay
from rlsched.executor.run import run_workflow
from rlsched.executor.work import work_of
from rlsched.manifest import manifest
from rlsched.policies.registry import load_policy
from rlsched.workflow import Workflow, load_workflow

SLOTS = 2
LEARNING = ("fifo", "random:seed=7")
POLICIES = ("fifo", "sjf", "critical-path", "lp", "random:seed=1")
MEDIAN_ERROR, WORST_ERROR = 0.05, 0.15
_APART = 0.03  # relative, from which on the simulator is said to tell two policies apart
_WORKLOADS = Path(__file__).parent / "workflows"


@dataclass(frozen=True, slots=True)
class Measured:
    """A run beside its prediction; seconds, errors relative.

    Attributes:
        ahead: predicted before any of the counted runs.
        predicted: by the run itself, just before it began.
        error: of `predicted`.
        simulator_error: of the makespan that the simulator finds with what each task has taken.
        load: average number of processes that wanted to run in the minute before.
    """

    workflow: str
    policy: str
    tasks: int
    ahead: float
    predicted: float
    measured: float
    error: float
    simulator_error: float
    load: float


def summarise(runs: Sequence[Measured]) -> dict[str, Any]:
    """The figures that count.

    Returns:
        `runs`; `median_error` and `worst_error`, absolute; `median_simulator_error`; `tau`, by workflow, and
        `mean_tau`; `pairs_apart`, of policies that the simulator tells apart, and `pairs_in_order`.
    """
    errors = [abs(run.error) for run in runs]
    of_workflow: dict[str, list[Measured]] = {}
    for run in runs:
        of_workflow.setdefault(run.workflow, []).append(run)
    taus = {name: _tau(group) for name, group in of_workflow.items()}
    known = [tau for tau in taus.values() if not math.isnan(tau)]
    pairs = [
        (one, other)
        for group in of_workflow.values()
        for one, other in combinations(group, 2)
        if abs(one.ahead - other.ahead) > _APART * min(one.ahead, other.ahead)
    ]
    return {
        "runs": len(runs),
        "median_error": statistics.median(errors),
        "worst_error": max(errors),
        "median_simulator_error": statistics.median(abs(run.simulator_error) for run in runs),
        "tau": {name: None if math.isnan(tau) else tau for name, tau in taus.items()},
        "mean_tau": statistics.fmean(known) if known else None,
        "pairs_apart": len(pairs),
        "pairs_in_order": sum((a.ahead < b.ahead) == (a.measured < b.measured) for a, b in pairs),
    }


def _tau(group: Sequence[Measured]) -> float:
    return float(kendalltau([run.ahead for run in group], [run.measured for run in group]).statistic)


def _work(units: float, scale: float) -> str:
    """A command that adds up so many million numbers, times `scale`."""
    return f"${{python}} -c 'sum(i * i for i in range({int(units * scale * 1e6)}))'"


def _task(units: float, scale: float, needs: Iterable[str] = (), **more: Any) -> dict[str, Any]:
    return {"run": _work(units, scale), "gpus": 1, "duration": units, "needs": list(needs), **more}


def _bag(scale: float) -> dict[str, Any]:
    """Independent tasks of very different sizes, the longest last."""
    return {f"t{n}": _task(units, scale) for n, units in enumerate((2, 1, 4, 3, 2, 6, 3, 8, 5, 16))}


def _chains(scale: float) -> dict[str, Any]:
    """A long chain and three short ones."""
    lengths = {"a": (3, 3, 3), "b": (2, 2), "c": (5, 5, 5, 5), "d": (4, 4)}
    return {
        f"{chain}{n}": _task(units, scale, [f"{chain}{n - 1}"] if n else [])
        for chain, sizes in lengths.items()
        for n, units in enumerate(sizes)
    }


def _fork_join(scale: float) -> dict[str, Any]:
    """Six in parallel between two that are alone, with checks that take no slot beside them."""
    middle = {f"m{n}": _task(units, scale, ["split"]) for n, units in enumerate((3, 5, 2, 7, 4, 9))}
    checks = {f"check{n}": _task(1, scale, [f"m{n}"], gpus=0) for n in range(3)}
    return {"split": _task(4, scale), **middle, **checks, "join": _task(4, scale, [*middle, *checks])}


def _layers(scale: float) -> dict[str, Any]:
    """Layers in which who comes first decides who can go on."""
    content = {f"a{n}": _task(units, scale) for n, units in enumerate((2, 6, 3, 5))}
    content |= {f"b{n}": _task(units, scale, [f"a{n}", f"a{(n + 1) % 4}"]) for n, units in enumerate((8, 2, 4, 2))}
    return content | {f"c{n}": _task(units, scale, [f"b{n}"]) for n, units in enumerate((2, 9, 3))}


def _gangs(scale: float) -> dict[str, Any]:
    """Tasks that take both slots, with a process on each, among tasks that take one."""
    both = f"{_work(4, scale)} & {_work(4, scale)}; wait"
    gangs = {f"g{n}": {"run": both, "gpus": 2, "duration": 4} for n in range(2)}
    return {**{f"t{n}": _task(units, scale) for n, units in enumerate((3, 7, 2, 5, 9))}, **gangs}


_SMALL: dict[str, Callable[[float], dict[str, Any]]] = {
    "bag": _bag,
    "chains": _chains,
    "fork-join": _fork_join,
    "layers": _layers,
    "gangs": _gangs,
}


def write_workflows(folder: Path, scale: float, names: Sequence[str]) -> list[Path]:
    """The workflow files to run; those that come with rlsched are copied, so that their history starts empty."""
    files = []
    for name in names:
        file = folder / f"{name}.yaml"
        if name in _SMALL:
            file.write_text(yaml.safe_dump({"name": name, "tasks": _SMALL[name](scale)}, sort_keys=False))
        else:
            shutil.copy(_WORKLOADS / file.name, file)
        files.append(file)
    return files


def compare(workflow: Workflow, policies: Sequence[str]) -> list[Measured]:
    """Learn from some runs of the workflow, then predict and run it under each policy."""
    for number, policy in enumerate(LEARNING):
        _say(f"{workflow.name}: learning from {policy}")
        _run(workflow, policy, f"learning-{number}")
    cluster = local_machine(SLOTS).cluster
    known = recall(workflow)
    work, _ = known.applied_to(work_of(workflow), cluster)
    costs = known.calibration.costs(cluster)
    ahead = {policy: predict([work.job], cluster, load_policy(policy), costs).end for policy in policies}
    found = []
    for policy in policies:
        load = os.getloadavg()[0]
        run_dir, predicted = _run(workflow, policy, policy.replace(":", "-"))
        again = replay(run_dir, load_policy(policy))
        error = predicted / again.makespan - 1
        tasks = len(work.job.tasks)
        simulator_error = again.measured.makespan_error
        names = (workflow.name, policy, tasks)
        found.append(Measured(*names, ahead[policy], predicted, again.makespan, error, simulator_error, load))
        told = f"{predicted:.2f} s predicted, {again.makespan:.2f} s measured, {error:+.1%}"
        _say(f"{workflow.name} under {policy}: {told}")
    return found


def _run(workflow: Workflow, policy: str, name: str) -> tuple[Path, float]:
    """A run from nothing; its directory, and the makespan that it has predicted."""
    run_dir = workflow.folder / "runs" / f"{workflow.name}-{name}"
    result = run_workflow(workflow, load_policy(policy), run_dir, policy_name=policy, slots=SLOTS)
    if result.exit_code:
        raise RuntimeError(f"{workflow.name} under {policy} has {result.status.state}, see {run_dir}")
    assert result.status.predicted_makespan is not None
    return run_dir, result.status.predicted_makespan


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two small workflows of a few seconds, three policies")
    parser.add_argument("--news", action="store_true", help="the fine-tuning of a BERT on news as well: half an hour")
    parser.add_argument("-o", "--out", type=Path, help="JSON file for the result")
    options = parser.parse_args()
    names = ["bag", "layers"] if options.quick else [*_SMALL, "digits", *(["news"] if options.news else [])]
    policies = POLICIES[:3] if options.quick else POLICIES
    if os.getloadavg()[0] > 0.5:
        _say("the machine is busy: the figures will say as much about that as about the simulator")
    runs: list[Measured] = []
    with tempfile.TemporaryDirectory() as folder:
        for file in write_workflows(Path(folder), 1.0 if options.quick else 8.0, names):
            runs += compare(load_workflow(file), policies)
        calibration = json.loads((Path(folder) / "runs" / "calibration.json").read_text())
    summary = summarise(runs)
    result = {"summary": summary, "calibration": calibration, "runs": [asdict(run) for run in runs]}
    text = json.dumps(result | {"manifest": manifest(seeds=[1, 7])}, indent=1) + "\n"
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text)
    print(json.dumps(summary, indent=1))
    sys.exit(summary["median_error"] > MEDIAN_ERROR or summary["worst_error"] > WORST_ERROR)


if __name__ == "__main__":
    main()
