"""PatchNorm by kernels against torch's target and against unfolded patches, over geometries, types and layouts."""

import importlib
import inspect
import re

import pytest
import torch
import torch.nn.functional as F

from affine_divergence import functional as plain
from codegen.catalogue import patch_maps

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # the interpreter is NumPy

DOUBLE = torch.float64
MODULES = [importlib.import_module(f"affine_divergence.kernels.triton.{m.module}") for m in patch_maps()]
ROUNDING = {
    torch.float64: 1e-14,
    torch.float32: 6e-7,
    torch.bfloat16: 1.6e-2,
}  # Triton's interpreter truncates to bfloat16
GEOMETRIES = {
    "plain": ((2, 40, 4, 5), (6, 40, 3, 3), {}),
    "padded, strided, dilated": ((2, 3, 9, 8), (5, 3, 3, 2), {"stride": (2, 1), "padding": (1, 2), "dilation": (2, 1)}),
    "grouped": ((1, 4, 5, 5), (6, 2, 3, 3), {"groups": 2, "padding": 1}),
    "depthwise": ((2, 6, 3, 4), (6, 1, 2, 2), {"groups": 6, "stride": 2}),
    "one axis": ((2, 3, 11), (4, 3, 3), {"stride": 2, "padding": 1}),
    "three axes": ((1, 2, 4, 3, 5), (3, 2, 2, 2, 3), {"padding": (0, 1, 1), "dilation": (1, 1, 2)}),
}
TURNED = {
    "plain": ((2, 4, 5, 4), (4, 6, 3, 3), {}),
    "strided, lengthened": ((2, 4, 4, 3), (4, 3, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}),
    "one axis": ((1, 3, 6), (3, 4, 3), {"stride": 2, "dilation": 2}),
}
FORMS = [("affine-like", True), ("norm-like", True), ("norm-like", False)]


def operands(shapes, bias, dtype=DOUBLE, turned=False, groups=1):
    shape, kernel, _ = shapes
    generator = torch.Generator().manual_seed(3)
    units = kernel[1] * groups if turned else kernel[0]
    wanted = [shape, kernel, *([(units,)] if bias else [])]
    return [torch.randn(s, generator=generator, dtype=DOUBLE).to(dtype).requires_grad_() for s in wanted]


def results(function, tensors, settings, g=None, **more):
    x, W, *b = tensors
    z = function(x, W, b[0] if b else None, **settings, **more)
    g = torch.randn(z.shape, generator=torch.Generator().manual_seed(4), dtype=DOUBLE).to(z.dtype) if g is None else g
    return [t.detach() for t in (z, *torch.autograd.grad(z, tensors, g))]


def function(shapes, turned):
    return getattr(plain, f"patch_norm_conv{'_transpose' if turned else ''}{len(shapes[0]) - 2}d")


def kernels(*tensors, **settings):
    return plain.patch_norm_conv2d(*tensors, **settings, backend="triton")


def error(ours, right):
    return float((ours.double() - right.double()).norm() / right.double().norm())


CASES = [(shapes, False, False) for shapes in GEOMETRIES.values()] + [
    (shapes, True, False) for shapes in TURNED.values()
]
CASES += [(GEOMETRIES[name], False, True) for name in ("padded, strided, dilated", "grouped", "one axis")]


@pytest.fixture
def launched(monkeypatch):
    """Record the names of the kernels that ran."""
    names = []

    def watched(inner):
        return lambda kernel, *a, **k: (names.append(kernel.__name__), inner(kernel, *a, **k))

    for module in MODULES:
        monkeypatch.setattr(module, "walk", watched(module.walk))
    return names


