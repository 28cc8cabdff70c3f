"""What `auto` says of its choice."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rlsched.cli.output import remark
from rlsched.policies.auto import AutoPolicy, Choice
from rlsched.report.units import label, show
from rlsched.scheduler import Policy


def listen(policy: Policy) -> None:
    """Have `auto` tell on standard error what it takes, and why: a line for each policy that it has rehearsed."""
    if isinstance(policy, AutoPolicy):
        policy.observe = _tell


def choice_of(policy: Policy) -> dict[str, Any]:
    """What `auto` took and why, under that key, for JSON; nothing for other policies."""
    if not isinstance(policy, AutoPolicy) or policy.choice is None:
        return {}
    return {"auto": asdict(policy.choice)}


def _tell(choice: Choice) -> None:
    remark(f"auto takes {choice.policy}; {label(choice.objective)} in rehearsals of {choice.of}:")
    for forecast in choice.forecasts:
        value = forecast.reason if forecast.value is None else show(choice.objective, forecast.value)
        remark(f"  {forecast.policy}: {value}")
