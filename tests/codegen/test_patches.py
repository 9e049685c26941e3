"""The generated PatchNorm layers against a reference that unfolds every patch, in every mode of differentiation."""

import copy
import math
import pickle
from dataclasses import replace

import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import affine_divergence as ad
import derive
from codegen.plans.patches import patch_plan
from codegen.printing.torch_patch_lines import PatchPrinter
from derive.algebra.nodes import rename

DOUBLE = torch.float64
KAPPA = 1.7
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script(_method)?. is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning"),  # the twin's
]
TWINS = {f"Conv{word}{axes}d": getattr(nn, f"Conv{word}{axes}d") for word in ("", "Transpose") for axes in (1, 2, 3)}
TABLE = [
    ("Conv1d", {"padding": 2, "dilation": 2}),
    ("Conv1d", {"kernel_size": 2, "stride": 2, "form": "norm-like", "bias": False}),
    ("Conv2d", {"padding": 1}),
    ("Conv2d", {"stride": 2, "padding": 2, "groups": 2, "center": True}),
    ("Conv2d", {"padding": "same", "kernel_size": (2, 3), "form": "norm-like", "center": True}),
    ("Conv2d", {"groups": 4, "form": "norm-like", "padding_mode": "reflect", "padding": 1}),
    ("Conv3d", {"kernel_size": 2, "form": "norm-like"}),
    ("ConvTranspose1d", {"stride": 3, "output_padding": 1, "form": "norm-like", "bias": False}),
    ("ConvTranspose2d", {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}),
    ("ConvTranspose2d", {"dilation": 2, "output_padding": 1, "form": "norm-like"}),
    ("ConvTranspose2d", {"dilation": 2, "padding": (2, 1), "output_padding": 1}),
    ("ConvTranspose1d", {"dilation": 3, "padding": 2, "output_padding": 2, "form": "norm-like"}),
    ("ConvTranspose3d", {"kernel_size": 2}),
]
table = pytest.mark.parametrize(("name", "given"), TABLE, ids=lambda v: v if isinstance(v, str) else ",".join(v))


def layer(name, given, **more):
    settings = {"kernel_size": 3, "dtype": DOUBLE, "kappa": KAPPA, **given, **more}
    made = getattr(ad, f"PatchNorm{name}")(4, 4, **settings)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made


def example(name, lead=(2, 4), **settings):
    axes = int(name[-2])
    space = (4, 3, 3) if axes == 3 else (6, 5)[:axes]
    return torch.randn(*lead, *space, dtype=DOUBLE, **settings)


def reference(module, x):
    """Return the output computed patch by patch: torch's module on unit inputs lists the entries of each patch."""
    twin = twin_of(module)
    n, m = math.prod(x.shape[1:]), module.groups
    units = torch.eye(n, dtype=DOUBLE).reshape(n, *x.shape[1:])
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.fill_(1.0 if parameter.dim() > 1 else 0.0)
        reads = twin(units).reshape(n, m, -1, *twin(units).shape[2:])[:, :, 0]
    energy = torch.einsum("sn,n...->s...", x.flatten(1) ** 2, reads)
    y = twin_of(module, live=True)(x)
    bias = 0 if module.bias is None else module.bias.reshape(-1, *[1] * (x.dim() - 2))
    if module.center:
        entries = module.weight[0].numel()
        mean = torch.einsum("sn,n...->s...", x.flatten(1), reads) / entries
        sums = module.weight.flatten(1).sum(1).reshape(-1, *[1] * (x.dim() - 2))
        y, energy = y - mean.repeat_interleave(4 // m, 1) * sums, energy - entries * mean**2
    energy = energy.repeat_interleave(4 // m, 1)
    if module.form == "affine-like":
        return math.sqrt(KAPPA) * (y + bias) / torch.sqrt(energy + 1)
    energy = torch.where(energy == 0, 1, energy)  # nothing contributes to this position, so y is zero too
    return math.sqrt(KAPPA - (module.bias is not None)) * y / torch.sqrt(energy) + bias


def twin_of(module, live=False):
    names = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    settings = {n: getattr(module, n) for n in names}
    if hasattr(module, "output_padding"):
        settings["output_padding"] = module.output_padding
    kind = TWINS[type(module).__name__.removeprefix("PatchNorm")]
    twin = kind(4, 4, bias=module.bias is not None, dtype=DOUBLE, **settings)
    # Live: the module's weight, without bias. Subtracting a bias afterwards would lose small outputs.
    given = {n: p if n == "weight" else torch.zeros_like(p) for n, p in module.named_parameters()}
    return (lambda x: torch.func.functional_call(twin, given, (x,))) if live else twin


@table
@pytest.mark.parametrize("recompute", [True, False])
def test_value_and_gradients_equal_those_of_the_twin(name, given, recompute):
    module, x = layer(name, given, recompute=recompute), example(name, requires_grad=True)
    ours, theirs = module(x), reference(module, x)
    torch.testing.assert_close(ours, theirs)
    cotangent, wanted = torch.randn_like(theirs), [x, *module.parameters()]
    found, expected = (torch.autograd.grad(z, wanted, cotangent) for z in (ours, theirs))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("name", "given"), TABLE[:1] + TABLE[3:4] + TABLE[7:8], ids=str)
def test_second_derivatives(name, given):
    module, x = layer(name, given), example(name, (1, 4), requires_grad=True)
    names = [n for n, _ in module.named_parameters()]

    def function(x, *parameters):
        return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x,))

    inputs = (x, *module.parameters())
    assert gradcheck(function, inputs, fast_mode=True)
    assert gradgradcheck(function, inputs, fast_mode=True)


