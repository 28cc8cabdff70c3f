"""What goes on by itself, so that nobody has to decide about each member of a large array task."""

from __future__ import annotations

from rlsched.active import Status, TaskState
from rlsched.model import Allocation, Member
from rlsched.state import State


class Continuation:
    """A gang that has run a member of an array task goes on with the next one, until there is something to think about.

    That is so when a task has become ready since the policy decided, of a job that arrived or one further on. In Spark,
    too, an executor stays with a stage, and a scheduler decides when stages or jobs change (Mao et al., Decima,
    SIGCOMM 2019, sec. 5.2).
    """

    def __init__(self) -> None:
        self._state: State | None = None
        self._gangs: dict[Member, tuple[TaskState, Allocation, int]] = {}

    def decided(self, allocation: Allocation, state: State) -> None:
        """Remember a decision of the policy that has been carried out, or soon will be."""
        member = allocation.member
        task = state.jobs[member.job].tasks[member.task]
        if task.task.array > 1:
            self._remember(allocation, task, state.became_ready, state)

    def __call__(self, state: State) -> Allocation | None:
        """The start of a next member that follows by itself now, if there is one."""
        if state is not self._state:
            return None
        for member in [member for member in self._gangs if member not in state.running]:
            task, allocation, thought = self._gangs.pop(member)
            if thought != state.became_ready or task.status is not Status.READY:
                continue
            if state.pool.suits(allocation.shares, task.task.modes[allocation.mode]):
                following = Allocation(task.next_member(), allocation.mode, allocation.shares)
                self._remember(following, task, thought, state)
                return following
        return None

    def _remember(self, allocation: Allocation, task: TaskState, thought: int, state: State) -> None:
        if state is not self._state:
            self._state, self._gangs = state, {}
        self._gangs[allocation.member] = (task, allocation, thought)
