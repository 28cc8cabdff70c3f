"""What this machine has to offer: its GPUs as NVML sees them, or CPU slots where there are none."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import psutil

from rlsched.executor.nvml import GIB, Gpu, find_gpus
from rlsched.model import Cluster, Node, Share

CPU = "cpu"


class Machine(NamedTuple):
    """This machine as a cluster.

    Attributes:
        cluster: a node for each kind of GPU, or a single one whose "GPUs" are CPU slots.
        devices: for each node, by their index there, the ids of its GPUs or MIG instances (UUIDs), or of its slots
            (cpu:0, cpu:1 ...).
    """

    cluster: Cluster
    devices: tuple[tuple[str, ...], ...]

    def held(self, shares: Sequence[Share]) -> list[str]:
        """Ids of the devices that a gang holds."""
        return [self.devices[share.node][gpu] for share in shares for gpu in share.gpus]

    def shares(self, devices: Sequence[str]) -> tuple[Share, ...]:
        """The gang that holds these devices; empty if one of them is not of this machine."""
        places = {device: (node, gpu) for node, ids in enumerate(self.devices) for gpu, device in enumerate(ids)}
        if not all(device in places for device in devices):
            return ()
        gang: dict[int, list[int]] = {}
        for node, gpu in (places[device] for device in devices):
            gang.setdefault(node, []).append(gpu)
        return tuple(Share(node, tuple(gpus)) for node, gpus in gang.items())

    def visible(self, shares: Sequence[Share]) -> str:
        """What `CUDA_VISIBLE_DEVICES` is for a gang: UUIDs; empty if it holds CPU slots or nothing."""
        return ",".join(self.held([share for share in shares if self.cluster.nodes[share.node].gpu_type != CPU]))


def host_name() -> str:
    """The name of this machine."""
    return socket.gethostname() or "localhost"


def is_slot(device: str) -> bool:
    """True for the id of a CPU slot: cpu:0, or NODE/cpu:0 on a cluster."""
    return device.rpartition("/")[2].startswith(f"{CPU}:")


def local_machine(slots: int | None = None, host: str = "", cores: int | None = None) -> Machine:
    """This machine: the GPUs that NVML finds and `CUDA_VISIBLE_DEVICES` allows, otherwise CPU slots.

    A GPU in MIG mode is replaced by its instances. GPUs of several types, or of one type with different memory, become
    several nodes, since a node has GPUs of one kind; the machine's cores and memory are split among these in proportion
    to their GPUs.

    Args:
        slots: use that many CPU slots (each counts as a core at least), and leave GPUs alone. None: one slot per
            core if there is no GPU.
        host: its name; the default is the one that it has.
        cores: how many of its cores may be used; None: those that this process may.

    Raises:
        ValueError: `slots` is below 1, or `CUDA_VISIBLE_DEVICES` names a device that does not exist.
    """
    if slots is not None and slots < 1:
        raise ValueError(f"slots is {slots}, expected 1 or more")
    host = host or host_name()
    cores = cores or len(os.sched_getaffinity(0))
    memory = psutil.virtual_memory().total / GIB
    gpus = _visible(find_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")) if slots is None else []
    if gpus:
        return _machine_of(gpus, host, cores, memory)
    slots = slots or cores
    node = Node(host, gpus=slots, gpu_type=CPU, cpus=max(cores, slots), memory=memory)
    return Machine(Cluster((node,)), (tuple(f"{CPU}:{slot}" for slot in range(slots)),))


def _visible(gpus: list[list[Gpu]], setting: str | None) -> list[Gpu]:
    """What a `CUDA_VISIBLE_DEVICES` leaves visible: indices, or UUIDs that may be cut short; -1 ends it.

    A GPU in MIG mode stands for all of its instances.
    """
    if setting is None or not gpus:
        return [unit for units in gpus for unit in units]
    chosen: dict[Gpu, None] = {}
    for entry in map(str.strip, setting.split(",")):
        if entry in ("", "-1", "NoDevFiles"):
            break
        if entry.isdigit():
            named = gpus[int(entry) : int(entry) + 1]
        else:
            named = [units for units in gpus if units and units[0].parent.startswith(entry)]
            named += [[unit] for units in gpus for unit in units if [unit] not in named and unit.uuid.startswith(entry)]
        if len(named) != 1:
            raise ValueError(
                f"CUDA_VISIBLE_DEVICES names {entry!r}, expected one of the {len(gpus)} GPUs of the machine"
            )
        chosen |= dict.fromkeys(named[0])
    return list(chosen)


def _machine_of(gpus: list[Gpu], host: str, cores: int, memory: float) -> Machine:
    kinds: dict[tuple[str, int], list[Gpu]] = {}
    for gpu in gpus:
        kinds.setdefault((gpu.type, round(gpu.memory)), []).append(gpu)
    nodes = []
    bounds = pairwise(accumulate(map(len, kinds.values()), initial=0))
    for ((gpu_type, size), group), (first, end) in zip(kinds.items(), bounds, strict=True):
        nodes.append(
            Node(
                host if len(kinds) == 1 else f"{host}/{gpu_type}-{size}",
                gpus=len(group),
                gpu_type=gpu_type,
                gpu_memory=min(gpu.memory for gpu in group),
                cpus=cores * end // len(gpus) - cores * first // len(gpus),
                memory=memory * len(group) / len(gpus),
            )
        )
    return Machine(Cluster(tuple(nodes)), tuple(tuple(gpu.uuid for gpu in group) for group in kinds.values()))
