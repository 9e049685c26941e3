"""PatchNorm by its kernels in C++ against patches cut out one by one in float64."""

import functools
import importlib
from dataclasses import replace

import pytest
import torch

import affine_divergence as ad
from affine_divergence.kernels.cpp.runtime import compile as cpp_compile
from affine_divergence.kernels.cpp.runtime import launch as cpp_launch
from affine_divergence.kernels.cpp.runtime import patches as cpp_patches
from affine_divergence.kernels.torch import patch_affine_like as torch_patch_affine_like
from affine_divergence.runtime import backends
from codegen.catalogue import patch_maps
from codegen.targets.cpp.patch_arithmetic import arithmetic
from derive.errors import UsageError
from tests.codegen.targets.cuda.patch_host import (
    BRAIN,
    CENTRED,
    DOUBLE,
    FORMS,
    PLAIN,
    SINGLE,
    Problem,
    error,
    map_name,
)
from tests.emitted import write_all
from verify.checks.cases import Draw
from verify.checks.geometry import Geometry, draw_geometry

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
KINDS = [(*form, PLAIN) for form in FORMS]
KINDS += [pytest.param(*form, CENTRED, marks=[pytest.mark.slow] * (form != FORMS[0])) for form in FORMS]
forms = pytest.mark.parametrize("form, bias, kind", KINDS, ids=str)
both_types = pytest.mark.parametrize("dtype, bound", [(DOUBLE, 1e-13), (SINGLE, 2e-6)], ids=str)

SMALL = Geometry(1, 3, 5, (3, 2), (2, 1), (1, 2), (1, 2), (7, 6), (0, 0))
GEOMETRIES = {  # whose tiles differ: by rows or along the line, one register or many, whole or in part
    "by rows": Geometry(1, 3, 45, (3, 3), (1, 1), (1, 1), (1, 1), (5, 32), (0, 0)),
    "along the line": Geometry(1, 19, 21, (3, 3), (1, 1), (1, 1), (1, 1), (9, 7), (0, 0)),
    "steps and holes": Geometry(1, 9, 70, (3, 2), (2, 3), (2, 1), (2, 1), (17, 20), (0, 0)),
    "one entry": Geometry(1, 8, 8, (1, 1), (2, 2), (0, 0), (1, 1), (13, 33), (0, 0)),
    "as large as the image": Geometry(1, 4, 9, (5, 6), (1, 1), (0, 0), (1, 1), (5, 6), (0, 0)),
    "one axis": Geometry(1, 5, 33, (4,), (3,), (5,), (2,), (101,), (0,)),
    "three axes": Geometry(1, 2, 6, (2, 3, 2), (1, 2, 1), (1, 0, 1), (1, 1, 2), (4, 7, 9), (0, 0, 0)),
    "groups": Geometry(3, 5, 19, (3, 2), (2, 1), (1, 2), (1, 2), (7, 16), (0, 0)),
    "groups of few outputs": Geometry(2, 9, 3, (3, 3), (1, 1), (1, 1), (1, 1), (5, 32), (0, 0)),
    "a channel for several": Geometry(4, 1, 2, (3, 3), (1, 1), (1, 1), (1, 1), (9, 7), (0, 0)),
    "a channel each": Geometry(5, 1, 1, (5, 3), (1, 1), (2, 1), (1, 1), (9, 20), (0, 0)),
    "a channel each, steps and holes": Geometry(4, 1, 1, (3, 2), (2, 3), (2, 1), (2, 1), (17, 20), (0, 0)),
}


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


def errors(case, tensors, g, **more):
    ours, exact = case.results(tensors, g, backend="cpp", **more), case.exact(tensors, g)
    assert all(a.shape == b.shape and a.dtype == tensors[0].dtype for a, b in zip(ours, exact, strict=True))
    return [error(a, b) for a, b in zip(ours, exact, strict=True)]


@forms
@both_types
@pytest.mark.parametrize("name", GEOMETRIES)
def test_every_kind_of_tile(form, bias, kind, dtype, bound, name, launched):
    case = Problem(form, bias, kind, GEOMETRIES[name])
    assert max(errors(case, *case.operands(dtype, batch=3))) <= bound
    assert launched == [f"{map_name(form, bias, kind)}_{way}" for way in ("forward", "backward")]


