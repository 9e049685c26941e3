"""``affdiv experiment``: run a sweep, show its progress, export its table. Imports are deferred to the calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from derive.errors import UsageError, printable

if TYPE_CHECKING:
    from verify.training.engines import Engine
    from verify.training.experiment import Experiment
    from verify.training.store import Row, Store

_FAILED, _INTERRUPTED = 1, 130
STORE = Path("affdiv-store")
BUNDLED = Path(__file__).parent / "experiments"
ENGINES = ("local", "ray")
FORMATS = ("csv", "parquet")
DEVICES = ("cpu", "cuda")
SEEDS = ("auto", "together", "apart")

app = typer.Typer(
    help="Run, watch and print sweeps of training runs described in a TOML file.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Name = Annotated[
    str, typer.Argument(metavar="NAME|FILE.toml", help="An experiment file, or the name of a bundled one.")
]
StorePath = Annotated[Path, typer.Option("--store", help="The folder (or .sqlite file) that holds trials and results.")]
Data = Annotated[
    str | None,
    typer.Option("--data", metavar="PATH", help="A folder of images or a text file, instead of the experiment's data."),
]
Scale = Annotated[
    str,
    typer.Option("--scale", help="cpu: small, as in the file; paper: with the changes in the file's table [paper]."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]

RetryWhere = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="Retry trials with this setting, state, id (its beginning) or error (part of it); may be repeated.",
    ),
]
TrialSeconds = Annotated[
    float, typer.Option(min=0.0, help="Time limit of a trial or a stack of seeds; 0 means no limit.")
]


@app.command("run")
def run(
    name: Name,
    store: StorePath = STORE,
    scale: Scale = "cpu",
    engine: Annotated[str, typer.Option(help="What runs the workers: local, or ray for a cluster.")] = "local",
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Number of trials that run at once; default: one per core.")
    ] = None,
    data: Data = None,
    device: Annotated[str, typer.Option(help="Where the trials train: cpu or cuda.")] = "cpu",
    seeds: Annotated[
        str, typer.Option(help="Seeds of one configuration: together (one stack), apart, or auto (the faster).")
    ] = "auto",
    from_table: Annotated[
        list[Path] | None,
        typer.Option("--from", metavar="TABLE", help="Take results from this exported table; may be repeated."),
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Try failed and quarantined trials again.")] = False,
    retry_where: RetryWhere = None,
    checkpoint_seconds: Annotated[float, typer.Option(min=0.0, help="Seconds between saves of a trial.")] = 20.0,
    lease_seconds: Annotated[
        float, typer.Option(min=2.0, help="Seconds until a silent worker loses its trial.")
    ] = 60.0,
    trial_seconds: TrialSeconds = 0.0,
    json: Json = False,
) -> None:
    """Train every trial of an experiment that is not done yet.

    Ctrl-C stops it cleanly. Give the same command again to resume, also after a crash. --from copies results from an
    exported table into the store if the trial's id still matches; it lists all others and trains them again. Exit code
    1 if a trial failed permanently; a diverged trial counts as a result.
    """
    from verify.run.progress import watching
    from verify.training.driver import drive, job_of, register, register_judging, summary
    from verify.training.retry import wanted
    from verify.training.store import Store

    again = wanted(retry_where or ())
    experiment = experiment_of(name, scale)
    source = _source(experiment, data)
    chosen = _engine(engine, device, seeds)
    with Store(store, create=True, lease=lease_seconds) as opened:
        opened.check()
        register(opened, experiment, source, device, seeds)
        _take_up(opened, experiment, from_table or (), again if retry or retry_where else None)
        job = job_of(store, experiment.name, source, checkpoint_seconds, lease_seconds, trial_seconds)
        try:
            with watching() as watcher:
                watcher.begin(experiment.name)
                drive(opened, job, chosen, workers or chosen.capacity(), watcher.advance)
                if register_judging(opened, experiment, source, device, seeds):
                    _take_up(opened, experiment, from_table or (), None, last=True)
                    drive(opened, job, chosen, workers or chosen.capacity(), watcher.advance)
        except KeyboardInterrupt:
            typer.echo(_stopped(summary(opened, experiment.name)), err=True)
            raise typer.Exit(_INTERRUPTED) from None
        result = summary(opened, experiment.name, _tuning(experiment))
    _print(result, json)
    if result["trials"]["quarantined"]:
        raise typer.Exit(_FAILED)


def _take_up(
    store: Store,
    experiment: Experiment,
    tables: Sequence[Path],
    again: Callable[[Row], bool] | None,
    last: bool = False,
) -> None:
    """Import an experiment's results from tables, mark the trials selected by ``again`` for retry, and report both.

    Imports are reported in the ``last`` stage: before it, some rows have no trial yet.
    """
    from verify.training.experiment import ALL
    from verify.training.refill import refill

    for path in tables:
        said = refill(store, experiment.name, path).text(path)
        for one in said.splitlines() if last or experiment.judging == ALL else ():
            typer.echo(printable(one), err=True)
    if again is not None:
        typer.echo(f"{store.retry(experiment.name, again)} trials are tried again", err=True)


def _tuning(experiment: Experiment) -> frozenset[int]:
    from verify.training.stages import tuning_of

    return tuning_of(experiment)


@app.command("status")
def status(name: Name, store: StorePath = STORE, scale: Scale = "cpu", data: Data = None, json: Json = False) -> None:
    """Count the trials of an experiment that are pending, running, done or failed, even while it runs elsewhere."""
    from verify.training.driver import summary
    from verify.training.store import Store

    with Store(store, read_only=True) as opened:
        opened.check()
        experiment = experiment_of(name, scale)
        _demand_same(opened, name, experiment, data)
        _print(summary(opened, _name(name), _tuning(experiment)), json)


@app.command("export")
def export(
    name: Name,
    store: StorePath = STORE,
    scale: Scale = "cpu",
    data: Data = None,
    form: Annotated[str, typer.Option("--format", help="csv or parquet.")] = "csv",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write to this file; without it, CSV is printed."),
    ] = None,
) -> None:
    """Print or write a table with one row per trial, sorted, with every setting and every metric."""
    from derive.export.files import write_bytes
    from verify.files import check_folder, make_folder
    from verify.training.export import to_csv
    from verify.training.store import Store
    from verify.training.tables import demand_parquet, to_parquet

    _one_of("--format", form, FORMATS)
    if form == "parquet":
        demand_parquet("writing")
        if output is None:
            raise UsageError("--format parquet cannot be printed; name a file with -o FILE")
    if output is not None:
        check_folder(output.parent, (output.name,), "-o")
    with Store(store, read_only=True) as opened:
        opened.check()
        _demand_same(opened, name, experiment_of(name, scale), data)
        rows = opened.rows(_name(name))
    if output is None:
        typer.echo(to_csv(rows), nl=False)
        return
    make_folder(output.parent, "-o")
    write_bytes(output, to_parquet(rows) if form == "parquet" else to_csv(rows).encode("utf-8"))
    typer.echo(f"written: {output} ({len(rows)} trials)", err=True)


@app.command("plan")
def plan(name: Name, scale: Scale = "cpu", data: Data = None, json: Json = False) -> None:
    """Show how many trials an experiment has, what they cost, and the smallest effect that they can detect."""
    from verify.run.table import print_json
    from verify.training.plan import plan as planned
    from verify.training.plan import text
    from verify.training.worker import data_of

    experiment = experiment_of(name, scale)
    source = _source(experiment, data)
    found = planned(experiment, lambda config: data_of(config, source))
    print_json(found.to_json()) if json else typer.echo(text(found))


def _name(given: str) -> str:
    return Path(given).stem if given.endswith(".toml") else given


def experiment_of(given: str, scale: str = "cpu") -> Experiment:
    """Return an experiment from a file or a bundled one by name, at a scale."""
    from verify.training.experiment import SCALES, load_experiment

    _one_of("--scale", scale, SCALES)
    if given.endswith(".toml"):
        return load_experiment(Path(given), scale=scale)
    bundled = {path.stem: path for path in sorted(BUNDLED.glob("*.toml"))}
    if given not in bundled:
        known = ", ".join(bundled)
        raise UsageError(
            f"no bundled experiment is named {given!r}; there are {known}; the path of your own file must end in .toml"
        )
    return load_experiment(bundled[given], scale=scale)


def _source(experiment: Experiment, data: str | None) -> str:
    """Return the data source: the name of built-in data, or an absolute path."""
    from verify.files import expanded
    from verify.training.config import DATA
    from verify.training.experiment import GIVEN

    if data is None and experiment.data == GIVEN:
        raise UsageError(
            f"experiment {experiment.name!r} has no data of its own at this scale; name a source with --data PATH"
        )
    chosen = experiment.data if data is None else data
    if chosen in DATA:
        return chosen
    path = expanded(chosen).absolute()
    if not path.exists():
        raise UsageError(f"--data {data!r} does not exist; name an existing folder or file, or leave --data out")
    return str(path)


def _engine(name: str, device: str, seeds: str) -> Engine:
    """Return an engine once its options are known to be valid."""
    for option, value, known in (("--engine", name, ENGINES), ("--device", device, DEVICES), ("--seeds", seeds, SEEDS)):
        _one_of(option, value, known)
    if name == "ray":
        from verify.training.engines.ray import RayEngine

        return RayEngine()
    from verify.training.engines.local import LocalEngine

    return LocalEngine()


def _one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{option} {value!r} is not known; choose one of {', '.join(known)}")


def _demand_same(store: Store, given: str, experiment: Experiment, data: str | None) -> None:
    """Raise UsageError if the experiment was not run in this store, or its file has changed since."""
    from verify.training.experiment import scale_of

    known, name = store.experiments(), experiment.name
    if name not in known:
        there = f"it holds {', '.join(known)}" if known else "it is empty"
        raise UsageError(f"experiment {name!r} is not in store {store.database}: {there}; run it first")
    text, settings = known[name]
    if scale_of(text) != experiment.scale:
        raise UsageError(
            f"experiment {name!r} was last run at scale {scale_of(text)!r}, not at {experiment.scale!r}; "
            f"add --scale {scale_of(text)}"
        )
    if experiment.text != text:
        raise UsageError(f"{given} has changed since it was run; run it again, its finished trials are kept")
    if data is not None and _source(experiment, data) != settings["data"]:
        raise UsageError(f"experiment {name!r} was last run on {settings['data']!r}, not on {data!r}; run it on that")


def _stopped(result: dict[str, Any]) -> str:
    counts = result["trials"]
    return f"stopped: {counts['done']} of {sum(counts.values())} trials done; give the same command again to continue"


def _best(best: dict[str, Any]) -> str:
    """Return one line with a setting's best rate, and whether a better one may lie beyond the grid."""
    setting = ", ".join(str(value) for value in best["setting"].values())
    if best["validation_accuracy"] is None:
        return f"{setting}: diverged at every rate; add smaller rates"
    edge = "; at the edge of the grid: a better rate may lie beyond it" if best["at_edge"] else ""
    accuracy = f"{100 * best['validation_accuracy']:.1f} % of validation right"
    return f"{setting}: best rate {best['learning_rate']:g}, {accuracy}{edge}"


def _print(result: dict[str, Any], json: bool) -> None:
    """Print the state of an experiment as JSON or as text."""
    if json:
        from verify.run.table import print_json

        print_json(result)
        return
    counts, steps = result["trials"], result["steps"]
    words = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    name = printable(result["experiment"])
    typer.echo(f"{name}: {sum(counts.values())} trials: {words}; {result['diverged']} diverged")
    typer.echo(f"steps: {steps['done']} of {steps['total']}")
    for best in result["best_rates"]:
        typer.echo(printable(_best(best)))
    for identity, error in result["errors"].items():
        typer.echo(printable(f"trial {identity[:12]}: {error}"))
