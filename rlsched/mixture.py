"""Mixture: many scenarios to train on at once, each episode in another world, so that one policy serves them all.

docs/scenarios.md shows the file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from rlsched.document import Document, Strict, did_you_mean, expected
from rlsched.generator.drawing import pick
from rlsched.generator.fields import AboveZero, Counts, NotNegative, Range, Text, some
from rlsched.generator.generator import Generator
from rlsched.generator.workload import Speed
from rlsched.model import Cluster, Job, Node
from rlsched.scenario import Scenario, ScenarioError, load_scenario, scenario_names
from rlsched.scenariofile import Seeds
from rlsched.simulator import Simulator

NODE_SIZES = (1, 2, 4, 8)
CORES_A_GPU = 2
_STREAM = 0x6D697874  # keeps these draws apart from those of the generator and the simulator


class RandomCluster(Strict):
    """Machines drawn anew for every episode."""

    gpus: Counts
    """Least and most GPUs in all; drawn log-uniformly, then rounded to whole machines."""
    types: Counts = (1, 4)
    """Least and most GPU types."""
    slowest: Annotated[float, Field(strict=True, gt=0, le=1), expected("a number above 0, at most 1")] = 0.25
    """Least mean speed of a type; the first has speed 1."""


class Part(Strict):
    """A scenario of the mixture, and how it is varied from episode to episode."""

    scenario: Text
    """Name of a scenario, or a file beside the mixture's."""
    weight: AboveZero = 1.0
    """How often it is drawn, relative to the others."""
    load: Range | None = None
    """Least and most load; left out: the scenario's."""
    noise: Annotated[tuple[NotNegative, NotNegative] | None, expected("[least, most], both 0 or more")] = None
    """Least and most noise of the durations; left out: the scenario's."""
    jobs: Counts | None = None
    """Jobs in an episode; left out: the scenario's."""
    cluster: RandomCluster | None = None
    """Machines drawn at random; left out: the scenario's."""


class MixtureFile(Strict):
    """Scenarios to train on at once."""

    description: Text | None = None
    """One sentence for people."""
    seeds: Seeds = Seeds()
    """As in a scenario."""
    mixture: Annotated[tuple[Part, ...], some(list, "a list of scenarios")]
    """What is drawn from."""


@dataclass(frozen=True, eq=False)
class Mixture(Scenario):
    """A scenario whose every seed is an episode of another one; see `Scenario.episode`.

    Cluster, objective and uncertainty are those of its first part, and mean nothing by themselves.
    """

    parts: tuple[tuple[Part, Scenario], ...] = ()
    _latest: dict[int, Scenario] = field(default_factory=dict, repr=False)

    def episode(self, seed: int) -> Scenario:
        """The scenario that this seed plays; its name is that of the part."""
        if seed not in self._latest:
            self._latest.clear()
            self._latest[seed] = self._draw(np.random.default_rng([seed, _STREAM]))
        return self._latest[seed]

    def jobs(self, seed: int) -> list[Job]:
        return self.episode(seed).jobs(seed)

    def simulator(self, seed: int) -> Simulator:
        return self.episode(seed).simulator(seed)

    def _draw(self, rng: np.random.Generator) -> Scenario:
        part, base = self.parts[pick(rng, [part.weight for part, _ in self.parts])]
        drawn = base
        if part.cluster is not None:
            drawn = _on_random_cluster(base, part.cluster, rng)
        load = None if part.load is None else float(rng.uniform(*part.load))
        noise = None if part.noise is None else float(rng.uniform(*part.noise))
        jobs = None if part.jobs is None else int(rng.integers(part.jobs[0], part.jobs[1] + 1))
        return replace(drawn.with_(load=load, noise=noise, jobs=jobs), name=base.name)


def load_training(source: str | Path) -> Scenario:
    """What to train on: a scenario (see `load_scenario`), or a mixture by its name or from its file.

    Raises:
        ScenarioError: there is no such thing, or the first thing that is wrong with the file.
    """
    if isinstance(source, str) and source in mixture_names():
        return _load_mixture(_folder() / f"{source}.yaml")
    path = Path(source)
    if path.suffix in (".yaml", ".yml") and path.is_file() and _is_mixture(path):
        return _load_mixture(path)
    if isinstance(source, str) and "/" not in source and not path.suffix and source not in scenario_names():
        raise ScenarioError(f"unknown scenario {source!r}, {did_you_mean(source, scenario_names() + mixture_names())}")
    return load_scenario(source)


def mixture_names() -> list[str]:
    """The mixtures that come with rlsched."""
    return sorted(file.stem for file in _folder().glob("*.yaml"))


def _is_mixture(path: Path) -> bool:
    data = Document(path, ScenarioError).data
    return isinstance(data, dict) and "mixture" in data


def _load_mixture(path: Path) -> Mixture:
    document = Document(path, ScenarioError)
    entry = document.validate(MixtureFile, document.data)
    parts = []
    for number, part in enumerate(entry.mixture):
        beside = path.parent / part.scenario
        try:
            base = load_scenario(beside if beside.is_file() else part.scenario)
        except ScenarioError as error:
            document.fail(("mixture", number, "scenario"), str(error))
        if part.cluster is not None and not isinstance(base.source, Generator):
            document.fail(("mixture", number, "cluster"), "expected a scenario with a workload to draw")
        parts.append((part, base))
    first = parts[0][1]
    return Mixture(
        name=path.stem,
        cluster=first.cluster,
        source=first.source,
        objective=first.objective,
        preemption=any(base.preemption for _, base in parts),
        uncertainty=first.uncertainty,
        seeds=entry.seeds,
        description=entry.description or "",
        parts=tuple(parts),
    )


def _on_random_cluster(base: Scenario, spec: RandomCluster, rng: np.random.Generator) -> Scenario:
    assert isinstance(base.source, Generator)
    least, most = spec.gpus
    total = math.exp(rng.uniform(math.log(least), math.log(most + 1)))
    count = int(rng.integers(spec.types[0], spec.types[1] + 1))
    shares = rng.dirichlet(np.full(count, 2.0)) * total
    nodes, speeds = [], {}
    for number, share in enumerate(shares.tolist()):
        gpu_type = f"type{number}"
        gpus = max(1, round(share))
        size = max(size for size in NODE_SIZES if size <= gpus and (size == 1 or rng.random() < 0.8))
        for machine in range(gpus // size):
            nodes.append(Node(f"{gpu_type}-{machine}", size, gpu_type, cpus=CORES_A_GPU * size))
        mean = 1.0 if number == 0 else float(rng.uniform(spec.slowest, 1.0))
        speeds[gpu_type] = Speed(range=(mean, mean) if number == 0 else (0.67 * mean, min(1.0, 1.33 * mean)))
    cluster = Cluster(tuple(nodes), span_speed=base.cluster.span_speed)
    source = Generator(base.source.workload.model_copy(update={"speeds": speeds}), cluster)
    return replace(base, cluster=cluster, source=source)


def _folder() -> Path:
    return Path(str(files("rlsched.experiments"))) / "mixtures"
