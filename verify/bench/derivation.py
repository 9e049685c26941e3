"""Cost of deriving the affine update kernel: symbolic sizes, explicit sizes, and tensorgrad if installed.

    python -m verify.bench.derivation -o paper_notes/results

Explicit-size SymPy writes every entry of z = W x + b and differentiates entry by entry: its cost grows with n. The
engine of ``derive`` works with symbolic sizes, so its cost does not depend on n; it is timed with cold caches and
includes building the forward map. tensorgrad (optional, not a dependency) takes the symbolic gradient of the same map.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from verify.bench.record import circumstances, svg_text, write_json, write_text

SIZES = (2, 4, 8, 16, 32)
_REPEATS = 5


def explicit_kernel(n: int) -> Any:
    """Return K_ss' of z = W x + b at n = m, from the Jacobian of every entry with respect to every parameter entry."""
    import sympy

    W = sympy.Matrix(n, n, lambda i, j: sympy.Symbol(f"W{i}_{j}"))
    b = sympy.Matrix(n, 1, lambda i, _: sympy.Symbol(f"b{i}"))
    parameters = [*W, *b]

    def jacobian(sample: str) -> Any:
        x = sympy.Matrix(n, 1, lambda i, _: sympy.Symbol(f"{sample}{i}"))
        return (W * x + b).jacobian(parameters)

    return (jacobian("x") * jacobian("y").T).expand()


_ENGINE = """
import time
import derive
from derive import layers
start = time.perf_counter()
derive.update_kernel(derive.layer("affine"))
print(time.perf_counter() - start)
"""

_TENSORGRAD = """
import time
import sympy
from tensorgrad import Variable
i, j = sympy.symbols("i j")
start = time.perf_counter()
(Variable("W", i, j) @ Variable("x", j) + Variable("b", i)).grad(Variable("W", i, j)).simplify()
print(time.perf_counter() - start)
"""


def fresh_process(program: str) -> float:
    """Return the seconds that a program prints; it runs in a new process, so that nothing is cached."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return float(done.stdout)


def timed(work: Callable[[], Any]) -> float:
    """Return the seconds of one call, with SymPy's cache cleared first."""
    from sympy.core.cache import clear_cache

    clear_cache()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure() -> dict[str, Any]:
    """Time all methods, interleaved; each figure is the median of several runs, with minimum and maximum."""
    providers: dict[str, Callable[[], float]] = {"symbolic sizes": lambda: fresh_process(_ENGINE)}
    for n in SIZES:
        providers[f"explicit n={n}"] = partial(timed, partial(explicit_kernel, n))
    if importlib.util.find_spec("tensorgrad"):
        providers["tensorgrad gradient"] = lambda: fresh_process(_TENSORGRAD)
    seconds: dict[str, list[float]] = {name: [] for name in providers}
    for _ in range(_REPEATS):
        for name, run in providers.items():
            seconds[name].append(run())
    return {
        name: {"median_s": statistics.median(runs), "least_s": min(runs), "greatest_s": max(runs)}
        for name, runs in seconds.items()
    }


def plot(figures: dict[str, Any]) -> str:
    """Return the plot of cost against n, as SVG text."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.loglog(SIZES, [figures[f"explicit n={n}"]["median_s"] for n in SIZES], "o-", label="explicit sizes, SymPy")
    axes.axhline(figures["symbolic sizes"]["median_s"], ls="--", label="symbolic sizes, this engine")
    if "tensorgrad gradient" in figures:
        axes.axhline(figures["tensorgrad gradient"]["median_s"], ls=":", label="tensorgrad, gradient only")
    axes.set(xlabel="n = m", ylabel="seconds", title="Deriving the update kernel of the affine layer")
    axes.set_xticks(SIZES, [str(n) for n in SIZES])
    axes.legend(frameon=False)
    return svg_text(figure, "derivation-cost")


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; write derivation-cost.json and .svg with -o, else print the figures."""
    parser = argparse.ArgumentParser(prog="python -m verify.bench.derivation", description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, help="folder for derivation-cost.json and derivation-cost.svg")
    out: Path | None = parser.parse_args(arguments).out
    figures = measure()
    for name, row in figures.items():
        spread = f"{1000 * row['least_s']:.2f} .. {1000 * row['greatest_s']:.2f}"
        print(f"{name:24s} {1000 * row['median_s']:9.2f} ms  ({spread})")
    if out is not None:
        write_json(
            out / "derivation-cost.json", {"benchmark": "derivation-cost", **circumstances(), "figures": figures}
        )
        write_text(out / "derivation-cost.svg", plot(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
