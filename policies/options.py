"""Options of policies as text: `count=marginal,threshold=0.5`, typed by the defaults of what they configure."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import Any, TypeVar

Value = TypeVar("Value")
Option = bool | int | float | str


class UnknownNameError(ValueError):
    """A name that a table does not have.

    Attributes:
        known: the names that it has.
    """

    def __init__(self, message: str, known: Iterable[str]) -> None:
        super().__init__(message)
        self.known = tuple(known)


def look_up(table: Mapping[str, Value], what: str, name: str) -> Value:
    """What a table has under a name.

    Raises:
        UnknownNameError: nothing; suggests the nearest names, or lists all of them.
    """
    if name in table:
        return table[name]
    raise UnknownNameError(f"unknown {what} {name!r}; {suggest(name, table)}", table)


def suggest(name: str, known: Iterable[str]) -> str:
    """A hint at the names that were perhaps meant."""
    names = sorted(known)
    near = difflib.get_close_matches(name.lower(), names, n=2)
    return f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(names)}"


def need(package: str, extra: str) -> None:
    """See that a package which does not come with rlsched itself is there.

    Raises:
        ValueError: it is not; says how to get it.
    """
    if find_spec(package) is None:
        raise ValueError(f"needs the package {package}: pip install 'rlsched[{extra}]'")


def options_of(factory: Callable[..., object]) -> dict[str, Option]:
    """The keyword-only parameters of a function or class, and their defaults."""
    parameters = inspect.signature(factory).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def parse(text: str, defaults: Mapping[str, Option], owner: str) -> dict[str, Option]:
    """The options in `name=value,name=value`, each of the type of its default.

    Raises:
        ValueError: not of that form, an option that does not exist or is given twice, a value of another type.
    """
    options: dict[str, Option] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ValueError(f"policy {owner!r}: {part!r} is not of the form option=value")
        if name not in defaults:
            hint = suggest(name, defaults) if defaults else "it has none"
            raise ValueError(f"policy {owner!r} has no option {name!r}; {hint}")
        if name in options:
            raise ValueError(f"policy {owner!r}: option {name!r} is given twice")
        try:
            options[name] = _READERS[type(defaults[name])](value)
        except (ValueError, KeyError):
            kind = _KINDS[type(defaults[name])]
            raise ValueError(f"policy {owner!r}: {name} is {value!r}, expected {kind}") from None
    return options


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


_READERS: dict[type, Callable[[str], Any]] = {
    bool: {"true": True, "false": False}.__getitem__,
    int: int,
    float: _finite,
    str: str,
}
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
