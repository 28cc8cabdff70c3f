"""The finished part of a benchmark on disk, from which a later call goes on."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import rlsched
from rlsched.manifest import commit
from rlsched.policies.shipped import policy_file
from rlsched.scenario import Scenario


class BenchmarkError(ValueError):
    """A benchmark that cannot be run or continued as asked; one sentence says why."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What one policy made of one workload: its score (lower is better) and all of `Schedule.metrics`.

    `took` is the policy that `auto` chose.
    """

    policy: str
    seed: int
    score: float
    metrics: dict[str, float]
    took: str | None = None


class CellFile:
    """A line of JSON with what all cells depend on, then one for every cell that is done.

    Args:
        path: the file; made if it is not there.
        scenario: what is played.
        policies: names and files.

    Raises:
        BenchmarkError: the file is none of ours, or holds results of another scenario, another version of the code,
            or other contents of a policy's file.
    """

    def __init__(self, path: Path, scenario: Scenario, policies: list[str]) -> None:
        self._path = path
        self._digests = {policy: digest_of(policy) for policy in policies}
        self.cells: dict[tuple[str, int], Cell] = {}
        settings = _settings(scenario)
        content = path.read_text() if path.exists() else ""
        complete = content[: content.rfind("\n") + 1]  # the last line is torn if its writer was killed
        if not complete:
            path.write_text(json.dumps(settings) + "\n")
            return
        try:
            first, *entries = map(json.loads, complete.splitlines())
            self._check(first, settings)
            for entry in entries:
                self._take(entry)
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise BenchmarkError(f"{path}: expected the cells of a benchmark, found something else") from None
        if complete != content:
            path.write_text(complete)

    def add(self, cell: Cell) -> None:
        """Append a cell that is done."""
        self.cells[cell.policy, cell.seed] = cell
        with self._path.open("a") as file:
            file.write(json.dumps(finite({**asdict(cell), "file": self._digests.get(cell.policy)})) + "\n")

    def _check(self, found: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        for name, value in settings.items():
            if found[name] != value:
                raise BenchmarkError(
                    f"{self._path}: holds results with {name} {found[name]!r}, now it is {value!r}; "
                    "choose another folder or delete the file"
                )

    def _take(self, entry: dict[str, Any]) -> None:
        policy, digest = entry["policy"], entry.pop("file")
        if self._digests.get(policy, digest) != digest:
            raise BenchmarkError(
                f"{self._path}: holds results of another version of policy {policy!r}; "
                "choose another folder or delete the file"
            )
        entry["metrics"] = {name: math.nan if value is None else value for name, value in entry["metrics"].items()}
        self.cells[policy, entry["seed"]] = Cell(**entry)


def finite(value: Any) -> Any:
    """The same plain data with None for what JSON has no number for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return value


def _settings(scenario: Scenario) -> dict[str, Any]:
    """What every cell depends on. The first training workload stands for all: they are drawn from the same source."""
    workload = scenario.jobs(scenario.seed_range("train", 1)[0])
    world = repr((scenario.cluster, scenario.uncertainty, workload))
    checkout = commit()
    return {
        "scenario": scenario.name,
        "objective": scenario.objective,
        "workload": hashlib.sha256(world.encode()).hexdigest()[:16],
        "rlsched": rlsched.__version__,
        "commit": None if checkout is None else checkout["hash"],
    }


def digest_of(policy: str) -> str | None:
    """Of the files that a policy consists of; None for a name."""
    path = policy_file(policy if Path(policy).exists() else policy.partition(":")[0])
    if not path.exists():
        return None
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    cards = [file.with_suffix(".json") for file in files if file.suffix == ".safetensors"]
    contents = [file.read_bytes() for file in (*files, *cards) if file.is_file()]
    return hashlib.sha256(b"".join(contents)).hexdigest()[:16]
