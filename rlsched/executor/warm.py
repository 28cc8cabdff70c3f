"""Which process starts a task: one that has imported what it needs, if there is such, or one that runs commands."""

from __future__ import annotations

import logging
import select
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rlsched.executor import forkserver
from rlsched.executor.process import Process
from rlsched.executor.starter import Launch, Starter, cold_starter
from rlsched.executor.work import Unit
from rlsched.model import Share

_log = logging.getLogger(__name__)
_MOST = 4  # forkservers; each takes as much memory as its modules do
_PATIENCE = 10.0  # seconds in which a forkserver that is ready has to answer; a fork takes some milliseconds


class _Key(NamedTuple):
    """What tasks must have in common to be forked from one process: all that importing may depend on.

    Attributes:
        env: all variables, save those of an attempt.
    """

    modules: tuple[str, ...]
    folder: Path
    env: tuple[tuple[str, str], ...]


class Forkserver(Starter):
    """A starter that has modules imported; see `rlsched.executor.forkserver`. It takes seconds to become ready.

    Args:
        modules: what it imports.
        folder: where; modules there come first.
        env: the environment for it, without what is one attempt's alone.
        log: where it and the imports write.
    """

    def __init__(self, modules: Iterable[str], folder: Path, env: Mapping[str, str], log: Path) -> None:
        own = {name: value for name, value in env.items() if name not in forkserver.ROOM}
        super().__init__(
            (sys.executable, "-m", forkserver.__name__, *modules),
            {**own, "CUDA_VISIBLE_DEVICES": "", **forkserver.ROOM},
            folder,
            log,
            _PATIENCE,
        )
        self.was_ready = False

    def is_ready(self) -> bool:
        """True if it can start tasks. Notices that it has ended: then it is not `alive` any more."""
        while self.alive and select.select([self._socket], [], [], 0)[0]:
            try:
                said = self._socket.recv(1)
            except ConnectionError:
                said = b""
            if said:
                self.was_ready = True
            else:
                self.close()
        return self.alive and self.was_ready


class Starters:
    """All processes that start tasks for one driver, on this machine; see `backend.Launchers`.

    Args:
        log: where forkservers write.
    """

    def __init__(self, log: Path) -> None:
        self._cold = cold_starter()
        self._log = log
        self._warm: dict[_Key, Forkserver] = {}  # the one that was wanted last comes last
        self._useless: set[_Key] = set()

    def prepare(self, units: Iterable[Unit], folder: Path, inherited: Mapping[str, str]) -> None:
        """Get ready for units that will be started in a folder. This returns at once; until then they start cold.

        Importing for a single unit takes as long as it would take that unit, so there must be two of a kind.

        Args:
            inherited: variables that the units' own come on top of.
        """
        counts = Counter(_key(unit, folder, inherited) for unit in units if unit.preload)
        for key, count in counts.most_common(_MOST):
            if (count > 1 or key in self._warm) and key not in self._useless:
                self._want(key)

    def start(self, launch: Launch, unit: Unit, inherited: Mapping[str, str], shares: Sequence[Share] = ()) -> Process:
        """Start a unit's attempt.

        Args:
            inherited: see `prepare`.
            shares: of no interest: all devices are here.

        Raises:
            NotStartedError: the process that should have started it was killed. Another one will do it next time.
            OSError: it could not be started.
        """
        if unit.preload and (warm := self._ready(_key(unit, launch.folder, inherited))):
            return warm.start(launch)
        if not self._cold.alive:
            self._cold = cold_starter()
        return self._cold.start(launch)

    def whereabouts(self, shares: Sequence[Share]) -> Mapping[str, object]:
        """Nothing: the session's record says it."""
        return {}

    def close(self) -> None:
        """End these processes; the tasks run on."""
        self._cold.close()
        for server in self._warm.values():
            server.close()
        self._warm.clear()

    def _want(self, key: _Key) -> None:
        """See to it that there is, or soon will be, a forkserver for this."""
        server = self._warm.pop(key, None)
        if server is None:
            if len(self._warm) == _MOST:
                self._warm.pop(next(iter(self._warm))).close()
            try:
                server = Forkserver(key.modules, key.folder, dict(key.env), self._log)
            except OSError as error:
                self._give_up(key, str(error))
                return
        self._warm[key] = server

    def _ready(self, key: _Key) -> Forkserver | None:
        server = self._warm.pop(key, None)
        if server is None:
            return None
        ready = server.is_ready()
        if server.alive:
            self._warm[key] = server
            return server if ready else None
        if server.was_ready:  # it was killed
            self._want(key)
        else:
            self._give_up(key, f"see {self._log}")
        return None

    def _give_up(self, key: _Key, reason: str) -> None:
        _log.warning("tasks cannot be started with %s imported, they import it: %s", ", ".join(key.modules), reason)
        self._useless.add(key)


def _key(unit: Unit, folder: Path, inherited: Mapping[str, str]) -> _Key:
    return _Key(unit.preload, folder, tuple(sorted({**inherited, **unit.env}.items())))
