"""How results look on a terminal, and how they go into a pipe."""

from __future__ import annotations

import json
import math
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(highlight=False)
messages = Console(stderr=True, highlight=False)  # progress and remarks: standard output stays clean for pipes


def remark(text: str) -> None:
    """A line on standard error, as it stands."""
    messages.print(text, markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON document on standard output; what is not a number becomes null."""
    print(json.dumps(_finite(value), indent=2, default=str))


def progress_bar() -> Progress:
    """A bar with count, elapsed and remaining time, on standard error; silent where that is not a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        console=messages,
        disable=not messages.is_terminal,
    )


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