@table
def test_maps_over_more_axes_and_forward_mode(name, given):
    module, xs = layer(name, given), torch.stack([example(name), example(name)])
    torch.testing.assert_close(torch.vmap(module)(xs), torch.stack([module(x) for x in xs]))
    _, tangent = torch.func.jvp(module, (xs[0],), (xs[1],))
    step = 1e-6
    torch.testing.assert_close(
        tangent, (module(xs[0] + step * xs[1]) - module(xs[0] - step * xs[1])) / (2 * step), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("form", ["affine-like", "norm-like"])
def test_one_step_moves_a_position_by_its_own_gradient_times_kappa(form):
    module, x = layer("Conv2d", {"padding": 1, "stride": 2, "form": form}), example("Conv2d", (1, 4))
    before = module(x)
    g = torch.zeros_like(before)
    g[0, :, 1, 2] = torch.randn(4, dtype=DOUBLE)
    before.backward(g)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter -= 0.3 * parameter.grad
    moved = (module(x) - before)[0, :, 1, 2]
    torch.testing.assert_close(moved, -0.3 * KAPPA * g[0, :, 1, 2], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("center", [True, False])
def test_saved_is_what_the_twin_saves_and_one_number_a_position(center, recompute):
    """For torch's operations; the C++ kernels never keep the output of the convolution."""

    def saved(module, x):
        found = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (found.append(t), t)[1], lambda t: t):
            module(x)
        own = {p.untyped_storage().data_ptr() for p in module.parameters()}
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in found}
        return sum(size for place, size in storages.items() if place not in own)

    x = torch.randn(2, 8, 9, 9, requires_grad=True)
    module = ad.PatchNormConv2d(8, 16, 3, center=center, recompute=recompute, backend="torch")
    z = module(x)
    positions, output = 4 * z[:, 0].numel(), 0 if recompute else 4 * z.numel()
    assert saved(module, x) == saved(nn.Conv2d(8, 16, 3), x) + positions + output


@pytest.mark.parametrize(("length", "kept"), [(4, True), (12, False)])
@pytest.mark.parametrize("transposed", [False, True])
def test_an_output_is_kept_where_it_is_small_beside_the_weight(length, kept, transposed):
    """By default it is kept if it has at most an eighth of the weight's entries."""

    def saved(**settings):
        module = kind(32, 32, 3, padding=1, backend="torch", **settings)
        found = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (found.append(t.numel()), t)[1], lambda t: t):
            z = module(torch.randn(1, 32, length, length, requires_grad=True))
        assert (8 * z.numel() <= module.weight.numel()) is kept
        return found

    kind = ad.PatchNormConvTranspose2d if transposed else ad.PatchNormConv2d
    assert saved() == saved(recompute=not kept) != saved(recompute=kept)


@pytest.mark.parametrize("name", TWINS)
def test_state_dicts_load_both_ways(name):
    twin, module = TWINS[name](4, 6, 3, groups=2), getattr(ad, f"PatchNorm{name}")(4, 6, 3, groups=2)
    module.load_state_dict(twin.state_dict())
    twin.load_state_dict(module.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), module.parameters(), strict=True))
    again = pickle.loads(pickle.dumps(copy.deepcopy(module)))
    x = torch.randn(2, 4, *(5,) * int(name[-2]))
    torch.testing.assert_close(again(x), module(x))
    torch.testing.assert_close(module(x[0]), module(x)[0])
    assert module(x[:0]).shape == twin(x[:0]).shape


