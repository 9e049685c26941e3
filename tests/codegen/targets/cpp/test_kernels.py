"""The C++ kernels against formulas of the theory in float64: the tests of the CUDA kernels, and additional ones."""

import pytest
import torch

from affine_divergence.kernels.cpp.runtime import launch as cpp_launch
from tests.codegen.targets.cuda import test_host as on_cuda
from tests.codegen.targets.cuda.test_host import (  # noqa: F401
    DOUBLE,
    HALF,
    MAPS,
    SINGLE,
    both,
    error,
    function,
    kappa,
    maps,
    operands,
    seeded,
    test_a_graph_of_gradients_takes_the_composite,
    test_a_row_of_zeros,
    test_an_expanded_gradient,
    test_any_layout_of_input_and_gradient,
    test_gradcheck_of_every_mode,
    test_leading_axes_and_empty_batches,
    test_long_and_short_rows,
    test_maps_over_more_axes_and_tangents_are_those_of_torch,
    test_one_number_a_row_is_kept_beside_the_inputs,
    test_tensors_without_values_take_the_composite,
    test_what_is_no_number_stays_in_its_row,
)

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


@maps
@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE], ids=str)
@pytest.mark.parametrize("shape", [(9, 19, 13), (70, 64, 32), (3, 1500, 1100), (1, 1, 1), (2, 8, 2053)], ids=str)
def test_error_stays_at_the_rounding_of_the_result(host, name, dtype, shape):
    on_cuda.test_error_stays_at_the_rounding_of_the_result(host, name, dtype, shape)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    yield lambda: torch.set_num_threads(1)
    torch.set_num_threads(threads)


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
        together = len(wanted) == len(inputs) == 3
        assert len(host.launched) == (2 if together else len(wanted)), (
            "one kernel for each wanted gradient, and no other"
        )


@maps
@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE], ids=str)
def test_several_threads_do_the_work_of_one(host, name, dtype, one_thread, monkeypatch):
    """More rows than threads, and a share that is not a multiple of the rows summed at once."""
    monkeypatch.setattr(cpp_launch, "_ENOUGH", 1)
    torch.set_num_threads(3)
    inputs = operands(name, (211, 40, 30), dtype)
    g = torch.randn(211, 30).to(dtype)
    found = [both(host, name, inputs, g)[0] for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True)), "the same input gives the same bits"
    one_thread()
    alone, exact = both(host, name, inputs, g)
    for ours, single, right in zip(found[0], alone, exact, strict=True):
        assert error(ours, right) <= 1e-6 if dtype == SINGLE else error(ours, right) <= 1e-14
        assert error(single, right) <= 1e-6 if dtype == SINGLE else error(single, right) <= 1e-14


@maps
def test_sums_over_many_rows_keep_their_digits(host, name):
    inputs = operands(name, (40_000, 8, 5), SINGLE)
    ours, exact = both(host, name, inputs, torch.rand(40_000, 5))
    for a, b in zip(ours[1:], exact[1:], strict=True):
        assert error(a, b) <= 5e-6


@maps
def test_types_without_kernels_take_torchs_operations(host, name):
    inputs = operands(name, dtype=HALF)
    z = function(host, name)(*inputs, kappa=kappa)
    torch.autograd.grad(z.sum(), inputs)
    assert not host.launched and error(z, MAPS[name][0](*(t.double() for t in inputs), kappa)) <= 3e-3


# powers of ten for rows; the smallest are subnormal
SIZES = {SINGLE: range(-44, 38), DOUBLE: range(-320, 307)}


def check_every_size(host, dtype):
    """Compare neighbouring rows of every magnitude of a type with exact scales."""
    size = torch.tensor([10.0**power for power in SIZES[dtype]] + [0.0], dtype=DOUBLE)[:, None]
    x = (torch.randn(len(size), 40, dtype=DOUBLE).clamp(-3, 3) * size).to(dtype).double()
    largest = x.abs().amax(1, keepdim=True)
    u = torch.where(largest > 0, x / largest, 0.0)
    directed = u / (u.square().sum(1, keepdim=True) + (1 / largest).square()).sqrt()
    scaled = torch.where(largest > 1, directed, x / (x.square().sum(1, keepdim=True) + 1).sqrt())
    normed = torch.where(largest > 0, u / u.norm(dim=1, keepdim=True), 0.0)
    info, given = torch.finfo(dtype), (x.to(dtype), torch.eye(40, dtype=dtype), torch.zeros(40, dtype=dtype))
    found = host.functions.affine_like(*given, 1.0)
    torch.testing.assert_close(found.double(), scaled, rtol=4 * info.eps, atol=4 * info.tiny)
    has_scale = (largest == 0) | (largest > 8 * info.tiny)  # the inverse of a shorter row overflows
    found = host.functions.norm_like(*given, 2.0).double().where(has_scale, 0.0)
    torch.testing.assert_close(found, normed.where(has_scale, 0.0), rtol=4 * info.eps, atol=4 * info.tiny)


