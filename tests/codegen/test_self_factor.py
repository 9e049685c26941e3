"""The self factor of layers, against the Jacobian of each sample's output by automatic differentiation."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import affine_divergence as ad
from codegen.ir.program import ProgramError
from codegen.plans import self_factors as derived
from codegen.targets.torch.self_factor_file import printed
from derive import effective_update, layer
from derive.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")

DOUBLE = torch.float64


def kernels(module, output):
    """Return K_ss of each sample of an output (samples, units): J J^T over all parameters."""
    parameters = list(module.parameters())
    found = []
    for sample in output:
        rows = []
        for entry in sample:
            gradients = torch.autograd.grad(entry, parameters, retain_graph=True, allow_unused=True)
            rows.append(torch.cat([g.flatten() for g in gradients if g is not None]))
        jacobian = torch.stack(rows)
        found.append(jacobian @ jacobian.T)
    return torch.stack(found)


def isotropic(factors, units):
    """Return one multiple of the identity per sample."""
    return factors.reshape(-1, 1, 1) * torch.eye(units, dtype=DOUBLE)


def randomised(module):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return module.double()


ROWS = {
    "Linear": lambda: nn.Linear(4, 3),
    "Linear without bias": lambda: nn.Linear(4, 3, bias=False),
    "AffineLike": lambda: ad.AffineLike(4, 3, kappa=1.7),
    "NormLike": lambda: ad.NormLike(4, 3),
    "NormLike without bias": lambda: ad.NormLike(4, 3, bias=False, kappa=3.0),
    "NormLike centred": lambda: ad.NormLike(4, 3, center=True),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows(name):
    module = randomised(ROWS[name]())
    x = torch.randn(2, 3, 4, dtype=DOUBLE)
    x[1, 2] = 0.0
    factors = ad.self_factor(module, x)
    assert factors.shape == (2, 3) and factors.dtype == DOUBLE
    torch.testing.assert_close(kernels(module, module(x).flatten(0, 1)), isotropic(factors, 3))


CONVOLUTIONS = {
    "Conv1d": (lambda: nn.Conv1d(2, 3, 3, stride=2, padding=1), (2, 2, 7)),
    "Conv2d": (lambda: nn.Conv2d(2, 3, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(1, 2)), (2, 2, 4, 5)),
    "Conv2d same": (lambda: nn.Conv2d(2, 2, 3, padding="same", bias=False), (1, 2, 3, 3)),
    "Conv2d circular": (lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), (1, 2, 3, 4)),
    "Conv3d": (lambda: nn.Conv3d(1, 2, 2, padding=1), (1, 1, 2, 2, 3)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(2, 3, 3, stride=2, padding=1, output_padding=1), (2, 2, 3)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 2, 2, stride=(3, 1), dilation=2, bias=False), (1, 2, 2, 3)),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(1, 2, 2), (1, 1, 2, 1, 2)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name):
    make, shape = CONVOLUTIONS[name]
    module, x = randomised(make()), torch.randn(shape, dtype=DOUBLE)
    z = module(x)
    factors = ad.self_factor(module, x)
    assert factors.shape == (z.shape[0], *z.shape[2:])
    torch.testing.assert_close(kernels(module, z.movedim(1, -1).flatten(0, -2)), isotropic(factors, z.shape[1]))
    assert torch.equal(ad.self_factor(module, x[0]), factors[0])


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Conv2d(4, 6, 2, groups=2), (2, 4, 3, 3)),
        (lambda: nn.Conv1d(3, 3, 2, groups=3, bias=False), (1, 3, 4)),
        (lambda: nn.ConvTranspose1d(4, 2, 3, stride=2, groups=2), (1, 4, 3)),
    ],
)
def test_each_group_has_a_self_factor_of_its_own(make, shape):
    module, x = randomised(make()), torch.randn(shape, dtype=DOUBLE)
    z, factors = module(x), ad.self_factor(module, x)
    assert factors.shape == (z.shape[0], module.groups, *z.shape[2:])
    by_unit = factors.repeat_interleave(z.shape[1] // module.groups, 1).movedim(1, -1).flatten(0, -2)
    torch.testing.assert_close(kernels(module, z.movedim(1, -1).flatten(0, -2)), torch.diag_embed(by_unit))


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Conv1d(4, 6, 5, stride=2, padding=3, dilation=2, groups=2), (3, 4, 23)),
        (lambda: nn.Conv2d(3, 2, (3, 2), stride=(1, 3), padding=(2, 0), dilation=(2, 1), bias=False), (2, 3, 9, 12)),
        (lambda: nn.Conv2d(3, 2, (5, 3), padding="same"), (2, 3, 7, 8)),
        (lambda: nn.Conv2d(3, 2, 1), (2, 3, 5, 4)),
        (lambda: nn.Conv3d(2, 2, 2, padding=1), (2, 2, 4, 5, 3)),
        (lambda: ad.PatchNormConv2d(2, 3, 3, padding=1, center=True), (2, 2, 6, 5)),
    ],
)
def test_sums_axis_by_axis_are_those_of_one_convolution(make, shape, monkeypatch):
    def by_one_convolution(e, g):
        convolve = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)[len(g.kernel) - 1]
        ones = e.new_ones(e.shape[1], 1, *g.kernel)
        return convolve(e.squeeze(2), ones, None, g.stride, g.padding, g.dilation, e.shape[1]).unsqueeze(2)

    module, x = make(), torch.randn(shape, dtype=DOUBLE)
    found = ad.self_factor(module, x)
    monkeypatch.setattr("affine_divergence.self_factors.box", by_one_convolution)
    torch.testing.assert_close(found, ad.self_factor(module, x), rtol=1e-12, atol=0)


@pytest.mark.parametrize("form", ["affine-like", "norm-like"])
@pytest.mark.parametrize("name", ["Conv1d", "Conv2d circular", "ConvTranspose1d"])
def test_patch_norm_where_the_package_holds_it(name, form):
    make, shape = CONVOLUTIONS[name]
    old = make()
    kind = getattr(ad, f"PatchNorm{type(old).__name__}", None)
    if kind is None:
        return
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "padding_mode")
    settings = {n: getattr(old, n) for n in (*names, *(("output_padding",) if old.transposed else ()))}
    module, x = randomised(kind(**settings, form=form)), torch.randn(shape, dtype=DOUBLE)
    x[0] = 0.0  # patches of zeros
    z, factors = module(x), ad.self_factor(module, x)
    assert factors.shape == (z.shape[0], *z.shape[2:])
    torch.testing.assert_close(kernels(module, z.movedim(1, -1).flatten(0, -2)), isotropic(factors, z.shape[1]))


@pytest.mark.parametrize("settings", [{}, {"padding_idx": 2}, {"sparse": False, "max_norm": None}])
def test_embedding(settings):
    module, t = randomised(nn.Embedding(5, 3, **settings)), torch.tensor([[0, 2, 2], [4, 1, 0]])
    factors = ad.self_factor(module, t)
    assert factors.shape == t.shape
    torch.testing.assert_close(kernels(module, module(t).flatten(0, 1)), isotropic(factors, 3))


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("settings", [{}, {"padding_idx": 2}])
def test_embedding_bag_of_repeated_tokens(mode, settings):
    module = randomised(nn.EmbeddingBag(5, 3, mode=mode, **settings))
    t = torch.tensor([[0, 2, 2, 0], [4, 4, 4, 1], [2, 2, 2, 2]])
    factors = ad.self_factor(module, t)
    torch.testing.assert_close(kernels(module, module(t)), isotropic(factors, 3))
    flat, offsets = torch.tensor([1, 1, 2, 0, 3, 3, 3]), torch.tensor([0, 3, 3])
    factors = ad.self_factor(module, flat, offsets)
    torch.testing.assert_close(kernels(module, module(flat, offsets)), isotropic(factors, 3))
    ends = randomised(nn.EmbeddingBag(5, 3, mode=mode, include_last_offset=True, **settings))
    assert torch.equal(ad.self_factor(ends, flat, torch.tensor([0, 3, 3, 7])), factors)


def test_embedding_bag_with_weights():
    module = randomised(nn.EmbeddingBag(5, 3, mode="sum"))
    t, w = torch.tensor([[0, 2, 2], [4, 4, 4]]), torch.randn(2, 3, dtype=DOUBLE)
    factors = ad.self_factor(module, t, per_sample_weights=w)
    torch.testing.assert_close(kernels(module, module(t, per_sample_weights=w)), isotropic(factors, 3))


@pytest.mark.parametrize("bias", [True, False])
def test_projections_of_attention(bias):
    module = randomised(nn.MultiheadAttention(4, 2, bias=bias, kdim=3, vdim=5))
    for number, (weight, width) in enumerate(zip("qkv", (4, 3, 5), strict=True)):
        x = torch.randn(2, 3, width, dtype=DOUBLE)
        part = module.in_proj_bias[4 * number : 4 * number + 4] if bias else None
        z = nn.functional.linear(x, getattr(module, f"{weight}_proj_weight"), part)
        factors = ad.self_factor(module, x)
        torch.testing.assert_close(kernels(module, z.flatten(0, 1)), isotropic(factors, 4))
    context = torch.randn(2, 4, dtype=DOUBLE)
    factors = ad.self_factor(module.out_proj, context)
    torch.testing.assert_close(kernels(module.out_proj, module.out_proj(context)), isotropic(factors, 4))


def test_generated_attention_is_constant():
    module = ad.AffineLikeMultiheadAttention(4, 2, kdim=3)
    assert torch.equal(ad.self_factor(module, torch.randn(2, 3, 3)), torch.ones(2, 3))


@pytest.mark.parametrize(("dtype", "wanted"), [(torch.float16, torch.float32), (torch.bfloat16, torch.float32)])
def test_narrow_inputs_do_not_overflow(dtype, wanted):
    for module, x in ((nn.Linear(8, 2), torch.full((1, 8), 6e4)), (nn.Conv1d(8, 2, 1), torch.full((1, 8, 1), 6e4))):
        factors = ad.self_factor(module, x.to(dtype))
        assert factors.dtype == wanted
        torch.testing.assert_close(factors, factors.new_full(factors.shape, 8 * x.to(dtype).double().max() ** 2))


def test_a_converted_model_has_the_ideal_everywhere():
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    x = torch.randn(5, 4)
    assert ad.self_factor(model[0], x).std() > 0.1
    ad.convert(model)
    assert all(torch.equal(ad.self_factor(m, y), torch.ones(5)) for m, y in ((model[0], x), (model[2], model[:2](x))))


def test_without_values():
    factors = ad.self_factor(nn.Conv2d(2, 3, 3, device="meta"), torch.empty(2, 2, 5, 5, device="meta"))
    assert factors.shape == (2, 3, 3) and factors.is_meta


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


X = torch.ones(2, 4)
MISTAKES = {
    "no module": (lambda: ad.self_factor("linear", X), TypeError, "module is a str; give a layer"),
    "unknown": (
        lambda: ad.self_factor(nn.LayerNorm(4), X),
        TypeError,
        "no self factor of LayerNorm is known; the known classes are",
    ),
    "subclass": (lambda: ad.self_factor(Doubled(4, 3), X), TypeError, "a forward map of its own, not that of Linear"),
    "computed": (lambda: ad.self_factor(parametrizations.weight_norm(nn.Linear(4, 3)), X), TypeError, "from others"),
    "list": (lambda: ad.self_factor(nn.Linear(4, 3), [1.0]), TypeError, "x is a list"),
    "integers": (lambda: ad.self_factor(nn.Linear(4, 3), X.long()), TypeError, "Linear takes real numbers"),
    "numbers": (lambda: ad.self_factor(nn.Embedding(4, 3), X), TypeError, "Embedding takes integers"),
    "width": (lambda: ad.self_factor(nn.Linear(3, 3), X), ValueError, r"x has shape \(2, 4\); Linear takes 3 features"),
    "attention": (lambda: ad.self_factor(nn.MultiheadAttention(6, 2), X), ValueError, "takes 6 features"),
    "channels": (lambda: ad.self_factor(nn.Conv1d(4, 3, 2), X), ValueError, r"x has shape \(2, 4\); Conv1d takes 4"),
    "axes": (lambda: ad.self_factor(nn.Conv2d(4, 3, 2), X), ValueError, "2 axes of space"),
    "offsets": (lambda: ad.self_factor(nn.Linear(4, 3), X, X), ValueError, "offsets and weights are for EmbeddingBag"),
    "max": (lambda: ad.self_factor(nn.EmbeddingBag(4, 3, mode="max"), X.long()), ValueError, "mode='max'"),
    "longest": (
        lambda: ad.self_factor(nn.Embedding(4, 3, max_norm=0.5), X.long()),
        ValueError,
        "Embedding with max_norm=0.5 rescales rows when they are read",
    ),
    "longest in bags": (
        lambda: ad.self_factor(nn.EmbeddingBag(4, 3, max_norm=1), X.long()),
        ValueError,
        "EmbeddingBag with max_norm=1 rescales rows",
    ),
    "counts in bags": (
        lambda: ad.self_factor(nn.EmbeddingBag(4, 3, mode="sum", scale_grad_by_freq=True), X.long()),
        ValueError,
        "EmbeddingBag with scale_grad_by_freq=True",
    ),
    "counts": (
        lambda: ad.self_factor(nn.Embedding(4, 3, scale_grad_by_freq=True), X.long()),
        ValueError,
        "scale_grad_by_freq=True",
    ),
    "no offsets": (lambda: ad.self_factor(nn.EmbeddingBag(4, 3), X[0].long()), ValueError, "where each bag begins"),
    "weights": (
        lambda: ad.self_factor(nn.EmbeddingBag(4, 3), X.long(), per_sample_weights=X),
        ValueError,
        "for mode='sum', not 'mean'",
    ),
    "other weights": (
        lambda: ad.self_factor(nn.EmbeddingBag(4, 3, mode="sum"), X.long(), per_sample_weights=X[0]),
        ValueError,
        r"give one per token: \(2, 4\)",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_message(mistake):
    call, error, words = MISTAKES[mistake]
    with pytest.raises(error, match=words):
        call()


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_a_lazy_layer_is_asked_to_run_first():
    with pytest.raises(TypeError, match="call it once first"):
        ad.self_factor(nn.LazyLinear(3), X)


def test_the_general_law_is_checked_against_the_forward_map():
    assert derived.constant(effective_update(layer("affine"))) == 1
    assert derived.constant(effective_update(layer("linear"))) == 0
    with pytest.raises(ProgramError, match="does not give the self factor of 'embedding-bag'"):
        derived.constant(effective_update(layer("embedding-bag")))


def test_a_self_factor_that_has_no_text_is_refused():
    with pytest.raises(UsageError, match="outside a sum"):
        printed(effective_update(layer("gain")).self_factor.expression)