@pytest.mark.parametrize(("form", "bias"), FORMS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_as_torch_computes_it(case, form, bias, launched):
    shapes, turned, centred = case
    settings = {**shapes[2], "form": form, "kappa": 1.7, **({"center": True} if centred else {})}
    tensors = operands(shapes, bias, turned=turned, groups=settings.get("groups", 1))
    for recompute in (True, False):
        ours = results(function(shapes, turned), tensors, settings, recompute=recompute, backend="triton")
        right = results(function(shapes, turned), tensors, settings)
        for k, (a, b) in enumerate(zip(ours, right, strict=True)):
            assert a.shape == b.shape and error(a, b) <= ROUNDING[DOUBLE], f"{k}: {error(a, b)}"
    sums = {"x_sum_xx_kernel", "m_dh_dE_dx_sum_sum_kernel"} if centred else {"xx_kernel", "dh_dE_kernel"}
    assert {"dx_kernel", *sums} <= set(launched)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("center", [False, True])
def test_types_and_layouts(dtype, layout, center):
    shapes = GEOMETRIES["padded, strided, dilated"]
    tensors = operands(shapes, True, dtype)
    x = tensors[0].detach().contiguous(memory_format=layout).requires_grad_()
    exact = [t.detach().double().requires_grad_() for t in tensors]
    settings = {**shapes[2], "kappa": 1.7, "center": center}
    g = torch.randn(results(plain.patch_norm_conv2d, exact, settings)[0].shape).to(dtype)
    right = results(plain.patch_norm_conv2d, exact, settings, g.double())
    for a, b in zip(results(kernels, [x, *tensors[1:]], settings, g), right, strict=True):
        assert a.dtype == dtype and error(a, b) <= ROUNDING[dtype]
        if a.dim() == 4 and a.shape[0] == 2:
            assert a.is_contiguous(memory_format=layout)


def test_an_expanded_gradient_and_a_view():
    shapes = GEOMETRIES["plain"]
    x, W, b = operands(shapes, True)
    wide = x.detach().repeat_interleave(2, 3)[..., ::2].requires_grad_()
    z = plain.patch_norm_conv2d(x, W, b)
    g = torch.ones(1, 1, 1, 1, dtype=DOUBLE).expand(z.shape)
    ours, right = (
        results(kernels, [wide, W, b], {}, g),
        results(plain.patch_norm_conv2d, [x, W, b], {}, g),
    )
    assert all(error(a, c) <= ROUNDING[DOUBLE] for a, c in zip(ours, right, strict=True))


def test_space_that_lies_turned():
    """Space transposed in the memory of input and gradient; results have another layout."""
    shapes = GEOMETRIES["padded, strided, dilated"]
    x, W, b = operands(shapes, True)
    turned = x.detach().transpose(2, 3).contiguous().transpose(2, 3).requires_grad_()
    right = results(plain.patch_norm_conv2d, [x, W, b], shapes[2])
    g = torch.randn(right[0].shape, generator=torch.Generator().manual_seed(4), dtype=DOUBLE)
    g = g.transpose(2, 3).contiguous().transpose(2, 3)
    ours = results(kernels, [turned, W, b], shapes[2], g)
    assert all(error(a, c) <= ROUNDING[DOUBLE] for a, c in zip(ours, right, strict=True))


def test_patches_taken_apart():
    """The theory's formula, with each patch a row."""
    x, W, b = operands(GEOMETRIES["plain"], True)
    patches = F.unfold(x, (3, 3), padding=1, stride=2)
    energy = patches.square().sum(1, keepdim=True)
    expected = (1.7 / (energy + 1)).sqrt() * (W.flatten(1) @ patches + b[:, None])
    z = kernels(x, W, b, stride=2, padding=1, kappa=1.7)
    torch.testing.assert_close(z.flatten(2), expected)
    g = torch.randn(z.shape, dtype=DOUBLE)
    for ours, right in zip(
        torch.autograd.grad(z, (x, W, b), g), torch.autograd.grad(expected, (x, W, b), g.flatten(2)), strict=True
    ):
        torch.testing.assert_close(ours, right)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize(("form", "bias"), FORMS)
def test_magnitudes(size, form, bias, center):
    shapes = GEOMETRIES["plain"]
    tensors = operands(shapes, bias, torch.float32)
    tensors[0] = (tensors[0].detach() * size).requires_grad_()
    settings = {"form": form, "center": center}
    ours = results(kernels, tensors, settings)
    right = results(plain.patch_norm_conv2d, [t.detach().double().requires_grad_() for t in tensors], settings)
    for a, c in zip(ours, right, strict=True):
        if not 0 < c.abs().max() < 1e-37:  # in the type's range
            assert a.isfinite().all() and torch.allclose(a.double(), c, rtol=1e-5, atol=2e-6 * float(c.abs().max()))


def test_what_has_no_kernel_is_left_to_torch(launched):
    x, W, b = operands(GEOMETRIES["plain"], True)
    kernels(*(t.half() for t in (x, W, b)))
    kernels(x[:0], W, b)
    assert not launched
    few = [t.detach()[:2].requires_grad_() for t in (x[:1, :2, :3, :3], W[:, :2, :2, :2], b)]
    assert torch.autograd.gradgradcheck(kernels, few)


def test_no_patch_is_unfolded_and_no_square_has_channels():
    for module in MODULES:
        assert not re.search(r"unfold|cumsum|square\(", inspect.getsource(module))
