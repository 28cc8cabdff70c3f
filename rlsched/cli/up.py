"""`rlsched up`."""

from __future__ import annotations

import grp
import sys
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from rlsched.cli.metrics import metrics_on
from rlsched.cli.narrator import Narrator
from rlsched.cli.output import messages, remark
from rlsched.executor.devices import Machine, local_machine
from rlsched.executor.interruption import InterruptedRun
from rlsched.executor.monitor import Monitor
from rlsched.policies.auto import AutoPolicy
from rlsched.policies.registry import load_policy
from rlsched.queue.address import default_state_dir, tcp_address, unix_address
from rlsched.queue.listener import Listener
from rlsched.queue.records import QueueDirectory
from rlsched.queue.requests import Requests
from rlsched.queue.service import Service
from rlsched.workflow.schema import read_seconds

if TYPE_CHECKING:
    from rlsched.executor.metrics import Metrics, MetricsServer


def up(
    policy: str,
    state: Path | None,
    slots: int | None,
    socket: Path | None,
    group: str | None,
    tcp: str | None,
    token_file: Path | None,
    keep: str,
    sample_interval: float,
    metrics_port: int | None,
) -> None:
    folder = (state or default_state_dir()).absolute()
    address = unix_address(socket or folder / "socket")
    port = None if tcp is None else tcp_address(tcp, token_file)
    members = None if group is None else _group(group)
    listed = _keep(keep)
    chosen, machine = load_policy(policy), local_machine(slots)
    if isinstance(chosen, AutoPolicy):
        raise ValueError(
            "--policy auto rehearses the jobs that are there when it begins, and here there are none: name one"
        )
    directory = QueueDirectory(folder)
    try:
        if members is not None and socket is None:
            directory.open_to(members)
        listener = Listener()
        try:
            listener.listen_unix(address, members)
            if port is not None:
                listener.listen_tcp(port)
                if not port.host.startswith("127.") and port.host != "::1":
                    messages.print(
                        f"{port}: the token and all else pass unencrypted to wherever this can be reached from"
                    )
            narrator = Narrator(several=True)
            monitor = Monitor(folder, machine, sample_interval) if sample_interval else None
            with metrics_on(metrics_port) as metrics, closing(monitor) if monitor is not None else nullcontext():
                shown = None if metrics is None else _metrics(metrics, machine, monitor, lambda: service)
                observe = narrator if shown is None else shown.beside(narrator)
                service = Service(directory, machine, chosen, policy, observe, narrator.ended, monitor=monitor)
                if shown is not None:
                    shown.watch(service.scheduler)
                listener.answer = Requests(service, policy, listed)
                remark(f"up: {address}{'' if port is None else f', {port}'}; {folder}")
                service.run(listener)
        finally:
            listener.close()
    except InterruptedRun as request:
        messages.print(f"{request}: tasks were stopped, and `rlsched up` goes on from there", markup=False)
        sys.exit(128 + request.signal)
    finally:
        directory.close()


def _metrics(
    server: MetricsServer, machine: Machine, monitor: Monitor | None, service: Callable[[], Service]
) -> Metrics:
    from rlsched.executor.metrics import Metrics

    return Metrics(
        server.registry,
        machine,
        lambda: service().executor.out_of_service,
        lambda: None if monitor is None else monitor.latest,
        lambda: service().journal_errors,
    )


def _group(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ValueError(f"--group: there is no group {name!r}") from None


def _keep(text: str) -> float:
    try:
        return read_seconds(text)
    except ValueError as error:
        raise ValueError(f"--keep: {error}") from None
