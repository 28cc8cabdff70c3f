"""`rlsched run` and `rlsched status`."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rlsched.cli.guard import choice_of, listen
from rlsched.cli.metrics import metrics_on
from rlsched.cli.narrator import Narrator
from rlsched.cli.output import console, messages, print_json
from rlsched.executor.onray.connection import require_ray
from rlsched.executor.run import RunResult, default_run_dir, run_workflow
from rlsched.executor.site import Connect
from rlsched.executor.status import RunState, RunStatus, UnitState, UnitStatus, read_status
from rlsched.manifest import manifest
from rlsched.policies.registry import load_policy
from rlsched.report.html import write_gantt
from rlsched.report.perfetto import write_trace
from rlsched.report.units import duration
from rlsched.scheduler import Policy
from rlsched.workflow import Workflow, load_workflow

_COLOURS = {
    UnitState.RUNNING: "cyan",
    UnitState.FINISHED: "green",
    UnitState.KEPT: "green",
    UnitState.FAILED: "red",
    UnitState.SKIPPED: "yellow",
    UnitState.INTERRUPTED: "yellow",
}


def run(
    workflow_file: Path,
    policy: str,
    run_dir: Path | None,
    slots: int | None,
    history: bool,
    sample_interval: float,
    metrics_port: int | None,
    backend: str,
    address: str,
    lost: list[str],
    json: bool,
) -> None:
    connect = connection(backend, address, slots, lost)
    loaded = load_policy(policy)
    workflow = load_workflow(workflow_file)
    with metrics_on(metrics_port) as metrics:
        options: dict[str, Any] = {"slots": slots, "history": history, "sample_interval": sample_interval}
        options |= {"metrics": metrics, "connect": connect, "lost": lost}
        result = run_with_progress(workflow, policy, run_dir, loaded, **options)
    if json:
        print_json(_as_json(result.status) | {"nothing_to_do": result.nothing_to_do} | choice_of(loaded))
    else:
        print_summary(result)
    sys.exit(result.exit_code)


def connection(backend: str, address: str, slots: int | None, lost: list[str]) -> Connect | None:
    """How to get at the machines of a backend, `local` or `ray`; None: they are here.

    Raises:
        ValueError: there is no such backend, or it is not installed.
    """
    if backend not in ("local", "ray"):
        raise ValueError(f"--backend {backend}: expected local or ray")
    if backend == "local":
        if address:
            raise ValueError(f"--address {address}: only --backend ray has one")
        return None
    require_ray("--backend ray")
    from rlsched.executor.onray.site import RaySite  # Ray takes a second to import

    return lambda directory, folder: RaySite(directory, folder, address or "auto", slots, lost)


def status(run_dir: Path, json: bool) -> None:
    current = read_status(run_dir)
    if json:
        print_json(_as_json(current))
    else:
        console.print(_view(current))


def run_with_progress(
    workflow: Workflow, policy: str, run_dir: Path | None, loaded: Policy | None = None, **options: Any
) -> RunResult:
    """Run a workflow and show how it goes: a live table on a terminal, a line an event elsewhere.

    Writes gantt.html and trace.json of what this call ran into the run directory.

    Args:
        loaded: the policy itself, if the caller has loaded it.
        options: of `run_workflow`.
    """
    directory = run_dir or default_run_dir(workflow)
    chosen = loaded or load_policy(policy)
    listen(chosen)
    if messages.is_terminal:
        with Live(get_renderable=lambda: _live(directory), console=messages, refresh_per_second=2, transient=True):
            result = run_workflow(workflow, chosen, directory, policy_name=policy, **options)
    else:
        result = run_workflow(workflow, chosen, directory, policy_name=policy, observe=Narrator(), **options)
    if result.schedule.runs:
        write_gantt(result.schedule, directory / "gantt.html", f"{workflow.name} under {policy}", manifest(seeds=[]))
        write_trace(result.schedule, directory / "trace.json")
    return result


def print_summary(result: RunResult) -> None:
    """Per task waiting and running time and devices; predicted and actual makespan."""
    current = result.status
    if result.nothing_to_do:
        console.print(f"{current.workflow}: nothing to do, all {len(current.units)} tasks had finished before")
        return
    units = {unit.name: unit for unit in current.units}
    table = Table(title=f"{current.workflow} under {current.policy}: {current.state}", title_justify="left")
    gpus = any(unit.usage is not None and unit.usage.gpu_memory is not None for unit in current.units)
    for column in ("task", "state", "waited", "ran", "devices", *(("GPU memory", "GPU use") if gpus else ())):
        table.add_column(column, justify="left" if column in ("task", "state", "devices") else "right")
    shown = set()
    for run in sorted(result.schedule.runs, key=lambda run: run.start):
        name = result.schedule.name_of(run).split("/", 1)[1]
        unit = units[name]
        shown.add(name)
        waited, ran = duration(run.start - run.ready_at), duration(run.end - run.start)
        table.add_row(Text(name), _state(unit), waited, ran, ", ".join(unit.devices), *(_gpu_use(unit) if gpus else ()))
    for unit in current.units:
        if unit.name not in shown:
            table.add_row(Text(unit.name), _state(unit))
    console.print(table)
    for unit in current.units:
        if unit.state is UnitState.FAILED:
            console.print(f"{unit.name} failed: {unit.reason}; its output: {unit.log}", markup=False, soft_wrap=True)
    console.print(f"devices: {', '.join(current.devices)}")
    if current.makespan is not None:
        console.print(_makespan(current))
    if current.handovers:
        console.print(_handovers(current))
    if current.learned:
        console.print(f"estimates: {_among(current)} from earlier runs", markup=False)
    if result.schedule.runs:
        console.print(f"chart and trace: {current.run_dir}/gantt.html, {current.run_dir}/trace.json", soft_wrap=True)


def _live(run_dir: Path) -> Group | Text:
    try:
        return _view(read_status(run_dir))
    except ValueError:
        return Text("starting")


def _view(current: RunStatus) -> Group:
    """Devices and tasks of a run as they are now."""
    table = Table(title=f"{current.workflow} under {current.policy}: {current.state}", title_justify="left")
    for column in ("task", "state", "time", "devices", "progress"):
        table.add_column(column, justify="right" if column == "time" else "left")
    for unit in current.units:
        table.add_row(Text(unit.name), _state(unit), _elapsed(unit), ", ".join(unit.devices), _progress(unit))
    busy = {device: unit.name for unit in current.units if unit.state is UnitState.RUNNING for device in unit.devices}
    devices = "  ".join(f"{device}: {busy.get(device, 'idle')}" for device in current.devices)
    below = [Text(_handovers(current))] if current.handovers else []
    return Group(table, Text(devices), Text(_makespan(current)), *below)


def _makespan(current: RunStatus) -> str:
    predicted = [] if current.predicted_makespan is None else [f"predicted {duration(current.predicted_makespan)}"]
    actual = [] if current.makespan is None else [f"actual {duration(current.makespan)}"]
    return f"makespan: {', '.join([*predicted, *actual]) or 'not known yet'}"


def _handovers(current: RunStatus) -> str:
    """How long devices waited from the end of a task to the first statement of the next."""
    kinds = (f"{kind} {duration(gaps.median)} ({gaps.count})" for kind, gaps in current.handovers.items())
    return f"hand-over from task to task, median: {', '.join(kinds)}"


def _state(unit: UnitStatus) -> Text:
    tries = f" (attempt {unit.attempts})" if unit.attempts > 1 else ""
    return Text(unit.state + tries, style=_COLOURS.get(unit.state, ""))


def _gpu_use(unit: UnitStatus) -> tuple[str, str]:
    """Peak memory of a GPU, and utilisation."""
    usage = unit.usage
    memory = "" if usage is None or usage.gpu_memory is None else f"{usage.gpu_memory:.1f} GiB"
    return memory, "" if usage is None or usage.gpu_utilisation is None else f"{usage.gpu_utilisation:.0%}"


def _among(current: RunStatus) -> str:
    """The tasks with learned estimates: their names if they are few."""
    return ", ".join(current.learned) if len(current.learned) <= 6 else f"of {len(current.learned)} tasks"


def _elapsed(unit: UnitStatus) -> str:
    if unit.start is None:
        return ""
    return duration((unit.end or time.time()) - unit.start)


def _progress(unit: UnitStatus) -> str:
    if unit.progress is None:
        return unit.reason
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in unit.progress.metrics.items())
    return f"{unit.progress.step}/{unit.progress.total}  {metrics}"


def _as_json(current: RunStatus) -> dict[str, Any]:
    content = asdict(current)
    content["state"] = str(RunState(current.state))
    return content
