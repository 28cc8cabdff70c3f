"""What can be tuned about the named policies, found by asking them: a new order or option takes part by itself.

Of an option only its default is declared. Its range is what the policy accepts around that: words are the names it
lists when it is asked for one that it does not have, numbers are tried out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from rlsched.policies.options import Option, UnknownNameError
from rlsched.policies.registry import load_policy, options, policy_names

if TYPE_CHECKING:
    from optuna.trial import Trial

_FACTOR = 4  # how far from its default a number is searched, up and down
_AROUND_ZERO = 2.0  # the same for one whose default is 0


@dataclass(frozen=True, slots=True)
class Choice:
    """An option that takes one of some values."""

    default: Option
    values: tuple[str | bool, ...]

    @property
    def others(self) -> tuple[Option, ...]:
        """All values but the default."""
        return tuple(value for value in self.values if value != self.default)

    def suggest(self, name: str, trial: Trial) -> Option:
        chosen = trial.suggest_categorical(name, self.values)
        assert isinstance(chosen, str | bool)
        return chosen


@dataclass(frozen=True, slots=True)
class Span:
    """An option that takes a number between two, on a logarithmic scale or an even one; three digits are enough."""

    default: float | int
    low: float
    high: float
    log: bool

    @property
    def others(self) -> tuple[Option, ...]:
        """Half-way from the default to either end."""
        middles = (
            math.sqrt(self.default * end) if self.log else (self.default + end) / 2 for end in (self.low, self.high)
        )
        rounded = (_rounded(middle, self.default) for middle in middles)
        return tuple(dict.fromkeys(middle for middle in rounded if middle != self.default))

    def suggest(self, name: str, trial: Trial) -> Option:
        drawn = trial.suggest_float(name, self.low, self.high, log=self.log)
        return self.default if drawn == self.default else _rounded(drawn, self.default)


Space = Mapping[str, Choice | Span]


def families() -> list[str]:
    """The policies that can be tuned: those with options, but for what decides by chance (they have a `seed`)."""
    return [name for name in policy_names() if "seed" not in options(name) and space_of(name)]


def space_of(name: str) -> Space:
    """The options of a named policy that can be searched, in the order in which it lists them."""
    found = {option: _searched(name, option, default) for option, default in options(name).items()}
    return {option: searched for option, searched in found.items() if searched is not None}


def first_looks(space: Space) -> list[dict[str, Option]]:
    """What to try first: every option as it comes, then one alone at another value, each in turn until all were."""
    defaults = {option: searched.default for option, searched in space.items()}
    rounds = zip_longest(*([{option: value} for value in searched.others] for option, searched in space.items()))
    return [defaults, *(defaults | change for changes in rounds for change in changes if change is not None)]


def spell(name: str, values: Mapping[str, Option]) -> str:
    """Name and options as `load_policy` reads them, without the options that are as they come."""
    defaults = options(name)
    given = {option: values.get(option, default) for option, default in defaults.items()}
    parts = [f"{option}={_text(value)}" for option, value in given.items() if value != defaults[option]]
    return f"{name}:{','.join(parts)}" if parts else name


def _searched(name: str, option: str, default: Option) -> Choice | Span | None:
    def accepts(value: float) -> bool:
        try:
            load_policy(f"{name}:{option}={_text(round(value) if isinstance(default, int) else value)}")
        except ValueError:
            return False
        return True

    if isinstance(default, bool):
        return Choice(default, (False, True))
    if isinstance(default, str):
        try:
            load_policy(f"{name}:{option}=?")
        except UnknownNameError as error:
            return Choice(default, error.known)
        return None  # any text will do: there is nothing to choose from
    if isinstance(default, int):
        return _wide(default, accepts)
    if accepts(0.0) and accepts(1.0) and not accepts(-0.01) and not accepts(1.01):
        return Span(default, 0.0, 1.0, log=False)
    return _wide(default, accepts)


def _wide(default: float | int, accepts: Callable[[float], bool]) -> Span:
    """From a quarter to four times the default; around a default of 0 or less from minus to plus 2, or twice it."""
    if default > 0:
        low, high, log = default / _FACTOR, default * _FACTOR, True
    else:
        width = 2 * abs(default) or _AROUND_ZERO
        low, high, log = -width, width, False
    return Span(default, _nearest(accepts, low, default), _nearest(accepts, high, default), log)


def _nearest(accepts: Callable[[float], bool], end: float, default: float | int) -> float:
    """The end of a range; or a number near the last one accepted on the way there, which is accepted rounded, too."""
    if accepts(_rounded(end, default)):
        return end
    refused, accepted = end, float(default)
    for _ in range(30):
        middle = (refused + accepted) / 2
        refused, accepted = (refused, middle) if accepts(middle) else (middle, accepted)
    rounded = _rounded(accepted, default)
    return rounded if accepts(rounded) else _rounded(accepted + (default - accepted) / 100, default)


def _rounded(value: float, default: float | int) -> float | int:
    """As many digits as make a difference: three, or two behind the point where numbers may be 0."""
    if isinstance(default, int):
        return round(value)
    return float(f"{value:.3g}") if default > 0 else round(value, 2)


def _text(value: Option) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.10g}" if isinstance(value, float) else str(value)