@pytest.mark.parametrize("dtype", SIZES, ids=str)
def test_neighbours_of_every_size(host, dtype):
    """Each row is checked for overflow of its squares separately."""
    check_every_size(host, dtype)


MUTANTS = {
    "sign of the row term": ("f * gW[k] - c * u", "f * gW[k] + c * u"),
    "one more of f": ("const Wide u = f * x[k];", "const Wide u = f * f * x[k];"),
    "one dropped under the root": ("sqrt(q + Wide(1) / (peak * peak))", "sqrt(q)"),
    "scale not divided by the magnitude": ("sqrt(kappa) / (peak * sqrt", "sqrt(kappa) / (sqrt"),
    "bias outside the scale": ("f * (b[k] + xW[k])", "f * xW[k] + b[k]"),
    "sum of entries, not of squares": ("q += y * y;", "q += fabs(y);"),
    "bias left out of the row term": ("f * (f * gb + u_gW) / kappa", "f * u_gW / kappa"),
    "scale left out of db": ("sum += f * g;", "sum += g + 0 * f;"),
    "rows as far apart as those of another tensor": ("g_data + row * m", "g_data + row * n"),
    "one row read for all": ("x_data + row * n", "x_data"),
    "never divided by a magnitude": ("if (divided || in_range(q)) break;", "break;"),
    "last entry of a row left out": ("k < n; ++k", "k + 1 < n; ++k"),
    "groups of rows that overlap": ("row += TOGETHER)", "row += 1)"),
    "one row a share left out": ("for (; row < end; ++row)", "for (; row + 1 < end; ++row)"),
    "one share not added": ("int part = 0; part < threads; ++part) sum", "int part = 1; part < threads; ++part) sum"),
    "shares that overlap": ("rows * (part + 1) / threads", "rows"),
}
ALWAYS = {"sign of the row term", "one dropped under the root", "one row a share left out", "shares that overlap"}


def departs(host):
    """Whether kernels differ from the theory, with one thread, with several, or for rows of some magnitude."""
    for shape in ((601, 19, 13), (2, 1100, 1030)):
        inputs = operands("affine_like", shape)
        inputs[0] = (inputs[0].detach() * 0.4).requires_grad_()  # so short that the 1 under the root matters
        g = torch.randn(shape[0], shape[2], dtype=DOUBLE)
        ours, exact = both(host, "affine_like", inputs, g)
        for k, tensor in enumerate(inputs):  # each gradient has its own kernel for when only it is wanted
            alone = [t.detach() for t in inputs]
            alone[k] = tensor
            ours += torch.autograd.grad(function(host, "affine_like")(*alone, kappa=kappa), tensor, g)
        if any(not error(a, b) <= 1e-12 for a, b in zip(ours, (*exact, *exact[1:]), strict=True)):
            return True
    try:
        check_every_size(host, DOUBLE)
    except AssertionError:
        return True
    return False


def test_the_original_does_not_depart(host, monkeypatch, one_thread):
    monkeypatch.setattr(cpp_launch, "_ENOUGH", 1)
    torch.set_num_threads(2)
    assert not departs(host)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in ALWAYS)) for n in MUTANTS])
def test_a_mutant_is_killed(host, name, monkeypatch, one_thread):
    monkeypatch.setattr(cpp_launch, "_ENOUGH", 1)
    torch.set_num_threads(2)
    source = host.maps[0].KERNELS._path
    sources = (source, source.with_name("runtime") / "rows.h")
    assert any(MUTANTS[name][0] in s.read_text() for s in sources), "the line to mutate is gone; update the mutant"
    host.damage(MUTANTS[name])
    assert departs(host)
