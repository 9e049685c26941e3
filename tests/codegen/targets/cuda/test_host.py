"""The emitted kernels on the CPU, whole blocks of threads, against formulas of the theory in float64."""

import ctypes
import importlib

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.codegen.targets.cuda.host import needs_compiler
from tests.marks import one_in

pytestmark = [
    needs_compiler,
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning"),
]

DOUBLE, SINGLE, HALF, BRAIN = torch.float64, torch.float32, torch.float16, torch.bfloat16
TYPES = [DOUBLE, SINGLE, HALF, BRAIN]
ROUNDING = {DOUBLE: 1e-14, SINGLE: 4e-7, HALF: 2.1e-4, BRAIN: 1.66e-3}  # relative, root mean square


def affine_like(x, W, b, kappa):
    return kappa**0.5 * (x @ W.T + b) / torch.sqrt((x * x).sum(-1, keepdim=True) + 1)


def norm_like(x, W, b, kappa):
    return (kappa - 1) ** 0.5 * x @ W.T / x.norm(dim=-1, keepdim=True) + b


def norm_like_without_bias(x, W, kappa):
    return kappa**0.5 * x @ W.T / x.norm(dim=-1, keepdim=True)


MAPS = {
    "affine_like": (affine_like, 3),
    "norm_like": (norm_like, 3),
    "norm_like_without_bias": (norm_like_without_bias, 2),
}
maps = pytest.mark.parametrize("name", MAPS)
types = pytest.mark.parametrize("dtype", TYPES, ids=lambda t: str(t).removeprefix("torch."))
kappa = 1.75


@pytest.fixture(autouse=True)
def seeded():
    """Fix the random seed."""
    torch.manual_seed(0)


def function(host, name):
    return getattr(host.functions, name.removesuffix("_without_bias"))


def operands(name, shape=(9, 19, 13), dtype=DOUBLE, seed=0):
    rows, n, m = shape
    generator = torch.Generator().manual_seed(seed)
    shapes = ((rows, n), (m, n), (m,))[: MAPS[name][1]]
    return [torch.randn(s, generator=generator, dtype=DOUBLE).to(dtype).requires_grad_() for s in shapes]


def both(host, name, inputs, g):
    """Return output and gradients of the kernels, and of the formula in float64 at the same rounded inputs."""
    z = function(host, name)(*inputs, kappa=kappa)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    expected = MAPS[name][0](*exact, kappa)
    ours = (z, *torch.autograd.grad(z, inputs, g))
    return ours, (expected, *torch.autograd.grad(expected, exact, g.double()))


def error(ours, exact):
    """The root mean square of the difference, relative to that of the exact tensor."""
    return float((ours.detach().double() - exact.detach()).norm() / exact.detach().norm())


def library(x, W, g):
    """Return the error of the library's matrix products, which differs between builds of torch."""
    return max(error(a @ b, a.double() @ b.double()) for a, b in ((x, W.t()), (g, W)))


@maps
@types
@pytest.mark.parametrize(
    "shape",
    one_in(3, map(pytest.param, [(9, 19, 13), (70, 64, 32), (1, 1, 1), (3, 1500, 1100), (2, 8, 2053)])),
    ids=str,
)
def test_error_stays_at_the_rounding_of_the_result(host, name, dtype, shape):
    inputs = operands(name, shape, dtype)
    g = torch.randn(shape[0], shape[2], dtype=DOUBLE).to(dtype)
    products = 1.1 * library(*(t.detach() for t in inputs[:2]), g)
    for k, (ours, exact) in enumerate(zip(*both(host, name, inputs, g), strict=True)):
        assert ours.dtype == dtype and ours.shape == exact.shape
        rounded_twice = dtype.itemsize < 4 and k == 2  # dW is a product with the scaled input, which is rounded too
        floor = ROUNDING[dtype] * (1.8 if rounded_twice else 1.2 if k == 3 else 1.1)  # db sums few rounded numbers
        if exact.detach().norm() > 1e-8:
            assert error(ours, exact) <= max(floor, products) * (1 if exact.numel() >= 200 else 2), k


