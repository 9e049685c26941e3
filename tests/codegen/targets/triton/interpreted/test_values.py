"""Values and gradients of the kernels against float64, over shapes, types, layouts and magnitudes."""

import pytest
import torch

from affine_divergence.kernels.triton.runtime import tiles

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # the interpreter is NumPy

DOUBLE, KAPPA = torch.float64, 1.7
SHAPES = [(1, 1, 1), (16, 32, 16), (33, 37, 40)]
LARGE = [(20, 515, 17), (20, 16, 513)]
TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]

# Relative errors of the output and of dx, which are rounded once. Triton's interpreter truncates float32 to bfloat16
# instead of rounding, which doubles the error. The weight's gradient has rounded operands and a bound of its own.
RELATIVE = {torch.float64: 2e-15, torch.float32: 5e-7, torch.float16: 5e-4, torch.bfloat16: 8e-3}


def reference(layer, tensors, g, run):
    exact = [t.detach().double().requires_grad_() for t in tensors]
    return run(layer.twin, exact, g.double())


def relative_error(ours, exact):
    return ((ours.double() - exact).norm() / exact.norm()).item()


def assert_close(results, exact, dtype):
    for name, ours, right in zip(("z", "dx", "dW", "db"), results, exact, strict=False):
        assert ours.dtype == dtype and ours.shape == right.shape
        if name in ("dW", "db") and dtype.itemsize == 2:
            assert (ours.double() - right).abs().max() <= 2 * torch.finfo(dtype).eps * right.abs().max()
        elif right.norm() > 0:
            assert relative_error(ours, right) <= RELATIVE[dtype], name


def test_the_interpreter_runs():
    assert tiles.INTERPRETED.value


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value_and_gradients(layer, shape, dtype, way, run):
    tensors, g = layer.operands(shape, dtype)
    results, exact = run(layer.ours, tensors, g), reference(layer, tensors, g, run)
    if shape[1] == 1 and layer.name == "norm_like":  # along the only direction, dx is zero up to rounding
        results[1] = exact[1] = torch.zeros_like(results[1])
    assert_close(results, exact, dtype)


@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_shapes_that_need_several_tiles_by_themselves(affine, shape, run):
    tensors, g = affine.operands(shape, torch.float32)
    assert_close(run(affine.ours, tensors, g), reference(affine, tensors, g, run), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_no_worse_than_plain_torch(layer, dtype, way, run):
    """Errors of the output and of dx stay at the rounding floor, whereas a composition of torch calls rounds twice."""
    tensors, g = layer.operands((40, 40, 40), dtype)
    exact = reference(layer, tensors, g, run)
    ours, plain = run(layer.ours, tensors, g), run(layer.plain, tensors, g)
    for mine, theirs, right in list(zip(ours, plain, exact, strict=True))[:2]:
        floor = relative_error(right.to(dtype), right) if dtype == torch.float16 else relative_error(theirs, right)
        assert relative_error(mine, right) <= 1.1 * floor


LAYOUTS = {
    "transposed input": lambda x, W, g: (x.t().contiguous().t(), W, g),
    "every second column": lambda x, W, g: (x.repeat_interleave(2, 1)[:, ::2], W, g),
    "every second row": lambda x, W, g: (x.repeat_interleave(2, 0)[::2], W, g),
    "one row, many times": lambda x, W, g: (x[:1].expand_as(x), W, g),
    "transposed weight": lambda x, W, g: (x, W.t().contiguous().t(), g),
    "expanded gradient": lambda x, W, g: (x, W, g[:1, :1].expand_as(g)),
    "transposed gradient": lambda x, W, g: (x, W, g.t().contiguous().t()),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layer, layout, way, run):
    tensors, g = layer.operands((33, 20, 20))
    x, W, *bias = (t.detach() for t in tensors)
    x, W, g = LAYOUTS[layout](x, W, g)
    operands = [t.requires_grad_() for t in (x.detach(), W.detach(), *bias)]
    before = [t.clone() for t in (*operands, g)]
    assert_close(run(layer.ours, operands, g), reference(layer, operands, g, run), DOUBLE)
    assert all(torch.equal(a, b) for a, b in zip(before, (*operands, g), strict=True)), "an input was written to"


def test_a_strided_bias(affine, way, run):
    (x, W, b), g = affine.operands((9, 8, 7))
    strided = b.detach().repeat_interleave(3)[::3].requires_grad_()
    assert_close(run(affine.ours, [x, W, strided], g), run(affine.twin, [x, W, b], g), DOUBLE)


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (0,), (2, 0)], ids=str)
def test_leading_axes_and_empty_batches(layer, lead, run):
    tensors, _ = layer.operands((1, 4, 3))
    x = torch.randn(*lead, 4, dtype=DOUBLE, requires_grad=True)
    g = torch.randn(*lead, 3, dtype=DOUBLE)
    for ours, exact in zip(run(layer.ours, [x, *tensors[1:]], g), run(layer.twin, [x, *tensors[1:]], g), strict=True):
        torch.testing.assert_close(ours, exact)


SIZES = [(d, s) for d in (torch.float32, torch.bfloat16, DOUBLE) for s in (0.0, 1e-30, 1e-4, 1e4, 1e30)]


@pytest.mark.parametrize(("dtype", "size"), [*SIZES, (torch.float16, 0.0), (torch.float16, 1e-4), (torch.float16, 1e4)])
def test_magnitudes(layer, dtype, size, way, run):
    """Finite and correct for any input in the type's range; z is bounded by sqrt(kappa) times the unit's parameters."""
    tensors, g = layer.operands((5, 20, 3), dtype)
    x, W, *bias = (t.detach() for t in tensors)
    x = (x.double() * size).to(dtype)
    operands = [t.requires_grad_() for t in (x, W, *bias)]
    z, dx, *others = run(layer.ours, operands, g)
    assert all(t.isfinite().all() for t in (z, dx, *others))
    if size == 0.0 and layer.name == "norm_like":
        assert torch.equal(z, bias[0].expand_as(z) if bias else torch.zeros_like(z)) and not dx.any()
        return
    exact = reference(layer, operands, g, run)
    room = 10 * torch.finfo(dtype).eps
    assert (z.double() - exact[0]).abs().max() <= room * exact[0].abs().max()
    if size > 1e-20 and exact[1].abs().max() > torch.finfo(dtype).tiny * 1e3:
        assert (dx.double() - exact[1]).abs().max() <= room * exact[1].abs().max()
    if layer.name == "affine_like":
        length = torch.cat([W.double(), bias[0].double()[:, None]], 1).norm(dim=1)
        assert (z.double().abs() <= KAPPA**0.5 * length * (1 + room)).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_stays_in_its_row(layer, value, way, run):
    tensors, g = layer.operands((5, 4, 3))
    x, *rest = (t.detach() for t in tensors)
    clean = run(layer.ours, [t.requires_grad_() for t in (x.clone(), *rest)], g)
    x[2, 1] = value
    z, dx, *_ = run(layer.ours, [t.requires_grad_() for t in (x, *rest)], g)
    others = [0, 1, 3, 4]
    assert z[2].isnan().all() and dx[2].isnan().all()
    assert torch.equal(z[others], clean[0][others]) and torch.equal(dx[others], clean[1][others])


def test_the_same_bits_again(layer, way, run):
    tensors, g = layer.operands((40, 20, 20), torch.float32)
    first, second = (run(layer.ours, tensors, g) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
