"""Policy switching: from one look to the next, follow the policy that does best in a simulation of what is known now.

Chang, Givan & Chong, Parallel Rollout for Online Solution of Partially Observable Markov Decision Processes, Discrete
Event Dynamic Systems 14, 2004. Where one network is all there is, its neighbours in parameter space are the others
(Plappert et al., Parameter Space Noise for Exploration, ICLR 2018): each is a policy of its own that is consistent from
decision to decision, unlike one that draws every action.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

from rlsched.envs.encoding import OBJECTIVES
from rlsched.policies.learned import LearnedPolicy
from rlsched.policies.options import look_up
from rlsched.policies.registry import load_policy
from rlsched.scheduler import Decision, Policy, Scheduler, StallError
from rlsched.simulator import Simulator
from rlsched.state import State

_OFTEN = 1000  # decisions after which it is asked whether there is any hope left, if no job has ended meanwhile


class SwitchingPolicy:
    """Follows the one of several policies, and of variants of the trained ones, that a simulation says is best now.

    It looks when a job arrives and, with few jobs in the system, whenever a task becomes ready: every policy plays on
    from there to the end of all jobs that are known, in simulation, where every estimate is true and nothing else
    arrives. The one followed so far is among them, so that looking again never makes what is foreseen worse.

    Args:
        of: policies, names or files, with a `+` in between; of equally good ones the first.
        variants: how many there are of each trained policy, beside itself.
        spread: of their weights around its own, relative to the mean size of those of the same layer.
        few: with more jobs than this in the system, it looks when one arrives and not again before the next.
        many: with more jobs than this it does not look at all, for that would take long, and follows the first policy.
        objective: what is compared.
        seed: of the variants.

    Raises:
        ValueError: no policy, one that cannot be loaded, an unknown objective, or a number below 0.
    """

    def __init__(
        self,
        *,
        of: str = "pretrained/general",
        variants: int = 6,
        spread: float = 0.3,
        few: int = 20,
        many: int = 1000,
        objective: str = OBJECTIVES[0],
        seed: int = 0,
    ) -> None:
        for name, number in (("variants", variants), ("spread", spread), ("few", few), ("many", many)):
            if number < 0:
                raise ValueError(f"{name} is {number}, expected 0 or more")
        self._objective = look_up({name: name for name in OBJECTIVES}, "objective", objective)
        self._few, self._many = few, many
        # None of these ever sees a state: copies of them do.
        self._policies = [load_policy(name, seed) for name in of.split("+") if name]
        if not self._policies:
            raise ValueError("of names no policy")
        if any(isinstance(policy, SwitchingPolicy) for policy in self._policies):
            raise ValueError(f"of is {of!r}: one that switches cannot be among those it switches between")
        for policy in [policy for policy in self._policies if isinstance(policy, LearnedPolicy)]:
            self._policies += [policy.varied(spread, seed + number) for number in range(variants)]
        self._state: State | None = None
        self._looked = (0, 0)
        self._followed = self._policies[0]

    def __call__(self, state: State) -> Sequence[Decision]:
        now = (state.arrived, state.became_ready if len(state.jobs) <= self._few else 0)
        if state is not self._state or now != self._looked:
            self._followed = copy.deepcopy(self._best(state))
            self._state, self._looked = state, now
        return self._followed(state)

    def _best(self, state: State) -> Policy:
        best, least = self._policies[0], math.inf
        if len(state.jobs) > self._many:
            return best
        for policy in self._policies:
            value = self._foreseen(policy, state, least)
            if value < least:
                best, least = policy, value
        return best

    def _foreseen(self, policy: Policy, state: State, least: float) -> float:
        """The objective's value, if the policy goes on from here; infinite if it cannot, or if it is not below."""
        scheduler, player = Scheduler(Simulator.onwards(state), state=state.copy()), copy.deepcopy(policy)
        jobs, steps = len(state.jobs), 0
        try:
            while not scheduler.finished:
                scheduler.step(player)
                steps += 1
                if len(scheduler.state.jobs) < jobs or not steps % _OFTEN:
                    jobs = len(scheduler.state.jobs)
                    # Those that go on are counted as if they ended now: it can only become more.
                    if scheduler.schedule.score(self._objective) >= least:
                        return math.inf
        except (StallError, ValueError):
            return math.inf
        return scheduler.schedule.score(self._objective)
