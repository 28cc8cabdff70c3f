"""How metrics read to people."""

from __future__ import annotations

import math

_COUNTS = frozenset({"jobs", "unfinished_jobs", "failed_runs", "preemptions", "deadline_misses"})
_RATIOS = frozenset({"bounded_slowdown", "finish_time_fairness"})


def duration(seconds: float) -> str:
    """Seconds for people: 0 s, 0.420 s, 12.3 s, 4.10 min, 5.39 h, 2.30 d."""
    if not math.isfinite(seconds):
        return "-"
    for unit, size, above in (("d", 86400.0, 172800.0), ("h", 3600.0, 5400.0), ("min", 60.0, 120.0)):
        if abs(seconds) >= above:
            return f"{_digits(seconds / size)} {unit}"
    return f"{_digits(seconds)} s"


def label(metric: str) -> str:
    """The name of a metric as people write it."""
    return metric.replace("_", " ").replace("jct", "JCT").replace(".", " of ")


def show(metric: str, value: float) -> str:
    """The value of one of `Schedule.metrics`, with its unit."""
    if not math.isfinite(value):
        return "-"
    if metric in _COUNTS:
        return f"{value:,.4g}" if value < 1e4 else f"{value:,.0f}"
    if metric.startswith("utilisation"):
        return f"{value:.1%}"
    if metric in _RATIOS:
        return f"{value:.2f}"
    return duration(value)


def _digits(value: float) -> str:
    """Three significant ones, so that numbers of a column can be compared at a glance."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")
