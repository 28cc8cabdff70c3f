"""What the executor needs of the place where its tasks run: this machine, or the nodes of a cluster.

Journal, retries, outputs and adoption are the same everywhere; how a launcher is started, found and heard of is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rlsched.executor.history import Attempt
from rlsched.executor.paths import AttemptPaths
from rlsched.executor.process import Exit
from rlsched.executor.rundir import RunDirectory
from rlsched.executor.starter import Launch
from rlsched.executor.work import Unit
from rlsched.model import Share


class Watched(Protocol):
    """Something with a file descriptor that becomes readable."""

    def fileno(self) -> int: ...


class TaskProcess(Watched, Protocol):
    """A task that was started, or found running. Ready to read (`fileno`) once all of it has ended."""

    @property
    def paths(self) -> AttemptPaths:
        """The files of the attempt."""

    @property
    def was_asked_to_stop(self) -> bool:
        """True if somebody has, in this session or an earlier one."""

    def stop(self) -> None:
        """Ask the task to end, and see to it that it does. To ask again changes nothing."""

    def kill(self) -> None:
        """End it at once."""

    def wait(self) -> Exit | None:
        """How it ended, once it has; None: its launcher was killed.

        Raises:
            NotStartedError: it has not begun, and never will, which is not its fault.
            OSError: it could not be started.
        """

    def let_go(self) -> None:
        """Forget about it; it runs on if it has not ended."""


class Launchers(Protocol):
    """Starts tasks."""

    def prepare(self, units: Iterable[Unit], folder: Path, inherited: Mapping[str, str]) -> None:
        """Get ready for units that will be started in a folder, without waiting for it.

        Args:
            inherited: variables that the units' own come on top of.
        """

    def start(self, launch: Launch, unit: Unit, inherited: Mapping[str, str], shares: Sequence[Share]) -> TaskProcess:
        """Start a unit's attempt on its devices.

        Raises:
            NotStartedError: it has not begun, and never will, which is not its fault. The next start may well succeed.
            OSError: it could not be started.
        """

    def whereabouts(self, shares: Sequence[Share]) -> Mapping[str, Any]:
        """What the journal is to say of where an attempt runs, beside its devices."""

    def close(self) -> None:
        """Give back what is needed to start tasks; the tasks run on."""


@dataclass(frozen=True, slots=True)
class Over:
    """An attempt of which nothing lives any more.

    Attributes:
        end: how it ended; None: its launcher was killed.
        reason: why that counts for nothing; empty: it counts.
    """

    end: Exit | None = None
    reason: str = ""


Find = Callable[[RunDirectory, str, Attempt], TaskProcess | Over]
"""What has become of a unit's attempt that no driver has seen the end of. From now on it has begun, or never will.

Raises ValueError if that cannot be told.
"""
