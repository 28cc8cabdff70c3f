"""What a node's agent does, wherever it is: it needs no cluster."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import until

from rlsched.executor.backend import Over
from rlsched.executor.onray.agent import Agent
from rlsched.executor.paths import attempt_paths
from rlsched.executor.starter import Launch, Stopping
from rlsched.executor.work import Unit

Start = Callable[[str], Launch]


@pytest.fixture
def launch(tmp_path: Path) -> Start:
    """The start of a command as attempt 1 of `t`."""
    for folder in ("attempts", "logs"):
        (tmp_path / folder).mkdir()
    paths = attempt_paths(tmp_path, "t", 1)
    stopping = Stopping(signal.SIGTERM, 5.0, 5.0)

    def of(command: str, folder: Path = tmp_path) -> Launch:
        env = {**os.environ, "RLSCHED_PROGRESS_FILE": str(paths.progress)}
        return Launch(("bash", "-c", command), paths, {"unit": "t"}, env, folder, tmp_path / "none", (), stopping)

    return of


async def started(agent: Agent, launch: Launch) -> None:
    assert await agent.start(launch, Unit("t", ()), {}) is None


def test_it_tells_how_a_task_ended_also_to_those_who_ask_late(launch: Start, tmp_path: Path) -> None:
    """The first answer may have been lost with a driver."""

    async def play() -> list[Any]:
        agent, it = Agent(tmp_path / "log"), launch("exit 3")
        await started(agent, it)
        answers = [await agent.wait(it.paths), await agent.wait(it.paths), await Agent(tmp_path / "log").look(it.paths)]
        await agent.close()
        return answers

    assert [over.end.code for over in asyncio.run(play())] == [3, 3, 3]


def test_another_agent_finds_what_runs_and_can_stop_it(launch: Start, tmp_path: Path) -> None:
    """One that was started when the first was killed."""

    async def play() -> Over:
        first, second = Agent(tmp_path / "log"), Agent(tmp_path / "log")
        it = launch("trap 'exit 143' TERM; echo > ready; while :; do sleep 0.02; done")
        await started(first, it)
        await asyncio.to_thread(until, (tmp_path / "ready").exists)
        assert await second.look(it.paths) is None
        await second.signal(it.paths, False)
        over = await second.wait(it.paths)
        await first.close()
        return over

    over = asyncio.run(play())
    assert over.end is not None
    assert (over.end.code, over.end.killed) == (143, False)


def test_a_start_that_nobody_has_seen_never_happens(launch: Start, tmp_path: Path) -> None:
    """Who asks for it forbids it."""

    async def play() -> tuple[Over, Over]:
        agent, it = Agent(tmp_path / "log"), launch("touch here")
        over = await agent.wait(it.paths)
        await started(agent, it)
        late = await agent.wait(it.paths)
        await agent.close()
        return over, late

    for over in asyncio.run(play()):
        assert (over.end, over.reason.partition(" when ")[0]) == (None, "it had not begun")
    assert not (tmp_path / "here").exists()


def test_it_leaves_when_nothing_needs_it(launch: Start, tmp_path: Path) -> None:
    """Not as long as something runs."""

    async def play() -> list[int]:
        left: list[int] = []
        agent, it = Agent(tmp_path / "log", lambda: left.append(1)), launch("until test -e go; do sleep 0.02; done")
        await started(agent, it)
        await agent.close()
        before = len(left)
        (tmp_path / "go").touch()
        await agent.wait(it.paths)
        await agent.close()
        return [before, len(left)]

    assert asyncio.run(play()) == [0, 1]


def test_it_knows_what_the_node_lacks(tmp_path: Path) -> None:
    """A folder that is not shared, say."""
    host = asyncio.run(Agent(tmp_path / "log").hello([tmp_path, tmp_path / "not here"], 2, 4, "n"))
    assert host.missing == str(tmp_path / "not here")
    assert host.devices.devices == (("n/cpu:0", "n/cpu:1"),)
    assert host.devices.cluster.nodes[0].cpus == 4


def test_a_log_that_cannot_be_written_is_an_error_number(launch: Start, tmp_path: Path) -> None:
    """And the task has not begun."""

    async def play() -> Any:
        agent, it = Agent(tmp_path / "log"), launch("touch here")
        (tmp_path / "logs").rmdir()
        answer = await agent.start(it, Unit("t", ()), {})
        await agent.close()
        return answer

    assert asyncio.run(play()) == (2, "No such file or directory")
