"""What is free on every node, and where a gang would go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy

from rlsched.model import Cluster, Mode, Share

GIB = 2**30


class Pool:
    """Free GPUs, cores, memory and custom resources of a cluster.

    Nodes are indexed by how many GPUs they have free, so that best-fit placement looks at candidates in order of
    fit, whatever the size of the cluster. Nothing here is random: equal histories give equal placements.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.up = [True] * len(cluster.nodes)
        self._gpus = [list(range(node.gpus)) for node in cluster.nodes]
        self._cpus = [node.cpus for node in cluster.nodes]
        self._memory = [int(node.memory * GIB) for node in cluster.nodes]  # whole bytes: sums of floats would drift
        self._resources = [dict(node.resources) for node in cluster.nodes]
        self._last_job: list[list[int | None]] = [[None] * node.gpus for node in cluster.nodes]
        self._largest = {t: max(n.gpus for n in cluster.nodes if n.gpu_type == t) for t in cluster.gpu_types}
        # type -> number of free GPUs -> the nodes that have exactly that many (a dict, as a set that keeps its order)
        self._by_free: dict[str, list[dict[int, None]]] = {
            gpu_type: [{} for _ in range(largest + 1)] for gpu_type, largest in self._largest.items()
        }
        self._free = dict.fromkeys(cluster.gpu_types, 0)
        for index in range(len(cluster.nodes)):
            self._count(index, 1)

    def copy(self) -> Pool:
        """Another pool with the same things free, to try placements on."""
        twin = copy(self)
        twin.up = self.up.copy()
        twin._gpus = [free.copy() for free in self._gpus]
        twin._cpus, twin._memory = self._cpus.copy(), self._memory.copy()
        twin._resources = [free.copy() for free in self._resources]
        twin._last_job = [last.copy() for last in self._last_job]
        twin._by_free = {kind: [nodes.copy() for nodes in by] for kind, by in self._by_free.items()}
        twin._free = self._free.copy()
        return twin

    def free_gpus(self, gpu_type: str | None = None) -> int:
        """Free GPUs of a type, or of all types, on nodes that are up."""
        return sum(self._free.values()) if gpu_type is None else self._free.get(gpu_type, 0)

    def free_on(self, node: int) -> int:
        """Free GPUs of one node."""
        return len(self._gpus[node]) if self.up[node] else 0

    def free_resource(self, name: str) -> int:
        """Free units of a custom resource on all nodes that are up."""
        return sum(r.get(name, 0) for r, up in zip(self._resources, self.up, strict=True) if up)

    def is_cold(self, shares: Sequence[Share], job: int) -> bool:
        """True if some device of the gang last served another job, or none: it has to be set up first."""
        return any(self._last_job[share.node][gpu] != job for share in shares for gpu in share.gpus)

    def place(self, mode: Mode, job: int | None = None) -> tuple[Share, ...] | None:
        """Where the gang would go now; None if it does not fit.

        On one node where any node of the type is large enough (best fit: the node with the fewest GPUs to spare),
        otherwise on nodes that are entirely free. On a node, devices that are warm for `job` come first.
        """
        if mode.gpus == 0:
            node = next((i for i in range(len(self.up)) if self._has(i, mode)), None)
            return None if node is None else (Share(node, ()),)
        for gpu_type in self.cluster.gpu_types if mode.gpu_type is None else (mode.gpu_type,):
            if self._free.get(gpu_type, 0) < mode.gpus:
                continue
            spans = mode.gpus > self._largest[gpu_type]
            nodes = self._whole_nodes(mode, gpu_type) if spans else self._best_fit(mode, gpu_type)
            if nodes:
                return tuple(Share(node, self._pick(node, count, job)) for node, count in nodes)
        return None

    def take(self, shares: Sequence[Share], mode: Mode, job: int) -> bool:
        """Hand the devices out; True if some device was cold (see `is_cold`).

        Raises:
            ValueError: something is not free or does not suit the mode; names it. Nothing has changed then.
        """
        self._verify(shares, mode)
        cold = self.is_cold(shares, job)
        self._change(shares, mode, 1)
        for share in shares:
            for gpu in share.gpus:
                self._gpus[share.node].remove(gpu)
                self._last_job[share.node][gpu] = job
            self._count(share.node, 1)
        return cold

    def give(self, shares: Sequence[Share], mode: Mode) -> None:
        """Take the devices of a finished or stopped gang back."""
        self._change(shares, mode, -1)
        for share in shares:
            self._gpus[share.node] = sorted((*self._gpus[share.node], *share.gpus))
            self._count(share.node, 1)

    def lose(self, node: int) -> None:
        """Take a node out of service; what it still holds is given back as usual. Its devices are cold afterwards."""
        if self.up[node]:
            self._count(node, -1)
            self.up[node] = False
            self._last_job[node] = [None] * len(self._last_job[node])

    def restore(self, node: int) -> None:
        """Put a lost node back into service."""
        if not self.up[node]:
            self.up[node] = True
            self._count(node, 1)

    def _count(self, node: int, sign: int) -> None:
        """Enter a node in the index of free GPUs (sign 1) or take it out (-1)."""
        spec = self.cluster.nodes[node]
        if self.up[node] and spec.gpus:
            free = len(self._gpus[node])
            self._free[spec.gpu_type] += sign * free
            if sign > 0:
                self._by_free[spec.gpu_type][free][node] = None
            else:
                del self._by_free[spec.gpu_type][free][node]

    def _change(self, shares: Sequence[Share], mode: Mode, sign: int) -> None:
        for share in shares:
            self._count(share.node, -1)
            self._cpus[share.node] -= sign * mode.cpus
            self._memory[share.node] -= sign * int(mode.memory * GIB)
            free = self._resources[share.node]
            for name, amount in mode.resources.items():
                free[name] = free.get(name, 0) - sign * amount

    def _has(self, node: int, mode: Mode) -> bool:
        """Everything but GPUs, and GPU memory, suits the mode."""
        return (
            self.up[node]
            and self._cpus[node] >= mode.cpus
            and self._memory[node] >= int(mode.memory * GIB)
            and (not mode.gpus or self.cluster.nodes[node].gpu_memory >= mode.gpu_memory)
            and (not mode.resources or all(self._resources[node].get(n, 0) >= a for n, a in mode.resources.items()))
        )

    def _best_fit(self, mode: Mode, gpu_type: str) -> list[tuple[int, int]]:
        for nodes in self._by_free[gpu_type][mode.gpus :]:
            for node in nodes:
                if self._has(node, mode):
                    return [(node, mode.gpus)]
        return []

    def _whole_nodes(self, mode: Mode, gpu_type: str) -> list[tuple[int, int]]:
        chosen, missing = [], mode.gpus
        for node in self._entirely_free(gpu_type):
            if self._has(node, mode):
                chosen.append((node, min(missing, len(self._gpus[node]))))
                missing -= chosen[-1][1]
                if not missing:
                    return chosen
        return []

    def _entirely_free(self, gpu_type: str) -> Iterator[int]:
        """Nodes without a running gang, largest first."""
        by_free = self._by_free[gpu_type]
        for free in range(len(by_free) - 1, 0, -1):
            yield from (node for node in by_free[free] if self.cluster.nodes[node].gpus == free)

    def _pick(self, node: int, count: int, job: int | None) -> tuple[int, ...]:
        free, last = self._gpus[node], self._last_job[node]
        if job is None or not any(last[gpu] == job for gpu in free):
            return tuple(free[:count])
        return tuple(sorted(sorted(free, key=lambda gpu: last[gpu] != job)[:count]))

    def _verify(self, shares: Sequence[Share], mode: Mode) -> None:
        if sum(len(share.gpus) for share in shares) != mode.gpus:
            held = sum(len(share.gpus) for share in shares)
            raise ValueError(f"the gang holds {held} GPUs, its mode takes {mode.gpus}")
        if not shares or len({share.node for share in shares}) != len(shares):
            raise ValueError("an allocation needs at least one share, and one share a node at the most")
        for share in shares:
            if not 0 <= share.node < len(self.up):
                raise ValueError(f"there is no node {share.node}")
            node = self.cluster.nodes[share.node]
            if len(set(share.gpus)) != len(share.gpus):
                raise ValueError(f"node {node.name!r}: a GPU is named twice")
            if busy := [gpu for gpu in share.gpus if gpu not in self._gpus[share.node]]:
                raise ValueError(f"node {node.name!r}: GPU {busy[0]} is not free")
            if share.gpus and mode.gpu_type not in (None, node.gpu_type):
                raise ValueError(f"node {node.name!r} has GPUs of type {node.gpu_type!r}, the mode is for another type")
            if not self._has(share.node, mode):
                raise ValueError(f"node {node.name!r} {self._what_is_missing(share.node, mode)}")
        if mode.gpus and len({self.cluster.nodes[share.node].gpu_type for share in shares}) > 1:
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
