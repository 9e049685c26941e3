"""Expected spreads: the derived mean and variance of a self factor against draws of a million samples."""

from __future__ import annotations

import pytest
import torch

from derive.export.text import text
from derive.forward_map import LayerError
from derive.layers import layer
from derive.spread import expected_spread
from verify.checks.evaluate import Point, evaluate

SAMPLES, N = 400_000, 4


def drawn(inputs):
    generator = torch.Generator().manual_seed(0)
    g = torch.randn(SAMPLES, N, generator=generator, dtype=torch.float64)
    if inputs == "gaussian":
        return g * 1.3, {"v": 1.3**2}, {}
    if inputs == "relu":
        return (g * 1.3).clamp(min=0), {"v": 1.3**2 / 2}, {}
    root = torch.randn(N, N, generator=generator, dtype=torch.float64)
    return g @ root.T, {}, {"C": (root @ root.T).numpy()}


@pytest.mark.parametrize("inputs", ["gaussian", "relu", "covariance"])
@pytest.mark.parametrize("name", ["affine", "low-rank"])
def test_mean_and_variance_are_those_of_a_large_sample(name, inputs):
    x, scalars, statistics = drawn(inputs)
    known, sizes = layer(name), {"n": N, "m": 3, "k": 2, "B": SAMPLES}
    torch.manual_seed(1)
    tensors = {p.name: torch.randn([sizes[str(a)] for a in p.axes], dtype=torch.float64) for p in known.parameters}
    spread = expected_spread(known, inputs)
    if name == "affine":
        factors = x.square().sum(-1) + 1
    else:
        U, A = tensors["U"], tensors["A"]
        factors = x.square().sum(-1) * (U @ U.T).trace() / 3 + (x @ A.T).square().sum(-1)
    given = {k: t.numpy() for k, t in tensors.items()} | statistics
    point = Point(given, scalars, {}, sizes)
    assert evaluate(spread.mean, (), point) == pytest.approx(float(factors.mean()), rel=0.01)
    assert evaluate(spread.variance, (), point) == pytest.approx(float(factors.var()), rel=0.03)
    wanted = float(factors.std() / factors.mean())
    assert evaluate(spread.variation, (), point) == pytest.approx(wanted, rel=0.02)


def test_the_spreads_of_theory():
    assert text(expected_spread(layer("affine"), "gaussian").variation) == "sqrt(2)*sqrt(n)*v/(n*v + 1)"
    assert text(expected_spread(layer("affine"), "covariance").variance) == "2*sum[j,k](C[k,j]**2)"
    assert text(expected_spread(layer("linear"), "relu").variation) == "sqrt(5)/sqrt(n)"
    assert expected_spread(layer("embedding"), "gaussian").variance == 0


def test_what_is_no_polynomial_is_refused_by_name():
    with pytest.raises(LayerError, match="no polynomial in the inputs"):
        expected_spread(layer("gated"), "gaussian")
    with pytest.raises(LayerError, match="known: gaussian, relu, covariance"):
        expected_spread(layer("affine"), "cauchy")
    with pytest.raises(LayerError, match="products of 8 entries, more than 4"):
        expected_spread(layer("film"), "relu")


def test_a_missing_pairing_would_show(monkeypatch):
    """Without one of the three pairings, the variance differs from that of a sample."""
    import derive.spread as spread

    whole = spread._partitions

    def fewer(entries):
        return (blocks for blocks in whole(entries) if len(entries) < 4 or blocks[0] != (entries[0], entries[3]))

    monkeypatch.setattr(spread, "_partitions", fewer)
    assert text(expected_spread(layer("affine"), "gaussian").variance) != "2*n*v**2"
