"""The command ``affdiv bench --spec``: it checks all options before it generates or times anything."""

from __future__ import annotations

from derive.errors import UsageError
from verify.bench.command import Settings, measured
from verify.bench.layer_sizes import default_sizes, parse_sizes
from verify.bench.layer_speed import SCHEMA, measure_layer
from verify.bench.layer_table import print_layer_speed
from verify.bench.speed import thread_counts
from verify.checks.layer_files.package import layer_file


def bench_layer(spec: str, settings: Settings) -> None:
    """Time the layer of a file; UsageError, before any work, for an unusable file, sizes or device."""
    if settings.plot is not None:
        raise UsageError(
            f"--plot {str(settings.plot)!r} draws the ratios of the shipped layers; leave it out with --spec"
        )
    request, counts = settings.request(), thread_counts(settings.threads)
    file = layer_file(spec)
    layer = file.layer
    assert layer is not None
    named = settings.shapes.split(",") if settings.shapes else []
    sizes = [parse_sizes(layer, text) for text in named] or default_sizes(layer, settings.quick)
    if file.refusal:
        raise UsageError(file.refusal)
    measured(
        settings, SCHEMA, counts, lambda progress: measure_layer(request, file, sizes, progress), print_layer_speed
    )
