"""The command ``affdiv bench --spec``: checked before anything is generated or timed."""

from __future__ import annotations

from pathlib import Path

from derive.errors import UsageError
from verify.bench.layer_sizes import default_sizes, parse_sizes
from verify.bench.layer_speed import SCHEMA, measure_layer
from verify.bench.layer_table import print_layer_speed
from verify.bench.results_file import append, check_file, described
from verify.bench.speed import DEFAULT_DTYPES, Request, thread_counts
from verify.checks.layer_files.package import layer_file
from verify.run.progress import watching
from verify.run.table import print_json
from verify.threads import so_many_threads

Chosen = tuple[str, str, float, bool, int]


def bench_layer(
    spec: str, chosen: Chosen, *, shapes: str, threads: str, out: Path | None, plot: Path | None, json: bool
) -> None:
    """Time the layer in a file; ``chosen`` are device, type, seconds, quick and seed.

    Raises UsageError for a file, sizes or a device that cannot be used, before anything is timed.
    """
    device, dtype, seconds, quick, seed = chosen
    if plot is not None:
        raise UsageError(f"--plot {str(plot)!r} draws the ratios of the shipped layers; leave it out with --spec")
    request = Request((), device, dtype or DEFAULT_DTYPES.get(device, "float32"), seconds, quick, seed)
    request.check()
    counts = thread_counts(threads)
    file = layer_file(spec)
    assert file.layer is not None
    sizes = [parse_sizes(file.layer, s) for s in shapes.split(",")] if shapes else default_sizes(file.layer, quick)
    if out is not None:
        check_file(out, SCHEMA)
    if file.refusal:
        raise UsageError(file.refusal)
    runs = []
    for count in counts:
        with watching() as watcher, so_many_threads(count):
            speed = measure_layer(request, file, sizes, watcher.report)
            runs.append(described(speed))
        if out is not None:
            append(out, runs[-1])
        if not json:
            print_layer_speed(speed)
    if json:
        print_json(runs[0] if len(runs) == 1 else {"schema": SCHEMA, "runs": runs})
