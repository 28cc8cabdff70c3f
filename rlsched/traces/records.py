"""The files of traces: tables, lists of numbers and JSON, whose errors name file, line and field."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from rlsched.document import first_fault, sentence
from rlsched.textfile import reading
from rlsched.traces.trace import TraceError

_Data = TypeVar("_Data")


@dataclass(frozen=True, slots=True)
class Record:
    """One line of a table, by field."""

    file: Path
    line: int
    fields: Mapping[str, str]

    def __getitem__(self, field: str) -> str:
        return self.fields[field]

    def number(self, field: str, least: float = -math.inf) -> float:
        """A field as a finite number.

        Raises:
            TraceError: it is none, or less than `least`.
        """
        try:
            number = float(self.fields[field])
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number >= least):
            wanted = "a number" if least == -math.inf else f"a number of {least:g} or more"
            self.fail(field, f"expected {wanted}, found {self.fields[field]!r}")
        return number

    def count(self, field: str, least: int = 0) -> int:
        """A field as a whole number, which may be written as 3.0.

        Raises:
            TraceError: it is none, or less than `least`.
        """
        number = self.number(field, least)
        if number != int(number):
            self.fail(field, f"expected a whole number, found {self.fields[field]!r}")
        return int(number)

    def fail(self, field: str, message: str) -> NoReturn:
        """Raise the error for a field of this line."""
        raise TraceError(f"{self.file}:{self.line}: {sentence((field,), message)}")


def read_csv(file: Path, columns: Sequence[str]) -> Iterator[Record]:
    """The rows of a table whose first line names the columns, these and maybe others.

    Raises:
        TraceError: a column is missing, or a row has another number of fields.
    """
    with reading(file, TraceError) as text:
        rows = csv.reader(text)
        names = next(rows, [])
        if missing := [column for column in columns if column not in names]:
            raise TraceError(f"{file}:1: expected the columns {', '.join(columns)}, found no {missing[0]!r}")
        for row in rows:
            if len(row) != len(names):
                raise TraceError(f"{file}:{rows.line_num}: expected {len(names)} fields, found {len(row)}")
            yield Record(file, rows.line_num, dict(zip(names, row, strict=True)))


def read_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Number and text of every line that is not blank."""
    with reading(file, TraceError) as text:
        for number, line in enumerate(text, 1):
            if stripped := line.strip():
                yield number, stripped


class Foreign(BaseModel):
    """A mapping in somebody else's JSON file, of which these fields matter."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


def read_json(file: Path, kind: type[_Data]) -> _Data:
    """A JSON file as data of a kind.

    Raises:
        TraceError: it is no JSON, or the first thing in it that is not as expected.
    """
    with reading(file, TraceError) as text:
        content = text.read()
    try:
        data: Any = json.loads(content)
    except json.JSONDecodeError as error:
        raise TraceError(f"{file}:{error.lineno}: expected JSON: {error.msg}") from None
    try:
        return TypeAdapter(kind).validate_python(data)
    except ValidationError as errors:
        raise TraceError(f"{file}: {sentence(*first_fault(errors))}") from None


def files_in(path: Path, pattern: str) -> list[Path]:
    """The file itself, or those in a folder whose names match, in order of their names.

    Raises:
        TraceError: it is a folder without such files.
    """
    if not path.is_dir():
        return [path]
    if not (found := sorted(path.glob(pattern))):
        raise TraceError(f"{path}: expected files {pattern} in the folder, found none")
    return found