@forms
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_random_geometries(form, bias, kind, axes, launched):
    for seed in range(6):
        draw = Draw(torch.Generator().manual_seed(seed), "cpu", 1, 4)
        found = draw_geometry(
            draw, axes, transposed=False, seen=form == "norm-like", channels=3 if kind == CENTRED else 2, grouped=False
        )
        case = Problem(form, bias, kind, found)
        assert max(errors(case, *case.operands(seed=seed, batch=2 + seed % 3 * 2))) <= 1e-11, case
    assert len(launched) == 12


@pytest.mark.parametrize("kind", [PLAIN, CENTRED])
@pytest.mark.parametrize("name", ["along the line", "steps and holes", "three axes"])
def test_any_layout_of_input_and_gradient(name, kind, launched):
    case = Problem("affine-like", True, kind, GEOMETRIES[name])
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
    case = Problem(form, bias, kind, GEOMETRIES["by rows"])
    tensors, _ = case.operands(SINGLE, batch=4)
    known, kept = {t.untyped_storage().data_ptr() for t in tensors}, []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        case.function(*tensors, *[None] * (not bias), **case.settings, backend="cpp", recompute=recompute)
    own = [t for t in kept if t.untyped_storage().data_ptr() not in known]
    assert sum(t.untyped_storage().nbytes() for t in own) == 4 * 4 * 5 * 32


@forms
def test_only_what_is_wanted_is_computed_and_it_is_the_same(form, bias, kind):
    case = Problem(form, bias, kind, SMALL)
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
    case = Problem(form, bias, kind, GEOMETRIES["along the line"])
    tensors, g = case.operands(SINGLE, batch=7)
    first, again = (case.results(tensors, g, backend="cpp") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for threads in (1, 3, 7):
        torch.set_num_threads(threads)
        assert max(errors(case, tensors, g)) <= 2e-6


@forms
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_long_and_short_patches(form, bias, kind, size):
    case = Problem(form, bias, kind, GEOMETRIES["along the line"])
    tensors, g = case.operands(SINGLE, batch=2)
    tensors[0] = (tensors[0].detach() * size).requires_grad_()
    wide = [t.detach().double().requires_grad_() for t in tensors]
    right = case.results(wide, g.double(), backend="torch")
    for ours, exact in zip(case.results(tensors, g, backend="cpp"), right, strict=True):
        assert ours.isfinite().all() and float((ours - exact).norm()) <= 2e-6 * float(exact.norm())


@pytest.mark.parametrize("bias", [True, False])
def test_a_patch_of_zeros_has_no_direction(bias):
    case = Problem("norm-like", bias, PLAIN, GEOMETRIES["along the line"])
    tensors, g = case.operands(SINGLE, batch=2)
    tensors[0] = torch.zeros_like(tensors[0]).requires_grad_()
    z, dx, dW, *db = case.results(tensors, g, backend="cpp")
    assert torch.equal(z, tensors[2].detach()[:, None, None].expand_as(z) if bias else torch.zeros_like(z))
    assert not dx.any() and not dW.any()
    assert all(error(d, g.double().sum((0, 2, 3))) <= 1e-6 for d in db)


@pytest.mark.parametrize("bias", [True, False])
def test_a_centred_patch_of_equal_entries_has_no_direction(bias):
    case = Problem("norm-like", bias, CENTRED, replace(GEOMETRIES["along the line"], padding=(0, 0)))
    tensors, g = case.operands(SINGLE, batch=2)
    tensors[0] = torch.full_like(tensors[0], 1 / 3).requires_grad_()
    z, dx, dW, *_ = case.results(tensors, g, backend="cpp")
    assert torch.equal(z, tensors[2].detach()[:, None, None].expand_as(z) if bias else torch.zeros_like(z))
    assert not dx.any() and not dW.any()


@pytest.mark.parametrize("name", ["by rows", "steps and holes", "a channel each", "three axes"])
def test_what_entries_of_a_patch_have_in_common_costs_no_more_digits_than_by_torchs_operations(name):
    case = Problem("affine-like", True, CENTRED, GEOMETRIES[name])
    tensors, g = case.operands(SINGLE, batch=4)
    tensors[0] = (tensors[0].detach() + 1000).requires_grad_()
    exact = case.exact(tensors, g)
    ours, by_torch = (
        [error(a, b) for a, b in zip(case.results(tensors, g, backend=n), exact, strict=True)] for n in ("cpp", "torch")
    )
    assert all(a <= 2 * b for a, b in zip(ours, by_torch, strict=True)) and ours[1] <= by_torch[1] / 3


@pytest.mark.parametrize("groups", [1, 2])
def test_tangents_of_one_image_whose_channels_lie_last(groups, monkeypatch):
    """The output was a view, to which torch gives no tangent of another layout."""
    monkeypatch.setattr(cpp_patches, "_threads", lambda: 1)
    module = ad.PatchNormConv2d(6, 4, (3, 2), groups=groups, dtype=DOUBLE, backend="cpp")
    x, step = (torch.randn(1, 6, 6, 4, dtype=DOUBLE).to(memory_format=torch.channels_last) for _ in range(2))
    _, expected = torch.func.jvp(module, (x.contiguous(),), (step.contiguous(),))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, step)
        _, found = torch.autograd.forward_ad.unpack_dual(module(dual))
        torch.testing.assert_close(found, expected)


