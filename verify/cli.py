"""The commands of this room: ``run`` does the whole chain, ``verify`` the checks alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    pass

_FAILED = 1
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="The seed that all randomness follows from.")]


def register(app: typer.Typer) -> None:
    """Add this room's commands to the program."""
    app.command("run")(run)
    app.command("verify")(verify)


def run(
    out: Annotated[Path, typer.Option(help="The folder for report.html and results.json.")] = Path("affdiv-run"),
    json: Json = False,
    seed: Seed = 0,
) -> None:
    """Do the whole chain: derive, solve, generate --check, verify, a short training run, report.

    Takes about a minute on two cores. Exit code 1 when a stage found something wrong.
    """
    from verify.files import check_folder
    from verify.run.pipeline import REPORT, RESULTS, run_chain
    from verify.run.progress import watching
    from verify.run.table import print_json, print_stages
    from verify.training.sweep import short_plan

    check_folder(out, (REPORT, RESULTS))
    with watching() as watcher:
        result = run_chain(short_plan(seed), out, watcher)
    if json:
        print_json(result.to_json())
    else:
        print_stages(result)
    if not result.ok:
        raise typer.Exit(_FAILED)


def verify(
    layers: Annotated[
        list[str] | None, typer.Argument(metavar="[LAYER ..]", help="Layers; all when none is named.")
    ] = None,
    json: Json = False,
    device: Annotated[str, typer.Option(help="Where the modules run: cpu or cuda.")] = "cpu",
    full: Annotated[bool, typer.Option("--full", help="More and larger random shapes.")] = False,
    seed: Seed = 0,
    only: Annotated[list[str] | None, typer.Option(metavar="ID", help="Run this check alone; may be repeated.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="Print the ids of the checks and stop.")] = False,
) -> None:
    """Check the derivations and hold the generated layers against them.

    Exit code 1 when a check failed; each failure names its equation and the command that repeats it.
    """
    from verify.checks.record import Setting, Status, to_json
    from verify.checks.runner import run_checks, tasks_for
    from verify.run.progress import watching
    from verify.run.table import print_checks, print_json

    tasks = tasks_for(layers or (), only or ())
    if listed:
        for task in tasks:
            typer.echo(task.id)
        return
    setting = Setting(device=device, seed=seed, full=full)
    with watching() as watcher:
        watcher.begin("verify")
        checks = run_checks(tasks, setting, lambda _, done, total: watcher.advance(done, total))
    if json:
        print_json(to_json(checks, setting))
    else:
        print_checks(checks, setting)
    if any(check.status is Status.FAIL for check in checks):
        raise typer.Exit(_FAILED)
