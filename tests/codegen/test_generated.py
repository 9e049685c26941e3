"""The generated layers: a table of layers, each with an independent reference ("twin"); adding a layer adds a row."""

import contextlib
import copy
import pickle
import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import affine_divergence as ad

# Torch's own: forward mode loads decompositions with torch.jit.script, and torch.compile makes an instance of Function.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script(_method)?. is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]

F = ad.functional
DOUBLE = torch.float64
B, N, M = 5, 4, 3


def affine_like(x, W, b, kappa=1.0):
    return kappa**0.5 * (x @ W.T + b) / torch.sqrt((x * x).sum(-1, keepdim=True) + 1)


def norm_like(x, W, b=None, kappa=None):
    unit = x / x.norm(dim=-1, keepdim=True)
    return (kappa or 1) ** 0.5 * unit @ W.T if b is None else ((kappa or 2) - 1) ** 0.5 * unit @ W.T + b


def layer_norm_like(x, W, b, kappa=None):
    return norm_like(x - x.mean(-1, keepdim=True), W, b, kappa)


def centred(x, W, b, kappa=None):
    return F.norm_like(x, W, b, kappa, center=True)


LAYERS = {  # the generated function, its reference, whether it takes a bias, and its module
    "affine-like": (F.affine_like, affine_like, True, lambda: ad.AffineLike(N, M, dtype=DOUBLE)),
    "norm-like": (F.norm_like, norm_like, True, lambda: ad.NormLike(N, M, dtype=DOUBLE)),
    "norm-like without bias": (F.norm_like, norm_like, False, lambda: ad.NormLike(N, M, False, dtype=DOUBLE)),
    "norm-like centred": (centred, layer_norm_like, True, lambda: ad.NormLike(N, M, dtype=DOUBLE, center=True)),
}
layers = pytest.mark.parametrize("name", LAYERS)


def operands(name, lead=(B,), dtype=DOUBLE, seed=0, n=N):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(*lead, n), (M, n), *([(M,)] if LAYERS[name][2] else [])]
    return [torch.randn(s, generator=generator, dtype=DOUBLE).to(dtype).requires_grad_() for s in shapes]


@layers
@pytest.mark.parametrize("lead", [(B,), (), (2, 3), (2, 1, 3), (0,), (0, 2)])
@pytest.mark.parametrize("kappa", [None, 2.5])
def test_value_and_gradients_equal_the_twin(name, lead, kappa):
    ours, twin, *_ = LAYERS[name]
    inputs = operands(name, lead)
    more = {} if kappa is None else {"kappa": kappa}
    z, expected = ours(*inputs, **more), twin(*inputs, **more)
    assert z.shape == (*lead, M)
    torch.testing.assert_close(z, expected)
    cotangent = torch.randn_like(expected)
    for a, b in zip(*(torch.autograd.grad(t, inputs, cotangent) for t in (z, expected)), strict=True):
        torch.testing.assert_close(a, b)


