"""`rlsched replay`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from rlsched.cli.output import console, print_json, remark
from rlsched.executor.replay import RecordedRun, Replay, read_recorded, reenact
from rlsched.policies.registry import load_policy
from rlsched.report.units import duration
from rlsched.scheduler import Policy


def replay(run_dir: Path, json: bool) -> None:
    run = read_recorded(run_dir)
    found = reenact(run, _policy_of(run))
    if json:
        print_json(asdict(found))
    else:
        console.print(_table(found))


def _policy_of(run: RecordedRun) -> Policy | None:
    """The policy of the run, anew; None if it cannot be had any more: then its decisions are repeated."""
    try:
        return load_policy(run.begin["policy"])
    except (ValueError, OSError) as error:
        remark(f"the policy of the run cannot be had, its decisions are repeated: {error}")
        return None


def _table(found: Replay) -> Table:
    decided = "its policy deciding anew" if found.decisions == "policy" else "its decisions repeated"
    table = Table(title=f"{found.workflow} under {found.policy or 'its policy'}, {decided}", title_justify="left")
    for column in ("", "makespan", "error", "mean JCT", "error"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("real run", duration(found.makespan), "", duration(found.mean_jct), "")
    for name, simulated in (("simulated, estimates", found.estimates), ("simulated, as measured", found.measured)):
        table.add_row(
            name,
            duration(simulated.makespan),
            f"{simulated.makespan_error:+.1%}",
            duration(simulated.mean_jct),
            f"{simulated.mean_jct_error:+.1%}",
        )
    return table