def test_what_is_no_number_stays_in_its_image():
    case = Problem("affine-like", True, PLAIN, SMALL)
    tensors, g = case.operands(batch=4)
    clean = case.results(tensors, g, backend="cpp")
    with torch.no_grad():
        tensors[0][1, 0, 3, 3] = torch.nan
    z, dx, *_ = case.results(tensors, g, backend="cpp")
    others = [0, 2, 3]
    assert torch.equal(z[others], clean[0][others]) and torch.equal(dx[others], clean[1][others])
    assert z[1].isnan().any() and not z[1].isnan().all() and dx[1].isnan().any()


OTHERS = {
    "one image for two threads": (SMALL, DOUBLE, 1, 1e-13),
    "bfloat16": (SMALL, BRAIN, 2, 2e-2),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_has_no_kernel_takes_torchs_operations(name, launched):
    geometry, dtype, batch, bound = OTHERS[name]
    case = Problem("affine-like", True, PLAIN, geometry)
    assert max(errors(case, *case.operands(dtype, batch=batch))) <= bound and not launched


@pytest.mark.parametrize(
    "form, bias, kind",
    [pytest.param(*f, kind, marks=[pytest.mark.slow] * (f != FORMS[0])) for f in FORMS for kind in (PLAIN, CENTRED)],
    ids=str,
)
def test_graphs_of_gradients_tangents_and_maps_over_more_axes(form, bias, kind):
    case = Problem(form, bias, kind, SMALL)
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


def test_a_layer_of_the_package_takes_them(launched, monkeypatch):
    monkeypatch.delenv(backends.VARIABLE, raising=False)
    layer, x = ad.PatchNormConv2d(16, 16, 3, padding=1), torch.randn(4, 16, 16, 16, requires_grad=True)
    layer(x).sum().backward()
    assert launched == ["patch_affine_like_forward", "patch_affine_like_backward"]
    assert x.grad is not None and all(p.grad is not None for p in layer.parameters())


def test_a_map_that_the_passes_do_not_compute_is_refused():
    maps = {m.label: m.plan for m in patch_maps()}
    plain, centred = maps["patch-affine-like"], maps["patch-affine-like-centred"]
    more = replace(plain.backward, instructions=(*centred.backward.instructions[:1], *plain.backward.instructions))
    with pytest.raises(UsageError, match=r"affine-like': no pass in C\+\+ computes 'x_sum'"):
        arithmetic(replace(plain, backward=more))
    with pytest.raises(UsageError, match=r"affine-like': its scale is not made of one sum over the patch"):
        arithmetic(replace(plain, scale=centred.scale))
    with pytest.raises(UsageError, match=r"affine-like': 0 steps of a pass read W_sum and dh, not one"):
        arithmetic(replace(centred, backward=plain.backward))


MUTANTS = {
    "one dropped under the root": ("sqrt(1 + E)", "sqrt(E)"),
    "bias outside the scale": ("const Wide h = b + xW;", "const Wide h = b / f + xW;"),
    "sum of entries, not of squares": ("xx_total += x * x;", "xx_total += x;"),
    "sign of the row term": ("dE = -dh_h", "dE = dh_h"),
    "one more of f": ("(f * f)", "(f * f * f)"),
    "row term not divided by kappa": ("/ (2 * kappa)", "/ 2"),
    "factor of two": ("2 * dxx * x", "dxx * x"),
    "bias left out of the row term": ("return b * dh;", "return 0 * b * dh;"),
    "products with the entries left out": ("values[n] += sums[r][n] * x;", ""),
    "tile that overwrites": ("load(own.dx + at) + sums[r][n]", "sums[r][n]"),
    "gradient of the last image kept": ("if (dx) std::fill_n(own.dx", "if (!dx) std::fill_n(own.dx"),
    "padding that is not cleared": ("std::fill_n(own.dh, given_.outputs * PANEL, Element(0));", ""),
    "stride dropped": ("place(i / s[0], j / s[1], k / s[2])", "place(i, j, k)"),
    "dilation dropped": ("j * given.dilation[1]", "j"),
    "padding dropped": ("row % length[1] + padding[1]", "row % length[1]"),
    "every second tile of channels left out": ("o += SPAN * LANES) products", "o += 2 * SPAN * LANES) products"),
    "one thread's sums left out": (
        "for (const Own& own : owned) sum += own.dW",
        "for (const Own& own : {owned[0]}) sum += own.dW",
    ),
    "one thread's biases left out": (
        "for (const Own& own : owned) sum += own.db",
        "for (const Own& own : {owned[0]}) sum += own.db",
    ),
    "shares that leave an image out": ("count * (thread + 1) / threads", "count * (thread + 1) / threads - thread"),
    "last registers left out": ("first < count; first += TOGETHER", "first + TOGETHER < count; first += TOGETHER"),
}
MUTANTS_OF_CENTRED = {
    "mean left in the energy": ("E_total - patch_entries * (m * m)", "E_total"),
    "mean of all but one": ("x_sum_sum / patch_entries", "x_sum_sum / (patch_entries - 1)"),
    "mean left in the output": ("xW - m * W_sum", "xW"),
    "mean left in the row term": ("x -= load(own.means.mean", "x -= 0 * load(own.means.mean"),
    "gradient of the mean through the energy": ("-2 * patch_entries * dE * m - dh_W_sum", "-dh_W_sum"),
    "gradient of the mean through the product": (
        "-2 * patch_entries * dE * m - dh_W_sum",
        "-2 * patch_entries * dE * m",
    ),
    "gradient of the filters' sums": ("dW_sum = -dh_m", "dW_sum = 0 * dh_m"),
    "sums of filters by one thread": ("sum_filters(W_, given_.outputs", "sum_filters(W_, given_.outputs / 2"),
    "one thread's means left out": ("sum += own.means.to_filters[o]", "sum = owned[0].means.to_filters[o]"),
    "gradient of the means of the last image kept": (
        "if (Map::centred) std::fill_n(own.means.to_mean",
        "if (0) std::fill_n(own.means.to_mean",
    ),
}
ALWAYS = {"sign of the row term", "one thread's sums left out"}
HEADERS = ("runtime/patches.h", "runtime/patch_forward.h", "runtime/patch_backward.h", "runtime/python.h")


@pytest.fixture
def damage(monkeypatch, tmp_path):
    """Return a function that has the kernels of a kind compiled with a text replaced by another."""
    modules = []

    def compiled(source, dtype, old, new):
        texts = {name: (source.parent / name).read_text() for name in (source.name, *HEADERS)}
        assert any(old in text for text in texts.values()), "the line to damage is gone: look again"
        write_all({name: text.replace(old, new) for name, text in texts.items()}, tmp_path)
        return cpp_compile.compiled.__wrapped__(tmp_path / source.name, dtype)

    def damaged(kind, old, new):
        monkeypatch.setattr(cpp_launch, "compiled", lambda source, dtype: compiled(source, dtype, old, new))
        modules.append(importlib.import_module(f"affine_divergence.kernels.cpp.{map_name('affine-like', True, kind)}"))
        modules[0].KERNELS._made.clear()

    yield damaged
    monkeypatch.undo()
    modules[0].KERNELS._made.clear()


def departs(kind):
    """Whether kernels differ from patches cut out one by one."""
    for name in ("steps and holes", "by rows", "along the line", "three axes"):
        case = Problem("affine-like", True, kind, GEOMETRIES[name])
        tensors, g = case.operands(batch=4)
        tensors[0] = (tensors[0].detach() * 0.2).requires_grad_()  # about as long as the one under the root matters
        if not all(e <= 1e-12 for e in errors(case, tensors, g)):
            return True
    return False


@pytest.mark.parametrize("kind", [PLAIN, CENTRED])
def test_the_original_does_not_depart(kind):
    assert not departs(kind)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in ALWAYS)) for n in MUTANTS])
def test_a_mutant_is_killed(damage, name):
    damage(PLAIN, *MUTANTS[name])
    assert departs(PLAIN)


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS_OF_CENTRED)
def test_a_mutant_of_centred_patches_is_killed(damage, name):
    damage(CENTRED, *MUTANTS_OF_CENTRED[name])
    assert departs(CENTRED)
