"""Every command's spelling, options and help; what they do is in the module beside this one that bears their name."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Optional

# One thread a process, before anything imports numpy or torch: two on busy cores are many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import typer

import rlsched

app = typer.Typer(
    name="rlsched",
    help="Learn how to share GPUs among the tasks of machine-learning workflows, in simulation and on the machine.",
    epilog="Start with: rlsched demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Processes = Annotated[int, typer.Option("--processes", min=0, help="Parallel processes; 0: one a core.")]
SampleInterval = Annotated[
    float, typer.Option("--sample-interval", min=0, help="Seconds between samples of devices and tasks; 0: none.")
]
MetricsPort = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option("--metrics-port", min=0, help="Serve metrics for Prometheus on this port of 127.0.0.1; 0: any."),
]
Seed = Annotated[int, typer.Option("--seed", help="Equal seeds give equal results.")]
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


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rlsched {rlsched.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of every command."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for what it makes.")] = Path("runs/demo"),
    steps: Annotated[int, typer.Option("--steps", help="Decisions to train for.")] = 250_000,
) -> None:
    """The whole story in a few minutes: learn, compare, then run a real workflow with the learned policy.

    Trains a policy on the scenario `demo`, compares it with greedy and LP baselines on workloads that neither has
    seen, and lets it schedule the fine-tuning of a BERT on news, on this machine's GPUs or CPU slots.
    """
    from rlsched.cli.demo import demo as command

    command(out, steps)


@app.command()
def train(
    scenario: Annotated[str, typer.Argument(help="Name or YAML file of a scenario or a mixture, or a workload.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the policy, curve, logs and checkpoint.")],
    start: Annotated[str, typer.Option("--from", help="A trained policy to start from, or a linear one (YAML).")] = "",
    steps: Annotated[Optional[int], typer.Option("--steps", help="Decisions to train for.")] = None,  # noqa: UP045
    trace: Annotated[
        float, typer.Option("--trace", min=0.1, help="How long a decision shows, in mean critical paths.")
    ] = 4.0,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted training exactly.")] = False,
) -> None:
    """Train a policy by PPO on a scenario.

    Examples:

      rlsched train het16 -o runs/het16

      rlsched train my-cluster.yaml -o runs/mine --steps 2000000 --seed 1

      rlsched train het16 -o runs/het16-longer --from runs/het16 --steps 1000000 --trace 16

      rlsched simulate het16 --policy runs/het16/policy.safetensors
    """
    from rlsched.cli.train import train as command

    command(scenario, out, start, steps, trace, seed, resume)


@app.command()
def benchmark(
    scenario: Annotated[str, typer.Argument(help="A scenario's name or YAML file, or a workload.")],
    policies: Annotated[
        str, typer.Option("--policies", help="Names and files, separated by commas.")
    ] = "fifo,sjf,srpt,critical-path,lp",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Report workloads to play.")] = 20,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", "-o", help="Folder for JSON, CSV and the HTML report; a second call continues."),
    ] = None,
    tuned: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--tuned", help="File of `tune-baseline`: adds the best policy of every order."),
    ] = None,
    processes: Processes = 0,
    ray: Annotated[
        str, typer.Option("--ray", help="Play on the CPUs of the Ray cluster at this address: HOST:PORT or auto.")
    ] = "",
    json: Json = False,
) -> None:
    """Compare policies on the same workloads, never seen in training or tuning.

    Examples:

      rlsched benchmark het16 --policies fifo,srpt,lp,runs/het16 --seeds 100 -o runs/compare

      rlsched benchmark het16 --tuned tuned/het16.yaml --policies tuned/het16-linear.yaml,runs/het16

      rlsched benchmark hom16 --policies srpt,las --json | jq .rows
    """
    from rlsched.cli.benchmark import benchmark as command

    command(scenario, policies, seeds, out, processes, json, tuned, ray)


@app.command("tune-baseline")
def tune_baseline(
    scenario: Annotated[str, typer.Argument(help="A scenario's name or YAML file, or a workload.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="YAML file to write.")],
    method: Annotated[
        str, typer.Option("--method", help="tpe: options of the named policies; cma-es: weights of a linear policy.")
    ] = "tpe",
    families: Annotated[
        str, typer.Option("--families", help="tpe: policies to tune, separated by commas; default: all with options.")
    ] = "",
    start: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--start", help="cma-es: the policy to imitate at first, a name or a file."),
    ] = None,
    trials: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--trials", min=1, help="Candidates to try."),
    ] = None,
    seeds_train: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--seeds-train", min=1, help="Training workloads, of which most candidates play a part."),
    ] = None,
    seeds_validation: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--seeds-validation", min=1, help="Validation workloads, on which the best is chosen."),
    ] = None,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted search exactly.")] = False,
    processes: Processes = 0,
    json: Json = False,
) -> None:
    """Tune the baselines on a scenario, so that a comparison with them is worth something.

    Searches on training workloads and chooses on validation workloads; report workloads are not touched. The file
    works wherever a policy is named.

    Examples:

      rlsched tune-baseline het16 -o tuned/het16.yaml

      rlsched tune-baseline het16 -o tuned/het16-linear.yaml --method cma-es --start tuned/het16.yaml

      rlsched benchmark het16 --tuned tuned/het16.yaml --policies tuned/het16-linear.yaml,runs/het16
    """
    from rlsched.cli.tune import tune_baseline as command

    given = {"trials": trials, "training_workloads": seeds_train, "validation_workloads": seeds_validation}
    command(scenario, out, method, families, start, given, seed, resume, processes, json)


@app.command()
def simulate(
    what: Annotated[str, typer.Argument(help="A scenario's name or YAML file, a workload, or a workflow file.")],
    policy: PolicyOption = "srpt",
    cluster: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--cluster", help="YAML with the cluster to use instead of the scenario's or this machine."),
    ] = None,
    seed: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--seed", help="The workload to play; default: the scenario's first report seed."),
    ] = None,
    events: Annotated[Optional[Path], typer.Option("--events", help="Write events as JSON lines.")] = None,  # noqa: UP045
    trace: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--trace", help="Write a trace for ui.perfetto.dev or chrome://tracing."),
    ] = None,
    slots: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--slots", min=1, help="For a workflow: CPU slots as `rlsched run --slots` has them."),
    ] = None,
    history: Annotated[
        bool, typer.Option("--history/--no-history", help="For a workflow: predict with what earlier runs took.")
    ] = True,
    json: Json = False,
) -> None:
    """Simulate one workload under a policy, or predict how long a workflow will take.

    Examples:

      rlsched simulate het16 --policy srpt --seed 7 --events events.jsonl --trace trace.json

      rlsched simulate experiments/workflows/news.yaml --policy critical-path --slots 2
    """
    from rlsched.cli.simulate import simulate as command

    command(what, policy, cluster, seed, events, trace, slots, history, json)


@app.command("import", epilog="FORMAT is tpch, gavel, philly, openb, wfformat, psplib or swf; see docs/workloads.md.")
def import_(
    kind: Annotated[str, typer.Argument(metavar="FORMAT", help="What PATH is; see below.")],
    path: Annotated[Path, typer.Argument(help="A file, or for tpch and wfformat a folder of files.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Workload to write: a .jsonl or .jsonl.gz file.")],
    jobs: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--jobs", min=1, help="Take so many jobs; with --poisson or tpch: draw so many."),
    ] = None,
    skip: Annotated[int, typer.Option("--skip", min=0, help="Leave out so many of the first jobs.")] = 0,
    poisson: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--poisson", help="Draw jobs anew for each seed, so many seconds apart on average."),
    ] = None,
    cluster: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--cluster", help="YAML with the cluster to use instead of the usual one."),
    ] = None,
    companion: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--with", help="gavel: the throughput table, openb: the list of machines; default: beside PATH."),
    ] = None,
    moldable: Annotated[
        bool, typer.Option("--moldable", help="gavel: the scheduler chooses among all measured GPU counts.")
    ] = False,
    json: Json = False,
) -> None:
    """Turn a trace or an instance of other people into a workload, which simulate and benchmark take like a scenario.

    Examples:

      rlsched import philly philly.csv -o philly.jsonl.gz --skip 20000 --jobs 10000

      rlsched import tpch tpch/ -o tpch.jsonl --jobs 50 --poisson 25

      rlsched import gavel max_min_fairness.trace -o gavel.jsonl --moldable

      rlsched benchmark gavel.jsonl --policies fifo,srpt,las --seeds 1
    """
    from rlsched.cli.importing import import_workload as command

    command(kind, path, out, jobs, skip, poisson, cluster, companion, moldable, json)


@app.command()
def run(
    workflow: Annotated[Path, typer.Argument(help="A workflow file.")],
    policy: PolicyOption = "srpt",
    run_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--run-dir", help="Journal and logs; default: runs/NAME beside the workflow file."),
    ] = None,
    slots: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--slots", min=1, help="CPU slots (on each node), where there are no GPUs; default: one a core."),
    ] = None,
    history: Annotated[
        bool, typer.Option("--history/--no-history", help="Plan with what tasks took in earlier runs.")
    ] = True,
    sample_interval: SampleInterval = 2.0,
    metrics_port: MetricsPort = None,
    backend: Annotated[
        str, typer.Option("--backend", help="Where tasks run: local (this machine), or ray (a Ray cluster).")
    ] = "local",
    address: Annotated[
        str,
        typer.Option("--address", help="Of the Ray cluster: HOST:PORT, auto (this machine's), or local (a new one)."),
    ] = "",
    lost: Annotated[
        list[str],
        typer.Option(
            "--lost", metavar="MACHINE", help="It is gone for good: run its tasks elsewhere. May be repeated."
        ),
    ] = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Run a workflow on this machine, or on a Ray cluster: GPUs if there are any, CPU slots otherwise.

    Tasks that have finished are not run again: run the same command once more to continue.

    Examples:

      rlsched run experiments/workflows/digits.yaml --policy sjf

      rlsched run flow.yaml --policy runs/het16 --slots 4

      rlsched run flow.yaml --metrics-port 9180 --sample-interval 10

      rlsched run /shared/flow.yaml --backend ray --address head-node:6379
    """
    from rlsched.cli.run import run as command

    command(workflow, policy, run_dir, slots, history, sample_interval, metrics_port, backend, address, lost, json)


