"""The HTML report of a benchmark: table, ratios to the reference, and one schedule of each policy."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from rlsched.report.gantt import gantt
from rlsched.report.html import about_chart, figure, provenance, table, write_page
from rlsched.report.units import label, show
from rlsched.schedule import Schedule

_METRICS = ("makespan", "p99_jct", "bounded_slowdown", "finish_time_fairness", "utilisation", "deadline_misses")
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10, 20, 50, 100)
_OURS, _OTHERS = "#d1495b", "#4c78a8"


def write_comparison(
    path: str | os.PathLike[str],
    result: Mapping[str, Any],
    scores: Mapping[str, Sequence[float]],
    schedules: Mapping[str, Schedule],
) -> None:
    """Write the report.

    Args:
        path: the HTML file.
        result: `scenario`, `objective`, `reference`, `seeds`, `rows` and `manifest` as in the benchmark's JSON.
        scores: by policy, the objective's value on each seed.
        schedules: by policy, what it made of the first seed.

    Raises:
        OSError: the file cannot be written.
    """
    rows, reference, objective = result["rows"], result["reference"], result["objective"]
    seeds = result["seeds"]
    title = f"{result['scenario']}: {label(objective)}"
    parts = [
        f"<p>{len(seeds)} workloads, the same for every policy. Ratios are to the best baseline, "
        f"<b>{escape(reference)}</b>: below 1 is better. Intervals: paired bootstrap over the workloads.</p>",
        _table(rows, objective),
        f"<h2>Ratio to {escape(reference)}</h2>",
        figure(_ratios(rows, reference, scores), "ratios"),
        f"<h2>Schedules of workload {seeds[0]}</h2>",
        *dict.fromkeys(about_chart(schedule) for schedule in schedules.values()),
        figure(gantt({row["policy"]: schedules[row["policy"]] for row in rows}), "gantt"),
    ]
    write_page(path, title, [*parts, *provenance(result["manifest"])])


def _table(rows: Sequence[Mapping[str, Any]], objective: str) -> str:
    metrics = [metric for metric in _METRICS if metric != objective and metric in rows[0]["metrics"]]
    head = ["policy", label(objective), "ratio", "95 % interval", "wins : losses", "unfinished", *map(label, metrics)]
    cells = [
        [
            row["policy"],
            show(objective, row["mean"]),
            _ratio(row["ratio"]),
            "reference" if row["reference"] else f"{_ratio(row['low'])} to {_ratio(row['high'])}",
            "" if row["reference"] else f"{row['wins']} : {row['losses']}",
            f"{row['unfinished']:,}",
            *(show(metric, row["metrics"][metric]) for metric in metrics),
        ]
        for row in rows
    ]
    best = min(range(len(rows)), key=lambda number: rows[number]["mean"])
    return table(head, cells, best)


def _ratio(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"


def _ratios(rows: Sequence[Mapping[str, Any]], reference: str, scores: Mapping[str, Sequence[float]]) -> go.Figure:
    """Left: ratio of means with its interval. Right: the ratio on every workload."""
    names = [escape(row["policy"]) for row in rows]
    colours = [_OURS if row["learned"] else _OTHERS for row in rows]
    titles = ("ratio of means, 95 % interval", "every workload")
    result = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=titles)
    ratios = [row["ratio"] for row in rows]
    result.add_trace(
        go.Scatter(
            x=ratios,
            y=list(range(len(rows))),
            mode="markers",
            marker={"size": 10, "color": colours},
            error_x={
                "symmetric": False,
                "array": [row["high"] - row["ratio"] for row in rows],
                "arrayminus": [row["ratio"] - row["low"] for row in rows],
                "color": "#57606a",
                "thickness": 1.5,
            },
            customdata=[[name, row["low"], row["high"]] for name, row in zip(names, rows, strict=True)],
            hovertemplate="%{customdata[0]}: %{x:.3f} (%{customdata[1]:.3f} to %{customdata[2]:.3f})<extra></extra>",
        ),
        row=1,
        col=1,
    )
    base = scores[reference]
    for number, (row, colour) in enumerate(zip(rows, colours, strict=True)):
        each = [score / of if of else None for score, of in zip(scores[row["policy"]], base, strict=True)]
        spread = [number + 0.5 * ((0.618034 * k) % 1.0 - 0.5) for k in range(len(each))]
        result.add_trace(
            go.Scattergl(
                x=each,
                y=spread,
                mode="markers",
                marker={"size": 5, "color": colour, "opacity": 0.45},
                hovertemplate=f"{names[number]}: %{{x:.3f}}<extra></extra>",
            ),
            row=1,
            col=2,
        )
    result.add_vline(x=1, line={"color": "#9aa3ad", "dash": "dot", "width": 1})
    result.update_xaxes(gridcolor="#eaeef2", zeroline=False)
    result.update_xaxes(type="log", tickvals=_TICKS, row=1, col=2)
    result.update_yaxes(
        range=[len(rows) - 0.4, -0.6], tickvals=list(range(len(rows))), ticktext=names, showgrid=False, zeroline=False
    )
    result.update_layout(
        template="plotly_white",
        height=140 + 42 * len(rows),
        margin={"l": 150, "r": 20, "t": 60, "b": 40},
        showlegend=False,
        font={"family": "system-ui, sans-serif", "size": 12, "color": "#24292f"},
    )
    return result
