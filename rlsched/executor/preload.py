"""What a Python task's module imports that is worth having imported before; the module is read, not run."""

from __future__ import annotations

import ast
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

HEAVY = ("torch",)


def heavy_imports(module: str, folder: Path) -> tuple[str, ...]:
    """Those of `HEAVY` that a module imports by itself, anywhere in it; none if it cannot be found or read.

    Args:
        module: its full name.
        folder: where modules are looked for first.
    """
    source = _source_of(module, folder)
    try:
        tree = ast.parse(b"" if source is None else source.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return ()
    imported: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names):
                imported.update(alias.name.partition(".")[0] for alias in names)
            case ast.ImportFrom(str(name), _, 0):
                imported.add(name.partition(".")[0])
    return tuple(name for name in HEAVY if name in imported)


def _source_of(module: str, folder: Path) -> Path | None:
    """The file of a module. Its packages are looked up, but not imported as `importlib.util.find_spec` would."""
    places: list[str] | None = [str(folder), *sys.path]
    origin: str | None = None
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        spec = None if places is None else _find(".".join(parts[:count]), places)
        if spec is None:
            return None
        places, origin = spec.submodule_search_locations, spec.origin
    return Path(origin) if origin is not None and origin.endswith(".py") else None


def _find(module: str, places: list[str]) -> ModuleSpec | None:
    found = (finder.find_spec(module, places) for finder in sys.meta_path)
    return next((spec for spec in found if spec is not None), None)
