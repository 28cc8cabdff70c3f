"""`rlsched simulate`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

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
    slots: int | None,
    history: bool,
    json: bool,
) -> None:
    for option, file in (("--events", events), ("--trace", trace)):
        if file is not None and not file.parent.is_dir():
            raise ValueError(f"{option} {file}: cannot be written, there is no folder {file.parent}")
    simulator, played, scenario, learned = _subject(what, cluster_file, seed, slots, history)
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
        from_runs = {} if learned is None else {"learned": sorted(learned)}
        content = {"what": what, "policy": policy, **choice_of(loaded), "metrics": metrics, **from_runs}
        print_json(content | {"manifest": manifest(seeds=[played])})
    else:
        console.print(_table(what, policy, played, metrics))
        if learned:
            console.print(f"estimates: of {len(learned)} tasks from earlier runs")
        _say_where(events, trace)


class _Subject(NamedTuple):
    """What is to be simulated.

    Attributes:
        scenario: if it is of one.
        learned: of a workflow: the tasks whose estimates are from earlier runs.
    """

    simulator: Simulator
    seed: int
    scenario: Scenario | None = None
    learned: frozenset[str] | None = None


def _subject(what: str, cluster_file: Path | None, seed: int | None, slots: int | None, history: bool) -> _Subject:
    path = Path(what)
    if not is_workload_file(path) and is_workflow_file(path):
        from rlsched.executor.devices import local_machine
        from rlsched.executor.experience import NOTHING, recall
        from rlsched.executor.work import work_of

        workflow = load_workflow(path)
        cluster = local_machine(slots).cluster if cluster_file is None else load_cluster(cluster_file)
        check_feasible(workflow, cluster)
        known = recall(workflow) if history else NOTHING
        work, learned = known.applied_to(work_of(workflow), cluster)
        costs = known.calibration.costs(cluster)
        return _Subject(Simulator(cluster, [work.job], seed or 0, costs=costs), seed or 0, learned=learned)
    scenario = load_scenario(what)
    if cluster_file is not None:
        scenario = scenario.with_(cluster=load_cluster(cluster_file))
    played = scenario.seeds.report if seed is None else seed
    return _Subject(scenario.simulator(played), played, scenario)


def _table(what: str, policy: str, seed: int, metrics: dict[str, float]) -> Table:
    table = Table(title=f"{what} under {policy}, workload {seed}", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        table.add_row(label(name), show(name, value))
    return table


def _say_where(events: Path | None, trace: Path | None) -> None:
    if events is not None:
        console.print(f"events: {events}", soft_wrap=True)
    if trace is not None:
        console.print(f"trace: {trace} (open it in ui.perfetto.dev)", soft_wrap=True)
