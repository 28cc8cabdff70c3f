"""A YAML file as plain data that knows the line of everything in it, so that an error can name file, line and field.

Values follow the YAML 1.2 core schema, so `on`, `no`, `1:30` and `007` stay text and `1e-5` is a number, which YAML 1.1
would get wrong. Tags are refused, hence nothing in a file is ever executed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from pydantic import BaseModel, ValidationError, WrapValidator
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
_MOST_VALUES = 1_000_000  # aliases of aliases can make a short file describe more values than memory holds


class Spelled(float):
    """A number that prints the way it was written: `1e-5` and `0.10` are part of file names."""

    def __new__(cls, text: str) -> Spelled:
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str

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


def expected(what: str) -> WrapValidator:
    """Annotation of a pydantic field: whatever is wrong with the value, say that `what` was expected."""

    def validate(value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("expected", "{what}", {"what": what}) from None

    return WrapValidator(validate)


def nearest(name: object, names: Sequence[str]) -> str | None:
    """The name that was probably meant."""
    return next(iter(get_close_matches(str(name), names, n=1)), None)


def shown(value: object) -> str:
    """A value as an error message cites it, in YAML's spelling and not too long."""
    if value is None:
        return "nothing"
    if isinstance(value, bool | Spelled):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class Document:
    """One YAML file.

    Attributes:
        file: as it was given; errors cite it.
        data: mappings, lists and scalars. Numbers that are no integers are `Spelled`.

    Raises:
        error: the file cannot be read, is no YAML, has a tag, or a key twice. `error` is the caller's kind of ValueError.
    """

    def __init__(self, file: Path, error: type[ValueError]) -> None:
        self.file = file
        self._error = error
        self._count = 0
        self._root = self._compose()
        self.data = self._construct(self._root, (), frozenset())

    def fail(self, location: Location, message: str) -> NoReturn:
        """Raise the error for a place in the file: one sentence with file, line and field."""
        field = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in location).lstrip(".")
        self._fail_on(self.line(location), f"{field}: {message}" if field else message)

    def line(self, location: Location) -> int:
        """Line of a place in the file, or of the nearest thing around it that exists."""
        line, node = 1, self._root
        for key in location:
            if isinstance(node, yaml.MappingNode):
                inner = next(((k, v) for k, v in node.value if self._scalar(k) == key), None)
            else:
                items = node.value if isinstance(node, yaml.SequenceNode) and isinstance(key, int) else []
                inner = next(((item, item) for item in items[key:]), None) if items else None
            if inner is None:
                break
            line, node = inner[0].start_mark.line + 1, inner[1]
        return line

    def validate(
        self, model: type[_Model], data: object, locate: Callable[[Location], Location] = lambda location: location
    ) -> _Model:
        """Data as a pydantic model; `locate` maps a location in `data` to the one in the file if they differ.

        Raises:
            error: cites the first thing that is wrong.
        """
        try:
            return model.model_validate(data)
        except ValidationError as errors:
            first = errors.errors(include_url=False)[0]
        location = tuple(key for key in first["loc"] if key != "[key]")
        match first["type"]:
            case "expected":
                message = f"expected {first['msg']}, found {shown(first['input'])}"
            case "missing":
                message = "is missing"
            case "extra_forbidden":
                self.unknown_key(locate(location), keys_of(model, location))
            case _:
                message = f"{first['msg'].lower()}, found {shown(first['input'])}"
        self.fail(locate(location), message)

    def unknown_key(self, location: Location, known: Sequence[str]) -> NoReturn:
        """Raise the error for a key that means nothing here."""
        meant = nearest(location[-1], known)
        hint = f"did you mean {meant!r}?" if meant else f"expected one of {', '.join(known)}"
        self.fail(location, f"unknown key, {hint}")

    def _fail_on(self, line: int, message: str) -> NoReturn:
        raise self._error(f"{self.file}:{line}: {message}")

    def _compose(self) -> yaml.Node:
        try:
            content = self.file.read_bytes()
        except OSError as error:
            raise self._error(f"{self.file}: cannot be read: {error.strerror}") from None
        try:
            text = content.decode("utf-8-sig")
            # BaseLoader takes every scalar as text; what it means is up to _scalar.
            root = yaml.compose(text, Loader=yaml.BaseLoader)
        except UnicodeDecodeError as error:
            self._fail_on(content.count(b"\n", 0, error.start) + 1, "expected UTF-8 text")
        except yaml.reader.ReaderError as error:
            self._fail_on(text.count("\n", 0, error.position) + 1, "expected YAML, found a control character")
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self._fail_on(mark.line + 1 if mark else 1, f"expected YAML, but {error.problem}")
        except RecursionError:
            self._fail_on(1, "expected YAML, found too deep a nesting")
        if root is None:
            self._fail_on(1, "expected a mapping, found an empty file")
        return root

    def _construct(self, node: yaml.Node, location: Location, around: frozenset[int]) -> Any:
        line = node.start_mark.line + 1
        self._count += 1
        if id(node) in around or self._count > _MOST_VALUES:
            self._fail_on(line, "expected plain values, found aliases that never end")
        around |= {id(node)}
        if isinstance(node, yaml.SequenceNode) and node.tag in _PLAIN_TAGS:
            return [self._construct(item, (*location, i), around) for i, item in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode) or node.tag not in _PLAIN_TAGS:
            return self._scalar(node)
        mapping: dict[Scalar | None, Any] = {}
        for key_node, value_node in node.value:
            key = self._scalar(key_node)
            if key in mapping:
                self._fail_on(key_node.start_mark.line + 1, f"expected every key once, found {shown(key)} again")
            mapping[key] = self._construct(value_node, (*location, str(key)), around)
        return mapping

    def _scalar(self, node: yaml.Node) -> Scalar | None:
        if node.tag not in _PLAIN_TAGS:
            self._fail_on(node.start_mark.line + 1, f"expected plain YAML, found the tag {node.tag!r}")
        if not isinstance(node, yaml.ScalarNode):
            self._fail_on(node.start_mark.line + 1, "expected a plain key, found a list or a mapping")
        return read_scalar(node.value) if node.style is None else node.value


def keys_of(model: type[BaseModel], location: Location) -> list[str]:
    """Fields of the model, or of the model inside it, that `location` lies directly in."""
    raise NotImplementedError