@layers
def test_gradcheck_of_every_mode(name):
    ours, inputs = LAYERS[name][0], operands(name)
    assert torch.autograd.gradcheck(ours, inputs, check_batched_grad=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(ours, inputs, check_fwd_over_rev=True)


def test_second_derivatives_at_zero_of_the_smooth_map():
    _, W, b = operands("affine-like")
    x = torch.zeros(B, N, dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(F.affine_like, (x, W, b))
    assert torch.autograd.gradgradcheck(F.affine_like, (x, W, b))


@layers
def test_only_what_the_twin_saves_and_four_bytes_a_row(name):
    inputs = operands(name, dtype=torch.float32)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        LAYERS[name][0](*inputs)
    known = {t.data_ptr() for t in inputs}
    extra = [t for t in saved if t.data_ptr() not in known]
    if name == "norm-like centred":  # the centred input replaces the input
        assert [t.shape for t in extra if t.shape[-1] == N] == [(B, N)]
        extra = [t for t in extra if t.shape[-1] != N]
    assert [(tuple(t.shape), t.dtype) for t in extra] == [((B, 1), torch.float32)]


@layers
def test_gradients_that_nobody_wants_are_not_computed(name):
    ours, inputs = LAYERS[name][0], operands(name)
    for wanted in range(len(inputs)):
        for k, tensor in enumerate(inputs):
            tensor.requires_grad_(k == wanted)
        (gradient,) = torch.autograd.grad(ours(*inputs).sum(), [inputs[wanted]])
        assert gradient.shape == inputs[wanted].shape


WIDE_RANGE = [
    (dtype, size) for dtype in (torch.float32, DOUBLE, torch.bfloat16) for size in (0.0, 1e-30, 1e-4, 1e4, 1e30)
]
EXTREMES = [*WIDE_RANGE, (torch.float16, 0.0), (torch.float16, 1e-4), (torch.float16, 1e4)]


@layers
@pytest.mark.parametrize(("dtype", "size"), EXTREMES)
def test_extreme_inputs(name, dtype, size):
    """Finite and correct for any input in range; the reference is computed in float64 on the same numbers."""
    ours, twin, *_ = LAYERS[name]
    inputs = [t.detach().to(dtype) for t in operands(name, n=16)]
    inputs[0] = (inputs[0].double() * size).to(dtype)
    leaves = [t.requires_grad_() for t in inputs]
    z = ours(*leaves)
    gradients = torch.autograd.grad(z.sum(), leaves)
    assert z.isfinite().all() and all(g.isfinite().all() for g in gradients)
    if size == 0.0 and name != "affine-like":
        return
    exact = [t.detach().double().requires_grad_() for t in inputs]
    expected = twin(*exact)
    tolerance = 40 * torch.finfo(dtype).eps
    assert (z.double() - expected).abs().max() <= tolerance * expected.abs().max()
    for got, right in zip(gradients, torch.autograd.grad(expected.sum(), exact), strict=True):
        if right.abs().max() < torch.finfo(dtype).max and right.abs().max() > 1e3 * torch.finfo(dtype).tiny:
            assert (got.double() - right).abs().max() <= tolerance * right.abs().max()


def test_norm_like_at_zero_gives_the_bias_and_no_gradient_of_the_direction():
    _, W, b = operands("norm-like")
    x = torch.zeros(B, N, dtype=DOUBLE, requires_grad=True)
    z = F.norm_like(x, W, b)
    dx, dW, db = torch.autograd.grad(z.sum(), (x, W, b))
    assert torch.equal(z, b.expand(B, M)) and not dx.any() and not dW.any()
    assert torch.equal(db, torch.full_like(b, B))


@layers
def test_a_bad_row_spoils_no_other(name):
    inputs = [t.detach() for t in operands(name)]
    clean = LAYERS[name][0](*inputs)
    inputs[0][1, 0], inputs[0][3, 2] = float("nan"), float("inf")
    z = LAYERS[name][0](*inputs)
    assert z[1].isnan().all()
    torch.testing.assert_close(z[[0, 2, 4]], clean[[0, 2, 4]])


@layers
def test_rows_of_every_size_in_one_batch(name):
    ours, twin, *_ = LAYERS[name]
    sizes = torch.tensor([1e-25, 1.0, 1e-8, 1e12, 1e30]).unsqueeze(-1)
    inputs = [t.detach() for t in operands(name, dtype=torch.float32)]
    inputs[0] = inputs[0] * sizes
    expected = twin(*(t.double() for t in inputs))
    torch.testing.assert_close(ours(*inputs).double(), expected, rtol=1e-5, atol=1e-6)


@layers
@pytest.mark.parametrize("device", ["meta", "fake"])
def test_shapes_without_values(name, device):
    with FakeTensorMode() if device == "fake" else contextlib.nullcontext():
        module = LAYERS[name][3]()
        module = module if device == "fake" else module.to("meta")
        x = torch.empty(B, N, dtype=DOUBLE, device=module.weight.device, requires_grad=True)
        module(x).sum().backward()
        assert x.grad.shape == x.shape


@layers
def test_inputs_and_cotangents_are_not_written_to(name):
    inputs = operands(name, dtype=torch.float32)
    before = [t.detach().clone() for t in inputs]
    z = LAYERS[name][0](*inputs)
    cotangent = torch.ones(()).expand_as(z)  # stride 0, as from sum().backward()
    torch.autograd.grad(z, inputs, cotangent)
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True)) and cotangent.eq(1).all()


@layers
def test_strided_operands(name):
    ours, twin, *_ = LAYERS[name]
    inputs = operands(name)
    strided = [inputs[0].detach().t().contiguous().t().requires_grad_(), *inputs[1:]]
    cotangent = torch.randn(M, B, dtype=DOUBLE).t()
    pairs = zip(
        torch.autograd.grad(ours(*strided), strided, cotangent),
        torch.autograd.grad(twin(*inputs), inputs, cotangent),
        strict=True,
    )
    for a, b in pairs:
        torch.testing.assert_close(a, b)


@layers
def test_function_transforms(name):
    ours, twin, *_ = LAYERS[name]
    inputs = [t.detach() for t in operands(name, (7, B))]
    torch.testing.assert_close(torch.vmap(ours, (0, *[None] * (len(inputs) - 1)))(*inputs), twin(*inputs))
    many = [torch.stack([t, 2 * t]) for t in inputs[1:]]
    each = torch.stack([ours(inputs[0], *(t[k] for t in many)) for k in range(2)])
    torch.testing.assert_close(torch.vmap(ours, (None, *[0] * len(many)))(inputs[0], *many), each)
    x = inputs[0][0]
    for derive in (torch.func.jacrev, torch.func.jacfwd):
        torch.testing.assert_close(derive(ours)(x, *inputs[1:]), torch.func.jacrev(twin)(x, *inputs[1:]))


