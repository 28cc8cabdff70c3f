"""What starts tasks on a node of a cluster, and tells how they end.

An agent is to its node what `Starters` are to the driver's machine, and uses them. Its launchers do not need it: they
outlive it as they outlive a driver, and any agent of the same machine finds them again by their claims.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlsched.executor.adoption import NOT_BEGUN, look
from rlsched.executor.backend import Over
from rlsched.executor.claim import boot_id, pid_space, read_claim
from rlsched.executor.devices import CPU, Machine, host_name, local_machine
from rlsched.executor.paths import AttemptPaths
from rlsched.executor.process import Process
from rlsched.executor.starter import Launch, NotStartedError
from rlsched.executor.warm import Starters
from rlsched.executor.work import Unit

DESERTED_AFTER = 20.0  # seconds without a driver, after which an agent leaves that has nothing to look after
_CHECK_INTERVAL = 2.0

Ask = Callable[..., Awaitable[Any]]
"""Calls a method of an agent, wherever that is: the method's name, then its arguments."""


@dataclass(frozen=True, slots=True)
class Host:
    """The machine that an agent is on.

    Attributes:
        name: of the machine, for people.
        boot, space: see `rlsched.executor.history.Place`.
        devices: of the node.
        missing: what the node lacks that the driver has; empty: nothing.
    """

    name: str
    boot: str
    space: str
    devices: Machine
    missing: str = ""


class Agent:
    """Starts launchers on its node and waits for them. It has one event loop; nothing in it takes long.

    Args:
        log: where forkservers write.
        leave: gives back what the node has reserved for the agent, and ends it.
    """

    def __init__(self, log: Path, leave: Callable[[], None] | None = None) -> None:
        _take_priority_of_parent()
        self._log = log
        self._starters: Starters | None = None
        self._leave = leave
        self._last_call = time.monotonic()
        self._processes: dict[Path, Process] = {}  # by the claim
        self._followed: dict[Path, asyncio.Task[Over]] = {}
        self._guard: asyncio.Task[None] | None = None

    async def hello(self, needed: Sequence[Path], slots: int | None, cores: int, name: str) -> Host:
        """Who is there.

        Args:
            needed: files and folders that the driver has, and that must be here as well.
            slots: see `local_machine`.
            cores: how many may be used.
            name: of the node.

        Raises:
            ValueError: the node's devices are not as they should be.
        """
        if self._guard is None and self._leave is not None:
            self._guard = asyncio.create_task(self._leave_when_deserted())
        missing = next((str(path) for path in needed if not path.exists()), "")
        return Host(host_name(), boot_id(), pid_space(), _named(local_machine(slots, name, cores), name), missing)

    async def attend(self) -> None:
        """There is a driver."""
        self._last_call = time.monotonic()

    async def prepare(self, units: Sequence[Unit], folder: Path, inherited: Mapping[str, str]) -> None:
        """See `Starters.prepare`."""
        self._all_starters().prepare(units, folder, inherited)

    async def start(self, launch: Launch, unit: Unit, inherited: Mapping[str, str]) -> tuple[int, str] | Over | None:
        """Start a task; `wait` tells of its end. What went wrong is returned: an error number and text, or `Over`."""
        try:
            launch.paths.log.touch()  # what its launcher cannot do, it can say only later
            process = self._all_starters().start(launch, unit, inherited)
        except NotStartedError as error:
            return Over(reason=error.strerror or "it was not started")
        except OSError as error:
            return error.errno or 1, error.strerror or str(error)
        self._follow(launch.paths, process)
        return None

    async def look(self, paths: AttemptPaths) -> Over | None:
        """What has become of an attempt on this machine; None: it runs.

        Raises:
            ValueError: see `adoption.look`.
        """
        if paths.claim in self._followed:
            followed = self._followed[paths.claim]
            return followed.result() if followed.done() else None
        found = look(paths)
        if isinstance(found, Over):
            return found
        self._follow(paths, found)
        return None

    async def wait(self, paths: AttemptPaths) -> Over:
        """How an attempt ends that runs on this machine, whoever has started it, or ended."""
        if paths.claim not in self._followed and (over := await self.look(paths)) is not None:
            return over
        over = await asyncio.shield(self._followed[paths.claim])
        self._followed.pop(paths.claim, None)  # whoever asks again is told what the launcher has written down
        return over

    async def signal(self, paths: AttemptPaths, kill: bool) -> None:
        """Ask a task of this machine to stop, or end it at once."""
        if paths.claim not in self._processes:
            await self.look(paths)
        if (process := self._processes.get(paths.claim)) is not None:
            if kill:
                process.kill()
            else:
                process.stop()

    async def free_port(self) -> int:
        """A TCP port that nobody listens on."""
        with socket.socket() as listener:
            listener.bind(("", 0))
            port: int = listener.getsockname()[1]
        return port

    async def close(self) -> None:
        """No driver needs it any more: it leaves as soon as nothing runs here."""
        if self._starters is not None:
            self._starters.close()
            self._starters = None
        self._last_call = -DESERTED_AFTER
        self._leave_if_idle()

    def _all_starters(self) -> Starters:
        if self._starters is None:
            self._starters = Starters(self._log)
        return self._starters

    def _follow(self, paths: AttemptPaths, process: Process) -> None:
        self._processes[paths.claim] = process
        self._followed[paths.claim] = asyncio.create_task(self._end_of(process, paths))

    async def _end_of(self, process: Process, paths: AttemptPaths) -> Over:
        """Wait until nothing is left of a task, also if its launcher was killed."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(process.fileno(), ended.set)
        await ended.wait()
        loop.remove_reader(process.fileno())
        del self._processes[paths.claim]
        try:
            end = await loop.run_in_executor(None, process.wait)
        except NotStartedError as error:
            return Over(reason=error.strerror or "it was not started")
        except OSError:  # it could not be started
            end = None
        claim = read_claim(paths.claim)
        if claim is not None and claim.pid is None:
            return Over(reason=NOT_BEGUN)
        return Over(end)

    async def _leave_when_deserted(self) -> None:
        while True:
            await asyncio.sleep(_CHECK_INTERVAL)
            if time.monotonic() - self._last_call >= DESERTED_AFTER:
                self._leave_if_idle()

    def _leave_if_idle(self) -> None:
        if self._leave is not None and all(task.done() for task in self._followed.values()):
            self._leave()


def _take_priority_of_parent() -> None:
    """Undo that Ray starts its workers at niceness 15, which tasks would inherit; that takes a privilege."""
    with suppress(PermissionError, ProcessLookupError):
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, os.getppid()))


def _named(machine: Machine, name: str) -> Machine:
    """The same with CPU slots that have names of their own in the cluster; GPUs have them anyway."""
    devices = tuple(
        tuple(f"{name}/{device}" if node.gpu_type == CPU else device for device in ids)
        for node, ids in zip(machine.cluster.nodes, machine.devices, strict=True)
    )
    return Machine(machine.cluster, devices)


def in_process(log: Path) -> Ask:
    """An agent in this process, for this machine."""
    agent = Agent(log)

    async def ask(method: str, *arguments: Any) -> Any:
        return await getattr(agent, method)(*arguments)

    return ask
