"""Variables and matrices: from the tasks as written to the tasks that run."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from rlsched.document import Document, Location, Scalar, as_text, did_you_mean
from rlsched.workflow.schema import Outline
from rlsched.workflow.workflow import ARRAY_INDEX

# $${ stands for the shell's own ${; a $ without a brace is the shell's anyway.
_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)\}")


@dataclass(frozen=True)
class Expanded:
    """One task of the workflow, its variables filled in, not yet validated.

    Attributes:
        origin: name of the task in the file; several tasks share it if it has a matrix.
        data: the task's fields, defaults included.
    """

    origin: str
    data: dict[str, Any]


class Expansion:
    """The file's content with every variable filled in.

    Attributes:
        tasks: by their full names, such as train[lr=0.1].
        combinations: for each task in the file, the full names of the tasks it stands for.
        top: the fields beside `tasks`, `vars` and `defaults`.

    Raises:
        the document's error: a malformed outline, an undefined variable, a matrix value given twice.
    """

    def __init__(self, document: Document) -> None:
        self._document = document
        document.validate(Outline, document.data)
        data: dict[str, Any] = document.data
        self._raw: dict[str, dict[str, Any]] = data.get("tasks", {})
        self._defaults: dict[str, Any] = data.get("defaults", {})
        self._variables: dict[str, Scalar] = {"python": sys.executable}
        for name, value in data.get("vars", {}).items():
            self._variables[name] = self._fill(value, ("vars", name), self._variables)
        self.top = {
            key: self._fill(value, (key,), self._variables)
            for key, value in data.items()
            if key not in Outline.model_fields
        }
        self.tasks: dict[str, Expanded] = {}
        self.combinations: dict[str, list[str]] = {origin: [] for origin in self._raw}
        for origin in self._raw:
            self._expand(origin)

    def locate(self, location: Location) -> Location:
        """Where in the file a field of an expanded task comes from."""
        if location[:1] != ("tasks",) or len(location) == 1 or location[1] not in self.tasks:
            return location
        origin, rest = self.tasks[str(location[1])].origin, location[2:]
        if rest and rest[0] not in self._raw[origin] and rest[0] in self._defaults:
            return ("defaults", *rest)
        return ("tasks", origin, *rest)

    def _expand(self, origin: str) -> None:
        raw = self._raw[origin]
        fields = {**self._defaults, **{key: value for key, value in raw.items() if key != "matrix"}}
        if isinstance(fields.get("env"), dict) and isinstance(self._defaults.get("env"), dict):
            fields["env"] = {**self._defaults["env"], **fields["env"]}
        matrix = {
            key: [
                self._fill(value, ("tasks", origin, "matrix", key, i), self._variables)
                for i, value in enumerate(values)
            ]
            for key, values in raw.get("matrix", {}).items()
        }
        for combination in product(*matrix.values()):
            chosen = dict(zip(matrix, combination, strict=True))
            label = ",".join(f"{key}={as_text(value)}" for key, value in chosen.items())
            name = f"{origin}[{label}]" if label else origin
            if name in self.tasks:
                self._document.fail(("tasks", origin, "matrix"), f"expected different values, found {label!r} twice")
            scope = {**self._variables, **{f"matrix.{key}": value for key, value in chosen.items()}}
            if "array" in fields:
                scope["array.index"] = ARRAY_INDEX  # known only when a member starts
            expanded = self.tasks[name] = Expanded(origin, {})
            self.combinations[origin].append(name)
            for key, value in fields.items():
                expanded.data[key] = self._fill(value, ("tasks", name, key), scope)

    def _fill(self, value: Any, location: Location, scope: Mapping[str, Scalar]) -> Any:
        """The value with the references in its texts replaced; one that is a reference and no more keeps its type."""
        if isinstance(value, dict):
            return {key: self._fill(inner, (*location, key), scope) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._fill(inner, (*location, i), scope) for i, inner in enumerate(value)]
        if not isinstance(value, str):
            return value
        whole = _REFERENCE.fullmatch(value)
        if whole and whole[1] is not None:
            return self._look_up(whole[1], location, scope)
        return _REFERENCE.sub(
            lambda match: "${" if match[1] is None else as_text(self._look_up(match[1], location, scope)), value
        )

    def _look_up(self, name: str, location: Location, scope: Mapping[str, Scalar]) -> Scalar:
        if name in scope:
            return scope[name]
        if name.startswith("env."):
            if (text := os.environ.get(name.removeprefix("env."))) is not None:
                return text
            hint = "expected it in the environment"
        else:
            hint = did_you_mean(name, scope)
            if not hint.endswith("?"):
                hint += f", or $${{{name}}} for the shell's own"
        self._document.fail(self.locate(location), f"undefined variable ${{{name}}}, {hint}")
