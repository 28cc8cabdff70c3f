"""Gavel's traces (Narayanan et al., OSDI 2020) with its table of measured training throughputs.

A job is one preemptible task: so many steps of a model at a batch size on `scale factor` GPUs, with a mode for every
GPU type on which it was measured: duration = steps / (steps/s). A step is one of all workers together, so that the same
holds for other GPU counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlsched.model import Cluster, Job, Mode, Task
from rlsched.scenariofile import NodesEntry
from rlsched.traces.records import Record, read_json, read_lines
from rlsched.traces.trace import Trace, TraceError, Wish, as_name, machines

THROUGHPUTS = "simulation_throughputs.json"
_TYPES = machines(*(NodesEntry(name=gpu_type, gpus=2, gpu_type=gpu_type) for gpu_type in ("v100", "p100", "k80")))
_FIELDS = ("job type", "command", "folder", "steps argument", "needs data", "steps", "scale factor")
_TAILS = {
    10: ("weight", "SLO", "arrival"),
    12: ("mode", "weight", "SLO", "duration", "arrival"),  # of Shockwave
}


@dataclass(frozen=True)
class _Throughputs:
    """Steps a second by GPU type, job type and GPU count, of a job that has its GPUs to itself on one machine."""

    file: Path
    table: dict[str, dict[str, dict[str, Any]]]

    def modes(self, job_type: str, steps: float, counts: tuple[int, ...], cluster: Cluster) -> tuple[Mode, ...]:
        """A mode for every GPU type and count of the cluster that was measured."""
        return tuple(
            Mode(steps / rate, gpus=count, gpu_type=gpu_type)
            for gpu_type in cluster.gpu_types
            for count in counts
            if count <= cluster.gpu_count(gpu_type) and (rate := self._rate(gpu_type, job_type, count)) > 0
        )

    def _rate(self, gpu_type: str, job_type: str, count: int) -> float:
        alone = self.table.get(gpu_type, {}).get(f"('{job_type}', {count})", {}).get("null", 0.0)
        if not (isinstance(alone, int | float) and math.isfinite(alone)):
            raise TraceError(f"{self.file}: {gpu_type}, {job_type}: expected steps a second, found {alone!r}")
        return alone


def read(path: Path, wish: Wish) -> Trace:
    """The jobs of a .trace file; its throughput table lies beside it, or in a folder above."""
    cluster = wish.cluster or _TYPES
    companion = wish.companion or _find(path)
    throughputs = _Throughputs(companion, read_json(companion, dict[str, dict[str, dict[str, Any]]]))
    return Trace(cluster, _jobs(path, throughputs, cluster.cluster(), wish.moldable))


def _find(path: Path) -> Path:
    folders = list(path.absolute().parents)[:2]  # in Gavel's repository traces have a folder of their own below
    found = next((folder / THROUGHPUTS for folder in folders if (folder / THROUGHPUTS).is_file()), None)
    if found is None:
        raise TraceError(f"{path}: expected {THROUGHPUTS} beside it, found none; name it with --with")
    return found


def _jobs(path: Path, throughputs: _Throughputs, cluster: Cluster, moldable: bool) -> Iterator[Job]:
    for number, (line, text) in enumerate(read_lines(path), 1):
        values = text.split("\t")
        if len(values) not in _TAILS:
            raise TraceError(f"{path}:{line}: expected 10 or 12 fields with tabs in between, found {len(values)}")
        record = Record(path, line, dict(zip((*_FIELDS, *_TAILS[len(values)]), values, strict=True)))
        yield _job(record, number, throughputs, cluster, moldable)


def _job(record: Record, number: int, throughputs: _Throughputs, cluster: Cluster, moldable: bool) -> Job:
    asked = record.count("scale factor", 1)
    counts = (1, 2, 4, 8) if moldable else (asked,)
    modes = throughputs.modes(record["job type"], record.number("steps", 1), counts, cluster)
    if not modes:
        kind = f"{record['job type']!r} on {asked} GPU{'s' * (asked > 1)} of one type"
        hint = "" if moldable else "; --moldable lets it run on fewer"
        record.fail("scale factor", f"found {kind}, expected what was measured and fits the cluster{hint}")
    release, slo, weight = record.number("arrival", 0), record.number("SLO"), record.number("weight")
    if weight <= 0:
        record.fail("weight", f"expected a number above 0, found {record['weight']!r}")
    duration = record.number("duration", 0) if "duration" in record.fields else min(mode.duration for mode in modes)
    task = Task("train", modes, preemptible=True)
    name = as_name(f"{record['job type']}-{number}")
    return Job(name, (task,), release, weight, release + slo * duration if slo > 0 else None)
