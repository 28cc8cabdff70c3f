"""Gantt chart of a schedule as a plotly figure: devices down, time across, one colour a job.

A browser draws a few thousand bars at once: adjacent GPUs of a gang make one bar, all bars of a colour make one trace,
and of a longer schedule the first part is shown.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from rlsched.report.lanes import Bar, active_jobs, bars_of, lane_counts, steps
from rlsched.report.units import duration
from rlsched.schedule import Outcome, Schedule

MAX_BARS = 4000
ROW_LABELS = 48  # with more rows than this, only nodes are named
PALETTE = (
    *("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#eeca3b"),
    *("#9d755d", "#ff9da6", "#79706e", "#3d5a80", "#86bcb6", "#d4a6c8", "#8cd17d"),
)
INK = "#24292f"


@dataclass
class _View:
    """A schedule cut to what is shown: `until` is where the first bar that is left out would start."""

    schedule: Schedule
    bars: list[Bar] = field(init=False)
    counts: list[int] = field(init=False)
    until: float = field(init=False)

    def __post_init__(self) -> None:
        bars = bars_of(self.schedule)
        self.bars = bars[:MAX_BARS]
        self.until = bars[MAX_BARS].run.start if len(bars) > MAX_BARS else self.schedule.end
        self.counts = lane_counts(self.schedule, self.bars)

    @property
    def left_out(self) -> int:
        """Runs that are not shown."""
        return len(self.schedule.runs) - len({id(bar.run) for bar in self.bars})


def gantt(schedules: dict[str, Schedule]) -> go.Figure:
    """A figure of one schedule, or of several of the same cluster with buttons to choose among them.

    Above the devices: GPUs in use and jobs in the system.
    """
    views = {name: _View(schedule) for name, schedule in schedules.items()}
    cluster = next(iter(schedules.values())).cluster
    counts = [max(of_node) for of_node in zip(*(view.counts for view in views.values()), strict=True)]
    first_row = list(itertools.accumulate(counts, initial=0))
    start = min((r.job.release for view in views.values() for r in view.schedule.jobs.values()), default=0.0)
    end = max(view.until for view in views.values())
    unit, scale = next((u, s) for u, s, least in _UNITS if end - start >= least)

    height = max(220, min(900, 14 * first_row[-1] if first_row[-1] > 24 else 24 * first_row[-1]))
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, row_heights=[90, height], vertical_spacing=12 / (height + 102)
    )
    owners: list[str] = []
    for name, view in views.items():
        traces = [*_load(view, scale), *_bars(view, first_row, scale)]
        for trace in traces:
            trace.visible = not owners or owners[0] == name
            in_panel = isinstance(trace, go.Scatter)
            figure.add_trace(trace, row=1 if in_panel else 2, col=1)
        owners += [name] * len(traces)
    if len(views) > 1:
        figure.update_layout(updatemenus=[_chooser(owners)])
    for boundary in first_row[1:-1]:
        figure.add_hline(y=boundary - 0.5, line={"color": "#d0d7de", "width": 1}, row=2, col=1)
    labels = dict(_row_labels(cluster.nodes, counts, first_row))
    figure.update_yaxes(
        row=2,
        range=[first_row[-1] - 0.4, -0.6],
        tickvals=list(labels),
        ticktext=list(labels.values()),
        showgrid=False,
        ticklabelstandoff=6,
    )
    figure.update_yaxes(row=1, rangemode="tozero", nticks=4, gridcolor="#eaeef2", zeroline=False)
    figure.update_xaxes(range=[start / scale, end / scale], gridcolor="#eaeef2", zeroline=False)
    figure.update_xaxes(title_text=f"time, {unit}", row=2)
    figure.update_layout(
        template="plotly_white",
        height=height + 230,
        margin={"l": 100, "r": 20, "t": 60, "b": 50},
        bargap=0,
        barmode="overlay",
        hovermode="closest",
        font={"family": "system-ui, sans-serif", "size": 12, "color": INK},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right"},
    )
    return figure


_UNITS = (("days", 86400.0, 259200.0), ("hours", 3600.0, 10800.0), ("minutes", 60.0, 600.0), ("seconds", 1.0, -1.0))


def left_out(schedule: Schedule) -> int:
    """How many runs are too many for the chart of this schedule."""
    return _View(schedule).left_out


def _load(view: _View, scale: float) -> Iterator[go.Scatter]:
    nodes = view.schedule.cluster.nodes
    gpus = [(bar.run, sum(lane < nodes[bar.node].gpus for lane in bar.lanes)) for bar in view.bars]
    in_use = [change for run, count in gpus for change in ((run.start, count), (run.end, -count))]
    panels: tuple[tuple[str, list[tuple[float, int]], dict[str, Any], str], ...] = (
        ("GPUs in use", in_use, {"fill": "tozeroy", "fillcolor": "rgba(76,120,168,.18)"}, "#4c78a8"),
        ("jobs in the system", active_jobs(view.schedule), {}, "#e45756"),
    )
    for name, changes, style, colour in panels:
        times, values = steps([(time, change) for time, change in changes if time <= view.until])
        yield go.Scatter(
            x=[time / scale for time in times],
            y=values,
            name=name,
            mode="lines",
            line={"shape": "hv", "width": 1.5, "color": colour},
            hovertemplate="%{y} " + name + "<extra></extra>",
            **style,
        )


def _bars(view: _View, first_row: Sequence[int], scale: float) -> Iterator[go.Bar]:
    """One trace for every colour; hatched where a run did not finish."""
    schedule = view.schedule
    jobs = [record.job for record in schedule.jobs.values()]
    by_task = len(jobs) == 1  # then by job all would be of one colour
    names = [task.name for task in jobs[0].tasks] if by_task else [job.name for job in jobs]
    of_colour: list[list[Bar]] = [[] for _ in PALETTE]
    for bar in view.bars:
        of_colour[(bar.run.member.task if by_task else bar.run.member.job) % len(PALETTE)].append(bar)
    for colour, bars in enumerate(of_colour):
        if not bars:
            continue
        rectangles = [(bar, low, high) for bar in bars for low, high in _ranges(bar.lanes)]
        yield go.Bar(
            orientation="h",
            name=escape(names[colour]),
            showlegend=len(names) <= len(PALETTE),
            base=[bar.run.start / scale for bar, _, _ in rectangles],
            x=[(bar.run.end - bar.run.start) / scale for bar, _, _ in rectangles],
            y=[first_row[bar.node] + (low + high) / 2 for bar, low, high in rectangles],
            width=[high - low + 0.86 for _, low, high in rectangles],
            customdata=[_hover(schedule, bar) for bar, _, _ in rectangles],
            hovertemplate="%{customdata}<extra></extra>",
            marker={
                "color": PALETTE[colour],
                "line": {"width": 0.6, "color": "white"},
                "pattern": {
                    "shape": ["" if bar.run.outcome is Outcome.FINISHED else "/" for bar, _, _ in rectangles],
                    "fgcolor": "white",
                    "solidity": 0.35,
                    "size": 6,
                },
            },
        )


def _ranges(lanes: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of consecutive numbers as (first, last)."""
    parts = itertools.groupby(enumerate(sorted(lanes)), key=lambda item: item[1] - item[0])
    numbers = ([lane for _, lane in part] for _, part in parts)
    return [(part[0], part[-1]) for part in numbers]


