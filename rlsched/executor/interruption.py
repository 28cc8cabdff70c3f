"""What ends a driver from outside."""

from __future__ import annotations

import signal


class InterruptedRun(Exception):  # noqa: N818  # it is a request, no error
    """Somebody asked the run to end.

    Attributes:
        signal: with which signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.signal = number
