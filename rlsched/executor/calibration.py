"""What a host costs beyond the estimates of tasks, learned from what has been observed on it.

A run's time is its work stretched by its neighbours: with k busy slots on the node it goes 1 + c (k - 1) times slower,
the contention term of the universal scalability law (Gunther, Guerrilla Capacity Planning, 2007, ch. 4). The work is
what `HostCosts` has the simulator integrate.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median  # the one of numpy imports its masked arrays first

import numpy as np

from rlsched.executor.observations import Observation
from rlsched.model import Cluster
from rlsched.simulator import HostCosts
from rlsched.textfile import writing

_WORST_CONTENTION = 3.0
_PRIOR = 0.05  # weight of "no contention", as residual of one observation per unit of contention
_OUTLIER = 0.1  # residual of a logarithm from which on it counts less than its square
_FEWEST_COLD = 3
_MOST_SLOTS = 256
_SHORTEST = 1e-3  # seconds: clocks say no more, and there is no logarithm of nothing


@dataclass(frozen=True, slots=True)
class Calibration:
    """What running tasks on this host costs.

    Attributes:
        launch_overhead: seconds for which devices are held beyond the time of the command, each time.
        setup_time: seconds that the first task on a device takes longer; None: not known.
        contention: by which part of its time a run takes longer for every further busy slot of its node.
        duration_spread: standard deviation of the logarithm of what the same task takes, run by run.
        observations: how many runs this is learned from.
    """

    launch_overhead: float = 0.0
    setup_time: float | None = None
    contention: float = 0.0
    duration_spread: float = 0.0
    observations: int = 0

    def slowdown(self, slots: int) -> float:
        """How many times as long a run takes while so many slots of its node are busy."""
        return 1.0 + self.contention * (slots - 1)

    def alone(self, observation: Observation) -> float:
        """Seconds that a run would have taken with its node to itself; a millisecond at the least."""
        return max(_SHORTEST, sum(seconds / self.slowdown(slots) for slots, seconds in observation.busy.items()))

    def costs(self, cluster: Cluster) -> HostCosts:
        """The same for the simulator."""
        slots = max(node.gpus + node.cpus for node in cluster.nodes)
        table = tuple(self.slowdown(busy) for busy in range(1, min(max(slots, 1), _MOST_SLOTS) + 1))
        return HostCosts(self.launch_overhead, table if self.contention else ())


def calibrate(groups: Iterable[Collection[Observation]]) -> Calibration:
    """Learn from runs, each group of which are of the same task in the same mode.

    Contention is told from how the times of a group differ with its neighbours; outliers count little (soft L1 loss).
    """
    known = [list(group) for group in groups if group]
    everything = [observation for group in known for observation in group]
    if not everything:
        return Calibration()
    overheads = [o.overhead for o in everything if o.overhead is not None]
    launch_overhead = median(overheads) if overheads else 0.0
    warm = [[o for o in group if not o.cold] or group for group in known]
    several = [group for group in warm if len(group) > 1]
    contention = _contention(several)
    calibration = Calibration(launch_overhead, None, contention, 0.0, len(everything))
    return Calibration(
        launch_overhead,
        _setup_time(known, calibration),
        contention,
        _spread(several, calibration),
        len(everything),
    )


def read_calibration(file: Path) -> Calibration:
    """The calibration in a file; nothing is known if there is none, or if it is damaged."""
    try:
        content = json.loads(file.read_text())
        return Calibration(**{name: content[name] for name in asdict(Calibration())})
    except (OSError, ValueError, KeyError, TypeError):
        return Calibration()


def write_calibration(file: Path, calibration: Calibration, slots: int) -> None:
    """Write it for `read_calibration`, and for people: with the slow-down for 1 to so many busy slots.

    Raises:
        OSError: it cannot be written.
    """
    content: Mapping[str, object] = {
        name: round(value, 5) if isinstance(value, float) else value for name, value in asdict(calibration).items()
    }
    table = [round(calibration.slowdown(busy), 3) for busy in range(1, min(slots, _MOST_SLOTS) + 1)]
    with writing(file) as text:
        text.write(json.dumps({**content, "slowdown": table}, indent=1) + "\n")


def _contention(groups: list[list[Observation]]) -> float:
    """The contention that leaves the least differences within groups."""
    if not groups:
        return 0.0
    from scipy.optimize import minimize_scalar  # which takes a third of a second to import

    def loss(contention: float) -> float:
        calibration = Calibration(contention=contention)
        residuals = np.concatenate([_residuals(group, calibration) for group in groups])
        soft = 2 * _OUTLIER**2 * (np.sqrt(1 + (residuals / _OUTLIER) ** 2) - 1)
        return float(soft.sum() + (_PRIOR * contention) ** 2)

    best = minimize_scalar(loss, bounds=(0.0, _WORST_CONTENTION), method="bounded", options={"xatol": 1e-4})
    return 0.0 if loss(0.0) <= float(best.fun) else float(best.x)


def _residuals(group: list[Observation], calibration: Calibration) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    logs = np.log([calibration.alone(observation) for observation in group])
    centred: np.ndarray[tuple[int], np.dtype[np.float64]] = logs - median(logs)
    return centred


def _setup_time(groups: list[list[Observation]], calibration: Calibration) -> float | None:
    """Median of what the first run on a device took beyond the median of the others of its group."""
    extra: list[float] = []
    for group in groups:
        warm = [calibration.alone(o) for o in group if not o.cold]
        if warm:
            extra += [calibration.alone(o) - median(warm) for o in group if o.cold]
    return max(0.0, median(extra)) if len(extra) >= _FEWEST_COLD else None


def _spread(groups: list[list[Observation]], calibration: Calibration) -> float:
    """Pooled over groups; from absolute deviations, so that a few outliers do not make it."""
    if not groups:
        return 0.0
    deviations = [abs(r) * math.sqrt(len(g) / (len(g) - 1)) for g in groups for r in _residuals(g, calibration)]
    return 1.4826 * float(median(deviations))
