"""A linear priority function: a weighted sum of what the encoder says of each candidate, and of waiting.

The baseline between a rule and a network: it sees what a learned policy sees, and needs no more than its weights, which
`rlsched tune-baseline --method cma-es` finds and a YAML file keeps by the names of the columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rlsched.envs.continuation import Continuation
from rlsched.envs.encoding import GLOBAL_FEATURES, OBJECTIVES, Encoder, decision_of
from rlsched.envs.rows import COLUMNS, Candidate
from rlsched.model import Allocation, Preemption
from rlsched.policies.options import UnknownNameError, suggest
from rlsched.state import State

CANDIDATE_COLUMNS = tuple(name for name, _ in COLUMNS)
WAIT_COLUMNS = (
    "wait.free_share",
    "wait.most_free_type",
    "wait.least_free_type",
    "wait.most_free_resource",
    "wait.least_free_resource",
    "wait.jobs",
    "wait.ready",
    "wait.work",
    "wait.demand",
    "wait.next_end",
    "wait.cluster_size",
    "wait.types",
)
"""The encoder's `globals` but for the objective. They are the same for all candidates, so they count for waiting."""

NAMES = (*CANDIDATE_COLUMNS, *WAIT_COLUMNS)
STOP = "is_stop"
assert len(OBJECTIVES) + len(WAIT_COLUMNS) == GLOBAL_FEATURES, "name the encoder's globals here, in their order"

Floats = NDArray[np.float64]


class LinearPolicy:
    """Carries out the candidate with the largest weighted sum, one at a time, or waits if waiting has the largest.

    The sum of a candidate, and of waiting, is over `rlsched.envs.rows.COLUMNS`; waiting has the weighted sum of the
    cluster and the queue on top. Among equals the first candidate counts, and before all of them waiting.

    Args:
        weights: by name of the column, out of `NAMES`; those that are left out weigh 0. Only with one for `is_stop`
            are runs stopped.
        objective: what a schedule should make small; decides which tasks are candidates.

    Raises:
        UnknownNameError: no such column.
        ValueError: an unknown objective.
    """

    def __init__(self, weights: Mapping[str, float], objective: str = OBJECTIVES[0]) -> None:
        for name in weights:
            if name not in NAMES:
                raise UnknownNameError(f"unknown column {name!r}; {suggest(name, NAMES)}", NAMES)
        self._weights = np.array([weights.get(name, 0.0) for name in NAMES])
        self._view = View(preemption=STOP in weights, objective=objective)
        self._continuation = Continuation()

    def __call__(self, state: State) -> Sequence[Allocation | Preemption]:
        if following := self._continuation(state):
            return (following,)
        candidates = self._view.candidates(state)
        if not candidates:
            return ()
        scores = self._view.rows(state, candidates) @ self._weights
        if not state.running:
            scores[0] = -np.inf  # nothing to wait for
        best = int(scores.argmax())
        if best == 0:
            return ()
        decision = decision_of(candidates[best - 1], state)
        if isinstance(decision, Allocation):
            self._continuation.decided(decision, state)
        return (decision,)


class View:
    """What a linear policy sees.

    Args:
        preemption: whether stopping a run, where its task allows it, is a candidate.
        objective: what a schedule should make small.
    """

    def __init__(self, preemption: bool, objective: str = OBJECTIVES[0]) -> None:
        self._encoder = Encoder(objective, preemption=preemption)

    def candidates(self, state: State) -> list[Candidate]:
        """The encoder's."""
        return self._encoder.candidates(state)

    def rows(self, state: State, candidates: list[Candidate]) -> Floats:
        """What the weighted sums are of: (1 + candidates, len(NAMES)), waiting first."""
        observation = self._encoder.encode(state, candidates, critic=False)
        rows = np.zeros((1 + len(candidates), len(NAMES)))
        rows[:, : len(CANDIDATE_COLUMNS)] = observation["candidates"][: 1 + len(candidates)]
        rows[0, len(CANDIDATE_COLUMNS) :] = observation["globals"][len(OBJECTIVES) :]
        return rows
