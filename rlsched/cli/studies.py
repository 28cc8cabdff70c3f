"""Spelling, options and help of the commands that simulate, train and compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from rlsched.cli.options import Json, PolicyOption, Processes, Seed

commands = typer.Typer()


@commands.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for what it makes.")] = Path("runs/demo"),
    steps: Annotated[int, typer.Option("--steps", min=1, help="Decisions to train for.")] = 250_000,
) -> None:
    """The whole story in a few minutes: learn, compare, then run a real workflow with the learned policy.

    Trains a policy on the scenario `demo`, compares it with greedy and LP baselines on workloads that neither has
    seen, and lets it schedule the fine-tuning of a BERT on news, on this machine's GPUs or CPU slots.
    """
    from rlsched.cli.demo import demo as command

    command(out, steps)


@commands.command()
def train(
    scenario: Annotated[str, typer.Argument(help="Name or YAML file of a scenario or a mixture, or a workload.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the policy, curve, logs and checkpoint.")],
    start: Annotated[
        str, typer.Option("--from", help="A trained policy to start from, a linear one (YAML), or a heuristic.")
    ] = "",
    steps: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--steps", min=1, help="Decisions to train for. Default: 1500000."),
    ] = None,
    trace: Annotated[
        float, typer.Option("--trace", min=0.1, help="How long a decision shows, in mean critical paths.")
    ] = 4.0,
    horizon: Annotated[
        float, typer.Option("--horizon", min=0.1, help="How far ahead costs count, in mean critical paths.")
    ] = 16.0,
    learning_rate: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--learning-rate", min=0, help="Of Adam to begin with; it falls to a tenth. Default: 0.003."),
    ] = None,
    sequences: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--sequences", min=1, help="Workloads an iteration, each played 8 times. Default: 8."),
    ] = None,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted training exactly.")] = False,
    processes: Processes = 0,
    device: Annotated[str, typer.Option("--device", help="Where updates are computed: cpu or cuda.")] = "cpu",
) -> None:
    """Train a policy by PPO on a scenario.

    Examples:

      rlsched train het16 -o runs/het16

      rlsched train my-cluster.yaml -o runs/mine --steps 2000000 --seed 1

      rlsched train het16 -o runs/het16-longer --from runs/het16 --horizon 32 --trace 16

      rlsched simulate het16 --policy runs/het16/policy.safetensors
    """
    from rlsched.cli.train import train as command

    given = {
        "start": start,
        "steps": steps,
        "trace": trace,
        "horizon": horizon,
        "learning_rate": learning_rate,
        "sequences": sequences,
        "seed": seed,
    }
    command(scenario, out, resume, processes, device, given)


@commands.command()
def merge(
    policies: Annotated[list[str], typer.Argument(help="Trained policies: files, folders, or pretrained/NAME.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File of the new policy, .safetensors, or its folder.")],
) -> None:
    """Make one policy of several: its scores are the mean of theirs.

    Trainings with different seeds make different mistakes; together they make fewer.

    Examples:

      rlsched merge runs/seed-1 runs/seed-2 runs/seed-3 -o runs/together

      rlsched simulate het16 --policy runs/together
    """
    from rlsched.cli.merge import merge as command

    command(policies, out)


@commands.command()
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


@commands.command("tune-baseline")
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
        typer.Option("--trials", min=1, help="Candidates to try. Default: 400; cma-es: 640."),
    ] = None,
    seeds_train: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "--seeds-train",
            min=1,
            help="Training workloads, of which most candidates play a part. Default: 72; cma-es: 240.",
        ),
    ] = None,
    seeds_validation: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "--seeds-validation", min=1, help="Validation workloads, on which the best is chosen. Default: 64."
        ),
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


@commands.command()
def simulate(
    what: Annotated[str, typer.Argument(help="A scenario's name or YAML file, a workload, or a workflow file.")],
    policy: PolicyOption = "srpt",
    cluster: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--cluster", help="YAML with the cluster to use instead of the scenario's or this machine."),
    ] = None,
    seed: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--seed", min=0, help="The workload to play; default: the scenario's first report seed."),
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


@commands.command(
    "import", epilog="FORMAT is tpch, gavel, philly, openb, wfformat, psplib or swf; see docs/workloads.md."
)
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
        typer.Option("--poisson", min=1e-9, help="Draw jobs anew for each seed, so many seconds apart on average."),
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


@commands.command()
def policies(json: Json = False) -> None:
    """List the policies that can be named."""
    from rlsched.cli.policies import policies as command

    command(json)
