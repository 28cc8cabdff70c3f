"""A Ray cluster as the place where a run's tasks are."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError

from rlsched.executor.adoption import cannot_tell, combine, is_gone, last_words
from rlsched.executor.backend import Launchers, Over, TaskProcess
from rlsched.executor.claim import boot_id, pid_space
from rlsched.executor.devices import Machine
from rlsched.executor.executor import Executor
from rlsched.executor.history import Attempt, Place
from rlsched.executor.launcher import BEGUN
from rlsched.executor.onray.agent import Ask, in_process
from rlsched.executor.onray.connection import connect, first_line
from rlsched.executor.onray.gang import Gang, Part
from rlsched.executor.onray.nodes import ClusterNode, Wanted, liveness, usable_nodes
from rlsched.executor.rundir import FORKSERVER_LOG, RunDirectory
from rlsched.executor.starter import Launch
from rlsched.executor.work import Unit
from rlsched.model import Cluster, Node, Share

RESERVATION_TIME = 30.0  # seconds in which other Ray jobs may let go of a node
_LOOK_INTERVAL = 1.0  # seconds between two looks at which nodes live
_ATTENDANCE_INTERVAL = 5.0
_CLOSING_TIME = 5.0

_log = logging.getLogger(__name__)


class _Loss(NamedTuple):
    node: ClusterNode
    gangs: tuple[Gang, ...]


class RaySite:
    """The nodes of a Ray cluster, reserved for a run until it is closed.

    Ready to read (`fileno`) when nodes are lost.

    Args:
        directory: the run's; every node has to see it, at the same path.
        folder: where tasks run; the same holds for it.
        address: of the cluster: HOST:PORT, `auto` (the one that this machine is in), or `local` (a new one, here).
        slots: as for `local_machine`, on each node.
        lost: names of machines that are gone for good, whatever they had.

    Attributes:
        machine: all nodes together.

    Raises:
        ValueError: there is no cluster, none of its nodes is free, or one of them does not see what it should.
    """

    def __init__(
        self,
        directory: RunDirectory,
        folder: Path,
        address: str = "auto",
        slots: int | None = None,
        lost: Iterable[str] = (),
    ) -> None:
        self._lost_hosts = frozenset(lost)
        self._directory = directory
        self._log = directory.path / FORKSERVER_LOG
        self._losses: deque[_Loss] = deque()
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._own: Ask | None = None
        self._tasks: set[asyncio.Future[Any]] = set()  # which the event loop alone would forget
        self._ours = connect(address)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="rlsched-ray", daemon=True).start()
        token = directory.path / f"token-{uuid.uuid4().hex}"
        needed = (token, folder, Path(sys.executable))
        run = "rlsched-" + hashlib.sha256(str(directory.path).encode()).hexdigest()[:16]
        self._nodes: list[ClusterNode] = []
        self._closed = False
        try:
            token.touch()
            self._run(self._gather(usable_nodes(Wanted(run, needed, slots, self._log))))
            self.machine = self._all_devices()
        except BaseException:
            self.close()
            raise
        finally:
            token.unlink(missing_ok=True)
        self._submit(self._notice_deaths())
        for node in self._nodes:
            self._submit(self._attend(node))

    def fileno(self) -> int:
        return self._event

    @property
    def launchers(self) -> Launchers:
        """Itself."""
        return self

    def attach(self, executor: Executor) -> None:
        """Let an executor know of lost nodes."""
        executor.watch(self, lambda: self._deliver(executor))

    def prepare(self, units: Iterable[Unit], folder: Path, inherited: Mapping[str, str]) -> None:
        """See `Launchers.prepare`: every node gets ready."""
        wanted = [unit for unit in units if unit.preload]
        for node in self._nodes if wanted else ():
            self._submit(node.tell("prepare", wanted, folder, dict(inherited)))

    def start(self, launch: Launch, unit: Unit, inherited: Mapping[str, str], shares: Sequence[Share]) -> Gang:
        """See `Launchers.start`. It returns at once; what goes wrong, `Gang.wait` tells."""
        parts = self._parts(launch, shares)
        gang = Gang(parts, self._submit, unit, dict(inherited))
        self._submit(self._drive(gang))
        return gang

    def whereabouts(self, shares: Sequence[Share]) -> Mapping[str, Any]:
        """The places of a gang's parts, the first one's first."""
        return {"places": [list(node.place) for node in self._by_node(shares)]}

    def find(self, directory: RunDirectory, unit: str, attempt: Attempt) -> TaskProcess | Over:
        """What has become of an attempt, as `backend.Find` has it. A launcher is asked for on its own machine.

        Raises:
            ValueError: no node of the cluster can see where it ran, and nobody says that this is gone.
        """
        places = attempt.places or (Place("", attempt.host, attempt.boot, ""),)
        paths = [directory.attempt(unit, attempt.number, part) for part in range(len(places))]
        state = liveness()
        others = [node.host.name for node in self._nodes]
        parts: list[Part] = []
        unknown = []
        for place, files in zip(places, paths, strict=True):
            node, ask = self._who_sees(place)
            if ask is not None:
                part = Part(node, files)
                part.over = self._run(ask("look", files))
            else:
                part = Part(self._nodes[0], files)
                if (
                    attempt.places
                    and state.get(place.node) is not False
                    and not is_gone(place, self._lost_hosts, others)
                ):
                    unknown.append(place.host)
                else:
                    part.over = last_words(place.host or "the machine", files)
            parts.append(part)
        if unknown:
            raise cannot_tell(unit, unknown)
        if over := combine([part.over for part in parts]):
            return over
        gang = Gang(parts, self._submit, asked=any(files.preempt.exists() for files in paths))
        self._submit(self._drive(gang))
        return gang

    def close(self) -> None:
        """Give the nodes back, or let them go once what runs there has ended."""
        if self._closed:
            return
        self._closed = True
        with suppress(TimeoutError, RayError):
            self._run(self._say_goodbye(), _CLOSING_TIME)
        self._loop.call_soon_threadsafe(self._loop.stop)
        os.close(self._event)
        if self._ours:
            ray.shutdown()

    async def _gather(self, candidates: list[ClusterNode]) -> None:
        """Reserve what is free of the nodes, and get to know them."""
        groups = [await asyncio.to_thread(node.reserve) for node in candidates]
        deadline = time.monotonic() + RESERVATION_TIME
        for node, group in zip(candidates, groups, strict=True):
            if await asyncio.to_thread(group.wait, max(0.1, deadline - time.monotonic())):
                self._nodes.append(node)
            else:
                await asyncio.to_thread(node.give_up)
                _log.warning("%s is left out, other Ray jobs use it", node.name)
        if not self._nodes:
            raise ValueError("no node of the Ray cluster is free: other jobs use all of them, or none has CPUs or GPUs")
        try:
            hosts = await asyncio.gather(*(node.greet() for node in self._nodes))
        except (RayError, TimeoutError) as error:
            raise ValueError(f"a node of the Ray cluster does not answer: {first_line(error)}") from None
        for node, host in zip(self._nodes, hosts, strict=True):
            if host.missing:
                raise ValueError(
                    f"node {node.name} does not see {host.missing}: the run directory, the workflow's folder and "
                    "Python must be at the same path on every node, on a file system that they share"
                )

    def _all_devices(self) -> Machine:
        nodes: list[Node] = []
        devices: list[tuple[str, ...]] = []
        for node in self._nodes:
            first = len(nodes)
            nodes += node.host.devices.cluster.nodes
            devices += node.host.devices.devices
            node.indices = tuple(range(first, len(nodes)))
        return Machine(Cluster(tuple(nodes)), tuple(devices))

    def _parts(self, launch: Launch, shares: Sequence[Share]) -> list[Part]:
        """What each node of a gang gets: rank 0's node has the checkpoint, the outputs and the attempt's own files."""
        by_node = self._by_node(shares)
        if len(by_node) == 1:
            (node,) = by_node
            return [Part(node, launch.paths, launch)]
        world = sum(len(share.gpus) for share in shares)
        parts, first_rank = [], 0
        for rank, (node, held) in enumerate(by_node.items()):
            paths = self._directory.attempt(launch.record["unit"], launch.record["attempt"], rank)
            devices = self.machine.held(held)
            env = {
                **launch.env,
                "CUDA_VISIBLE_DEVICES": self.machine.visible(held),
                "RLSCHED_GPUS": str(len(devices)),
                "RLSCHED_DEVICES": ",".join(devices),
                "RLSCHED_PROGRESS_FILE": paths.text("progress"),
                "RLSCHED_PREEMPT_FILE": paths.text("preempt"),
                BEGUN: paths.text("begun") if launch.env[BEGUN] else "",
                "NNODES": str(len(by_node)),
                "NODE_RANK": str(rank),
                "WORLD_SIZE": str(world),
                "RLSCHED_FIRST_RANK": str(first_rank),
            }
            own = replace(launch, paths=paths, env=env)
            # One that comes late must not move away what another has written, nor one that is early its checkpoint.
            parts.append(Part(node, paths, own if rank == 0 else replace(own, outputs=(), checkpoint=paths.log.parent)))
            first_rank += len(devices)
        return parts

    def _by_node(self, shares: Sequence[Share]) -> dict[ClusterNode, list[Share]]:
        owner = {index: node for node in self._nodes for index in node.indices}
        found: dict[ClusterNode, list[Share]] = {}
        for share in shares:
            found.setdefault(owner[share.node], []).append(share)
        return found

    async def _drive(self, gang: Gang) -> None:
        """Run a gang to its end; if that is because a node was lost, see that nothing of it lives."""
        lost = await gang.run()
        if lost is not None and await gang.fence(self._seen_by):
            self._announce(_Loss(lost, (gang,)))
        else:
            gang.finish()

    async def _notice_deaths(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_INTERVAL)
            try:
                state = await asyncio.to_thread(liveness)
            except Exception as error:  # Ray's control plane is away: nothing is known, so nothing is dead
                _log.debug("Ray does not say which nodes live: %s", error)
                continue
            for node in self._nodes:
                if state.get(node.id) is False and not node.died.is_set():
                    node.died.set()
                    await asyncio.to_thread(node.give_up)
                    self._announce(_Loss(node, ()))

    async def _attend(self, node: ClusterNode) -> None:
        """Let a node's agent know that there is a driver, and notice if it is gone."""
        while not node.died.is_set():
            await node.tell("attend")
            await asyncio.sleep(_ATTENDANCE_INTERVAL)

    def _announce(self, loss: _Loss) -> None:
        self._losses.append(loss)
        if not self._closed:
            os.eventfd_write(self._event, 1)

    def _deliver(self, executor: Executor) -> None:
        os.eventfd_read(self._event)
        while self._losses:
            node, gangs = self._losses.popleft()
            reason = f"node {node.name} was lost"
            if not gangs:
                _log.warning("%s", reason)
            for index in node.indices:
                executor.lose(index, gangs if index == node.indices[0] else (), reason)

    def _who_sees(self, place: Place) -> tuple[ClusterNode, Ask | None]:
        """The node that a launcher is on, and an agent that sees its processes: its own, or another of that machine."""
        alive = [node for node in self._nodes if not node.died.is_set()]
        for node in alive:
            if node.id == place.node:
                return node, node.ask
        for node in alive:
            if (node.host.boot, node.host.space) == (place.boot, place.space or node.host.space):
                return node, node.ask
        if (boot_id(), pid_space()) == (place.boot, place.space or pid_space()):
            if self._own is None:
                self._own = in_process(self._log)
            return self._nodes[0], self._own
        return self._nodes[0], None

    def _seen_by(self, node: ClusterNode) -> Ask | None:
        return self._who_sees(node.place)[1]

    async def _say_goodbye(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        agents = [node.agent for node in self._nodes if node.agent is not None and not node.died.is_set()]
        await asyncio.gather(*(_forsake(agent) for agent in agents), return_exceptions=True)

    def _submit(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run something in the event loop, without waiting for it."""
        self._loop.call_soon_threadsafe(self._begin, coroutine)

    def _begin(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("the cluster is not looked after as it should be: %s: %s", type(error).__name__, error)

    def _run(self, awaited: Any, timeout: float | None = None) -> Any:
        async def run() -> Any:
            return await awaited

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(timeout)


async def _forsake(agent: Any) -> None:
    """Tell an agent that it is not needed; it may end before it has answered."""
    await agent.close.remote()
