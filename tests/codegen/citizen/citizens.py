"""A table of the generated modules: how each is made, torch's counterpart, and an input."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import affine_divergence as ad


class SelfAttention(nn.Module):
    """Self-attention; with ``need_weights`` torch computes it by differentiable operations."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


class Citizen(NamedTuple):
    """A module of the package and its counterpart in torch, with the shape of one example."""

    ours: Callable[..., nn.Module]
    torchs: Callable[..., nn.Module]
    shape: tuple[int, ...]
    features: int = -1

    def make(self, dtype: torch.dtype = torch.float64, seed: int = 0, **more: Any) -> nn.Module:
        """Return the module with all parameters drawn at random, so that none is zero."""
        torch.manual_seed(seed)
        made = self.ours(dtype=dtype, **more)
        with torch.no_grad():
            for parameter in made.parameters():
                if not parameter.is_meta:
                    parameter.normal_()
        return made

    def example(self, batch: int = 5, dtype: torch.dtype = torch.float64, grow: int = 0, seed: int = 1) -> Tensor:
        """Return a batch; every axis except the features is longer by ``grow``."""
        shape = [n + grow for n in self.shape]
        shape[self.features] -= grow
        return torch.randn(batch, *shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def rows(kind: Callable[..., nn.Module], **given: Any) -> Citizen:
    """Return a layer of rows; ``torch.nn.Linear`` is its counterpart."""
    bias = given.get("bias", True)
    return Citizen(lambda **more: kind(4, 3, **given, **more), lambda **more: nn.Linear(4, 3, bias, **more), (4,))


def convolution(name: str, **given: Any) -> Citizen:
    """Return PatchNorm of a convolution of torch, named such as ``Conv2d``."""
    ours, torchs = getattr(ad, f"PatchNorm{name}"), getattr(nn, name)
    shared = {"kernel_size": 3, **{k: v for k, v in given.items() if k not in ("form", "center", "kappa", "recompute")}}

    def convolution(**more: Any) -> nn.Module:
        return ours(4, 4, **{"kernel_size": 3, **given}, **more)

    return Citizen(convolution, lambda **more: torchs(4, 4, **shared, **more), (4, *(7, 6, 5)[: int(name[-2])]), 0)


def attention(**given: Any) -> Citizen:
    """Return self-attention; ``torch.nn.MultiheadAttention`` is its counterpart."""
    made = {"embed_dim": 4, "num_heads": 2, "batch_first": True}
    return Citizen(
        lambda **more: SelfAttention(ad.AffineLikeMultiheadAttention(**made, **given, **more)),
        lambda **more: SelfAttention(nn.MultiheadAttention(**made, **more)),
        (6, 4),
    )


CITIZENS = {
    "affine-like": rows(ad.AffineLike),
    "norm-like": rows(ad.NormLike),
    "norm-like without bias": rows(ad.NormLike, bias=False),
    "norm-like centred": rows(ad.NormLike, center=True),
    "patches 1d": convolution("Conv1d", padding=1),
    "patches 3d": convolution("Conv3d", padding=1),
    "patches norm-like": convolution("Conv2d", stride=2, groups=2, form="norm-like"),
    "patches centred": convolution("Conv2d", padding=1, center=True),
    "patches kept": convolution("Conv2d", padding=1, recompute=False),
    "transposed 1d": convolution("ConvTranspose1d", stride=2),
    "transposed 2d": convolution("ConvTranspose2d", stride=2),
    "transposed 3d": convolution("ConvTranspose3d", stride=2),
    "transposed norm-like": convolution("ConvTranspose2d", padding=1, form="norm-like", bias=False),
    "attention": attention(),
    "attention qk-norm": attention(qk_norm=True),
    "attention value path": attention(value_path=True, qk_norm=True),
}
IMAGES = {name: c for name, c in CITIZENS.items() if len(c.shape) >= 3}
ALWAYS = {
    "affine-like",
    "norm-like",
    "norm-like without bias",
    "norm-like centred",
    "patches norm-like",
    "patches centred",
    "transposed 2d",
    "attention",
}


def slow_marked(names: Iterable[str]) -> list[Any]:
    """Return names of modules as test parameters; those that differ little from another are marked slow."""
    return [pytest.param(n, marks=[] if n in ALWAYS else [pytest.mark.slow]) for n in names]


citizens = pytest.mark.parametrize("name", slow_marked(CITIZENS))

# torch's own: forward mode loads decompositions with torch.jit.script, and torch.compile makes an instance of Function.
torchs_own = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script(_method)?. is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]


def loss(z: Tensor) -> Tensor:
    """Return a number that depends on every entry of an output differently."""
    z = z.double()
    return (z.square() * torch.arange(1, z.numel() + 1, dtype=torch.float64).cos().reshape(z.shape)).sum()


def gradients(module: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the gradients of the loss with respect to the input and every parameter, in float64."""
    leaves = [x.detach().clone().requires_grad_(), *module.parameters()]
    return [g.double() for g in torch.autograd.grad(loss(module(leaves[0])), leaves)]
