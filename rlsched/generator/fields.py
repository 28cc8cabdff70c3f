"""Types of the fields of a scenario file; each says what it expects when it is given something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WrapValidator
from pydantic_core import PydanticCustomError

from rlsched.document import expected


def some(container: type, what: str) -> WrapValidator:
    """Annotation of a field for a list or a mapping with at least one entry; errors in the entries are their own."""

    def validate(value: Any, handler: Callable[[Any], Any]) -> Any:
        if not value or not isinstance(value, container):
            raise PydanticCustomError("expected", "expected {what}", {"what": what})
        return handler(value)

    return WrapValidator(validate)


Count = Annotated[int, Field(strict=True, ge=0), expected("a count of 0 or more")]
Positive = Annotated[int, Field(strict=True, ge=1), expected("a count of 1 or more")]
Number = Annotated[float, Field(strict=True), expected("a number")]
NotNegative = Annotated[float, Field(strict=True, ge=0), expected("a number of 0 or more")]
AboveZero = Annotated[float, Field(strict=True, gt=0), expected("a number above 0")]
Probability = Annotated[float, Field(strict=True, ge=0, le=1), expected("a number from 0 to 1")]
Flag = Annotated[bool, Field(strict=True), expected("true or false")]
Text = Annotated[str, Field(strict=True, min_length=1), expected("a text")]
Name = Annotated[
    str,
    Field(strict=True, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"),
    expected("a name of letters, digits, '_', '-' and '.'"),
]
Resources = dict[Name, Count]
"""Amounts of named custom resources."""


def _one_or_several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Names = Annotated[
    tuple[Name, ...],
    BeforeValidator(_one_or_several, json_schema_input_type=Name | tuple[Name, ...]),
    expected("a name or a list of names"),
]


def _twice(value: Any) -> Any:
    return (value, value) if isinstance(value, int) else value


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError
    return pair


_Whole = Annotated[int, Field(strict=True, ge=1)]
_Real = Annotated[float, Field(strict=True, gt=0)]

Counts = Annotated[
    tuple[_Whole, _Whole],
    AfterValidator(_ordered),
    BeforeValidator(_twice, json_schema_input_type=_Whole | tuple[_Whole, _Whole]),
    expected("a count of 1 or more, or [least, most]"),
]
"""A count, or the least and the most of a uniform draw."""

_Part = Annotated[float, Field(strict=True, ge=0, le=1)]

Parts = Annotated[tuple[_Part, _Part], AfterValidator(_ordered), expected("[least, most], both from 0 to 1")]
"""The ends of a continuous draw of a part."""

Range = Annotated[tuple[_Real, _Real], AfterValidator(_ordered), expected("[least, most], both above 0")]
"""The ends of a continuous draw."""
