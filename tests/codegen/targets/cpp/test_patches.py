"""PatchNorm's C++ kernels against a reference that cuts out patches one by one in float64."""

import functools
import importlib
import math
from dataclasses import replace

import pytest
import torch

import affine_divergence as ad
from affine_divergence.kernels.cpp.runtime import patches as cpp_patches
from affine_divergence.kernels.torch import patch_affine_like as torch_patch_affine_like
from affine_divergence.runtime import backends
from tests.codegen.targets.cpp.patch_geometries import GEOMETRIES, SMALL, errors
from tests.codegen.targets.patch_problem import (
    BRAIN,
    CENTRED,
    DOUBLE,
    FORMS,
    PLAIN,
    SINGLE,
    TURNED,
    Problem,
    error,
    map_name,
    operator_calls,
)
from verify.checks.cases import Draw
from verify.checks.geometry import draw_geometry

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
KINDS = [(*form, PLAIN) for form in FORMS]
OTHERS = [(*form, kind) for kind in (CENTRED, TURNED) for form in FORMS]
KINDS += [pytest.param(*other, marks=[pytest.mark.slow] * (other[:2] != FORMS[0])) for other in OTHERS]
forms = pytest.mark.parametrize("form, bias, kind", KINDS, ids=str)
both_types = pytest.mark.parametrize("dtype, bound", [(DOUBLE, 1e-13), (SINGLE, 5e-6)], ids=str)


@pytest.fixture(autouse=True)
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def launched(monkeypatch):
    """The names of the kernels that run, in order."""
    names, run = [], cpp_patches._run
    monkeypatch.setattr(
        cpp_patches, "_run", lambda kernels, name, *more: (names.append(name), run(kernels, name, *more))
    )
    return names


@forms
@both_types
@pytest.mark.parametrize("name", GEOMETRIES[PLAIN])
def test_every_kind_of_tile(form, bias, kind, dtype, bound, name, launched):
    case = Problem(form, bias, kind, GEOMETRIES[kind][name])
    assert max(errors(case, *case.operands(dtype, batch=3))) <= bound
    assert launched == [f"{map_name(form, bias, kind)}_{way}" for way in ("forward", "backward")]


@forms
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_random_geometries(form, bias, kind, axes, launched):
    for seed in range(6):
        draw = Draw(torch.Generator().manual_seed(seed), "cpu", 1, 4)
        found = draw_geometry(
            draw,
            axes,
            transposed=kind == TURNED,
            seen=form == "norm-like",
            channels=3 if kind == CENTRED else 2,
            grouped=False,
        )
        case = Problem(form, bias, kind, found)
        assert max(errors(case, *case.operands(seed=seed, batch=2 + seed % 3 * 2))) <= 1e-11, case
    assert len(launched) == 12


@pytest.mark.parametrize("kind", [PLAIN, CENTRED, TURNED])
@pytest.mark.parametrize("name", ["along the line", "steps and holes", "three axes"])
def test_any_layout_of_input_and_gradient(name, kind, launched):
    case = Problem("affine-like", True, kind, GEOMETRIES[kind][name])
    tensors, g = case.operands(batch=2)
    x, *parameters = tensors
    expected = case.exact(tensors, g[:1].expand_as(g))
    last = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    turned = x.detach().transpose(-1, -2).contiguous().transpose(-1, -2)
    for given in (
        x.detach().contiguous(memory_format=last),
        turned,
        x.detach().repeat(1, 2, *[1] * (x.dim() - 2))[:, ::2],
    ):
        if given.shape[1] > 1 and given.stride(1) > 1 and given.stride(-1) == 1:
            given = x.detach().repeat_interleave(2, 1)[:, ::2]
        operands = [given.requires_grad_(), *parameters]
        ours = case.results(operands, g[:1].expand_as(g), backend="cpp")
        assert max(error(a, b) for a, b in zip(ours, expected, strict=True)) <= 1e-13
        ends_in_channels = given.is_contiguous(memory_format=last)
        assert ours[0].is_contiguous(memory_format=last) == ends_in_channels
        assert ours[1].is_contiguous(memory_format=last) == ends_in_channels
    assert len(launched) == 6


@forms
@pytest.mark.parametrize("recompute", [True, False])
def test_one_number_a_position_is_kept_beside_what_is_there_anyway(form, bias, kind, recompute):
    case = Problem(form, bias, kind, GEOMETRIES[kind]["by rows"])
    tensors, _ = case.operands(SINGLE, batch=4)
    known, kept = {t.untyped_storage().data_ptr() for t in tensors}, []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        case.function(*tensors, *[None] * (not bias), **case.settings, backend="cpp", recompute=recompute)
    own = [t for t in kept if t.untyped_storage().data_ptr() not in known]
    assert sum(t.untyped_storage().nbytes() for t in own) == 4 * 4 * math.prod(case.geometry.positions)


