"""Every module with extreme inputs: empty, very small, very large, not a number; and its saved memory."""

import math

import pytest
import torch

import affine_divergence as ad
from affine_divergence.runtime.patches import ROOM
from tests.codegen.citizen.citizens import CITIZENS, citizens, gradients, slow_marked

OF_SAMPLES = slow_marked(n for n in CITIZENS if "attention" not in n)  # attention's scores depend on several samples
samples = pytest.mark.parametrize("name", OF_SAMPLES)
EXTREMES = [
    *((torch.float32, size) for size in (0.0, 1e-30, 1e30)),
    *((torch.bfloat16, size) for size in (0.0, 1e-30, 1e30)),
    *((torch.float16, size) for size in (0.0, 1e4)),
]


def apart(a, b):
    """Return the distance of two tensors relative to the norm of the second."""
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm().clamp_min(torch.finfo(torch.float64).tiny))


@samples
@pytest.mark.parametrize(("dtype", "size"), EXTREMES, ids=str)
def test_extreme_inputs_are_finite_and_as_exact_as_their_type(name, dtype, size):
    module, exact = CITIZENS[name].make(dtype), CITIZENS[name].make()
    exact.load_state_dict(module.state_dict())
    x = (CITIZENS[name].example() * size).to(dtype).requires_grad_()
    z = module(x)
    assert z.dtype == dtype and z.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(z.sum(), [x, *module.parameters()]))
    assert apart(z, exact(x.detach().double())) <= 4 * torch.finfo(dtype).eps


@samples
def test_what_is_zero_has_no_direction(name):
    module, x = CITIZENS[name].make(), 0 * CITIZENS[name].example()
    z = module(x.requires_grad_())
    bias = 0.0 if module.bias is None else module.bias.reshape(-1, *[1] * (x.dim() - 2))
    non_normalising = getattr(module, "form", "") == "affine-like" or name == "affine-like"
    torch.testing.assert_close(z, (math.sqrt(module.kappa) if non_normalising else 1.0) * bias + torch.zeros_like(z))
    dx, dW = torch.autograd.grad(z.square().sum(), (x, module.weight), allow_unused=True)
    assert not dW.any() and (non_normalising or not dx.any())


@samples
@pytest.mark.parametrize("bad", [math.nan, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_no_number_shows_in_its_sample_alone(name, bad, dtype):
    module, x = CITIZENS[name].make(dtype), CITIZENS[name].example(dtype=dtype)
    clean = module(x)
    x = x.clone()
    x[1].view(-1)[-1] = bad
    if x.dim() > 2:
        x[1, :, 2:4] = bad
    z = module(x)
    assert not z[1].isfinite().all()
    torch.testing.assert_close(z[[0, 2, 3, 4]], clean[[0, 2, 3, 4]])


@citizens
def test_an_empty_batch_gives_an_empty_output_and_no_gradient(name):
    module, x = CITIZENS[name].make(), CITIZENS[name].example()
    empty = x[:0].clone().requires_grad_()
    z = module(empty)
    assert z.shape == (0, *module(x).shape[1:])
    found = torch.autograd.grad(z.sum(), [empty, *module.parameters()])
    assert found[0].shape == empty.shape and not any(g.any() for g in found)


@citizens
def test_any_strides_of_input_and_gradient(name):
    module, x = CITIZENS[name].make(), CITIZENS[name].example()
    turned = x.transpose(0, -1).contiguous().transpose(0, -1)
    sparse = torch.stack([x, torch.full_like(x, math.nan)], -1)[..., 0]
    for other in (turned, sparse):
        assert not other.is_contiguous()
        for a, b in zip(gradients(module, other), gradients(module, x), strict=True):
            torch.testing.assert_close(a, b)
    leaves = [x.requires_grad_(), *module.parameters()]
    z = module(x)
    alike = [torch.ones_like(z), torch.ones((), dtype=z.dtype).expand_as(z)]
    alike.append(torch.ones_like(z).transpose(0, -1).contiguous().transpose(0, -1))
    several = [torch.autograd.grad(z, leaves, g, retain_graph=True) for g in alike]
    for found in several[1:]:
        torch.testing.assert_close(found, several[0])


@citizens
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_given_is_written_to(name, dtype):
    module, x = CITIZENS[name].make(dtype), CITIZENS[name].example(dtype=dtype).requires_grad_()
    z = module(x)
    given = [x, *module.parameters(), torch.randn_like(z)]
    before = [t.detach().clone() for t in given]
    found = torch.autograd.grad(z, given[:-1], given[-1])
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))
    places = {t.untyped_storage().data_ptr() for t in (*given, z)}
    assert places.isdisjoint(g.untyped_storage().data_ptr() for g in found), (
        "a gradient in the memory of another tensor"
    )


