"""A YAML file as plain data that knows the line of everything in it, so that an error can name file, line and field.

Scalars follow the YAML 1.2 core schema: `on`, `no`, `1:30` and `007` stay text and `1e-5` is a number, all of which
YAML 1.1 reads otherwise. Tags are refused, hence nothing in a file is ever executed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

Location = tuple[str | int, ...]
Scalar = str | int | float | bool
_Model = TypeVar("_Model", bound=BaseModel)

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")
_DECIMAL = re.compile(r"-?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|-?[0-9]+[eE][-+]?[0-9]+")
_WORDS: Mapping[str, bool | None] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
}
_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map")}
_MOST_ALIASED = 20_000  # lists and mappings; aliases of aliases let a short file describe more than memory holds


class Spelled(float):
    """A number that prints the way it was written: `1e-5` and `0.10` are parts of file names."""

    text: str

    def __new__(cls, text: str) -> Spelled:
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __str__(self) -> str:
        return self.text


def read_scalar(text: str) -> Scalar | None:
    """What an unquoted YAML scalar means."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text) and math.isfinite(float(text)):
        return Spelled(text)
    return text


def as_text(value: object) -> str:
    """A scalar in YAML's spelling."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def did_you_mean(name: object, names: Iterable[str]) -> str:
    """The end of an error message about a name that is not one of `names`."""
    known = list(names)
    meant = get_close_matches(str(name), known, n=1)
    return f"did you mean {meant[0]!r}?" if meant else f"expected one of {', '.join(known)}"


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    text = as_text(value) if isinstance(value, bool | Spelled) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def expected(what: str) -> WrapValidator:
    """Annotation of a pydantic field: whatever is wrong with its value, say that `what` was expected."""

    def validate(value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("expected", "expected {what}", {"what": what}) from None

    return WrapValidator(validate)


def first_fault(errors: ValidationError) -> tuple[Location, str]:
    """Where the first thing is that is wrong with the data, and what was expected there."""
    first = errors.errors(include_url=False)[0]
    location = tuple(key for key in first["loc"] if key != "[key]")
    match first["type"]:
        case "unknown_key":
            return (*location, first["ctx"]["key"]), first["msg"]
        case "missing":
            return location, "is missing"
        case "dict_type" | "model_type":
            return location, f"expected a mapping, found {_shown(first['input'])}"
        case "too_short":
            return location, f"expected at least one, found {_shown(first['input'])}"
        case _:
            return location, f"{first['msg']}, found {_shown(first['input'])}"


def sentence(location: Location, message: str) -> str:
    """An error message with the field in front, on one line."""
    field = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in location).removeprefix(".")
    return " ".join((f"{field}: {message}" if field else message).splitlines())


class Strict(BaseModel):
    """A mapping in a file: unknown keys are errors, and the docstrings of the fields are their descriptions."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _know_every_key(cls, data: Any) -> Any:
        return know_every_key(cls, data)


def know_every_key(model: type[BaseModel], data: Any) -> Any:
    """The data unchanged, if it has no keys but the fields of the model."""
    for key in data if isinstance(data, dict) else ():
        if key not in model.model_fields:
            hint = did_you_mean(key, model.model_fields)
            raise PydanticCustomError("unknown_key", "unknown key, {hint}", {"key": key, "hint": hint})
    return data


class Document:
    """One YAML file.

    Attributes:
        file: as it was given; errors cite it.
        data: mappings, lists and scalars. Numbers that are no integers are `Spelled`.

    Raises:
        error: the file cannot be read, is no YAML, or has a tag or a key twice. `error` is the caller's ValueError.
    """

    def __init__(self, file: Path, error: type[ValueError]) -> None:
        self.file = file
        self._error = error
        self._aliased = 0
        # for each list and mapping, by index or key: the node whose line counts, and the node of the value
        self._inside: dict[int, dict[Scalar | None, tuple[yaml.Node, yaml.Node]]] = {}
        self._root = self._compose()
        self.data: Any = self._construct(self._root, (), frozenset())

    def fail(self, location: Location, message: str) -> NoReturn:
        """Raise the error for a place in the file: one sentence with file, line and field."""
        self._fail(self.line(location), location, message)

    def line(self, location: Location) -> int:
        """Line of a place in the file, or of the nearest thing around it that is there."""
        line, node = 1, self._root
        for key in location:
            if key not in (inside := self._inside.get(id(node), {})):
                break
            mark, node = inside[key]
            line = mark.start_mark.line + 1
        return line

    def validate(
        self, model: type[_Model], data: object, locate: Callable[[Location], Location] = lambda location: location
    ) -> _Model:
        """Data as a pydantic model; `locate` maps a location in `data` to the one in the file.

        Raises:
            error: cites the first thing that is wrong.
        """
        try:
            return model.model_validate(data)
        except ValidationError as errors:
            location, message = first_fault(errors)
        self.fail(locate(location), message)

    def _fail(self, line: int, location: Location, message: str) -> NoReturn:
        raise self._error(f"{self.file}:{line}: {sentence(location, message)}")

    def _compose(self) -> yaml.Node:
        try:
            content = self.file.read_bytes()
        except OSError as error:
            raise self._error(f"{self.file}: cannot be read: {error.strerror}") from None
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            self._fail(content.count(b"\n", 0, error.start) + 1, (), "expected text in UTF-8")
        try:
            # BaseLoader knows no tags and takes every scalar as text; what the text means is up to read_scalar.
            root = yaml.compose(text, Loader=yaml.BaseLoader)
        except yaml.reader.ReaderError as error:
            self._fail(text.count("\n", 0, error.position) + 1, (), "expected YAML, found a control character")
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self._fail(mark.line + 1 if mark else 1, (), f"expected YAML: {error.problem}")
        except RecursionError:
            self._fail(1, (), "expected YAML, found lists or mappings nested too deeply")
        if root is None:
            self._fail(1, (), "expected a mapping, found an empty file")
        return root

    def _construct(self, node: yaml.Node, location: Location, around: frozenset[int]) -> Any:
        self._aliased += id(node) in self._inside
        if id(node) in around or self._aliased > _MOST_ALIASED:
            self._fail(node.start_mark.line + 1, location, "expected a finite value, found aliases of aliases")
        around |= {id(node)}
        if node.tag not in _PLAIN_TAGS:
            self._fail(node.start_mark.line + 1, location, f"expected plain YAML, found the tag {node.tag!r}")
        if isinstance(node, yaml.SequenceNode):
            self._inside[id(node)] = {i: (item, item) for i, item in enumerate(node.value)}
            return [self._construct(item, (*location, i), around) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            inside = self._inside[id(node)] = self._keys(node, location)
            return {key: self._construct(value, (*location, str(key)), around) for key, (_, value) in inside.items()}
        assert isinstance(node, yaml.ScalarNode)
        return _meaning(node)

    def _keys(self, node: yaml.MappingNode, location: Location) -> dict[Scalar | None, tuple[yaml.Node, yaml.Node]]:
        keys: dict[Scalar | None, tuple[yaml.Node, yaml.Node]] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag not in _PLAIN_TAGS:
                self._fail(line, location, "expected a text or a number as key")
            if (key := _meaning(key_node)) in keys:
                self._fail(line, location, f"expected every key once, found {key!r} again")
            keys[key] = key_node, value_node
        return keys


def _meaning(node: yaml.ScalarNode) -> Scalar | None:
    return read_scalar(node.value) if node.style is None else str(node.value)
