"""`rlsched train`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rlsched.cli.output import messages, progress_bar
from rlsched.experiments.train import Evaluation, TrainingConfig
from rlsched.experiments.train import train as run_training
from rlsched.mixture import load_training
from rlsched.report.units import duration
from rlsched.scenario import Scenario


def train(scenario: str, out: Path, start: str, steps: int | None, trace: float, seed: int, resume: bool) -> None:
    config = TrainingConfig(seed=seed, start=start, trace=trace)
    if steps is not None:
        config = replace(config, steps=steps)
    train_with_progress(load_training(scenario), out, config, resume)


def train_with_progress(scenario: Scenario, out: Path, config: TrainingConfig, resume: bool) -> list[Evaluation]:
    """Train, with a bar and a line for every evaluation on standard error. Returns the learning curve."""
    with progress_bar() as bar:
        task = bar.add_task(f"training on {scenario.name}", total=config.steps)

        def progress(decisions: int, evaluation: Evaluation | None) -> None:
            bar.update(task, completed=min(decisions, config.steps))
            if evaluation is not None:
                messages.print(
                    f"{evaluation.decisions:>9,} decisions: {scenario.objective} {duration(evaluation.objective)}, "
                    f"{evaluation.ratio:.3f} of the reference's ({duration(evaluation.seconds)})"
                )

        curve = run_training(scenario, out, config, resume, progress)
    best = min(curve, key=lambda evaluation: evaluation.objective)
    messages.print(
        f"{scenario.objective} on validation workloads: first {duration(curve[0].objective)}, "
        f"last {duration(curve[-1].objective)}, best {duration(best.objective)} ({best.ratio:.3f} of the reference's)"
    )
    messages.print(f"wrote {out / 'policy.safetensors'}")
    return curve
