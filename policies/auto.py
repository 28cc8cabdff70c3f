"""The guard: rehearse several policies on the work at hand, with the estimates at hand, and take the best.

A rehearsal is a simulation with durations drawn around the estimates. What it is of, `AutoPolicy` says; it is never the
future of what is to be scheduled.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

from rlsched.generator.generator import Generator
from rlsched.model import Job
from rlsched.policies.registry import load_policy
from rlsched.policies.shipped import shipped_policies
from rlsched.scenario import Scenario
from rlsched.scheduler import Decision, Policy, Scheduler, StallError
from rlsched.simulator import Simulator, Uncertainty
from rlsched.state import State
from rlsched.workloadfile import WorkloadFile

PORTFOLIO = ("srpt", "critical-path:threshold=0.7,blocking=none", "lp")
"""What is rehearsed beside the policies that come trained or tuned with rlsched, and those that the user names."""

NOISE = Uncertainty(duration_noise=0.3)
_LUCK = 2**40  # where the seeds of rehearsals of the very jobs begin: far from all that scenarios are played with

Rehearsal = Callable[[], Simulator]


@dataclass(frozen=True, slots=True)
class Forecast:
    """How a policy did in rehearsal.

    Attributes:
        policy: name or file.
        value: mean of the objective, seconds; None if it was not rehearsed to the end.
        reason: why not.
    """

    policy: str
    value: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was taken, and why.

    Attributes:
        policy: name or file of the best.
        objective: what it is best at.
        of: what was rehearsed, in words.
        forecasts: of every policy, best first.
    """

    policy: str
    objective: str
    of: str
    forecasts: tuple[Forecast, ...]


class AutoPolicy:
    """Rehearses several policies on the work at hand and takes the best; looks once, when it is asked first.

    The work at hand is the jobs that are there when the first decision is due: all of a workflow, or of a scenario
    whose jobs are all released at once. Their rehearsals begin with nothing done. Where jobs are drawn and arrive one
    by one, these few would say nothing: `prepare` rehearses on training workloads of the same scenario instead.

    Ties go to the policy that is listed first: those in `also`, those that come with rlsched, `PORTFOLIO`.

    Args:
        also: more policies, names or files, with a `+` in between.
        seconds: of wall-clock time that rehearsals may take in all, above 0. What does not end its first one in its
            share of it is out; what is left undone of later ones is not counted for anybody. Only then does the choice
            depend on how fast the machine is.
        rehearsals: how many there are, with different luck, at least 1.
        seed: of policies that decide by chance.

    Attributes:
        choice: what was taken; None before.
        settled: the choice stands, whatever there is to schedule.
        observe: is told of every choice.

    Raises:
        ValueError: a number out of range, or a policy in `also` that cannot be loaded.
    """

    def __init__(self, *, also: str = "", seconds: float = 60.0, rehearsals: int = 3, seed: int = 0) -> None:
        if not seconds > 0:
            raise ValueError(f"seconds is {seconds}, expected a number above 0")
        if rehearsals < 1:
            raise ValueError(f"rehearsals is {rehearsals}, expected 1 or more")
        more = [name for name in also.split("+") if name]
        self._portfolio = list(dict.fromkeys([*more, *shipped_policies(), *PORTFOLIO]))
        for name in more:
            load_policy(name, seed)
        self._seconds, self._rehearsals, self._seed = seconds, rehearsals, seed
        self._objective, self._uncertainty = "mean_jct", NOISE
        self._state: State | None = None
        self._jobs: list[Job] = []
        self._policy: Policy | None = None
        self.settled = False
        self.choice: Choice | None = None
        self.observe: Callable[[Choice], None] | None = None

    def __call__(self, state: State) -> Sequence[Decision]:
        if state is not self._state and not self.settled:
            self._look_at(state)
        self._state = state
        assert self._policy is not None
        return self._policy(state)

    def prepare(self, scenario: Scenario, seed: int) -> None:
        """Say what is going to be scheduled: a workload of a scenario.

        The objective and the uncertainty are the scenario's. If its jobs are drawn and do not all come at once, the
        choice is made here, in rehearsals of training workloads other than `seed`, and stands.
        """
        self._objective, self._uncertainty = scenario.objective, scenario.uncertainty
        if _arrive_by_and_by(scenario):
            workloads = [s for s in scenario.seed_range("train", self._rehearsals + 1) if s != seed][: self._rehearsals]
            rehearsals = [partial(scenario.simulator, workload) for workload in workloads]
            self._choose(rehearsals, f"{len(workloads)} training workload{'s' * (len(workloads) > 1)}")
            self.settled = True

    def settle(self, choice: Choice) -> None:
        """Take what was chosen before for the same scenario, without any rehearsal."""
        self._take(choice)
        self.settled = True

    def _look_at(self, state: State) -> None:
        jobs = [job.job for job in state.jobs.values()]
        if self._policy is not None and [*map(id, jobs)] == [*map(id, self._jobs)]:
            return  # the same work once more, as when a run was predicted before it begins
        self._jobs = jobs
        lucks = range(_LUCK, _LUCK + self._rehearsals)
        rehearsals = [partial(Simulator, state.cluster, jobs, luck, self._uncertainty) for luck in lucks]
        self._choose(rehearsals, f"the {len(jobs)} jobs known now" if len(jobs) > 1 else "the job known now")

    def _choose(self, rehearsals: Sequence[Rehearsal], of: str) -> None:
        forecasts = _forecast(self._portfolio, rehearsals, self._objective, self._seconds, self._seed)
        ranked = sorted(forecasts, key=lambda f: math.inf if f.value is None else f.value)
        policy = PORTFOLIO[0] if ranked[0].value is None else ranked[0].policy
        choice = Choice(policy, self._objective, of, tuple(ranked))
        self._take(choice)
        if self.observe is not None:
            self.observe(choice)

    def _take(self, choice: Choice) -> None:
        self.choice = choice
        self._policy = load_policy(choice.policy, self._seed)


