"""PatchNorm's CUDA kernels on the CPU, in whole blocks of threads, against a reference by patches in float64."""

import ctypes
import itertools

import pytest
import torch

from affine_divergence import functional
from affine_divergence.kernels.cuda.runtime import patches as cuda_patches
from affine_divergence.runtime import backends
from affine_divergence.runtime.patches import Geometry
from tests.codegen.targets.cuda.host import needs_compiler
from tests.codegen.targets.patch_problem import (
    BRAIN,
    CENTRED,
    DOUBLE,
    HALF,
    KINDS,
    PLAIN,
    SINGLE,
    TURNED,
    error,
    map_name,
    operator_calls,
    problem,
    wide_problem,
)
from verify.cuda_on_host import Host

pytestmark = [
    needs_compiler,
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning"),  # torch's own, of jvp
]

ROUNDING = {
    DOUBLE: 3e-14,
    SINGLE: 1.2e-6,
    BRAIN: 1.6e-2,
}  # in 16 bits the convolution, W's sum and the scaled gradient are rounded too
LAST = {1: None, 2: torch.channels_last, 3: torch.channels_last_3d}
SELDOM = [pytest.mark.slow]
FIRST = KINDS[1]  # centred, which includes the steps of the others
kinds = pytest.mark.parametrize("kind", [pytest.param(k, marks=[] if k == FIRST else SELDOM) for k in KINDS], ids=str)
some = pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[] if k == FIRST else SELDOM) for k in KINDS[:3]], ids=str
)


@pytest.fixture
def host(capfd):
    with Host() as made:
        yield made
    assert "runtime error" not in capfd.readouterr().err


def compare(case, tensors, g, bound, **more):
    ours, exact = case.results(tensors, g, backend="cuda", **more), case.exact(tensors, g)
    for k, (a, b) in enumerate(zip(ours, exact, strict=True)):
        assert a.shape == b.shape and a.dtype == tensors[0].dtype and error(a, b) <= bound, (k, error(a, b), case)
    return ours


@kinds
def test_random_geometries(host, kind):
    """Three draws over one, two and three axes; channels contiguous and strided; the product kept and recomputed."""
    for seed, axes in itertools.product(range(3), (1, 2, 3)):
        case = (problem if seed else wide_problem)(*kind, axes, seed)
        tensors, g = case.operands(layout=LAST[axes] if seed == 0 else None)
        for more in [{}] if kind[2] == TURNED else [{}, {"recompute": False}]:
            # For a patch of one or two entries the normalising maps' gradient is a difference of large terms.
            compare(case, tensors, g, ROUNDING[DOUBLE] if kind[0] == "affine-like" else 1e-11, **more)
    threads = {block for _, _, block in host.launched}
    assert {(1, 128), (8, 16)} <= threads, "one thread per position, and several"
    name = map_name(*kind)
    assert {n for n, *_ in host.launched} > {f"{name}_dx", f"{name}_f_z"}


@some
@pytest.mark.parametrize("dtype", [SINGLE, pytest.param(BRAIN, marks=SELDOM)], ids=str)
@pytest.mark.parametrize("layout", [None, torch.channels_last], ids=str)
def test_types_and_layouts(host, kind, dtype, layout):
    case = wide_problem(*kind, 2, 1)
    tensors, g = case.operands(dtype, layout)
    z, dx, *_ = compare(case, tensors, g, ROUNDING[dtype])
    wanted = layout or torch.contiguous_format
    assert z.is_contiguous(memory_format=wanted) and dx.is_contiguous(memory_format=wanted)


LAYOUTS = {
    "space turned": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    "every other": lambda t: t.repeat_interleave(2, 3)[..., ::2],
    "channels turned": lambda t: t.flip(1).contiguous().flip(1),
    "one image twice": lambda t: t[:1].expand_as(t),
    "one number": lambda t: t[:1, :1, :1, :1].expand_as(t),
}


@some
@pytest.mark.parametrize("name", LAYOUTS)
def test_any_layout_and_nothing_is_written_to(host, kind, name):
    case = wide_problem(*kind, 2, 2)
    tensors, g = case.operands()
    x = LAYOUTS[name](tensors[0].detach())
    if name != "one number":  # a patch of equal entries has no direction once it is centred
        tensors[0] = x.requires_grad_()
    g = LAYOUTS[name](g)
    kept = [t.detach().clone() for t in (*tensors, g)]
    compare(case, tensors, g, ROUNDING[DOUBLE])
    assert all(torch.equal(a, b) for a, b in zip(kept, (*tensors, g), strict=True))


@some
def test_the_order_in_which_threads_run_changes_no_bit(host, kind):
    case = wide_problem(*kind, 2, 0)
    tensors, g = case.operands(SINGLE, torch.channels_last)
    results = []
    for host.order in (0, 0, 3):
        host.forget()
        results.append(case.results(tensors, g, backend="cuda"))
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@some
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30])
def test_magnitudes(host, kind, size):
    case = wide_problem(*kind, 2, 1)
    tensors, g = case.operands(SINGLE)
    tensors[0] = (tensors[0].detach() * size).requires_grad_()
    ours = case.results(tensors, g, backend="cuda")
    plain = case.results([t.detach().double().requires_grad_() for t in tensors], g.double())
    for a, b in zip(ours, plain, strict=True):
        if not 0 < b.abs().max() < 1e-37:  # in the type's range
            assert a.isfinite().all() and torch.allclose(a.double(), b, rtol=1e-5, atol=2e-6 * float(b.abs().max()))


