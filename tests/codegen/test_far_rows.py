"""Rows at both ends of a type's range: the exact output and gradients of these rows and of the others.

The reference is the map's definition in float64, in which the squares of all float32 numbers are in range.
"""

import itertools
import math

import pytest
import torch

from affine_divergence import functional
from affine_divergence.kernels.torch import unit, value_path

KAPPA, ROWS = 1.3, 12
SHAPES = [(40, 24), (1100, 8)]  # columns and units
CASES = [
    *((torch.float32, size) for size in (1e-38, 1e18, 1e30, 3e38)),
    *((torch.float16, size) for size in (1e4, 6e4)),
    *((torch.bfloat16, size) for size in (1e-38, 3e38)),
]
MAPS = ["affine-like", "norm-like", "norm-like without a bias"]
BACKENDS = ["torch", "cpp"]
each = pytest.mark.parametrize(
    ("backend", "name", "dtype", "size"),
    [(b, m, *c) for b, m, c in itertools.product(BACKENDS, MAPS, CASES) if b == "torch" or c[0] is torch.float32],
    ids=str,
)


def definition(name, x, weight, bias):
    squares = x.square().sum(-1, keepdim=True)
    if name == "affine-like":
        return math.sqrt(KAPPA) * (x @ weight.mT + bias) / torch.sqrt(squares + 1)
    if bias is None:
        return math.sqrt(KAPPA) * (x @ weight.mT) / torch.sqrt(squares)
    return math.sqrt(KAPPA - 1) * (x @ weight.mT) / torch.sqrt(squares) + bias


def ours(name, x, weight, bias, backend):
    if name == "affine-like":
        return functional.affine_like(x, weight, bias, KAPPA, backend=backend)
    return functional.norm_like(x, weight, bias, KAPPA, backend=backend)


