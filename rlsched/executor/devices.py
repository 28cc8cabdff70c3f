"""What this machine has to offer: its GPUs as NVML sees them, or CPU slots where there are none.

No CUDA call is made: a process that has touched CUDA holds memory on the device and cannot fork safely.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import psutil

from rlsched.model import Cluster, Node, Share

CPU = "cpu"
_GIB = 2.0**30


class Machine(NamedTuple):
    """This machine as a cluster.

    Attributes:
        cluster: a node for each kind of GPU, or a single one whose "GPUs" are CPU slots.
        devices: for each node, the ids of its GPUs (UUIDs) or slots (cpu:0, cpu:1 ...), by their index there.
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


class Gpu(NamedTuple):
    """A GPU: its UUID, its type such as "a100", its memory in GiB."""

    uuid: str
    type: str
    memory: float


def local_machine(slots: int | None = None) -> Machine:
    """This machine: the GPUs that NVML finds and `CUDA_VISIBLE_DEVICES` allows, otherwise CPU slots.

    GPUs of several types, or of one type with different memory, become several nodes, since a node has GPUs of one
    kind; the machine's cores and memory are split among these in proportion to their GPUs.

    Args:
        slots: use that many CPU slots (each counts as a core at least), and leave GPUs alone. None: one slot per
            core if there is no GPU.

    Raises:
        ValueError: `slots` is below 1, or `CUDA_VISIBLE_DEVICES` names a device that does not exist.
    """
    if slots is not None and slots < 1:
        raise ValueError(f"slots is {slots}, expected 1 or more")
    host = socket.gethostname() or "localhost"
    cores = len(os.sched_getaffinity(0))
    memory = psutil.virtual_memory().total / _GIB
    gpus = _visible(find_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")) if slots is None else []
    if gpus:
        return _machine_of(gpus, host, cores, memory)
    slots = slots or cores
    node = Node(host, gpus=slots, gpu_type=CPU, cpus=max(cores, slots), memory=memory)
    return Machine(Cluster((node,)), (tuple(f"{CPU}:{slot}" for slot in range(slots)),))


def find_gpus() -> list[Gpu]:
    """All GPUs of this machine, in NVML's order; none if there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [
            Gpu(
                pynvml.nvmlDeviceGetUUID(handle),
                short_type(pynvml.nvmlDeviceGetName(handle)),
                pynvml.nvmlDeviceGetMemoryInfo(handle).total / _GIB,
            )
            for handle in handles
        ]
    finally:
        pynvml.nvmlShutdown()


def short_type(name: str) -> str:
    """A GPU's type as people write it: "NVIDIA A100-SXM4-80GB" is "a100", "NVIDIA GeForce RTX 4090" is "rtx-4090".

    Maker and series, form factor and memory are left out.
    """
    words = name.lower().split()
    while words[1:] and words[0] in ("nvidia", "tesla", "geforce", "quadro"):
        words = words[1:]
    return re.sub(r"-(sxm\d*|pci-?e|pg\d+|nvl|\d+gb|hbm\w*)\b.*", "", "-".join(words))


def _visible(gpus: list[Gpu], setting: str | None) -> list[Gpu]:
    """The GPUs that a `CUDA_VISIBLE_DEVICES` leaves visible: indices, or UUIDs that may be cut short; -1 ends it."""
    if setting is None or not gpus:
        return gpus
    chosen: dict[Gpu, None] = {}
    for entry in map(str.strip, setting.split(",")):
        if entry in ("", "-1", "NoDevFiles"):
            break
        index = int(entry) if entry.isdigit() else None
        named = gpus[index : index + 1] if index is not None else [gpu for gpu in gpus if gpu.uuid.startswith(entry)]
        if len(named) != 1:
            raise ValueError(
                f"CUDA_VISIBLE_DEVICES names {entry!r}, expected one of the {len(gpus)} GPUs of the machine"
            )
        chosen[named[0]] = None
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
