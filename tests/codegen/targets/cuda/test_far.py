"""Far rows in kernels: output and gradients as by the definition in float64, and unchanged bits in other rows."""

import pytest
import torch

from tests.codegen.targets.cuda.host import needs_compiler
from tests.codegen.test_far_rows import KAPPA, MAPS, SHAPES, assert_right, definition, operands, results, roundings
from tests.emitted import file_of
from tests.marks import one_in

pytestmark = needs_compiler
maps = pytest.mark.parametrize("name", MAPS)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def ours(host, name):
    function = host.functions.affine_like if name == "affine-like" else host.functions.norm_like
    return lambda x, weight, bias=None: function(x, weight, *([] if bias is None else [bias]), kappa=KAPPA)


def right(name):
    return lambda x, weight, bias=None: definition(name, x, weight, bias)


def run(host, name, tensors, g):
    return results(ours(host, name), tensors, g)


@maps
@shapes
@pytest.mark.parametrize("size", one_in(3, [3e38, 1e18, 4e19]))
def test_far_rows(host, name, shape, size):
    tensors, g = operands(name, torch.float32, size, shape, weights=10)  # so that products leave the range
    mine = run(host, name, tensors, g)
    exact = results(right(name), [t.detach().double().requires_grad_() for t in tensors], g.double())
    assert_right(mine, exact)


@maps
@shapes
def test_far_rows_of_bfloat16(host, name, shape):
    tensors, g = operands(name, torch.bfloat16, 3e38, shape)
    mine = run(host, name, tensors, g)
    exact = results(right(name), [t.detach().double().requires_grad_() for t in tensors], g.double())
    for tensor, wanted in zip(mine[:1] + mine[2:], exact[:1] + exact[2:], strict=True):
        assert roundings(tensor, wanted) <= 2


@maps
def test_rows_near_the_end_of_float64(host, name):
    """For such long rows the definition is homogeneous, so it is evaluated at shorter ones."""
    (x, *others), _ = operands(name, torch.float64, 1.0, SHAPES[0])
    far, near = x.detach().clone(), x.detach().clone()
    far[::2] *= 1e307
    near[::2] *= 1e100
    assert roundings(ours(host, name)(far, *others).detach(), right(name)(near, *others).detach()) <= 32


@maps
@shapes
def test_no_bit_of_a_row_depends_on_far_ones(host, name, shape):
    tensors, g = operands(name, torch.float32, 1e38, shape)
    before = run(host, name, tensors, g)
    with torch.no_grad():
        tensors[0][::2] = 1.0
    after = run(host, name, tensors, g)
    for one, two in zip(before[:2], after[:2], strict=True):
        assert torch.equal(one[1::2].view(torch.int32), two[1::2].view(torch.int32))


MUTANTS = {
    "a far row taken for a near one": ("if (f_u > f)", "if (f_u > f + 1)"),
    "the bias in units of another": ("f_u * (b * unit + xW)", "f_u * (b + xW)"),
    "a product in no unit": ("(unit * widen(x_row[k]))", "widen(x_row[k])"),
    "one thread's part left out": ("k = threadIdx.x; k < n", "k = threadIdx.x + 1; k < n"),
    "the scale where the length has no number": ("const Wide f = f_u * unit;", "const Wide f = 1 / (1 / f_u / unit);"),
}


@pytest.mark.parametrize("name", one_in(2, MUTANTS))
def test_damage_is_seen(host, texts, name):
    assert MUTANTS[name][0] in texts[file_of("cuda", "affine_like.cu")], "the line to mutate is gone; update the mutant"
    host.replacements = (MUTANTS[name],)
    with pytest.raises(AssertionError):
        for size in (4e19, 3e38):  # the bias matters only in shorter rows
            test_far_rows(host, "affine-like", SHAPES[0], size)
