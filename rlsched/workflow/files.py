"""Which task writes what, so that dependencies follow from inputs and outputs."""

from __future__ import annotations

from pathlib import Path


class Writers:
    """The tasks that write files and folders. Paths are absolute and normalised; nothing looks at the disk.

    Two paths overlap if they are equal or one lies inside the other: who reads a folder reads the files in it.
    """

    def __init__(self) -> None:
        self._of: dict[Path, str] = {}
        self._inside: dict[Path, dict[str, None]] = {}

    def add(self, path: Path, task: str) -> None:
        """Note that a task writes a path."""
        self._of[path] = task
        for folder in path.parents:
            self._inside.setdefault(folder, {})[task] = None

    def find(self, path: Path) -> list[str]:
        """The tasks that write the path, something inside it, or a folder around it."""
        around = (self._of[p] for p in (path, *path.parents) if p in self._of)
        return list(dict.fromkeys((*around, *self._inside.get(path, ()))))
