"""How the cost of deriving and generating grows: CPU time against the number of layers and of targets.

    python -m verify.bench.generation -o paper_notes/results

Each layer is an affine map with a different constant factor, so that no two are the same expression; it is read from
the text of a layer file, solved, and printed as a package. One process handles them one after another and records the
time after each. Linear cost means that a later layer costs as much as an earlier one (``growth`` near 1). Then the
whole package is built for one target, for two, and for all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from verify.bench.record import circumstances, svg_text, write_json, write_text

LAYERS = 32
_REPEATS = 3

_SPEC = """
name = "scaled_{factor}"
sizes = ["n", "m"]
[input]
x = ["n"]
[parameters]
W = ["m", "n"]
b = ["m"]
[output]
z = ["m"]
formula = "z[i] = {factor} * sum[j](W[i, j] * x[j]) + b[i]"
"""


def layer_seconds(count: int) -> list[float]:
    """Return, for each of ``count`` layers, the CPU seconds of reading, solving and printing it."""
    from codegen.compiler import build_layer
    from derive.spec import loads_spec

    seconds = []
    for factor in range(2, count + 2):
        start = time.process_time()
        build_layer(loads_spec(_SPEC.format(factor=factor)))
        seconds.append(time.process_time() - start)
    return seconds


def target_seconds(count: int) -> list[float]:
    """Return the CPU seconds of building the whole package for the first ``count`` targets."""
    from codegen.compiler import build
    from codegen.targets.base import NAMES

    start = time.process_time()
    build(targets=NAMES[:count])
    return [time.process_time() - start]


def fresh_process(function: str, count: int) -> list[float]:
    """Return the result of a function of this module, called in a new process so that nothing is cached."""
    program = f"import json; from {__spec__.name} import {function}; print(json.dumps({function}({count})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    seconds: list[float] = json.loads(done.stdout)
    return seconds


def measure() -> dict[str, Any]:
    """Return the median seconds, over several processes, of each layer and of each number of targets."""
    from codegen.targets.base import NAMES

    runs = [fresh_process("layer_seconds", LAYERS) for _ in range(_REPEATS)]
    layers = [statistics.median(column) for column in zip(*runs, strict=True)]
    counts = range(1, len(NAMES) + 1)
    targets = [
        statistics.median(fresh_process("target_seconds", count)[0] for _ in range(_REPEATS)) for count in counts
    ]
    return {"layer_s": layers, "target_s": targets, "growth": growth(layers)}


def growth(seconds: Sequence[float]) -> float:
    """Return the median cost of a layer of the second half divided by that of the first half; 1 is linear cost.

    The first layer, which fills the caches, is left out. Raises ValueError for fewer than three layers.
    """
    if len(seconds) < 3:
        raise ValueError(f"{len(seconds)} layers show no growth: measure three or more")
    warm = seconds[1:]
    half = len(warm) // 2
    return statistics.median(warm[half:]) / statistics.median(warm[:half])


def plot(figures: dict[str, Any]) -> str:
    """Return the plots of cost against the number of layers and of targets, as SVG text."""
    from matplotlib.figure import Figure

    seconds = figures["layer_s"]
    counts = range(1, len(seconds) + 1)
    warm = statistics.median(seconds[1:])
    figure = Figure(figsize=(7.0, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": (2, 1)})
    left.plot(counts, [sum(seconds[:k]) for k in counts], "o", markersize=3, label="measured")
    left.plot(
        counts, [seconds[0] + warm * (k - 1) for k in counts], "--", label=f"linear, {1000 * warm:.0f} ms a layer"
    )
    left.set(xlabel="layers", ylabel="process seconds", ylim=(0, None), title="Derive and generate")
    left.legend(frameon=False)
    right.bar([str(k + 1) for k in range(len(figures["target_s"]))], figures["target_s"])
    right.set(xlabel="targets", title="The package")
    return svg_text(figure, "generation-cost")


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; write generation-cost.json and .svg with -o; print the figures."""
    parser = argparse.ArgumentParser(prog="python -m verify.bench.generation", description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, help="folder for generation-cost.json and generation-cost.svg")
    out: Path | None = parser.parse_args(arguments).out
    figures = measure()
    layers = figures["layer_s"]
    print(f"first layer {1000 * layers[0]:.0f} ms, later ones {1000 * statistics.median(layers[1:]):.0f} ms each")
    print(f"{len(layers)} layers {sum(layers):.2f} s; a late layer costs {figures['growth']:.2f} times an early one")
    for count, seconds in enumerate(figures["target_s"], start=1):
        print(f"the package for {count} target{'s' if count > 1 else ''} {seconds:.2f} s")
    if out is not None:
        write_json(
            out / "generation-cost.json", {"benchmark": "generation-cost", **circumstances(), "figures": figures}
        )
        write_text(out / "generation-cost.svg", plot(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
