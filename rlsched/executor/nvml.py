"""The machine's GPUs as NVML, the driver's management library, sees them.

No CUDA call is made: a process that has touched CUDA holds memory on the device and cannot fork safely. NVML may hang
when a GPU is in trouble; see `rlsched.executor.patience`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

GIB = 2.0**30
IDLE_MEMORY = 1.0  # GiB that the driver itself may keep on a GPU that nobody uses

# Xids that tell of an error in the application and not in the GPU, as NVIDIA's device plugin for Kubernetes has them
# (k8s-device-plugin, internal/rm/health.go).
_XIDS_OF_APPLICATIONS = frozenset({13, 31, 43, 45, 68, 109})


_log = logging.getLogger(__name__)


class Gpu(NamedTuple):
    """A GPU, or a MIG instance: its UUID, its type such as "a100", its memory in GiB.

    `parent` is the UUID of the GPU that an instance is part of, and of a GPU its own.
    """

    uuid: str
    type: str
    memory: float
    parent: str


@dataclass(frozen=True, slots=True)
class Reading:
    """How a GPU is doing; None: it does not tell.

    Attributes:
        utilisation: part of the time in which something ran on it, 0 to 1.
        memory: GiB in use.
        power: watts.
        temperature: degrees Celsius.
    """

    utilisation: float | None
    memory: float | None
    power: float | None
    temperature: float | None


class NvmlError(Exception):
    """NVML does not answer, or the GPU is gone."""


class Nvml:
    """NVML, open for use; close it in the end.

    Raises:
        NvmlError: there is no driver.
    """

    def __init__(self) -> None:
        import pynvml

        self._nvml: Any = pynvml
        self._not_there = tuple(
            kind
            for name in ("NotSupported", "NoPermission", "FunctionNotFound", "InvalidArgument")
            if (kind := getattr(pynvml, f"NVMLError_{name}", None))
        )
        with self._errors():
            pynvml.nvmlInit()
        self._handles: dict[str, Any] = {}
        self._parents: dict[str, Any] = {}
        self._events: Any = None

    def close(self) -> None:
        with self._errors():
            self._nvml.nvmlShutdown()

    def gpus(self) -> list[list[Gpu]]:
        """For each GPU, in NVML's order, what can be handed out: itself, or its instances if it is in MIG mode.

        Nothing of one that is gone, which is a warning.

        Raises:
            NvmlError: it cannot be found out.
        """
        with self._errors():
            count = self._nvml.nvmlDeviceGetCount()
        return [self._units_at(index) for index in range(count)]

    def reading(self, uuid: str) -> Reading:
        """How a GPU of `gpus` is doing. Instances share temperature; they tell no utilisation and no power.

        Raises:
            NvmlError: it is gone.
        """
        nvml, handle = self._nvml, self._handles[uuid]
        with self._errors():
            rates = self._ask(nvml.nvmlDeviceGetUtilizationRates, handle)
            power = self._ask(nvml.nvmlDeviceGetPowerUsage, handle)
            temperature = self._ask(nvml.nvmlDeviceGetTemperature, self._parents[uuid], nvml.NVML_TEMPERATURE_GPU)
            memory = self._memory_in_use(handle)
        return Reading(
            None if rates is None else rates.gpu / 100,
            memory,
            None if power is None else power / 1000,
            None if temperature is None else float(temperature),
        )

    def trouble(self, uuid: str) -> str:
        """What is wrong with a GPU, for people; empty if nothing is known to be.

        Uncorrected ECC errors since the driver was loaded, and pages or rows of memory that wait for a reset to be
        retired (NVIDIA GPU Memory Error Management, section "Row remapping").

        Raises:
            NvmlError: it is gone.
        """
        nvml, gpu = self._nvml, self._parents[uuid]
        with self._errors():
            uncorrected = self._ask(
                nvml.nvmlDeviceGetTotalEccErrors, gpu, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
            )
            if uncorrected:
                return f"{uncorrected} uncorrected ECC errors"
            if self._ask(nvml.nvmlDeviceGetRetiredPagesPendingStatus, gpu):
                return "memory pages wait for a reset to be retired"
            _, _, pending, failed = self._ask(nvml.nvmlDeviceGetRemappedRows, gpu) or (0, 0, 0, 0)
        if failed:
            return "memory rows could not be remapped"
        return "memory rows wait for a reset to be remapped" if pending else ""

    def use(self, uuid: str) -> str:
        """Who uses a GPU, for people: processes that compute, or memory that is not free; empty if nobody does.

        Raises:
            NvmlError: it is gone.
        """
        nvml, handle = self._nvml, self._handles[uuid]
        with self._errors():
            computing = self._ask(nvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
            drawing = self._ask(nvml.nvmlDeviceGetGraphicsRunningProcesses, handle) or []
            memory = self._memory_in_use(handle)
        if computing:
            return f"process {', '.join(str(process.pid) for process in computing)} computes on it"
        shown = sum(process.usedGpuMemory or 0 for process in drawing) / GIB
        return f"{memory:.1f} GiB of its memory are in use" if memory and memory - shown > IDLE_MEMORY else ""

    def critical_xids(self) -> dict[str, int]:
        """The GPUs of `gpus` for which the driver has reported a critical error since the last call, and its number.

        Raises:
            NvmlError: it cannot be found out.
        """
        found: dict[str, int] = {}
        with self._errors():
            if self._events is None:
                self._events = self._listen()
            while (event := self._next_event()) is not None:
                if event.eventData not in _XIDS_OF_APPLICATIONS:
                    gpu = self._nvml.nvmlDeviceGetUUID(event.device)
                    parents = {uuid: self._nvml.nvmlDeviceGetUUID(parent) for uuid, parent in self._parents.items()}
                    found |= {uuid: int(event.eventData) for uuid, parent in parents.items() if parent == gpu}
        return found

    def _units_at(self, index: int) -> list[Gpu]:
        try:
            return list(self._units(self._nvml.nvmlDeviceGetHandleByIndex(index)))
        except self._nvml.NVMLError as error:
            _log.warning("GPU %d is not used, it cannot be read: %s", index, error)
            return []

    def _units(self, handle: Any) -> Iterator[Gpu]:
        nvml = self._nvml
        uuid, kind = nvml.nvmlDeviceGetUUID(handle), short_type(nvml.nvmlDeviceGetName(handle))
        modes = self._ask(nvml.nvmlDeviceGetMigMode, handle)
        if modes is None or modes[0] != nvml.NVML_DEVICE_MIG_ENABLE:
            yield self._unit(uuid, kind, handle, handle)
            return
        for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            try:
                instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
            except nvml.NVMLError_NotFound:
                continue
            profile = nvml.nvmlDeviceGetName(instance).rpartition("MIG ")[2]
            yield self._unit(nvml.nvmlDeviceGetUUID(instance), f"{kind}-{profile}", instance, handle)

    def _unit(self, uuid: str, kind: str, handle: Any, parent: Any) -> Gpu:
        self._handles[uuid], self._parents[uuid] = handle, parent
        memory = self._nvml.nvmlDeviceGetMemoryInfo(handle).total / GIB
        return Gpu(uuid, kind, memory, self._nvml.nvmlDeviceGetUUID(parent))

    def _memory_in_use(self, handle: Any) -> float | None:
        """GiB; without what the driver reserves for itself, where it says how much that is."""
        nvml = self._nvml
        found = self._ask(nvml.nvmlDeviceGetMemoryInfo, handle, nvml.nvmlMemory_v2)
        found = found or self._ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        return None if found is None else found.used / GIB

    def _listen(self) -> Any:
        nvml = self._nvml
        events = nvml.nvmlEventSetCreate()
        for gpu in {nvml.nvmlDeviceGetUUID(parent): parent for parent in self._parents.values()}.values():
            self._ask(nvml.nvmlDeviceRegisterEvents, gpu, nvml.nvmlEventTypeXidCriticalError, events)
        return events

    def _next_event(self) -> Any:
        try:
            return self._ask(self._nvml.nvmlEventSetWait_v2, self._events, 0)
        except self._nvml.NVMLError_Timeout:
            return None

    def _ask(self, function: Any, *arguments: Any) -> Any:
        """The answer; None if this GPU or driver does not know such a thing, or does not let us ask."""
        try:
            return function(*arguments)
        except self._not_there:
            return None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self._nvml.NVMLError as error:
            raise NvmlError(str(error)) from None


def find_gpus() -> list[list[Gpu]]:
    """See `Nvml.gpus`; empty if there is no driver."""
    try:
        nvml = Nvml()
    except NvmlError:
        return []
    try:
        return nvml.gpus()
    finally:
        nvml.close()


def short_type(name: str) -> str:
    """A GPU's type as people write it: "NVIDIA A100-SXM4-80GB" is "a100", "NVIDIA GeForce RTX 4090" is "rtx-4090".

    Maker and series, form factor and memory are left out.
    """
    words = name.lower().split()
    while words[1:] and words[0] in ("nvidia", "tesla", "geforce", "quadro"):
        words = words[1:]
    return re.sub(r"-(sxm\d*|pci-?e|pg\d+|nvl|\d+gb|hbm\w*)\b.*", "", "-".join(words))
