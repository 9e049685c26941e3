"""When the C++ kernels are chosen, how they are compiled, and the messages if they cannot be."""

import importlib
import os
import subprocess
import sys

import pytest
import torch

import affine_divergence as ad
from affine_divergence.kernels.cpp import affine_like as cpp_affine_like
from affine_divergence.kernels.cpp.runtime import compile as cpp_compile
from affine_divergence.kernels.torch import affine_like as torch_affine_like
from affine_divergence.runtime import backends, kernel_cache

HOME = "affine_like.AffineLike"
OWN = (torch_affine_like.AffineLike, torch_affine_like.AffineLikeReverse)
ENOUGH, FEW = torch.randn(4, 256), torch.randn(3, 256)
W, b = torch.randn(200, 256), torch.randn(200)


@pytest.fixture
def forgetful(monkeypatch):
    """Clear the caches of what is installed and compiled."""
    monkeypatch.delenv(backends.VARIABLE, raising=False)
    monkeypatch.setattr(backends, "_ON_HOST", {})
    monkeypatch.setattr(backends, "_THERE", {})
    monkeypatch.setattr(backends, "_TOLD", [])
    monkeypatch.setattr(backends, "_AT_ONCE", {})
    for cached in (backends._lack, cpp_compile.compiled):
        cached.cache_clear()
    cpp_affine_like.KERNELS._made.clear()
    yield
    for cached in (backends._lack, cpp_compile.compiled):
        cached.cache_clear()
    cpp_affine_like.KERNELS._made.clear()


def taken(x=ENOUGH, weight=W):
    return backends.chosen("affine_like", None, HOME, OWN, x, weight)[0]


def test_enough_numbers_of_a_type_with_kernels_take_them(forgetful):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert taken(ENOUGH.to(dtype)) is cpp_affine_like.AffineLike
    assert taken(FEW) is taken(ENOUGH.half()) is taken(torch.empty(0, 256)) is torch_affine_like.AffineLike


def test_torch_is_a_word_away(forgetful, monkeypatch):
    assert backends.chosen("affine_like", "torch", HOME, OWN, ENOUGH, W) is OWN
    monkeypatch.setenv(backends.VARIABLE, "torch")
    assert taken() is torch_affine_like.AffineLike
    monkeypatch.setenv(backends.VARIABLE, "cpp")
    assert taken(FEW) is cpp_affine_like.AffineLike


def test_what_has_no_kernel_takes_torchs_operations():
    conv = ad.PatchNormConv2d(2, 3, 3, backend="cpp")
    attention = ad.AffineLikeMultiheadAttention(8, 2, qk_norm=True, backend="cpp")
    x = torch.randn(5, 2, 8)
    assert conv(torch.randn(1, 2, 8, 8)).shape == (1, 3, 6, 6) and attention(x, x, x)[0].shape == x.shape


def test_a_tensor_elsewhere_is_refused(forgetful):
    class Elsewhere(torch.Tensor):
        @property
        def device(self):
            return torch.device("cuda:0")

    with pytest.raises(ValueError, match="x is on the device 'cuda'; move x to the CPU, or use 'torch'"):
        backends.chosen("affine_like", "cpp", HOME, OWN, ENOUGH.as_subclass(Elsewhere), W)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch.compile's own
def test_few_rows_are_left_to_what_the_compiler_fuses(forgetful):
    module = ad.AffineLike(256, 200)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpp_affine_like.AffineLike, "forward", None)
        found = compiled(ENOUGH)
    torch.testing.assert_close(found, module(ENOUGH), rtol=1e-5, atol=1e-5)