def kept(module, x):
    """Return the bytes that a module saves for its backward pass besides its parameters."""
    found = {}

    def keep(tensor):
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        module(x)
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    return sum(storage.nbytes() for place, storage in found.items() if place not in own)


@samples
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kept_is_what_the_twin_keeps_and_four_bytes_a_position(name, dtype):
    """A position is a row, or an output position for each group of channels; ``recompute=False`` keeps more."""
    module, twin = CITIZENS[name].make(dtype), CITIZENS[name].torchs(dtype=dtype)
    x = CITIZENS[name].example(dtype=dtype).requires_grad_()
    z = module(x)
    positions = z.shape[0] * math.prod(z.shape[2:]) * getattr(module, "groups", 1)
    more = kept(module, x) - kept(twin, x)
    assert more - 4 * positions == (z.numel() * 4 if name == "patches kept" and dtype == torch.float32 else 0)


def test_the_table_has_every_kind_of_module():
    kinds = {type(citizen.make()).__name__ for citizen in CITIZENS.values()}
    patches = {f"PatchNormConv{word}{axes}d" for word in ("", "Transpose") for axes in (1, 2, 3)}
    assert kinds == patches | {"AffineLike", "NormLike", "SelfAttention"}


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_a_million_equal_samples_lose_no_digits_of_the_gradient_of_the_bias(backend):
    x, g = torch.full((10**6, 4), 0.3), torch.full((10**6, 1), 0.1)
    layer = ad.AffineLike(4, 1, backend=backend)
    layer(x).backward(g)
    f = 1 / torch.sqrt(x.double().square().sum(1, keepdim=True) + 1)
    exact = float((f * g.double()).sum())
    assert abs(float(layer.bias.grad) / exact - 1) <= 4e-6


@pytest.mark.parametrize("backend", ["torch", "cpp"])
@pytest.mark.parametrize("n", [2047, 2048, 2049, 10**6 + 3])
def test_long_rows_lose_no_digits_of_their_length(backend, n):
    x, W, b = torch.full((2, n), 0.1), torch.zeros(2, n), torch.full((2,), float(n) ** 0.5)
    z = ad.functional.affine_like(x, W, b, backend=backend)
    exact = b.double() / torch.sqrt(x.double().square().sum(1, keepdim=True) + 1)
    assert float(((z - exact) / exact).abs().max()) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_kappa_is_held_against_the_range_of_the_type(dtype):
    """An accepted kappa gives finite outputs and gradients; a refused one is named with the accepted range."""
    own, wide = torch.finfo(dtype), torch.finfo(torch.promote_types(dtype, torch.float32))
    x, low = torch.randn(300, 4).to(dtype), max(own.tiny**2, wide.tiny)
    high = 1e200 if dtype == torch.float64 else min(own.max**2, wide.max)
    low = 1e-200 if dtype == torch.float64 else low
    narrow = high / ROOM**2 if dtype == torch.float16 else high
    image = torch.randn(2, 2, 5, 5).to(dtype)
    layers = {
        "affine_like": (lambda k: ad.AffineLike(4, 1, kappa=k, dtype=dtype), x, low, high),
        "norm_like": (lambda k: ad.NormLike(4, 1, kappa=k, dtype=dtype), x, 1 + wide.eps, high),
        "patch_norm_conv2d": (
            lambda k: ad.PatchNormConv2d(2, 1, 2, kappa=k, dtype=dtype),
            image,
            low,
            narrow,
        ),
    }
    for name, (make, given, least, most) in layers.items():
        for kappa in (least * 1.01, most / 256):
            layer, leaf = make(kappa), given.clone().requires_grad_()
            with torch.no_grad():
                layer.weight.clamp_(-1, 1)
            z = layer(leaf)
            assert z.isfinite().all(), (name, kappa)
            assert all(g.isfinite().all() for g in torch.autograd.grad(z.float().mean(), [leaf, *layer.parameters()]))
        wrong = [least / 1.5 if least < 1 else 1 + wide.eps / 2, most * 2]
        for kappa in [k for k in wrong if 0 < k < float("inf") and k != 1]:
            with pytest.raises(ValueError, match=f"{name}: kappa is .*; with {dtype} give a number from"):
                make(kappa)(given)
