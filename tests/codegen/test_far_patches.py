"""Patches at the end of a type's range: the exact output and gradients, and the same bits elsewhere.

The reference unfolds an image to patches and evaluates each map's definition in float64.
"""

import math

import pytest
import torch

from affine_divergence import functional

KAPPA = 1.3
FORMS = [
    ("affine-like", False, True),
    ("norm-like", False, True),
    ("norm-like", False, False),
    ("norm-like", True, True),
]
CASES = [
    *(("torch", torch.float32, size) for size in (1e30, 3e38)),
    *(("torch", torch.bfloat16, size) for size in (1e30, 3e38)),
    *(("cpp", torch.float32, size) for size in (1e30, 3e38)),
]


def definition(form, x, weight, bias=None):
    name, centred, _ = form
    count, _, height, width = x.shape
    patches = torch.nn.functional.unfold(x, 3, padding=1)
    if centred:
        patches = patches - patches.mean(1, keepdim=True)
    squares = patches.square().sum(1, keepdim=True)
    product = torch.einsum("oc,ncp->nop", weight.flatten(1), patches)
    if name == "affine-like":
        z = math.sqrt(KAPPA) * (product + bias[:, None]) / torch.sqrt(squares + 1)
    elif bias is None:
        z = math.sqrt(KAPPA) * product / torch.sqrt(squares)
    else:
        z = math.sqrt(KAPPA - 1) * product / torch.sqrt(squares) + bias[:, None]
    return z.view(count, -1, height, width)


def ours(form, backend, *tensors):
    settings = {"form": form[0], "center": form[1], "kappa": KAPPA, "backend": backend}
    return functional.patch_norm_conv2d(*tensors, padding=1, **settings)


def operands(form, dtype, size):
    """The upper half of every other image has entries of the given size."""
    torch.manual_seed(0)
    x, weight, bias = torch.randn(4, 16, 8, 8, dtype=torch.float64), torch.randn(8, 16, 3, 3) / 12, torch.randn(8)
    x[::2, :, :4] = size * x[::2, :, :4].sign() * (torch.rand(2, 16, 4, 8, dtype=torch.float64) + 1) / 2
    tensors = [x, weight, bias] if form[2] else [x, weight]
    return [t.to(dtype).requires_grad_() for t in tensors], torch.randn(4, 8, 8, 8).to(dtype)


def results(run, tensors, g):
    z = run(*tensors)
    return [z.detach(), *torch.autograd.grad(z, tensors, g)]


def in_float64(form, tensors, g):
    return results(lambda *t: definition(form, *t), [t.detach().double().requires_grad_() for t in tensors], g.double())


def roundings(mine, exact):
    limits = torch.finfo(mine.dtype)
    return float((mine.double() - exact).abs().max() / exact.abs().max().clamp(limits.tiny) / limits.eps)


@pytest.mark.parametrize(("form", "backend", "dtype", "size"), [(f, *c) for f in FORMS for c in CASES], ids=str)
def test_output_and_gradients_are_those_of_the_definition(form, backend, dtype, size):
    tensors, g = operands(form, dtype, size)
    mine, exact = results(lambda *t: ours(form, backend, *t), tensors, g), in_float64(form, tensors, g)
    assert all(t.isfinite().all() for t in mine)
    for tensor, right in zip(mine[:1] + mine[2:], exact[:1] + exact[2:], strict=True):
        assert roundings(tensor, right) <= 16
    for images in (slice(0, None, 2), slice(1, None, 2)):
        assert roundings(mine[1][images], exact[1][images]) <= 16


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_product_that_is_kept_and_a_gradient_that_is_differentiated(form):
    tensors, g = operands(form, torch.float32, 1e38)
    kept = results(
        lambda *t: functional.patch_norm_conv2d(
            *t, padding=1, form=form[0], center=form[1], kappa=KAPPA, recompute=False, backend="torch"
        ),
        tensors,
        g,
    )
    for tensor, right in zip(kept, in_float64(form, tensors, g), strict=True):
        assert roundings(tensor, right) <= 16
    second = []
    for run, given in (
        (lambda *t: ours(form, "torch", *t), tensors),
        (lambda *t: definition(form, *t), [t.detach().double().requires_grad_() for t in tensors]),
    ):
        (first,) = torch.autograd.grad(run(*given).square().sum(), given[1], create_graph=True)
        second.append(torch.autograd.grad(first.square().sum(), given[1])[0])
    assert roundings(*second) <= 40


@pytest.mark.parametrize(("form", "backend"), [(f, b) for f in FORMS for b in ("torch", "cpp")], ids=str)
@pytest.mark.parametrize("other", [1.0, math.nan])
def test_no_bit_of_an_image_depends_on_far_patches_of_others(form, backend, other):
    tensors, g = operands(form, torch.float32, 1e38)
    before = results(lambda *t: ours(form, backend, *t), tensors, g)
    with torch.no_grad():
        tensors[0][0] = other
    after = results(lambda *t: ours(form, backend, *t), tensors, g)
    for one, two in zip(before[:2], after[:2], strict=True):
        assert torch.equal(one[1:], two[1:])


@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("backend", ["torch", "cpp"])
@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_graph_that_is_compiled_has_the_same_images_and_gradients(form, backend, recompute):
    torch.compiler.reset()
    tensors, g = operands(form, torch.float32, 1e38)
    settings = {"padding": 1, "form": form[0], "center": form[1], "kappa": KAPPA, "recompute": recompute}
    run = torch.compile(
        lambda *t: functional.patch_norm_conv2d(*t, **settings, backend=backend), backend="aot_eager", fullgraph=True
    )
    mine, exact = results(run, tensors, g), in_float64(form, tensors, g)
    for tensor, right in zip(mine[:1] + mine[2:], exact[:1] + exact[2:], strict=True):
        assert roundings(tensor, right) <= 16
    for images in (slice(0, None, 2), slice(1, None, 2)):
        assert roundings(mine[1][images], exact[1][images]) <= 16
