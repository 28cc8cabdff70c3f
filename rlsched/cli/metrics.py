"""The endpoint for Prometheus, for the commands that have one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rlsched.cli.output import messages

if TYPE_CHECKING:
    from rlsched.executor.metrics import MetricsServer


@contextmanager
def metrics_on(port: int | None) -> Iterator[MetricsServer | None]:
    """The endpoint, and where it is on standard error; None if no port was asked for."""
    if port is None:
        yield None
        return
    from rlsched.executor.metrics import MetricsServer

    server = MetricsServer(port)
    messages.print(f"metrics: {server.url}", markup=False)
    try:
        yield server
    finally:
        server.close()
