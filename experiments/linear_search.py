"""Find the weights of a linear policy by CMA-ES: read from top to bottom.

    rlsched tune-baseline het16 --method cma-es -o tuned/het16-linear.yaml

The search begins with the weights that imitate a policy best, in units of the columns' spread
(`rlsched.experiments.imitation`), and goes on by the covariance matrix adaptation evolution strategy (Hansen, The CMA
Evolution Strategy: A Tutorial, 2016), as the package `cmaes` has it. The whole population of a generation plays the
same training workloads (common random numbers), the next generation other ones. What a population is drawn around, its
mean, is less subject to luck than any member: now and then it plays a part of the validation workloads, the best of
these play all of them, and the best there is what is kept. Report workloads are never played.

Every number comes from the configuration alone, however many processes there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from cmaes import CMA

from rlsched.experiments.arena import Arena, Progress, Standing, arena
from rlsched.experiments.imitation import Imitation, imitate
from rlsched.manifest import manifest
from rlsched.policies.tuned import LINEAR, Member, TunedBaseline, write_tuned
from rlsched.scenario import Scenario

_LESSONS = 6  # training workloads on which the start is imitated
_EVERY = 4  # generations from one look at the mean to the next
_PART = 3  # such a look plays one in so many of the validation workloads
_FINALISTS = 4  # means that play them all


@dataclass(frozen=True, slots=True)
class LinearConfig:
    """What decides the result of a search, beside the scenario.

    Attributes:
        trials: weights to try; the last generation is completed.
        population: weights a generation.
        workloads: training workloads that a generation plays.
        training_workloads: how many there are; when all have been played, generations begin anew with the first.
        validation_workloads: how many the best is chosen on.
        start: the policy to imitate at first.
        step: standard deviation of the first generation, the start being of length 1.
        seed: of the draws.
    """

    trials: int = 640
    population: int = 16
    workloads: int = 6
    training_workloads: int = 240
    validation_workloads: int = 64
    start: str = "srpt:blocking=none"
    step: float = 0.1
    seed: int = 0


def tune_linear(
    scenario: Scenario,
    out: Path,
    config: LinearConfig,
    resume: bool = False,
    processes: int = 0,
    progress: Progress | None = None,
) -> TunedBaseline:
    """Search, write the result to `out`, and return it.

    Raises:
        TuningError: `out` is there already, or a search for it and `resume` is false.
        BenchmarkError: what is to be resumed was something else, or the policy to imitate fails.
        ScenarioError: the scenario has fewer seeds.
        ValueError: a policy to imitate that cannot be.
    """
    training = list(scenario.seed_range("train", config.training_workloads))
    validation = list(scenario.seed_range("validation", config.validation_workloads))
    with arena(scenario, out, resume, processes, progress) as players:
        start = imitate(scenario, config.start, training[:_LESSONS])
        means = _evolve(players, start, config, training, validation[: -(-len(validation) // _PART)])
        finalists = sorted(means, key=lambda generation: means[generation][1])[:_FINALISTS]
        players.begin("validation", (len(finalists) + 1) * len(validation))
        candidates = [start.by_name(means[generation][0]) for generation in finalists]
        scores = [fmean(each) for each in players.scores([*candidates, config.start], validation)]
        best = min(range(len(finalists)), key=lambda number: scores[number])
        judged = sorted((score, f"{LINEAR}, generation {g}") for score, g in zip(scores[:-1], finalists, strict=True))
        result = TunedBaseline(
            policy=LINEAR,
            weights=candidates[best],
            scenario=scenario.name,
            objective=scenario.objective,
            method=f"CMA-ES, {config.trials} trials, seed {config.seed}, starting like {config.start}",
            training_seeds=(training[0], training[-1]),
            validation_seeds=(validation[0], validation[-1]),
            default=Member(policy=config.start, validation=round(scores[-1], 3)),
            members=tuple(Member(policy=name, validation=round(score, 3)) for score, name in judged),
            manifest=manifest(seeds=[config.seed]),
        )
        write_tuned(out, result)
    return result


def _evolve(
    players: Arena, start: Imitation, config: LinearConfig, training: list[int], validation: list[int]
) -> dict[int, tuple[np.ndarray, float]]:
    """By generation, the mean and its score on the validation workloads, for the means that were looked at."""
    strategy = CMA(start.weights, config.step, seed=config.seed, population_size=config.population)
    generations = -(-config.trials // config.population)
    looks = -(-generations // _EVERY) + 1
    players.begin("searching", generations * config.population * config.workloads + (looks + 1) * len(validation))
    yardstick = fmean(players.scores([config.start], validation)[0])
    means: dict[int, tuple[np.ndarray, float]] = {}
    for generation in range(generations + 1):
        if generation % _EVERY == 0 or generation == generations:
            mean = strategy.mean.copy()
            score = fmean(players.scores([start.by_name(mean)], validation)[0])
            if all(score < other for _, other in means.values()):
                ratio = score / yardstick if yardstick else float("nan")
                name = f"{LINEAR}, generation {generation}"
                players.say(Standing(name, score, ratio, len(validation), config.start))
            means[generation] = mean, score
        if generation < generations:
            population = [strategy.ask() for _ in range(config.population)]
            begin = generation * config.workloads
            seeds = [training[number % len(training)] for number in range(begin, begin + config.workloads)]
            scores = players.scores([start.by_name(weights) for weights in population], seeds)
            strategy.tell([(weights, fmean(each)) for weights, each in zip(population, scores, strict=True)])
    return means
