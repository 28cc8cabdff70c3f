"""Files that jobs share: two jobs at the same time must not touch a file that one of them writes."""

from __future__ import annotations

from pathlib import Path

from rlsched.executor.work import Work
from rlsched.workflow import Workflow
from rlsched.workflow.files import Writers


class JobFiles:
    """The files and folders that a job reads and writes.

    Attributes:
        reads: those that none of its own tasks writes.
    """

    def __init__(self, workflow: Workflow, work: Work) -> None:
        self.writes = tuple(
            output for units in work.units for unit in units for output in (work.folder / path for path in unit.outputs)
        )
        self.reads = tuple(source for command in workflow.commands for source in command.sources)
        self._written, self._read = Writers(), Writers()
        for path in self.writes:
            self._written.add(path, "")
        for path in self.reads:
            self._read.add(path, "")

    def clash(self, other: JobFiles) -> Path | None:
        """A path of this job that the other one must leave alone meanwhile, or the other way round; None: none."""
        for path in self.writes:
            if other._written.find(path) or other._read.find(path):
                return path
        return next((path for path in self.reads if other._written.find(path)), None)
