"""Choose the benchmark from the options of ``affdiv bench``."""

from __future__ import annotations

from pathlib import Path

from derive.errors import UsageError
from verify.bench.command import Settings, bench_against, bench_layers, bench_suite
from verify.bench.layer_command import bench_layer


def bench(settings: Settings, spec: Path | None, against: Path | None, suite: str) -> None:
    """Run a suite, time the layer of a file, compare two packages, or (by default) time the shipped layers.

    Raise UsageError for options that cannot be combined.
    """
    if against is not None and spec is not None:
        raise UsageError("--against compares the shipped layers; leave out --spec")
    if suite and (against is not None or spec is not None):
        raise UsageError("--suite measures the shipped layers; leave out --against and --spec")
    if suite:
        bench_suite(suite, settings)
    elif against is not None:
        bench_against(against, settings)
    elif spec is not None:
        bench_layer(str(spec), settings)
    else:
        bench_layers(settings)
