"""A critic that knows what decisions change: linear, and fitted to how the rollouts of one arrival sequence differ.

What makes returns differ from sequence to sequence is mostly which jobs are still to come, and no decision changes
that. A network fitted to returns learns this, and its values differ between rollouts of one sequence by more than what
it is to explain. This critic sees differences alone: of the discounted cost to come, and of the observation's `critic`,
from the other rollouts of the sequence at the same simulated time. Its weights are those of a ridge regression (Hoerl
& Kennard, Technometrics 12(1), 1970) over the latest iterations, which count less the older they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rlsched.envs.encoding import CRITIC_FEATURES
from rlsched.policies.rollouts import Episode

Floats = NDArray[np.float64]

_MEMORY = 0.8  # what an iteration counts for in the next one
_RIDGE = 0.01  # of the features' variances


class GroupCritic:
    """Values of states, good for comparing rollouts of one sequence: without a constant.

    Args:
        horizon: time constant of the discount, in mean critical paths.
    """

    def __init__(self, horizon: float) -> None:
        self._horizon = horizon
        self._moments: dict[str, Floats] = {}  # by scenario: of (features, return), without means
        self._weights: dict[str, Floats] = {}

    def values(self, episode: Episode) -> Floats:
        """Of the states of the kept decisions and of the one after, (kept + 1,); 0 where the episode is over."""
        return self._values(episode, _features(episode))

    def _values(self, episode: Episode, features: Floats) -> Floats:
        values = np.zeros(episode.kept + 1)
        values[: len(features)] = features @ self._weights.get(episode.scenario, np.zeros(CRITIC_FEATURES))
        return values

    def learn(self, groups: Sequence[Sequence[Episode]]) -> float:
        """Take in an iteration's groups. Returns which part of the differences it explained beforehand."""
        products: dict[str, Floats] = {}
        left = total = 0.0
        for group in groups:
            columns = []
            for episode in group:
                features = _features(episode)
                values = self._values(episode, features)
                returns = episode.advantages(np.append(np.zeros(episode.kept), values[-1]), self._horizon, np.inf)
                parts = (features[: episode.kept], returns, values[:-1])
                columns.append((np.array(episode.times[: episode.kept]), np.column_stack(parts)))
            seen = np.concatenate(differences(columns))
            left += float(((seen[:, -2] - seen[:, -1]) ** 2).sum())
            total += float((seen[:, -2] ** 2).sum())
            product = seen[:, :-1].T @ seen[:, :-1]
            products[group[0].scenario] = products.get(group[0].scenario, 0.0) + product
        for scenario, product in products.items():
            self._moments[scenario] = product + _MEMORY * self._moments.get(scenario, 0.0)
        self._solve()
        return 1.0 - left / total if total else 0.0

    def state_dict(self) -> dict[str, list[list[float]]]:
        """What it has learned, for `load_state_dict`."""
        return {scenario: moments.tolist() for scenario, moments in self._moments.items()}

    def load_state_dict(self, state: dict[str, list[list[float]]]) -> None:
        """Go on from there."""
        self._moments = {scenario: np.array(moments) for scenario, moments in state.items()}
        self._solve()

    def _solve(self) -> None:
        for scenario, moments in self._moments.items():
            spread = np.sqrt(np.diag(moments)[:-1])
            spread[spread < 1e-9] = np.inf  # what never differs explains nothing
            scaled = moments[:-1, :-1] / np.outer(spread, spread) + _RIDGE * np.eye(CRITIC_FEATURES)
            self._weights[scenario] = np.linalg.solve(scaled, moments[:-1, -1] / spread) / spread


def differences(group: Sequence[tuple[Floats, Floats]]) -> list[Floats]:
    """For each rollout of a sequence, how it differs from the mean of the others at the same simulated time.

    Args:
        group: of each its decision times, (D,), and columns of numbers, (D, columns). Between decisions they are
            interpolated.

    Returns:
        For each rollout (D, columns); of a lone one the columns themselves.
    """
    if len(group) < 2:
        return [columns for _, columns in group]
    result = []
    for i, (times, own) in enumerate(group):
        others = [_at(times, t, columns) for j, (t, columns) in enumerate(group) if j != i and len(t)]
        result.append(own - np.mean(others, axis=0) if others else own)
    return result


def _at(times: Floats, known: Floats, columns: Floats) -> Floats:
    """The columns at other times than those they are known at; before and after these, the first and the last row."""
    after = np.clip(np.searchsorted(known, times, side="right"), 1, max(1, len(known) - 1))
    before = after - 1
    after = np.minimum(after, len(known) - 1)
    span = known[after] - known[before]
    part = np.clip((times - known[before]) / np.where(span > 0, span, 1.0), 0.0, 1.0)
    mixed: Floats = columns[before] + part[:, None] * (columns[after] - columns[before])
    return mixed


def _features(episode: Episode) -> Floats:
    """(kept + 1, features), or (kept, features) where nothing comes after."""
    return np.array([observation["critic"] for observation in episode.observations[: episode.kept + 1]], dtype=float)
