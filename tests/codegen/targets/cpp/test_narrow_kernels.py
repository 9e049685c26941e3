"""The C++ kernels for rows of bfloat16: as near to the theory as torch's operations are."""

import pytest
import torch

import affine_divergence as ad
from tests.codegen.targets.cuda.test_host import (  # noqa: F401
    BRAIN,
    both,
    error,
    function,
    kappa,
    maps,
    operands,
    seeded,
)

SHAPES = [(256, 96, 64), (33, 2053, 17), (5, 300, 3)]


def by_torch(name, inputs, g):
    """Output and gradients by operations of torch, which compute in float32 and round what they leave."""
    z = getattr(ad.functional, name.removesuffix("_without_bias"))(*inputs, kappa=kappa, backend="torch")
    return (z, *torch.autograd.grad(z, inputs, g))


def departs(host, name, shape):
    """Whether kernels are further from the theory than torch's operations are, by more than sums in other orders."""
    inputs = operands(name, shape, BRAIN)
    inputs[0] = (inputs[0].detach() * 0.4).requires_grad_()  # about as long as the one under the root matters
    g = torch.randn(shape[0], shape[2]).to(BRAIN)
    ours, exact = both(host, name, inputs, g)
    composed = by_torch(name, inputs, g)
    assert [t.dtype for t in ours] == [BRAIN] * len(ours)
    room = 1.05 if exact[0].numel() >= 200 else 1.5
    alone = [torch.autograd.grad(function(host, name)(*inputs, kappa=kappa), t, g)[0] for t in inputs]
    triples = zip((*ours, *alone), (*exact, *exact[1:]), (*composed, *composed[1:]), strict=True)
    return any(not error(a, e) <= room * error(c, e) + 4e-4 for a, e, c in triples)


@maps
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_error_is_that_of_torchs_operations(host, name, shape):
    assert not departs(host, name, shape)
    assert f"{name}_f_u" in host.launched and any(n.endswith("_dx") for n in host.launched)


@maps
def test_rows_without_a_number_and_rows_that_are_far(host, name):
    inputs = [t.detach() for t in operands(name, (9, 40, 13), BRAIN)]
    x = inputs[0]
    x[1, 3], x[2, 5], x[3], x[4] = torch.nan, torch.inf, 0, 1e30
    z = function(host, name)(*inputs, kappa=kappa)
    assert z[1:3].isnan().all() and z[[0, *range(3, 9)]].isfinite().all()
    assert host.launched


def test_numbers_are_rounded_to_the_nearest(host):
    """An identity in the place of W leaves each number as it is scaled."""
    x = (torch.rand(64, 64) + 0.5).to(BRAIN)
    z = function(host, "norm_like_without_bias")(x, torch.eye(64, dtype=BRAIN), kappa=1.0)
    assert torch.equal(z, (x.double() / x.double().norm(dim=1, keepdim=True)).to(BRAIN))


MUTANTS = {
    "numbers cut off": ("all + 0x7fffu + (all >> 16 & 1)", "all"),
    "scale left out of what is added": ("b[k] * f + uW[k]", "b[k] + uW[k]"),
    "sign of the row term": ("f * gW[k] - c * u", "f * gW[k] + c * u"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_killed(host, name):
    source = host.maps[0].KERNELS._path
    sources = (source, source.with_name("runtime") / "rows.h")
    assert any(MUTANTS[name][0] in s.read_text() for s in sources), "the line to damage is gone: look again"
    host.damage(MUTANTS[name])
    assert departs(host, "affine_like", SHAPES[0])
