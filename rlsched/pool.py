"""What is free on every node, and where a gang would go."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

from rlsched.model import Cluster, Mode, Share

GIB = 2**30


class _Kind:
    """The nodes with GPUs of one type, by how many they have free.

    Attributes:
        free: GPUs of the type on nodes that are up.
        by_free: number of free GPUs -> the nodes that have exactly that many (a dict, as a set that keeps its order).
    """

    __slots__ = ("by_free", "free")

    def __init__(self, largest: int) -> None:
        self.free = 0
        self.by_free: list[dict[int, None]] = [{} for _ in range(largest + 1)]

    def copy(self) -> _Kind:
        twin = _Kind(0)
        twin.free, twin.by_free = self.free, [nodes.copy() for nodes in self.by_free]
        return twin


class Pool:
    """Free GPUs, cores, memory and custom resources of a cluster.

    Nodes are indexed by how many GPUs they have free, so that best-fit placement looks at candidates in order of
    fit, whatever the size of the cluster. Nothing here is random: equal histories give equal placements.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.up = [True] * len(cluster.nodes)
        self._gpus = [list(range(node.gpus)) for node in cluster.nodes]
        self._out: list[set[int]] = [set() for _ in cluster.nodes]  # GPUs out of service
        self._idle_out: list[set[int]] = [set() for _ in cluster.nodes]  # those among them that nobody holds
        self._cpus = [node.cpus for node in cluster.nodes]
        self._memory = [int(node.memory * GIB) for node in cluster.nodes]  # whole bytes: sums of floats would drift
        self._resources = [dict(node.resources) for node in cluster.nodes]
        self._last_job: list[list[int | None]] = [[None] * node.gpus for node in cluster.nodes]
        self._kinds = {t: _Kind(max(n.gpus for n in cluster.nodes if n.gpu_type == t)) for t in cluster.gpu_types}
        self._free = 0
        self._kind_of = [self._kinds[node.gpu_type] if node.gpus else None for node in cluster.nodes]
        for node, kind in enumerate(self._kind_of):
            if kind is not None:
                self._enter(node, kind)

    def copy(self) -> Pool:
        """Another pool in the same condition, to try out what would happen if."""
        twin = copy.copy(self)
        twin.up, twin._cpus, twin._memory = self.up.copy(), self._cpus.copy(), self._memory.copy()
        twin._gpus = [gpus.copy() for gpus in self._gpus]
        twin._out = [gpus.copy() for gpus in self._out]
        twin._idle_out = [gpus.copy() for gpus in self._idle_out]
        twin._resources = [resources.copy() for resources in self._resources]
        twin._last_job = self.served()
        twin._kinds = {gpu_type: kind.copy() for gpu_type, kind in self._kinds.items()}
        twin._kind_of = [twin._kinds[node.gpu_type] if node.gpus else None for node in self.cluster.nodes]
        return twin

    @property
    def whole(self) -> bool:
        """True if every node and every GPU is in service."""
        return all(self.up) and not any(self._out)

    def free_gpus(self, gpu_type: str | None = None) -> int:
        """Free GPUs of a type, or of all types, on nodes that are up."""
        if gpu_type is None:
            return self._free
        return self._kinds[gpu_type].free if gpu_type in self._kinds else 0

    def free_on(self, node: int) -> int:
        """Free GPUs of one node."""
        return len(self._gpus[node]) if self.up[node] else 0

    def free_resource(self, name: str) -> int:
        """Free units of a custom resource on all nodes that are up."""
        return sum(r.get(name, 0) for r, up in zip(self._resources, self.up, strict=True) if up)

    def amounts(self, node: int) -> dict[str, float]:
        """What is free on a node: `gpus`, `cpus`, `memory` (GiB), custom resources by name; nothing if it is down."""
        if not self.up[node]:
            return {}
        free = {"gpus": len(self._gpus[node]), "cpus": self._cpus[node], "memory": self._memory[node] / GIB}
        return free | self._resources[node]

    def is_cold(self, shares: Sequence[Share], job: int) -> bool:
        """True if some device of the gang last served another job, or none: it has to be set up first."""
        return any(self._last_job[share.node][gpu] != job for share in shares for gpu in share.gpus)

    def served(self) -> list[list[int | None]]:
        """For each GPU of each node, the job that it served last; None: it is cold for all."""
        return [jobs.copy() for jobs in self._last_job]

    def place(self, mode: Mode, job: int | None = None) -> tuple[Share, ...] | None:
        """Where the gang would go now; None if it does not fit.

        On one node where any node of the type is large enough (best fit: the node with the fewest GPUs to spare),
        otherwise on nodes that are entirely free. On a node, devices that are warm for `job` come first.
        """
        gpus = mode.gpus
        if not gpus:
            for index in range(len(self.up)):
                if self._has(index, mode):
                    return (Share(index, ()),)
            return None
        for gpu_type in self.cluster.gpu_types if mode.gpu_type is None else (mode.gpu_type,):
            kind = self._kinds.get(gpu_type)
            if kind is None or kind.free < gpus:
                continue
            if gpus >= len(kind.by_free):
                if nodes := self._whole_nodes(mode, kind):
                    return tuple([Share(node, self._pick(node, count, job)) for node, count in nodes])
            elif (node := self._best_fit(mode, kind)) is not None:
                return (Share(node, self._pick(node, gpus, job)),)
        return None

    def suits(self, shares: Sequence[Share], mode: Mode) -> bool:
        """True if the devices are free and suit the mode."""
        try:
            self._verify(shares, mode)
        except ValueError:
            return False
        return True

    def place_on(
        self, mode: Mode, nodes: Sequence[tuple[int, int]], job: int | None = None
    ) -> tuple[Share, ...] | None:
        """The gang on just these nodes, with so many GPUs on each; None if it does not fit there now."""
        if not all(self._has(node, mode) and len(self._gpus[node]) >= count for node, count in nodes):
            return None
        return tuple(Share(node, self._pick(node, count, job)) for node, count in nodes)

    def take(self, shares: Sequence[Share], mode: Mode, job: int) -> bool:
        """Hand the devices out; True if some device was cold (see `is_cold`).

        Raises:
            ValueError: something is not free or does not suit the mode; names it. Nothing has changed then.
        """
        self._verify(shares, mode)
        cold = False
        for node, gpus in shares:
            free, last = self._gpus[node], self._last_job[node]
            for gpu in gpus:
                free.remove(gpu)
                if last[gpu] != job:
                    last[gpu] = job
                    cold = True
            self._recount(node, -len(gpus))
        if mode.cpus or mode.memory or mode.resources:
            self._change(shares, mode, 1)
        return cold

    def give(self, shares: Sequence[Share], mode: Mode) -> None:
        """Take the devices of a finished or stopped gang back."""
        for node, gpus in shares:
            free = self._gpus[node]
            returned = self._in_service(node, gpus) if self._out[node] else gpus
            free += returned
            free.sort()
            self._recount(node, len(returned))
        if mode.cpus or mode.memory or mode.resources:
            self._change(shares, mode, -1)

    def withhold(self, shares: Sequence[Share], mode: Mode) -> None:
        """Set aside what a gang will take; unlike in `take`, others may still hold it, and then it is owed."""
        for node, gpus in shares:
            before = len(self._gpus[node])
            self._gpus[node] = [gpu for gpu in self._gpus[node] if gpu not in gpus]
            self._recount(node, len(self._gpus[node]) - before)
        self._change(shares, mode, 1)

    def lose(self, node: int) -> None:
        """Take a node out of service; what it still holds is given back as usual. Its devices are cold afterwards."""
        if self.up[node]:
            if (kind := self._kind_of[node]) is not None:
                free = len(self._gpus[node])
                del kind.by_free[free][node]
                kind.free -= free
                self._free -= free
            self.up[node] = False
            self._last_job[node] = [None] * len(self._last_job[node])

    def restore(self, node: int) -> None:
        """Put a lost node back into service."""
        if not self.up[node]:
            self.up[node] = True
            if (kind := self._kind_of[node]) is not None:
                self._enter(node, kind)

    def withdraw(self, node: int, gpus: Sequence[int]) -> None:
        """Take GPUs out of service; whoever holds one keeps it, and it is not handed out again after that."""
        free, out = self._gpus[node], self._out[node]
        before = len(free)
        out.update(gpus)
        self._idle_out[node].update(out.intersection(free))
        free[:] = [gpu for gpu in free if gpu not in out]
        self._recount(node, len(free) - before)

    def reinstate(self, node: int, gpus: Sequence[int]) -> None:
        """Put withdrawn GPUs back into service."""
        free = self._gpus[node]
        before = len(free)
        self._out[node].difference_update(gpus)
        free += self._idle_out[node].intersection(gpus)
        free.sort()
        self._idle_out[node].difference_update(gpus)
        self._recount(node, len(free) - before)

    def _in_service(self, node: int, gpus: Sequence[int]) -> Sequence[int]:
        """Those of the GPUs, which nobody holds any more, that have not been withdrawn."""
        self._idle_out[node].update(self._out[node].intersection(gpus))
        return [gpu for gpu in gpus if gpu not in self._out[node]]

    def _enter(self, node: int, kind: _Kind) -> None:
        free = len(self._gpus[node])
        kind.by_free[free][node] = None
        kind.free += free
        self._free += free

    def _recount(self, node: int, change: int) -> None:
        """Enter that a node has so many more free GPUs than it had.

        Of nodes with as many free GPUs, the one that was used last is the last, even if it was not for its GPUs.
        """
        kind = self._kind_of[node]
        if kind is not None and self.up[node]:
            free = len(self._gpus[node])
            del kind.by_free[free - change][node]
            kind.by_free[free][node] = None
            kind.free += change
            self._free += change

    def _change(self, shares: Sequence[Share], mode: Mode, sign: int) -> None:
        """Take (sign 1) or give back (-1) what a mode takes on each node beside GPUs."""
        cpus, memory = sign * mode.cpus, sign * int(mode.memory * GIB)
        for node, _ in shares:
            self._cpus[node] -= cpus
            self._memory[node] -= memory
            free = self._resources[node]
            for name, amount in mode.resources.items():
                free[name] = free.get(name, 0) - sign * amount

    def _has(self, node: int, mode: Mode) -> bool:
        """Everything but GPUs, and GPU memory, suits the mode."""
        return (
            self.up[node]
            and self._cpus[node] >= mode.cpus
            and (not mode.memory or self._memory[node] >= int(mode.memory * GIB))
            and (not mode.gpu_memory or not mode.gpus or self.cluster.nodes[node].gpu_memory >= mode.gpu_memory)
            and (not mode.resources or all(self._resources[node].get(n, 0) >= a for n, a in mode.resources.items()))
        )

    def _best_fit(self, mode: Mode, kind: _Kind) -> int | None:
        for count in range(mode.gpus, len(kind.by_free)):
            for node in kind.by_free[count]:
                if self._has(node, mode):
                    return node
        return None

    def _whole_nodes(self, mode: Mode, kind: _Kind) -> list[tuple[int, int]]:
        chosen, missing = [], mode.gpus
        for node in self._entirely_free(kind):
            if self._has(node, mode):
                chosen.append((node, min(missing, len(self._gpus[node]))))
                missing -= chosen[-1][1]
                if not missing:
                    return chosen
        return []

    def _entirely_free(self, kind: _Kind) -> Iterator[int]:
        """Nodes without a running gang, largest first."""
        for free in range(len(kind.by_free) - 1, 0, -1):
            yield from (node for node in kind.by_free[free] if self.cluster.nodes[node].gpus == free)

    def _pick(self, node: int, count: int, job: int | None) -> tuple[int, ...]:
        free, last = self._gpus[node], self._last_job[node]
        if count == len(free) or job is None or job not in last:
            return tuple(free[:count])
        return tuple(sorted(sorted(free, key=lambda gpu: last[gpu] != job)[:count]))

    def _verify(self, shares: Sequence[Share], mode: Mode) -> None:
        held = 0
        for _, gpus in shares:
            held += len(gpus)
        if held != mode.gpus:
            raise ValueError(f"the gang holds {held} GPUs, its mode takes {mode.gpus}")
        spans = len(shares) != 1
        if spans and (not shares or len({share.node for share in shares}) != len(shares)):
            raise ValueError("an allocation needs at least one share, and one share a node at the most")
        for node, gpus in shares:
            if not 0 <= node < len(self.up):
                raise ValueError(f"there is no node {node}")
            spec, free = self.cluster.nodes[node], self._gpus[node]
            if held > 1 and len(set(gpus)) != len(gpus):
                raise ValueError(f"node {spec.name!r}: a GPU is named twice")
            for gpu in gpus:
                if gpu in self._out[node]:
                    raise ValueError(f"node {spec.name!r}: GPU {gpu} is out of service")
                if gpu not in free:
                    raise ValueError(f"node {spec.name!r}: GPU {gpu} is not free")
            if gpus and mode.gpu_type is not None and mode.gpu_type != spec.gpu_type:
                raise ValueError(f"node {spec.name!r} has GPUs of type {spec.gpu_type!r}, the mode is for another type")
            if not self._has(node, mode):
                raise ValueError(f"node {spec.name!r} {self._what_is_missing(node, mode)}")
        if spans and mode.gpus and len({self.cluster.nodes[share.node].gpu_type for share in shares}) > 1:
            raise ValueError("the gang mixes GPU types")

    def _what_is_missing(self, node: int, mode: Mode) -> str:
        if not self.up[node]:
            return "is down"
        if self._cpus[node] < mode.cpus:
            return f"has {self._cpus[node]} free CPUs of the {mode.cpus} asked for"
        if self._memory[node] < int(mode.memory * GIB):
            return f"has {self._memory[node] / GIB:g} GiB of memory free of the {mode.memory:g} asked for"
        if mode.gpus and self.cluster.nodes[node].gpu_memory < mode.gpu_memory:
            return f"has {self.cluster.nodes[node].gpu_memory:g} GiB a GPU of the {mode.gpu_memory:g} asked for"
        short = next(n for n, amount in mode.resources.items() if self._resources[node].get(n, 0) < amount)
        return f"has {self._resources[node].get(short, 0)} free {short!r} of the {mode.resources[short]} asked for"
