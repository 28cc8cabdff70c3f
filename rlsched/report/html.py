"""Reports as one HTML file each: no network, no other files, equal input gives equal bytes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import plotly.graph_objects as go
import plotly.offline

from rlsched.report.gantt import gantt, left_out
from rlsched.report.units import label, show
from rlsched.schedule import Schedule

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #24292f; background: #fff; max-width: 1200px;
       margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p { margin: .3rem 0; } .note { color: #57606a; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .35rem .8rem; text-align: right; border-bottom: 1px solid #eaeef2; }
th { font-weight: 600; color: #57606a; border-bottom-color: #d0d7de; white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
tr.best td { background: #f0f7f1; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1.2rem; color: #57606a; font-size: .88rem; }
dd { margin: 0; overflow-wrap: anywhere; }
</style>
<script>$plotly</script>
</head>
<body>
<h1>$title</h1>
$body
</body>
</html>
""")


def write_gantt(
    schedule: Schedule, path: str | os.PathLike[str], title: str, manifest: Mapping[str, Any] | None = None
) -> None:
    """Write a schedule's Gantt chart and metrics.

    Args:
        schedule: of a simulation or a real run.
        path: the HTML file.
        title: plain text.
        manifest: see `rlsched.manifest.manifest`; shown at the end.

    Raises:
        OSError: the file cannot be written.
    """
    metrics = [[label(name), show(name, value)] for name, value in schedule.metrics().items()]
    parts = [
        about_chart(schedule),
        figure(gantt({title: schedule}), "gantt"),
        "<h2>Metrics</h2>",
        table(["metric", "value"], metrics),
    ]
    write_page(path, title, [*parts, *provenance(manifest)])


def write_page(path: str | os.PathLike[str], title: str, parts: Iterable[str]) -> None:
    """Write a page of ready HTML parts; plotly's code goes in once."""
    text = _PAGE.substitute(title=escape(title), plotly=plotly.offline.get_plotlyjs(), body="\n".join(parts))
    Path(path).write_text(text, encoding="utf-8")


def figure(content: go.Figure, name: str) -> str:
    """HTML of a figure; `name` is unique on the page."""
    html: str = content.to_html(full_html=False, include_plotlyjs=False, div_id=name, config={"displaylogo": False})
    return html


def table(head: Sequence[str], rows: Iterable[Sequence[str]], best: int | None = None) -> str:
    """HTML of a table of plain text; row number `best` stands out."""
    lines = [f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}</tr>"]
    for number, row in enumerate(rows):
        mark = ' class="best"' if number == best else ""
        lines.append(f"<tr{mark}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>")
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def provenance(manifest: Mapping[str, Any] | None) -> list[str]:
    """Where the numbers come from."""
    if manifest is None:
        return []
    commit = manifest["commit"]
    seeds = manifest["seeds"]
    entries = {
        "command": manifest["command"],
        "seeds": f"{seeds[0]} to {seeds[-1]} ({len(seeds)})" if len(seeds) > 3 else ", ".join(map(str, seeds)),
        "versions": ", ".join(f"{name} {number}" for name, number in manifest["versions"].items()),
        "commit": "not a checkout" if commit is None else commit["hash"] + " and local changes" * commit["dirty"],
        "machine": f"{manifest['machine']['cpus']} CPUs, {manifest['machine']['platform']}",
    }
    items = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in entries.items())
    return ["<h2>Where this comes from</h2>", f"<dl>{items}</dl>"]


def about_chart(schedule: Schedule) -> str:
    """HTML of what one must know to read a schedule's Gantt chart."""
    missing = left_out(schedule)
    total = len(schedule.runs)
    part = f" The chart shows the first {total - missing:,} of {total:,} runs." if missing else ""
    return f'<p class="note">Hatched runs failed, were preempted, or lost their node.{part}</p>'
