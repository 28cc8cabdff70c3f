"""Which GPUs may be handed out: those that are sound, that nobody else uses, and whose memory is free again.

What runs is never touched: a GPU that cannot be seen, or that is sick, is not handed out, and that is all.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum

from rlsched.executor.devices import CPU, Machine
from rlsched.executor.nvml import Gpu, Nvml, NvmlError
from rlsched.executor.patience import Patient
from rlsched.model import Member, Share
from rlsched.scheduler import DevicesLost, DevicesRestored

CHECK_INTERVAL = 5.0
SETTLING_TIME = 30.0  # that the memory of a GPU may take to be free once a task has ended
_POLL_INTERVAL = 0.2  # while a GPU settles
_ANSWER_TIME = 10.0

_log = logging.getLogger(__name__)
Event = DevicesLost | DevicesRestored


class Reason(StrEnum):
    """Why a GPU is not handed out. SETTLING: a task has just ended on it, and its memory is not free yet."""

    UNHEALTHY = "unhealthy"
    UNREADABLE = "unreadable"
    BUSY = "busy"
    SETTLING = "settling"


class Guard:
    """Watches the GPUs of a machine; it has nothing to do where there are only CPU slots.

    Args:
        machine: the devices.
        note: called with the id of a device and why it is not handed out, or "" when it is again.
        interval: seconds between two looks at all GPUs; None: 5.
        settling_time: seconds that a GPU has to free its memory after a task.

    Attributes:
        out: the GPUs that are not handed out, by id.
    """

    def __init__(
        self,
        machine: Machine,
        note: Callable[[str, str], object] = lambda device, reason: None,
        interval: float | None = None,
        settling_time: float = SETTLING_TIME,
    ) -> None:
        self.out: dict[str, Reason] = {}
        self._note = note
        self._interval = CHECK_INTERVAL if interval is None else interval
        self._settling_time = settling_time
        self._places = {
            device: (node, gpu) for node, ids in enumerate(machine.devices) for gpu, device in enumerate(ids)
        }
        self._held: set[str] = set()
        self._settling: dict[str, float] = {}  # by device: until when it may
        self._xids: dict[str, int] = {}
        self._next_look = -math.inf
        self._next_poll = math.inf
        self._patient: Patient[dict[str, tuple[Reason, str]]] = Patient(_ANSWER_TIME)
        self._nvml = _nvml_of(machine)
        self._watched = self._known()

    def close(self) -> None:
        """Let go of NVML, unless it hangs."""
        if self._nvml is not None:
            try:
                Patient[None](_ANSWER_TIME)(self._nvml.close)
            except (NvmlError, TimeoutError):
                _log.debug("NVML could not be closed")
            self._nvml = None
            self._watched = []

    @property
    def seconds_to_next_look(self) -> float:
        """After how many seconds `look` has something to do; infinite if never."""
        return max(0.0, min(self._next_look, self._next_poll) - time.monotonic()) if self._watched else math.inf

    def look(self) -> list[Event]:
        """What has changed, if it is time to look again."""
        now = time.monotonic()
        if not self._watched or now < min(self._next_look, self._next_poll):
            return []
        devices: Sequence[str] = list(self._settling)
        if now >= self._next_look:
            self._next_look = now + self._interval
            devices = self._watched
        events = self._enter(devices, self._examine(devices))
        self._next_poll = now + _POLL_INTERVAL if self._settling else math.inf
        return events

    def hold(self, devices: Iterable[str]) -> None:
        """A task that is running already has these devices."""
        self._held.update(devices)

    def refuse(self, shares: Sequence[Share], member: Member, work_left: float) -> list[Event]:
        """A look at the devices of a task that is about to start: empty if it may, and from now on it holds them."""
        if not self._watched:
            return []
        wanted = {(share.node, gpu) for share in shares for gpu in share.gpus}
        devices = [device for device in self._watched if self._places[device] in wanted]
        self._enter(devices, self._examine(devices))
        lost = self._by_node(device for device in devices if device in self.out)
        if not lost:
            self._held.update(devices)
        members = (((member, work_left),), *((),) * len(lost))  # one event gives it back, however many there are
        return [DevicesLost(node, gpus, left) for (node, gpus), left in zip(lost, members, strict=False)]

    def release(self, devices: Iterable[str]) -> list[Event]:
        """A task has ended: GPUs whose memory is not free yet are lost until it is."""
        released = list(devices)
        self._held.difference_update(released)
        watched = [device for device in released if device in self._watched]
        if not watched:
            return []
        self._settling |= dict.fromkeys(watched, time.monotonic() + self._settling_time)
        events = self._enter(watched, self._examine(watched))
        self._next_poll = time.monotonic() + _POLL_INTERVAL if self._settling else math.inf
        return events

    def _known(self) -> list[str]:
        """The devices of the machine that NVML knows."""
        if (nvml := self._nvml) is None:
            return []
        try:
            known = {gpu.uuid for units in Patient[list[list[Gpu]]](_ANSWER_TIME)(nvml.gpus) for gpu in units}
        except (NvmlError, TimeoutError):
            return []
        return [device for device in self._places if device in known]

    def _examine(self, devices: Sequence[str]) -> Mapping[str, tuple[Reason, str]]:
        """What speaks against handing out each of these devices, and in which words."""
        nvml = self._nvml
        assert nvml is not None
        try:
            return self._patient(lambda: self._ask(nvml, devices))
        except TimeoutError:
            return dict.fromkeys(devices, (Reason.UNREADABLE, "NVML does not answer"))

    def _ask(self, nvml: Nvml, devices: Sequence[str]) -> dict[str, tuple[Reason, str]]:
        found: dict[str, tuple[Reason, str]] = {}
        try:
            self._xids |= nvml.critical_xids()
        except NvmlError as error:
            _log.debug("NVML tells no errors: %s", error)
        for device in devices:
            try:
                if device in self._xids:
                    found[device] = Reason.UNHEALTHY, f"the driver has reported Xid {self._xids[device]}"
                elif trouble := nvml.trouble(device):
                    found[device] = Reason.UNHEALTHY, trouble
                elif device not in self._held and (use := nvml.use(device)):
                    found[device] = Reason.BUSY, use
            except NvmlError as error:
                found[device] = Reason.UNREADABLE, str(error)
        return found

    def _enter(self, devices: Sequence[str], found: Mapping[str, tuple[Reason, str]]) -> list[Event]:
        """Take in what a look at these devices has found."""
        now = time.monotonic()
        lost, back = [], []
        for device in devices:
            reason, words = found.get(device, (None, ""))
            deadline = self._settling.get(device, -math.inf)
            if reason is Reason.BUSY and now < deadline:
                reason = Reason.SETTLING
            else:
                if reason is Reason.BUSY and device in self._settling:
                    words = f"{words}, {self._settling_time:g} s after a task has ended there"
                self._settling.pop(device, None)
            if reason is None and (was := self.out.pop(device, None)) is not None:
                back.append(device)
                if was is not Reason.SETTLING:
                    self._say(device, "")
            elif reason is not None:
                if device not in self.out:
                    lost.append(device)
                if self.out.get(device) is not reason and reason is not Reason.SETTLING:
                    self._say(device, words)
                self.out[device] = reason
        return [
            *(DevicesLost(node, gpus) for node, gpus in self._by_node(lost)),
            *(DevicesRestored(node, gpus) for node, gpus in self._by_node(back)),
        ]

    def _say(self, device: str, words: str) -> None:
        if words:
            _log.warning("%s is not used: %s", device, words)
        else:
            _log.warning("%s is used again", device)
        self._note(device, words)

    def _by_node(self, devices: Iterable[str]) -> list[tuple[int, tuple[int, ...]]]:
        nodes: dict[int, list[int]] = {}
        for node, gpu in (self._places[device] for device in devices):
            nodes.setdefault(node, []).append(gpu)
        return [(node, tuple(gpus)) for node, gpus in nodes.items()]


def _nvml_of(machine: Machine) -> Nvml | None:
    if all(node.gpu_type == CPU for node in machine.cluster.nodes):
        return None
    try:
        return Nvml()
    except NvmlError:
        return None