def test_what_is_no_number_stays_in_the_patches_that_hold_it(host):
    x, W, b = torch.randn(2, 3, 7, 7, dtype=DOUBLE), torch.randn(4, 3, 3, 3, dtype=DOUBLE), torch.randn(4, dtype=DOUBLE)
    clean = functional.patch_norm_conv2d(x, W, b, center=True, backend="cuda")
    for bad in (float("nan"), float("inf")):
        x[1, 2, 0, 0] = bad
        z = functional.patch_norm_conv2d(x, W, b, center=True, backend="cuda")
        assert z[1, :, 0, 0].isnan().all() and torch.equal(z[0], clean[0]) and torch.equal(z[1, :, 3:], clean[1, :, 3:])


@pytest.mark.parametrize("wanted", [k for k in itertools.product([True, False], repeat=3) if any(k)], ids=str)
def test_gradients_that_nobody_wants_are_none(host, wanted):
    case = problem("affine-like", True, CENTRED, 2, 1)
    tensors, g = case.operands()
    exact = case.exact(tensors, g)[1:]
    chosen = [t.detach().requires_grad_(w) for t, w in zip(tensors, wanted, strict=True)]
    case.function(*chosen, **case.settings, backend="cuda").backward(g)
    for t, right in zip(chosen, exact, strict=True):
        assert (t.grad is None) == (not t.requires_grad)
        if t.requires_grad:
            torch.testing.assert_close(t.grad, right)


@pytest.mark.parametrize("kind", [FIRST, pytest.param(KINDS[3], marks=SELDOM)], ids=str)
def test_gradcheck_of_every_mode(host, kind):
    case = problem(*kind, 2, 5)
    tensors, _ = case.operands(batch=1)
    call = lambda *t: case.function(*t, **case.settings, backend="cuda")  # noqa: E731
    assert torch.autograd.gradcheck(call, tensors, check_forward_ad=True, check_batched_grad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, tensors, fast_mode=True)


def test_what_kernels_do_not_take_is_left_to_torch(host):
    case = problem("affine-like", True, PLAIN, 2, 0)
    tensors, g = case.operands(HALF)
    ours, plain = case.results(tensors, g, backend="cuda"), case.results(tensors, g)
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))
    empty, *rest = (t.detach()[:0] if k == 0 else t.detach() for k, t in enumerate(case.operands()[0]))
    assert case.function(empty, *rest, **case.settings, backend="cuda").shape[0] == 0
    assert not host.launched


def test_one_number_a_position_is_kept_beside_the_inputs(host):
    case = wide_problem("affine-like", True, CENTRED, 2, 0)
    tensors, _ = case.operands(SINGLE)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        z = case.function(*tensors, **case.settings, backend="cuda")
    places = {t.data_ptr() for t in tensors}
    count = z.numel() // z.shape[1] * case.geometry.groups
    assert [(t.numel(), t.dtype) for t in kept if t.data_ptr() not in places] == [(count, SINGLE)]


class Recorded:
    """Replaces the compiled kernels and records the last launch."""

    def on(self, _):
        return self

    def launch(self, name, grid, block, arguments):
        self.grid, self.block, self.arguments = grid, block, arguments


@pytest.mark.parametrize("channels", [1, 3, 600])
def test_more_positions_than_16_or_31_bits_count(channels):
    """A view with 2^32 positions: they are all in the grid's first axis, the only one that may be so long."""
    many = torch.zeros(channels).expand(1 << 16, 2, 1 << 15, channels).permute(0, 1, 3, 2)
    kernels = Recorded()
    geometry = Geometry((3,), (1,), (0,), (1,), (0,))
    cuda_patches.walk(kernels, "any", many, [many], [], [], geometry, 0.5)
    (across, one), (lanes, down) = kernels.grid, kernels.block
    assert one == 1 and lanes * down == 128 and lanes == {1: 1, 3: 1, 600: 32}[channels]
    assert 0 <= across * down - (1 << 32) < down and across < 1 << 31
    wide = [a for a in kernels.arguments if isinstance(a, ctypes.c_longlong)]
    assert wide[0].value == 1 << 32 and [a.value for a in kernels.arguments[-1:]] == [0.5]


@pytest.mark.slow
def test_every_registered_operator_keeps_its_word(host):
    """The four utilities: schema, autograd's registration, tracing without values, compiling with dynamic shapes."""
    for operator, arguments in operator_calls("cuda", wide_problem(*KINDS[0], 2, 1), None):
        found = torch.library.opcheck(operator, arguments)
        assert set(found.values()) == {"SUCCESS"} and len(found) == 4


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch.compile's own
@pytest.mark.slow
@some
def test_one_graph_with_dynamic_shapes(host, kind):
    case = wide_problem(*kind, 2, 1)
    call = lambda *t: case.function(*t, **case.settings, backend="cuda")  # noqa: E731
    torch.compiler.reset()
    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in (2, 3):
        tensors, g = case.operands(batch=batch)
        host.launched.clear()
        z = compiled(*tensors)
        found = [z.detach(), *torch.autograd.grad(z, tensors, g)]
        assert host.launched, "torch's operations ran instead of the kernels"
        for a, b in zip(found, case.exact(tensors, g), strict=True):
            assert error(a, b) <= ROUNDING[DOUBLE]


def test_the_cpu_is_refused_where_nothing_stands_in_for_a_device(monkeypatch):
    monkeypatch.setitem(backends.NEEDS, "cuda", "math")
    backends._lack.cache_clear()
    x, W, b = torch.ones(1, 2, 4), torch.ones(3, 2, 2), torch.ones(3)
    for center in (False, True):
        with pytest.raises(ValueError, match="x is on the device 'cpu'; move x to a CUDA device, or use 'torch'"):
            functional.patch_norm_conv1d(x, W, b, center=center, backend="cuda")
    backends._lack.cache_clear()
