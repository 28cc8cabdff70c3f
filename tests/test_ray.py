"""On a Ray cluster: the policy decides, a lost node costs its own tasks an attempt and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from builders import first_fit
from conftest import appears, until

from rlsched.executor.run import RunResult, run_workflow
from rlsched.executor.rundir import RunDirectory
from rlsched.executor.status import UnitState, UnitStatus
from rlsched.experiments.benchmark import benchmark
from rlsched.experiments.playing import Workers, play
from rlsched.model import Allocation, Share
from rlsched.scenario import load_scenario
from rlsched.scheduler import Decision, Event, NodeLost
from rlsched.state import State
from rlsched.workflow import Workflow

pytest.importorskip("ray", reason="Ray is not installed: pip install 'rlsched[ray]'")

from rlsched.executor.onray.site import RaySite

Write = Callable[[str], Workflow]
SMALL: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80_000_000}
PATIENT = "until test -e permission; do sleep 0.05; done"


class Nodes:
    """A real Ray cluster on this machine: nodes `a` (with its head), `b` and `c`, of one CPU each."""

    def __init__(self) -> None:
        os.environ["RAY_health_check_period_ms"] = "1000"  # noqa: SIM112 - Ray spells it so
        os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - or on a busy machine the tests take for ever
        from ray.cluster_utils import Cluster

        self._cluster: Any = Cluster(True, False, {**SMALL, "node_name": "a", "include_dashboard": False})
        self._nodes: dict[str, Any] = {}
        self.restore()
        self.address: str = self._cluster.address

    def _add(self, name: str) -> Any:
        for _ in range(3):
            try:
                return self._cluster.add_node(wait=False, **SMALL, node_name=name)
            except Exception as error:  # which is what Ray raises on a machine that is too busy to start it in time
                late = error
        raise late

    def restore(self) -> None:
        """Put nodes in the place of those that were killed."""
        for name in {"b", "c"}.difference(self._nodes):
            self._nodes[name] = self._add(name)
        self._cluster.wait_for_nodes()

    def kill(self, name: str) -> None:
        self._cluster.remove_node(self._nodes.pop(name), allow_graceful=False)

    def close(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    nodes = Nodes()
    yield nodes
    nodes.close()


@pytest.fixture
def nodes(cluster: Nodes) -> Nodes:
    """All three of them."""
    cluster.restore()
    return cluster


@pytest.fixture
def on_ray(workflow: Write, nodes: Nodes) -> Callable[..., RunResult]:
    """Runs a workflow on the cluster."""

    def run(tasks: str, policy: Any = first_fit, **options: Any) -> RunResult:
        def connect(directory: RunDirectory, folder: Path) -> RaySite:
            return RaySite(directory, folder, nodes.address)

        return run_workflow(workflow(tasks), policy, connect=connect, **{"grace": 5.0, **options})

    return run


_DRIVER = """
import sys
from pathlib import Path
from builders import first_fit
from rlsched.executor.onray.site import RaySite
from rlsched.executor.run import run_workflow
from rlsched.workflow import load_workflow
connect = lambda directory, folder: RaySite(directory, folder, sys.argv[2])
sys.exit(run_workflow(load_workflow(Path(sys.argv[1])), first_fit, grace=5, connect=connect).exit_code)
"""


@pytest.fixture
def driver(nodes: Nodes) -> Iterator[Callable[[Workflow], subprocess.Popen[bytes]]]:
    """Starts a driver of its own, so that it can be killed."""
    started: list[subprocess.Popen[bytes]] = []
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])

    def start(flow: Workflow) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", _DRIVER, str(flow.file), nodes.address]
        started.append(subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def units(result: RunResult) -> dict[str, UnitStatus]:
    return {unit.name: unit for unit in result.status.units}


def effects(folder: Path) -> Counter[str]:
    return Counter((folder / "effects").read_text().split())


def variables(file: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in file.read_text().splitlines())


def test_the_policy_chooses_the_nodes_and_a_gang_finds_itself(on_ray: Callable[..., RunResult], tmp_path: Path) -> None:
    """What it decides is where a task runs; of a gang, each node knows its number, and where the first one is."""

    def last_first(state: State) -> Sequence[Decision]:
        task = next(iter(state.ready.values()))
        nodes = [2] if task.task.name == "alone" else [2, 0]
        shares = tuple(Share(node, (0,)) for node in nodes)
        return [Allocation(task.next_member(), 0, shares)] if state.pool.suits(shares, task.task.modes[0]) else []

    result = on_ray(
        """
        alone: {run: echo $RLSCHED_DEVICES > alone}
        gang:
          run: |
            env | grep -E '^(MASTER|NNODES|NODE_RANK|WORLD|RLSCHED_[DFG])' > $NODE_RANK
            test $NODE_RANK = 1 || touch out
          gpus: 2
          needs: alone
          outputs: out
        """,
        last_first,
    )
    assert result.exit_code == 0
    assert [units(result)[name].devices for name in ("alone", "gang")] == [("c/cpu:0",), ("c/cpu:0", "a/cpu:0")]
    assert (tmp_path / "alone").read_text() == "c/cpu:0\n"
    first, second = variables(tmp_path / "0"), variables(tmp_path / "1")
    assert (first["MASTER_ADDR"], first["MASTER_PORT"]) == (second["MASTER_ADDR"], second["MASTER_PORT"])
    assert int(first["MASTER_PORT"]) > 0
    own = {"NODE_RANK": "1", "RLSCHED_FIRST_RANK": "1", "RLSCHED_DEVICES": "a/cpu:0"}
    common = {"NNODES": "2", "WORLD_SIZE": "2", "RLSCHED_GPUS": "1"}
    assert {name: second[name] for name in (*own, *common)} == own | common
    assert {name: first[name] for name in common} == common


def test_a_part_that_fails_ends_its_gang(on_ray: Callable[..., RunResult], tmp_path: Path) -> None:
    """The others are stopped; what they have left is no result."""
    gang = "touch out; test $NODE_RANK = 0 || exit 3; sleep 60"
    result = on_ray(f'g: {{run: "{gang}", gpus: 2, outputs: out}}')
    assert (result.exit_code, units(result)["g"].reason) == (1, "exit code 3")
    assert not (tmp_path / "out").exists()


def test_a_lost_node_costs_its_own_tasks_an_attempt(
    on_ray: Callable[..., RunResult], nodes: Nodes, tmp_path: Path
) -> None:
    """They run elsewhere, at no cost in retries, once nothing of them lives; the tasks of other nodes do not notice."""
    dead: list[bool] = []

    def kill_b() -> None:
        for node in "abc":
            appears(tmp_path / f"pid-{node}")
        nodes.kill("b")

    def observe(now: float, what: Event | Decision) -> None:
        if isinstance(what, NodeLost) and what.work_left:
            dead.append(not psutil.pid_exists(int((tmp_path / "pid-b").read_text())))
            (tmp_path / "permission").touch()

    threading.Thread(target=kill_b).start()
    body = f"echo $$ > pid-$${{RLSCHED_DEVICES%%/*}}; {PATIENT}; echo t$i >> effects"
    tasks = "\n".join(f'  t{i}: {{run: "i={i}; {body}"}}' for i in range(3))
    result = on_ray(f"{tasks}\n  after: {{run: echo after >> effects, needs: [t0, t1, t2]}}", observe=observe)
    assert result.exit_code == 0
    assert dead == [True]
    assert effects(tmp_path) == {"t0": 1, "t1": 1, "t2": 1, "after": 1}
    attempts = {unit.name: unit.attempts for unit in result.status.units}
    assert sorted(attempts.values()) == [1, 1, 1, 2]
    assert attempts["after"] == 1
    assert "b/cpu:0" not in {device for unit in result.status.units for device in unit.devices}


def test_an_agent_that_is_killed_is_replaced(on_ray: Callable[..., RunResult], tmp_path: Path) -> None:
    """The node lives, and so does the task. What is to start before the new agent is there is tried again, for free."""

    def kill_agents() -> None:
        appears(tmp_path / "pid")
        for process in psutil.process_iter():
            if process.name().startswith("ray::Agent"):
                process.kill()
        (tmp_path / "permission").touch()

    threading.Thread(target=kill_agents).start()
    tasks = f"""
    t: {{run: "echo $$ > pid; {PATIENT}; sleep 1; echo t >> effects"}}
    next: {{run: echo n >> effects, needs: t}}
    """
    result = on_ray(tasks)
    assert (result.exit_code, result.status.units[0].attempts) == (0, 1)
    assert effects(tmp_path) == {"t": 1, "n": 1}


def test_ctrl_c_stops_what_runs(driver: Callable[..., Any], workflow: Write, tmp_path: Path) -> None:
    """As on one machine: it is asked to stop, and the exit code says why."""
    process = driver(
        workflow("t: {run: \"trap 'touch asked; exit 143' TERM; echo $$ > pid; while :; do sleep 0.05; done\"}")
    )
    appears(tmp_path / "pid")
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    assert (tmp_path / "asked").exists()
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_a_benchmark_on_the_cluster_is_like_one_on_this_machine(nodes: Nodes) -> None:
    """Cell by cell."""
    scenario = load_scenario("tiny")
    seeds = scenario.seed_range("report", 2)
    on_ray = benchmark(scenario, ["fifo", "srpt"], seeds, ray=nodes.address)
    assert on_ray.cells == benchmark(scenario, ["fifo", "srpt"], seeds, processes=1).cells


def test_what_fails_on_the_cluster_fails_as_on_this_machine(nodes: Nodes) -> None:
    """With the same error."""
    with Workers(load_scenario("tiny"), ray=nodes.address) as workers, pytest.raises(ValueError, match="'nonsense'"):
        list(workers.map(play, [("nonsense", 0)]))


def test_where_no_cluster_is_that_is_said(tmp_path: Path, workflow: Write) -> None:
    """And nothing has been started."""

    def connect(directory: RunDirectory, folder: Path) -> RaySite:
        return RaySite(directory, folder, "127.0.0.1:1")

    with pytest.raises(ValueError, match=r"there is no Ray cluster at '127.0.0.1:1'"):
        run_workflow(workflow("t: {run: touch here}"), first_fit, connect=connect)
    assert not (tmp_path / "here").exists()


def test_a_node_that_does_not_see_the_run_is_refused(nodes: Nodes, tmp_path: Path) -> None:
    """Before anything is started there."""
    directory = RunDirectory(tmp_path / "run")
    with pytest.raises(ValueError, match=r"does not see /nowhere: .*on a file system that they share"):
        RaySite(directory, Path("/nowhere"), nodes.address)
    directory.close()


@pytest.mark.parametrize("local", [False, True], ids=["by Ray", "by the local backend"])
def test_a_run_whose_driver_was_killed_goes_on(
    local: bool,
    on_ray: Callable[..., RunResult],
    workflow: Write,
    driver: Callable[[Workflow], subprocess.Popen[bytes]],
    tmp_path: Path,
) -> None:
    """What runs is adopted, what ended meanwhile is read, and each effect is there once.

    It comes last: the nodes stay reserved for a while when nobody goes on with them.
    """
    tasks = f"""
    waits: {{run: "echo $$ > pid; {PATIENT}; echo waits >> effects"}}
    ends: {{run: "until test -e dead; do sleep 0.05; done; echo ends >> effects; touch ended"}}
    after: {{run: echo after >> effects, needs: [waits, ends]}}
    """
    first = driver(workflow(tasks))
    appears(tmp_path / "pid")
    first.send_signal(signal.SIGKILL)
    first.wait()
    (tmp_path / "dead").touch()
    until((tmp_path / "ended").exists)

    def observe(now: float, what: Event | Decision) -> None:
        (tmp_path / "permission").touch()

    if local:
        result = run_workflow(workflow(tasks), first_fit, slots=2, grace=5.0, observe=observe)
    else:
        result = on_ray(tasks, observe=observe)
    assert result.exit_code == 0
    assert effects(tmp_path) == {"waits": 1, "ends": 1, "after": 1}
    assert [unit.attempts for unit in result.status.units] == [1, 1, 1]
    assert {unit.state for unit in result.status.units} <= {UnitState.FINISHED, UnitState.KEPT}