@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.float16, 1e4), (torch.bfloat16, 1e30), (torch.float32, 1e30), (torch.float32, 1e-30)]
)
@pytest.mark.parametrize("given", [{}, {"form": "norm-like"}, {"center": True}])
def test_extreme_inputs(dtype, size, given):
    module = ad.PatchNormConv2d(8, 16, 3, padding=1, dtype=dtype, **given)
    exact = ad.PatchNormConv2d(8, 16, 3, padding=1, dtype=DOUBLE, **given)
    exact.load_state_dict(module.state_dict())
    x = (torch.randn(2, 8, 9, 9, dtype=DOUBLE) * size).to(dtype).requires_grad_()
    z, far = module(x), exact(x.detach().to(DOUBLE)).detach()
    gradients = torch.autograd.grad(z, [x, *module.parameters()], torch.randn_like(z))
    assert all(bool(t.isfinite().all()) for t in (z, *gradients))
    assert float((z.detach() - far).norm() / far.norm()) < 3 * torch.finfo(dtype).eps


@pytest.mark.parametrize("given", [{}, {"form": "norm-like"}, {"center": True, "form": "norm-like"}])
def test_images_without_anything_or_with_extremes_side_by_side(given):
    module = layer("Conv2d", {"padding": 1, **given}, dtype=torch.float32)
    x = torch.randn(2, 4, 16, 6)
    x[0, :, :8] *= 1e30
    x[0, :, 8:] = 0
    x[1] = 0
    z = module(x.requires_grad_())
    (dx,) = torch.autograd.grad(z.sum(), x)
    assert z.isfinite().all() and dx.isfinite().all()
    if "form" in given:
        torch.testing.assert_close(z[1], module.bias.reshape(-1, 1, 1).expand(4, 16, 6))


def test_layout_and_types():
    module = ad.PatchNormConv2d(4, 8, 3, groups=2)
    x = torch.randn(2, 4, 6, 6).to(memory_format=torch.channels_last).requires_grad_()
    z = module(x)
    assert z.is_contiguous(memory_format=torch.channels_last)
    (dx,) = torch.autograd.grad(z, x, torch.randn_like(z))
    assert dx.is_contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        z = module(x)
    assert z.dtype == torch.bfloat16
    z.sum().backward()
    assert module.weight.grad.dtype == torch.float32
    assert float(ad.PatchNormConv2d(64, 64, 3).weight.detach().std()) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_one_image_whose_channels_lie_last(backend, batched):
    """torch.ops.aten.convolution_backward uses a wrong stride between groups, which gave a wrong weight gradient."""
    module = ad.PatchNormConv2d(6, 4, (3, 2), groups=2, dtype=DOUBLE, backend=backend).to(
        memory_format=torch.channels_last
    )
    x = torch.randn(1, 6, 6, 4, dtype=DOUBLE).to(memory_format=torch.channels_last)
    plain, one = copy.deepcopy(module).to(memory_format=torch.contiguous_format), x if batched else x[0]
    g = torch.randn_like(module(one))
    found, expected = (
        torch.autograd.grad(m(images), m.weight, g) for m, images in ((module, one), (plain, one.contiguous()))
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("name", "given"), [TABLE[3], TABLE[8]], ids=["Conv2d", "ConvTranspose2d"])
def test_compiled_as_a_whole(name, given):
    module, x = layer(name, given), example(name, requires_grad=True)
    ours, plain = torch.compile(module, fullgraph=True, backend="aot_eager")(x), module(x)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(*(torch.autograd.grad(z.square().sum(), x) for z in (ours, plain)))


REFUSED = [
    (lambda: ad.PatchNormConv2d(4, 4, 3, bias=False), ValueError, "exists only with a bias.*norm-like"),
    (lambda: ad.PatchNormConv2d(4, 4, 3, form="other"), ValueError, "form is 'other'; choose"),
    (lambda: ad.PatchNormConv2d(4, 4, 3, kappa=0), ValueError, "kappa is 0"),
    (lambda: ad.PatchNormConv2d(4, 4, 3, stride=2, padding="same"), ValueError, "use a stride of 1"),
    (lambda: ad.PatchNormConv2d(4, 4, (3, 3, 3)), ValueError, "kernel_size"),
    (lambda: ad.PatchNormConv2d(4, 4, 3, groups=3), ValueError, "do not divide"),
    (lambda: ad.PatchNormConv2d(4, 4, 3)(torch.ones(2, 4, 5, 5, dtype=torch.int64)), TypeError, "floating-point"),
    (lambda: ad.PatchNormConv2d(4, 4, 3)(torch.ones(2, 5, 5, 5)), ValueError, "5 channels.*takes 4"),
    (lambda: ad.PatchNormConv2d(4, 4, 3)(torch.ones(2, 4, 2, 5)), ValueError, "the kernel spans 3 positions"),
    (lambda: ad.PatchNormConv2d(4, 4, 3)(torch.ones(4, 4)), ValueError, "two axes of space"),
    (lambda: ad.PatchNormConvTranspose1d(4, 4, 3, output_padding=1)(torch.ones(1, 4, 4)), ValueError, "below one"),
]


