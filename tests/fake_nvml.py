"""A stand-in for the `pynvml` module on a machine without GPUs: as much of it as the project calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

GIB = 2**30


@dataclass(eq=False)
class FakeGpu:
    """A GPU as NVML describes it, which a test changes as it likes; memory in GiB.

    Attributes:
        instances: its MIG instances; not None: it is in MIG mode.
        profile: of an instance, such as "1g.5gb".
        processes: numbers of the processes that compute on it.
        drawing: GiB that the desktop takes on it.
        in_use: GiB.
        uncorrected: ECC errors; None: it has no ECC.
        remapping: rows wait for a reset to be remapped.
        retiring: pages wait for a reset to be retired.
        gone: it has fallen off the bus.
    """

    uuid: str
    name: str = "NVIDIA A100-SXM4-80GB"
    memory: int = 80
    instances: list[FakeGpu] | None = None
    profile: str = ""
    processes: list[int] = field(default_factory=list)
    drawing: float = 0.0
    in_use: float = 0.4
    utilisation: int = 0
    power: float = 60.0
    temperature: int = 35
    uncorrected: int | None = 0
    remapping: bool = False
    retiring: bool = False
    gone: bool = False


class NVMLError(Exception):
    """What the real module raises."""


class NotSupportedError(NVMLError):
    """This GPU does not know such a thing."""


class NotFoundError(NVMLError):
    """There is no such thing."""


class NothingHappenedError(NVMLError):
    """No event in the time given."""


class FakeNvml(ModuleType):
    """Put it at `sys.modules["pynvml"]`. `gpus` is None: there is no driver.

    Attributes:
        open: how often it has been opened and not yet closed.
        xids: critical errors that the driver is about to report: GPU and number.
        hanging: while it is cleared, every question waits.
    """

    NVMLError = NVMLError
    NVMLError_NotSupported = NotSupportedError
    NVMLError_NotFound = NotFoundError
    NVMLError_Timeout = NothingHappenedError
    NVML_DEVICE_MIG_ENABLE = 1
    NVML_TEMPERATURE_GPU = 0
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    NVML_VOLATILE_ECC = 0
    nvmlMemory_v2 = 2  # noqa: N815
    nvmlEventTypeXidCriticalError = 8  # noqa: N815

    def __init__(self, gpus: Sequence[FakeGpu] | None) -> None:
        super().__init__("pynvml")
        self._gpus = gpus
        self.open = 0
        self.xids: list[tuple[FakeGpu, int]] = []
        self.hanging = threading.Event()
        self.hanging.set()

    def nvmlInit(self) -> None:  # noqa: N802
        if self._gpus is None:
            raise NVMLError("NVML Shared Library Not Found")
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self._check_open()
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        self._check_open()
        return len(self._gpus or ())

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:  # noqa: N802
        self._check_open()
        return (self._gpus or ())[index]

    def nvmlDeviceGetUUID(self, handle: FakeGpu) -> str:  # noqa: N802
        return self._of(handle).uuid

    def nvmlDeviceGetName(self, handle: FakeGpu) -> str:  # noqa: N802
        gpu = self._of(handle)
        return f"{gpu.name} MIG {gpu.profile}" if gpu.profile else gpu.name

    def nvmlDeviceGetMemoryInfo(self, handle: FakeGpu, version: int | None = None) -> SimpleNamespace:  # noqa: N802
        gpu = self._of(handle)
        return SimpleNamespace(total=gpu.memory * GIB, used=int(gpu.in_use * GIB))

    def nvmlDeviceGetMigMode(self, handle: FakeGpu) -> list[int]:  # noqa: N802
        if "A100" not in self._of(handle).name:
            raise NotSupportedError
        return [int(handle.instances is not None)] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: FakeGpu) -> int:  # noqa: N802
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: FakeGpu, index: int) -> FakeGpu:  # noqa: N802
        instances = self._of(handle).instances or []
        if index >= len(instances):
            raise NotFoundError
        return instances[index]

    def nvmlDeviceGetUtilizationRates(self, handle: FakeGpu) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(gpu=self._whole(handle).utilisation)

    def nvmlDeviceGetPowerUsage(self, handle: FakeGpu) -> int:  # noqa: N802
        return int(self._whole(handle).power * 1000)

    def nvmlDeviceGetTemperature(self, handle: FakeGpu, sensor: int) -> int:  # noqa: N802
        return self._of(handle).temperature

    def nvmlDeviceGetComputeRunningProcesses(self, handle: FakeGpu) -> list[SimpleNamespace]:  # noqa: N802
        return [SimpleNamespace(pid=pid, usedGpuMemory=None) for pid in self._of(handle).processes]

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: FakeGpu) -> list[SimpleNamespace]:  # noqa: N802
        gpu = self._whole(handle)
        return [SimpleNamespace(pid=1, usedGpuMemory=int(gpu.drawing * GIB))] if gpu.drawing else []

    def nvmlDeviceGetTotalEccErrors(self, handle: FakeGpu, kind: int, counter: int) -> int:  # noqa: N802
        if (errors := self._of(handle).uncorrected) is None:
            raise NotSupportedError
        return errors

    def nvmlDeviceGetRetiredPagesPendingStatus(self, handle: FakeGpu) -> int:  # noqa: N802
        return int(self._of(handle).retiring)

    def nvmlDeviceGetRemappedRows(self, handle: FakeGpu) -> tuple[int, int, int, int]:  # noqa: N802
        return (0, 0, int(self._of(handle).remapping), 0)

    def nvmlEventSetCreate(self) -> Callable[[], Any]:  # noqa: N802
        self._check_open()
        return lambda: self.xids.pop(0) if self.xids else None

    def nvmlDeviceRegisterEvents(self, handle: FakeGpu, kinds: int, events: object) -> None:  # noqa: N802
        self._of(handle)

    def nvmlEventSetWait_v2(self, events: Callable[[], Any], milliseconds: int) -> SimpleNamespace:  # noqa: N802
        if (happened := events()) is None:
            raise NothingHappenedError
        return SimpleNamespace(device=happened[0], eventData=happened[1])

    def _check_open(self) -> None:
        if not self.open:
            raise NVMLError("Uninitialized")

    def _of(self, handle: FakeGpu) -> FakeGpu:
        self.hanging.wait(60)
        self._check_open()
        if handle.gone:
            raise NVMLError("GPU is lost")
        return handle

    def _whole(self, handle: FakeGpu) -> FakeGpu:
        if self._of(handle).profile:
            raise NotSupportedError
        return handle
