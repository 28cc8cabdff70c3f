"""The workflow file a user writes: `load_workflow` reads one; docs/workflow-file.md describes it."""

from rlsched.workflow.feasibility import check_feasible, check_sources
from rlsched.workflow.loader import is_workflow_file, load_workflow
from rlsched.workflow.workflow import Command, Workflow, WorkflowError

__all__ = [
    "Command",
    "Workflow",
    "WorkflowError",
    "check_feasible",
    "check_sources",
    "is_workflow_file",
    "load_workflow",
]
