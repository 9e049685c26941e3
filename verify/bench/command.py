"""The command ``affdiv bench``: it checks all options before it times anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from derive.errors import UsageError
from verify.bench.against import SCHEMA as AGAINST
from verify.bench.against import Compared, compare, print_compared
from verify.bench.growth import SCHEMA as GROWTH_RUNS
from verify.bench.growth import Growth, measure_growth
from verify.bench.growth_table import plot_growth, print_growth
from verify.bench.layer_speed import LayerSpeed
from verify.bench.record import write_text
from verify.bench.results_file import append, check_file, described
from verify.bench.rows import SCHEMA as LAYERS
from verify.bench.rows import Speed
from verify.bench.shapes import Shape, default_shapes, parse_shape
from verify.bench.speed import DEFAULT_DTYPES, Progress, Request, measure, thread_counts
from verify.bench.speed_plot import plot as drawn
from verify.bench.speed_table import print_speed
from verify.bench.suite import SCHEMA as SUITE
from verify.bench.suite import SECONDS, SuiteSpeed, measure_suite
from verify.bench.suite_cases import GROWTH, SUITES
from verify.bench.suite_table import print_suite
from verify.files import check_folder
from verify.run.progress import watching
from verify.run.table import print_json
from verify.threads import so_many_threads

_SECONDS = 20.0
_FEW = 2  # points of a curve that --quick measures
Run = TypeVar("Run", Speed, LayerSpeed, Compared, SuiteSpeed, Growth)


@dataclass(frozen=True)
class Settings:
    """The options of the command, as given."""

    device: str
    dtype: str
    seconds: float | None
    quick: bool
    seed: int
    shapes: str
    threads: str
    out: Path | None
    plot: Path | None
    json: bool

    @property
    def launching(self) -> float:
        """How long to launch at each shape."""
        return _SECONDS if self.seconds is None else self.seconds

    def request(self, shapes: tuple[Shape, ...] = ()) -> Request:
        """Return what to measure; UsageError for an unusable device or dtype."""
        chosen = self.dtype or DEFAULT_DTYPES.get(self.device, "float32")
        request = Request(shapes, self.device, chosen, self.launching, self.quick, self.seed)
        request.check()
        return request


def bench_against(folder: Path, settings: Settings) -> None:
    """Time the shipped layers against those of another generated package and report."""
    if settings.plot is not None:
        raise UsageError(
            f"--plot {str(settings.plot)!r} draws the ratios to torch's layers; leave it out with --against"
        )
    request, counts = _requested(settings)
    measured(settings, AGAINST, counts, lambda progress: compare(request, folder, progress), print_compared)


def _requested(settings: Settings) -> tuple[Request, tuple[int, ...]]:
    """Return what to measure, at the given shapes or the default ones, and the numbers of threads."""
    named = settings.shapes.split(",") if settings.shapes else default_shapes(settings.device, settings.quick)
    return settings.request(tuple(map(parse_shape, named))), thread_counts(settings.threads)


def bench_layers(settings: Settings) -> None:
    """Measure the shipped layers and report."""
    request, counts = _requested(settings)
    measured(settings, LAYERS, counts, lambda progress: measure(request, progress), print_speed, drawn)


def bench_suite(suite: str, settings: Settings) -> None:
    """Run a suite and report; UsageError for an unknown suite or an option that suites do not take."""
    if suite not in SUITES:
        raise UsageError(f"suite {suite!r} is not known; choose one of {', '.join(SUITES)}")
    unfit: dict[str, object] = {
        "--shapes": settings.shapes,
        "--dtype": settings.dtype,
    }
    if suite != GROWTH:
        unfit |= {"--quick": settings.quick, "--plot": settings.plot}
    for option, given in unfit.items():
        if given:
            draws = f", and only `--suite {GROWTH}` plots" if option == "--plot" else ""
            raise UsageError(f"--suite has its own shapes and types{draws}; leave out {option}")
    settings.request()
    counts = thread_counts(settings.threads)
    seconds = SECONDS[suite] if settings.seconds is None else settings.seconds
    device, seed = settings.device, settings.seed
    if suite == GROWTH:
        most = _FEW if settings.quick else 0
        measured(
            settings,
            GROWTH_RUNS,
            counts,
            lambda progress: measure_growth(device, seconds, seed, progress, most),
            print_growth,
            plot_growth,
        )
    else:
        measured(
            settings,
            SUITE,
            counts,
            lambda progress: measure_suite(suite, device, seconds, seed, progress),
            print_suite,
        )


def measured(
    settings: Settings,
    schema: str,
    counts: tuple[int, ...],
    run: Callable[[Progress], Run],
    show: Callable[[Run], None],
    draw: Callable[[Run], str] | None = None,
) -> None:
    """Measure with each number of threads; append every run to the results file, print it, and plot the last one.

    Raise UsageError before measuring if a file cannot be written or holds something other than runs of ``schema``.
    """
    if settings.out is not None:
        check_file(settings.out, schema)
    if settings.plot is not None:
        check_folder(settings.plot.parent, (settings.plot.name,))
    runs: list[dict[str, Any]] = []
    for count in counts:
        with watching() as watcher, so_many_threads(count):
            speed = run(watcher.report)
            runs.append(described(speed))
        if settings.out is not None:
            append(settings.out, runs[-1])
        if not settings.json:
            show(speed)
    if settings.json:
        print_json(runs[0] if len(runs) == 1 else {"schema": runs[0]["schema"], "runs": runs})
    if settings.plot is not None and draw is not None:
        write_text(settings.plot, draw(speed))