def _hover(schedule: Schedule, bar: Bar) -> str:
    run = bar.run
    mode = schedule.mode_of(run)
    node = schedule.cluster.nodes[bar.node]
    nodes = f" on {len(run.shares)} nodes" if len(run.shares) > 1 else ""
    gpus = f"{mode.gpus} GPU{'s' * (mode.gpus != 1)} ({escape(node.gpu_type)}){nodes}" if mode.gpus else "no GPU"
    return (
        f"<b>{escape(schedule.name_of(run))}</b><br>{gpus}, {run.outcome}<br>"
        f"{duration(run.start)} to {duration(run.end)}: {duration(run.end - run.start)}<br>"
        f"waited {duration(run.start - run.ready_at)}"
    )


def _row_labels(nodes: Sequence[Any], counts: Sequence[int], first_row: Sequence[int]) -> Iterator[tuple[float, str]]:
    every_row = sum(counts) <= ROW_LABELS
    for index, node in enumerate(nodes):
        name = escape(node.name)
        if not every_row:
            yield first_row[index] + (counts[index] - 1) / 2, name
            continue
        for lane in range(counts[index]):
            number = f"GPU {lane}" if lane < node.gpus else f"CPU {lane - node.gpus}"
            yield first_row[index] + lane, f"{name} · {number}"


def _chooser(owners: Sequence[str]) -> dict[str, Any]:
    """Buttons that show the traces of one schedule."""
    buttons = [
        {"label": escape(name), "method": "update", "args": [{"visible": [owner == name for owner in owners]}]}
        for name in dict.fromkeys(owners)
    ]
    return {
        "type": "dropdown",
        "buttons": buttons,
        "x": 0,
        "xanchor": "left",
        "y": 1.02,
        "yanchor": "bottom",
        "bgcolor": "white",
        "bordercolor": "#d0d7de",
    }
