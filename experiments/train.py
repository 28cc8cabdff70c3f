"""Train a policy on a scenario: read from top to bottom.

    rlsched train het16 -o runs/het16

Every iteration plays whole episodes of the scenario's training workloads and updates the network by PPO
(`rlsched.policies.ppo`). Every few iterations the policy is tried on the validation workloads beside a reference
heuristic on the same ones; the best so far is what `policy.safetensors` holds. Seeds for reporting are never touched.

The output directory holds policy.safetensors + policy.json (the best by validation), curve.csv (one row an
evaluation), tensorboard/, and checkpoint.pt, from which `--resume` continues to the same result, bit for bit, as an
uninterrupted training would have had.
"""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure

from rlsched.experiments.cloning import clone
from rlsched.experiments.first_stops import begin_to_stop
from rlsched.experiments.linear_start import start_from_linear
from rlsched.manifest import manifest
from rlsched.policies.learned import LearnedPolicy, load_learned, save_policy
from rlsched.policies.network import NetworkConfig, SchedulingNetwork
from rlsched.policies.ppo import GroupPPO
from rlsched.policies.registry import is_heuristic, load_policy
from rlsched.policies.rollouts import Players
from rlsched.policies.shipped import policy_file
from rlsched.policies.tuned import TunedFileError, read_tuned
from rlsched.scenario import Scenario

_LESSONS = 2  # training workloads that show how sharp a linear policy is to start with
REFERENCES = ("srpt", "critical-path", "sjf", "fifo")


