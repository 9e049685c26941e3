"""If no map cancels: the ranking of the closest remedies, and their stated residuals."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from affdiv import app
from derive.layers import layer
from derive.record import Status
from derive.remedies import remedies
from verify.checks.evaluate import Point, evaluate

SIZES = {"n": 3, "m": 3, "k": 2, "B": 2}


def tensors(name):
    torch.manual_seed(4)
    known = layer(name)
    return {
        t.name: torch.randn([SIZES[str(a)] for a in t.axes], dtype=torch.float64)
        for t in (*known.inputs, *known.parameters)
    }


def kernel_of_samples(name, given, factor):
    """``K_ss`` of every sample by automatic differentiation, for the output times a factor that is held fixed."""
    known = layer(name)
    references = {
        "gated": lambda x, W, V: (x @ W.T) * torch.sigmoid(x @ V.T),
        "low-rank": lambda x, A, U: x @ A.T @ U.T,
    }
    x, names = given["x"], [p.name for p in known.parameters]
    values = tuple(given[n] for n in names)
    slopes = torch.func.jacrev(
        lambda *p: references[name](x, **dict(zip(names, p, strict=True))) * factor, argnums=(0, 1)
    )(*values)
    rows = torch.cat([s.flatten(2) for s in slopes], -1)
    return torch.einsum("sip,sjp->sij", rows, rows)


@pytest.mark.parametrize(
    ("name", "remedy"), [("gated", "scale-mean"), ("gated", "scale-units"), ("low-rank", "scale-mean")]
)
def test_a_scaled_map_leaves_the_stated_residual(name, remedy):
    given, found = tensors(name), next((r for r in remedies(layer(name)) if r.name == remedy), None)
    if found is None:
        assert (name, remedy) == ("low-rank", "scale-units")  # its kernel is a full matrix
        return
    known = layer(name)
    s, i = known.output.indices
    point = Point({k: v.numpy() for k, v in given.items()}, {}, {d.name: d for d in known.definitions}, SIZES)
    divisor = torch.from_numpy(evaluate(found.divisor, (s, i), point))
    residual = torch.from_numpy(evaluate(found.residual, (s, i, i.primed()), point))
    kernel = kernel_of_samples(name, given, 1 / divisor.sqrt())
    torch.testing.assert_close(kernel - torch.eye(3, dtype=torch.float64), residual, rtol=1e-10, atol=1e-12)
    assert all(step.verdict.status is not Status.REFUTED for step in found.steps)


def test_the_least_residual_comes_first_and_the_layer_itself_is_measured():
    found = remedies(layer("low-rank"))
    assert found[0].name == "solve-units" and found[0].size == 0
    sizes = [r.size for r in found]
    assert sizes == sorted(sizes) and "nothing" in [r.name for r in found]
    names = {r.name: r.size for r in remedies(layer("affine>rms-norm"))}
    # K_ss = k (I - u u'): the mean over units leaves the missing direction, sqrt(1/m) at m = 3 units
    assert names["divide-mean"] == pytest.approx(names["scale-mean"]) == pytest.approx((1 / 3) ** 0.5)
    assert names["nothing"] > names["divide-mean"]


def test_solve_prints_what_comes_closest_only_where_no_map_exists():
    def said(*words):
        done = CliRunner().invoke(app, ["solve", *words, "--json"])
        return json.loads(done.stdout)

    assert said("affine")["best"] == [] and said("embedding")["best"] == []
    best = said("gated")["best"]
    assert [entry["name"] for entry in best][:2] == ["divide-units", "scale-units"]
    assert said("affine", "--inputs", "gaussian")["spread"]["coefficient_of_variation"]["text"].startswith("sqrt(2)")
