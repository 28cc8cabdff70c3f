"""What may stand in a workflow file: the pydantic models, and the JSON Schema for editors that follows from them.

python -m rlsched.workflow > rlsched/schemas/workflow.schema.json
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    JsonValue,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from rlsched.document import Strict, as_text, expected, first_fault, know_every_key, read_scalar

_TASK_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"
_REFERENCE = r"^\$\{[^}]+\}$"
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_GIB = {"KB": 1e3 / 2**30, "MB": 1e6 / 2**30, "GB": 1e9 / 2**30, "TB": 1e12 / 2**30}
_GIB |= {"KiB": 2.0**-20, "MiB": 2.0**-10, "GiB": 1.0, "TiB": 2.0**10}


def _in(units: Mapping[str, float]) -> tuple[BeforeValidator, WithJsonSchema]:
    """Annotations of a number that may also be a text with a unit."""
    pattern = rf"([0-9]+(\.[0-9]+)?) ?({'|'.join(units)})"

    def convert(value: Any) -> Any:
        match = re.fullmatch(pattern, value) if isinstance(value, str) else None
        return float(match[1]) * units[match[3]] if match else _read(value)

    text = {"type": "string", "pattern": rf"^{pattern}$|{_REFERENCE}"}
    return BeforeValidator(convert), WithJsonSchema({"anyOf": [{"type": "number"}, text]})


def _read(value: Any) -> Any:
    """A number or flag that came as text, as every ${env.NAME} does."""
    return read_scalar(value) if isinstance(value, str) else value


def _write(value: Any) -> Any:
    """A text that looks like a number, as a version or a GPU type may."""
    return as_text(value) if isinstance(value, int | float) else value


def _keys_of(model: type[Strict]) -> BeforeValidator:
    return BeforeValidator(partial(know_every_key, model))


_Scalar = StrictStr | StrictInt | StrictFloat | StrictBool
_Value = Annotated[str, BeforeValidator(_write), Field(strict=True), WithJsonSchema(TypeAdapter(_Scalar).json_schema())]
_Text = Annotated[_Value, Field(min_length=1)]
_Number = Annotated[float, Field(strict=True), BeforeValidator(_read)]
_Above = Annotated[float, Field(strict=True, gt=0), BeforeValidator(_read)]
_Flag = Annotated[bool, Field(strict=True), BeforeValidator(_read)]
_Count = Annotated[int, Field(strict=True, ge=0), BeforeValidator(_read)]
_Members = Annotated[int, Field(strict=True, ge=1), BeforeValidator(_read)]
_Time = Annotated[float, Field(strict=True, ge=0), *_in(_SECONDS)]
_Duration = Annotated[float, Field(strict=True, gt=0), *_in(_SECONDS)]
_Memory = Annotated[float, Field(strict=True, ge=0), *_in(_GIB)]
_Name = Annotated[str, Field(strict=True, pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$"), expected("a name like a_b-1")]

_Counts = Annotated[_Count | Annotated[list[_Count], Field(min_length=1)], expected("a count or a list of counts")]
_Texts = Annotated[_Text | list[_Text], expected("a text or a list of texts")]
_Names = Annotated[_Text | Annotated[list[_Text], Field(min_length=1)], expected("a name or a list of names")]
_Seconds = Annotated[_Duration, expected("seconds above 0 or a text such as '90s', '10m', '2h'")]
_Gibibytes = Annotated[_Memory, expected("GiB or a text such as '16GB', '512MiB'")]
_Module = Annotated[str, Field(strict=True, pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")]
_Vars = dict[_Name, Annotated[_Scalar, expected("a text, a number, true or false")]]
_Matrix = dict[_Name, Annotated[list[_Scalar], Field(min_length=1), expected("a list of texts or numbers")]]


class ModeHint(Strict):
    """One way to run a task."""

    gpus: _Count
    gpu_type: _Text | None = None
    duration: _Duration


class RetryBudgets(Strict):
    """Attempts beyond the first for each cause of failure."""

    exit: _Count = 0
    """After a non-zero exit code, or a missing output."""
    signal: _Count = 0
    """After it was killed by a signal."""
    oom: _Count = 0
    """After it ran out of memory, the host's or a GPU's."""
    timeout: _Count = 0
    """After it exceeded its timeout."""


class Defaults(Strict):
    """Fields that the top-level `defaults` may set for every task; a task's own value comes first."""

    gpus: _Counts = 0
    """GPUs to run on; a list lets the scheduler choose."""
    gpu_type: Annotated[_Names | None, expected("a name or a list of names")] = None
    """GPU type or types to run on; left out: any."""
    gpu_memory: _Gibibytes = 0.0
    """Memory that every GPU must have: GiB, or a text such as '8GB'."""
    cpus: Annotated[_Count, expected("a count")] = 1
    """CPU cores on each node."""
    memory: _Gibibytes = 0.0
    """Main memory on each node: GiB, or a text such as '16GB'."""
    resources: dict[_Name, Annotated[_Count, expected("a count")]] = Field(default={})
    """Named custom resources on each node, as the cluster file names them."""
    duration: Annotated[
        _Duration | dict[_Count, _Duration] | Annotated[list[ModeHint], Field(min_length=1)],
        expected(
            "seconds above 0, a text such as '10m', a mapping from counts, or a list of {gpus, gpu_type, duration}"
        ),
    ] = 60.0
    """Estimate for the scheduler: of the smallest GPU count, per count, or a list of modes."""
    retries: Annotated[
        _Count | RetryBudgets, expected("a count, or counts by cause such as {exit: 1, signal: 2, oom: 0, timeout: 1}")
    ] = 0
    """Attempts beyond the first after a failure: whatever its cause, or for each cause."""
    timeout: _Seconds | None = None
    """Time after which an attempt is stopped and counts as failed."""
    preemptible: Annotated[_Flag, expected("true or false")] = False
    """The task writes a checkpoint when it is asked to stop, and may be stopped and resumed."""
    preempt_signal: Annotated[
        Literal["SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "none"],
        expected("SIGTERM, SIGINT, SIGUSR1, SIGUSR2 or none"),
    ] = "SIGTERM"
    """The signal that asks a preemptible task to stop; none: only the file RLSCHED_PREEMPT_FILE does."""
    grace: _Seconds | None = None
    """Time from when it is asked to stop until it is made to; by default 10 seconds."""
    checkpoint_time: Annotated[_Time, expected("seconds or a text such as '90s', '10m', '2h'")] = 0.0
    """Estimated time that it takes to write its checkpoint, and to read it again."""
    preload: Annotated[list[_Module] | None, expected("a list of module names")] = None
    """Modules to have imported before a Python function's process starts; by default torch if its module imports it."""
    priority: Annotated[_Number, expected("a number")] = 0.0
    """Larger is more urgent."""
    env: dict[_Name, Annotated[_Value, expected("a text or a number")]] = Field(default={})
    """Environment variables; merged with those of `defaults`."""


class TaskSpec(Defaults):
    """A task: what to run, what it reads and writes, what it takes."""

    run: Annotated[_Text | None, expected("a shell command")] = None
    """Shell command, run in the folder of the workflow file."""
    python: Annotated[
        Annotated[str, Field(strict=True, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] | None,
        expected("package.module:function"),
    ] = None
    """Function to call, as package.module:function."""
    args: Annotated[dict[str, JsonValue], expected("a mapping of keyword arguments")] = Field(default={})
    """Keyword arguments of the `python` function."""
    matrix: _Matrix = Field(default={})
    """Lists of values: one task for every combination, with ${matrix.KEY} in its texts."""
    array: Annotated[_Members, expected("a count of 1 or more")] = 1
    """Number of identical members, with ${array.index} in their texts."""
    needs: _Texts = Field(default=[])
    """Tasks that must have finished first."""
    inputs: _Texts = Field(default=[])
    """Files or folders it reads; whoever writes them runs first."""
    outputs: _Texts = Field(default=[])
    """Files or folders it writes."""


class WorkflowFile(Strict):
    """A workflow: tasks, and what they need of one another and of the machines."""

    name: Annotated[_Text | None, expected("a text")] = None
    """Name of the workflow; by default that of the file."""
    vars: _Vars = Field(default={})
    """Variables: ${NAME} in any text. ${python} and ${env.NAME} are there from the start."""
    defaults: Defaults = Defaults()
    """Fields for every task that does not set them."""
    weight: Annotated[_Above, expected("a number above 0")] = 1.0
    """Importance relative to other workflows."""
    deadline: _Seconds | None = None
    """Time after the start by which the workflow should have finished."""
    setup_time: Annotated[_Time, expected("seconds or a text such as '90s', '10m', '2h'")] = 0.0
    """Estimated time that a device needs first when it comes from another workflow."""
    tasks: Annotated[
        dict[str, TaskSpec], Field(min_length=1, json_schema_extra={"propertyNames": {"pattern": _TASK_NAME}})
    ]
    """The tasks by name."""


class OutlineTask(BaseModel):
    """The part of a task that says how many tasks it stands for."""

    matrix: _Matrix = Field(default={})


class Outline(BaseModel):
    """As much of a file as must be sound before variables and matrices can be filled in: its keys, and these."""

    vars: _Vars = Field(default={})
    defaults: Annotated[dict[str, Any], _keys_of(Defaults)] = Field(default={})
    tasks: dict[
        Annotated[str, Field(strict=True, pattern=_TASK_NAME), expected("a name of letters, digits, '_', '-' and '.'")],
        Annotated[OutlineTask, _keys_of(TaskSpec)],
    ] = Field(default={})

    @model_validator(mode="before")
    @classmethod
    def _know_every_key(cls, data: Any) -> Any:
        return know_every_key(WorkflowFile, data)


class _EditorSchema(GenerateJsonSchema):
    """Numbers and flags may also be given by a variable."""

    def int_schema(self, schema: core_schema.IntSchema) -> JsonSchemaValue:
        return self._or_reference(super().int_schema(schema))

    def float_schema(self, schema: core_schema.FloatSchema) -> JsonSchemaValue:
        return self._or_reference(super().float_schema(schema))

    def bool_schema(self, schema: core_schema.BoolSchema) -> JsonSchemaValue:
        return self._or_reference(super().bool_schema(schema))

    def _or_reference(self, schema: JsonSchemaValue) -> JsonSchemaValue:
        return {"anyOf": [schema, {"type": "string", "pattern": _REFERENCE}]}


def read_seconds(text: str) -> float:
    """A time such as 90, 90s, 10m or 2h, in seconds.

    Raises:
        ValueError: it is none, or not above 0.
    """
    try:
        return TypeAdapter[float](_Seconds).validate_python(text)
    except ValidationError as errors:
        raise ValueError(first_fault(errors)[1]) from None


def json_schema() -> str:
    """The JSON Schema of a workflow file, as text."""
    schema = WorkflowFile.model_json_schema(schema_generator=_EditorSchema)
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
