"""What an importer is asked for and what it gives."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rlsched.model import Job
from rlsched.scenariofile import ClusterEntry, NodesEntry, Objective
from rlsched.workloadfile import Arrivals


class TraceError(ValueError):
    """A trace that cannot be read or imported as asked: one sentence, with file, line and field if there are."""


@dataclass(frozen=True)
class Wish:
    """What the user says beside the path.

    Attributes:
        cluster: the machines to use instead of those that the trace names or that are usual for it.
        companion: the file that the format has beside the trace; None: where it usually lies.
        moldable: let the scheduler choose among all GPU counts that were measured.
    """

    cluster: ClusterEntry | None = None
    companion: Path | None = None
    moldable: bool = False


@dataclass(frozen=True)
class Trace:
    """Jobs and what goes with them.

    Attributes:
        jobs: in order of release, on any clock; read as they are asked for where that is possible.
        arrivals: how jobs are drawn from these; None: they are played as they stand.
        left_out: why jobs or tasks of the trace are missing, and how many; complete once the jobs have been read.
    """

    cluster: ClusterEntry
    jobs: Iterable[Job]
    objective: Objective = "mean_jct"
    arrivals: Arrivals | None = None
    left_out: Counter[str] = field(default_factory=Counter)


def machines(*nodes: NodesEntry) -> ClusterEntry:
    """A cluster of these machines or groups of machines."""
    return ClusterEntry.model_validate({"nodes": list(nodes)})


def as_name(text: str) -> str:
    """A text as a name: what may not stand in one becomes a hyphen."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.") or "_"
