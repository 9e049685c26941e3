"""The choice of backend: the caller's, the environment's, the device's; and refusals."""

import importlib.util

import pytest
import torch

import affine_divergence as ad
import derive
from affine_divergence.kernels.torch import affine_like as torch_affine_like
from affine_divergence.runtime import backends
from codegen.catalogue import families
from codegen.compiler import render
from codegen.package import write

F = ad.functional
x, W, b = torch.randn(5, 4), torch.randn(3, 4), torch.randn(3)
OWN = (torch_affine_like.AffineLike, torch_affine_like.AffineLikeReverse)
HOME = "affine_like.AffineLike"


@pytest.fixture(autouse=True)
def forgetful(monkeypatch):
    """Clear the environment's choice and the caches of what is installed."""
    monkeypatch.delenv(backends.VARIABLE, raising=False)
    backends._lack.cache_clear()
    yield
    backends._lack.cache_clear()


def refusal(backend=None, call=lambda backend: F.affine_like(x, W, b, backend=backend)):
    with pytest.raises(ValueError) as caught:
        call(backend)
    return str(caught.value)


def test_the_cpu_has_torchs_operations():
    for backend in (None, "torch"):
        assert backends.chosen("affine_like", backend, HOME, OWN, x, W) is OWN
        torch.testing.assert_close(F.affine_like(x, W, b, backend=backend), F.affine_like(x, W, b), rtol=0, atol=0)


CALLS = {
    "affine_like": lambda backend: F.affine_like(x, W, b, backend=backend),
    "norm_like": lambda backend: F.norm_like(x, W, backend=backend),
    "patch_norm_conv1d": lambda backend: F.patch_norm_conv1d(
        x[None], torch.ones(2, 5, 2), torch.ones(2), backend=backend
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_backend_is_named_wherever_it_comes_from(name, monkeypatch):
    assert refusal("tpu", CALLS[name]).startswith(f"{name}: backend is 'tpu'; choose one of 'torch', 'triton', 'cuda'")
    assert "backend is ''; choose one of" in refusal("", CALLS[name]), "an empty name is no choice"
    monkeypatch.setenv(backends.VARIABLE, "tpu")
    assert f"backend is 'tpu' by the environment variable {backends.VARIABLE}; choose" in refusal(None, CALLS[name])
    assert CALLS[name]("torch") is not None, "the caller's choice comes first"
    monkeypatch.setenv(backends.VARIABLE, "")
    assert CALLS[name](None) is not None, "an empty variable is none"


@pytest.mark.parametrize(
    "make",
    [
        lambda **more: ad.AffineLike(4, 3, **more),
        lambda **more: ad.NormLike(4, 3, **more),
        lambda **more: ad.PatchNormConv2d(4, 4, 3, **more),
        lambda **more: ad.PatchNormConvTranspose1d(4, 4, 3, **more),
        lambda **more: ad.AffineLikeMultiheadAttention(4, 2, **more),
    ],
)
def test_modules_check_the_name_and_show_it(make):
    with pytest.raises(ValueError, match="backend is 'tpu'; choose one of"):
        make(backend="tpu")
    assert "backend='torch'" in repr(make(backend="torch")) and "backend" not in repr(make())


@pytest.mark.parametrize(
    "make", [lambda: ad.AffineLike(4, 4, backend="cuda"), lambda: ad.AffineLikeMultiheadAttention(4, 2, backend="cuda")]
)
def test_modules_hand_their_choice_on(make, monkeypatch):
    monkeypatch.setitem(backends.NEEDS, "cuda", "math")
    module = make()
    with pytest.raises(ValueError, match="x is on the device 'cpu'; move x to a CUDA device, or use 'torch'"):
        module(*[x] * (3 if isinstance(module, ad.AffineLikeMultiheadAttention) else 1))


def test_what_is_not_installed_is_named_with_its_mend(monkeypatch):
    monkeypatch.setitem(backends.NEEDS, "cuda", "not_there.core")
    monkeypatch.setitem(backends.NEEDS, "triton", "not_there")
    assert "not_there.core is not installed; install it (`pip install cuda-core[cu13]`), or use" in refusal("cuda")
    assert "not_there is not installed; install it (`pip install triton`), or use 'torch'" in refusal("triton")


def test_triton_on_the_cpu_needs_its_interpreter():
    pytest.importorskip("triton")
    text = refusal("triton")
    assert "x is on the device 'cpu', where only Triton's interpreter" in text and "set TRITON_INTERPRET=1" in text


def test_tensors_without_values_need_no_kernels():
    module = ad.AffineLike(
        4, 3, device="meta", backend="cuda" if importlib.util.find_spec("triton") is None else "triton"
    )
    assert module(x.to("meta")).shape == (5, 3)


def test_a_package_without_the_target_says_so(tmp_path, import_package):
    affine = derive.solve(derive.layer("affine"))["affine-like"]
    write(render(families([affine], []), "torch_alone"), tmp_path / "torch_alone")
    package = import_package(tmp_path, "torch_alone")
    own = package.functional.affine_like
    torch.testing.assert_close(own(x, W, b), F.affine_like(x, W, b))
    for backend in ("triton", "cuda"):
        text = refusal(backend, lambda backend: own(x, W, b, backend=backend))
        assert f"holds no kernels/{backend}/affine_like.py; generate it with `--targets torch,{backend}`" in text


class Elsewhere(torch.Tensor):
    """A subclass of Tensor that claims to be on a GPU."""

    is_cpu, is_cuda = False, True

    @property
    def device(self):
        return torch.device("cuda:0")


SHORT, LONG = torch.empty(512, 512), torch.empty(512, 513)


@pytest.mark.parametrize(
    ("weight", "installed", "capability", "expected"),
    [
        (SHORT, {"triton", "cuda"}, (9, 0), "triton"),
        (LONG, {"triton", "cuda"}, (9, 0), "cuda"),
        (LONG, {"triton"}, (8, 0), "triton"),
        (SHORT, {"cuda"}, (8, 6), "cuda"),
        (SHORT, set(), (9, 0), "torch"),
        (SHORT, {"triton", "cuda"}, (7, 5), "torch"),
    ],
)
def test_a_gpu_takes_what_is_installed_by_the_length_of_rows(weight, installed, capability, expected, monkeypatch):
    pytest.importorskip("triton")
    for backend in ("triton", "cuda"):
        monkeypatch.setitem(backends.NEEDS, backend, "math" if backend in installed else "not_there")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    there = torch.empty(2, weight.shape[1]).as_subclass(Elsewhere)
    monkeypatch.setattr(backends, "_is_plain", lambda _: True)
    eager, traced = backends.chosen("affine_like", None, HOME, OWN, there, weight)
    assert eager.__module__ == f"affine_divergence.kernels.{expected}.affine_like"
    assert issubclass(eager, torch_affine_like.AffineLikeReverse) and traced.__module__ == OWN[1].__module__.replace(
        "torch", expected
    )
    monkeypatch.undo()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert backends.chosen("affine_like", None, HOME, OWN, there, weight) is OWN, "a tensor of another kind"


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch.compile's own
def test_the_choice_is_part_of_one_graph():
    module = ad.NormLike(4, 3, backend="torch")
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), module(x))