@maps
def test_gradcheck_of_every_mode(host, name):
    def ours(*inputs):
        return function(host, name)(*inputs, kappa=kappa)

    inputs = operands(name, (5, 4, 3))
    assert torch.autograd.gradcheck(ours, inputs, check_batched_grad=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(ours, inputs)


@maps
def test_a_graph_of_gradients_takes_the_composite(host, name):
    inputs = operands(name, (5, 4, 3))
    z = function(host, name)(*inputs, kappa=kappa)
    host.launched.clear()
    first = torch.autograd.grad(z.square().sum(), inputs, create_graph=True)
    assert not host.launched and all(t.requires_grad for t in first)


@maps
def test_only_what_is_wanted_is_computed_and_it_is_the_same(host, name):
    whole = operands(name)
    g = torch.randn(9, 13, dtype=DOUBLE)
    expected = torch.autograd.grad(function(host, name)(*whole, kappa=kappa), whole, g)
    for chosen in range(1, 2 ** len(whole)):
        inputs = [t.detach().requires_grad_(bool(chosen >> k & 1)) for k, t in enumerate(whole)]
        z = function(host, name)(*inputs, kappa=kappa)
        host.launched.clear()
        wanted = [k for k, t in enumerate(inputs) if t.requires_grad]
        for k, ours in zip(wanted, torch.autograd.grad(z, [inputs[k] for k in wanted], g), strict=True):
            torch.testing.assert_close(ours, expected[k], rtol=1e-13, atol=1e-14)
        made = {word for kernel, *_ in host.launched for word in kernel.removeprefix(name).split("_")} - {"", "total"}
        assert made == {("dx", "u", "db")[k] for k in wanted}, "one kernel for each wanted gradient, and no other"


@maps
@pytest.mark.parametrize("dtype", [SINGLE, BRAIN], ids=str)
def test_the_order_in_which_threads_run_changes_no_bit(host, name, dtype):
    """Finds missing barriers: blocks of 256 threads, rows and columns shared by several threads."""
    inputs = operands(name, (3, 1500, 1100), dtype)
    g = torch.randn(3, 1100).to(dtype)
    results = []
    for host.order in (0, 1, 2):
        host.forget()
        z = function(host, name)(*inputs, kappa=kappa)
        results.append((z, *torch.autograd.grad(z, inputs, g)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    assert {block for _, _, block in host.launched} == {(256, 1), *([(32, 8)] if len(inputs) == 3 else [])}


@maps
@pytest.mark.parametrize("dtype", [SINGLE, BRAIN], ids=str)
@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_long_and_short_rows(host, name, dtype, size):
    inputs = operands(name, dtype=dtype)
    inputs[0] = (inputs[0].detach() * size).requires_grad_()
    ours, exact = both(host, name, inputs, torch.randn(9, 13).to(dtype))
    for a, b in zip(ours, exact, strict=True):
        assert a.isfinite().all() and b.isfinite().all()
        if 1e-35 < b.norm() / b.numel() ** 0.5 < 1e35:  # in the type's range
            assert error(a, b) <= 2.5 * ROUNDING[dtype]
    W, b = inputs[1].detach().double(), inputs[2].detach().double() if len(inputs) == 3 else torch.zeros(13)
    bound = kappa**0.5 * torch.cat([W, b[:, None]], 1).norm(dim=1)
    assert (ours[0].double().abs() <= bound * (1 + 4 * ROUNDING[dtype])).all()


@maps
def test_half_precision_at_ten_thousand(host, name):
    """x^2 and the unscaled product overflow the type."""
    inputs = operands(name, dtype=HALF)
    inputs[0] = (inputs[0].detach() * 1e4).requires_grad_()
    ours, exact = both(host, name, inputs, torch.randn(9, 13).to(HALF))
    for k, (a, b) in enumerate(zip(ours, exact, strict=True)):
        assert a.isfinite().all()
        if k != 1:  # the gradient with respect to x underflows
            assert error(a, b) <= 2.5 * ROUNDING[HALF]


@maps
def test_a_row_of_zeros(host, name):
    inputs = operands(name)
    inputs[0] = torch.zeros_like(inputs[0]).requires_grad_()
    z = function(host, name)(*inputs, kappa=kappa)
    dx, *_ = torch.autograd.grad(z, inputs, torch.ones_like(z))
    weightless = {"affine_like": kappa**0.5, "norm_like": 1.0}.get(name, 0.0)
    offset = inputs[2].detach() * weightless if len(inputs) == 3 else torch.zeros(13, dtype=DOUBLE)
    torch.testing.assert_close(z.detach(), offset.expand(9, 13))
    slope = kappa**0.5 * inputs[1].detach().sum(0) if name == "affine_like" else torch.zeros(19, dtype=DOUBLE)
    torch.testing.assert_close(dx, slope.expand(9, 19))


@maps
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_stays_in_its_row(host, name, bad):
    inputs = operands(name)
    clean = function(host, name)(*inputs, kappa=kappa).detach()
    x = inputs[0].detach().clone()
    x[4, 7] = bad
    z = function(host, name)(x, *inputs[1:], kappa=kappa).detach()
    assert z[4].isnan().all()
    keep = torch.arange(9) != 4
    torch.testing.assert_close(z[keep], clean[keep])


def strided(x):
    wide = torch.zeros(x.shape[0], x.shape[1] + 5, dtype=x.dtype)
    wide[:, 3:-2] = x
    return wide[:, 3:-2]


LAYOUTS = {
    "rows apart": strided,
    "transposed": lambda x: x.t().contiguous().t(),
    "every other": lambda x: x.repeat_interleave(2, 1)[:, ::2],
    "one row many times": lambda x: x[:1].expand_as(x),
    "backwards by a copy": lambda x: x.flip(0).flip(0),
}


@maps
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [DOUBLE, BRAIN], ids=str)
def test_any_layout_of_input_and_gradient(host, name, layout, dtype):
    inputs = operands(name, (6, 32, 24), dtype)
    g = torch.randn(6, 24).to(dtype)
    change = LAYOUTS[layout]
    x, g = change(inputs[0].detach()), change(g)
    plain = [x.clone().contiguous().requires_grad_(), *inputs[1:]]
    shaped = [x.requires_grad_(), *inputs[1:]]
    kept = [t.detach().clone() for t in (*shaped, g)]
    z, expected = (function(host, name)(*i, kappa=kappa) for i in (shaped, plain))
    ours, theirs = torch.autograd.grad(z, shaped, g), torch.autograd.grad(expected, plain, g.clone().contiguous())
    for a, b in zip((z, *ours), (expected, *theirs), strict=True):
        assert torch.equal(a, b)
    assert all(torch.equal(a, b) for a, b in zip(kept, (*shaped, g), strict=True)), "an input was written to"


@maps
def test_an_expanded_gradient(host, name):
    inputs = operands(name)
    gradients = torch.autograd.grad(function(host, name)(*inputs, kappa=kappa).sum(), inputs)
    z = function(host, name)(*inputs, kappa=kappa)
    for a, b in zip(gradients, torch.autograd.grad(z, inputs, torch.ones_like(z)), strict=True):
        torch.testing.assert_close(a, b)


@maps
@pytest.mark.parametrize("lead", [(0,), (0, 2), (), (2, 3)])
def test_leading_axes_and_empty_batches(host, name, lead):
    inputs = operands(name, (1, 19, 13))
    inputs[0] = torch.randn(*lead, 19, dtype=DOUBLE, requires_grad=True)
    z = function(host, name)(*inputs, kappa=kappa)
    assert z.shape == (*lead, 13)
    expected = MAPS[name][0](*inputs, kappa)
    cotangent = torch.randn_like(expected)
    for a, b in zip(*(torch.autograd.grad(t, inputs, cotangent) for t in (z, expected)), strict=True):
        torch.testing.assert_close(a, b)


@maps
def test_one_number_a_row_is_kept_beside_the_inputs(host, name):
    inputs = operands(name, dtype=BRAIN)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        function(host, name)(*inputs, kappa=kappa)
    places = {t.data_ptr() for t in inputs}
    ours = [t for t in kept if t.data_ptr() not in places]
    assert [(t.shape, t.dtype) for t in ours] == [((9, 1), SINGLE)]


@maps
def test_many_rows_in_few_chunks(host, name):
    """More rows than chunks of the smallest length: every chunk of the column sums takes several steps."""
    inputs = operands(name, (1111, 3, 2))
    ours, exact = both(host, name, inputs, torch.randn(1111, 2, dtype=DOUBLE))
    for a, b in zip(ours, exact, strict=True):
        assert error(a, b) <= 1e-13
    if len(inputs) == 3:
        assert any(kernel.endswith("db") and grid[1] == 5 for kernel, grid, _ in host.launched)


def test_nothing_is_written_between_or_behind_rows(host):
    """The output kernel writes into the middle of a larger matrix."""
    module = importlib.import_module(f"{host.package}.kernels.cuda.affine_like")
    code = module.KERNELS.on(torch.empty(0, dtype=SINGLE))._code
    place = torch.full((6, 40), 7.0)
    f, b, xW = torch.ones(3, 1), torch.zeros(21), torch.randn(3, 21)
    x, W = torch.randn(3, 5), torch.randn(21, 5)
    z = place[2:5, 8:29]
    number = ctypes.c_longlong
    lengths, strides = (number(3), number(21)), (number(1), number(21), number(40))
    tensors = (b.data_ptr(), f.data_ptr(), strides[0], xW.data_ptr(), strides[1], z.data_ptr(), strides[2])
    factors = (x.data_ptr(), number(5), W.data_ptr(), number(5), number(5))
    for scaled in (f, 2 * f):  # near rows, and far ones
        given = [*lengths, *tensors, scaled.data_ptr(), number(1), *factors]
        code.launch("affine_like_z", (1, 1), (32, 4), given)
        if scaled is f:
            assert torch.equal(z, xW)
        else:
            torch.testing.assert_close(z, 2 * 2.0**-63 * (x @ W.t()))
        z.fill_(7.0)
        assert (place == 7.0).all()


def test_tensors_without_values_take_the_composite(host):
    with FakeTensorMode():
        z = host.functions.affine_like(torch.empty(5, 4), torch.empty(3, 4), torch.empty(3))
    assert z.shape == (5, 3)
    z = host.functions.affine_like(*(torch.empty(s, device="meta") for s in ((5, 4), (3, 4), (3,))))
    assert z.is_meta and z.shape == (5, 3) and not host.launched


def test_maps_over_more_axes_and_tangents_are_those_of_torch(host):
    x, W, b = (t.detach() for t in operands("affine_like"))
    many = torch.stack([x, 2 * x])
    ours = torch.vmap(lambda t: host.functions.affine_like(t, W, b, kappa))(many)
    torch.testing.assert_close(ours, torch.stack([affine_like(t, W, b, kappa) for t in many]))
    _, tangent = torch.func.jvp(lambda t: host.functions.affine_like(t, W, b, kappa), (x,), (x,))
    _, expected = torch.func.jvp(lambda t: affine_like(t, W, b, kappa), (x,), (x,))
    torch.testing.assert_close(tangent, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["affine_like", "norm_like_without_bias"])
def test_operators_keep_their_word(host, name):
    """The four utilities: schema, autograd's registration, tracing without values, compiling with dynamic shapes."""
    operator = importlib.import_module(f"{host.functions.__package__}.{name}").OPERATOR
    space, _, own = operator._schema.name.partition("::")  # with a numeric suffix if the package was imported before
    backward = getattr(getattr(torch.ops, space), own.replace(name, f"{name}_backward")).default
    inputs = operands(name)
    z, f = operator(*inputs, kappa)
    g = torch.randn_like(z.detach()).requires_grad_()
    assert set(torch.library.opcheck(operator, (*inputs, kappa)).values()) == {"SUCCESS"}
    for wanted in ([True] * len(inputs), [True] + [False] * (len(inputs) - 1)):
        found = torch.library.opcheck(backward, (g, *inputs, f.detach(), kappa, wanted))
        assert set(found.values()) == {"SUCCESS"} and len(found) == 4