@app.command()
def status(run_dir: Annotated[Path, typer.Argument(help="A run's folder.")], json: Json = False) -> None:
    """Show what has become of a run's tasks."""
    from rlsched.cli.run import status as command

    command(run_dir, json)


@app.command()
def replay(run_dir: Annotated[Path, typer.Argument(help="A run's folder.")], json: Json = False) -> None:
    """Re-enact a real run in the simulator, and say how far the two are apart.

    Twice: with the estimates that were known before the run, and with what each task has really taken.

    Examples:

      rlsched replay experiments/workflows/runs/digits

      rlsched replay runs/news --json | jq .measured.makespan_error
    """
    from rlsched.cli.replay import replay as command

    command(run_dir, json)


@app.command()
def up(
    policy: PolicyOption = "srpt",
    state: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--state", help="Folder of the queue; default: ~/.local/state/rlsched, see XDG_STATE_HOME."),
    ] = None,
    slots: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--slots", min=1, help="CPU slots, where there are no GPUs; default: one a core."),
    ] = None,
    socket: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--socket", help="Unix socket to listen on; default: `socket` in the folder of the queue."),
    ] = None,
    group: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--group", help="Let this group look at the queue, too."),
    ] = None,
    tcp: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--tcp", help="Listen on HOST:PORT as well, or on PORT of loopback; needs --token-file."),
    ] = None,
    token_file: TokenOption = None,
    keep: Annotated[str, typer.Option("--keep", help="How long jobs that have ended stay listed.")] = "7d",
    sample_interval: SampleInterval = 2.0,
    metrics_port: MetricsPort = None,
) -> None:
    """Keep a scheduler running, for jobs that are submitted one after the other.

    It stays in the foreground; docs/queue.md has a systemd unit. Whatever was submitted survives its end, whether by
    `rlsched drain`, Ctrl-C or kill -9: the next one with the same folder goes on where it was, and adopts what runs.

    Examples:

      rlsched up --policy srpt

      rlsched up --policy runs/het16 --state /srv/queue --socket /run/rlsched/socket --group gpu

      rlsched up --tcp 7077 --token-file ~/.rlsched-token
    """
    from rlsched.cli.up import up as command

    command(policy, state, slots, socket, group, tcp, token_file, keep, sample_interval, metrics_port)


