"""`rlsched simulate`."""

from __future__ import annotations

import contextlib
from pathlib import Path

from rich.table import Table

from rlsched.cli.guard import choice_of, listen
from rlsched.cli.output import console, print_json
from rlsched.manifest import manifest
from rlsched.policies.auto import AutoPolicy
from rlsched.policies.registry import load_policy
from rlsched.report.events import EventLog
from rlsched.report.perfetto import write_trace
from rlsched.report.units import label, show
from rlsched.scenario import Scenario, load_cluster, load_scenario
from rlsched.scheduler import Scheduler
from rlsched.simulator import Simulator
from rlsched.workflow import check_feasible, is_workflow_file, load_workflow
from rlsched.workloadfile import is_workload_file


def simulate(
    what: str,
    policy: str,
    cluster_file: Path | None,
    seed: int | None,
    events: Path | None,
    trace: Path | None,
    json: bool,
) -> None:
    simulator, played, scenario = _simulator(what, cluster_file, seed)
    loaded = load_policy(policy, seed=played)
    listen(loaded)
    if isinstance(loaded, AutoPolicy) and scenario is not None:
        loaded.prepare(scenario, played)
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(EventLog(events)) if events is not None else None
        schedule = Scheduler(simulator, log).run(loaded)
    schedule.check()
    if trace is not None:
        write_trace(schedule, trace)
    metrics = schedule.metrics()
    if json:
        content = {"what": what, "policy": policy, **choice_of(loaded), "metrics": metrics}
        print_json(content | {"manifest": manifest(seeds=[played])})
    else:
        console.print(_table(what, policy, played, metrics))
        _say_where(events, trace)


def _simulator(what: str, cluster_file: Path | None, seed: int | None) -> tuple[Simulator, int, Scenario | None]:
    """What is to be simulated, the seed, and the scenario if it is of one."""
    path = Path(what)
    if not is_workload_file(path) and is_workflow_file(path):
        from rlsched.executor.devices import local_machine

        workflow = load_workflow(path)
        cluster = local_machine().cluster if cluster_file is None else load_cluster(cluster_file)
        check_feasible(workflow, cluster)
        return Simulator(cluster, [workflow.job], seed or 0), seed or 0, None
    scenario = load_scenario(what)
    if cluster_file is not None:
        scenario = scenario.with_(cluster=load_cluster(cluster_file))
    played = scenario.seeds.report if seed is None else seed
    return scenario.simulator(played), played, scenario


def _table(what: str, policy: str, seed: int, metrics: dict[str, float]) -> Table:
    table = Table(title=f"{what} under {policy}, workload {seed}", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        table.add_row(label(name), show(name, value))
    return table


def _say_where(events: Path | None, trace: Path | None) -> None:
    if events is not None:
        console.print(f"events: {events}")
    if trace is not None:
        console.print(f"trace: {trace} (open it in ui.perfetto.dev)")
