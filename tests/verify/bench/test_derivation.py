"""The derivation benchmark measures what it names, and records its machine and versions."""

from __future__ import annotations

import json

import pytest

from derive.algebra.index import Index, size_symbol
from derive.evaluation.evaluate import evaluate
from derive.evaluation.fields import Modular
from derive.evaluation.points import Point
from derive.layers import layer
from derive.update import update_kernel
from verify.bench import derivation


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_explicit_kernel_is_the_symbolic_one(n: int) -> None:
    """Both sides of the benchmark compute the same kernel."""
    explicit = derivation.explicit_kernel(n)
    kernel = update_kernel(layer("affine"))
    point = Point(7, {size_symbol("n"): n, size_symbol("m"): n}, Modular(), {})
    names = {i.name: i for i in kernel.free_symbols if isinstance(i, Index)}
    symbols = {f"{t}{j}": point.draw("x", (s, j)) for t, s in (("x", 0), ("y", 1)) for j in range(n)}
    for i in range(n):
        for k in range(n):
            at = {names["s"]: 0, names["s'"]: 1, names["i"]: i, names["i'"]: k}
            value = int(explicit[i, k].subs(symbols)) if explicit[i, k] != 0 else 0
            assert (value - evaluate(kernel, at, point)) % (2**61 - 1) == 0


def test_the_result_says_where_it_was_measured(tmp_path, monkeypatch, capsys) -> None:
    """The written file names device, versions, commit and command; the plot is an SVG."""
    monkeypatch.setattr(derivation, "SIZES", (2, 3))
    monkeypatch.setattr(derivation, "_REPEATS", 1)
    assert derivation.main(["-o", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "derivation-cost.json").read_text())
    assert {"device", "versions", "commit", "command", "figures"} <= written.keys()
    assert written["figures"]["symbolic sizes"]["median_s"] > 0
    assert "<svg" in (tmp_path / "derivation-cost.svg").read_text()
    assert "explicit n=3" in capsys.readouterr().out
