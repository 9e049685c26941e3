"""The modules that are timed: torch's layer, torch's layer with normalisers, the composed map, ours, other libraries'.

Normalisers follow the layer, which is where our maps scale; those of other libraries stand where the library puts them.
"ours" runs the default backend and "ours, torch" the torch target.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import affine_divergence as ad
from verify.bench.peers import PEERS
from verify.bench.shapes import LINEAR, Shape

Build = Callable[[Shape], nn.Module]
_NOT_COMPILED = "--quick leaves out torch.compile"


@dataclass(frozen=True)
class Provider:
    """A module to time: its name, how it is built on the CPU, and, if it cannot be timed here, why.

    ``compiled`` applies torch.compile, with ``mode``; ``graphed`` captures both passes as CUDA graphs, which removes
    the host overhead; ``ours`` marks the generated layers.
    """

    name: str
    build: Build
    missing: str = ""
    compiled: bool = False
    ours: bool = False
    mode: str | None = None
    graphed: bool = False


class Plain(nn.Module):
    """The affine-like map composed from a layer and a sum of squares; autograd computes the backward pass."""

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Return z (B, m) with one scale per row, or (B, out, h, w) with one scale per position."""
        if isinstance(self.layer, nn.Linear):
            energy = x.float().square().sum(-1, keepdim=True)
        else:
            patch = torch.ones((1, 1, *self.layer.kernel_size), device=x.device)
            energy = F.conv2d(x.float().square().sum(1, keepdim=True), patch, padding=self.layer.padding)
        z: Tensor = self.layer(x) * (energy + 1).rsqrt()
        return z.to(x.dtype)


def twin(shape: Shape) -> nn.Linear | nn.Conv2d:
    """Return torch's own layer for a shape: the reference of every ratio."""
    if shape.kind == LINEAR:
        return nn.Linear(shape.inputs, shape.outputs)
    return nn.Conv2d(shape.inputs, shape.outputs, shape.kernel, padding=shape.kernel // 2)


def providers(shape: Shape, device: str, compiles: bool) -> list[Provider]:
    """Return every provider for a shape, torch's layer first; those that cannot run here carry the reason."""
    return _linear(device, compiles) if shape.kind == LINEAR else _convolution(device, compiles)


def _linear(device: str, compiles: bool) -> list[Provider]:
    norms: dict[str, Build] = {
        "+ layer norm": lambda s: nn.Sequential(twin(s), nn.LayerNorm(s.outputs)),
        "+ RMS norm": lambda s: nn.Sequential(twin(s), nn.RMSNorm(s.outputs)),
        "+ batch norm": lambda s: nn.Sequential(twin(s), nn.BatchNorm1d(s.outputs)),
    }
    found = [Provider("nn.Linear", twin)]
    for name, build in {**norms, "plain": lambda s: Plain(twin(s))}.items():
        found += _both(name, build, compiles)
    found += _both("ours", _affine_like(None), compiles, ours=True)
    found += [Provider("ours, torch", _affine_like("torch"), ours=True)]
    found += [Provider("ours, Triton", _affine_like("triton"), _needs("triton", device), ours=True)]
    found += [Provider("ours, CUDA", _affine_like("cuda"), _needs("cuda.core", device), ours=True)]
    found += _on_a_gpu("+ layer norm", norms, _affine_like("torch"), device, compiles)
    return found + [Provider(p.name, p.build, _needs(p.package, device)) for p in PEERS]


def _on_a_gpu(norm: str, norms: dict[str, Build], ours: Build, device: str, compiles: bool) -> list[Provider]:
    """Return the providers for a GPU only: the composed map with max-autotune, and passes captured as CUDA graphs."""
    missing = _needs("torch", device)
    searched = missing or ("" if compiles else _NOT_COMPILED)
    return [
        Provider(
            "plain, max-autotune", lambda s: Plain(twin(s)), searched, compiled=True, mode="max-autotune-no-cudagraphs"
        ),
        Provider("layer, graph", twin, missing, graphed=True),
        Provider(f"{norm}, graph", norms[norm], missing, graphed=True),
        Provider("ours, graph", ours, missing, ours=True, graphed=True),
    ]


def _convolution(device: str, compiles: bool) -> list[Provider]:
    norms: dict[str, Build] = {
        "+ batch norm": lambda s: nn.Sequential(twin(s), nn.BatchNorm2d(s.outputs)),
        "+ group norm": lambda s: nn.Sequential(twin(s), nn.GroupNorm(1, s.outputs)),
    }
    found = [Provider("nn.Conv2d", twin)]
    for name, build in {**norms, "plain": lambda s: Plain(twin(s))}.items():
        found += _both(name, build, compiles)
    found += _both("ours", lambda s: _patch_norm(s), compiles, ours=True)
    found += [Provider("ours, torch", lambda s: _patch_norm(s, backend="torch"), ours=True)]
    found += [Provider("ours, kept", lambda s: _patch_norm(s, recompute=False), ours=True)]
    found += _on_a_gpu("+ batch norm", norms, lambda s: _patch_norm(s), device, compiles)
    triton = _needs("triton", device)
    return [*found, Provider("ours, Triton", lambda s: _patch_norm(s, backend="triton"), triton, ours=True)]


def _patch_norm(s: Shape, recompute: bool = True, backend: str | None = None) -> nn.Module:
    return ad.PatchNormConv2d(
        s.inputs, s.outputs, s.kernel, padding=s.kernel // 2, recompute=recompute, backend=backend
    )


def _both(name: str, build: Build, compiles: bool, ours: bool = False) -> list[Provider]:
    """Return the provider of a module in eager mode, and with ``compiles`` that of the compiled module."""
    missing = "" if compiles else _NOT_COMPILED
    return [Provider(name, build, ours=ours), Provider(f"{name}, compiled", build, missing, compiled=True, ours=ours)]


def _affine_like(backend: str | None) -> Build:
    return lambda s: ad.AffineLike(s.inputs, s.outputs, backend=backend)


def _needs(package: str, device: str) -> str:
    """Return why a provider that needs a package and a GPU cannot run here, or an empty text."""
    if device != "cuda":
        return "needs a GPU (--device cuda)"
    try:
        known = importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the parent of a dotted name
        known = False
    return "" if known else f"{package} is not installed"
