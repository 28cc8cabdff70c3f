"""Python's collector of garbage in cycles, for programs that keep what they make and make no cycles.

A simulation keeps most of its objects: jobs and runs, for the schedule; so does a driver. The collector looks at them
again and again as they grow more and finds nothing: what is forgotten is not in a cycle, and goes at once when the last
one lets go of it. docs/performance.md has what that cost.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_SELDOM = (100_000, 20, 100)  # objects made and kept until the youngest are looked at; and how often for the older ones


@contextmanager
def collecting_seldom() -> Iterator[None]:
    """Have it look seldom for a while. Cycles that others make are still found, some megabytes later.

    It is asked for the whole process: of threads that overlap in here, the last one to leave may not undo it.
    """
    before = gc.get_threshold()
    gc.set_threshold(*_SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*before)
