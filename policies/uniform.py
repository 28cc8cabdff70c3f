"""The random policy: the floor that every other has to stay above."""

from __future__ import annotations

import random
from collections.abc import Sequence

from rlsched.model import Allocation
from rlsched.state import State


class UniformPolicy:
    """Starts a ready task in a mode, drawn evenly from all pairs that fit; waits only if none does.

    Args:
        seed: of the draws.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def __call__(self, state: State) -> Sequence[Allocation]:
        pairs = [(task, mode) for task in state.ready.values() for mode in range(len(task.task.modes))]
        while pairs:  # drawing until one fits is an even draw from those that fit
            drawn = self._random.randrange(len(pairs))
            task, mode = pairs[drawn]
            allocation = state.allocate(task, mode)
            if allocation is not None:
                return (allocation,)
            pairs[drawn] = pairs[-1]
            pairs.pop()
        return ()
