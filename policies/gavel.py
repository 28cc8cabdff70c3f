"""Gavel's policies by name (Narayanan et al., OSDI 2020): an objective for the shares of time, played in rounds.

The unit that Gavel calls a job is here a ready or running task, of an array task each member; weights are the job's.
"""

from __future__ import annotations

from rlsched.policies import timeshares
from rlsched.policies.rounds import RoundPolicy


class MaxMinFairness(RoundPolicy):
    """Gavel's max-min fairness: the smallest throughput relative to an equal share is made as large as possible."""

    objective = staticmethod(timeshares.max_min_fairness)


class Makespan(RoundPolicy):
    """Gavel's makespan policy: what takes longest gets so much time that all end together, as early as possible."""

    objective = staticmethod(timeshares.makespan)


class TotalThroughput(RoundPolicy):
    """Gavel's total throughput: as much work a second as possible, fair or not."""

    objective = staticmethod(timeshares.total_throughput)


class FinishTimeFairness(RoundPolicy):
    """Gavel's finish-time fairness: the largest time relative to that on an equal share is made small (Themis)."""

    objective = staticmethod(timeshares.finish_time_fairness)


class FirstComeFirstServed(RoundPolicy):
    """Gavel's first come, first served: speeds are weighted by the place in the queue."""

    objective = staticmethod(timeshares.first_come_first_served)


class ShortestFirst(RoundPolicy):
    """Gavel's shortest job first: speeds are weighted by the place in the order of the time left."""

    objective = staticmethod(timeshares.shortest_first)
