"""Queries and keys of unit length by torch, by Triton in its interpreter, and by CUDA on the CPU."""

import importlib
import shutil
import sys
from pathlib import Path

import pytest
import torch

import affine_divergence
from affine_divergence.attention import AffineLikeMultiheadAttention
from affine_divergence.kernels.cuda import unit as cuda_unit
from affine_divergence.kernels.torch import unit as torch_unit
from affine_divergence.kernels.triton import unit as triton_unit
from affine_divergence.runtime import backends, operators
from tests.codegen.targets.cuda.host import needs_compiler
from tests.codegen.targets.unit_pairs import (
    BRAIN,
    DOUBLE,
    HALF,
    ROUNDING,
    SINGLE,
    exact,
    expected,
    operands,
    results,
    worst,
)
from tests.emitted import file_of, shared_by
from verify.cuda_on_host import Host

pytestmark = [
    needs_compiler,
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),  # the interpreter is NumPy
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),  # torch.compile's own
    pytest.mark.filterwarnings("ignore:.torch.jit.script(_method)?. is deprecated:DeprecationWarning"),
]
PACKAGE = Path(affine_divergence.__file__).parent
HOMES = {"torch": torch_unit, "triton": triton_unit, "cuda": cuda_unit}
SHAPES = [(2, 3, 7, 5, 8), (1, 1, 1, 1, 64), (1, 2, 70, 3, 19), (2, 1, 3, 4, 300)]
TYPES = [DOUBLE, SINGLE, BRAIN, pytest.param(HALF, marks=pytest.mark.slow)]


@pytest.fixture
def on_host():
    """CUDA's kernels on the CPU, with a settable order of threads; launches are recorded."""
    with Host() as host:
        yield host


@pytest.fixture(params=HOMES)
def pair(request, on_host):
    return HOMES[request.param].UnitPair


def floor(pair, dtype):
    """Return the rounding of a result; Triton's interpreter truncates to bfloat16, a device rounds."""
    return ROUNDING[dtype] * (3.5 if dtype == BRAIN and pair is triton_unit.UnitPair else 1.2)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_and_gradients_are_those_of_the_formula(pair, shape, dtype):
    tensors, gradients = operands(shape, dtype)
    ours = results(pair, tensors, gradients)
    assert all(t.dtype == dtype for t in ours)
    assert worst(ours, expected(tensors, gradients)) <= floor(pair, dtype)


def test_three_targets_agree(on_host):
    tensors, gradients = operands((2, 2, 5, 6, 10))
    found = [results(home.UnitPair, tensors, gradients) for home in HOMES.values()]
    assert all(worst(other, found[0]) < 1e-15 for other in found[1:])


LAYOUTS = {
    "tokens first": lambda x: x.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3),
    "every other entry": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "last axis apart": lambda x: x.transpose(-1, 0).contiguous().transpose(-1, 0),
    "one row many times": lambda x: x[:1, :, :1].expand_as(x),
    "one number": lambda x: x[:1, :1, :1, :1].expand_as(x),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [DOUBLE, BRAIN], ids=str)
def test_any_layout_gives_the_same_bits_and_nothing_is_written_to(pair, layout, dtype):
    tensors, gradients = operands((2, 3, 4, 5, 8), dtype)
    shaped = [LAYOUTS[layout](x.detach()).requires_grad_() for x in tensors]
    gradients = [LAYOUTS[layout](g) for g in gradients]
    plain = [x.detach().contiguous().requires_grad_() for x in shaped]
    kept = [t.detach().clone() for t in (*shaped, *gradients)]
    ours, theirs = results(pair, shaped, gradients), results(pair, plain, [g.contiguous() for g in gradients])
    if pair is torch_unit.UnitPair:
        assert worst(ours, [t.double() for t in theirs]) <= 2 * torch.finfo(dtype).eps
    else:
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(kept, (*shaped, *gradients), strict=True))
    places = {t.untyped_storage().data_ptr() for t in (*shaped, *gradients)}
    assert places.isdisjoint(t.untyped_storage().data_ptr() for t in ours)


