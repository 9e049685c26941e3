"""The cases of ``affdiv bench --suite``: our layer of every kind, torch's, and torch's with a normaliser.

A case has three modules with the same input and output: torch's layer, which costs least; the baseline (``peer``),
torch's layer with the normaliser that a user would choose; and ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import affine_divergence as ad
from verify.bench.suite_models import Norm, no_norm, resnet18, transformer

FULL, QUICK = "full", "quick"
GROWTH = "growth"
SUITES = (QUICK, FULL, GROWTH)
Make = Callable[[], nn.Module]
_NORMS: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


@dataclass(frozen=True)
class Case:
    """One row of the table: its name, how its modules are built, the baseline's normaliser, and the input's axes.

    ``quick`` marks the cases that the quick suite includes.
    """

    name: str
    torchs: Make
    peer: Make
    ours: Make
    adds: str
    input_shape: tuple[int, ...]
    dtype: str = "float32"
    quick: bool = False


def cases(suite: str) -> list[Case]:
    """Return the cases of the suite ``quick`` or ``full``, in table order."""
    return [case for case in _CASES if suite == FULL or case.quick]


def _linear(batch: int, inputs: int, outputs: int, dtype: str = "float32", quick: bool = False) -> Case:
    def torchs() -> nn.Module:
        return nn.Linear(inputs, outputs)

    return Case(
        name=f"linear {batch} x {inputs} x {outputs}{', bfloat16' if dtype != 'float32' else ''}",
        torchs=torchs,
        peer=lambda: nn.Sequential(torchs(), nn.LayerNorm(outputs)),
        ours=lambda: ad.AffineLike(inputs, outputs),
        adds="LayerNorm",
        input_shape=(batch, inputs),
        dtype=dtype,
        quick=quick,
    )


def _convolution(
    name: str,
    input_shape: tuple[int, ...],
    outputs: int,
    kernel: int,
    *,
    transposed: bool = False,
    center: bool = False,
    quick: bool = False,
    **settings: int,
) -> Case:
    axes, channels = len(input_shape) - 2, input_shape[1]
    word = f"Conv{'Transpose' * transposed}{axes}d"
    given = (channels, outputs, kernel)

    def torchs() -> nn.Module:
        made: nn.Module = getattr(nn, word)(*given, **settings)
        return made

    def ours() -> nn.Module:
        made: nn.Module = getattr(ad, f"PatchNorm{word}")(*given, **settings, **({"center": True} if center else {}))
        return made

    batch_norm = _NORMS[axes]
    return Case(
        name=f"{name}, {' x '.join(map(str, input_shape))}",
        torchs=torchs,
        peer=lambda: nn.Sequential(torchs(), batch_norm(outputs)),
        ours=ours,
        adds=batch_norm.__name__,
        input_shape=input_shape,
        quick=quick,
    )


class _Attend(nn.Module):
    """``norm``, then attention of tokens (B, T, n) to themselves or to a memory of other widths."""

    def __init__(self, attention: nn.Module, norm: nn.Module, memory: tuple[int, int] | None, masked: bool) -> None:
        super().__init__()
        self.attention, self.norm, self.masked = attention, norm, masked
        generator = torch.Generator().manual_seed(1)
        for name, width in zip(("key", "value"), memory or (), strict=False):
            self.register_buffer(name, torch.randn(8, 256, width, generator=generator))
        self._other = memory is not None

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, n)."""
        x = self.norm(x)
        key, value = (self.key, self.value) if self._other else (x, x)
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1) if self.masked else None
        z: Tensor = self.attention(x, key, value, attn_mask=mask, need_weights=False)[0]
        return z


def _attention(
    name: str,
    memory: tuple[int, int] | None = None,
    masked: bool = False,
    value_path: bool = False,
    quick: bool = False,
) -> Case:
    features, heads = 256, 8
    widths: dict[str, Any] = {"batch_first": True}
    if memory:
        widths |= {"kdim": memory[0], "vdim": memory[1]}

    def attend(attention: nn.Module, norm: nn.Module) -> nn.Module:
        return _Attend(attention, norm, memory, masked)

    return Case(
        name=f"attention{name}, 8 x 256 x 256",
        torchs=lambda: attend(nn.MultiheadAttention(features, heads, **widths), nn.Identity()),
        peer=lambda: attend(nn.MultiheadAttention(features, heads, **widths), nn.LayerNorm(features)),
        ours=lambda: attend(
            ad.AffineLikeMultiheadAttention(features, heads, value_path=value_path, **widths), nn.Identity()
        ),
        adds="LayerNorm",
        input_shape=(8, 256, features),
        quick=quick,
    )


def _model(name: str, make: Callable[[Norm], nn.Module], norm: type[nn.Module], input_shape: tuple[int, ...]) -> Case:
    def ours() -> nn.Module:
        """Return the model without normalisers, converted."""
        model = make(no_norm)
        ad.convert(model)
        return model

    return Case(
        name=f"{name}, {' x '.join(map(str, input_shape))}",
        torchs=lambda: make(no_norm),
        peer=lambda: make(norm),
        ours=ours,
        adds=norm.__name__,
        input_shape=input_shape,
    )


_CASES = (
    _linear(4096, 1024, 1024),
    _linear(1024, 1024, 1024, "bfloat16"),
    _linear(128, 512, 512, quick=True),
    _linear(32, 64, 10, quick=True),
    _convolution("3 x 3, 64 to 64", (32, 64, 32, 32), 64, 3, padding=1, quick=True),
    _convolution("depthwise 3 x 3, 64", (32, 64, 32, 32), 64, 3, padding=1, groups=64, quick=True),
    _convolution("depthwise 7 x 7, 384", (8, 384, 14, 14), 384, 7, padding=3, groups=384),
    _convolution("3 x 3 in 4 groups, 64 to 64", (32, 64, 32, 32), 64, 3, padding=1, groups=4),
    _convolution("3 x 3 in 32 groups, 128 to 128", (16, 128, 28, 28), 128, 3, padding=1, groups=32),
    _convolution("1 x 1, 256 to 64", (16, 256, 28, 28), 64, 1),
    _convolution("3 x 3, 512 to 512", (8, 512, 7, 7), 512, 3, padding=1),
    _convolution("7 x 7 of stride 2, 3 to 64", (4, 3, 224, 224), 64, 7, padding=3, stride=2),
    _convolution("3 x 3 dilated by 2, 64 to 64", (16, 64, 32, 32), 64, 3, padding=2, dilation=2),
    _convolution(
        "transposed 4 x 4 of stride 2, 64 to 32", (16, 64, 16, 16), 32, 4, padding=1, stride=2, transposed=True
    ),
    _convolution("centred 3 x 3, 64 to 64", (16, 64, 32, 32), 64, 3, padding=1, center=True, quick=True),
    _convolution("5 along one axis, 64 to 64", (32, 64, 256), 64, 5, padding=2),
    _convolution("3 x 3 x 3, 16 to 16", (4, 16, 16, 32, 32), 16, 3, padding=1),
    _attention("", quick=True),
    _attention(" with value path", value_path=True),
    _attention(" with a causal mask", masked=True),
    _attention(" to keys of 192 and values of 128", memory=(192, 128)),
    _model("ResNet-18", resnet18, nn.BatchNorm2d, (8, 3, 64, 64)),
    _model("transformer of 6 layers", transformer, nn.LayerNorm, (8, 64, 256)),
)