@app.command()
def submit(
    workflow: Annotated[Path, typer.Argument(help="A workflow file.")],
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--name", help="Name of the job; default: the workflow's."),
    ] = None,
    priority: Annotated[float, typer.Option("--priority", help="Added to the priority of each of its tasks.")] = 0.0,
    deadline: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--deadline", help="Time from now, such as 90m or 2h; default: the workflow's."),
    ] = None,
    key: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--id", help="Submit at most once under this name, however often you call; default: a new one."),
    ] = None,
    socket: SocketOption = None,
    tcp: TcpOption = None,
    token_file: TokenOption = None,
    json: Json = False,
) -> None:
    """Submit a workflow to the scheduler that is up.

    The job is the workflow as it is now, with your environment: later changes to the file make no difference.

    Examples:

      rlsched submit flow.yaml --deadline 2h

      rlsched submit flow.yaml --name night --priority -1 --id night-2024-06-01 --json
    """
    from rlsched.cli.queue import address
    from rlsched.cli.queue import submit as command

    command(address(socket, tcp, token_file), workflow, name, priority, deadline, key, json)


@app.command()
def queue(
    socket: SocketOption = None, tcp: TcpOption = None, token_file: TokenOption = None, json: Json = False
) -> None:
    """List the jobs of the scheduler that is up."""
    from rlsched.cli.queue import address
    from rlsched.cli.queue import queue as command

    command(address(socket, tcp, token_file), json)