@layers
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_behaves_like_linear(name, dtype):
    inputs = operands(name, dtype=torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        z = LAYERS[name][0](*inputs)
        assert z.dtype == torch.nn.functional.linear(*inputs).dtype == dtype
    gradients = torch.autograd.grad(z.float().sum(), inputs)
    assert all(g.dtype == torch.float32 for g in gradients)
    expected = LAYERS[name][1](*(t.detach().double() for t in inputs))
    torch.testing.assert_close(z.double(), expected, rtol=0.05, atol=0.05)
    with torch.autocast("cpu", dtype=dtype):
        assert LAYERS[name][0](*(t.double() for t in inputs)).dtype == DOUBLE


@layers
def test_state_dicts_load_both_ways(name):
    module = LAYERS[name][3]()
    twin = torch.nn.Linear(N, M, bias=module.bias is not None, dtype=DOUBLE)
    assert {k: v.shape for k, v in module.state_dict().items()} == {k: v.shape for k, v in twin.state_dict().items()}
    module.load_state_dict(twin.state_dict())
    assert torch.equal(module.weight, twin.weight)
    module.reset_parameters()
    twin.load_state_dict(module.state_dict())
    x = torch.randn(B, N, dtype=DOUBLE)
    torch.testing.assert_close(module(x), LAYERS[name][1](x, *module.parameters()))
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(x), module(x))


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (ad.AffineLike(4, 3), "AffineLike(in_features=4, out_features=3, bias=True, kappa=1)"),
        (ad.NormLike(4, 3), "NormLike(in_features=4, out_features=3, bias=True, kappa=2)"),
        (ad.NormLike(4, 3, False, kappa=0.5), "NormLike(in_features=4, out_features=3, bias=False, kappa=0.5)"),
        (ad.NormLike(4, 3, center=True), "NormLike(in_features=4, out_features=3, bias=True, kappa=2, center=True)"),
        (
            ad.AffineLike(4, 3, True, "meta", torch.float16),
            "AffineLike(in_features=4, out_features=3, bias=True, kappa=1)",
        ),
    ],
)
def test_modules_say_their_settings(module, text):
    assert repr(module) == text


@pytest.mark.parametrize("kappa", [1.5, 9.0])
@pytest.mark.parametrize("make", [ad.AffineLike, ad.NormLike])
def test_outputs_start_with_unit_variance_whatever_the_width(make, kappa):
    torch.manual_seed(0)
    for width in (64, 1024):
        module = make(width, 2048, kappa=kappa)
        z = module(torch.randn(8, width))
        assert abs(z.var().item() - 1) < 0.1
        assert not module.bias.any()


@layers
def test_a_step_of_descent_moves_each_sample_by_kappa_times_its_gradient(name):
    """The purpose of the layers: a sample's own gradient moves its own output by exactly -eta kappa g."""
    module, eta = LAYERS[name][3](), 0.1
    x, g = torch.randn(1, N, dtype=DOUBLE), torch.randn(1, M, dtype=DOUBLE)
    before = module(x)
    before.backward(g)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter -= eta * parameter.grad
    torch.testing.assert_close(module(x) - before, -eta * module.kappa * g)


@layers
def test_compiled_in_one_graph_with_dynamic_shapes(name):
    module = LAYERS[name][3]()
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (5, 7):
        x = torch.randn(rows, N, dtype=DOUBLE, requires_grad=True)
        ours, plain = compiled(x), module(x)
        torch.testing.assert_close(ours, plain)
        torch.testing.assert_close(*(torch.autograd.grad(z.square().sum(), x) for z in (ours, plain)))


@pytest.mark.slow
@layers
def test_compiled_to_machine_code(name):
    module, x = LAYERS[name][3](), torch.randn(B, N, dtype=DOUBLE, requires_grad=True)
    ours, plain = torch.compile(module, fullgraph=True)(x), module(x)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(*(torch.autograd.grad(z.square().sum(), x) for z in (ours, plain)))


@layers
def test_exported(name):
    module, x = LAYERS[name][3](), torch.randn(B, N, dtype=DOUBLE)
    torch.testing.assert_close(torch.export.export(module, (x,)).module()(x), module(x))


COST = """
import sys, time, torch
start = time.perf_counter()
import affine_divergence
others = {"sympy", "jinja2", "derive", "codegen"}
print(time.perf_counter() - start, sorted({m.split(".")[0] for m in sys.modules} & others))
"""


def test_importing_costs_little_and_loads_nothing_else():
    results = [
        subprocess.run([sys.executable, "-c", COST], capture_output=True, text=True, timeout=120) for _ in range(3)
    ]
    seconds, loaded = zip(*(r.stdout.split(maxsplit=1) for r in results), strict=True)
    assert min(map(float, seconds)) <= 0.03
    assert set(loaded) == {"[]\n"}
