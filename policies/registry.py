"""Policies by name, or from the file of a trained one. Nothing is imported before it is asked for."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from functools import partial, update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlsched.policies import advantage, attained, troublesome  # noqa: F401 - they register orders
from rlsched.policies.greedy import GreedyPolicy
from rlsched.policies.options import Option, options_of, parse, suggest
from rlsched.policies.orders import ORDERS, Order
from rlsched.policies.shipped import policy_file

if TYPE_CHECKING:
    from rlsched.scheduler import Policy

_OTHERS = {
    "auto": "rlsched.policies.auto:AutoPolicy",
    "cp-sat": "rlsched.policies.exact:ExactPolicy",
    "ga": "rlsched.policies.genetic:GeneticPolicy",
    "gavel-fifo": "rlsched.policies.gavel:FirstComeFirstServed",
    "gavel-ftf": "rlsched.policies.gavel:FinishTimeFairness",
    "gavel-makespan": "rlsched.policies.gavel:Makespan",
    "gavel-max-min": "rlsched.policies.gavel:MaxMinFairness",
    "gavel-sjf": "rlsched.policies.gavel:ShortestFirst",
    "gavel-throughput": "rlsched.policies.gavel:TotalThroughput",
    "lp": "rlsched.policies.lp:LinearProgramPolicy",
    "lp-horizon": "rlsched.policies.horizon:HorizonPolicy",
    "random": "rlsched.policies.uniform:UniformPolicy",
    "switch": "rlsched.policies.switching:SwitchingPolicy",
}


def policy_names() -> list[str]:
    """Every name that `load_policy` knows; each order is a greedy policy."""
    return [*ORDERS, *_OTHERS]


def describe() -> dict[str, str]:
    """For each name one sentence, and the options it has beyond those of all greedy policies."""
    return {name: _sentence(_own(name)) for name in policy_names()}


def options(name: str) -> dict[str, Option]:
    """Every option that a named policy has, those of all greedy policies among them, and its default."""
    own = _own(name)
    return (_common(own) if name in ORDERS else {}) | options_of(own)


def is_heuristic(name: str) -> bool:
    """Whether it names a policy that is code, with options or without, and not a file."""
    own = name.partition(":")[0]
    return own in ORDERS or own in _OTHERS


def load_policy(name_or_path: str | Path, seed: int = 0) -> Policy:
    """A new policy, with a memory of its own: load one for each run.

    Args:
        name_or_path: a name (`srpt`), a name with options (`srpt:count=marginal,threshold=0.5,blocking=none`), or
            the .safetensors file of a trained policy or the folder that holds one, or the YAML file of a tuned one.
            `pretrained/NAME` is one that comes with rlsched. Trained ones have options too: `runs/x:temperature=0.5`.
        seed: of its randomness, for policies that have some.

    Raises:
        ValueError: no such policy or option, a value that an option cannot have, or a file that is not a policy.
    """
    text = str(name_or_path)
    name, _, options = text.partition(":")
    if is_heuristic(text):
        return _build(name, options, seed)
    path = policy_file(text if Path(text).exists() else name)
    if path.suffix in (".yaml", ".yml"):
        from rlsched.policies.tuned import read_tuned

        tuned = read_tuned(path)
        if tuned.weights is None:
            return load_policy(tuned.policy, seed)
        from rlsched.envs.encoding import OBJECTIVES
        from rlsched.policies.linear import LinearPolicy

        return LinearPolicy(tuned.weights, tuned.objective or OBJECTIVES[0])
    if path.suffix == ".safetensors" or len(path.parts) > 1 or path.is_dir():
        from rlsched.policies.learned import load_learned

        given: dict[str, Any] = {"seed": seed} | parse(options, options_of(load_learned), str(path))
        return load_learned(path, **given)
    raise ValueError(f"unknown policy {name!r}; {suggest(name, policy_names())} (or the path of a trained policy)")


def _build(name: str, text: str, seed: int) -> Policy:
    own = _own(name)
    mine, common = options_of(own), _common(own) if name in ORDERS else {}
    given: dict[str, Any] = parse(text, common | mine, name)
    if "seed" in mine:
        given = {"seed": seed} | given
    build = update_wrapper(partial(own, **{option: value for option, value in given.items() if option in mine}), own)
    try:
        if name not in ORDERS:
            policy: Policy = build()
            return policy
        order: Order = build() if inspect.isclass(own) else build
        return GreedyPolicy(order, **{option: given.get(option, default) for option, default in common.items()})
    except ValueError as error:
        error.args = (f"policy {name!r}: {error}",)
        raise


def _common(own: Callable[..., Any]) -> dict[str, Option]:
    """The options of all greedy policies, with the defaults that an order sees fit."""
    family: dict[str, Option] = own.family  # type: ignore[attr-defined]
    return options_of(GreedyPolicy) | family


def _own(name: str) -> Callable[..., Any]:
    """The order or the class behind a name."""
    if name in ORDERS:
        return ORDERS[name]
    module, _, attribute = _OTHERS[name].partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found


def _sentence(documented: Callable[..., object]) -> str:
    own = options_of(documented) | getattr(documented, "family", {})
    first = (inspect.getdoc(documented) or "").partition("\n")[0]
    options = ", ".join(f"{option}={value}" for option, value in own.items())
    return f"{first} Options: {options}." if options else first
