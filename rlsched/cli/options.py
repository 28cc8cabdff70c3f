"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Processes = Annotated[int, typer.Option("--processes", min=0, help="Parallel processes; 0: one a core.")]
SampleInterval = Annotated[
    float, typer.Option("--sample-interval", min=0, help="Seconds between samples of devices and tasks; 0: none.")
]
MetricsPort = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option("--metrics-port", min=0, help="Serve metrics for Prometheus on this port of 127.0.0.1; 0: any."),
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Equal seeds give equal results.")]
PolicyOption = Annotated[
    str, typer.Option("--policy", "-p", help="A name from `rlsched policies`, or a policy's file or folder.")
]

Job = Annotated[str, typer.Argument(metavar="JOB", help="A job's number, or its name if no other job has it.")]
SocketOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--socket", envvar="RLSCHED_SOCKET", help="Unix socket of the scheduler; default: in --state of `up`."
    ),
]
TcpOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--tcp", envvar="RLSCHED_TCP", help="TCP port, HOST:PORT or PORT; needs --token-file."),
]
TokenOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--token-file", envvar="RLSCHED_TOKEN_FILE", help="File with the token, readable by its owner alone."),
]
