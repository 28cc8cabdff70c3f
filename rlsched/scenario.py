"""Scenario: a cluster, a workload, an objective and seeds. docs/scenarios.md shows how to bring one of your own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from rlsched.document import Document, Location, did_you_mean
from rlsched.fitting import misfit
from rlsched.generator.generator import Generator
from rlsched.generator.workload import WorkloadError
from rlsched.model import Cluster, Job
from rlsched.pool import Pool
from rlsched.scenariofile import ClusterEntry, JobEntry, Objective, ScenarioFile, Seeds
from rlsched.simulator import Simulator, Uncertainty
from rlsched.workloadfile import ENDINGS, WorkloadFile, is_workload_file, read_workload


class ScenarioError(ValueError):
    """A scenario that cannot be read or does not make sense: one sentence, with file, line and field if there are."""


@dataclass(frozen=True, eq=False)
class Scenario:
    """Everything that an experiment needs but the policy.

    Attributes:
        name: of the file, without its ending; a variant made by `with_` says what was changed.
        cluster: the machines.
        source: what draws the jobs; or a file of them; or the jobs themselves, in order of release.
        objective: what a schedule should make small; a key of `Schedule.metrics`.
        preemption: whether a learning policy may stop what runs, where tasks are preemptible.
        uncertainty: how reality departs from the estimates.
        seeds: where the seeds for training, validation and report start.
        description: one sentence for people.
    """

    name: str
    cluster: Cluster
    source: Generator | WorkloadFile | tuple[Job, ...]
    objective: Objective = "mean_jct"
    preemption: bool = False
    uncertainty: Uncertainty = field(default_factory=Uncertainty)
    seeds: Seeds = field(default_factory=Seeds)
    description: str = ""

    def episode(self, seed: int) -> Scenario:
        """The scenario that a seed plays: this one, except for a mixture."""
        return self

    def jobs(self, seed: int) -> list[Job]:
        """The jobs of one episode, in order of release; equal seeds give equal jobs."""
        return list(self.source) if isinstance(self.source, tuple) else self.source.jobs(seed)

    def simulator(self, seed: int) -> Simulator:
        """One episode in virtual time; jobs and true durations depend on the seed alone, not on the policy."""
        jobs = self.source.stream(seed) if isinstance(self.source, WorkloadFile) else self.jobs(seed)
        return Simulator(self.cluster, jobs, seed, self.uncertainty)

    def seed_range(self, purpose: Literal["train", "validation", "report"], count: int) -> range:
        """The first `count` seeds for a purpose.

        Raises:
            ScenarioError: the purpose has fewer; those of the next begin before.
        """
        start = getattr(self.seeds, purpose)
        end = {"train": self.seeds.validation, "validation": self.seeds.report}.get(purpose, math.inf)
        if start + count > end:
            raise ScenarioError(f"{self.name}: expected at most {end - start} {purpose} seeds, found {count}")
        return range(start, start + count)

    def with_(
        self,
        *,
        load: float | None = None,
        noise: float | None = None,
        jobs: int | None = None,
        cluster: Cluster | None = None,
    ) -> Scenario:
        """A variant: another load, other noise on the durations, another number of jobs, or another cluster.

        Raises:
            ScenarioError: a value that makes no sense, a load or a number of jobs for jobs written by hand, or a
                cluster that the jobs do not fit.
        """
        given = {"load": load, "noise": noise, "jobs": jobs}
        changes = {name: value for name, value in given.items() if value is not None}
        for name, value in changes.items():
            if not (value > 0 or (name == "noise" and value == 0)):
                least = "of 0 or more" if name == "noise" else "above 0"
                raise ScenarioError(f"{self.name}: {name} is {value:g}, expected a number {least}")
        sigma = changes.get("noise", self.uncertainty.duration_noise)
        said = [f"{name}={value:g}" for name, value in changes.items()] + ["cluster"] * (cluster is not None)
        return replace(
            self,
            name=f"{self.name}[{','.join(said)}]" if said else self.name,
            cluster=cluster or self.cluster,
            source=self._source(cluster or self.cluster, {n: v for n, v in changes.items() if n != "noise"}),
            uncertainty=replace(self.uncertainty, duration_noise=sigma),
        )

    def _source(self, cluster: Cluster, changes: dict[str, Any]) -> Generator | WorkloadFile | tuple[Job, ...]:
        if isinstance(self.source, Generator):
            try:
                return Generator(self.source.workload.model_copy(update=changes), cluster)
            except WorkloadError as error:
                raise ScenarioError(f"{self.name}: workload.{error}") from None
        if isinstance(self.source, WorkloadFile):
            if "load" in changes:
                raise ScenarioError(f"{self.name}: load cannot be changed, the jobs come from a file")
            return self.source.of_length(changes["jobs"]) if changes else self.source
        if changes:
            raise ScenarioError(f"{self.name}: {min(changes)} cannot be changed, the jobs are written by hand")
        for job in self.source:
            if found := misfit(job, Pool(cluster)):
                raise ScenarioError(f"{self.name}: job {job.name}, task {found[0]}: {found[1]}")
        return self.source


def scenario_names() -> list[str]:
    """The scenarios that come with rlsched."""
    return sorted(file.stem for file in _folder().glob("*.yaml"))


def load_scenario(source: str | Path) -> Scenario:
    """A scenario by its name, from a YAML file, or from a workload file.

    Args:
        source: a name out of `scenario_names()`, or the path of a file (as text: one with a `/`, or ending in .yaml,
            .jsonl or .jsonl.gz).

    Raises:
        ScenarioError: there is no such scenario, or the first thing that is wrong with the file.
        WorkloadFileError: the same for a workload file, of which the jobs are read only when they are played.
    """
    file = _file_of(source)
    if is_workload_file(file):
        return _recorded(file)
    document = Document(file, ScenarioError)
    entry = document.validate(ScenarioFile, document.data)
    with _errors_at(document, ("cluster",)):
        cluster = entry.cluster.cluster()
    return Scenario(
        name=file.stem,
        cluster=cluster,
        source=_read_source(document, entry, cluster),
        objective=entry.objective,
        preemption=entry.preemption,
        uncertainty=entry.uncertainty.uncertainty(),
        seeds=entry.seeds,
        description=entry.description or "",
    )


def load_cluster(file: str | Path) -> Cluster:
    """A cluster from a YAML file of its own, with what stands under `cluster:` in a scenario.

    Raises:
        ScenarioError: the first thing that is wrong with the file.
    """
    return load_cluster_entry(file).cluster()


def load_cluster_entry(file: str | Path) -> ClusterEntry:
    """The same as it is written, machines of one sort together.

    Raises:
        ScenarioError: the first thing that is wrong with the file.
    """
    document = Document(Path(file), ScenarioError)
    entry = document.validate(ClusterEntry, document.data)
    with _errors_at(document, ("nodes",)):
        entry.cluster()
    return entry


def _recorded(file: Path) -> Scenario:
    source = read_workload(file)
    header = source.header
    return Scenario(
        name=file.name.partition(".jsonl")[0],
        cluster=header.cluster.cluster(),
        source=source,
        objective=header.objective,
        uncertainty=header.uncertainty.uncertainty(),
        seeds=header.seeds,
        description=header.source,
    )


def _read_source(document: Document, entry: ScenarioFile, cluster: Cluster) -> Generator | tuple[Job, ...]:
    if entry.workload is not None and entry.jobs is not None:
        document.fail(("jobs",), "expected either workload or jobs, found both")
    if entry.workload is not None:
        with _errors_at(document, ("workload",)):
            return Generator(entry.workload, cluster)
    if entry.jobs is None:
        document.fail((), "expected workload or jobs, found neither")
    jobs = [_read_job(document, ("jobs", number), job, cluster) for number, job in enumerate(entry.jobs)]
    return tuple(sorted(jobs, key=lambda job: job.release))


def _read_job(document: Document, location: Location, entry: JobEntry, cluster: Cluster) -> Job:
    tasks = []
    for name, task in entry.tasks.items():
        with _errors_at(document, (*location, "tasks", name)):
            tasks.append(task.task(name))
        if unknown := [need for need in task.needs if need not in entry.tasks]:
            hint = did_you_mean(unknown[0], entry.tasks)
            document.fail(
                (*location, "tasks", name, "needs"), f"found {unknown[0]!r}, which is no task of the job, {hint}"
            )
    with _errors_at(document, location):
        job = Job(entry.name, tuple(tasks), entry.release, entry.weight, entry.deadline)
    if found := misfit(job, Pool(cluster)):
        document.fail((*location, "tasks", found[0]), found[1])
    return job


@contextmanager
def _errors_at(document: Document, location: Location) -> Iterator[None]:
    """Errors of the model, which knows nothing of files, as errors at a place in the file."""
    try:
        yield
    except WorkloadError as error:
        document.fail((*location, *error.location), error.message)
    except ValueError as error:
        document.fail(location, str(error))


def _folder() -> Path:
    return Path(str(files("rlsched.experiments"))) / "scenarios"


def _file_of(source: str | Path) -> Path:
    if isinstance(source, Path) or "/" in source or source.endswith((".yaml", ".yml", *ENDINGS)):
        return Path(source)
    if source not in (names := scenario_names()):
        raise ScenarioError(f"unknown scenario {source!r}, {did_you_mean(source, names)}")
    return _folder() / f"{source}.yaml"
