"""Where the tasks of a run are: this machine, or the machines of somebody who has connected them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from rlsched.executor.adoption import find_here
from rlsched.executor.backend import Launchers, Over, TaskProcess
from rlsched.executor.devices import Machine
from rlsched.executor.executor import Executor
from rlsched.executor.history import Attempt
from rlsched.executor.rundir import RunDirectory
from rlsched.executor.warm import Starters


class Site(Protocol):
    """Machines for a run.

    Attributes:
        machine: what they have to offer.
    """

    machine: Machine

    @property
    def launchers(self) -> Launchers:
        """What starts tasks there."""

    def find(self, directory: RunDirectory, unit: str, attempt: Attempt) -> TaskProcess | Over:
        """What has become of an attempt; see `backend.Find`."""

    def attach(self, executor: Executor) -> None:
        """Tell an executor from now on what becomes of them."""

    def close(self) -> None:
        """Let go of them; to do so twice changes nothing."""


Connect = Callable[[RunDirectory, Path], Site]
"""Gets at machines for a run, given its directory and the folder that its tasks run in."""


class Here:
    """This machine. What starts tasks gets ready at once, while others still plan.

    Args:
        lost: names of other machines that are gone for good, whatever an earlier session had there.
        log: where what starts tasks writes.
    """

    def __init__(self, machine: Machine, lost: Iterable[str], log: Path) -> None:
        self.machine = machine
        self.launchers = Starters(log)
        self._lost = frozenset(lost)

    def find(self, directory: RunDirectory, unit: str, attempt: Attempt) -> TaskProcess | Over:
        """See `adoption.find_here`."""
        return find_here(directory, unit, attempt, self._lost)

    def attach(self, executor: Executor) -> None:
        """Nothing: while it is there, it is there."""

    def close(self) -> None:
        """End what starts tasks."""
        self.launchers.close()
