"""How a run would go, by the simulator."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from rlsched.model import Cluster, Job
from rlsched.schedule import Schedule
from rlsched.scheduler import Policy, Scheduler
from rlsched.simulator import HostCosts, Simulator, Uncertainty


def predict(
    jobs: Sequence[Job],
    cluster: Cluster,
    policy: Policy,
    costs: HostCosts | None = None,
    seed: int = 0,
    uncertainty: Uncertainty | None = None,
) -> Schedule:
    """The schedule that a policy makes in simulation, on a host with such costs; by default every estimate is right.

    The policy's own memory is left as it was.
    """
    return Scheduler(Simulator(cluster, jobs, seed, uncertainty, costs)).run(copy.deepcopy(policy))
