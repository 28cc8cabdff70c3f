"""Manifest: what a result file must carry so that somebody else can make it again."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import rlsched
from rlsched.textfile import for_people

# Packages that can change a result, in the order in which they are listed.
_PACKAGES = (
    *("numpy", "scipy", "simpy", "gymnasium", "torch", "stable-baselines3", "sb3-contrib"),
    *("optuna", "cmaes", "ortools", "pymoo"),
)


def manifest(seeds: Iterable[int], command: Sequence[str] | None = None) -> dict[str, Any]:
    """Where a result comes from: plain data for JSON.

    Args:
        seeds: every seed that went into it.
        command: program and arguments; default: those of this process.

    Returns:
        `command` (one line for a shell), `seeds`, `versions` (of Python, rlsched and what is installed of the packages
        that can change a result), `commit` (`{"hash", "dirty"}` of the checkout that rlsched is imported from; None
        if it is installed otherwise), `machine` (`cpus`, `platform`; nothing that names it).
    """
    program, *arguments = sys.argv if command is None else command
    return {
        "command": for_people(shlex.join([Path(program).name, *arguments])),
        "seeds": list(seeds),
        "versions": _versions(),
        "commit": commit(),
        "machine": {
            "cpus": os.cpu_count(),
            "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        },
    }


def commit() -> dict[str, Any] | None:
    """Hash of the commit that this package was checked out from, and whether files were changed since.

    None if it is not a checkout: an environment inside another project's repository is not one.
    """
    tracked = _git("ls-files", "--error-unmatch", "__init__.py")
    commit_hash = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no")
    if tracked is None or commit_hash is None or changes is None:
        return None
    return {"hash": commit_hash, "dirty": bool(changes)}


def _git(*arguments: str) -> str | None:
    folder = Path(rlsched.__file__).parent
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "rlsched": rlsched.__version__}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
