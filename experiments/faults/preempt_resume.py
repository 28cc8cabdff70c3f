"""Train under the executor, preempt the training twice, and compare with a training that nobody disturbed.

python -m rlsched.experiments.faults.preempt_resume [--epochs 60] [--ranks 2]

The same training three times, with its evaluation: on two ranks undisturbed; on two, stopped and resumed twice on two
again; and stopped and resumed on one, and again on two. Expected: at an equal number of ranks weights and metrics are
identical to the last bit; with another number in between the accuracies differ by at most 0.02, since dropout and the
order of additions do. Where there is but one GPU, `--ranks 1` does the first two on one rank. Exit code 1 if not.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from safetensors.torch import load_file

from rlsched import progress
from rlsched.executor.paths import attempt_paths
from rlsched.executor.run import run_workflow
from rlsched.experiments.workloads import digits, files
from rlsched.model import Preemption, WakeUp
from rlsched.scheduler import Decision
from rlsched.state import State
from rlsched.workflow import load_workflow

_TOLERANCE = 0.02


class Stage(NamedTuple):
    """A part of the training: how many GPUs it has, and what part of the work is done when they are taken away."""

    gpus: int
    until: float


class Plan:
    """A policy that carries out stages of the task `train`; everything else starts as soon as it can."""

    def __init__(self, run_dir: Path, stages: Sequence[Stage]) -> None:
        self.run_dir = run_dir
        self.left = list(stages)

    def __call__(self, state: State) -> Sequence[Decision]:
        for ready in state.ready.values():
            gpus = self.left[0].gpus if ready.task.name == "train" else 1
            mode = next(index for index, mode in enumerate(ready.task.modes) if mode.gpus == gpus)
            if allocation := state.allocate(ready, mode):
                return [allocation]
        for member, run in state.running.items():
            if run.task.task.name == "train" and not run.stopping:
                if self._done() >= self.left[0].until:
                    del self.left[0]
                    return [Preemption(member)]
                return [WakeUp(state.now + 0.1)]
        return []

    def _done(self) -> float:
        """The latest report of any attempt at the training."""
        paths = (attempt_paths(self.run_dir, "train", number).progress for number in range(1, 10))
        return max((report.fraction for path in paths if (report := progress.read(path))), default=0.0)


def train(folder: Path, data: Path, epochs: int, stages: Sequence[Stage]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics, and weights, of a training in stages; it must have been preempted at the end of each but the last."""
    folder.mkdir()
    program = "${python} -m rlsched.experiments.workloads.digits"
    options = f"--lr 0.003 --batch-size 96 --epochs {epochs}"
    content = {
        "train": {
            "run": f"{program} train --data {data}/train.safetensors {options} --out model.safetensors",
            "outputs": ["model.safetensors", "model.json"],
            "gpus": [1, 2],
            "preemptible": True,
            "grace": "60s",
        },
        "evaluate": {
            "run": f"{program} evaluate --data {data} --model model.safetensors --out evaluation.json",
            "inputs": "model.safetensors",
            "outputs": "evaluation.json",
            "gpus": 1,
        },
    }
    file = folder / "flow.yaml"
    file.write_text(yaml.safe_dump({"tasks": content}))
    result = run_workflow(load_workflow(file), Plan(folder / "runs" / "flow", stages), slots=2)
    assert result.exit_code == 0, result.status
    attempts = {unit.name: unit.attempts for unit in result.status.units}
    assert attempts["train"] == len(stages), "it was over before it could be preempted: it needs more epochs"
    metrics = files.read_json(folder / "model.json")
    evaluation = files.read_json(folder / "evaluation.json")
    kept = {"loss": metrics["loss"], **{split: evaluation[split] for split in ("validation", "test")}}
    return kept, load_file(folder / "model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--ranks", type=int, default=2, choices=(1, 2), help="devices of the training")
    options = parser.parse_args()
    ranks = options.ranks
    plans = {
        f"undisturbed on {ranks}": [Stage(ranks, 2.0)],
        f"preempted twice, on {ranks} throughout": [Stage(ranks, 0.3), Stage(ranks, 0.6), Stage(ranks, 2.0)],
    }
    if ranks > 1:
        plans[f"preempted twice, on {ranks}, 1 and {ranks}"] = [Stage(ranks, 0.3), Stage(1, 0.6), Stage(ranks, 2.0)]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        digits.load(data)
        for number, (name, stages) in enumerate(plans.items()):
            results.append(train(Path(folder, str(number)), data, options.epochs, stages))
            print(f"{name}: {results[-1][0]}")
    (straight, weights), (equal, same_weights), *others = results
    identical = equal == straight and all(torch.equal(weights[name], same_weights[name]) for name in weights)
    print(f"at an equal number of ranks {'identical to the last bit' if identical else 'DIFFERENT'}")
    apart = 0.0
    for resized, _ in others:
        apart = max(abs(resized[split] - straight[split]) for split in ("validation", "test"))
        print(f"with another number in between the accuracies are at most {apart:.4f} apart")
    sys.exit(not identical or apart > _TOLERANCE)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
