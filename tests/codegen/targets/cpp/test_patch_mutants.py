"""Mutants of PatchNorm's C++ kernels are noticed, and a map that their passes cannot compute is refused."""

import importlib
from dataclasses import replace

import pytest
import torch

from affine_divergence.kernels.cpp.runtime import compile as cpp_compile
from affine_divergence.kernels.cpp.runtime import launch as cpp_launch
from codegen.catalogue import patch_maps
from codegen.targets.cpp.patch_arithmetic import arithmetic
from derive.errors import UsageError
from tests.codegen.targets.cpp.patch_geometries import GEOMETRIES, errors
from tests.codegen.targets.patch_problem import CENTRED, PLAIN, TURNED, Problem, map_name
from tests.emitted import write_all


@pytest.fixture(autouse=True)
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


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
    "gradient of the last image kept": (
        "if (dx && !one_channel_) std::fill_n(own.dx",
        "if (!dx) std::fill_n(own.dx",
    ),
    "padding that is not cleared": ("std::fill_n(dh, LANES, Element(0));", ""),
    "stride dropped": ("place(i / stride[0], j / stride[1], k / stride[2])", "place(i, j, k)"),
    "dilation dropped": ("found.shift.push_back(k * given.dilation[a]);", "found.shift.push_back(k);"),
    "padding dropped": ("entry(i + padding[0], j + padding[1]", "entry(i + padding[0], j"),
    "every second tile of channels left out": ("o += SPAN * LANES) products", "o += 2 * SPAN * LANES) products"),
    "one thread's sums left out": ("tile[i][r] += from", "if (&own == &owned[0]) tile[i][r] += from"),
    "one thread's biases left out": (
        "for (const Own& own : owned) sum += own.db",
        "for (const Own& own : {owned[0]}) sum += own.db",
    ),
    "shares that leave an image out": ("count * (thread + 1) / threads", "count * (thread + 1) / threads - thread"),
    "sums along rows left out": ("if (part.across.size() < 2) return numbers;", "return numbers;"),
    "sums along rows that begin with the first": ("rows = own.rows + part.lowest", "rows = own.rows"),
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
MUTANTS_OF_TRANSPOSED = {
    "every position as the first of its part": ("+ by - 1) / by, r, by", "+ by - 1) / by, 0, by"),
    "padding on the wrong side": ("r + given.padding[a] - k", "r - given.padding[a] - k"),
    "dilation dropped": ("- k * given.dilation[a]", "- k"),
    "no room before the image": ("padding[a] = std::max(padding[a], -distance / by);", ""),
    "positions of a part side by side": ("given_.z.axis[2] * layout_.step", "given_.z.axis[2]"),
    "scales of a part side by side": ("f[run.position + i * layout_.step] = own", "f[run.position + i] = own"),
    "weights of the first part": ("blocks * DOWN * part.before + o", "o"),
    "weights of the first part backwards": ("(part.before + k) * blocks_", "k * blocks_"),
    "sums of the first part": ("given_.inputs * part.before + (&part", "(&part"),
    "kernel the other way round": ("+ k.kernel[c]);", "+ k.kernel[k.kernel.size() - 1 - c]);"),
    "gradient through the scales of the last part": ("part.before && i < LANES", "0 && i < LANES"),
    "line of the last part kept": ("if (layout_.parts.size() > 1) std::fill_n(own.back", "if (0) std::fill_n(own.back"),
}
ALWAYS = {"sign of the row term", "one thread's sums left out"}
PARTS = ("python", "patches", "patch_layout", "patch_sums", "patch_forward", "patch_backward")
HEADERS = tuple(f"runtime/{part}.h" for part in PARTS)


@pytest.fixture
def damage(monkeypatch, tmp_path):
    """Return a function that compiles the kernels of a kind with one text replaced."""
    modules = []

    def compiled(source, dtype, old, new):
        texts = {name: (source.parent / name).read_text() for name in (source.name, *HEADERS)}
        assert any(old in text for text in texts.values()), "the line to mutate is gone; update the mutant"
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
    """Whether kernels differ from the reference, which cuts out patches one by one."""
    for name in ("steps and holes", "by rows", "along the line", "three axes"):
        case = Problem("affine-like", True, kind, GEOMETRIES[kind][name])
        tensors, g = case.operands(batch=4)
        tensors[0] = (tensors[0].detach() * 0.2).requires_grad_()  # so short that the 1 under the root matters
        if not all(e <= 1e-12 for e in errors(case, tensors, g)):
            return True
    return False


@pytest.mark.parametrize("kind", [PLAIN, CENTRED, TURNED])
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


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS_OF_TRANSPOSED)
def test_a_mutant_of_transposed_convolutions_is_killed(damage, name):
    damage(TURNED, *MUTANTS_OF_TRANSPOSED[name])
    assert departs(TURNED)
