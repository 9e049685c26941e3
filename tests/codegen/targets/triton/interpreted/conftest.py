"""The maps: by kernels, by the torch target, and by an independent reference."""

import importlib
import sys

import pytest
import torch

from affine_divergence import functional
from affine_divergence.kernels.triton import affine_like as triton_affine_like
from affine_divergence.kernels.triton import functional as triton_functional
from affine_divergence.kernels.triton import norm_like as triton_norm_like
from affine_divergence.kernels.triton import norm_like_without_bias as triton_norm_like_without_bias
from affine_divergence.kernels.triton.runtime.tiles import Tiles
from verify.triton_interpreter import mend

mend()


def affine_like(x, W, b, kappa):
    return kappa**0.5 * (x @ W.T + b) / torch.sqrt((x * x).sum(-1, keepdim=True) + 1)


def norm_like(x, W, b, kappa):
    return (kappa - 1) ** 0.5 * (x / x.norm(dim=-1, keepdim=True)) @ W.T + b


def norm_like_without_bias(x, W, kappa):
    return kappa**0.5 * (x / x.norm(dim=-1, keepdim=True)) @ W.T


class Map:
    """One map: ``ours`` by kernels, ``plain`` by the torch target, ``twin`` by hand as reference; operands by shape."""

    def __init__(self, name, twin, bias):
        self.name, self.twin, self.bias = name, twin, bias

    def ours(self, *operands):
        return self._call(triton_functional, *operands)

    def plain(self, *operands):
        return self._call(functional, *operands)

    def _call(self, home, *operands):
        *tensors, kappa = operands
        return getattr(home, self.name)(*tensors, *([] if self.bias else [None]), kappa)

    def operands(self, shape, dtype=torch.float64, seed=0):
        """Return x (B, n), W (m, n), perhaps b (m), and a gradient (B, m) for ``shape = (B, n, m)``."""
        B, n, m = shape
        generator = torch.Generator().manual_seed(seed)
        shapes = [(B, n), (m, n), *([(m,)] if self.bias else []), (B, m)]
        *tensors, g = (torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes)
        return [t.requires_grad_() for t in tensors], g


MAPS = {
    "affine-like": Map("affine_like", affine_like, True),
    "norm-like": Map("norm_like", norm_like, True),
    "norm-like without bias": Map("norm_like", norm_like_without_bias, False),
}


@pytest.fixture(params=MAPS)
def layer(request):
    return MAPS[request.param]


def cut_into_pieces(monkeypatch, module):
    """Let a module's kernels cut even small matrices into several tiles along every axis, slabs and parts."""
    monkeypatch.setattr(module, "WHOLE_ROW", 0)
    monkeypatch.setattr(module, "product_tiles", lambda *_: Tiles(32, 32, 16))
    monkeypatch.setattr(module, "row_tiles", lambda *_: Tiles(16, 16, 0))
    monkeypatch.setattr(module, "gradient_tiles", lambda *_: Tiles(16, 16, 0), raising=False)
    monkeypatch.setattr(module, "slab", lambda down, *_: min(down, 24))
    monkeypatch.setattr(module, "cut", lambda length, *_: (32, -(-length // 32)))


@pytest.fixture(params=["whole rows", "pieces"])
def way(request, monkeypatch):
    """Both families of kernels: tiles of whole rows, or rows cut into pieces."""
    if request.param == "pieces":
        for module in (triton_affine_like, triton_norm_like, triton_norm_like_without_bias):
            cut_into_pieces(monkeypatch, module)


@pytest.fixture
def in_pieces():
    return cut_into_pieces


@pytest.fixture
def affine():
    return MAPS["affine-like"]


@pytest.fixture
def run():
    """Return the output and gradients of a function, all detached."""

    def call(function, tensors, g, kappa=1.7):
        z = function(*tensors, kappa)
        return [t.detach() for t in (z, *torch.autograd.grad(z, tensors, g))]

    return call


@pytest.fixture
def import_package(monkeypatch):
    """Import a package from a folder and forget it again after the test."""
    imported = []

    def load(folder, name):
        monkeypatch.syspath_prepend(str(folder))
        imported.append(name)
        return importlib.import_module(f"{name}.kernels.triton.functional")

    yield load
    for name in [m for m in sys.modules if m.split(".")[0] in imported]:
        del sys.modules[name]
