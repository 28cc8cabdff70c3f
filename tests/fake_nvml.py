"""A stand-in for the `pynvml` module on a machine without GPUs: as much of it as the project calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace


@dataclass(frozen=True)
class FakeGpu:
    """A GPU as NVML describes it; memory in GiB."""

    uuid: str
    name: str = "NVIDIA A100-SXM4-80GB"
    memory: int = 80


class FakeNvml(ModuleType):
    """Put it at `sys.modules["pynvml"]`. `gpus` is None: there is no driver."""

    class NVMLError(Exception):
        """What the real module raises."""

    def __init__(self, gpus: Sequence[FakeGpu] | None) -> None:
        super().__init__("pynvml")
        self._gpus = gpus
        self.open = False

    def nvmlInit(self) -> None:  # noqa: N802
        if self._gpus is None:
            raise self.NVMLError("NVML Shared Library Not Found")
        self.open = True

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open = False

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self._found())

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:  # noqa: N802
        return self._found()[index]

    def nvmlDeviceGetUUID(self, handle: FakeGpu) -> str:  # noqa: N802
        self._found()
        return handle.uuid

    def nvmlDeviceGetName(self, handle: FakeGpu) -> str:  # noqa: N802
        self._found()
        return handle.name

    def nvmlDeviceGetMemoryInfo(self, handle: FakeGpu) -> SimpleNamespace:  # noqa: N802
        self._found()
        return SimpleNamespace(total=handle.memory * 2**30)

    def _found(self) -> Sequence[FakeGpu]:
        if not self.open:
            raise self.NVMLError("Uninitialized")
        return self._gpus or ()
