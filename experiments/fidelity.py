"""How near the simulator comes to real runs: predicted and measured makespans of workflows under several policies.

python -m rlsched.experiments.fidelity [--sleep | --quick] [--workflows bag,digits] [-o runs/fidelity.json]

Protocol. Every workflow is first run twice, under `fifo` and `random`, from which durations, contention and launch
overhead are learned; these runs are not counted. Then the makespan under every policy is predicted, with what is known
by then, and every policy runs, on two CPU slots. Errors are predicted / measured - 1, with the prediction that the run
itself has made just before it began. Ranking: Kendall's tau-b between predicted and measured makespans of a workflow's
policies (Kendall, Biometrika 33(3), 1945), and how many pairs of policies that the simulator tells apart by at least
3 % come out in that order. Each run is also replayed with what its tasks have taken: the error of the simulator itself.

The tasks of the small workflows add up numbers: a fixed amount of work, not of time. A machine's own speed drifts, and
that is no error of the simulator; so right before and right after every run, of learning too, a fixed amount of such
work is timed on all slots at once (`drift.probe`), and every figure is given twice. *Raw* is as measured. *Corrected*
takes the measured makespan to the speed of the runs that the prediction was learned from: it is multiplied by their
typical probe / the run's own, the mean of its two. Typical is the same mean as that of which estimates of durations
are made, so that a change of speed between all those runs and this one cancels out; for the order of policies,
makespans are in units of their own probe. Speed that changes within a run, or that does not change alike for adding
up numbers and for what a task does, is left in.

With `--sleep` the tasks of the small workflows take a fixed time instead, as those do that wait for a device with a
clock of its own. Then the machine's speed plays no part, nothing is probed, and what is left is the error of
everything else: durations that are learned, launches, hand-overs, who starts when.

The load before each run is recorded. With -o, the result of all runs so far is written after each of them. Exit code 1
if the median of the corrected errors is above 5 % or the worst above 15 %, 128 + n if ended by signal n.
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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml
from scipy.stats import kendalltau

from rlsched.executor.devices import local_machine
from rlsched.executor.estimates import typical
from rlsched.executor.experience import recall
from rlsched.executor.prediction import predict
from rlsched.executor.replay import replay
from rlsched.executor.run import run_workflow
from rlsched.executor.status import RunStatus
from rlsched.executor.work import work_of
from rlsched.experiments.drift import probe
from rlsched.manifest import manifest
from rlsched.policies.registry import load_policy
from rlsched.textfile import writing
from rlsched.workflow import Workflow, load_workflow

SLOTS = 2
SCALE, QUICK_SCALE = 12.0, 1.0  # at the former a run takes 20 to 30 s on cores that add up 12 million numbers a second
NAP = 0.5  # seconds of a unit of work that is slept: 10 to 15 s a run
LEARNING = ("fifo", "random:seed=7")
POLICIES = ("fifo", "sjf", "critical-path", "lp", "random:seed=1")
MEDIAN_ERROR, WORST_ERROR = 0.05, 0.15
_APART = 0.03  # relative, from which on the simulator is said to tell two policies apart
Work = Callable[[float], str]  # a command that does so many units of work
_WORKLOADS = Path(__file__).parent / "workflows"


@dataclass(frozen=True, slots=True)
class Measured:
    """A run beside its prediction; seconds.

    Attributes:
        ahead: predicted before any of the counted runs.
        predicted: by the run itself, just before it began.
        probe: what the probe took, mean of the one before and the one after the run.
        learned_probe: what it typically took at the runs that `predicted` was learned from.
        simulator_error: of the makespan that the simulator finds with what each task has taken, relative.
        load: average number of processes that wanted to run in the minute before.
    """

    workflow: str
    policy: str
    tasks: int
    ahead: float
    predicted: float
    measured: float
    probe: float
    learned_probe: float
    simulator_error: float
    load: float

    @property
    def corrected(self) -> float:
        """The makespan at the speed that the machine had when the prediction was learned."""
        return self.measured * self.learned_probe / self.probe

    @property
    def error(self) -> float:
        """Of `predicted` as measured, relative."""
        return self.predicted / self.measured - 1

    @property
    def corrected_error(self) -> float:
        """Of `predicted` at the speed at which it was learned, relative."""
        return self.predicted / self.corrected - 1

    def as_record(self) -> dict[str, Any]:
        """As plain data, with what follows from it."""
        derived = {"corrected": self.corrected, "error": self.error, "corrected_error": self.corrected_error}
        return asdict(self) | derived


def summarise(runs: Sequence[Measured]) -> dict[str, Any]:
    """The figures that count, of at least one run.

    Returns:
        `runs`; `raw` and `corrected`, each with `median_error` and `worst_error`, absolute, `tau` by workflow, their
        mean `mean_tau`, `overall_tau` of all runs in one ranking (None: nothing to rank), and `pairs_in_order`;
        `pairs_apart`, of policies that the simulator tells apart; `median_simulator_error`; `speed`, `slowest` and
        `fastest` of the machine relative to its median.
    """
    of_workflow: dict[str, list[Measured]] = {}
    for run in runs:
        of_workflow.setdefault(run.workflow, []).append(run)
    apart = [
        (one, other)
        for group in of_workflow.values()
        for one, other in combinations(group, 2)
        if abs(one.ahead - other.ahead) > _APART * min(one.ahead, other.ahead)
    ]

    def figures(errors: Sequence[float], makespan: Callable[[Measured], float]) -> dict[str, Any]:
        taus = {name: _tau(group, makespan) for name, group in of_workflow.items()}
        known = [tau for tau in taus.values() if tau is not None]
        return {
            "median_error": statistics.median(map(abs, errors)),
            "worst_error": max(map(abs, errors)),
            "tau": taus,
            "mean_tau": statistics.fmean(known) if known else None,
            "overall_tau": _tau(runs, makespan),
            "pairs_in_order": sum((a.ahead < b.ahead) == (makespan(a) < makespan(b)) for a, b in apart),
        }

    probes = [run.probe for run in runs]
    return {
        "runs": len(runs),
        "raw": figures([run.error for run in runs], lambda run: run.measured),
        "corrected": figures([run.corrected_error for run in runs], lambda run: run.measured / run.probe),
        "pairs_apart": len(apart),
        "median_simulator_error": statistics.median(abs(run.simulator_error) for run in runs),
        "speed": {
            "slowest": statistics.median(probes) / max(probes),
            "fastest": statistics.median(probes) / min(probes),
        },
    }


def _tau(runs: Sequence[Measured], makespan: Callable[[Measured], float]) -> float | None:
    if len(runs) < 2:
        return None
    tau = float(kendalltau([run.ahead for run in runs], [makespan(run) for run in runs]).statistic)
    return None if math.isnan(tau) else tau


def adding_up(scale: float) -> Work:
    """Of so many million numbers, times `scale`."""
    return lambda units: f"${{python}} -c 'sum(i * i for i in range({int(units * scale * 1e6)}))'"


def sleeping(scale: float) -> Work:
    """For so many seconds, times `scale`."""
    return lambda units: f"sleep {units * scale:g}"


def _task(units: float, work: Work, needs: Iterable[str] = (), **more: Any) -> dict[str, Any]:
    return {"run": work(units), "gpus": 1, "duration": units, "needs": list(needs), **more}


def _bag(work: Work) -> dict[str, Any]:
    """Independent tasks of very different sizes, the longest last."""
    return {f"t{n}": _task(units, work) for n, units in enumerate((2, 1, 4, 3, 2, 6, 3, 8, 5, 16))}


def _chains(work: Work) -> dict[str, Any]:
    """A long chain and three short ones."""
    lengths = {"a": (3, 3, 3), "b": (2, 2), "c": (5, 5, 5, 5), "d": (4, 4)}
    return {
        f"{chain}{n}": _task(units, work, [f"{chain}{n - 1}"] if n else [])
        for chain, sizes in lengths.items()
        for n, units in enumerate(sizes)
    }


def _fork_join(work: Work) -> dict[str, Any]:
    """Six in parallel between two that are alone, with checks that take no slot beside them."""
    middle = {f"m{n}": _task(units, work, ["split"]) for n, units in enumerate((3, 5, 2, 7, 4, 9))}
    checks = {f"check{n}": _task(1, work, [f"m{n}"], gpus=0) for n in range(3)}
    return {"split": _task(4, work), **middle, **checks, "join": _task(4, work, [*middle, *checks])}


def _layers(work: Work) -> dict[str, Any]:
    """Layers in which who comes first decides who can go on."""
    content = {f"a{n}": _task(units, work) for n, units in enumerate((2, 6, 3, 5))}
    content |= {f"b{n}": _task(units, work, [f"a{n}", f"a{(n + 1) % 4}"]) for n, units in enumerate((8, 2, 4, 2))}
    return content | {f"c{n}": _task(units, work, [f"b{n}"]) for n, units in enumerate((2, 9, 3))}


def _gangs(work: Work) -> dict[str, Any]:
    """Tasks that take both slots, with a process on each, among tasks that take one."""
    both = f"{work(4)} & {work(4)}; wait"
    gangs = {f"g{n}": {"run": both, "gpus": 2, "duration": 4} for n in range(2)}
    return {**{f"t{n}": _task(units, work) for n, units in enumerate((3, 7, 2, 5, 9))}, **gangs}


_SMALL: dict[str, Callable[[Work], dict[str, Any]]] = {
    "bag": _bag,
    "chains": _chains,
    "fork-join": _fork_join,
    "layers": _layers,
    "gangs": _gangs,
}


def write_workflows(folder: Path, work: Work, names: Sequence[str]) -> list[Path]:
    """The workflow files to run; those that come with rlsched are copied, so that their history starts empty."""
    files = []
    for name in names:
        file = folder / f"{name}.yaml"
        if name in _SMALL:
            file.write_text(yaml.safe_dump({"name": name, "tasks": _SMALL[name](work)}, sort_keys=False))
        else:
            shutil.copy(_WORKLOADS / file.name, file)
        files.append(file)
    return files


def compare(workflow: Workflow, policies: Sequence[str], probe: Callable[[], float]) -> Iterator[Measured]:
    """Learn from some runs of the workflow, then predict and run it under each policy; each run as it has ended.

    Args:
        probe: times the machine, seconds; called right before and right after every run.
    """
    probes: list[float] = []  # of all runs so far: of what the next prediction is learned from
    for number, policy in enumerate(LEARNING):
        _say(f"{workflow.name}: learning from {policy}")
        probes.append(_run(workflow, policy, f"learning-{number}", probe)[2])
    cluster = local_machine(SLOTS).cluster
    known = recall(workflow)
    work, _ = known.applied_to(work_of(workflow), cluster)
    costs = known.calibration.costs(cluster)
    ahead = {policy: predict([work.job], cluster, load_policy(policy), costs).end for policy in policies}
    for policy in policies:
        load = os.getloadavg()[0]
        run_dir, predicted, seconds = _run(workflow, policy, policy.replace(":", "-"), probe)
        again = replay(run_dir, load_policy(policy))
        run = Measured(
            workflow=workflow.name,
            policy=policy,
            tasks=len(work.job.tasks),
            ahead=ahead[policy],
            predicted=predicted,
            measured=again.makespan,
            probe=seconds,
            learned_probe=typical(probes),
            simulator_error=again.measured.makespan_error,
            load=load,
        )
        probes.append(seconds)
        told = f"{predicted:.2f} s predicted, {run.measured:.2f} s measured, {run.error:+.1%}"
        _say(f"{workflow.name} under {policy}: {told}; corrected {run.corrected:.2f} s, {run.corrected_error:+.1%}")
        yield run


def _run(workflow: Workflow, policy: str, name: str, probe: Callable[[], float]) -> tuple[Path, float, float]:
    """A run from nothing; its directory, the makespan that it has predicted, and the mean of the probes around it."""
    run_dir = workflow.folder / "runs" / f"{workflow.name}-{name}"
    before = probe()
    result = run_workflow(workflow, load_policy(policy), run_dir, policy_name=policy, slots=SLOTS)
    if result.exit_code:
        _say(f"{workflow.name} under {policy} has {result.status.state}: {_reason(result.status)}")
        sys.exit(result.exit_code)
    assert result.status.predicted_makespan is not None
    return run_dir, result.status.predicted_makespan, (before + probe()) / 2


def _reason(status: RunStatus) -> str:
    failed = [f"{unit.name} {unit.reason}" for unit in status.units if unit.reason]
    return "; ".join(failed) or status.reason


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog="example: python -m rlsched.experiments.fidelity --workflows bag,digits -o runs/fidelity.json",
    )
    known = [*_SMALL, "digits", "news"]
    parser.add_argument("--quick", action="store_true", help="small tasks, three policies; by default bag and layers")
    parser.add_argument("--sleep", action="store_true", help="tasks that take time and no work")
    parser.add_argument(
        "--scale",
        type=float,
        metavar="SIZE",
        help=f"of a unit of work: millions of numbers (default: {SCALE:g}, quick {QUICK_SCALE:g}) or seconds ({NAP:g})",
    )
    parser.add_argument(
        "--workflows",
        metavar="NAMES",
        help=f"some of {','.join(known)}; default: all but news, the fine-tuning of a BERT, which takes half an hour",
    )
    parser.add_argument("-o", "--out", type=Path, help="JSON file for the result, written anew after every run")
    options = parser.parse_args()
    chosen = ["bag", "layers"] if options.quick else [*_SMALL] if options.sleep else known[:-1]
    if options.workflows is not None:
        chosen = options.workflows.split(",")
    if wrong := [name for name in chosen if name not in known]:
        parser.error(f"--workflows: expected some of {', '.join(known)}, found {wrong[0]!r}")
    options.workflows = list(dict.fromkeys(chosen))
    if options.scale is None:
        options.scale = NAP if options.sleep else QUICK_SCALE if options.quick else SCALE
    if not 0 < options.scale < math.inf:
        parser.error(f"--scale: expected a number above 0, found {options.scale:g}")
    return options


def main() -> None:
    options = _arguments()
    policies = POLICIES[:3] if options.quick else POLICIES
    if os.getloadavg()[0] > 0.5 and not options.sleep:
        _say("the machine is busy: the figures will say as much about that as about the simulator")
    planned = len(options.workflows) * len(policies)
    runs: list[Measured] = []
    with tempfile.TemporaryDirectory() as folder:
        work = (sleeping if options.sleep else adding_up)(options.scale)
        for file in write_workflows(Path(folder), work, options.workflows):
            for run in compare(load_workflow(file), policies, (lambda: 1.0) if options.sleep else lambda: probe(SLOTS)):
                runs.append(run)
                if options.out is not None:
                    _write(options.out, runs, planned, Path(folder))
    summary = summarise(runs)
    print(json.dumps(summary, indent=1))
    for name in ("raw", "corrected"):
        found = summary[name]
        told = f"median error {found['median_error']:.1%}, worst {found['worst_error']:.1%}"
        _say(f"{name}: {told}: goals {'missed' if _missed(found) else 'met'}")
    sys.exit(_missed(summary["corrected"]))


def _missed(figures: Mapping[str, Any]) -> bool:
    return bool(figures["median_error"] > MEDIAN_ERROR or figures["worst_error"] > WORST_ERROR)


def _write(file: Path, runs: Sequence[Measured], planned: int, folder: Path) -> None:
    content = {
        "planned_runs": planned,
        "summary": summarise(runs),
        "calibration": json.loads((folder / "runs" / "calibration.json").read_text()),
        "runs": [run.as_record() for run in runs],
        "manifest": manifest(seeds=[1, 7]),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with writing(file) as text:
        text.write(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
