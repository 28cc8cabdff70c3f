"""Print the JSON Schema of workflow files."""

from rlsched.workflow.schema import json_schema

print(json_schema(), end="")