@pytest.mark.parametrize(
    ("dtype", "size"), [(d, s) for d in (SINGLE, BRAIN) for s in (1e-15, 1e-4, 1e30)] + [(DOUBLE, 1e-140), (HALF, 1e4)]
)
def test_any_length(pair, dtype, size):
    tensors, gradients = operands((2, 2, 3, 4, 8), dtype)
    tensors = (
        [(x.detach().double() * size).clamp(-6e4, 6e4).to(dtype).requires_grad_() for x in tensors]
        if (dtype == HALF)
        else [(x.detach().double() * size).to(dtype).requires_grad_() for x in tensors]
    )
    ours, right = results(pair, tensors, gradients), expected(tensors, gradients)
    assert all(t.isfinite().all() for t in ours)
    assert worst(ours[:2], right[:2]) <= floor(pair, dtype)
    if dtype != HALF:  # gradients of about 1e-4 are subnormal in this type
        assert worst(ours[2:], right[2:]) <= floor(pair, dtype)


@pytest.mark.parametrize("dtype", [SINGLE, BRAIN], ids=str)
@pytest.mark.parametrize("size", [1e38, 3e38])
def test_rows_near_the_end_of_the_range(pair, dtype, size):
    """Their scale is below the smallest normal number, so it has fewer digits."""
    tensors, gradients = operands((2, 2, 3, 4, 64), dtype)
    long = [(x.detach().sign() * size).requires_grad_() for x in tensors]
    ours, right = results(pair, long, gradients), expected(long, gradients)
    assert worst(ours[:2], right[:2]) <= max(floor(pair, dtype), 2e-6)
    least = torch.finfo(dtype).tiny
    assert all(float((a.double() - b).abs().max()) <= least for a, b in zip(ours[2:], right[2:], strict=True))


def test_the_shortest_rows_keep_their_direction(pair):
    """The gradient with respect to a row of 1e-30 has length 1e30: in range only for float32 and wider."""
    tensors, gradients = operands((1, 2, 3, 3, 8), SINGLE)
    short = [(x.detach() * 1e-30).requires_grad_() for x in tensors]
    ours = results(pair, short, gradients)
    assert worst(ours, expected(short, gradients)) <= floor(pair, SINGLE)