@app.command()
def logs(
    job: Job,
    task: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(metavar="[TASK]", help="A task, or a sweep or array with all its members; default: all tasks."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    socket: SocketOption = None,
    tcp: TcpOption = None,
    token_file: TokenOption = None,
) -> None:
    """Print what the tasks of a job have printed, attempt by attempt.

    Examples:

      rlsched logs 7 train -f

      rlsched logs night
    """
    from rlsched.cli.queue import address
    from rlsched.cli.queue import logs as command

    command(address(socket, tcp, token_file), job, task, follow)


@app.command()
def cancel(
    job: Job, socket: SocketOption = None, tcp: TcpOption = None, token_file: TokenOption = None, json: Json = False
) -> None:
    """Give a job up: its tasks are stopped, with time to save what they have, and no more are started."""
    from rlsched.cli.queue import address
    from rlsched.cli.queue import cancel as command

    command(address(socket, tcp, token_file), job, json)


@app.command()
def drain(
    stop: Annotated[
        bool,
        typer.Option("--stop", help="Stop what runs: it goes on from its checkpoints when a scheduler is up again."),
    ] = False,
    socket: SocketOption = None,
    tcp: TcpOption = None,
    token_file: TokenOption = None,
    json: Json = False,
) -> None:
    """Have the scheduler start nothing more, and end once nothing runs.

    It takes no jobs any more. Those that it has stay in the queue, for the next one to go on with.
    """
    from rlsched.cli.queue import address
    from rlsched.cli.queue import drain as command

    command(address(socket, tcp, token_file), stop, json)


@app.command()
def policies(json: Json = False) -> None:
    """List the policies that can be named."""
    from rlsched.cli.policies import policies as command

    command(json)


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 the work failed, 2 bad input, 130 interrupted."""
    try:
        app()
    except (ValueError, OSError) as error:
        if os.environ.get("RLSCHED_DEBUG"):
            raise
        typer.echo(f"rlsched: {error}", err=True)
        sys.exit(2)
