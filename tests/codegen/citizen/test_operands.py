"""Every operand and temporary is checked before a kernel reads it, for all layers and targets."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack, nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import affine_divergence as ad
from affine_divergence.runtime import operands as operands_module
from affine_divergence.runtime.operands import check_launch, check_result, in_memory, outside_autocast, readable

ROOT = Path(__file__).resolve().parents[3]
LAYERS = {
    "affine-like": (lambda: ad.AffineLike(64, 48), (40, 64)),
    "norm-like": (lambda: ad.NormLike(64, 48), (40, 64)),
    "norm-like without a bias": (lambda: ad.NormLike(64, 48, bias=False), (40, 64)),
    "patches": (lambda: ad.PatchNormConv2d(4, 6, 3, padding=1), (8, 4, 9, 7)),
    "patches, norm-like": (lambda: ad.PatchNormConv1d(4, 6, 3, form="norm-like"), (8, 4, 40)),
    "centred patches": (lambda: ad.PatchNormConv2d(4, 6, 3, form="norm-like", center=True), (8, 4, 9, 7)),
    "transposed": (lambda: ad.PatchNormConvTranspose2d(4, 6, 3, stride=2), (8, 4, 5, 6)),
    "groups": (lambda: ad.PatchNormConv2d(4, 6, 3, groups=2), (8, 4, 9, 7)),
    "attention": (lambda: _SelfAttention(), (4, 6, 32)),
}
layers = pytest.mark.parametrize("kind", LAYERS)


class _SelfAttention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = ad.AffineLikeMultiheadAttention(32, 4, batch_first=True, value_path=True, qk_norm=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x, need_weights=False)[0]


def made(kind: str, dtype: torch.dtype = torch.float32) -> tuple[torch.nn.Module, Tensor, Tensor]:
    torch.manual_seed(1)
    make, shape = LAYERS[kind]
    layer = make().to(dtype)
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    return layer, x, torch.randn_like(layer(x))


def gradients(layer: torch.nn.Module, x: Tensor, g: Tensor, autocast: frozenset[str] = frozenset()) -> list[Tensor]:
    """Return the gradients of one step, with autocast around the named passes."""
    leaves = [t for t in (x, *layer.parameters()) if t.requires_grad]
    for leaf in leaves:
        leaf.grad = None
    with ExitStack() as stack:
        if "forward" in autocast:
            stack.enter_context(torch.autocast("cpu", dtype=torch.bfloat16))
        z = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16) if "backward" in autocast else nullcontext():
        z.backward(g.to(z.dtype))
    return [leaf.grad.clone() for leaf in leaves]


@layers
@pytest.mark.parametrize("frozen", [(), ("weight",), ("bias",), ("weight", "bias")], ids=str)
def test_autocast_around_the_backward_pass_changes_nothing(kind, frozen):
    layer, x, g = made(kind)
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(not any(word in name for word in frozen))
    wanted = gradients(layer, x, g)
    found = gradients(layer, x, g, frozenset({"backward"}))
    if kind == "attention":  # products outside the generated layers are torch's, and autocast's
        pairs = zip(found, wanted, strict=True)
        assert all(torch.isfinite(a).all() and (a - b).norm() <= 0.03 * b.norm() for a, b in pairs)
    else:
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@layers
@pytest.mark.parametrize("passes", [("forward",), ("forward", "backward")], ids=str)
def test_autocast_around_the_forward_pass_rounds_as_its_type_does(kind, passes):
    layer, x, g = made(kind)
    wanted = gradients(layer, x, g)
    found = gradients(layer, x, g, frozenset(passes))
    assert all(a.dtype == torch.float32 for a in found)
    assert all((a - b).norm() <= 0.03 * b.norm() for a, b in zip(found, wanted, strict=True))


WRAPPED = """
import torch, affine_divergence as ad
from torch.testing._internal.two_tensor import TwoTensor
torch.manual_seed(0)
x, W, b = torch.randn(64, 64), torch.randn(8, 64), torch.randn(8)
image, filters = torch.randn(8, 4, 9, 9), torch.randn(6, 4, 3, 3)
calls = {
    "affine_like": (ad.functional.affine_like, (x, W, b)),
    "norm_like": (ad.functional.norm_like, (x, W, b)),
    "bare": (ad.functional.norm_like, (x, W)),
    "patches": (ad.functional.patch_norm_conv2d, (image, filters, b[:6])),
}
for name, (function, operands) in calls.items():
    wanted = function(*operands)
    for place in range(len(operands)):
        print(name, place, flush=True)
        given = [TwoTensor(t, t.clone()) if k == place else t for k, t in enumerate(operands)]
        found = function(*given)
        assert (getattr(found, "a", found) - wanted).norm() <= 1e-4 * wanted.norm(), (name, place)
