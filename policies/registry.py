"""Policies by name, or from the file of a trained one. Nothing is imported before it is asked for."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from functools import partial, update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlsched.policies.greedy import GreedyPolicy
from rlsched.policies.options import options_of, parse, suggest
from rlsched.policies.orders import ORDERS, Order

if TYPE_CHECKING:
    from rlsched.scheduler import Policy

_OTHERS = {
    "gavel-fifo": "rlsched.policies.gavel:FirstComeFirstServed",
    "gavel-ftf": "rlsched.policies.gavel:FinishTimeFairness",
    "gavel-makespan": "rlsched.policies.gavel:Makespan",
    "gavel-max-min": "rlsched.policies.gavel:MaxMinFairness",
    "gavel-sjf": "rlsched.policies.gavel:ShortestFirst",
    "gavel-throughput": "rlsched.policies.gavel:TotalThroughput",
    "lp": "rlsched.policies.lp:LinearProgramPolicy",
    "lp-horizon": "rlsched.policies.horizon:HorizonPolicy",
    "random": "rlsched.policies.uniform:UniformPolicy",
}


def policy_names() -> list[str]:
    """Every name that `load_policy` knows; each order is a greedy policy."""
    return [*ORDERS, *_OTHERS]


def describe() -> dict[str, str]:
    """For each name one sentence, and the options it has beyond those of all greedy policies."""
    return {name: _sentence(_own(name)) for name in policy_names()}


def load_policy(name_or_path: str | Path, seed: int = 0) -> Policy:
    """A new policy, with a memory of its own: load one for each run.

    Args:
        name_or_path: a name (`srpt`), a name with options (`srpt:count=marginal,threshold=0.5,blocking=false`), or
            the .safetensors file of a trained policy or the folder that holds one.
        seed: of its randomness, for policies that have some.

    Raises:
        ValueError: no such policy or option, a value that an option cannot have, or a file that is not a policy.
    """
    text = str(name_or_path)
    name, _, options = text.partition(":")
    if name in ORDERS or name in _OTHERS:
        return _build(name, options, seed)
    path = Path(text)
    if path.suffix == ".safetensors" or len(path.parts) > 1 or path.is_dir():
        from rlsched.policies.learned import load_learned

        return load_learned(path, seed=seed)
    raise ValueError(f"unknown policy {name!r}; {suggest(name, policy_names())} (or the path of a trained policy)")


def _build(name: str, text: str, seed: int) -> Policy:
    own = _own(name)
    mine, common = options_of(own), options_of(GreedyPolicy) if name in ORDERS else {}
    given: dict[str, Any] = parse(text, common | mine, name)
    if "seed" in mine:
        given = {"seed": seed} | given
    build = update_wrapper(partial(own, **{option: value for option, value in given.items() if option in mine}), own)
    try:
        if name not in ORDERS:
            policy: Policy = build()
            return policy
        order: Order = build() if inspect.isclass(own) else build
        return GreedyPolicy(order, **{option: value for option, value in given.items() if option in common})
    except ValueError as error:
        raise ValueError(f"policy {name!r}: {error}") from None


def _own(name: str) -> Callable[..., Any]:
    """The order or the class behind a name."""
    if name in ORDERS:
        return ORDERS[name]
    module, _, attribute = _OTHERS[name].partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found


def _sentence(documented: Callable[..., object]) -> str:
    first = (inspect.getdoc(documented) or "").partition("\n")[0]
    options = ", ".join(f"{option}={value}" for option, value in options_of(documented).items())
    return f"{first} Options: {options}." if options else first
