"""The nodes of a Ray cluster that a run has reserved, each with an agent on it.

A node is reserved by a placement group of one bundle, pinned to the node, in which the agent lives: so other Ray jobs
keep off, and Ray tells the agent by `CUDA_VISIBLE_DEVICES` which GPUs are meant. Both are detached and have names: they
outlive a driver that is killed for as long as its tasks run, and the next driver finds them again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, get_placement_group, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rlsched.executor.backend import Over
from rlsched.executor.history import Place
from rlsched.executor.onray.agent import Agent, Host
from rlsched.executor.onray.connection import NAMESPACE
from rlsched.executor.starter import Launch
from rlsched.executor.work import Unit

_ANSWER_TIME = 60.0  # seconds that an agent may take to say hello: Ray starts a process for it
_PATIENCE = 1.0  # between two tries to reach an agent
_NODE_LABEL = "ray.io/node-id"  # which Ray puts on every node

_log = logging.getLogger(__name__)


class NodeLostError(Exception):
    """Ray says that a node is dead."""

    def __init__(self, node: ClusterNode) -> None:
        super().__init__(f"{node.name} was lost")
        self.node = node


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a run wants of its nodes' agents.

    Attributes:
        run: what the reservations of this run are called.
        needed: files and folders that every node must see.
        slots: see `local_machine`; None: what there is.
        log: where forkservers write.
    """

    run: str
    needed: Sequence[Path]
    slots: int | None
    log: Path


