"""Tune the named policies on a scenario: read from top to bottom.

    rlsched tune-baseline het16 -o tuned/het16.yaml

Every policy with options is a family (`rlsched.experiments.space`); one that does the same as another before anything
is tuned, such as earliest deadline first where there are no deadlines, is left out. Each has a study of its own: it
begins with the defaults and with one option changed at a time, then Optuna's tree-structured Parzen estimator (Bergstra
et al., NeurIPS 2011; here multivariate) proposes what to try. The trials go in thirds: to all families, in proportion
to how many options they have; to the best third of them; to the best third of these. A trial plays few training
workloads. The best candidates play three times as many, the best of these all (successive halving: Jamieson &
Talwalkar, AISTATS 2016), and at least one of every family stays. The last ones play the validation workloads, and the
best there, without options that change nothing, is the tuned baseline. Report workloads are never played.

All candidates play the same workloads in fixed batches, so the result depends on the configuration alone, however many
processes there are.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import optuna

from rlsched.experiments.arena import Arena, Progress, Standing, TuningError, arena
from rlsched.experiments.space import Space, families, first_looks, space_of, spell
from rlsched.manifest import manifest
from rlsched.policies.options import Option, parse, suggest
from rlsched.policies.registry import options
from rlsched.policies.tuned import Member, TunedBaseline, write_tuned
from rlsched.scenario import Scenario

_BATCH = 4  # trials that a family asks for before it learns how the first of them went
_PART = 3  # of the families, workloads and candidates: what each stage keeps or multiplies
_SIEVE = 24  # one of so many candidates plays all training workloads, three times as many play a third of them
_FINALISTS = 8  # that play the validation workloads, beside the best of every family


@dataclass(frozen=True, slots=True)
class TuningConfig:
    """What decides the result of a search, beside the scenario.

    Attributes:
        trials: candidates to try, over all families.
        training_workloads: how many the last stage plays; the trials play a ninth of them.
        validation_workloads: how many the best is chosen on.
        families: names of policies; empty: all that can be tuned.
        seed: of the proposals.
    """

    trials: int = 400
    training_workloads: int = 72
    validation_workloads: int = 64
    families: tuple[str, ...] = ()
    seed: int = 0


@dataclass(eq=False)
class _Family:
    """A policy's name, what can be tuned about it, and the study that does."""

    name: str
    space: Space
    study: optuna.Study
    best: float = float("inf")
    left: int = 0
    asked: list[tuple[optuna.trial.Trial, str]] = field(default_factory=list)

    @classmethod
    def begin(cls, name: str, seed: int) -> _Family:
        space = space_of(name)
        own_seed = zlib.crc32(f"{seed} {name}".encode())
        looks = first_looks(space)
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=len(looks), multivariate=True, constant_liar=True, seed=own_seed
        )
        study = optuna.create_study(sampler=sampler)
        for look in looks:
            study.enqueue_trial(look)
        return cls(name, space, study)

    def ask(self) -> None:
        """Propose the next few candidates."""
        self.asked = []
        for _ in range(min(_BATCH, self.left)):
            trial = self.study.ask()
            values = {option: searched.suggest(option, trial) for option, searched in self.space.items()}
            self.asked.append((trial, spell(self.name, values)))
        self.left -= len(self.asked)

    def tell(self, means: Mapping[str, float]) -> None:
        for trial, policy in self.asked:
            self.study.tell(trial, means[policy])
            self.best = min(self.best, means[policy])


class _Field:
    """The candidates with their scores on the workloads they have played, which are the same for all."""

    def __init__(self) -> None:
        self.scores: dict[str, tuple[float, ...]] = {}

    def mean(self, policy: str) -> float:
        return fmean(self.scores[policy])

    def best(self, count: int) -> list[str]:
        """The best, and the best of every family; of those that do the same on all workloads the shortest to spell."""
        kept: list[str] = []
        outcomes: set[tuple[float, ...]] = set()
        names: set[str] = set()
        for policy in sorted(self.scores, key=lambda policy: (self.mean(policy), len(policy), policy)):
            name, scores = policy.partition(":")[0], self.scores[policy]
            if name not in names or (len(kept) < count and scores not in outcomes):
                kept.append(policy)
                outcomes.add(scores)
                names.add(name)
        return kept