def test_without_a_compiler_it_is_torch_and_a_wish_is_refused_with_its_mend(forgetful, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert taken() is torch_affine_like.AffineLike
    message = "backend is 'cpp', but no C\\+\\+ compiler is found; install one .* CXX, or use 'torch'"
    with pytest.raises(ValueError, match=message):
        ad.functional.affine_like(ENOUGH, W, b, backend="cpp")


def test_a_compiler_that_refuses_is_quoted_once(forgetful, monkeypatch, tmp_path):
    fails = tmp_path / "fails"
    fails.write_text("#!/bin/sh\necho no such language >&2\nexit 1\n")
    fails.chmod(0o755)
    monkeypatch.setenv("CXX", str(fails))
    monkeypatch.setenv(kernel_cache.VARIABLE, str(tmp_path / "cache"))
    words = "fails could not compile affine_like.cpp: no such language"
    with pytest.warns(RuntimeWarning, match=words):
        z = ad.functional.affine_like(ENOUGH, W, b)
    torch.testing.assert_close(z, ad.functional.affine_like(ENOUGH, W, b, backend="torch"))
    with pytest.raises(kernel_cache.KernelError, match=words):
        ad.functional.affine_like(ENOUGH, W, b, backend="cpp")


def test_a_compiler_without_threads_will_do(forgetful, monkeypatch, tmp_path):
    plain = tmp_path / "plain"
    plain.write_text(f'#!/bin/sh\ncase "$*" in *openmp*) exit 1;; esac\nexec {cpp_compile._compiler()[0]} "$@"\n')
    plain.chmod(0o755)
    expected = ad.functional.affine_like(ENOUGH, W, b, backend="torch")
    monkeypatch.setenv("CXX", str(plain))
    monkeypatch.setenv(kernel_cache.VARIABLE, str(tmp_path / "cache"))
    torch.testing.assert_close(ad.functional.affine_like(ENOUGH, W, b, backend="cpp"), expected)


def test_a_compiler_may_be_named_with_options(forgetful, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", f"{cpp_compile._compiler()[0]} -DUNUSED")
    monkeypatch.setenv(kernel_cache.VARIABLE, str(tmp_path / "cache"))
    assert cpp_compile._compiler()[1:] == ["-DUNUSED"] and taken() is cpp_affine_like.AffineLike


def test_a_type_without_kernels_is_named():
    with pytest.raises(kernel_cache.KernelError, match=r"are for torch\.float32, torch\.float64, not torch\.int32"):
        cpp_affine_like.KERNELS.on(torch.empty(0, dtype=torch.int32))


COLD = """
import torch, affine_divergence as ad
from affine_divergence.kernels.cpp import affine_like as cpp_affine_like
from affine_divergence.kernels.cpp.runtime import compile as cpp_compile
cpp_compile._compile = lambda *_: exit("compiled again")
cpp_affine_like.KERNELS.on(torch.empty(0))
"""


def test_the_work_of_the_compiler_is_kept(tmp_path):
    environment = {**os.environ, kernel_cache.VARIABLE: str(tmp_path / "cache")}
    make = COLD.replace('cpp_compile._compile = lambda *_: exit("compiled again")\n', "")
    for text in (make, COLD):
        subprocess.run([sys.executable, "-c", text], env=environment, check=True, timeout=120)
    assert len(list((tmp_path / "cache").glob("*.so"))) == 1


def test_a_package_of_its_own_has_kernels_at_an_angle(tmp_path, monkeypatch):
    from tests.codegen.targets.triton.interpreted.targets import at_angle, operands, relative_error, results

    folder = tmp_path / "own_angle"
    from codegen.package import write

    write(at_angle("atan(r)/2"), folder)
    monkeypatch.syspath_prepend(str(tmp_path))
    functions = importlib.import_module("own_angle.kernels.cpp.functional")
    plain = importlib.import_module("own_angle.functional")
    tensors, g = operands((9, 24, 20), torch.float64)
    ours, right = results(functions.angle_like, tensors, g), results(plain.angle_like, tensors, g)
    assert all(relative_error(a, b) <= 3e-15 for a, b in zip(ours, right, strict=True))
    for name in [m for m in sys.modules if m.split(".")[0] == "own_angle"]:
        del sys.modules[name]
