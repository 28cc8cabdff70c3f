"""The shape of the code: the links, their guards, and imports that point one way."""

from __future__ import annotations

import ast
import importlib
import os
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINKED = ("envs", "policies", "experiments")

# Each part of rlsched and the parts right below it: it may import those, what is below them in turn, and itself.
# A name stands for the module or package and all in it, unless a longer name here says otherwise.
BELOW = {
    "model": "",
    "progress": "",
    "manifest": "textfile",
    "collection": "",
    "workers": "",
    "document": "",
    "pool": "model",
    "active": "model",
    "state": "pool active",
    "schedule": "model",
    "scheduler": "state schedule collection",
    "contention": "model",
    "simulator": "scheduler contention",
    "workflow": "pool document textfile",
    "executor": "simulator workflow progress",
    "executor.onray": "executor",
    "textfile": "",
    "fitting": "pool",
    "queue": "executor fitting",
    "workloadfile": "scenariofile fitting textfile",
    "traces": "workloadfile",
    "generator": "model document",
    "scenariofile": "generator simulator",
    "scenario": "workloadfile",
    "mixture": "scenario",
    "report": "scheduler",
    "envs.fluid": "",
    "envs.facts": "model",
    "envs.graph": "envs.facts state",
    "envs.availability": "state envs.facts",
    "envs.backlog": "state",
    "envs.continuation": "state",
    "envs.rows": "envs.availability envs.backlog envs.facts",
    "envs.encoding": "envs.fluid envs.graph envs.rows",
    "envs": "envs.encoding envs.continuation mixture",
    "policies": "envs.encoding envs.continuation scheduler document textfile",
    "policies.auto": "policies scenario",
    "policies.rollouts": "envs policies workers",
    "policies.critic": "envs policies policies.rollouts",
    "policies.ppo": "envs policies policies.critic policies.rollouts",  # the trainer; a policy in use does not need it
    "policies.switching": "policies simulator",
    "policies.planning": "policies simulator",
    "policies.genetic": "policies.planning",
    "policies.exact": "policies.planning",
    "experiments": "executor.onray queue manifest policies.auto policies.exact policies.genetic policies.ppo report "
    "traces",
    "cli": "experiments",
    "__main__": "cli",
}


def modules() -> dict[str, ast.Module]:
    """Syntax tree of every module by its name without the leading `rlsched.`; a package by its own name."""
    trees = {}
    for folder, _, files in os.walk(ROOT / "rlsched", followlinks=True):
        for file in files:
            path = Path(folder, file)
            if path.suffix == ".py":
                parts = path.relative_to(ROOT / "rlsched").with_suffix("").parts
                name = ".".join(part for part in parts if part != "__init__")
                trees[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return trees


MODULES = modules()
PACKAGES = [name for name in MODULES if name == "" or any(other.startswith(f"{name}.") for other in MODULES)]


def imports(name: str) -> Iterator[str]:
    """Names of the modules of rlsched that a module imports anywhere in it, inside functions too."""
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"rlsched.{name}, line {node.lineno}: spell the import out from rlsched"
            # `from package import name` means package.name if that is a module, and the package itself if not.
            wanted = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for spelled in wanted:
            parts = spelled.split(".")
            if parts[0] == "rlsched":
                found = ".".join(parts[1:])
                yield found if found in MODULES else ".".join(parts[1:-1])


def part_of(name: str) -> str:
    """The longest name in BELOW that a module falls under."""
    known = [part for part in BELOW if name == part or name.startswith(f"{part}.")]
    assert known, f"rlsched.{name} has no place in the layout: say in BELOW what it may import"
    return max(known, key=len)


@cache
def allowed(part: str) -> frozenset[str]:
    """The part itself and everything below it."""
    return frozenset({part}).union(*(allowed(lower) for lower in BELOW[part].split()))


@pytest.mark.parametrize("name", LINKED)
def test_the_folder_is_reached_through_a_relative_link(name: str) -> None:
    """A link that is absolute, or was checked out as a plain file, breaks every import."""
    link = ROOT / "rlsched" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..", name)
    assert (ROOT / name / "__init__.py").is_file()


@pytest.mark.parametrize("name", LINKED)
def test_the_folder_cannot_be_imported_by_its_bare_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise one class could exist twice, as `envs.X` and as `rlsched.envs.X`."""
    monkeypatch.syspath_prepend(ROOT)
    with pytest.raises(ImportError, match=f"import rlsched.{name}, not {name}"):
        importlib.import_module(name)


@pytest.mark.parametrize("name", LINKED)
def test_the_guard_comes_first(name: str) -> None:
    """Two lines ahead of every other statement, so that a wrong import does nothing at all."""
    module = MODULES[name]
    first = module.body[0 if ast.get_docstring(module) is None else 1]
    assert ast.unparse(first).startswith(f"if __name__ != 'rlsched.{name}':\n    raise ImportError(")


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_imports_point_one_way(name: str) -> None:
    """A module imports its own part of the code and the parts below, never one above."""
    may = allowed(part_of(name))
    wrong = {other for other in imports(name) if other and part_of(other) not in may}
    assert wrong == set(), f"rlsched.{name} must not import {sorted(wrong)}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Not even by imports inside functions."""
    TopologicalSorter({name: set(imports(name)) - {name, ""} for name in MODULES}).prepare()


@pytest.mark.parametrize("name", PACKAGES)
def test_package_files_are_nearly_empty(name: str) -> None:
    """An `__init__.py` says what the package is and gathers names; code has a module of its own."""
    kinds = {type(node) for node in MODULES[name].body}
    assert kinds <= {ast.Expr, ast.If, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign}
    assert len(MODULES[name].body) <= 12
