"""The commands of ``verify``, with their options and help texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from verify.claims.command import claims
from verify.paper.command import paper
from verify.playground.command import playground
from verify.training.cli import app as experiment_app
from verify.training.report_command import report

_FAILED = 1
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Example = Annotated[
    str | None,
    typer.Option("--example", metavar="AXES", help="For MODULE:Class, the axes of its input, such as 'B n'."),
]
Layers = Annotated[
    list[str] | None,
    typer.Argument(metavar="LAYER", help="Layers' names, FILE.toml or MODULE:FACTORY; all shipped layers if none."),
]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="The seed of all random numbers.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command("run")(run)
    app.command("verify")(verify)
    app.command("bench")(bench)
    app.command("diagnose")(diagnose)
    app.add_typer(experiment_app, name="experiment")
    app.command("report")(report)
    app.command("claims")(claims)
    app.command("paper")(paper)
    app.command("playground")(playground)


def run(
    out: Annotated[Path, typer.Option(help="The folder for report.html and results.json.")] = Path("affdiv-run"),
    json: Json = False,
    seed: Seed = 0,
) -> None:
    """Run the whole chain: derive, solve, generate --check, verify, a short training run, report.

    Takes about a minute on two cores. Exit code 1 if a stage fails.
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
    layers: Layers = None,
    json: Json = False,
    device: Annotated[str, typer.Option(help="Where the modules run: cpu or cuda.")] = "cpu",
    full: Annotated[
        bool, typer.Option("--full", help="More and larger random shapes, and triples of settings instead of pairs.")
    ] = False,
    seed: Seed = 0,
    package: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="The generated package to verify, if not the project's own."),
    ] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the checks as JUnit XML too.")] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="ID", help="Run only this check; may be repeated.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="Print the ids of the checks and stop.")] = False,
    example: Example = None,
) -> None:
    """Check the derivations, and check the generated layers against them in five ways.

    Derivations: check every step again. Identities: take real SGD steps. Gradients: compare with finite differences and
    hand-written references, in every dtype and on every backend. Properties: test the stated properties of each map.
    Paths: call a layer in every way (frozen parameters, compilers, settings, dtypes, edge cases, layouts), and test
    conversions, initial weights and self factors. The five ways share the expressions and the random numbers, but no
    code that computes a result. A run takes a minute on two cores, with --full many minutes. Exit code 1 if a check
    fails; each failure names its equation and the command that repeats it.
    """
    from derive.export.files import write_text
    from derive.sources import with_example
    from verify.checks.junit import junit as as_junit
    from verify.checks.record import Setting, Status, to_json
    from verify.checks.runner import refuse_if_idle, run_named, tasks_for
    from verify.files import check_folder, make_folder
    from verify.run.progress import watching
    from verify.run.table import print_checks, print_json

    words = [with_example(word, example) for word in layers or ()]
    if listed:
        for task in tasks_for(words, only or (), package):
            typer.echo(task.id)
        return
    setting = Setting(device=device, seed=seed, full=full, package=package)
    if junit is not None:
        check_folder(junit.parent, (junit.name,), "--junit")
    with watching() as watcher:
        watcher.begin("verify")
        checks = run_named(words, only or (), setting, lambda _, done, total: watcher.advance(done, total))
    if junit is not None:
        make_folder(junit.parent, "--junit")
        write_text(junit, as_junit(checks, setting))
    if json:
        print_json(to_json(checks, setting))
    else:
        print_checks(checks, setting)
    if any(check.status is Status.FAIL for check in checks):
        raise typer.Exit(_FAILED)
    refuse_if_idle(checks)


def bench(
    device: Annotated[str, typer.Option(help="Where to measure: cpu or cuda.")] = "cpu",
    shapes: Annotated[
        str,
        typer.Option(
            metavar="SHAPE,..",
            help="BATCHxINxOUT, for images BATCHxINxOUTxLENGTHxKERNEL; with --spec every size, as in B=64:n=512:m=256.",
        ),
    ] = "",
    spec: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="Time the maps of the layer in this file instead.")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Time the layers against those of another generated package instead."),
    ] = None,
    suite: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="quick or full: every kind of layer beside torch's with a normaliser; growth: cost as sizes grow.",
        ),
    ] = "",
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16, float16 or float64; the default depends on the device.")
    ] = "",
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=3600.0, help="Seconds per shape; default 20, in a suite 4 (quick), 10 (full) or 1.5 (growth)."
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A quick trial: small shapes, few launches, no compiler.")
    ] = False,
    json: Json = False,
    threads: Annotated[
        str, typer.Option(metavar="N,..", help="One run for each number of threads; default: torch's own number.")
    ] = "",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Append each run to this results file.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the last run into this SVG file: its ratios, or its curves.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Measure speed and memory of the layers beside torch's and other libraries' layers, launched in turn.

    A run takes two to four minutes on two cores; it names and skips libraries that are not installed. --spec measures
    the maps of a layer file on each backend against the same layer composed of torch operations, and shows which
    kernels ran. --against compares with another generated package, for instance the one from before a change. --suite
    measures every kind of layer, eager and compiled, with a verdict against torch's layer with a normaliser: quick
    takes under two minutes, full a quarter of an hour. --suite growth measures cost against batch, width, channels,
    filter size and threads in four minutes, and --plot draws it.
    """
    from verify.bench import choose
    from verify.bench.command import Settings

    settings = Settings(device, dtype, seconds, quick, seed, shapes, threads, out, plot, json)
    choose.bench(settings, spec, against, suite)


def diagnose(
    factory: Annotated[
        str, typer.Argument(metavar="MODULE:FACTORY", help="A function that returns (model, batch, loss).")
    ],
    json: Json = False,
    convert: Annotated[
        bool, typer.Option("--convert", help="Show the same for a copy with affine_divergence's layers.")
    ] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with pictures.")] = None,
    tensorboard: Annotated[Path | None, typer.Option(metavar="DIR", help="Write TensorBoard scalars.")] = None,
    steps: Annotated[int, typer.Option(min=0, help="Virtual steps of SGD over which drift is measured.")] = 1,
    rate: Annotated[float, typer.Option(help="The learning rate of these steps.")] = 0.01,
    optimizer: Annotated[
        str, typer.Option(metavar="NAME", help="An optimizer of torch.optim; else the factory's fourth value, or SGD.")
    ] = "",
    clip_norm: Annotated[
        float | None, typer.Option(min=0.0, help="Clip the gradient's norm to this before a step.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Find problems in a training step of your model, and assess each of its layers.

    Prints findings with evidence, cause and fix, then for each layer its self factors, the shares of a step, the drift,
    and what would correct it. The command imports the module, so its code runs. It takes real steps and restores the
    model afterwards. Exit code 1 if a real step differs from the derived step, a number is not finite, or no layer
    could be judged.
    """
    from verify.diagnosis.command import Request, run_diagnosis

    request = Request(
        factory,
        steps=steps,
        rate=rate,
        optimizer=optimizer,
        clip_norm=clip_norm,
        seed=seed,
        convert=convert,
        html=html,
        tensorboard=tensorboard,
    )
    if not run_diagnosis(request, json=json):
        raise typer.Exit(_FAILED)
