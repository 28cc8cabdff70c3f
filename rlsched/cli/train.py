"""`rlsched train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlsched.cli.output import progress_bar, remark
from rlsched.experiments.train import Evaluation, TrainingConfig
from rlsched.experiments.train import train as run_training
from rlsched.mixture import Mixture, load_training
from rlsched.policies.registry import is_heuristic, load_policy
from rlsched.report.units import duration
from rlsched.scenario import Scenario

_DECAY = 10  # of the learning rate, from the first update to the last


def train(
    scenario: str, out: Path, resume: bool, processes: int, device: str, given: dict[str, int | float | str | None]
) -> None:
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if "learning_rate" in settings:
        settings["final_learning_rate"] = settings["learning_rate"] / _DECAY
    if device not in ("cpu", "cuda"):
        raise ValueError(f"--device: expected cpu or cuda, found {device!r}")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ValueError("--device: torch sees no CUDA device on this machine")
    train_with_progress(load_training(scenario), out, TrainingConfig(**settings), resume, processes, device)


def train_with_progress(
    scenario: Scenario, out: Path, config: TrainingConfig, resume: bool, processes: int = 0, device: str = "cpu"
) -> list[Evaluation]:
    """Train, with a bar and a line for every evaluation on standard error. Returns the learning curve."""
    if is_heuristic(config.start) and not resume:
        load_policy(config.start)  # complains of a wrong option first
        remark(f"first it learns to decide like {config.start}, which takes a minute or two")

    def shown(evaluation: Evaluation) -> str:
        ratio = f"{evaluation.ratio:.3f}"  # which is all there is of a mixture
        return ratio if isinstance(scenario, Mixture) else f"{duration(evaluation.objective)}, {ratio}"

    with progress_bar() as bar:
        task = bar.add_task(f"training on {scenario.name}", total=config.steps)

        def progress(decisions: int, evaluation: Evaluation | None) -> None:
            bar.update(task, completed=min(decisions, config.steps))
            if evaluation is not None:
                remark(
                    f"{evaluation.decisions:>9,} decisions: {scenario.objective} {shown(evaluation)} "
                    f"of the reference's ({duration(evaluation.seconds)})"
                )

        curve = run_training(scenario, out, config, resume, progress, processes, device)
    best = min(curve, key=lambda evaluation: evaluation.objective)
    remark(
        f"{scenario.objective} relative to the reference on validation workloads: first {curve[0].ratio:.3f}, "
        f"last {curve[-1].ratio:.3f}, best {best.ratio:.3f}"
    )
    remark(f"wrote {out / 'policy.safetensors'}")
    return curve
