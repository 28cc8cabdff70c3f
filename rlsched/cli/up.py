"""`rlsched up`."""

from __future__ import annotations

import grp
import sys
from pathlib import Path

from rlsched.cli.narrator import Narrator
from rlsched.cli.output import messages
from rlsched.executor.devices import local_machine
from rlsched.executor.executor import InterruptedRun
from rlsched.policies.auto import AutoPolicy
from rlsched.policies.registry import load_policy
from rlsched.queue.address import default_state_dir, tcp_address, unix_address
from rlsched.queue.listener import Listener
from rlsched.queue.records import QueueDirectory
from rlsched.queue.requests import Requests
from rlsched.queue.service import Service
from rlsched.workflow.schema import read_seconds


def up(
    policy: str,
    state: Path | None,
    slots: int | None,
    socket: Path | None,
    group: str | None,
    tcp: str | None,
    token_file: Path | None,
    keep: str,
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
            service = Service(directory, machine, chosen, policy, narrator, narrator.ended)
            listener.answer = Requests(service, policy, listed)
            messages.print(f"up: {address}{'' if port is None else f', {port}'}; {folder}", markup=False)
            service.run(listener)
        finally:
            listener.close()
    except InterruptedRun as request:
        messages.print(f"{request}: tasks were stopped, and `rlsched up` goes on from there", markup=False)
        sys.exit(128 + request.signal)
    finally:
        directory.close()


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
