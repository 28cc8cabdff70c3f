"""A task on one node of a cluster or several, in the hands of a driver."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rlsched.executor.adoption import combine, last_words
from rlsched.executor.backend import Over
from rlsched.executor.onray.agent import Ask
from rlsched.executor.onray.nodes import ClusterNode, NodeLostError
from rlsched.executor.paths import AttemptPaths
from rlsched.executor.process import Exit
from rlsched.executor.starter import Launch, NotStartedError
from rlsched.executor.work import Unit


@dataclass(slots=True, eq=False)
class Part:
    """What one node has of a task.

    Attributes:
        launch: how it is started; None: it was found running.
        over: how it ended; None: it may run.
    """

    node: ClusterNode
    paths: AttemptPaths
    launch: Launch | None = None
    over: Over | None = None


@dataclass(slots=True, eq=False)
class Gang:
    """A task that runs, or will in a moment; see `backend.TaskProcess`.

    What waits, waits in the event loop in which the nodes' agents are asked; the driver's thread looks at the result.

    Args:
        parts: at least one, each on another node.
        submit: runs a coroutine in that loop.
        unit, inherited: for parts that are to be started.
        asked: it was asked to stop.
    """

    parts: Sequence[Part]
    submit: Callable[[Coroutine[Any, Any, None]], object]
    unit: Unit | None = None
    inherited: Mapping[str, str] = field(default_factory=dict)
    asked: bool = False
    killed: bool = False
    _error: OSError | None = None
    _event: int = field(default_factory=lambda: os.eventfd(0, os.EFD_CLOEXEC))
    _forgotten: bool = False

    @property
    def paths(self) -> AttemptPaths:
        return self.parts[0].paths

    def fileno(self) -> int:
        return self._event

    @property
    def was_asked_to_stop(self) -> bool:
        # One part that fails makes us stop the others: that does not count.
        return self.asked or (len(self.parts) == 1 and self.paths.preempt.exists())

    def stop(self) -> None:
        self.asked = True
        self.submit(self._signal(kill=False))

    def kill(self) -> None:
        self.killed = True
        self.submit(self._signal(kill=True))

    def wait(self) -> Exit | None:
        self.let_go()
        if self._error is not None:
            raise self._error
        over = combine([part.over for part in self.parts])
        assert over is not None
        if over.reason:
            raise NotStartedError(errno.EPIPE, over.reason)
        return over.end

    def let_go(self) -> None:
        if not self._forgotten:
            self._forgotten = True
            os.close(self._event)

    async def run(self) -> ClusterNode | None:
        """Start it if need be, and wait until all of it has ended, or until a node is lost, which is returned."""
        tasks: list[asyncio.Task[None]] = []
        try:
            if len(self.parts) > 1 and self.unit is not None:
                await self._arrange_meeting()
            tasks = [asyncio.create_task(self._run(part)) for part in self.parts]
            complete = True
            for next_one in asyncio.as_completed(tasks):
                await next_one
                if complete and any(part.over is not None and not _succeeded(part.over) for part in self.parts):
                    complete = False
                    self.asked = self.asked or any(part.paths.preempt.exists() for part in self.parts)
                    await self._signal(kill=False)
        except NodeLostError as loss:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return loss.node
        return None

    async def fence(self, sees: Callable[[ClusterNode], Ask | None]) -> bool:
        """See to it that nothing of it lives, now that a node is lost; False if all of it had ended by itself before.

        Args:
            sees: for a node: an agent that sees its processes, be it on another node of the same machine; None: no one.
        """
        for part in self.parts:
            if part.over is None:
                ask = sees(part.node)
                part.over = last_words(part.node.name, part.paths) if ask is None else await _end(part, ask)
        over = combine([part.over for part in self.parts])
        return over is None or bool(over.reason)

    def finish(self) -> None:
        """Tell the driver that it has ended."""
        if not self._forgotten:
            os.eventfd_write(self._event, 1)

    async def _signal(self, kill: bool) -> None:
        for part in self.parts:
            if part.over is None:
                await part.node.tell("signal", part.paths, kill)

    async def _run(self, part: Part) -> None:
        if part.over is None and part.launch is not None:
            assert self.unit is not None
            wrong = await part.node.start(part.launch, self.unit, self.inherited)
            if isinstance(wrong, Over):
                part.over = wrong
            elif wrong is not None:
                self._error = OSError(*wrong, str(part.paths.log))
                part.over = Over(reason="could not be started")
            elif self.asked or self.killed:  # what was said before it could hear
                await part.node.tell("signal", part.paths, self.killed)
        if part.over is None:
            part.over = await part.node.ask("wait", part.paths)

    async def _arrange_meeting(self) -> None:
        head = self.parts[0].node
        meeting = {"MASTER_ADDR": head.address, "MASTER_PORT": str(await head.ask("free_port"))}
        for part in self.parts:
            if part.launch is not None:
                part.launch = replace(part.launch, env={**part.launch.env, **meeting})


async def _end(part: Part, ask: Ask) -> Over:
    """End what lives of a part; how it ended if that was by itself."""
    over: Over | None = await ask("look", part.paths)
    if over is not None:
        return over
    await ask("signal", part.paths, True)
    over = await ask("wait", part.paths)
    assert over is not None
    return over if _succeeded(over) else Over(reason=f"{part.node.name} was lost")


def _succeeded(over: Over) -> bool:
    return not over.reason and over.end is not None and over.end.succeeded
