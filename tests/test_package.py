"""What a user gets: an installable wheel, light imports, a quick command line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILT_FROM = ("rlsched", "envs", "policies", "experiments", "pyproject.toml", "README.md", "LICENSE")
NOT_PUBLISHED = ("__pycache__", "build", "runs", "results")


def python(code: str, folder: Path = ROOT) -> list[str]:
    """Lines printed by a fresh interpreter that imports from `folder` first."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the working tree, built from a copy: a build leaves folders behind."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns(*NOT_PUBLISHED))
        else:
            shutil.copy(ROOT / name, source / name)
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", *build, str(source)], check=True, capture_output=True)
    (built,) = folder.glob("rlsched-*.whl")
    return built


def published_files() -> set[str]:
    """Every module, scenario, workflow, schema and trained policy that an import in the working tree sees."""
    found: set[str] = set()
    for folder, folders, files in os.walk(ROOT / "rlsched", followlinks=True):
        folders[:] = [name for name in folders if name not in NOT_PUBLISHED]
        paths = (Path(folder, name).relative_to(ROOT) for name in files)
        found |= {path.as_posix() for path in paths if path.suffix in (".py", ".yaml", ".json", ".safetensors")}
    return found


def test_the_wheel_contains_every_module_and_data_file_also_of_the_linked_folders(wheel: Path) -> None:
    """Links become real files; nothing that the working tree can import or load is left out."""
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    assert published_files() - packed == set()
    assert {"rlsched/envs/__init__.py", "rlsched/policies/__init__.py", "rlsched/py.typed"} <= packed


def test_the_wheel_brings_no_package_but_rlsched(wheel: Path) -> None:
    """Top-level packages named envs or experiments would overwrite those of other distributions."""
    with zipfile.ZipFile(wheel) as archive:
        top = {name.split("/")[0] for name in archive.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"rlsched"}


def test_an_unpacked_wheel_can_be_imported(wheel: Path, tmp_path: Path) -> None:
    """Away from the repository, `rlsched.envs` and the like are found in the wheel itself."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    names = "rlsched.envs, rlsched.policies, rlsched.experiments"
    printed = python(f"import {names}\nfor m in ({names}): print(m.__file__)", tmp_path)
    assert [Path(line).parent for line in printed] == [
        tmp_path / "rlsched" / name for name in ("envs", "policies", "experiments")
    ]


def test_importing_policies_imports_neither_torch_nor_stable_baselines3() -> None:
    """A greedy policy must not cost the seconds that torch takes to import."""
    code = "import sys, rlsched, rlsched.policies, rlsched.policies.registry\nprint(*sys.modules, sep='\\n')"
    assert {"torch", "stable_baselines3", "sb3_contrib", "transformers"}.isdisjoint(python(code))


def test_help_imports_nothing_heavy() -> None:
    """`rlsched --help` answers at once because the commands import what they need when they run."""
    code = r"""
import contextlib, io, sys
from rlsched.cli import main
sys.argv = ["rlsched", "--help"]
with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
    main()
assert "benchmark" in shown.getvalue(), shown.getvalue()
print(*sys.modules, sep="\n")
"""
    heavy = {"torch", "numpy", "pydantic", "scipy", "gymnasium", "simpy", "plotly", "transformers", "stable_baselines3"}
    assert heavy.isdisjoint(python(code))