def tune(
    scenario: Scenario,
    out: Path,
    config: TuningConfig,
    resume: bool = False,
    processes: int = 0,
    progress: Progress | None = None,
) -> TunedBaseline:
    """Search, write the result to `out`, and return it.

    Raises:
        TuningError: there is nothing to search, or `out` is there already, or a search for it and `resume` is false.
        BenchmarkError: a candidate fails on a workload, or what is to be resumed was something else.
        ScenarioError: the scenario has fewer seeds.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    training = list(scenario.seed_range("train", config.training_workloads))
    validation = list(scenario.seed_range("validation", config.validation_workloads))
    searched = [_Family.begin(name, config.seed) for name in _names(config)]
    with arena(scenario, out, resume, processes, progress) as players:
        few = training[: -(-len(training) // _PART**2)]
        explored, default = _explore(players, searched, config.trials, few)
        found = explored
        for part in (_PART, 1):
            seeds = training[: -(-len(training) // part)]
            found = _play(players, f"best on {len(seeds)}", found.best(config.trials * part // _SIEVE), seeds)
        players.begin("simplifying", 0)
        finalists = _simplify(players, found.best(_FINALISTS), searched, explored, few)
        judged = [*finalists, *({default} - {*finalists})]
        last = _play(players, "validation", judged, validation)
        members = [
            Member(
                policy=policy,
                training=round(found.mean(finalists[policy]), 3) if policy in finalists else None,
                validation=round(last.mean(policy), 3),
            )
            for policy in sorted(judged, key=lambda policy: (last.mean(policy), policy))
        ]
        best = members[0].policy
        result = TunedBaseline(
            policy=best,
            options=_all_options(best),
            scenario=scenario.name,
            objective=scenario.objective,
            method=f"TPE, {config.trials} trials, seed {config.seed}",
            training_seeds=(training[0], training[-1]),
            validation_seeds=(validation[0], validation[-1]),
            default=next(member for member in members if member.policy == default),
            members=tuple(members),
            manifest=manifest(seeds=[config.seed]),
        )
        write_tuned(out, result)
    return result


def _explore(players: Arena, searched: Sequence[_Family], trials: int, seeds: Sequence[int]) -> tuple[_Field, str]:
    """All candidates that were tried, and the best policy as it comes."""
    players.begin("searching", trials * len(seeds))
    names = [family.name for family in searched]
    untuned = dict(zip(names, players.scores(names, seeds), strict=True))
    alike = {untuned[name]: name for name in reversed(names)}  # of several that do the same, the first
    alive = [family for family in searched if family.name in alike.values()]
    found = _Field()
    found.scores = {family.name: untuned[family.name] for family in alive}
    default = best = min(found.scores, key=found.mean)
    for _ in range(_PART):
        total = sum(len(family.space) for family in alive)
        for family in alive:
            family.left = max(1, round(trials / _PART * len(family.space) / total))
        while any(family.left for family in alive):
            for family in alive:
                family.ask()
            asked = list(dict.fromkeys(policy for family in alive for _, policy in family.asked))
            found.scores |= zip(asked, players.scores(asked, seeds), strict=True)
            for family in alive:
                family.tell({policy: found.mean(policy) for _, policy in family.asked})
            leader = found.best(1)[0]
            if leader != best:
                best = leader
                ratio = found.mean(best) / found.mean(default) if found.mean(default) else float("nan")
                players.say(Standing(best, found.mean(best), ratio, len(seeds), default))
        alive = sorted(alive, key=lambda family: (family.best, family.name))[: -(-len(alive) // _PART)]
    return found, default


def _simplify(
    players: Arena, policies: Sequence[str], searched: Sequence[_Family], explored: _Field, seeds: Sequence[int]
) -> dict[str, str]:
    """The policies without options that change nothing here, by name and options, and what they were found as.

    Where nothing is preemptible, for example, it does not matter how preemption is set. Suspected are the options that
    changed nothing when each was tried alone; they go if it changes nothing either that they all go.
    """
    idle = {
        family.name: {
            option
            for option, of_option in family.space.items()
            if all(
                explored.scores.get(spell(family.name, {option: value})) == explored.scores.get(family.name)
                for value in of_option.others
            )
        }
        for family in searched
    }
    simple = {}
    for policy in policies:
        name = policy.partition(":")[0]
        simple[policy] = spell(name, {o: value for o, value in _all_options(policy).items() if o not in idle[name]})
    scores = dict(zip(simple.values(), players.scores([*simple.values()], seeds), strict=True))
    same = {policy: spelled for policy, spelled in simple.items() if scores[spelled] == explored.scores[policy]}
    return {same.get(policy, policy): policy for policy in reversed(policies)}


def _play(players: Arena, stage: str, policies: Sequence[str], seeds: Sequence[int]) -> _Field:
    players.begin(stage, len(policies) * len(seeds))
    result = _Field()
    result.scores = dict(zip(policies, players.scores(policies, seeds), strict=True))
    return result


def _names(config: TuningConfig) -> list[str]:
    known = families()
    for name in config.families:
        if name not in known:
            raise TuningError(f"families: {name!r} cannot be tuned; {suggest(name, known)}")
    return list(dict.fromkeys(config.families)) or known


def _all_options(policy: str) -> dict[str, Option]:
    """Of a policy that `spell` has spelled, every option, those that are as they come as well."""
    name, _, given = policy.partition(":")
    defaults = options(name)
    return defaults | parse(given, defaults, name)