@dataclass(slots=True, eq=False)
class ClusterNode:
    """A node in use. Its coroutines run in one event loop.

    Attributes:
        id: Ray's.
        name: unique in the cluster.
        address: where other nodes reach it.
        cpus, gpus: what is reserved of it.
        host: what its agent has said of the machine.
        indices: of the nodes that it is in our cluster; several if it has GPUs of several types.
    """

    id: str
    name: str
    address: str
    cpus: int
    gpus: int
    wanted: Wanted
    host: Host = field(init=False)
    indices: tuple[int, ...] = ()
    agent: Any = None
    died: asyncio.Event = field(default_factory=asyncio.Event)
    reviving: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def reservation(self) -> str:
        """Name of the placement group and of the agent."""
        return f"{self.wanted.run}:{self.id}"

    @property
    def place(self) -> Place:
        return Place(self.id, self.host.name, self.host.boot, self.host.space)

    def reserve(self) -> PlacementGroup:
        """Ask for the node's devices; see whether they have been granted with `wait`. Those of an earlier driver do."""
        bundle = {name: float(count) for name, count in (("CPU", self.cpus), ("GPU", self.gpus)) if count}
        with suppress(ValueError):
            there: PlacementGroup = get_placement_group(self.reservation)
            if there.bundle_specs == [bundle]:
                return there
            remove_placement_group(there)  # its agent ends, the tasks run on
        pinned = [{_NODE_LABEL: self.id}]
        new: PlacementGroup = placement_group(
            [bundle], "STRICT_PACK", self.reservation, "detached", bundle_label_selector=pinned
        )
        return new

    async def greet(self) -> Host:
        """Make the agent, or find it, and ask it who it is.

        Raises:
            RayError, TimeoutError: it cannot be reached.
            ValueError: the node's devices are not as they should be.
        """
        self.agent = await asyncio.to_thread(self._find_agent)
        wanted = self.wanted
        hello = self.agent.hello.remote(wanted.needed, wanted.slots, self.cpus, self.name)
        self.host = await asyncio.wait_for(_answer(hello), _ANSWER_TIME)
        return self.host

    async def start(self, launch: Launch, unit: Unit, inherited: Mapping[str, str]) -> tuple[int, str] | Over | None:
        """See `Agent.start`. If the agent dies over it, its `wait` tells whether the task was started."""
        agent = self.agent
        try:
            answer: tuple[int, str] | Over | None = await self._unless_dead(agent.start.remote(launch, unit, inherited))
        except RayError:
            await self._revive(agent)
            return None
        return answer

    async def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the agent; if that dies, of the next one on the node.

        Raises:
            NodeLostError: the node is dead.
        """
        while True:
            agent = self.agent
            try:
                return await self._unless_dead(getattr(agent, method).remote(*arguments))
            except RayError:
                await self._revive(agent)

    async def tell(self, method: str, *arguments: Any) -> None:
        """`ask` for nothing; a node that is dead does not hear it."""
        with suppress(NodeLostError):
            await self.ask(method, *arguments)

    def give_up(self) -> None:
        """Give its devices back without asking the agent, which ends."""
        with suppress(ValueError, RayError):
            release(self.reservation)

    async def _unless_dead(self, awaited: Awaitable[Any]) -> Any:
        call, death = asyncio.ensure_future(_answer(awaited)), asyncio.ensure_future(self.died.wait())
        try:
            await asyncio.wait({call, death}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            death.cancel()
        if self.died.is_set() and (not call.done() or call.exception() is not None):
            call.cancel()
            raise NodeLostError(self)
        return await call

    async def _revive(self, failed: Any) -> None:
        """Get another agent in place of one that cannot be reached, however long it takes.

        Raises:
            NodeLostError: meanwhile, Ray has said that the node is dead.
        """
        async with self.reviving:
            while not self.died.is_set() and self.agent is failed:
                await asyncio.sleep(_PATIENCE)
                try:
                    await self._unless_dead(self.greet())
                except (RayError, TimeoutError, ValueError) as error:
                    _log.debug("%s does not answer: %s", self.name, error)
                    self.agent = failed
        if self.died.is_set():
            raise NodeLostError(self)

    def _find_agent(self) -> Any:
        group = self.reserve()
        options: dict[str, Any] = {
            "name": self.reservation,
            "namespace": NAMESPACE,
            "lifetime": "detached",
            "get_if_exists": True,
            "num_cpus": 0,
            "num_gpus": self.gpus,  # of the bundle: so Ray says which they are
            "max_concurrency": 10_000,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(group),
        }
        actor: Any = ray.remote(Agent)
        return actor.options(**options).remote(self.wanted.log, partial(release, self.reservation))


async def _answer(reference: Awaitable[Any]) -> Any:
    """What an agent says, or the error that it has raised, without Ray's story of how it came here."""
    try:
        return await reference
    except RayTaskError as error:
        raise error.cause if isinstance(error.cause, Exception) else RuntimeError(str(error)) from None


def release(reservation: str) -> None:
    """Give a node's devices back; the agent in them ends."""
    remove_placement_group(get_placement_group(reservation))


def usable_nodes(wanted: Wanted) -> list[ClusterNode]:
    """The nodes of the cluster that have something to run tasks on, by name."""
    alive = [node for node in _all_nodes() if node["Alive"]]
    hosts = [node["NodeManagerHostname"] for node in alive]
    found = []
    for node, host in zip(alive, hosts, strict=True):
        cpus, gpus = (int(node["Resources"].get(name, 0)) for name in ("CPU", "GPU"))
        if wanted.slots is not None:
            cpus, gpus = min(cpus, wanted.slots), 0
        if cpus or gpus:
            given = node["NodeName"] if node["NodeName"] != node["NodeManagerAddress"] else host
            unique = given != host or hosts.count(host) == 1
            name = given if unique else f"{host}-{node['NodeID'][:6]}"
            found.append(ClusterNode(node["NodeID"], name, node["NodeManagerAddress"], cpus, gpus, wanted))
    return sorted(found, key=lambda node: node.name)


def liveness() -> dict[str, bool]:
    """Of each node that Ray's control plane has known, by its id, what it says: whether the node lives or is dead."""
    return {node["NodeID"]: bool(node["Alive"]) for node in _all_nodes()}


def _all_nodes() -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return nodes
