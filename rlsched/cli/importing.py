"""`rlsched import`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from rlsched.cli.output import console, print_json, progress_bar
from rlsched.scenario import load_cluster_entry
from rlsched.traces.importing import import_trace
from rlsched.traces.trace import Wish


def import_workload(
    kind: str,
    path: Path,
    out: Path,
    jobs: int | None,
    skip: int,
    mean_gap: float | None,
    cluster: Path | None,
    companion: Path | None,
    moldable: bool,
    json: bool,
) -> None:
    wish = Wish(None if cluster is None else load_cluster_entry(cluster), companion, moldable)
    with progress_bar() as bar:
        imported = import_trace(
            kind,
            path,
            out,
            wish,
            skip=skip,
            jobs=jobs,
            mean_gap=mean_gap,
            watch=lambda read: bar.track(read, description=f"importing {path.name}"),
        )
    machines, contents, arrivals = imported.header.cluster.cluster(), imported.contents, imported.header.arrivals
    if json:
        counts = {"nodes": len(machines.nodes), "gpus": machines.gpu_count(), **asdict(contents)}
        print_json({"workload": out, **counts, "left_out": imported.left_out})
        return
    console.print(
        f"wrote {out}: {contents.jobs:,} jobs, {contents.tasks:,} tasks of {contents.members:,} members; "
        f"{len(machines.nodes):,} machines with {machines.gpu_count():,} GPUs or slots"
    )
    if arrivals is not None:
        console.print(f"each seed draws {arrivals.jobs:,} of the jobs, {arrivals.mean_gap:g} s apart on average")
    for why, count in imported.left_out.items():
        console.print(f"left out: {count:,} ({why})")
    console.print(f"play it: rlsched simulate {out} --policy srpt", soft_wrap=True)