class ResumeError(ValueError):
    """A training that cannot be continued as asked; one sentence says why."""


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """What decides the result of a training, beside the scenario.

    Attributes:
        steps: decisions to train for; the last iteration is completed.
        seed: of the initial weights and all sampling.
        sequences, rollouts: arrival sequences an iteration, and how often each is played.
        validate_every: iterations between validations.
        validation_workloads: how many workloads a validation plays.
        learning_rate, final_learning_rate: Adam's, decaying linearly over `steps`.
        horizon, trace: see `GroupPPO`.
        start: file or folder of a trained policy to start from, or YAML file of a linear one, or a heuristic's name, to
            start with what it decides; empty: from scratch.
    """

    steps: int = 1_500_000
    seed: int = 0
    sequences: int = 8
    rollouts: int = 8
    validate_every: int = 3
    validation_workloads: int = 24
    learning_rate: float = 3e-3
    final_learning_rate: float = 3e-4
    horizon: float = 16.0
    trace: float = 4.0
    start: str = ""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One point of the learning curve.

    Attributes:
        decisions: made in training so far.
        objective: of the policy, mean over the validation workloads, seconds. Of a mixture, whose scenarios have
            objectives of different sizes, each counts relative to the mean of the reference in its scenario.
        reference: of the reference heuristic on the same workloads, seconds; 1 for a mixture.
        seconds: wall-clock time of the training so far.
    """

    decisions: int
    objective: float
    reference: float
    seconds: float

    @property
    def ratio(self) -> float:
        """Below 1: better than the reference."""
        return self.objective / self.reference


Progress = Callable[[int, Evaluation | None], None]
"""Called after every iteration with the decisions so far, and the evaluation if there was one."""


def train(
    scenario: Scenario,
    out: Path,
    config: TrainingConfig,
    resume: bool = False,
    progress: Progress | None = None,
    processes: int = 0,
    device: str = "cpu",
) -> list[Evaluation]:
    """Train, write the results to `out`, and return the learning curve. `processes` does not change the result.

    Args:
        device: of torch, where updates are computed. A GPU adds up in another order, and not always in the same: only
            on CPUs is a result the same bit for bit.

    Raises:
        ResumeError: `out` holds a training already and `resume` is false, or it was started with another set-up.
        PolicyFileError, TunedFileError: what is to be started from cannot be read.
        ValueError: it is a heuristic that does not exist, or that decides nothing that could be imitated.
    """
    torch.set_num_threads(1)
    identity = {"scenario": scenario.name, **asdict(config)}
    previous = _read_checkpoint(out / "checkpoint.pt", identity, resume)
    started = _read_start(config.start)
    out.mkdir(parents=True, exist_ok=True)

    model = GroupPPO(
        scenario,
        sequences=config.sequences,
        rollouts=config.rollouts,
        network=started.network.config if isinstance(started, LearnedPolicy) else NetworkConfig(),
        horizon=config.horizon,
        trace=config.trace,
        processes=processes,
        device=device,
        learning_rate=lambda left: (
            config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * max(0.0, left)
        ),
        batch_size=1024,
        n_epochs=4,
        clip_range=0.2,
        ent_coef=0.0,
        max_grad_norm=0.5,
        seed=config.seed,
    )
    model.set_logger(configure(str(out / "tensorboard"), ["tensorboard"]))
    recorder = _Recorder(scenario, out, config, identity, progress)
    if started is not None and previous is None:
        _begin_with(started, model.network, scenario, config.seed)
    with model.players:
        _learn(model, recorder, previous, config.steps)
    return recorder.curve


Start = LearnedPolicy | Mapping[str, float] | str


def _read_start(start: str) -> Start | None:
    """The policy to start from: trained, or the weights of a linear one, or the name of a heuristic."""
    if not start:
        return None
    if is_heuristic(start):
        load_policy(start)  # a wrong option is found before anything is made
        return start
    path = policy_file(start)
    if path.suffix not in (".yaml", ".yml"):
        return load_learned(path)
    weights = read_tuned(path).weights
    if weights is None:
        raise TunedFileError(f"{start}: policy: expected that of a linear policy, with weights")
    return weights


def _begin_with(started: Start, network: SchedulingNetwork, scenario: Scenario, seed: int) -> None:
    if isinstance(started, str):
        clone(network, scenario, started, seed)
    elif isinstance(started, LearnedPolicy):
        network.load_state_dict(started.network.state_dict())
        if scenario.preemption and not started.encoder.preemption:
            begin_to_stop(network, scenario, scenario.seeds.train)
    else:
        lessons = scenario.seed_range("train", _LESSONS)
        start_from_linear(network, started, scenario.episode(lessons[0]), lessons)


def _learn(model: GroupPPO, recorder: _Recorder, previous: dict[str, Any] | None, steps: int) -> None:
    if previous is not None:
        recorder.restore(model, previous)
    else:
        recorder.begin(model.players)
    if model.num_timesteps < steps:
        # stable-baselines3 counts what is to come, not the total, when it goes on
        model.learn(steps - model.num_timesteps, callback=recorder, reset_num_timesteps=previous is None)
    else:
        recorder.init_callback(model)
    recorder.finish()


class _Recorder(BaseCallback):
    """Validates, keeps the best policy, and writes checkpoints between a rollout and its update."""

    def __init__(
        self,
        scenario: Scenario,
        out: Path,
        config: TrainingConfig,
        identity: dict[str, Any],
        progress: Progress | None,
    ) -> None:
        super().__init__()
        self.scenario, self.out, self.config, self.identity, self.progress = scenario, out, config, identity, progress
        self.curve: list[Evaluation] = []
        self.seeds = list(scenario.seed_range("validation", config.validation_workloads))
        self.reference_name, self.reference = "", float("inf")
        self.scales: list[float] = []
        self.seconds_before = 0.0
        self.started = time.monotonic()

    def begin(self, players: Players) -> None:
        """Measure the reference: in each scenario the best of a few heuristics on the validation workloads."""
        names = [self.scenario.episode(seed).name for seed in self.seeds]
        played = iter(players.scores([(heuristic, seed) for heuristic in REFERENCES for seed in self.seeds]))
        means: dict[str, tuple[float, str]] = {}
        for heuristic in REFERENCES:
            scores = [next(played) for _ in self.seeds]
            for name in set(names):
                of_scenario = [score for score, other in zip(scores, names, strict=True) if other == name]
                means[name] = min((float(np.mean(of_scenario)), heuristic), means.get(name, (math.inf, "")))
        self.scales = [means[name][0] for name in names]
        self.reference_name = ",".join(sorted({heuristic for _, heuristic in means.values()}))
        self.reference = self.scales[0] if len(means) == 1 else 1.0

    def restore(self, model: GroupPPO, checkpoint: dict[str, Any]) -> None:
        model.policy.load_state_dict(checkpoint["policy"])
        model.policy.optimizer.load_state_dict(checkpoint["optimizer"])
        model.average.load_state_dict(checkpoint["average"])
        model.critic.load_state_dict(checkpoint["critic"])
        model.iteration, model.num_timesteps = checkpoint["iteration"], checkpoint["num_timesteps"]
        self.curve = [Evaluation(*row) for row in checkpoint["curve"]]
        self.reference_name, self.reference = checkpoint["reference_name"], checkpoint["reference"]
        self.scales = checkpoint["scales"]
        self.seconds_before = checkpoint["seconds"]

    def _on_rollout_start(self) -> None:
        """All of an update is in the weights now: the moment to validate and to write a checkpoint."""
        model = self._group_ppo()
        evaluation = self._evaluate() if model.iteration % self.config.validate_every == 0 else None
        self._checkpoint(model)
        if self.progress is not None:
            self.progress(model.num_timesteps, evaluation)

    def finish(self) -> None:
        """Validate and save the last update too."""
        self._evaluate()
        self._checkpoint(self._group_ppo())
        if self.progress is not None:
            self.progress(self._group_ppo().num_timesteps, self.curve[-1])

    def _on_step(self) -> bool:
        return True

    def _group_ppo(self) -> GroupPPO:
        assert isinstance(self.model, GroupPPO)
        return self.model

    def _evaluate(self) -> Evaluation:
        model = self._group_ppo()
        if self.curve and self.curve[-1].decisions == model.num_timesteps:
            return self.curve[-1]  # a resumed training starts where this evaluation was made
        groups = [self.seeds[i : i + 8] for i in range(0, len(self.seeds), 8)]
        # The untrained network's best action means nothing (it may wait for ever): it samples, at random in effect.
        sampling = [i if model.iteration == 0 else None for i in range(len(groups))]
        played = model.players.play(model.averaged, groups, sampling)
        scores = [episode.score for group in played for episode in group]
        objective = self.reference * float(np.mean(np.array(scores) / self.scales))
        result = Evaluation(model.num_timesteps, objective, self.reference, self._seconds())
        best = min((e.objective for e in self.curve), default=float("inf"))
        self.curve.append(result)
        self.model.logger.record("validation/ratio", result.ratio)
        if result.objective < best:
            self._save(result)
        with (self.out / "curve.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["decisions", self.scenario.objective, self.reference_name, "ratio", "seconds"])
            rows.writerows([e.decisions, e.objective, e.reference, e.ratio, round(e.seconds, 1)] for e in self.curve)
        return result

    def _save(self, best: Evaluation) -> None:
        card = {
            "kind": "learned scheduling policy (PPO)",
            "scenario": self.scenario.name,
            "objective": self.scenario.objective,
            "preemption": self.scenario.preemption,
            "training": asdict(self.config),
            "training_seeds": f"from {self.scenario.seeds.train}",
            "validation": {
                "seeds": [self.seeds[0], self.seeds[-1]],
                "decisions": best.decisions,
                "objective": best.objective,
                "reference": {self.reference_name: best.reference},
                "ratio": best.ratio,
            },
            "curve": [{"decisions": e.decisions, "ratio": round(e.ratio, 4)} for e in self.curve],
            "manifest": manifest(seeds=[self.config.seed]),
        }
        save_policy(self.out / "policy", self._group_ppo().averaged, card)

    def _checkpoint(self, model: GroupPPO) -> None:
        content = {
            "identity": json.dumps(self.identity),
            "policy": model.policy.state_dict(),
            "optimizer": model.policy.optimizer.state_dict(),
            "average": model.average.state_dict(),
            "critic": model.critic.state_dict(),
            "iteration": model.iteration,
            "num_timesteps": model.num_timesteps,
            "curve": [[e.decisions, e.objective, e.reference, e.seconds] for e in self.curve],
            "reference_name": self.reference_name,
            "reference": self.reference,
            "scales": self.scales,
            "seconds": self._seconds(),
        }
        temporary = self.out / "checkpoint.tmp"
        torch.save(content, temporary)
        temporary.replace(self.out / "checkpoint.pt")

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started


def _read_checkpoint(path: Path, identity: dict[str, Any], resume: bool) -> dict[str, Any] | None:
    if not path.exists():
        return None
    if not resume:
        raise ResumeError(f"{path.parent}: holds a training already; use --resume to continue it, or another -o")
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    begun = json.loads(checkpoint["identity"])
    for name, value in identity.items():
        if begun.get(name) != value:
            raise ResumeError(f"{path.parent}: was started with {name} {begun.get(name)}, not {value}")
    return checkpoint