@pytest.mark.parametrize(("call", "error", "words"), REFUSED)
def test_what_a_caller_gets_wrong_is_said(call, error, words):
    with pytest.raises(error, match=words):
        call()


MUTATIONS = {
    "three times the scale": ("f", lambda e: 3 * e, "3 * math.sqrt(kappa) / torch.sqrt(E + 1)"),
    "another constant": ("f", lambda e: e.subs(*_length(e, 4)), "math.sqrt(kappa) / torch.sqrt(E + 5)"),
}


def _length(expression, more):
    (length,) = expression.atoms(sympy.Indexed)
    return length, length + more


@pytest.mark.parametrize("name", MUTATIONS)
def test_emitted_lines_follow_the_mathematics(name):
    """Templates contain nothing about the maps: another scale prints another scale, and another gradient."""
    changed, change, expected = MUTATIONS[name]
    solution = derive.solve(derive.layer("convolution-1d"))["affine-like"]
    definitions = tuple(
        replace(d, expression=change(d.expression)) if d.name == changed else d for d in solution.mapped.definitions
    )
    mutant = replace(solution, mapped=replace(solution.mapped, definitions=definitions))
    plans = patch_plan(solution), patch_plan(mutant)
    scale, other = (next(p for p in PatchPrinter(plan.scale, "x").lines() if p.target == "f").text for plan in plans)
    assert scale == "math.sqrt(kappa) / torch.sqrt(E + 1)" and other == expected
    if "times" in name:
        old, new = ({line.text for line in PatchPrinter(p.backward, "x", in_place=True).lines()} for p in plans)
        assert old != new


def test_twice_the_bias_is_printed_as_twice_the_bias():
    solution = derive.solve(derive.layer("convolution-1d"))["norm-like"]
    output = solution.mapped.output.expression
    entries = {e: 2 * e for e in output.atoms(sympy.Indexed) if str(e.base) == "b"}
    mutant = replace(solution, mapped=solution.mapped.with_output(rename(output, entries)))
    lines = [line.text for line in PatchPrinter(patch_plan(mutant).forward, "x", in_place=True).lines()]
    assert any("2 * b" in line for line in lines)


@settings(max_examples=25, deadline=None)
@given(
    axes=st.integers(1, 2),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 3),
    groups=st.sampled_from([1, 2, 4]),
    form=st.sampled_from(["affine-like", "norm-like"]),
    transposed=st.booleans(),
)
def test_any_geometry(axes, kernel, stride, padding, dilation, groups, form, transposed):
    name = f"Conv{'Transpose' if transposed else ''}{axes}d"
    chosen = {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    module, x = layer(name, {**chosen, "groups": groups, "form": form}), example(name, requires_grad=True)
    shapes = [(n - 1) * stride + dilation * (kernel - 1) + 1 - 2 * padding for n in x.shape[2:]]
    fits = min(shapes) > 0 if transposed else min(x.shape[2:]) + 2 * padding > dilation * (kernel - 1)
    if not fits:
        with pytest.raises(ValueError, match="pad"):
            module(x)
        return
    ours, theirs = module(x), reference(module, x)
    torch.testing.assert_close(ours, theirs)
    cotangent, wanted = torch.randn_like(theirs), [x, *module.parameters()]
    torch.testing.assert_close(*(torch.autograd.grad(z, wanted, cotangent) for z in (ours, theirs)))


@table
@pytest.mark.parametrize("recompute", [True, False])
def test_what_comes_out_may_be_changed_in_place(name, given, recompute):
    module, x = layer(name, given, recompute=recompute), example(name, requires_grad=True)
    changed, expected = module(x).relu_(), module(x).relu()
    torch.testing.assert_close(changed, expected)
    cotangent, wanted = torch.randn_like(expected), [x, *module.parameters()]
    torch.testing.assert_close(*(torch.autograd.grad(z, wanted, cotangent) for z in (changed, expected)))