def test_zero_has_no_direction_and_no_gradient(pair):
    tensors, gradients = operands((1, 2, 3, 4, 8))
    zeros = [x.detach().clone() for x in tensors]
    zeros[0][0, 1, 2] = zeros[1][0, 0, 0] = 0
    zeros = [x.requires_grad_() for x in zeros]
    u_q, u_k, d_q, d_k = results(pair, zeros, gradients)
    assert not (u_q[0, 1, 2].any() or d_q[0, 1, 2].any() or u_k[0, 0, 0].any() or d_k[0, 0, 0].any())
    right = exact(zeros[0], gradients[0])
    torch.testing.assert_close(u_q[0, 0], right[0][0, 0])
    torch.testing.assert_close(d_q[0, 0], right[1][0, 0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_stays_in_its_row(pair, bad):
    tensors, gradients = operands((1, 2, 3, 3, 8), SINGLE)
    clean = results(pair, tensors, gradients)
    spoilt = [x.detach().clone() for x in tensors]
    spoilt[0][0, 1, 1, 5] = bad
    ours = results(pair, [x.requires_grad_() for x in spoilt], gradients)
    for k in (0, 2):
        assert ours[k][0, 1, 1].isnan().any()
        ours[k][0, 1, 1] = clean[k][0, 1, 1]
    torch.testing.assert_close(ours, clean)


@pytest.mark.parametrize("shape", [(0, 2, 3, 4, 8), (2, 2, 0, 4, 8), (2, 2, 3, 0, 8), (0, 1, 0, 0, 1)], ids=str)
def test_nothing_in_nothing_out(pair, shape):
    tensors, gradients = operands(shape)
    ours = results(pair, tensors, gradients)
    assert [t.shape for t in ours] == [t.shape for t in (*tensors, *tensors)]
    if ours[1].numel():
        assert worst(ours[1::2], expected(tensors, gradients)[1::2]) < 1e-15


def test_only_what_is_wanted(pair):
    tensors, gradients = operands((2, 2, 3, 4, 8))
    right = results(pair, tensors, gradients)
    for side in (0, 1):
        chosen = [x.detach().requires_grad_(k == side) for k, x in enumerate(tensors)]
        found = pair.apply(*chosen)[2 * side]
        assert torch.equal(torch.autograd.grad(found, chosen[side], gradients[side])[0], right[2 + side])


def test_derivatives_of_every_order_and_mode(pair):
    (q, k), _ = operands((1, 1, 1, 2, 3))
    assert torch.autograd.gradcheck(pair.apply, (q, k), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(pair.apply, (q, k))


def test_the_input_is_not_kept(pair):
    tensors, _ = operands((2, 2, 3, 4, 8), BRAIN)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        found = pair.apply(*tensors)
    assert [(t.shape, t.dtype) for t in kept] == [(t.shape, t.dtype) for t in found]
    assert [t.dtype for t in found] == [BRAIN, SINGLE] * 2
    assert not {t.data_ptr() for t in kept} & {t.data_ptr() for t in tensors}


@pytest.mark.parametrize("home", ["triton", "cuda"])
def test_offsets_beyond_thirty_two_bits(home, on_host, tmp_path):
    """Tokens with a stride of 2^30 in a sparse file; a row has an offset above 2^31."""
    apart, memory = (1 << 30) + 8, str(tmp_path / "sparse")
    far = torch.from_file(memory, shared=True, size=2 * apart + 8, dtype=BRAIN).as_strided(
        (1, 1, 3, 8), (8, 8, apart, 1)
    )
    near = torch.randn(1, 1, 3, 8).to(BRAIN)
    far.copy_(near)
    for found in (HOMES[home].UnitPair.apply(far, near), HOMES[home].UnitPair.apply(near, far)):
        assert torch.equal(found[0], found[2]) and torch.equal(found[1], found[3])


def test_the_order_of_threads_changes_no_bit(on_host):
    tensors, gradients = operands((2, 3, 7, 5, 19), SINGLE)
    found = []
    for on_host.order in (0, 1, 2):
        on_host.forget()
        found.append(results(cuda_unit.UnitPair, tensors, gradients))
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))
    assert {(name, grid[1], block[0]) for name, grid, block in on_host.launched} == {
        ("unit_forward", 2, 8),
        ("unit_backward", 2, 8),
    }


@pytest.mark.parametrize("name", ["unit_pair", "cuda_unit_pair"])
def test_operators_keep_their_word(name, on_host):
    """The four utilities: schema, autograd's registration, tracing without values, compiling with dynamic shapes."""
    (q, k), (g_q, g_k) = operands((2, 2, 3, 4, 8))
    space = getattr(torch.ops, operators.LIBRARY.ns)
    given = [x.detach().requires_grad_() for x in (q, k)]
    u_q, f_q, u_k, f_k = (t.detach().requires_grad_() for t in getattr(space, name).default(*given))
    calls = [(name, given)]
    calls += [(f"{name}_backward", (g_q, u_q, f_q, g_k, u_k, f_k, [a, b])) for a, b in ((1, 1), (1, 0), (0, 1), (0, 0))]
    for operator, arguments in calls:
        found = torch.library.opcheck(getattr(space, operator).default, arguments)
        assert set(found.values()) == {"SUCCESS"} and len(found) == 4


def attention(**given):
    torch.manual_seed(0)
    return AffineLikeMultiheadAttention(12, 3, qk_norm=True, batch_first=True, dtype=DOUBLE, **given)


@pytest.mark.parametrize("way", ["argument", "environment", "compiled"])
def test_attention_takes_the_kernels(way, monkeypatch):
    seen, launch = [], triton_unit._forward
    monkeypatch.setattr(triton_unit, "_forward", lambda *given: seen.append(1) or launch(*given))
    monkeypatch.setenv(backends.VARIABLE, "triton" if way == "environment" else "")
    module = attention(backend=None if way == "environment" else "triton")
    if way == "compiled":  # as in a new process: both kinds of kernels are loaded while a graph is traced
        monkeypatch.setattr(backends, "_Loaded", type("_Loaded", (), {}))
        torch._dynamo.reset()
    called = torch.compile(module, fullgraph=True, backend="aot_eager") if way == "compiled" else module
    found = []
    for function in (called, attention(backend="torch")):
        x = torch.randn(2, 5, 12, dtype=DOUBLE, generator=torch.Generator().manual_seed(1)).requires_grad_()
        z = function(x, x, x, need_weights=False)[0]
        found.append([z, torch.autograd.grad(z.square().sum(), x)[0]])
    torch.testing.assert_close(*found)
    assert seen or way == "compiled"


DAMAGE = {
    "sign of the radial term": ("f[:, None] * g - c[:, None] * u", "f[:, None] * g + c[:, None] * u"),
    "no scale on the gradient": ("f[:, None] * g - c", "g - c"),
    "a sum of entries": ("tl.sum(y_over_peak * y_over_peak", "tl.sum(tl.abs(y_over_peak)"),
    "magnitude lost": ("1 / peak / tl.sqrt", "1 / tl.sqrt"),
    "heads where tokens belong": ("row // tokens % heads * H", "row % heads * H"),
    "keys by strides of queries": (
        "block - blocks, heads, n, k_x_ptr, k_u_ptr, k_f_ptr, k_rows, k_tokens, k_x_N",
        "block - blocks, heads, n, k_x_ptr, k_u_ptr, k_f_ptr, k_rows, k_tokens, q_x_N",
    ),
    "keys left out": (
        "triton.cdiv(count, tiles.down) for count in rows",
        "triton.cdiv(count, tiles.down) for count in rows[:1]",
    ),
    "zero over zero": ('tl.where(q == 0, float("inf"), q)', "q"),
}
ON_CUDA = {
    "sign of the radial term": ("f * g[k] - c * u[k]", "f * g[k] + c * u[k]"),
    "no scale on the gradient": ("f * g[k] - c", "g[k] - c"),
    "a sum of entries": ("q += y_over_peak * y_over_peak", "q += fabs(y_over_peak)"),
    "magnitude lost": ("f = inverse / sqrt", "f = inverse * peak / sqrt"),
    "range of the length": ("f = inverse / sqrt(q_or_inf)", "f = 0 * inverse + 1 / (peak * sqrt(q_or_inf))"),
    "heads where tokens belong": ("row / tokens % heads", "row % heads"),
    "keys by strides of queries": ("batch * k_x_batch", "batch * q_x_batch + k_x_batch * 0"),
    "keys left out": ("blockIdx.y != 0", "blockIdx.y > 1"),
    "zero over zero": ("q == 0 ? infinity() : q", "q"),
    "rows behind the last": ("const Offset n = inside ? width : 0;", "const Offset n = width;"),
    "half of the lanes": ("distance > 0; distance /= 2", "distance > 1; distance /= 2"),
}
QUICK = {"sign of the radial term", "keys left out"}


def departs(pair):
    """Whether a pair differs from the formula, also near the end of the range, or does not keep zeros."""
    tensors, gradients = operands((2, 2, 4, 6, 16))
    tensors = [(x.detach() * 0.3).requires_grad_() for x in tensors]
    if not worst(results(pair, tensors, gradients), expected(tensors, gradients)) <= 1e-12:
        return True
    far = torch.full((1, 1, 2, 16), 3e38)
    if not ((pair.apply(far, far)[0] - 0.25).abs() <= 1e-5).all():
        return True
    zeros = torch.zeros(1, 1, 2, 16, dtype=DOUBLE)
    return bool(pair.apply(zeros, zeros)[0].any())


def marked(names):
    return [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in names]


@pytest.mark.parametrize("name", marked(["nothing", *DAMAGE]))
def test_damaged_tiles_are_noticed(name, tmp_path, monkeypatch):
    package = f"damaged_{name.replace(' ', '_')}"  # an operator's name can be registered only once
    shutil.copytree(PACKAGE, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    file = tmp_path / package / file_of("triton", "unit.py")
    old, new = DAMAGE.get(name, ("", ""))
    text = file.read_text()
    assert old in text, "the line to mutate is gone; update the mutant"
    file.write_text(text.replace(old, new) if old else text)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        module = importlib.import_module(f"{package}.kernels.triton.unit")
        assert departs(module.UnitPair) == (name != "nothing")
    finally:
        for loaded in [m for m in sys.modules if m.split(".")[0] == package]:
            del sys.modules[loaded]


@pytest.mark.parametrize("name", marked(["nothing", *ON_CUDA]))
def test_damaged_kernels_are_noticed(name, on_host):
    old, new = ON_CUDA.get(name, ("", ""))
    assert any(old in (PACKAGE / n).read_text() for n in (file_of("cuda", "unit.cu"), shared_by("cuda", "rows.cuh"))), (
        "look again"
    )
    on_host.replacements = ((old, new),) if old else ()
    on_host.forget()
    assert departs(cuda_unit.UnitPair) == (name != "nothing")
