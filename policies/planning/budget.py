"""How long a search may go on."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Budget:
    """A number of schedules, or seconds, whichever is used up first.

    Only a number of schedules gives results that can be repeated. Seconds are CPU seconds of this thread, from the
    making of the budget on.

    Attributes:
        schedules: how many may be made; a list that is also justified counts for as many schedules as that takes.
        seconds: CPU seconds.

    Raises:
        ValueError: neither is given, or one is not above 0.
    """

    schedules: float = math.inf
    seconds: float = math.inf
    _begun: float = field(default_factory=time.thread_time, init=False, repr=False)
    _made: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.schedules == self.seconds == math.inf:
            raise ValueError("expected a number of schedules, or of seconds, found neither")
        for name in ("schedules", "seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected above 0")

    def spend(self, schedules: int) -> None:
        """So many more schedules have been made."""
        self._made += schedules

    @property
    def used(self) -> float:
        """CPU seconds that have gone by."""
        return time.thread_time() - self._begun

    @property
    def left(self) -> bool:
        """True if there is some left."""
        return self._made < self.schedules and (self.seconds == math.inf or self.used < self.seconds)