def operands(name, dtype, size, shape, seed=0, weights=1.0):
    """Every other row has entries of the given size, one of them the largest; the rest are ordinary."""
    torch.manual_seed(seed)
    columns, units = shape
    x = torch.randn(ROWS, columns, dtype=torch.float64)
    x[::2] = size * torch.sign(x[::2]) * (torch.rand(ROWS // 2, columns, dtype=torch.float64) + 1) / 2
    x[::2, 0] = size
    weight, bias, g = torch.randn(units, columns) / columns**0.5, torch.randn(units), torch.randn(ROWS, units)
    weight *= weights
    tensors = [x, weight] if "without" in name else [x, weight, bias]
    return [t.to(dtype).requires_grad_() for t in tensors], g.to(dtype)


def results(run, tensors, g):
    x, weight, *bias = tensors
    z = run(x, weight, *(bias or [None]))
    return [z.detach(), *torch.autograd.grad(z, tensors, g)]


def roundings(mine, exact):
    """Return the largest error in units of rounding at the largest exact value, or at the smallest normal number."""
    limits = torch.finfo(mine.dtype)
    size = exact.abs().max().clamp(limits.tiny)
    return float((mine.double() - exact).abs().max() / size / limits.eps)


def assert_right(mine, exact, allowed=32):
    """Compare an output and its gradients with the exact ones, in roundings."""
    for tensor, right in zip(mine[:1] + mine[2:], exact[:1] + exact[2:], strict=True):
        assert roundings(tensor, right) <= allowed
    for rows in (slice(0, None, 2), slice(1, None, 2)):  # dx has another magnitude in each
        assert roundings(mine[1][rows], exact[1][rows]) <= allowed


@each
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_output_and_gradients_are_those_of_the_definition(backend, name, dtype, size, shape):
    tensors, g = operands(name, dtype, size, shape)
    mine = results(lambda *t: ours(name, *t, backend), tensors, g)
    exact = results(
        lambda *t: definition(name, *t), [t.detach().double().requires_grad_() for t in tensors], g.double()
    )
    assert all(t.isfinite().all() for t in mine)
    allowed = 8 if 1e-38 < size < 3e38 else 32  # (sub)normal numbers near the limit have few digits
    assert_right(mine, exact, allowed)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MAPS)
def test_entries_near_the_end_of_float64(backend, name):
    """The definition would overflow; for such long rows it is homogeneous, so it is evaluated at shorter ones."""
    tensors, g = operands(name, torch.float64, 1e307, SHAPES[0])
    mine = results(lambda *t: ours(name, *t, backend), tensors, g)
    down = 2.0**-700
    shorter = [t.detach().clone() for t in tensors]
    shorter[0][::2] *= down
    exact = results(lambda *t: definition(name, *t), [t.requires_grad_() for t in shorter], g)
    exact[1][::2] *= down
    for tensor, right in zip(mine[:3], exact[:3], strict=True):
        assert roundings(tensor, right) <= 8


@pytest.mark.parametrize("name", MAPS)
def test_derivatives_of_all_modes_at_far_rows(name):
    """Forward mode, vmap over samples, and second derivatives."""
    tensors, _ = operands(name, torch.float32, 1e38, SHAPES[0])
    plain = [t.detach() for t in tensors]
    double = [t.double() for t in plain]
    tangents = [torch.randn_like(t) for t in plain]

    def run(*t):
        return ours(name, *t, *([None] if len(t) == 2 else []), "torch")

    def right(*t):
        return definition(name, *t, *([None] if len(t) == 2 else []))

    _, moved = torch.func.jvp(run, tuple(plain), tuple(tangents))
    _, exact = torch.func.jvp(right, tuple(double), tuple(t.double() for t in tangents))
    assert roundings(moved, exact) <= 40  # terms that cancel
    rest = (None,) * (len(plain) - 1)
    by_sample = torch.vmap(lambda x, *t: run(x[None], *t)[0], (0, *rest))(*plain)
    assert roundings(by_sample, right(*double)) <= 4
    second = []
    for function, given in ((run, tensors), (right, [t.detach().double().requires_grad_() for t in tensors])):
        (first,) = torch.autograd.grad(function(*given).square().sum(), given[1], create_graph=True)
        second.append(torch.autograd.grad(first.square().sum(), given[1])[0])
    assert roundings(*second) <= 40


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("other", [0.0, 1e-30, 1e25, 1e38, math.nan], ids=str)
def test_no_bit_of_a_row_depends_on_the_values_of_others(backend, name, other):
    tensors, g = operands(name, torch.float32, 1e38, SHAPES[0])
    before = results(lambda *t: ours(name, *t, backend), tensors, g)
    with torch.no_grad():
        tensors[0][3:5] = other
    after = results(lambda *t: ours(name, *t, backend), tensors, g)
    kept = [k for k in range(ROWS) if k not in (3, 4)]
    for one, two in zip(before[:2], after[:2], strict=True):  # z and dx
        assert torch.equal(one[kept].view(torch.int32), two[kept].view(torch.int32))


@pytest.mark.parametrize("compiled", [None, "aot_eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MAPS[1:])
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_rows_that_are_centred(name, dtype, compiled):
    """The sums of such rows leave the range."""
    tensors, g = operands(name, dtype, 1e38, SHAPES[1])

    def run(x, weight, bias=None):
        return functional.norm_like(x, weight, bias, KAPPA, center=True, backend="torch")

    def right(x, weight, bias=None):
        return definition(name, x - x.mean(-1, keepdim=True), weight, bias)

    found = torch.compile(run, backend=compiled, fullgraph=True) if compiled else run
    mine = results(lambda x, w, b: found(*[t for t in (x, w, b) if t is not None]), tensors, g)
    exact = results(right, [t.detach().double().requires_grad_() for t in tensors], g.double())
    allowed = 16 if dtype == torch.float32 else 2
    for one, two in zip(mine[:1] + mine[2:], exact[:1] + exact[2:], strict=True):
        assert roundings(one, two) <= allowed
    for rows in (slice(0, None, 2), slice(1, None, 2)):
        assert roundings(mine[1][rows], exact[1][rows]) <= allowed


@pytest.mark.parametrize("length", [1e38, 3e38])
def test_rows_of_unit_length(length):
    """Their scale is below the smallest normal number, so it has fewer digits."""
    x = torch.randn(2, 2, 5, 16).sign() * length
    (u, _, _, f), g = unit.UnitPair.apply(x.requires_grad_(), x.detach()), torch.randn(2, 2, 5, 16)
    assert roundings(u.detach(), torch.nn.functional.normalize(x.detach().double(), dim=-1)) <= 16
    assert (f >= 0).all() and torch.autograd.grad(u, x, g)[0].isfinite().all()


def test_the_value_path_of_attention():
    x, weight, bias = torch.full((2, 3, 4, 16), 3e38), torch.randn(3, 8, 16), torch.randn(3, 8)
    exact = definition("affine-like", x.double(), weight.double(), bias.double()[:, None])
    assert roundings(value_path.corrected(x, weight, bias, KAPPA), exact) <= 8


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MAPS)
def test_a_graph_that_is_compiled_has_the_same_rows(name, backend):
    tensors, g = operands(name, torch.float32, 3e38, SHAPES[1])
    tensors[1] = (10 * tensors[1]).detach().requires_grad_()  # so that products leave the range
    run = torch.compile(lambda *t: ours(name, *t, backend), backend="aot_eager", fullgraph=True)
    exact = results(
        lambda *t: definition(name, *t), [t.detach().double().requires_grad_() for t in tensors], g.double()
    )
    for tensor, right in zip(results(run, tensors, g), exact, strict=True):
        assert roundings(tensor, right) <= 32