"""


def test_wrapped_operands_are_left_to_torch():
    """Runs in its own process, which a kernel that reads a wrapper's address crashes; the last line names the call."""
    done = subprocess.run([sys.executable, "-c", WRAPPED], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 11


class _Halves(TorchFunctionMode):
    """Replaces the results of products by tensors that a kernel would misread."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        return result.to(torch.bfloat16) if function in (torch.mm, torch.nn.functional.linear) else result


@pytest.mark.parametrize("kind", ["affine-like", "norm-like", "norm-like without a bias"])
def test_a_mode_that_replaces_products_meets_no_kernel(kind):
    layer, x, _ = made(kind)
    wanted = layer(x)
    with _Halves():
        found = layer(x)
    assert (found.float() - wanted).norm() <= 0.03 * wanted.norm()


def test_a_default_device_keeps_the_kernels():
    with torch.device("cpu"):
        assert operands_module.unwatched()


def odd_tensors() -> dict[str, Tensor]:
    x = torch.randn(4, 6)
    with torch.inference_mode():
        inference = torch.randn(4, 6)
    return {
        "plain": x,
        "parameter": torch.nn.Parameter(x),
        "inference": inference,
        "strided": torch.randn(8, 6)[::2],
        "expanded": torch.randn(1, 6).expand(4, 6),
        "sparse": x.to_sparse(),
        "compressed": x.to_sparse_csr(),
        "meta": x.to("meta"),
        "negated": torch.randn(4, 6, dtype=torch.complex64).conj().imag,
        "subclass": x.as_subclass(type("Own", (Tensor,), {})),
        "blocked": x.to_mkldnn(),
    }


@pytest.mark.filterwarnings("ignore:Sparse")
def test_what_is_in_memory():
    read = {name for name, tensor in odd_tensors().items() if in_memory(tensor)}
    assert read == {"plain", "parameter", "inference", "strided", "expanded"}
    assert torch.vmap(lambda row: row * float(in_memory(row)))(torch.ones(3, 2)).sum() == 0


def test_readable_asks_for_type_and_shape():
    x, W = torch.randn(4, 6), torch.randn(3, 6)
    assert readable((x, W), ((4, 6), (3, 6)))
    assert not readable((x, W.double()), ((4, 6), (3, 6)))
    assert not readable((x, W), ((4, 6), (3, 7)))
    with torch.autocast("cpu"):
        assert not readable((x, W), ((4, 6), (3, 6)))


@pytest.mark.parametrize(
    "result",
    [torch.zeros(3, 2).double(), torch.zeros(2, 3), torch.zeros(2, 3).t(), torch.nn.Parameter(torch.zeros(3, 2))],
)
def test_a_temporary_of_another_kind_is_refused(result):
    like = torch.zeros(3, 5)
    assert check_result(torch.zeros(3, 2), like, (3, 2)) is not None
    with pytest.raises(RuntimeError, match="backend='torch'"):
        check_result(result, like, (3, 2))


def test_an_operator_refuses_operands_that_do_not_fit():
    x, W = torch.zeros(4, 6), torch.zeros(3, 6)
    check_launch(x, (4, 6), (W, (3, 6), torch.float32))
    for wrong in (W[:, :5], W.double(), W.to("meta")):
        with pytest.raises(ValueError, match="a kernel got"):
            check_launch(x, (4, 6), (wrong, (3, 6), torch.float32))


def test_outside_autocast_is_seen_inside():
    seen = outside_autocast(lambda: torch.is_autocast_enabled("cpu"))
    with torch.autocast("cpu"):
        assert torch.is_autocast_enabled("cpu") and not seen()
        assert torch.is_autocast_enabled("cpu")


def test_saved_tensors_that_a_hook_changed_are_checked():
    """A hook may return another type; the pass is then left to torch, which raises an error or is correct."""
    layer, x, g = made("affine-like")
    wanted = gradients(layer, x, g)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.bfloat16(), lambda t: t.float()):
        found = gradients(layer, x, g)
    assert all((a - b).norm() <= 0.03 * b.norm() for a, b in zip(found, wanted, strict=True))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.double(), lambda t: t):
        z = layer(x)
    try:
        z.backward(g)
    except RuntimeError:
        return
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())
