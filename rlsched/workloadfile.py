"""The workload file: recorded jobs as JSON lines. docs/workloads.md shows one.

The first line is the header: the cluster, what counts, and maybe how the jobs of an episode are drawn from those in
the file. Every other line is a job, spelled as under `jobs:` in a scenario. Both are written and read line by line, so
that a trace need not fit in memory. A name that ends in .gz is compressed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, NoReturn, TypeVar

import numpy as np
from pydantic import ValidationError

from rlsched.document import Location, Strict, first_fault, sentence
from rlsched.fitting import misfit
from rlsched.generator.arrivals import release_times
from rlsched.generator.fields import AboveZero, Positive, Text
from rlsched.model import Job, Mode, Task
from rlsched.pool import Pool
from rlsched.scenariofile import ClusterEntry, JobEntry, Objective, Seeds, UncertaintyEntry
from rlsched.textfile import reading, writing

ENDINGS = (".jsonl", ".jsonl.gz")
_USUAL: dict[type, dict[str, Any]] = {
    kind: {field.name: field.default for field in fields(kind) if field.init} for kind in (Job, Task, Mode)
}
_Entry = TypeVar("_Entry", bound=Strict)


class WorkloadFileError(ValueError):
    """A workload that cannot be read or written: one sentence, with file, line and field if there are."""


class Arrivals(Strict):
    """Jobs drawn anew for every seed, uniformly and with replacement, that arrive as a Poisson process."""

    jobs: Positive
    """Jobs in an episode."""
    mean_gap: AboveZero
    """Mean seconds between two arrivals."""


class Header(Strict):
    """The first line of a workload file: everything but the jobs."""

    format: Literal["rlsched-workload"] = "rlsched-workload"
    version: Literal[1] = 1
    source: Text
    """Where the jobs come from, for people."""
    objective: Objective = "mean_jct"
    """What a schedule should make small."""
    cluster: ClusterEntry
    """The machines."""
    arrivals: Arrivals | None = None
    """How the jobs of an episode are drawn; left out: they are played as they stand, the same for every seed."""
    uncertainty: UncertaintyEntry = UncertaintyEntry()
    """How reality departs from the estimates."""
    seeds: Seeds = Seeds()
    """Seeds for training, validation and report."""


@dataclass(frozen=True)
class Contents:
    """How much a workload file holds; `members` counts every member of an array task."""

    jobs: int
    tasks: int
    members: int


@dataclass(frozen=True)
class WorkloadFile:
    """The jobs in a file, of which `jobs` and `stream` make episodes. Equal seeds give equal jobs.

    Attributes:
        most: play the first so many jobs only; None: all. Of no effect where jobs are drawn.
    """

    file: Path
    header: Header
    most: int | None = None

    def jobs(self, seed: int) -> list[Job]:
        """The jobs of one episode, in order of release.

        Raises:
            WorkloadFileError: the first thing that is wrong with the file.
        """
        return list(self.stream(seed))

    def stream(self, seed: int) -> Iterator[Job]:
        """The same, read as they are asked for if they are played as they stand.

        Raises:
            WorkloadFileError: the first thing that is wrong with the file, when it is reached.
        """
        if self.header.arrivals is not None:
            return self._draw(self.header.arrivals, seed)
        return islice(read_jobs(self.file), self.most)

    def of_length(self, jobs: int) -> WorkloadFile:
        """Episodes of so many jobs."""
        if self.header.arrivals is None:
            return replace(self, most=jobs)
        arrivals = self.header.arrivals.model_copy(update={"jobs": jobs})
        return replace(self, header=self.header.model_copy(update={"arrivals": arrivals}))

    def _draw(self, arrivals: Arrivals, seed: int) -> Iterator[Job]:
        status = self.file.stat()
        templates = _templates(self.file, (status.st_mtime_ns, status.st_size))
        releases, picks = (np.random.default_rng([seed, *purpose.encode()]) for purpose in ("arrivals", "picks"))
        for number, release in enumerate(release_times(releases, arrivals.jobs, arrivals.mean_gap, None).tolist(), 1):
            template = templates[picks.integers(len(templates))]
            deadline = None if template.deadline is None else template.deadline - template.release + release
            yield replace(template, name=f"{template.name}-{number}", release=release, deadline=deadline)


def is_workload_file(source: str | Path) -> bool:
    """True if the name says that it is one."""
    return str(source).endswith(ENDINGS)


def read_workload(file: Path) -> WorkloadFile:
    """A workload by its header; the jobs are read when they are played.

    Raises:
        WorkloadFileError: the first thing that is wrong with the header.
    """
    with reading(file, WorkloadFileError) as lines:
        header = _entry(Header, file, 1, next(lines, ""))
    try:
        header.cluster.cluster()
    except ValueError as error:
        _fail(file, 1, ("cluster",), str(error))
    return WorkloadFile(file, header)


def read_jobs(file: Path) -> Iterator[Job]:
    """The jobs in a workload file one by one, in order of release.

    Raises:
        WorkloadFileError: the first thing that is wrong with the file, when it is reached.
    """
    with reading(file, WorkloadFileError) as lines:
        next(lines, "")
        number, before = 1, 0.0
        for number, line in enumerate(lines, 2):
            entry = _entry(JobEntry, file, number, line)
            if entry.release < before:
                message = f"expected {before:g} or later, as on the line before, found {entry.release:g}"
                _fail(file, number, ("release",), message)
            before = entry.release
            try:
                tasks = tuple([task.task(name) for name, task in entry.tasks.items()])
                job = Job(entry.name, tasks, entry.release, entry.weight, entry.deadline)
            except ValueError as error:
                _fail(file, number, (), str(error))
            yield job
        if number == 1:
            _fail(file, 2, (), "expected a job, found the end of the file")


def write_workload(file: Path, header: Header, jobs: Iterable[Job]) -> Contents:
    """Write a workload, all of it or, after an error, nothing.

    Args:
        file: its name ends in .jsonl or .jsonl.gz; replaced if it is there.
        jobs: in order of release, which is 0 or later.

    Raises:
        WorkloadFileError: another name, a folder that is not there, no job, jobs out of order, or one that does not
            fit the cluster.
    """
    if not is_workload_file(file):
        raise WorkloadFileError(f"{file}: expected a name ending in {' or '.join(ENDINGS)}")
    if not file.parent.is_dir():
        raise WorkloadFileError(f"{file}: expected a folder {file.parent}, found none")
    with writing(file) as lines:
        return _write(lines, file, header, jobs)


def _write(lines: IO[str], file: Path, header: Header, jobs: Iterable[Job]) -> Contents:
    empty = Pool(header.cluster.cluster())
    written = tasks = members = 0
    before = 0.0
    plain = header.model_dump(mode="json", exclude_defaults=True)
    lines.write(json.dumps({"format": header.format, "version": header.version} | plain) + "\n")
    for job in jobs:
        if job.release < before:
            raise WorkloadFileError(f"{file}: job {job.name} is released at {job.release:g} s, before the one ahead")
        if found := misfit(job, empty):
            raise WorkloadFileError(f"{file}: job {job.name}, task {found[0]}: {found[1]}")
        before = job.release
        lines.write(json.dumps(_plain_job(job), separators=(",", ":")) + "\n")
        written += 1
        tasks += len(job.tasks)
        members += sum(task.array for task in job.tasks)
    if not written:
        raise WorkloadFileError(f"{file}: expected at least one job, found none")
    return Contents(written, tasks, members)


def _plain_job(job: Job) -> dict[str, Any]:
    """A job as plain data, spelled as in a scenario; what has its usual value is left out."""
    plain = _plain(job, ("name", "release", "weight", "deadline"))
    plain["tasks"] = {task.name: _plain_task(task) for task in job.tasks}
    return plain


def _plain_task(task: Task) -> dict[str, Any]:
    modes = [_plain(mode, list(_USUAL[Mode])) for mode in task.modes]
    own = [name for name in _USUAL[Task] if name not in ("name", "modes")]
    return (modes[0] if len(modes) == 1 else {"modes": modes}) | _plain(task, own)


def _plain(value: Job | Task | Mode, names: Sequence[str]) -> dict[str, Any]:
    usual = _USUAL[type(value)]
    plain = {name: getattr(value, name) for name in names}
    return {name: found for name, found in plain.items() if found != usual[name] and found != {}}


@lru_cache(maxsize=8)
def _templates(file: Path, version: tuple[int, int]) -> tuple[Job, ...]:
    """All jobs of a file of which every episode draws some; `version` tells a changed file from the same."""
    return tuple(read_jobs(file))


def _entry(model: type[_Entry], file: Path, number: int, line: str) -> _Entry:
    try:
        return model.model_validate(json.loads(line))
    except json.JSONDecodeError as error:
        _fail(file, number, (), f"expected JSON: {error.msg} at column {error.colno}")
    except ValidationError as errors:
        _fail(file, number, *first_fault(errors))


def _fail(file: Path, number: int, location: Location, message: str) -> NoReturn:
    raise WorkloadFileError(f"{file}:{number}: {sentence(location, message)}") from None