class _OutOfTimeError(Exception):
    """A rehearsal took too long."""


def _forecast(
    portfolio: Sequence[str], rehearsals: Sequence[Rehearsal], objective: str, seconds: float, seed: int
) -> list[Forecast]:
    """All policies play a rehearsal before any plays the next; means are over those that all have ended."""
    end = time.monotonic() + seconds
    scores: dict[str, list[float]] = {name: [] for name in portfolio}
    out: dict[str, str] = {}
    for number, rehearsal in enumerate(rehearsals):
        playing = [name for name in portfolio if name not in out]
        for position, name in enumerate(playing):
            left = end - time.monotonic()
            share = left if number else left / (len(playing) - position)
            try:
                scores[name].append(_rehearse(load_policy(name, seed), rehearsal(), objective, share))
            except _OutOfTimeError:
                if not number:
                    out[name] = f"does not end a rehearsal in {share:.3g} s"
            except (StallError, ValueError) as error:
                out[name] = f"fails: {error}"
    ended = min((len(scores[name]) for name in portfolio if name not in out), default=0)
    return [
        Forecast(name, None, out[name]) if name in out else Forecast(name, fmean(scores[name][:ended]))
        for name in portfolio
    ]


def _rehearse(policy: Policy, simulator: Simulator, objective: str, seconds: float) -> float:
    end = time.monotonic() + seconds

    def in_time(state: State) -> Sequence[Decision]:
        if time.monotonic() > end:
            raise _OutOfTimeError
        return policy(state)

    return Scheduler(simulator).run(in_time).score(objective)


def _arrive_by_and_by(scenario: Scenario) -> bool:
    """Whether the jobs are drawn anew for every seed and come one after the other."""
    source = scenario.source
    if isinstance(source, Generator):
        return source.mean_gap > 0
    return isinstance(source, WorkloadFile) and source.header.arrivals is not None
