"""`rlsched tune-baseline`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from rlsched.cli.output import console, print_json, progress_bar, remark
from rlsched.policies.tuned import TunedBaseline
from rlsched.report.units import label, show
from rlsched.scenario import Scenario, load_scenario

if TYPE_CHECKING:
    from rlsched.experiments.arena import Standing

METHODS = ("tpe", "cma-es")


def tune_baseline(
    scenario: str,
    out: Path,
    method: str,
    families: str,
    start: str | None,
    given: Mapping[str, int | None],
    seed: int,
    resume: bool,
    processes: int,
    json: bool,
) -> None:
    names = tuple(name.strip() for name in families.split(",") if name.strip())
    if method not in METHODS:
        raise ValueError(f"--method is {method!r}, expected {' or '.join(METHODS)}")
    if names and method != "tpe":
        raise ValueError(f"--families is for --method tpe, not {method}")
    if start is not None and method != "cma-es":
        raise ValueError(f"--start is for --method cma-es, not {method}")
    settings: dict[str, int | str | tuple[str, ...]] = {n: value for n, value in given.items() if value is not None}
    settings |= {"seed": seed} | ({"families": names} if names else {}) | ({"start": start} if start else {})
    try:
        search = _named_policies if method == "tpe" else _linear
        found = search(load_scenario(scenario), out, settings, resume, processes)
    except ModuleNotFoundError as error:
        raise ValueError(f'{error.name} is not installed; install with: pip install "rlsched[tune]"') from None
    if json:
        print_json(found.model_dump(mode="json"))
    else:
        _print(found)
    remark(f"wrote {out}")


def _named_policies(
    scenario: Scenario, out: Path, settings: dict[str, Any], resume: bool, processes: int
) -> TunedBaseline:
    from rlsched.experiments.tune import TuningConfig, tune

    with progress_bar() as bar:
        return tune(scenario, out, TuningConfig(**settings), resume, processes, _Shown(scenario, bar))


def _linear(scenario: Scenario, out: Path, settings: dict[str, Any], resume: bool, processes: int) -> TunedBaseline:
    from rlsched.experiments.linear_search import LinearConfig, tune_linear

    with progress_bar() as bar:
        return tune_linear(scenario, out, LinearConfig(**settings), resume, processes, _Shown(scenario, bar))


class _Shown:
    """Progress of a search: a bar, and a line for every new best, on standard error."""

    def __init__(self, scenario: Scenario, bar: Progress) -> None:
        self._objective, self._bar = scenario.objective, bar
        self._task = bar.add_task("", total=None)

    def __call__(self, stage: str, done: int, total: int, best: Standing | None) -> None:
        self._bar.update(self._task, description=stage, completed=done, total=max(done, total))
        if best is not None:
            value = f"{show(self._objective, best.mean)}, {best.ratio:.3f} of {best.yardstick}"
            remark(f"{best.policy}: {value}, {best.workloads} workloads")


def _print(found: TunedBaseline) -> None:
    title = f"{found.scenario}: {label(found.objective)} on validation workloads"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("policy", overflow="fold", min_width=13)
    table.add_column(label(found.objective), justify="right")
    table.add_column("ratio", justify="right")
    members = [*found.members, *({found.default} - {None, *found.members})]
    best = found.members[0].validation
    for member in members:
        assert member is not None
        ratio = f"{member.validation / best:.3f}" if best else "-"
        table.add_row(Text(member.policy), show(found.objective, member.validation), ratio)
    console.print(table)