@forms
def test_only_what_is_wanted_is_computed_and_it_is_the_same(form, bias, kind):
    case = Problem(form, bias, kind, SMALL[kind])
    whole, g = case.operands(batch=2)
    expected = case.exact(whole, g)[1:]
    for chosen in range(1, 2 ** len(whole)):
        tensors = [t.detach().requires_grad_(bool(chosen >> k & 1)) for k, t in enumerate(whole)]
        z = case.function(*tensors, *[None] * (not bias), **case.settings, backend="cpp")
        wanted = [k for k, t in enumerate(tensors) if t.requires_grad]
        for k, ours in zip(wanted, torch.autograd.grad(z, [tensors[k] for k in wanted], g), strict=True):
            assert error(ours, expected[k]) <= 1e-13


@forms
def test_the_same_input_gives_the_same_bits_and_threads_share_images(form, bias, kind):
    case = Problem(form, bias, kind, GEOMETRIES[kind]["along the line"])
    tensors, g = case.operands(SINGLE, batch=7)
    first, again = (case.results(tensors, g, backend="cpp") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for threads in (1, 3, 7):
        torch.set_num_threads(threads)
        assert max(errors(case, tensors, g)) <= 2e-6


@forms
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_long_and_short_patches(form, bias, kind, size):
    case = Problem(form, bias, kind, GEOMETRIES[kind]["along the line"])
    tensors, g = case.operands(SINGLE, batch=2)
    tensors[0] = (tensors[0].detach() * size).requires_grad_()
    wide = [t.detach().double().requires_grad_() for t in tensors]
    right = case.results(wide, g.double(), backend="torch")
    for ours, exact in zip(case.results(tensors, g, backend="cpp"), right, strict=True):
        assert ours.isfinite().all() and float((ours - exact).norm()) <= 2e-6 * float(exact.norm())


@pytest.mark.parametrize("bias", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", [PLAIN, TURNED])
def test_a_patch_of_zeros_has_no_direction(bias, kind):
    case = Problem("norm-like", bias, kind, GEOMETRIES[kind]["along the line"])
    tensors, g = case.operands(SINGLE, batch=2)
    tensors[0] = torch.zeros_like(tensors[0]).requires_grad_()
    z, dx, dW, *db = case.results(tensors, g, backend="cpp")
    assert torch.equal(z, tensors[2].detach()[:, None, None].expand_as(z) if bias else torch.zeros_like(z))
    assert not dx.any() and not dW.any()
    assert all(error(d, g.double().sum((0, 2, 3))) <= 1e-6 for d in db)


@pytest.mark.parametrize("bias", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_centred_patch_of_equal_entries_has_no_direction(bias):
    case = Problem("norm-like", bias, CENTRED, replace(GEOMETRIES[CENTRED]["along the line"], padding=(0, 0)))
    tensors, g = case.operands(SINGLE, batch=2)
    tensors[0] = torch.full_like(tensors[0], 1 / 3).requires_grad_()
    z, dx, dW, *_ = case.results(tensors, g, backend="cpp")
    assert torch.equal(z, tensors[2].detach()[:, None, None].expand_as(z) if bias else torch.zeros_like(z))
    assert not dx.any() and not dW.any()


@pytest.mark.parametrize("name", ["by rows", "steps and holes", "a channel each", "three axes"])
def test_what_entries_of_a_patch_have_in_common_costs_no_more_digits_than_by_torchs_operations(name):
    case = Problem("affine-like", True, CENTRED, GEOMETRIES[CENTRED][name])
    tensors, g = case.operands(SINGLE, batch=4)
    tensors[0] = (tensors[0].detach() + 1000).requires_grad_()
    exact = case.exact(tensors, g)
    ours, by_torch = (
        [error(a, b) for a, b in zip(case.results(tensors, g, backend=n), exact, strict=True)] for n in ("cpp", "torch")
    )
    assert all(a <= 2 * b for a, b in zip(ours, by_torch, strict=True)) and ours[1] <= by_torch[1] / 3


@pytest.mark.parametrize("groups", [1, 2])
def test_tangents_of_one_image_whose_channels_lie_last(groups, monkeypatch):
    """A view as output would fail: torch requires its tangent to have the same layout."""
    monkeypatch.setattr(cpp_patches, "_threads", lambda: 1)
    module = ad.PatchNormConv2d(6, 4, (3, 2), groups=groups, dtype=DOUBLE, backend="cpp")
    x, step = (torch.randn(1, 6, 6, 4, dtype=DOUBLE).to(memory_format=torch.channels_last) for _ in range(2))
    _, expected = torch.func.jvp(module, (x.contiguous(),), (step.contiguous(),))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, step)
        _, found = torch.autograd.forward_ad.unpack_dual(module(dual))
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", [PLAIN, CENTRED, TURNED])
def test_what_is_no_number_stays_in_its_image(kind):
    case = Problem("affine-like", True, kind, SMALL[kind])
    tensors, g = case.operands(batch=4)
    clean = case.results(tensors, g, backend="cpp")
    with torch.no_grad():
        tensors[0][1, 0, 2, 2] = torch.nan
    z, dx, *_ = case.results(tensors, g, backend="cpp")
    others = [0, 2, 3]
    assert torch.equal(z[others], clean[0][others]) and torch.equal(dx[others], clean[1][others])
    assert z[1].isnan().any() and not z[1].isnan().all() and dx[1].isnan().any()


LEFT = {
    "one image for two threads": (SMALL[PLAIN], DOUBLE, 1, 1e-13),
    "bfloat16": (SMALL[PLAIN], BRAIN, 2, 2e-2),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_has_no_kernel_takes_torchs_operations(name, launched):
    geometry, dtype, batch, bound = LEFT[name]
    case = Problem("affine-like", True, PLAIN, geometry)
    assert max(errors(case, *case.operands(dtype, batch=batch))) <= bound and not launched


@forms
def test_graphs_of_gradients_tangents_and_maps_over_more_axes(form, bias, kind):
    case = Problem(form, bias, kind, SMALL[kind])
    tensors, _ = case.operands(batch=2)
    call = functools.partial(case.function, **case.settings, backend="cpp")
    assert torch.autograd.gradcheck(call, tensors, fast_mode=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, tensors, fast_mode=True)
    x, *parameters = (t.detach() for t in tensors)
    mapped = torch.func.vmap(lambda image: call(image, *parameters))(torch.stack([x, 2 * x]))
    torch.testing.assert_close(mapped, torch.stack([call(x, *parameters), call(2 * x, *parameters)]))


HOME = "patch_affine_like.PatchAffineLike"
OWN = (torch_patch_affine_like.PatchAffineLike, torch_patch_affine_like.PatchAffineLikeReverse)


def test_enough_numbers_take_the_kernels_unasked(monkeypatch):
    monkeypatch.delenv(backends.VARIABLE, raising=False)
    own, W = importlib.import_module("affine_divergence.kernels.cpp.patch_affine_like"), torch.randn(1, 16, 16, 3, 3)

    def taken(*shape, dtype=SINGLE):
        return backends.chosen("patch_norm_conv2d", None, HOME, OWN, torch.randn(shape).to(dtype), W)[0]

    assert taken(4, 1, 16, 16, 16) is taken(4, 1, 16, 16, 16, dtype=DOUBLE) is own.PatchAffineLike
    assert taken(4, 1, 16, 4, 4) is own.PatchAffineLike
    assert taken(4, 1, 17, 3, 5) is taken(4, 1, 16, 16, 16, dtype=BRAIN) is OWN[0]


LAYERS = {
    PLAIN: lambda: ad.PatchNormConv2d(16, 16, 3, padding=1),
    CENTRED: lambda: ad.PatchNormConv2d(16, 16, 3, padding=1, center=True),
    TURNED: lambda: ad.PatchNormConvTranspose2d(16, 16, 4, stride=2, padding=1),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_of_the_package_takes_them(kind, launched, monkeypatch):
    monkeypatch.delenv(backends.VARIABLE, raising=False)
    layer, x = LAYERS[kind](), torch.randn(4, 16, 16, 16, requires_grad=True)
    layer(x).sum().backward()
    assert launched == [f"{map_name('affine-like', True, kind)}_{way}" for way in ("forward", "backward")]
    assert x.grad is not None and all(p.grad is not None for p in layer.parameters())
    assert not layer(x[:0]).numel() and len(launched) == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", [CENTRED, TURNED])
def test_operators_keep_torchs_rules(kind):
    case = Problem("affine-like", True, kind, SMALL[kind])
    for operator, arguments in operator_calls("cpp", case):
        torch.library.opcheck(operator, arguments)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [CENTRED, TURNED])
def test_a_compiled_layer_takes_them_and_gives_the_same(kind, launched, monkeypatch):
    monkeypatch.delenv(backends.VARIABLE, raising=False)
    layer, x = LAYERS[kind]().double(), torch.randn(4, 16, 16, 16, dtype=DOUBLE, requires_grad=True)
    expected = torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()])
    launched.clear()
    found = torch.autograd.grad(torch.compile(layer, fullgraph=True)(x).square().sum(), [x, *layer.parameters()])
    assert launched == [f"{map_name('affine-like', True, kind)}_{way}" for way in ("forward", "backward")]
    for ours, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, exact)
