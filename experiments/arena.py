"""Where candidates of a search compete: the same workloads for all, in parallel processes, kept on disk.

A search that asks for the same candidates in the same order whenever it is given the same scores needs no other memory:
to continue, it starts anew and finds here what had been played before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rlsched.experiments.cells import Cell, CellFile
from rlsched.experiments.playing import Workers, linear, score_of
from rlsched.policies.registry import load_policy
from rlsched.scenario import Scenario

Candidate = str | Mapping[str, float]
"""Name and options, or the weights of a linear policy."""


class TuningError(ValueError):
    """A search that cannot be begun or continued as asked; one sentence says why."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The best so far.

    Attributes:
        policy: what it is, in words.
        mean, ratio: of the objective over `workloads` workloads, and relative to the yardstick's on the same.
        yardstick: the policy that others are compared with.
    """

    policy: str
    mean: float
    ratio: float
    workloads: int
    yardstick: str


Progress = Callable[[str, int, int, Standing | None], None]
"""Called with what is going on, the workloads played and to be played for it, and the best if there is a new one."""


class Arena:
    """Plays candidates on workloads of a scenario.

    Args:
        workers: of the scenario.
        store: what has been played; gets every cell as it is done.
        progress: is told after every cell.
    """

    def __init__(self, workers: Workers, store: CellFile, progress: Progress | None = None) -> None:
        self._workers, self._store, self._progress = workers, store, progress
        self.begin("playing", 0)

    def begin(self, stage: str, workloads: int) -> None:
        """Say what the next scores are for, and about how many workloads that takes to play."""
        self._stage, self._done, self._total = stage, 0, workloads

    def scores(self, candidates: Sequence[Candidate], seeds: Sequence[int]) -> list[tuple[float, ...]]:
        """The score of every candidate on every seed; lower is better.

        Raises:
            BenchmarkError: a candidate fails on a workload.
        """
        cells, named = self._store.cells, {name_of(candidate): candidate for candidate in candidates}
        missing = [
            (name, candidate, seed) for name, candidate in named.items() for seed in seeds if (name, seed) not in cells
        ]
        self._tell(len(candidates) * len(seeds) - len(missing))
        for cell in self._workers.map(_play, missing):
            self._store.add(cell)
            self._tell(1)
        return [tuple(cells[name_of(candidate), seed].score for seed in seeds) for candidate in candidates]

    def say(self, best: Standing) -> None:
        """Tell of a new best."""
        self._tell(0, best)

    def _tell(self, more: int, best: Standing | None = None) -> None:
        self._done += more
        if self._progress is not None:
            self._progress(self._stage, self._done, self._total, best)


@contextmanager
def arena(
    scenario: Scenario, out: Path, resume: bool, processes: int = 0, progress: Progress | None = None
) -> Iterator[Arena]:
    """An arena that keeps its cells beside the file that the search is to write, until that is there.

    Raises:
        TuningError: the file is there already, or a search for it was begun and `resume` is false.
        BenchmarkError: what is to be resumed was another scenario or another version of the code.
    """
    kept = out.with_suffix(".cells.jsonl")
    if out.exists():
        raise TuningError(f"{out}: is there already; delete it, or choose another -o")
    if kept.exists() and not resume:
        raise TuningError(f"{kept}: a search for {out.name} was begun; use --resume to continue it, or another -o")
    out.parent.mkdir(parents=True, exist_ok=True)
    with Workers(scenario, processes) as workers:
        yield Arena(workers, CellFile(kept, scenario, []), progress)
    kept.unlink()


def name_of(candidate: Candidate) -> str:
    """What a candidate's cells are kept under."""
    if isinstance(candidate, str):
        return candidate
    return "linear " + hashlib.sha256(json.dumps(sorted(candidate.items())).encode()).hexdigest()[:16]


def _play(name: str, candidate: Candidate, seed: int) -> Cell:
    policy = load_policy(candidate, seed) if isinstance(candidate, str) else linear(candidate, seed)
    return Cell(name, seed, score_of(name, policy, seed), {})
